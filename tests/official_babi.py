"""The official bAbI files, where a machine has them: next to the project, or where RMTKIT_BABI says."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("RMTKIT_BABI") or Path(__file__).resolve().parents[2] / "shared" / "babi")
needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason="the official bAbI files are not here")

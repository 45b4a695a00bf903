"""Clocks and memory meters of the benchmarks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    """Return how long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_resident_mb() -> float:
    """Return the most memory that this process has had, in MB.

    Trap: ru_maxrss of a process begins on Linux with the memory of the one that started it; VmHWM does not.
    """
    import resource

    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

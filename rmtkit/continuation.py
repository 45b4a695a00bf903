"""How to train on from a finished run: more segments, from its model. The next run is a run of its own."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from rmtkit.config import PROJECT, Config, resolve
from rmtkit.parameters import as_text
from rmtkit.runs import Run

NOT_KEPT = ("run_dir", "checkpoint", "spread_embeddings")  # of this run alone


def continued(config: Config, run: Run) -> dict[str, str]:
    """Return the parameters of a run that goes on from this one's model: what differs from the preset, as text.

    Its one stage has twice the segments and the last stage's updates; the seed is another, so that no training sample
    comes twice (which split a story belongs to does not depend on the seed).
    """
    stage = {"segments": (2 * config.segments[-1],), "steps": config.steps[-1:], "stage_rates": config.stage_rates[-1:]}
    backbone = str(run.model_path.expanduser().absolute())
    changes = {"seed": config.seed + 1, "backbone": backbone, **stage}
    wanted = dataclasses.replace(config, **changes)
    usual = resolve({"preset": config.preset, "task": config.task})
    names = [field.name for field in dataclasses.fields(Config) if field.name not in (*NOT_KEPT, "task", "preset")]
    differing = [name for name in names if name in changes or getattr(wanted, name) != getattr(usual, name)]
    return {name: as_text(getattr(wanted, name)) for name in ("task", "preset", *differing)}


def notebook_command(parameters: dict[str, str]) -> str:
    """Return the shell command that runs notebook 02 with parameters."""
    name = f"{parameters['task'].replace(',', '+')}-{parameters['segments']}-segments.ipynb"
    given = [item for pair in parameters.items() for item in ("-p", *pair)]
    return shlex.join(["papermill", _short(PROJECT / "notebooks" / "02_train.ipynb"), name, *given])


def terminal_command(parameters: dict[str, str]) -> str:
    """Return the shell command that does the same without a notebook."""
    return shlex.join(["python", "-m", "rmtkit", "train", *(f"--{name}={value}" for name, value in parameters.items())])


def _short(path: Path) -> str:
    """Return a path as it is called from the working folder, if it lies in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""Commands that train: on from a finished run, to more segments, or a reference model anew, run by run."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from rmtkit.config import PROJECT, Config, ConfigError, identity, resolve
from rmtkit.parameters import as_given, as_text
from rmtkit.reference import checkpoint_folder
from rmtkit.runs import Run, read_json

NOT_KEPT = {"run_dir": None, "checkpoint": None, "spread_embeddings": False}  # of this run alone


def continued(config: Config, run: Run) -> dict[str, str]:
    """Return the parameters of a run that goes on from this one's model: what differs from the preset, as text.

    Its one stage has twice the segments and the last stage's updates; the seed is another, so that no training sample
    comes twice (which split a story belongs to does not depend on the seed).
    """
    stage = {"segments": (2 * config.segments[-1],), "steps": config.steps[-1:], "stage_rates": config.stage_rates[-1:]}
    backbone = str(run.model_path.expanduser().absolute())
    changes = {"seed": config.seed + 1, "backbone": backbone, **stage}
    return _differing(dataclasses.replace(config, **NOT_KEPT, **changes), always=changes)


def _differing(config: Config, always) -> dict[str, str]:
    """Return the fields that are not as in the preset, and some always, as text; task and preset first."""
    usual = resolve({"preset": config.preset, "task": config.task})
    names = [field.name for field in dataclasses.fields(Config) if field.name not in ("task", "preset")]
    differing = [name for name in names if name in always or getattr(config, name) != getattr(usual, name)]
    return {name: as_text(getattr(config, name)) for name in ("task", "preset", *differing)}


def commands_of(name: str) -> list[str]:
    """Return shell commands, and comments, that train outputs/reference/`name` anew: a command for each of its runs.

    Each takes the model of the one before as its backbone. What its recipe does not say is as in the preset of now.

    Raises: ConfigError if there is no such model, or its recipe names no runs.
    """
    path = checkpoint_folder(f"reference:{name}") / "recipe.json"
    recipe = read_json(path) if path.is_file() else {}
    if not recipe.get("runs"):
        raise ConfigError(f"reference:{name} has no recipe that names runs")
    fields, lines = identity(Config()), [f"# {line}" for line in recipe.get("note", "").splitlines()]
    for number, run in enumerate(recipe["runs"], start=1):
        known = {field: value for field, value in as_given(run["config"], Config).items() if field in fields}
        known.setdefault("memory_grid", "none")  # the oldest recipes are of a time without grids
        before = {"backbone": f"outputs/runs/{name}-{number - 1}"} if number > 1 else {}
        parameters = _differing(resolve({**known, **before}), always=("segments", "steps", "stage_rates"))
        commit = (run.get("environment") or {}).get("commit", "unknown")
        lines.append(f"# {number} of {len(recipe['runs'])}: commit {commit}, {run['seconds'] / 60:.0f} minutes")
        lines.append(terminal_command({**parameters, "run_dir": f"outputs/runs/{name}-{number}"}))
    return lines


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

"""Trained models that the kit ships, and what a checkpoint says of itself.

A checkpoint is the folder of a model, a run folder, or `reference:NAME`, a folder of outputs/reference. Its own run's
configuration lies in it (recipe.json or result.json) or beside it (config.json of the run folder).
outputs/reference/README.md describes the files of a reference model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from rmtkit.config import PRESETS, PROJECT, Config, ConfigError, resolve
from rmtkit.formats import sha256
from rmtkit.runs import read_json

REFERENCE = PROJECT / "outputs" / "reference"
OF_MODEL = ("num_memory_tokens", "segment_size")  # in the model's config.json; another value would be another model
OF_RUN = (  # what an evaluation takes from the run that made the model, unless it is told otherwise
    "preset", "task", "answer_size", "layout", "question_position", "background", "background_path",
    "background_tokens", "segments", "steps",
)  # fmt: skip


def reference_names() -> list[str]:
    """Return the names of the models in outputs/reference."""
    return sorted(path.parent.name for path in REFERENCE.glob("*/config.json"))


def load_reference(name: str):
    """Load a trained model of outputs/reference, such as "qa1".

    Returns: the model, in eval mode on the CPU, and its tokenizer.
    Raises:  ConfigError if there is no such model, or its weights are not those that its recipe names.
    """
    name = name.removeprefix("reference:")
    folder = REFERENCE / name
    if not _has_memory(folder):
        known = ", ".join(name for name in reference_names() if _has_memory(REFERENCE / name)) or "none"
        raise ConfigError(f"no trained model {name!r} in outputs/reference; there are: {known}")
    verify_weights(folder)
    from transformers import AutoTokenizer

    from rmtkit.kinds import load_model

    return load_model(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _has_memory(folder: Path) -> bool:
    return None not in (_said_by_model(folder) or {"": None}).values()


def verify_weights(folder: Path) -> None:
    """Compare the weights in a folder with the hashes in its recipe, if it has one. Raises: ConfigError."""
    path = folder / "recipe.json"
    recipe = read_json(path) if path.is_file() else {}
    for name, digest in recipe.get("sha256", {}).items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ConfigError(f"{folder / name} is not what recipe.json says (sha256 {digest[:12]}...); fetch it again")


def resolve_reference(name: str) -> str:
    """Return the folder of `reference:NAME`, of a run folder its model's, or the name itself (a folder, a hub name).

    Raises: ConfigError.
    """
    if not name.startswith("reference:"):
        path = Path(name).expanduser()
        if (path / "model" / "config.json").is_file():
            return str(path / "model")
        return str(path) if name.startswith("~") else name
    folder = REFERENCE / name.removeprefix("reference:")
    if not (folder / "config.json").is_file():
        known = ", ".join(reference_names()) or "none"
        raise ConfigError(f"{name!r} is not there; reference models: {known}, or give a folder")
    return str(folder)


def checkpoint_folder(checkpoint: str) -> Path:
    """Return the folder that a checkpoint's model is in: of a run folder its `model`. Raises: ConfigError."""
    return Path(resolve_reference(str(checkpoint)))


def resolve_trained(parameters: dict) -> Config:
    """Return the configuration for something to do with a trained model, as `rmtkit.config.resolve` does.

    With a `checkpoint` its model says segment size and number of memory tokens, and its own run the fields in `OF_RUN`;
    any other value given goes before.

    Raises: ConfigError, also for a value that the model contradicts, and if nobody says which task it was trained for.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if "checkpoint" not in given:
        return resolve(given)
    folder = checkpoint_folder(given["checkpoint"])
    by_run = {name: value for name, value in _said_by_run(folder).items() if name != "steps" or "segments" not in given}
    usual = {"precision": "auto", "memory_grid": "none"}  # the run's precision was for training; a model has its grid
    config = resolve({**by_run, **_said_by_model(folder), **usual, **given})
    check_model(config, folder)
    if (folder / "config.json").is_file() and "task" not in {**by_run, **given}:
        raise ConfigError(f"checkpoint {folder} does not say which task it was trained for; give task=qa1 or another")
    return config


def check_model(config: Config, folder: Path) -> None:
    """Compare a configuration with the model in a folder. Raises: ConfigError if it is there and another one."""
    for name, value in _said_by_model(folder).items():
        if value is None:
            raise ConfigError(f"checkpoint {folder} has no {name}: it is no model with memory, or a backbone alone")
        if value != getattr(config, name):
            raise ConfigError(
                f"checkpoint {folder} has {name}={value!r}, the configuration {getattr(config, name)}; "
                f"give {name}={value} or the preset that it was trained with"
            )


def _said_by_model(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    found = read_json(path)
    return {name: found.get(name) for name in OF_MODEL}


def _said_by_run(folder: Path) -> dict:
    """Return the fields of `OF_RUN` in the configuration of the (last) run that made the model in a folder."""
    for path in (folder / "recipe.json", folder / "result.json", folder.parent / "config.json"):
        found = read_json(path) if path.is_file() else {}
        config = found["runs"][-1]["config"] if found.get("runs") else found.get("config")
        if config:
            known = {name: config[name] for name in OF_RUN if config.get(name) is not None}
            return known if known.get("preset") in PRESETS else {**known, "preset": "tiny"}
    return {}


def weights_digest(folder: Path, memory_grid: float | None = None) -> str:
    """Return the SHA-256 of a model's weights, all files of them in the order of their names, and its memory's grid.

    Args: memory_grid: a spacing instead of that in its config.json; without a grid the weights are all there is.
    """
    if memory_grid is None and (folder / "config.json").is_file():
        memory_grid = read_json(folder / "config.json").get("memory_grid")
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    if memory_grid:
        digest.update(f"memory_grid {float(memory_grid)}".encode())
    return digest.hexdigest()

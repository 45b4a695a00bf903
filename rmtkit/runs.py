"""The run folder: what was asked, where it ran, what came out.

config.json, environment.json   written first
metrics.jsonl                   a line per validation
training.jsonl                  a line per logged step: loss, tokens read and seconds since the line before
checkpoints/                    a folder per curriculum stage
result.json                     written last, atomically: its presence means that the run is whole

Notebooks and tables read these files; nothing parses a folder's name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from rmtkit.config import PROJECT, Config, ConfigError, identity

PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "accelerate", "numpy", "pandas")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and the configuration that made it."""

    folder: Path
    config: Config

    @property
    def result_path(self) -> Path:
        """The file whose presence means that the run is whole."""
        return self.folder / "result.json"

    @property
    def model_path(self) -> Path:
        """The folder of the model that training ended with."""
        return self.folder / "model"

    @property
    def is_finished(self) -> bool:
        """Whether the result has been written."""
        return self.result_path.is_file()

    def result(self) -> dict:
        """Return what `finish` wrote."""
        return read_json(self.result_path)

    def metrics(self) -> list[dict]:
        """Return the rows of metrics.jsonl, oldest first.

        A line cut off by a crash is dropped. A run that goes on from a checkpoint repeats the validations after it: of
        rows with the same split, stage and step the last one counts.
        """
        return read_rows(self.folder / "metrics.jsonl")

    def training_log(self) -> list[dict]:
        """Return the rows of training.jsonl as `metrics` does; of a run made before there was such a file, none."""
        return read_rows(self.folder / "training.jsonl")

    def append_metrics(self, row: dict) -> None:
        """Add one line to metrics.jsonl."""
        _append_row(self.folder / "metrics.jsonl", row)

    def append_log(self, row: dict) -> None:
        """Add one line to training.jsonl."""
        _append_row(self.folder / "training.jsonl", row)

    def finish(self, result: dict) -> None:
        """Write result.json, the last file of a run."""
        write_json(self.result_path, result)


def read_rows(path: Path) -> list[dict]:
    """Return the rows of metrics.jsonl or training.jsonl, as `Run.metrics` does; none if there is no file."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row.get("split"), row.get("stage"), row.get("step")] = row
    return list(rows.values())


def _append_row(path: Path, row: dict) -> None:
    """Add one line; on a line of its own, even if a crash has cut the one before it."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            is_cut = file.read(1) != b"\n"
            file.write(b"\n" * is_cut)
        file.write(json.dumps(row).encode() + b"\n")


def open_run(config: Config) -> Run:
    """Create the run folder of a configuration, or open it if it is there.

    Raises: ConfigError if the folder cannot be written, or holds a run of another configuration.
    """
    folder = run_folder(config)
    check_writable(folder)
    wanted = json.loads(json.dumps(identity(config)))
    path = folder / "config.json"
    if path.is_file():
        found = read_json(path)["identity"]
        differences = [f"{k}: {found.get(k)!r} there, {v!r} asked" for k, v in wanted.items() if found.get(k) != v]
        if differences:
            found = "; ".join(differences)
            raise ConfigError(f"{folder} holds a run of another configuration ({found}); give another run_dir")
    else:
        write_json(folder / "environment.json", environment())
        write_json(path, {"identity": wanted, "config": dataclasses.asdict(config)})
    return Run(folder, config)


def run_folder(config: Config) -> Path:
    """Return `run_dir`, or a folder under outputs_dir/runs whose name holds a hash of the configuration."""
    if config.run_dir:
        return Path(config.run_dir).expanduser()
    text = json.dumps(identity(config), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
    return Path(config.outputs_dir).expanduser() / "runs" / f"{config.task_name}-{config.preset}-{digest}"


def check_writable(folder: Path) -> None:
    """Create a folder and try to write in it. Raises: ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}; give another outputs_dir or run_dir") from None


def write_json(path: Path, value) -> None:
    """Write a JSON file by renaming a finished one into place."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file by renaming a finished one into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def environment() -> dict:
    """Return what a number depends on beside the configuration: versions, processor, commit."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": sys.platform,
        "commit": _commit(),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""The predictions of a model on disk: a JSON line for each, appended as it comes, and beside it what it is of.

    predictions/smollm2_qa1_4k_8c2b1f.jsonl    a line for each answer; of two lines with the same index the last counts
    predictions/smollm2_qa1_4k_8c2b1f.json     model, prompts, source, seed, versions; n, accuracy, interval and rule

A file holds one model on one task at one length, asked in one way: its name ends with a hash of all that says so, and
another setting makes another file. A process that is killed leaves a line cut off at most, which is dropped; a file
has one writer at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pandas as pd

from rmtkit.parameters import ConfigError
from rmtkit.runs import read_json, write_text
from rmtkit.scoring import score

FOLDER = "predictions"
COLUMNS = (
    "model", "task", "length", "index", "target", "output", "question", "failure", "detail", "finish_reason",
    "num_prompt_tokens", "num_answer_tokens", "num_attempts", "is_correct", "recall", "rule",
)  # fmt: skip
COUNTS = ("num_prompt_tokens", "num_answer_tokens", "num_attempts")  # not known everywhere
NEEDED = ("key", "task", "length", "index", "target", "output", "question", "is_correct", "rule")  # of a line
TRANSIENT = ("rate_limit", "server_error", "timeout", "connection")  # failures that another run may not meet


class WriteError(ValueError):
    """Predictions cannot be written; those before are safe, and the same call goes on with them."""


class PredictionFile:
    """The predictions of one model on one task at one length, opened for writing; a context manager.

    Args:   folder: of the evaluation;  what: JSON that says what they are of, with model, task and length.
    Raises: ConfigError if another process writes the file, or it cannot be written.

    rows: the line of each case by its index, as far as there is one.
    """

    def __init__(self, folder: str | Path, what: dict):
        self.what = what
        self.path = prediction_path(Path(folder).expanduser() / FOLDER, what)
        self.rows: dict[int, dict] = {}

    def __enter__(self) -> PredictionFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+", buffering=0)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}; give another run_dir") from None
        try:
            _lock(self._file, self.path)
            self.rows = {row["index"]: row for row in self._mend()}
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def append(self, row: dict) -> None:
        """Add a line; it is on the disk when this returns.

        Raises: WriteError, with nothing of the line left in the file.
        """
        self._write(json.dumps(row).encode() + b"\n")
        self.rows[row["index"]] = row

    def _write(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise WriteError(
                f"cannot write {self.path}: {error.strerror}; its {len(self.rows)} predictions are kept: make room and "
                "run the same again, which goes on with them"
            ) from None

    def _mend(self) -> list[dict]:
        """Return the rows, and cut off what a killed process left of one behind the last of them."""
        self._file.seek(0)
        text = self._file.read()
        rest = text[text.rfind(b"\n") + 1 :]
        if _row(rest):
            self._write(b"\n")
        elif rest:
            os.ftruncate(self._file.fileno(), len(text) - len(rest))
        return _rows(text)


def prediction_path(folder: Path, what: dict) -> Path:
    """Return the file of what is described, named after model, task, length and a hash of the whole."""
    parts = (re.sub(r"[^A-Za-z0-9.+-]+", "-", str(what[name])).strip("-.") for name in ("model", "task", "length"))
    return folder / f"{'_'.join(part[:80] for part in parts)}_{digest(what)[:8]}.jsonl"


def digest(value) -> str:
    """Return a hash of anything that JSON can hold."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def is_settled(row: dict | None) -> bool:
    """Return whether a line is not to be asked for again: it holds an answer, or a failure for good."""
    return row is not None and row["failure"] not in TRANSIENT


def rescored(row: dict, rule: str) -> dict:
    """Return a line as scored by a rule. A failure is not right by any."""
    if row["rule"] == rule:
        return row
    asked = {name: row[name] for name in ("question", "target", "task")}
    return {**row, "is_correct": row["failure"] is None and score(rule, row["output"], **asked), "rule": rule}


def save(path: Path, value) -> None:
    """Write a text, or anything else as JSON, by renaming a finished file into place. Raises: WriteError."""
    try:
        write_text(path, value if isinstance(value, str) else json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {error.strerror}; all predictions are kept: make room and run the same again"
        ) from None


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """Return all predictions in the folder of an evaluation, of a finished one or one that still goes on.

    Args:   folder: what `rmtkit.llm.run.run_llm` returns, or `evaluate_model` was given.
    Returns: `COLUMNS`; a row for each model, task, length and index, all scored by the rule that was asked for last.
    Raises: ConfigError if there are none, or a model was asked the same in several ways, which are not to be mixed.
    """
    folder = Path(folder).expanduser() / FOLDER
    abouts = {path: read_json(path) for path in sorted(folder.glob("*.json"))}
    abouts = {path: about for path, about in abouts.items() if path.with_suffix(".jsonl").is_file()}
    _check_unmixed(abouts)
    rows = []
    for path, about in abouts.items():
        of_file = {row["index"]: row for row in _rows(path.with_suffix(".jsonl").read_bytes())}
        rows += [{"model": about["model"], **rescored(row, about["rule"])} for _, row in sorted(of_file.items())]
    if not rows:
        raise ConfigError(f"{folder} holds no predictions; python -m rmtkit llm run makes some")
    return as_frame(rows)


def as_frame(rows: list[dict]) -> pd.DataFrame:
    """Return lines as a data frame with `COLUMNS`; counts that are not known are missing values."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({**dict.fromkeys(COUNTS, "Int64"), "is_correct": bool, "recall": float})


def forget_failures(folder: str | Path) -> int:
    """Remove what failed for good, so that the next evaluation asks again; return how many there were.

    Raises: ConfigError if another process writes one of the files.
    """
    number = 0
    for path in sorted((Path(folder).expanduser() / FOLDER).glob("*.jsonl")):
        with path.open("ab+", buffering=0) as file:
            _lock(file, path)
            rows = {row["index"]: row for row in _rows(path.read_bytes())}
            kept = [row for row in rows.values() if row["failure"] is None]
            if len(kept) < len(rows):
                write_text(path, "".join(f"{json.dumps(row)}\n" for row in kept))
                number += len(rows) - len(kept)
    return number


def _check_unmixed(abouts: dict[Path, dict]) -> None:
    found: dict[tuple, Path] = {}
    for path, about in abouts.items():
        other = found.setdefault((about["model"], about["task"], about["length"]), path)
        if other != path:
            differing = [name for name in about["what"] if about["what"][name] != abouts[other]["what"].get(name)]
            raise ConfigError(
                f"{other.stem} and {path.stem} are of one model, task and length, with another {', '.join(differing)}; "
                "give each setting a folder of its own"
            )


def _rows(text: bytes) -> list[dict]:
    """Return the lines that are whole, the oldest first."""
    return [row for row in map(_row, text.split(b"\n")) if row]


def _row(line: bytes) -> dict | None:
    """Return a line as a row, or None if it is none: cut off, or damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return {"failure": None, **row} if isinstance(row, dict) and all(name in row for name in NEEDED) else None


def _lock(file, path: Path) -> None:
    """Take a file for this process until it is closed, where the system can. Raises: ConfigError if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    busy = f"{path} is being written by another process; wait for it, or give another run_dir"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(busy) from None
    except OSError:  # a file system without locks
        return
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # replaced meanwhile
        raise ConfigError(busy)

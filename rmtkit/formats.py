"""Rows of BABILong samples as files: JSON Lines, Parquet, or a folder of the library `datasets`.

Rows are written as they come, a few at a time, and the same rows give the same bytes (with the same pyarrow).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rmtkit.public import shard_name

TEXT_AT_ONCE = 2**24  # characters of rows that are written together
JSON_AT_ONCE = 2**20  # characters encoded at once
TEXT_COLUMNS = ("input", "question", "target", "task", "length", "split")
NUMBER_COLUMNS = ("index", "seed", "num_tokens")
README = """---
configs:
{configs}---

BABILong samples written by `python -m rmtkit export`; manifest.json says how. Read one file with
`rmtkit.public.read_public(FOLDER, "{length}", "{task}")`, or all tasks of a length with
`datasets.load_dataset(FOLDER, "{length}")`.
"""


def write_json_lines(folder: Path, length: str, task: str, rows: Iterable[dict]) -> Path:
    """Write data/qa1/4k.jsonl, one row a line, and return its path."""
    path = folder / "data" / task / f"{length}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.writelines(_json_parts(row))
            del row  # it may be 60 MB: let go of it before the next one is made
    return path


def write_parquet(folder: Path, length: str, task: str, rows: Iterable[dict]) -> Path:
    """Write 4k/qa1-00000-of-00001.parquet and return its path."""
    from pyarrow.parquet import ParquetWriter

    path = folder / shard_name(length, task)
    path.parent.mkdir(exist_ok=True)
    whole = {"use_dictionary": False, "write_statistics": False}  # both would keep copies of texts of 60 MB
    with ParquetWriter(path, schema(), **whole) as writer:
        for batch in _batches(rows, schema()):
            writer.write_batch(batch)
    return path


def write_saved(folder: Path, length: str, task: str, rows: Iterable[dict]) -> Path:
    """Write the folder 4k/qa1 as `Dataset.save_to_disk` does, and return the path of its data.

    `datasets.load_from_disk` opens 4k/qa1, or 4k with the tasks as splits. By hand, since the library would first
    write all rows to its cache, and put a random fingerprint among them.
    """
    from datasets import DatasetInfo, Features
    from pyarrow import ipc

    features = Features.from_arrow_schema(schema())
    saved = folder / length / task
    saved.mkdir(parents=True)
    path = saved / "data-00000-of-00001.arrow"
    with ipc.new_stream(path, features.arrow_schema) as writer:
        for batch in _batches(rows, features.arrow_schema):
            writer.write_batch(batch)
    DatasetInfo(features=features).write_to_directory(str(saved))
    state = {
        "_data_files": [{"filename": path.name}], "_fingerprint": sha256(path)[:16], "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": task,
    }  # fmt: skip
    (saved / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    tasks = sorted(part.name for part in saved.parent.iterdir() if part.is_dir())
    (saved.parent / "dataset_dict.json").write_text(json.dumps({"splits": tasks}), encoding="utf-8")
    return path


FORMATS: dict[str, Callable[[Path, str, str, Iterable[dict]], Path]] = {
    "jsonl": write_json_lines,
    "parquet": write_parquet,
    "datasets": write_saved,
}


def write_readme(folder: Path, files: list[dict]) -> None:
    """Write the page that lets `datasets.load_dataset(FOLDER, LENGTH)` find the files, as on the hub.

    Args: files: length, task and path (below the folder) of each; JSON Lines or Parquet.
    """
    configs = ""
    for length in dict.fromkeys(file["length"] for file in files):
        configs += f"- config_name: {length}\n  data_files:\n"
        for file in files:
            if file["length"] == length:
                configs += f"  - split: {file['task']}\n    path: {file['path']}\n"
    text = README.format(configs=configs, length=files[0]["length"], task=files[0]["task"])
    (folder / "README.md").write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def schema():
    """Return the pyarrow schema of a row."""
    import pyarrow

    spans = pyarrow.list_(pyarrow.list_(pyarrow.int64()))
    return pyarrow.schema(
        {
            **{name: pyarrow.string() for name in TEXT_COLUMNS},
            **{name: pyarrow.int64() for name in NUMBER_COLUMNS},
            "facts": pyarrow.list_(pyarrow.string()),
            "supporting_facts": pyarrow.list_(pyarrow.int64()),
            "fact_positions": spans,
            "fact_tokens": spans,
        }
    )


def _json_parts(row: dict) -> Iterator[str]:
    """Yield a row as a line of JSON, its long text in parts: the encoder would make several copies of the whole."""
    text, others = row["input"], {name: value for name, value in row.items() if name != "input"}
    yield '{"input": "'
    for start in range(0, len(text), JSON_AT_ONCE):
        yield json.dumps(text[start : start + JSON_AT_ONCE], ensure_ascii=False)[1:-1]
    yield '", ' + json.dumps(others, ensure_ascii=False)[1:] + "\n"


def _batches(rows: Iterable[dict], columns) -> Iterator:
    """Yield pyarrow record batches of rows, about `TEXT_AT_ONCE` characters each."""
    import pyarrow

    waiting, size = [], 0
    for row in rows:
        waiting.append(row)
        size += len(row["input"])
        del row  # as above
        if size >= TEXT_AT_ONCE:
            yield pyarrow.RecordBatch.from_pylist(waiting, columns)
            waiting, size = [], 0
    if waiting:
        yield pyarrow.RecordBatch.from_pylist(waiting, columns)

"""The public BABILong sets, read file by file: one length of one task never fetches another.

| set | files | rows a file |
|---|---|---|
| babilong | data/qa1/4k.json | 100 |
| babilong-1k-samples | 4k/qa1-00000-of-00001.parquet | 1,000 |
| babilong-train-5k-samples | data/qa1/4k.json | 5,000 |

Kuratov et al. 2024 (2406.10149). A row is {"input": context, "question": ..., "target": answer}. "0k" is facts alone; a
longer name is a room in GPT-2 tokens of which 300 are left free for the prompt: "1k" is 700 tokens of context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rmtkit.config import TASKS

OWNER = "RMT-team"
COLUMNS = ("input", "question", "target")
ROOM = {  # tokens of context and prompt together
    "0k": 0, "1k": 1_000, "2k": 2_000, "4k": 4_000, "8k": 8_000, "16k": 16_000, "32k": 32_000, "64k": 64_000,
    "128k": 128_000, "256k": 256_000, "512k": 512_000, "1M": 1_000_000, "10M": 10_000_000,
}  # fmt: skip
LENGTHS = tuple(ROOM)
PROMPT_ROOM = 300  # tokens left free for instruction, examples and question
ROWS_AT_ONCE = 16  # of a parquet file in memory; a row may be 40 MB
HUB_TIMEOUT = 10  # seconds for the first answer of the hub; it decides between reading and a clear error


class PublicSet(NamedTuple):
    """What a data set of the hub holds."""

    lengths: tuple[str, ...]
    holds: str


PUBLIC_SETS = {
    "babilong": PublicSet(LENGTHS, "qa1-qa20 at 0k, qa1-qa10 at all other lengths"),
    "babilong-1k-samples": PublicSet(LENGTHS[:9], "qa1-qa20 at 0k, qa1-qa5 at all other lengths"),
    "babilong-train-5k-samples": PublicSet(LENGTHS[:9], "most of qa1-qa10 to 32k, some to 128k"),
}


def context_size(length: str) -> int | None:
    """Return the tokens of context that a length means, None for facts alone.

    Raises: ValueError if the benchmark has no such length.
    """
    check_length(length)
    return ROOM[length] - PROMPT_ROOM if ROOM[length] else None


def check_length(length: str, allowed: tuple[str, ...] = LENGTHS) -> None:
    """Raise ValueError unless the length is one of those allowed."""
    if length not in allowed:
        raise ValueError(f"length {length!r} does not exist; lengths: {', '.join(allowed)}")


def read_public(
    source: str | Path, length: str, task: str, *, num_samples: int | None = None, revision: str = "main"
) -> list[dict]:
    """Read one length of one task from a public set, fetching only its file, once, or from a folder.

    Args:    source: a name in `PUBLIC_SETS`, with or without "RMT-team/"; or a folder laid out as one of them, or
             written by `python -m rmtkit export`; a folder of a set's name goes before the set on the hub;
             length: one of `LENGTHS`;  task: "qa1" .. "qa20";
             num_samples: stop after so many rows;  revision: branch or commit of the set on the hub.
    Returns: rows in the order of the file, each with at least `COLUMNS`, unchanged.
    Raises:  ValueError if source, length, task or file does not exist, a file is malformed, or the hub is out of reach.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} does not exist; tasks: {', '.join(TASKS)}")
    name = str(source).removeprefix(f"{OWNER}/")
    is_public = name in PUBLIC_SETS and not Path(source).is_dir()
    check_length(length, PUBLIC_SETS[name].lengths if is_public else LENGTHS)
    if is_public:
        files = _fetch(name, length, task, revision)
    else:
        files = _find(Path(source).expanduser(), length, task)
    return list(islice((row for file in files for row in _read(file)), num_samples))


def _fetch(name: str, length: str, task: str, revision: str) -> list[Path]:
    """Return the files of one length of one task in the cache of huggingface_hub, fetched if they are not there."""
    from huggingface_hub import HfApi, hf_hub_download

    repository = f"{OWNER}/{name}"
    try:  # asked once and first: what there is, and whether the hub can be reached at all
        info = HfApi().dataset_info(repository, revision=revision, timeout=HUB_TIMEOUT)
        wanted = _matching([sibling.rfilename for sibling in info.siblings], length, task)
        if wanted:
            return [Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision)) for file in wanted]
    except Exception as error:  # its classes differ from one version of the hub client to the next
        return _find_cached(repository, length, task, revision, error)
    raise ValueError(f"{repository} has no {task} at {length}; it holds {PUBLIC_SETS[name].holds}")


def _find_cached(repository: str, length: str, task: str, revision: str, reason: Exception) -> list[Path]:
    """Return the files that an earlier call fetched. Raises: ValueError with the offline choice if there are none."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
        return _find(Path(folder), length, task)
    except (OSError, ValueError):
        text = " ".join(f"{type(reason).__name__}: {reason}".split())[:200].rstrip(".")
        raise ValueError(
            f"the Hugging Face hub did not give {task} at {length} of {repository} ({text}). Offline: give a folder "
            "with a copy of the set, or make samples of your own with python -m rmtkit export"
        ) from None


def _find(folder: Path, length: str, task: str) -> list[Path]:
    """Return the files of one length of one task in a folder, in any of the layouts."""
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is neither a folder nor a public set; sets: {', '.join(PUBLIC_SETS)}")
    saved = folder / length / task
    if (saved / "dataset_info.json").is_file():
        return [saved]
    files = [file for part in (f"data/{task}", length) for file in (folder / part).glob("*")]
    wanted = _matching([file.relative_to(folder).as_posix() for file in files], length, task)
    if not wanted:
        expected = f"data/{task}/{length}.json or {shard_name(length, task)}"
        raise ValueError(f"{str(folder)!r} has no {task} at {length}; expected {expected}")
    return [folder / file for file in wanted]


def _matching(files: list[str], length: str, task: str) -> list[str]:
    """Return those of a set's files that hold one length of one task. Raises: ValueError if a part is missing."""
    pattern = re.compile(rf"data/{task}/{length}\.jsonl?|{length}/{task}-\d+-of-(\d+)\.parquet")
    found = [match for match in map(pattern.fullmatch, sorted(files)) if match]
    if found and found[0][1] and len(found) != int(found[0][1]):
        raise ValueError(f"{found[0][0]} is one of {int(found[0][1])} parts, of which {len(found)} are there")
    return [match[0] for match in found]


def shard_name(length: str, task: str) -> str:
    """Return the parquet file of one length of one task, as the public set names it."""
    return f"{length}/{task}-00000-of-00001.parquet"


def _read(file: Path) -> Iterator[dict]:
    """Yield the rows of a file (or of a folder that `datasets` saved), each with its number checked."""
    read = _read_saved if file.is_dir() else _read_parquet if file.suffix == ".parquet" else _read_json
    try:
        for number, row in enumerate(read(file), start=1):
            if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in COLUMNS):
                raise ValueError(f"row {number} is not an object with the texts {', '.join(COLUMNS)}")
            yield row
    except (OSError, ValueError) as error:  # ValueError: of JSON, of UTF-8 and of pyarrow, too
        raise ValueError(f"cannot read {file}: {error}") from None


def _read_json(file: Path) -> Iterator[dict]:
    """Yield the rows of a JSON array, or one a line."""
    with file.open(encoding="utf-8") as lines:
        is_array = lines.read(1) == "["
        lines.seek(0)
        yield from json.load(lines) if is_array else (json.loads(line) for line in lines if line.strip())


def _read_parquet(file: Path) -> Iterator[dict]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _read_saved(folder: Path) -> Iterator[dict]:
    from datasets import load_from_disk

    yield from load_from_disk(str(folder))

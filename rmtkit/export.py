"""Files for others: BABILong samples with a manifest, and stories in the format of bAbI.

A folder or file appears under its name only when it is complete, and never replaces another. The same parameters give
the same bytes.

Axis letters: t tokens, k facts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from rmtkit import __version__
from rmtkit.babi import SPLITS, write_stories
from rmtkit.babi.files import OFFICIAL_SIZES, file_name, stories
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import open_background
from rmtkit.config import TEXT_FIELDS, Config, ConfigError
from rmtkit.formats import FORMATS, sha256, write_readme
from rmtkit.public import context_size

DECODE_SIZE = 2**16  # tokens decoded at once


@dataclass(frozen=True)
class Request:
    """Which samples are wanted, and in which format; checked when it is made."""

    lengths: tuple[str, ...] = ("0k",)  # of rmtkit.public.LENGTHS
    num_samples: int = 100  # a length and task; fewer if the recorded problems do not give so many
    split: str = "test"  # train, validation, test
    format: str = "jsonl"  # jsonl, parquet, datasets

    def __post_init__(self):
        for length in self.lengths:
            context_size(length)
        if self.num_samples < 1:
            raise ConfigError(f"num_samples is {self.num_samples}; expected at least 1")
        for name, value, allowed in (("split", self.split, SPLITS), ("format", self.format, tuple(FORMATS))):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


class ContextBuilder(BabilongBuilder):
    """Builds prompts without their question, which is a column of its own: the length is that of the context."""

    def question_ends(self, *_) -> tuple[np.ndarray, np.ndarray]:
        return self._encode(""), self._encode("")


def export_samples(config: Config, request: Request, output: str | Path) -> dict:
    """Write BABILong samples as a folder: a file per length and task, and manifest.json.

    Args:    config: tasks, stories, background, tokenizer (that of `backbone`) and seed;
             output: a folder that does not exist yet.
    Returns: the manifest: parameters, versions, tokenizer, background, and of each file its rows and SHA-256.
    Raises:  ValueError for a parameter that does not fit, before anything is built; an output that exists or cannot be
             written.
    """
    from rmtkit.experiment import open_problems, open_tokenizer

    output = Path(output).expanduser()
    _check_texts(config, request)
    with new_folder(output) as folder:
        problems = {task: open_problems(replace(config, task=task), (request.split,)) for task in config.tasks}
        tokenizer = open_tokenizer(config)
        background = _open_background(config, request, tokenizer)
        depth = (config.fact_depth_start, config.fact_depth_end)
        files = []
        for task, source in problems.items():
            builder = ContextBuilder(source, background, tokenizer, seed=config.seed, fact_depth=depth)
            files += [_write_file(folder, builder, request, task, length) for length in request.lengths]
        manifest = _manifest(config, request, tokenizer, background, files)
        if request.format != "datasets":
            write_readme(folder, files)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def input_pieces(sample: Sample, tokenizer) -> Iterator[tuple[str, bool]]:
    """Yield the text of a sample's prompt in pieces that belong together with a space between, and which are facts.

    Facts come as they are written in the story; background is decoded from its tokens, a part at a time.
    """
    done = 0
    for fact, (start, end) in zip(sample.problem.facts, sample.fact_spans.tolist(), strict=True):
        yield from ((text, False) for text in _decode(sample.prompt[done:start], tokenizer))
        yield fact, True
        done = end
    yield from ((text, False) for text in _decode(sample.prompt[done:], tokenizer))


def sample_row(sample: Sample, tokenizer, *, length: str, seed: int) -> dict:
    """Return a sample as a row: the benchmark's columns and ours.

    Returns: input, question, target; task, length, split, index, seed; num_tokens of the input; facts, and
             supporting_facts as indices into them; of each fact fact_positions, [start, end) in the characters of the
             input, so that input[start:end] is the fact, and fact_tokens, [start, end) in its tokens, (k, 2) each.
    """
    texts, positions, size = [], [], 0
    for text, is_fact in input_pieces(sample, tokenizer):
        if is_fact:
            positions.append([size, size + len(text)])
        texts.append(text)
        size += len(text) + 1
    return {
        "input": " ".join(texts), "question": sample.question.text, "target": sample.question.answer,
        "task": sample.problem.task, "length": length, "split": sample.split, "index": sample.index, "seed": seed,
        "num_tokens": len(sample.prompt), "facts": list(sample.problem.facts),
        "supporting_facts": list(sample.question.supporting), "fact_positions": positions,
        "fact_tokens": sample.fact_spans.tolist(),
    }  # fmt: skip


def export_story_file(output: str | Path, task: str, *, seed: int, split: str, num_questions: int) -> dict:
    """Write generated stories with exactly `num_questions` questions as one file in the official format.

    Args:   output: a file that does not exist yet;  split: "train" or "test", which share no story.
    Raises: ValueError for a parameter that does not fit; an output that exists or cannot be written.
    """
    output = Path(output).expanduser()
    _check_new(output)
    with _disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    _write_story_file(output, task, seed, split, num_questions)
    return {"path": str(output), "num_questions": num_questions, "sha256": sha256(output)}


def export_story_folder(output: str | Path, tasks: Sequence[str], *, seed: int, sizes: dict[str, int]) -> dict:
    """Write training and test files of several tasks as a folder like the official en-10k.

    Args:   output: a folder that does not exist yet;  sizes: questions of each split, {"train": 10_000, "test": 1_000}.
    Raises: as `export_story_file`.
    """
    output = Path(output).expanduser()
    with new_folder(output) as folder:
        for task in tasks:
            for split in OFFICIAL_SIZES:
                _write_story_file(folder / file_name(task, split), task, seed, split, sizes[split])
        files = [{"path": path.name, "sha256": sha256(path)} for path in sorted(folder.iterdir())]
    return {"path": str(output), "num_questions": sizes, "files": files}


def _write_story_file(path: Path, task: str, seed: int, split: str, num_questions: int) -> None:
    with _disk_errors(path):
        write_stories(stories(task, seed, split, num_questions), path)


def _check_texts(config: Config, request: Request) -> None:
    """Refuse what a folder of texts cannot have."""
    for name, needed in (("layout", "spaced"), ("question_position", "last")):
        if getattr(config, name) != needed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; texts are written with {name}={needed} only")
    if config.background == "none" and set(request.lengths) != {"0k"}:
        lengths = ", ".join(request.lengths)
        raise ConfigError(f"background is 'none', which has no text for lengths {lengths}; take length 0k or another")


def _open_background(config: Config, request: Request, tokenizer):
    """Return the token store; None if all that is wanted is facts alone."""
    source = "none" if set(request.lengths) == {"0k"} else config.background
    path = None if source == "none" else config.background_path
    return open_background(source, tokenizer, data_dir=config.data_dir, path=path, max_tokens=config.background_tokens)


def _write_file(folder: Path, builder: ContextBuilder, request: Request, task: str, length: str) -> dict:
    """Write one length of one task and describe the file."""
    size = context_size(length)
    fitting = builder.num_fitting(request.split, size)
    num_samples = request.num_samples if fitting is None else min(request.num_samples, fitting)
    indices = range(max(1, num_samples))  # if none fits, the builder says why
    samples = (builder.sample(request.split, index, size) for index in indices)
    rows = (sample_row(sample, builder.tokenizer, length=length, seed=builder.seed) for sample in samples)
    with _disk_errors(folder):
        path = FORMATS[request.format](folder, length, task, rows)
    print(f"{task} {length}: {num_samples} samples")
    return {
        "path": path.relative_to(folder).as_posix(), "task": task, "length": length, "context_tokens": size,
        "num_samples": num_samples, "num_bytes": path.stat().st_size, "sha256": sha256(path),
    }  # fmt: skip


def _manifest(config: Config, request: Request, tokenizer, background, files: list[dict]) -> dict:
    """Return what the files are and what they depend on; no time and no place, so that it repeats, too."""
    from rmtkit.background.encoding import tokenizer_fingerprint

    return {
        "made_by": f"rmtkit {__version__}",
        "request": asdict(request),
        "config": {name: getattr(config, name) for name in (*TEXT_FIELDS, "backbone")},
        "tokenizer": {"name": config.backbone, "fingerprint": tokenizer_fingerprint(tokenizer)},
        "background": None if background is None else background.meta,
        "files": files,
    }


def _decode(token_ids: np.ndarray, tokenizer) -> Iterator[str]:
    """Yield the text of background in parts that belong together with a space between; t tokens are cut at words.

    Trap: the last sentence of a passage is cut to length, perhaps within a character: what is left of it is dropped.
    """
    start = 0
    while start < len(token_ids):
        end = start + DECODE_SIZE
        while end < len(token_ids) and not _is_word_start(token_ids, end, tokenizer):
            end += 1
        text = _text(token_ids[start:end], tokenizer).rstrip("\ufffd").strip()
        if text:
            yield text
        start = end


def _is_word_start(token_ids: np.ndarray, index: int, tokenizer) -> bool:
    """Whether the text before a token and the text from it on are separated by a space, for any kind of tokenizer."""
    left, right = (_text(token_ids[i : i + 1], tokenizer) for i in (index - 1, index))
    return bool(left) and bool(right) and _text(token_ids[index - 1 : index + 1], tokenizer) == f"{left} {right}"


def _text(token_ids: np.ndarray, tokenizer) -> str:
    return tokenizer.decode(token_ids.tolist(), clean_up_tokenization_spaces=False).strip()


def _check_new(output: Path) -> None:
    if os.path.lexists(output):
        raise ValueError(f"{output} exists already; give another output, or remove it first")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write in; it gets its name when all went well, and is removed if not."""
    _check_new(output)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with _disk_errors(output):
            unfinished.mkdir(parents=True)
        yield unfinished
        with _disk_errors(output):
            unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    """Turn an error of the disk into one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write {output} ({error.strerror}); give another output") from error


def parse_names(what: str, text: str, everything: Sequence[str]) -> tuple[str, ...]:
    """Read "qa1,qa2", or "all" for everything there is. Raises: ConfigError for a name that does not exist."""
    names = tuple(everything) if text == "all" else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in everything:
            raise ConfigError(f"{what} {name!r} does not exist; allowed: {', '.join(everything)}, or all")
    return names

"""Command line: python -m rmtkit bench | stream | export | babi | convert; --help says what each can be given."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rmtkit.babi.files import OFFICIAL_SIZES
from rmtkit.bench import BENCHMARKS, stream_once
from rmtkit.config import TASKS, resolve
from rmtkit.export import Request, export_samples, export_story_file, export_story_folder, new_folder, parse_names
from rmtkit.formats import FORMATS
from rmtkit.public import LENGTHS

ANY_FIELD = "Any field of rmtkit.config.Config can be given as --NAME=VALUE."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a wrong value is one line on stderr and exit status 2, a check that fails is exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m rmtkit", description="Recurrent Memory Transformers and BABILong")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_bench(commands)
    _add_stream(commands)
    _add_export(commands)
    _add_babi(commands)
    _add_convert(commands)
    known, rest = parser.parse_known_args(arguments)
    try:
        result = known.run(known, _overrides(rest))
    except ValueError as error:
        print(f"rmtkit: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 1 if result.get("failed") else 0


def _add_bench(commands) -> None:
    command = commands.add_parser("bench", help="measure; the last line is JSON", epilog=ANY_FIELD)
    command.add_argument("name", choices=sorted(BENCHMARKS))
    command.add_argument("--num_stories", type=int, help="babi: generated stories of each task, 2000 if not given")
    command.add_argument("--output", help="babi: a CSV file for what was measured")
    command.set_defaults(run=_bench)


def _bench(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    options = {name: getattr(known, name) for name in ("num_stories", "output") if getattr(known, name) is not None}
    if options and known.name != "babi":
        raise ValueError(f"{' and '.join(options)}: for bench babi only, not for bench {known.name}")
    return BENCHMARKS[known.name](resolve(fields), **options)


def _add_stream(commands) -> None:
    command = commands.add_parser("stream", help="answer one long sample; the last line is JSON", epilog=ANY_FIELD)
    command.add_argument("--num_tokens", type=int, default=1_000_000)
    command.set_defaults(run=lambda known, fields: stream_once(resolve(fields), known.num_tokens))


def _add_export(commands) -> None:
    command = commands.add_parser("export", help="write BABILong samples as files", epilog=ANY_FIELD)
    command.add_argument("--output", required=True, help="a folder that does not exist yet")
    command.add_argument("--length", default="0k", help=f"all, or of {', '.join(LENGTHS)}, with commas between")
    command.add_argument("--num_samples", type=int, default=100, help="a length and task")
    command.add_argument("--split", default="test", help="train, validation or test")
    command.add_argument("--format", default="jsonl", help=", ".join(FORMATS))
    command.set_defaults(run=_export)


def _export(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    lengths = parse_names("length", known.length, LENGTHS)
    request = Request(lengths, num_samples=known.num_samples, split=known.split, format=known.format)
    files = export_samples(resolve(fields), request, known.output)["files"]
    totals = {name: sum(file[name] for file in files) for name in ("num_samples", "num_bytes")}
    return {"output": known.output, "num_files": len(files), **totals}


def _add_babi(commands) -> None:
    command = commands.add_parser("babi", help="write generated stories in the format of the bAbI files")
    command.add_argument("--output", required=True, help="a new file for one task, a new folder for several or all")
    command.add_argument("--task", required=True, help="all, or of qa1 .. qa20, with commas between")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--split", choices=list(OFFICIAL_SIZES), help="of a file; a folder has both")
    command.add_argument("--num_questions", type=int, help="of the file; of each training file in a folder")
    command.add_argument("--num_test_questions", type=int, help="of each test file in a folder")
    command.set_defaults(run=_babi)


def _babi(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    tasks = parse_names("task", known.task, TASKS)
    _refuse(fields, "babi")
    if len(tasks) > 1:
        if known.split:
            raise ValueError(f"split is {known.split!r}; a folder of several tasks has both splits, leave it out")
        sizes = {"train": known.num_questions, "test": known.num_test_questions}
        sizes = {split: OFFICIAL_SIZES[split] if size is None else size for split, size in sizes.items()}
        return export_story_folder(known.output, tasks, seed=known.seed, sizes=sizes)
    if known.num_test_questions is not None:
        raise ValueError("num_test_questions is for a folder of several tasks; for a file give split and num_questions")
    split = known.split or "train"
    num_questions = OFFICIAL_SIZES[split] if known.num_questions is None else known.num_questions
    return export_story_file(known.output, tasks[0], seed=known.seed, split=split, num_questions=num_questions)


def _add_convert(commands) -> None:
    command = commands.add_parser("convert", help="write a checkpoint of the authors' code as a folder of ours")
    command.add_argument("--source", required=True, help="a folder, file or hub name with the authors' weights")
    command.add_argument("--output", required=True, help="a folder that does not exist yet")
    command.add_argument("--backbone", help="its name or folder; config.json of the source, else gpt2, if not given")
    command.add_argument("--segment_size", type=int, default=512, help="tokens, 512 in the published checkpoints")
    command.set_defaults(run=_convert)


def _convert(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.memory.checkpoints import convert_authors_checkpoint

    _refuse(fields, "convert")
    with new_folder(Path(known.output).expanduser()) as folder:
        result = convert_authors_checkpoint(known.source, folder, known.backbone, segment_size=known.segment_size)
    return {"output": known.output, **result}


def _refuse(fields: dict[str, str], command: str) -> None:
    if fields:
        raise ValueError(f"unknown option --{next(iter(fields))}; python -m rmtkit {command} --help lists them")


def _overrides(arguments: list[str]) -> dict[str, str]:
    """Read --name=value or --name value. Raises: ValueError for anything else."""
    found, waiting = {}, list(arguments)
    while waiting:
        name, separator, value = waiting.pop(0).partition("=")
        if not name.startswith("--") or not (separator or waiting):
            raise ValueError(f"unexpected argument {name!r}; options are --NAME=VALUE")
        found[name.removeprefix("--")] = value if separator else waiting.pop(0)
    return found

"""Command line, python -m rmtkit COMMAND; --help lists the commands, COMMAND --help what it can be given."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rmtkit.babi.files import OFFICIAL_SIZES
from rmtkit.bench import BENCHMARKS, stream_once
from rmtkit.config import TASKS, Config, ConfigError, resolve
from rmtkit.export import Request, export_samples, export_story_file, export_story_folder, new_folder, parse_names
from rmtkit.formats import FORMATS
from rmtkit.launch import ChildError, evaluate_trained, train_and_test
from rmtkit.llm.command import add_llm
from rmtkit.parameters import describe_fields
from rmtkit.processes import is_main
from rmtkit.public import LENGTHS
from rmtkit.reference import resolve_trained
from rmtkit.runs import write_json
from rmtkit.sweep import EXECUTORS, Machine, grid, run_sweep

ANY_FIELD = "Any field of rmtkit.config.Config can be given as --NAME=VALUE."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a wrong value is one line on stderr and exit status 2, a check that fails is exit status 1.

    Of several processes (`rmtkit.launch`) the main one speaks.
    """
    parser = argparse.ArgumentParser(prog="python -m rmtkit", description="Recurrent Memory Transformers and BABILong")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_sweep(commands)
    _add_bench(commands)
    _add_stream(commands)
    _add_export(commands)
    _add_babi(commands)
    _add_convert(commands)
    _add_reference(commands)
    _add_report(commands)
    add_llm(commands)
    known, rest = parser.parse_known_args(arguments)
    try:
        result = known.run(known, _overrides(rest))
    except (ValueError, ChildError) as error:
        if is_main() or not isinstance(error, ConfigError):  # a ConfigError is that of every process
            print(f"rmtkit: {error}", file=sys.stderr)
        return 1 if isinstance(error, ChildError) else 2
    is_text = isinstance(result, str)
    if is_main():
        _show(result if is_text else json.dumps(result))
    return 1 if not is_text and result.get("failed") else 0


def _show(text: str) -> None:
    """Print a result; a reader that leaves early, such as `head`, has seen what it wanted."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python reports it once more at its end


def _add_train(commands) -> None:
    texts = {
        "train": "train, test at all lengths, write the run folder: notebook 02 without the notebook",
        "evaluate": "test a trained model at all lengths, by length and by depth of the facts: as notebook 03",
    }
    command = _add_with_fields(commands, "train", texts["train"])
    command.set_defaults(run=lambda known, fields: train_and_test(resolve(fields)))
    command = _add_with_fields(commands, "evaluate", texts["evaluate"])
    command.set_defaults(run=lambda known, fields: evaluate_trained(resolve_trained(fields)))


def _add_sweep(commands) -> None:
    command = _add_with_fields(commands, "sweep", "train and test on a grid of tasks, presets and seeds; one table")
    command.add_argument("--tasks", required=True, help="with commas between, such as qa1,qa2")
    command.add_argument("--presets", default="tiny", help="with commas between, such as tiny,paper")
    command.add_argument("--seeds", default="0", help="with commas between, such as 0,1,2")
    command.add_argument("--output", required=True, help="folder for notebooks, logs and the table")
    command.add_argument("--executor", default="local", help=", ".join(EXECUTORS))
    command.add_argument("--parallel", type=int, default=1, help="processes at the same time")
    command.add_argument("--gpus", type=int, help="of each process; local: an equal share if not given, slurm: none")
    command.add_argument("--cpus", type=int, help="of each process; local: an equal share if not given, slurm: 4")
    command.add_argument("--partition", help="of Slurm")
    command.add_argument("--minutes", type=int, default=24 * 60, help="of Slurm, for each process")
    command.set_defaults(run=_sweep)


def _sweep(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    names = ("executor", "parallel", "gpus", "cpus", "partition", "minutes")
    machine = Machine(**{name: getattr(known, name) for name in names})
    folder = Path(known.output).expanduser().absolute()
    return run_sweep(grid(known.tasks, known.presets, known.seeds, fields, folder), machine, folder)


def _add_with_fields(commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command that takes any field of `Config`, and list the fields in its help."""
    return commands.add_parser(
        name, help=text, description=f"{text}; the last line is JSON", epilog=describe_fields(Config),
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_bench(commands) -> None:
    command = commands.add_parser("bench", help="measure; the last line is JSON", epilog=ANY_FIELD)
    command.add_argument("name", choices=sorted(BENCHMARKS))
    command.add_argument("--num_stories", type=int, help="babi: generated stories of each task, 2000 if not given")
    command.add_argument("--output", help="babi: a CSV file for what was measured")
    command.add_argument("--size", help="train: narrow or small (GPT-2 small), both if not given")
    command.add_argument("--num_kills", type=int, help="resume: 20 if not given")
    command.add_argument("--num_tokens", type=int, help="memory: of the long sample, 1000000 if not given")
    command.set_defaults(run=_bench)


def _bench(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    benchmark = {
        "num_stories": "babi", "output": "babi", "size": "train", "num_kills": "resume", "num_tokens": "memory",
    }  # fmt: skip
    options = {name: getattr(known, name) for name in benchmark if getattr(known, name) is not None}
    for name in options:
        if benchmark[name] != known.name:
            raise ValueError(f"{name}: for bench {benchmark[name]} only, not for bench {known.name}")
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
    command.add_argument("--task", choices=TASKS, help="that it was trained for, which evaluate and notebooks ask for")
    command.set_defaults(run=_convert)


def _convert(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.memory.checkpoints import convert_authors_checkpoint

    _refuse(fields, "convert")
    with new_folder(Path(known.output).expanduser()) as folder:
        result = convert_authors_checkpoint(known.source, folder, known.backbone, segment_size=known.segment_size)
        trained = {"preset": "paper"} | ({"task": known.task} if known.task else {})
        write_json(folder / "result.json", {"config": trained})  # how it is asked: the layout of the authors
    return {"output": known.output, **result}


def _add_reference(commands) -> None:
    text = "make outputs/reference/NAME of finished runs, or add an evaluation to it"
    command = commands.add_parser("reference", help=text, description=text, epilog="--NAME=VALUE chooses an evaluation")
    command.add_argument("--name", required=True, help="such as qa1 or qa1-seed1")
    runs = "folder of a finished run; of a chain all, with commas between, the first or reference:NAME"
    command.add_argument("--run", dest="runs", default="", help=runs)
    command.add_argument("--variant", default="", help="what sets it apart from the task's first model")
    command.add_argument("--note", default="", help="what its runs do not tell of how it was made")
    command.add_argument("--evaluation", help='the "folder" that evaluate has printed')
    command.add_argument("--commands", action="store_true", help="print the commands that train it anew, nothing else")
    command.set_defaults(run=_reference)
    command = commands.add_parser("results", help="results.csv and results.png of the reference models' predictions")
    command.set_defaults(run=_results)


def _reference(known: argparse.Namespace, fields: dict[str, str]) -> dict | str:
    from rmtkit.continuation import commands_of
    from rmtkit.publishing import publish

    if known.commands:
        return "\n".join(commands_of(known.name))
    runs = [run for run in known.runs.split(",") if run]
    config = resolve(fields)
    wanted = {name: getattr(config, name) for name in fields}
    return publish(known.name, runs=runs, variant=known.variant, note=known.note,
                   evaluation=known.evaluation, wanted=wanted)  # fmt: skip


def _results(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.results import write_results

    _refuse(fields, "results")
    return write_results()


def _add_report(commands) -> None:
    text = "render a run (02; 03 and 04 if run), reference:NAME or an executed notebook to one HTML file without code"
    command = commands.add_parser("report", help=text, description=text, epilog=ANY_FIELD)
    command.add_argument("run_folder", metavar="RUN", help="a run folder, reference:NAME, or an .ipynb file")
    command.add_argument("--output", help="else RUN/report.html, outputs/reference/html/NAME.html or NOTEBOOK.html")
    command.add_argument("--notebooks", help="such as 02_train,04_memory_attention; those that have run if not given")
    command.set_defaults(run=_report)


def _report(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.report import WRITES, write_report

    names = parse_names("notebook", known.notebooks, list(WRITES)) if known.notebooks else ()
    resolve(fields)
    return write_report(known.run_folder, known.output, notebooks=names, overrides=fields)


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

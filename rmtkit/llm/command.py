"""python -m rmtkit llm run|export|table|submit: an evaluation of a language model without the notebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmtkit.intervals import in_percent
from rmtkit.llm.settings import LLMSettings, resolve_llm
from rmtkit.parameters import ConfigError, describe_fields


def add_llm(commands) -> None:
    """Add the command to those of `rmtkit.cli`."""
    text = "evaluate any language model on BABILong: local, at a server, or ours"
    command = commands.add_parser("llm", help=text, description=text, allow_abbrev=False)
    parts = command.add_subparsers(dest="part", required=True)
    _add_run(parts)
    _add_export(parts)
    _add_table(parts)
    _add_submit(parts)


def _add_run(parts) -> None:
    text = "ask a model, its baselines and recurrent models the same questions; what is there is gone on with"
    _add_with_fields(parts, "run", text).set_defaults(run=_run)


def _run(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.llm.run import run_llm
    from rmtkit.runs import read_json

    folder = run_llm(resolve_llm(fields))
    result = read_json(folder / "result.json")
    return {"folder": str(folder), **{name: value for name, value in result.items() if name != "settings"}}


def _add_export(parts) -> None:
    text = "write the questions and prompts as tasks for lm_eval, whose backends (vLLM and others) then answer them"
    command = _add_with_fields(parts, "export", text)
    command.add_argument("--output", required=True, help="a folder that does not exist yet")
    command.set_defaults(run=_export)


def _export(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.llm.harness import export_harness_tasks
    from rmtkit.llm.opening import build_cases, make_style, open_cells, open_own_tokenizer

    settings = resolve_llm(fields)
    cells, tokenizer = open_cells(settings), open_own_tokenizer(settings)
    style = make_style(settings, has_template=bool(getattr(tokenizer, "chat_template", True)))
    cases = [case for cell in cells for case in build_cases(settings, cell, style, tokenizer=tokenizer)]
    manifest = export_harness_tasks(cases, known.output, style=style)
    return {"output": known.output, "num_cases": len(cases), "tasks": [task["name"] for task in manifest["tasks"]]}


def _add_table(parts) -> None:
    text = "print accuracy by task and length of an evaluation, with n and interval; the last line is JSON"
    command = parts.add_parser("table", help=text, description=text)
    command.add_argument("folder", metavar="FOLDER", help='the "folder" that run has printed')
    command.set_defaults(run=_table)


def _table(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.llm.predictions import read_predictions
    from rmtkit.llm.tables import accuracy_table

    _refuse(fields, "table")
    predictions = read_predictions(known.folder)
    print(table_text(accuracy_table(predictions)))
    return {"folder": known.folder, "num_predictions": len(predictions), "models": _models(predictions)}


def table_text(table) -> str:
    """Return accuracies as text: a block for each model and rule, a row for each task, a column for each length."""
    blocks = []
    for (model, rule), rows in table.groupby(["model", "rule"], sort=False):
        shown = rows.assign(cell=[_cell_text(row) for row in rows.itertuples()])
        wide = shown.pivot(index="task", columns="length", values="cell")
        order = {name: list(dict.fromkeys(rows[name])) for name in ("task", "length")}
        wide = wide.loc[order["task"], order["length"]].fillna("-").rename_axis(index=None, columns=None)
        blocks.append(f"{model}, % right by {rule} [95 % interval]\n{wide.to_string()}")
    return "\n\n".join(blocks)


def _cell_text(row) -> str:
    failed = f" failed={row.failed}" if row.failed else ""
    return f"{in_percent(row.accuracy, row.low, row.high)} n={row.n}{failed}"


def _add_submit(parts) -> None:
    text = "write a model's answers in the benchmark's own file layout, for a pull request to its leaderboard"
    command = parts.add_parser("submit", help=text, description=text)
    command.add_argument("folder", metavar="FOLDER", help='the "folder" that run has printed')
    command.add_argument("--output", required=True, help="the folder that babilong_evals is made in")
    command.add_argument("--model", required=True, help="as the leaderboard shall name it: organisation/name")
    command.add_argument("--of", help="whose answers, as the table names it; the model that was evaluated if not given")
    command.add_argument("--allow_partial", action="store_true", help="also write what is not finished")
    command.set_defaults(run=_submit)


def _submit(known: argparse.Namespace, fields: dict[str, str]) -> dict:
    from rmtkit.llm.leaderboard import evaluated, write_leaderboard_files
    from rmtkit.llm.predictions import read_predictions

    _refuse(fields, "submit")
    predictions, about = read_predictions(known.folder), evaluated(known.folder, known.of)
    rows = predictions[predictions["model"] == about.pop("name")]
    output = Path(known.output).expanduser()
    written = write_leaderboard_files(rows, output, model=known.model, allow_partial=known.allow_partial, **about)
    return {"output": known.output, "model": known.model, "num_files": 2 * len(written), "n": int(written["n"].sum())}


def _models(predictions) -> list[str]:
    return list(dict.fromkeys(predictions["model"]))


def _add_with_fields(parts, name: str, text: str) -> argparse.ArgumentParser:
    """Add a part that takes any field of `LLMSettings`, and list the fields in its help."""
    return parts.add_parser(
        name, help=text, description=f"{text}; the last line is JSON", epilog=describe_fields(LLMSettings),
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _refuse(fields: dict[str, str], part: str) -> None:
    if fields:
        raise ConfigError(f"unknown option --{next(iter(fields))}; python -m rmtkit llm {part} --help lists them")

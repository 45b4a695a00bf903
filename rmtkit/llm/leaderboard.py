"""Predictions in the layout of the benchmark's leaderboard: written for a pull request, read and scored by our rules.

    babilong_evals/ORG/MODEL/qa1_4k_instruction_yes_examples_yes_post_prompt_yes_chat_template_no.csv   the answers
    babilong_evals/ORG/MODEL/qa1_4k_instruction_yes_examples_yes_post_prompt_yes_chat_template_no.json  how they came

A CSV has the columns target, output and question behind the number of the sample; the JSON has the prompt, the
settings of generation, and beside what the benchmark writes: num_samples, data, and failures.

A failure is written as an empty output, which no scoring rule takes for right, and under "failures" in the JSON by the
number of its sample, so that it can be told from an answer without text. Failures that are not the model's doing (a
lost connection, a server's error, time that ran out) leave a cell unfinished: it is refused like one that lacks
samples.

Source: scripts/run_model_on_babilong.py and babilong/collect_results.py of booydar/babilong; 2406.10149.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rmtkit.llm.cases import FAILURES, Case
from rmtkit.llm.predictions import FOLDER as PREDICTIONS
from rmtkit.llm.tables import in_order, with_outcomes
from rmtkit.parameters import ConfigError
from rmtkit.runs import read_json, write_json, write_text
from rmtkit.scoring import check_rule, score

if TYPE_CHECKING:
    from rmtkit.llm.prompts import PromptStyle

FOLDER = "babilong_evals"
OF_THE_MODEL = ("too_long", "refused", "empty")  # failures that asking again does not mend
GREEDY = {"num_beams": 1, "do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": 20}
FILE = re.compile(r"(?P<task>qa\d+)_(?P<length>\d+[kM])_(?P<style>[a-z_]+_(?:yes|no))")
MODEL = re.compile(r"[\w][\w.+\- ]*/[\w][\w.+\- ]*")
READ = ["model", "task", "length", "index", "target", "output", "question", "failure", "is_correct", "rule", "style"]


def write_leaderboard_files(predictions: pd.DataFrame, folder: Path, *, model: str, style: PromptStyle,
                            num_samples: int | Mapping[tuple[str, str], int] | None = None, data: str = "",
                            generate_kwargs: dict | None = None,
                            allow_partial: bool = False) -> pd.DataFrame:  # fmt: skip
    """Write the predictions of one model as the leaderboard takes them, a CSV and a JSON for each task and length.

    Nothing is written before all cells are checked; each file is whole or not there.

    Args:    predictions: of one model;  folder: that `babilong_evals` is made in;  model: "organisation/name";
             style: of the prompts;  data: what the samples are, such as "RMT-team/babilong-1k-samples";
             num_samples: that each cell has when it is whole, or (task, length) -> that number; None: as many as the
             largest cell has;  generate_kwargs: of the model's answers, None: greedy, 20 new tokens;
             allow_partial: write unfinished cells as well.
    Returns: a row per cell: task, length, n, failed, file (below the folder).
    Raises:  ValueError if predictions are of several models, the name is not of this form, or a cell is unfinished.
    Trap:    the leaderboard compares answers to the public sets; samples generated here are others.
    """
    if not MODEL.fullmatch(model):
        raise ValueError(f"model is {model!r}; expected organisation/name, such as HuggingFaceTB/SmolLM2-135M-Instruct")
    if "model" in predictions and predictions["model"].nunique() > 1:
        names = ", ".join(map(str, predictions["model"].unique()))
        raise ValueError(f"the predictions are of {names}; give those of one model")
    rows = in_order(with_outcomes(predictions).sort_values("index", kind="stable"))
    cells = list(rows.groupby(["task", "length"], sort=False))
    for task, length in (name for name, _ in cells):
        if not FILE.fullmatch(f"{task}_{length}_{style_name(style)}"):
            raise ValueError(f"the benchmark has no task {task!r} at length {length!r}; leave its rows out")
    if not allow_partial:
        _check_whole(cells, num_samples)
    place, written = Path(folder) / FOLDER / model, []
    place.mkdir(parents=True, exist_ok=True)
    for (task, length), cell in cells:
        name = f"{task}_{length}_{style_name(style)}"
        failures = {str(row.index): row.outcome for row in cell[["index", "outcome"]].itertuples(index=False)
                    if row.outcome in FAILURES}  # fmt: skip
        about = {"prompt": prompt_settings(task, length, style), "generate_kwargs": generate_kwargs or GREEDY,
                 "num_samples": len(cell), "data": data, "failures": failures}  # fmt: skip
        write_json(place / f"{name}.json", about)  # first: a CSV never stands without it
        write_text(place / f"{name}.csv", _as_csv(cell))
        written.append({"task": task, "length": length, "n": len(cell), "failed": len(failures),
                        "file": f"{FOLDER}/{model}/{name}.csv"})  # fmt: skip
    return pd.DataFrame(written, columns=["task", "length", "n", "failed", "file"])


def style_name(style: PromptStyle) -> str:
    """Return the part of a file's name that says what the prompt had: instruction_yes_examples_no and so on."""
    parts = {name: getattr(style, name) for name in ("instruction", "examples", "post_prompt", "chat_template")}
    if style.system_prompt:
        parts["system_prompt"] = True
    return "_".join(f"{name}_{'yes' if is_there else 'no'}" for name, is_there in parts.items())


def prompt_settings(task: str, length: str, style: PromptStyle) -> dict:
    """Return how a task was asked: the switches of the style, and the prompt with {context} and {question} in it."""
    from rmtkit.llm.prompts import make_prompt

    prompt = make_prompt(Case(task, length, 0, "{context}", "{question}", ""), style)
    switches = {name: getattr(style, name) for name in ("instruction", "examples", "post_prompt", "chat_template")}
    return {"prompts": style.prompts, **switches, "template": prompt.text, "system_prompt": style.system_prompt or ""}


def _check_whole(cells: list, num_samples: int | Mapping[tuple[str, str], int] | None) -> None:
    """Raise ValueError if a cell lacks samples, or answers that asking again may give."""
    largest = max((len(cell) for _, cell in cells), default=0)
    for (task, length), cell in cells:
        wanted = num_samples.get((task, length), largest) if isinstance(num_samples, Mapping) else num_samples
        wanted = largest if wanted is None else wanted
        numbers, unanswered = set(cell["index"]), cell["outcome"].isin(set(FAILURES) - set(OF_THE_MODEL)).sum()
        if numbers != set(range(wanted)):
            lacks = f"has {len(numbers)} samples of {wanted}"
        elif unanswered:
            reasons = ", ".join(sorted(set(cell["outcome"]) - {"right", "wrong", *OF_THE_MODEL}))
            lacks = f"has {unanswered} of {wanted} samples without an answer ({reasons})"
        else:
            continue
        raise ValueError(f"{task} at {length} {lacks}; finish the evaluation, or say allow_partial=True")


def _as_csv(cell: pd.DataFrame) -> str:
    """Return the text of a file: a row per sample, by its number; nothing where there is no answer."""
    table = cell.set_index("index")[["target", "output", "question"]].astype(object)
    table["output"] = table["output"].where(~cell.set_index("index")["outcome"].isin(FAILURES), "")
    table = table.map(lambda text: "" if pd.isna(text) else str(text))
    return "\n".join([_line(("", *table.columns)), *map(_line, table.itertuples()), ""])


def _line(values) -> str:
    """Return a line of a CSV, without its end: the writer quotes what is in the end of its lines, a lone "\\r" too."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(values)
    return file.getvalue()[:-2]


def evaluated(folder: Path, name: str | None = None) -> dict:
    """Return what an evaluation has to hand in: arguments of `write_leaderboard_files`, and the model's name.

    Args:    folder: of `rmtkit.llm.run.run_llm`;  name: a model as its predictions have it; None: the one that was
             evaluated, alone, not one that it was compared with.
    Returns: name, style, num_samples ((task, length) -> asked), data and generate_kwargs.
    Raises:  ConfigError if there is no prediction of it.
    """
    from rmtkit.llm.prompts import PromptStyle

    folder = Path(folder).expanduser()
    records = [read_json(path) for path in sorted((folder / PREDICTIONS).glob("*.json"))]
    if name is None and (folder / "config.json").is_file():
        name = read_json(folder / "config.json").get("model")
    mine = [record for record in records if record["model"] == name]
    if not mine:
        there = ", ".join(dict.fromkeys(record["model"] for record in records)) or "none"
        raise ConfigError(f"{folder} has no predictions of {name!r}; there are those of: {there}")
    what = mine[0]["what"]
    source = str(what.get("source", ""))
    return {
        "name": name, "style": PromptStyle(**what["prompts"]),
        "num_samples": {(record["task"], record["length"]): record["num_asked"] for record in mine},
        "data": Path(source).name if Path(source).expanduser().exists() else source,  # no folders of this machine
        "generate_kwargs": {**GREEDY, "max_new_tokens": what.get("max_answer_tokens", GREEDY["max_new_tokens"])},
    }  # fmt: skip


def leaderboard_name(name: str, organisation: str = "local") -> str:
    """Return "organisation/name" for a model's name, as `write_leaderboard_files` takes it; one that has it stays."""
    owner, _, rest = name.rpartition("/")
    parts = [re.sub(r"[^\w.+\- ]+", "-", part).strip("-. ") for part in (owner or organisation, rest)]
    return "/".join(part or "model" for part in parts)


# ---------------------------------------------------------------------- reading


def read_leaderboard_files(folder: Path, *, rule: str = "babilong_labels") -> pd.DataFrame:
    """Read predictions in the leaderboard's layout, ours or the authors' own, and score them by a rule of ours.

    Args:    folder: one that holds `babilong_evals`, this itself, an organisation's or a model's below it;
             rule: a name in `rmtkit.scoring.SCORING_RULES`.
    Returns: a row per sample, `READ`: predictions that `rmtkit.llm.tables` counts. failure is None where the JSON
             names none. Where a model has files of several styles its name says which: "org/model (instruction no ..".
    Raises:  ValueError if there is no such rule, no file, or a file lacks a column or has a task without labels.
    Trap:    files whose names are not of the layout are passed over (the authors' folder has a "... copy.csv").
    """
    check_rule(rule)
    files = [(path, FILE.fullmatch(path.stem)) for path in sorted(Path(folder).rglob("*.csv"))]
    parts = [_read_file(path, name, Path(folder), rule) for path, name in files if name]
    if not parts:
        example = f"{FOLDER}/ORG/MODEL/qa1_4k_instruction_yes_examples_yes_post_prompt_yes_chat_template_no.csv"
        raise ValueError(f"{str(folder)!r} has no predictions of the leaderboard's layout, such as {example}")
    table = pd.concat(parts, ignore_index=True)
    has_several = table.groupby("model")["style"].transform("nunique") > 1
    named = table["model"] + " (" + table["style"].str.replace(r"_(yes|no)_?", r" \1 ", regex=True).str.strip() + ")"
    return in_order(table.assign(model=table["model"].where(~has_several, named))[READ])


def _read_file(path: Path, name: re.Match, folder: Path, rule: str) -> pd.DataFrame:
    """Return the scored rows of one file."""
    try:
        table = pd.read_csv(io.StringIO(path.read_bytes().decode("utf-8")), dtype=str, keep_default_na=False)
        numbers = [int(number) for number in table.get("Unnamed: 0", range(len(table)))]
    except ValueError as error:  # of UTF-8 and of pandas, too
        raise ValueError(f"cannot read {path}: {error}") from None
    missing = [column for column in ("target", "output", "question") if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; expected target, output, question")
    failures = _failures(path.with_suffix(".json"))
    task, about = name["task"], {"model": _model_of(path, folder), "rule": rule, "style": name["style"]}
    answers = zip(table["output"], table["question"], table["target"], strict=True)
    scored = [score(rule, said, question=asked, target=target, task=task) for said, asked, target in answers]
    table = table.assign(
        **about, task=task, length=name["length"], index=numbers, is_correct=scored,
        failure=pd.Series([failures.get(number) for number in numbers], index=table.index, dtype=object),
    )  # fmt: skip
    return table


def _failures(path: Path) -> dict[int, str]:
    """Return the failures that a JSON names, by the number of the sample; none if there is no such file or entry."""
    try:
        found = read_json(path).get("failures", {}) if path.is_file() else {}
        return {int(number): reason for number, reason in found.items()}
    except (AttributeError, json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _model_of(path: Path, folder: Path) -> str:
    """Return "org/model" of a file: the folders below babilong_evals, or else the last two."""
    parents = path.resolve().parent.parts
    if FOLDER in parents:
        return "/".join(parents[len(parents) - parents[::-1].index(FOLDER) :]) or path.parent.name
    below = path.parent.relative_to(folder).parts
    return "/".join(below) or "/".join(parents[-2:])

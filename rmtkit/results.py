"""The results of the reference models, rebuilt from the predictions that lie beside each: table and figure.

`python -m rmtkit results` scores every prediction in outputs/reference/*/evaluation again and writes results.csv and
results.png. Published numbers are drawn beside ours, never mixed with them; each series is of one source, or of two
that are named in `SERIES`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rmtkit.lengths import LENGTHS
from rmtkit.reference import REFERENCE
from rmtkit.runs import read_json

COLUMNS = ["task", "variant", "seed", "length", "tokens", "n", "correct", "low", "high", "run"]
RULE = "exact_match"
RMT = "arXiv:2402.10790 (authors' log)"
TABLE_1, TABLE_4 = "arXiv:2407.04841 Table 1", "arXiv:2406.10149 Table 4"
SERIES = {  # name -> (source, model) of published_accuracy.csv; the second only at lengths that the first lacks
    "RMT": [(RMT, "RMT gpt2")],
    "RMT-R": [(TABLE_1, "RMT-R gpt2")],
    "ARMT": [(TABLE_1, "ARMT gpt2"), (TABLE_4, "ARMT gpt2")],
    "Mamba": [(TABLE_1, "Mamba-130M fine-tuned"), (TABLE_4, "Mamba-130M fine-tuned")],
    "GPT-4": [(TABLE_4, "gpt-4-0125-preview")],
    "Gemini 1.5 Pro": [(TABLE_4, "Gemini-1.5-Pro-002")],
}
SOURCES = (
    "Published: RMT arXiv:2402.10790, authors' log, trained to 32 (qa1: 64) segments of 512 tokens; RMT-R, ARMT, Mamba "
    "2407.04841 table 1,\nat other lengths 2406.10149 table 4; GPT-4, Gemini 2406.10149 table 4. Backbones, tokenizers "
    "and background differ from ours."
)
RMT_SEGMENTS = {"qa1": 64}  # that the authors' RMT was trained on; 32 in all other tasks


def results_table(reference: Path = REFERENCE) -> pd.DataFrame:
    """Score the predictions of every reference model and return a row per model and length: `COLUMNS`.

    Returns: tokens: of a prompt (the mean, where they differ);  correct: of n;  low, high: Wilson interval, 95 %.
    Raises:  ValueError if a file says of an answer something else than the rule.
    """
    rows = []
    for path in sorted(reference.glob("*/recipe.json")):
        recipe = read_json(path)
        for length in LENGTHS:
            file = path.parent / "evaluation" / f"{length}.csv"
            if file.is_file():
                about = {"task": recipe["task"], "variant": recipe["variant"], "seed": recipe["seed"], "length": length}
                rows.append({**about, **_score_again(file), "run": f"outputs/reference/{path.parent.name}"})
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = table.assign(number=table["task"].map(_task_number), place=table["length"].map(LENGTHS.index))
    return table.loc[order.sort_values(["number", "variant", "seed", "run", "place"]).index].reset_index(drop=True)


def _task_number(task: str) -> int:
    return int(task.removeprefix("qa"))


def _score_again(file: Path) -> dict:
    """Return tokens, n, correct and the interval of one file of predictions."""
    from rmtkit.intervals import wilson_interval
    from rmtkit.scoring import score

    records = pd.read_csv(file, keep_default_na=False)
    if set(records["rule"]) != {RULE}:
        raise ValueError(f"{file} is scored by {', '.join(sorted(set(records['rule'])))}; results are by {RULE}")
    answers = zip(records["prediction"], records["target"], records["task"], strict=True)
    scored = [score(RULE, str(said), question="", target=str(target), task=task) for said, target, task in answers]
    if scored != records["is_correct"].tolist():
        raise ValueError(f"{file}: is_correct is not what {RULE} says of prediction and target")
    low, high = wilson_interval(sum(scored), len(scored))
    counts = {"n": len(scored), "correct": sum(scored), "low": round(low, 4), "high": round(high, 4)}
    return {"tokens": round(records["num_tokens"].mean()), **counts}


def published_table(reference: Path = REFERENCE) -> pd.DataFrame:
    """Return all published accuracies: source, model, variant, task, length, segments, accuracy (%), std, n."""
    return pd.read_csv(reference / "published_accuracy.csv")


def published_accuracy(task: str) -> pd.DataFrame:
    """Return the authors' own RMT results on a task, as they logged them, to show beside ours."""
    table = published_table()
    return table[(table["source"] == RMT) & table["model"].str.startswith("RMT") & (table["task"] == task)]


def published_series(reference: Path = REFERENCE) -> pd.DataFrame:
    """Return one published curve per task and method, as `SERIES` says: task, series, length, accuracy in per cent."""
    table = published_table(reference).replace({"length": {"500k": "512k"}})
    parts = [_one_source(table, name, *source) for name, sources in SERIES.items() for source in sources]
    return pd.concat(parts).drop_duplicates(["task", "series", "length"])


def _one_source(table: pd.DataFrame, name: str, source: str, model: str) -> pd.DataFrame:
    rows = table[(table["source"] == source) & (table["model"] == model)]
    if source == RMT:
        trained = rows["task"].map(lambda task: f"trained to {RMT_SEGMENTS.get(task, 32)} segments; question last")
        rows = rows[rows["variant"] == trained]
    return rows.assign(series=name)[["task", "series", "length", "accuracy"]]


def named_results(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows of `results_table` with the curve that each belongs to, in the column `name`, and its accuracy.

    The first model of a task is "rmtkit": that of the folder outputs/reference/TASK, or else of the lowest seed. Others
    are called by their variant, without one (another seed) by their folder: "rmtkit, qa1-seed1".
    """
    firsts = {task: _first_run(rows) for task, rows in table[table["variant"] == ""].groupby("task")}
    parts = []
    for (task, variant, run), rows in table.groupby(["task", "variant", "run"], sort=False):
        is_first = run == firsts.get(task)
        name = "rmtkit" if is_first else f"rmtkit, {variant or Path(run).name}"
        parts.append((not is_first, variant == "", rows.assign(name=name, accuracy=rows["correct"] / rows["n"])))
    return pd.concat([rows for _, _, rows in sorted(parts, key=lambda part: part[:2])], ignore_index=True)


def _first_run(rows: pd.DataFrame) -> str:
    runs = rows.sort_values("seed")["run"].tolist()
    return next((run for run in runs if run.endswith(f"/{rows['task'].iloc[0]}")), runs[0])


def write_results(reference: Path = REFERENCE) -> dict:
    """Write results.csv and results.png; return their paths and the number of rows."""
    from rmtkit.plotting import plot_results

    table = results_table(reference)
    if table.empty:
        raise ValueError(f"no reference model in {reference} has predictions; python -m rmtkit reference adds them")
    table.to_csv(reference / "results.csv", index=False)
    trained = {row.task: read_json(reference / Path(row.run).name / "recipe.json").get("trained_tokens", 0)
               for row in named_results(table).drop_duplicates("task").itertuples()}  # fmt: skip
    figure = plot_results(named_results(table), published_series(), trained=trained, caption=SOURCES)
    figure.savefig(reference / "results.png", dpi=100)
    return {"table": str(reference / "results.csv"), "figure": str(reference / "results.png"), "num_rows": len(table)}

"""Predictions of language models, counted: by model, task and length, as the benchmark lays it out, beside published.

A failure (`rmtkit.llm.cases.FAILURES`) is no answer, and so it is neither right nor wrong. It can be read in two ways,
which figure 6 of 2406.10149 shows for Gemini 1.5 Pro:

| of | n | a failure |
|---|---|---|
| asked | all questions that were asked | lowers accuracy, as on the leaderboard; the headline |
| answered | those that were answered | is left out: how good the answers are, where there are any |

Both keep the number of failures beside. Kuratov et al. 2024 (2406.10149, table 4): rows are tasks, columns lengths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rmtkit.intervals import wilson_interval
from rmtkit.lengths import length_size
from rmtkit.llm.cases import FAILURES
from rmtkit.reference import REFERENCE

READINGS = ("asked", "answered")
CELL = ["model", "task", "length", "rule"]  # what an accuracy is of
COLUMNS = ["model", "task", "length", "n", "correct", "failed", "accuracy", "low", "high", "rule", "of"]
AVERAGED = ("qa1", "qa2", "qa3", "qa4", "qa5")  # the tasks of the benchmark's average
AVERAGE = "avg"
OURS = "this evaluation"  # the source of our numbers
OUTCOMES = ("right", "wrong", *FAILURES)


def accuracy_table(predictions: pd.DataFrame, *, of: str = "asked") -> pd.DataFrame:
    """Count the predictions of each model, task and length.

    Args:    predictions: a row per question asked, with model, task, length, rule, failure (None: it was answered) and
             is_correct;  of: "asked" or "answered", see above.
    Returns: a row per model, task and length: `COLUMNS`. n is what accuracy (0..1) and its 95 % Wilson interval (low,
             high) are of; failed is how many of those asked have no answer. A cell without any answer has accuracy NaN
             of those answered.
    Raises:  ValueError for another reading, if a column is missing, or a question of a model is there twice.
    """
    if of not in READINGS:
        raise ValueError(f"of is {of!r}; allowed: {', '.join(READINGS)}")
    groups = with_outcomes(predictions).groupby(CELL, sort=False, dropna=False)["outcome"]
    counts = groups.agg(
        n="size", correct=lambda found: (found == "right").sum(), failed=lambda found: found.isin(FAILURES).sum()
    ).reset_index()
    if of == "answered":
        counts["n"] -= counts["failed"]
    return in_order(_with_shares(counts).assign(of=of)[COLUMNS])


def with_outcomes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions with a column outcome: one of `OUTCOMES`, right, wrong or why there is no answer.

    Raises: ValueError as `accuracy_table`, or for a failure that is not in `FAILURES`.
    """
    missing = [name for name in (*CELL, "failure", "is_correct") if name not in predictions]
    if missing:
        raise ValueError(f"the predictions have no column {', '.join(missing)}; columns: {', '.join(predictions)}")
    if "index" in predictions and predictions.duplicated([*CELL, "index"]).any():
        twice = predictions[predictions.duplicated([*CELL, "index"])].iloc[0]
        raise ValueError(
            f"sample {twice['index']} of {twice['task']} at {twice['length']} is there twice for {twice['model']}; "
            "give each prediction once"
        )
    failures = predictions["failure"].astype(object)
    failures = failures.where(failures.notna(), "")
    unknown = set(failures) - {"", *FAILURES}
    if unknown:
        raise ValueError(f"failure {', '.join(sorted(unknown))} does not exist; allowed: {', '.join(FAILURES)}")
    judged = predictions["is_correct"].eq(True).map({True: "right", False: "wrong"})
    return predictions.assign(outcome=failures.where(failures != "", judged))


def outcome_table(predictions: pd.DataFrame, by: Sequence[str] = ("model", "length")) -> pd.DataFrame:
    """Count right answers, wrong ones and failures by reason (2406.10149, figure 6).

    Returns: a row per group and outcome that occurs anywhere: the columns of `by`, outcome, count, n (asked), share of
             those asked (0..1) and its 95 % Wilson interval (low, high).
    """
    rows, by = with_outcomes(predictions), list(by)
    seen = [outcome for outcome in OUTCOMES if (rows["outcome"] == outcome).any()]
    table = pd.DataFrame(
        {**dict(zip(by, name, strict=True)), "outcome": outcome, "correct": int((cell == outcome).sum()),
         "n": len(cell)}
        for name, cell in rows.groupby(by, sort=False)["outcome"]
        for outcome in seen
    )  # fmt: skip
    return in_order(_with_shares(table).rename(columns={"correct": "count", "accuracy": "share"}))


def recall_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the recall of supporting facts: the share of a sample's supporting facts that retrieval kept.

    Returns: a row per model, task and length of which recall is known: n (samples), recall (mean, 0..1), low, high.
    Trap:    the interval is Wilson's, as if a sample had all of its supporting facts or none. Where it can have a part
             of them (qa2, qa3) it is rather too wide.
    """
    predictions = predictions if "recall" in predictions else predictions.assign(recall=math.nan)
    known = predictions[predictions["recall"].notna()]
    cells = known.groupby(["model", "task", "length"], sort=False)["recall"]
    rows = [{"model": model, "task": task, "length": length, "n": len(cell), "recall": float(cell.mean())}
            for (model, task, length), cell in cells]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "task", "length", "n", "recall"])
    intervals = [_interval(row.recall * row.n, row.n) for row in table.itertuples()]
    table["low"], table["high"] = [low for low, _ in intervals], [high for _, high in intervals]
    return in_order(table)


def average_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over qa1 to qa5, as task "avg", of each model and length where none of the five is missing.

    Args:    table: of `accuracy_table` or `with_published`.
    Returns: the same columns; n, correct and failed are sums. The interval is Wilson's for the mean as a share of n.
    """
    by = [name for name in ("model", "variant", "source", "is_ours", "rule", "of", "length") if name in table]
    rows = []
    for name, cell in table[table["task"].isin(AVERAGED)].groupby(by, sort=False, dropna=False):
        if len(cell) == len(AVERAGED) and cell["accuracy"].notna().all():
            mean, sums = cell["accuracy"].mean(), cell[["n", "correct", "failed"]].sum(skipna=False)
            low, high = (math.nan, math.nan) if pd.isna(sums["n"]) else _interval(mean * sums["n"], sums["n"])
            low, high = (low, high) if cell["low"].notna().all() else (math.nan, math.nan)
            shares = {"task": AVERAGE, "accuracy": mean, "low": low, "high": high}
            rows.append({**dict(zip(by, name, strict=True)), **sums.to_dict(), **shares})
    return pd.DataFrame(rows, columns=table.columns).astype({name: table[name].dtype for name in ("n", "failed")})


def wide_table(table: pd.DataFrame, *, missing: str = "-") -> pd.DataFrame:
    """Lay accuracy out as the benchmark does: tasks by lengths, whole per cent, their average below.

    Args:    table: of `accuracy_table`;  missing: what stands in a cell without a number.
    Returns: a row per task, or per model and task where there are several models; "avg" is the mean over qa1 to qa5,
             in the columns where none of them is missing; there is no such row if there is no such column.
    Raises:  ValueError if answers are scored by several rules.
    Trap:    99.6 is shown as 100, as on the leaderboard.
    """
    check_one_rule(table)
    both = in_order(pd.concat([table, average_table(table)], ignore_index=True))
    index = ["task"] if table["model"].nunique() == 1 else ["model", "task"]
    wide = both.pivot(index=index, columns="length", values="accuracy")
    rows = both[index].drop_duplicates()
    order = rows["task"] if len(index) == 1 else pd.MultiIndex.from_frame(rows)
    wide = wide.reindex(index=order, columns=sorted(both["length"].unique(), key=length_size))
    return wide.map(lambda share: missing if pd.isna(share) else round(100 * share))


def check_one_rule(table: pd.DataFrame) -> None:
    """Raise ValueError if answers are scored by several rules: such numbers cannot stand side by side."""
    if table["rule"].nunique() > 1:
        raise ValueError(f"scored by {', '.join(table['rule'].unique())}; give the rows of one rule")


# ---------------------------------------------------------------------- beside published models


def with_published(table: pd.DataFrame, reference: Path = REFERENCE) -> pd.DataFrame:
    """Return our accuracies and the published ones of the same tasks in one table; `is_ours` tells them apart.

    Args:    table: of `accuracy_table`;  reference: the folder of published_accuracy.csv.
    Returns: `COLUMNS`, is_ours, variant (how a published model was made, "" for ours) and source. Of published rows
             n is NA where it is not given, interval, correct and failed are not known, and the rule is "as published".
    Trap:    lengths are tokens of GPT-2 there and of each model here; backgrounds and prompts may differ, too.
    """
    from rmtkit.results import published_table

    columns = [*COLUMNS, "is_ours", "variant", "source"]
    counts = {"n": "Int64", "correct": "Int64", "failed": "Int64"}
    ours = table.assign(is_ours=True, variant="", source=OURS)[columns].astype(counts)
    published = published_table(reference).replace({"length": {"500k": "512k"}})
    published = published[published["task"].isin(table["task"])]
    published = published.assign(
        is_ours=False, accuracy=published["accuracy"] / 100, variant=published["variant"].fillna(""), low=math.nan,
        high=math.nan, correct=pd.NA, failed=pd.NA, rule="as published", of="",
    )[columns].astype(counts)  # fmt: skip
    return pd.concat([ours, in_order(published)], ignore_index=True)


def leaderboard_table(combined: pd.DataFrame, *, task: str | None = None) -> pd.DataFrame:
    """Return a row per model, ours marked "ours", whole per cent at each of our lengths; the highest mean first.

    Args: combined: of `with_published`;  task: one of its tasks, or "avg": the mean over qa1 to qa5, of models that
          have all five; None: "avg" if one of ours has it, else our first task.
    """
    if task is None:
        ours = combined[combined["is_ours"]]
        task = ours["task"].iloc[0] if average_table(ours).empty else AVERAGE
    lengths = sorted(combined.loc[combined["is_ours"], "length"].unique(), key=length_size)
    rows = average_table(combined) if task == AVERAGE else combined[combined["task"] == task]
    rows = rows[rows["length"].isin(lengths)]
    found = []
    for (is_ours, model, variant, source), cells in rows.groupby(["is_ours", "model", "variant", "source"], sort=False):
        shares = cells.set_index("length")["accuracy"].reindex(lengths)
        shown = {name: "-" if pd.isna(share) else round(100 * share) for name, share in shares.items()}
        name = f"{model}, {variant}" if variant else model
        about = {
            "": "ours" if is_ours else "",
            "task": task,
            "model": name,
            **shown,
            "n": _counted(cells["n"]),
            "source": source,
        }
        found.append((-shares.mean() if shares.notna().any() else 1.0, about))
    columns = ["", "task", "model", *lengths, "n", "source"]
    return pd.DataFrame([about for _, about in sorted(found, key=lambda pair: pair[0])], columns=columns)


def _counted(n: pd.Series) -> str:
    """Write 100, "25-100" where lengths differ, "-" where it is not given."""
    low, high = n.min(), n.max()
    return "-" if pd.isna(low) else f"{low:,}" if low == high else f"{low:,}-{high:,}"


# ---------------------------------------------------------------------- order, intervals


def with_first(predictions: pd.DataFrame, model: str) -> pd.DataFrame:
    """Put the rows of one model first, then those of the same after retrieval ("MODEL + ..."), then all others."""
    names = predictions["model"].astype(str)
    place = 2 - names.str.startswith(f"{model} + ") - 2 * (names == model)
    return predictions.loc[place.sort_values(kind="stable").index].reset_index(drop=True)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by model (as they come), task (by number, "avg" last) and length; keep the order of all else."""
    models = list(dict.fromkeys(table["model"])) if "model" in table else []
    keys = {"model": models.index, "task": task_number, "length": length_size}
    by = [name for name in keys if name in table]
    places = pd.DataFrame({name: table[name].map(keys[name]) for name in by}, index=table.index)
    return table.loc[places.sort_values(by, kind="stable").index].reset_index(drop=True)


def task_number(task: str) -> float:
    """Return the number of a bAbI task; names of other kinds stand behind them, the average last."""
    found = re.fullmatch(r"qa(\d+)", str(task))
    return int(found[1]) if found else math.inf if task == AVERAGE else 10**6


def model_kinds(predictions: pd.DataFrame, model: str) -> dict[str, str]:
    """Return what each model of an evaluation is, by its name.

    Args:    model: the name of the one that is evaluated.
    Returns: name -> "model" (that one), "retrieval" ("MODEL + ..."), "baseline" (does not read), or else "memory".
    """
    from rmtkit.llm.ours import TRIVIAL_KINDS

    names = dict.fromkeys(predictions["model"])
    return {
        name: "model" if name == model else "retrieval" if str(name).startswith(f"{model} + ")
        else "baseline" if name in TRIVIAL_KINDS else "memory"
        for name in names
    }  # fmt: skip


def _with_shares(counts: pd.DataFrame) -> pd.DataFrame:
    """Add accuracy, low and high to counts of n and correct."""
    intervals = [_interval(k, n) for k, n in zip(counts["correct"], counts["n"], strict=True)]
    shares = counts["correct"] / counts["n"].where(counts["n"] > 0)
    return counts.assign(accuracy=shares, low=[low for low, _ in intervals], high=[high for _, high in intervals])


def _interval(count: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a count, rounded to a whole one; NaN of nothing."""
    return wilson_interval(round(count), int(n)) if n else (math.nan, math.nan)

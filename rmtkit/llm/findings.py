"""What an evaluation of language models says, in sentences: every number of them is counted here."""

from __future__ import annotations

import html

import pandas as pd

from rmtkit.intervals import in_percent, wilson_interval
from rmtkit.length_findings import difference
from rmtkit.lengths import length_size
from rmtkit.llm.tables import accuracy_table, check_one_rule, outcome_table, recall_table, task_number

COUNTED = (
    "Shares are of all questions asked, those without an answer counted as not right; scored by {rule}, with 95 % "
    "Wilson intervals. Differences have Newcombe's (1998, method 10), which takes samples for independent: where the "
    "same stories are told at two lengths, or to two models, it is rather too wide. Who is first is read off the same "
    "numbers, which makes a lead look larger than it is."
)


def llm_findings(predictions: pd.DataFrame) -> str:
    """Return what an evaluation has found, a Markdown list: who falls with length, who is ahead, failures, recall.

    Args:   predictions: as `rmtkit.llm.tables.accuracy_table` takes them, all scored by one rule.
    Raises: ValueError as there, and if there is no prediction.
    """
    if predictions.empty:
        raise ValueError("there are no predictions; nothing was evaluated")
    table = accuracy_table(predictions)
    check_one_rule(table)
    lines = [line for name, cells in table.groupby("model", sort=False) for line in _by_length(_name(name), cells)]
    lines += _who_is_ahead(table)
    lines += _failures(predictions)
    recall = recall_table(predictions)
    lines += [_recall(_name(name), cells) for name, cells in recall.groupby("model", sort=False)]
    lines.append(COUNTED.format(rule=table["rule"].iloc[0]))
    return "\n".join(f"- {line}" for line in lines if line)


def _by_length(name: str, table: pd.DataFrame) -> list[str]:
    """Return how a model does at the shortest and at the longest length, over the tasks that it has at both."""
    lengths = sorted(table["length"].unique(), key=length_size)
    short, long = (table[table["length"] == length].set_index("task") for length in (lengths[0], lengths[-1]))
    tasks = [task for task in short.index if task in long.index]
    if len(lengths) == 1 or not tasks:
        cells = table[table["length"] == lengths[-1]]
        return [f"**{name}** ({_tasks(cells['task'])}): at {lengths[-1]} {_share(_pooled(cells))}."]
    first, last = _pooled(short.loc[tasks]), _pooled(long.loc[tasks])
    found = difference(first, last)
    lines = [
        f"**{name}** ({_tasks(tasks)}): at {lengths[0]} {_share(first)}, at {lengths[-1]} {_share(last)}. "
        f"{_change(found)}."
    ]
    if len(tasks) > 1:
        lower = [task for task in tasks if difference(short.loc[task], long.loc[task])[1] > 0]
        which = ", ".join(lower) if lower else "none"
        lines[0] += f" Lower beyond chance by task: {which} (of {len(tasks)} compared, which is not corrected for)."
    return lines


def _change(found: tuple[float, float, float]) -> str:
    """Say what a difference of short minus long is worth."""
    verdict = "It falls" if found[1] > 0 else "It rises" if found[2] < 0 else "No change beyond chance"
    return f"{verdict}: {_points(tuple(-each for each in (found[0], found[2], found[1])), '+')}"


def _who_is_ahead(table: pd.DataFrame) -> list[str]:
    """Return for each task who is first at its longest length that two models have, and how far from the others."""
    lines = []
    for task in sorted(table["task"].unique(), key=task_number):
        cells = table[table["task"] == task]
        shared = [length for length, rows in cells.groupby("length") if len(rows) > 1]
        if not shared:
            continue
        length = max(shared, key=length_size)
        best, *others = (row for _, row in cells[cells["length"] == length].sort_values(
            "accuracy", ascending=False, kind="stable").iterrows())  # fmt: skip
        told = [f"{_name(row['model'])} {_share(row)}, {_behind(difference(best, row))}" for row in others]
        lines.append(f"{task} at {length}: {_name(best['model'])} {_share(best)}; {'; '.join(told)}.")
    return lines


def _behind(found: tuple[float, float, float]) -> str:
    return f"{_points(found)} behind" if found[1] > 0 else "not behind beyond chance"


def _failures(predictions: pd.DataFrame) -> list[str]:
    """Return of each model how many questions have no answer and why; one sentence for all that have answered all."""
    lines, whole = [], []
    for name, rows in predictions.groupby("model", sort=False):
        counts = outcome_table(rows, ["model"]).set_index("outcome")["count"]
        failed = counts.drop(["right", "wrong"], errors="ignore")
        if not failed.sum():
            whole.append(f"{_name(name)} ({len(rows):,})")
            continue
        reasons = ", ".join(f"{outcome.replace('_', ' ')} {count:,}" for outcome, count in failed.items())
        right, answered = int(counts.get("right", 0)), len(rows) - int(failed.sum())
        share = _share(_share_of(right, answered)) if answered else "there is none to score"
        lines.append(
            f"{_name(name)} has no answer to {failed.sum():,} of {len(rows):,} questions ({reasons}); of those "
            f"answered: {share}."
        )
    return [*lines, *([f"All questions were answered by: {', '.join(whole)}."] if whole else [])]


def _recall(name: str, table: pd.DataFrame) -> str:
    """Return the recall of supporting facts at the shortest and the longest length."""
    lengths = sorted(table["length"].unique(), key=length_size)
    parts = []
    for length in dict.fromkeys((lengths[0], lengths[-1])):
        cells = table[table["length"] == length]
        n = int(cells["n"].sum())
        mean = float((cells["recall"] * cells["n"]).sum() / n)
        low, high = wilson_interval(round(mean * n), n)
        parts.append(f"{in_percent(mean, low, high)} % at {length} (n={n:,})")
    return f"What {name} was given held this share of the supporting facts: {', '.join(parts)}."


def _pooled(rows: pd.DataFrame) -> pd.Series:
    return _share_of(int(rows["correct"].sum()), int(rows["n"].sum()))


def _share_of(correct: int, n: int) -> pd.Series:
    low, high = wilson_interval(correct, n)
    return pd.Series({"accuracy": correct / n, "low": low, "high": high, "n": n})


def _share(row: pd.Series) -> str:
    return f"{in_percent(row['accuracy'], row['low'], row['high'])} % (n={int(row['n']):,})"


def _points(found: tuple[float, float, float], sign: str = "") -> str:
    """Write a difference and its interval in points; with sign "+" all three have one."""
    value, low, high = (f"{100 * each + 0.0:{sign}.1f}" for each in found)
    return f"{value} points [{low}, {high}]"


def _tasks(tasks) -> str:
    tasks = list(dict.fromkeys(tasks))
    return tasks[0] if len(tasks) == 1 else f"{', '.join(tasks[:-1])} and {tasks[-1]}"


def _name(name) -> str:
    return html.escape(str(name))

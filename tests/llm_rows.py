"""Predictions of language models that are made up: cells of so many right, wrong and failed ones."""

import pandas as pd

TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")


def cell(task="qa1", length="0k", right=0, wrong=0, *, model="M", rule="babilong_labels", recall=None, **failures):
    """Return predictions of one cell: so many right and wrong ones, and failures by their reason."""
    outcomes = ["right"] * right + ["wrong"] * wrong + [name for name, n in failures.items() for _ in range(n)]
    return [
        {"model": model, "task": task, "length": length, "index": index, "target": "garden", "rule": rule,
         "output": {"right": "In the garden.", "wrong": "kitchen"}.get(outcome, ""), "question": "Where is Mary? ",
         "failure": None if outcome in ("right", "wrong") else outcome, "detail": "", "recall": recall,
         "is_correct": outcome == "right"}
        for index, outcome in enumerate(outcomes)
    ]  # fmt: skip


def frame(*cells):
    return pd.DataFrame([row for rows in cells for row in rows])


def counts(table):
    return table[["n", "correct", "failed"]].to_numpy().tolist()

"""Predictions counted, laid out, and set beside published accuracies."""

import numpy as np
import pandas as pd
import pytest
from llm_rows import TASKS, cell, counts, frame

from rmtkit.intervals import wilson_interval
from rmtkit.llm.tables import (
    accuracy_table,
    average_table,
    leaderboard_table,
    model_kinds,
    outcome_table,
    recall_table,
    wide_table,
    with_first,
    with_published,
)

# ---------------------------------------------------------------------- counting


def test_failures_are_counted_apart_and_are_not_right_of_those_asked():
    (row,) = accuracy_table(frame(cell(right=6, wrong=2, timeout=1, refused=3))).to_dict("records")
    assert (row["n"], row["correct"], row["failed"], row["of"]) == (12, 6, 4, "asked")
    assert row["accuracy"] == 0.5 and (row["low"], row["high"]) == wilson_interval(6, 12)
    assert row["rule"] == "babilong_labels"


def test_failures_are_left_out_of_those_answered():
    (row,) = accuracy_table(frame(cell(right=6, wrong=2, timeout=4)), of="answered").to_dict("records")
    assert (row["n"], row["correct"], row["failed"], row["accuracy"]) == (8, 6, 4, 0.75)
    assert (row["low"], row["high"]) == wilson_interval(6, 8)


def test_cell_without_any_answer_has_no_accuracy_of_those_answered():
    rows = frame(cell(too_long=3), cell(length="1k", right=1))
    assert accuracy_table(rows)["accuracy"].tolist() == [0, 1]
    assert np.isnan(accuracy_table(rows, of="answered")["accuracy"].iloc[0])


def test_failure_that_says_correct_is_not_right():
    rows = frame(cell(timeout=1)).assign(is_correct=True)
    assert counts(accuracy_table(rows)) == [[1, 0, 1]]


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, ""])
def test_no_failure_is_read_however_it_is_written(nothing):
    rows = frame(cell(right=1, wrong=1)).assign(failure=nothing)
    assert counts(accuracy_table(rows)) == [[2, 1, 0]]


def test_rows_stand_by_model_as_they_come_then_by_number_of_the_task_and_by_length():
    cells = [cell(task, length, right=1, model=model) for model in ("Z", "A") for task in ("qa10", "qa2")
             for length in ("1M", "16k", "0k", "4k")]  # fmt: skip
    table = accuracy_table(frame(*cells))
    assert table["model"].tolist() == ["Z"] * 8 + ["A"] * 8
    assert table["task"].tolist()[:8] == ["qa2"] * 4 + ["qa10"] * 4
    assert table["length"].tolist()[:4] == ["0k", "4k", "16k", "1M"]


@pytest.mark.parametrize(
    "change, message",
    [(lambda rows: rows.drop(columns="rule"), "no column rule"), (lambda rows: pd.concat([rows, rows]), "twice"),
     (lambda rows: rows.assign(failure="tired"), "failure tired does not exist; allowed: too_long")],
)  # fmt: skip
def test_predictions_that_cannot_be_counted_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        accuracy_table(change(frame(cell(right=2))))
    with pytest.raises(ValueError, match="asked, answered"):
        accuracy_table(frame(cell(right=2)), of="all")


def test_outcomes_of_a_model_and_length_add_up_to_those_asked():
    rows = frame(cell(right=3, wrong=1), cell("qa2", right=1, too_long=4, timeout=1), cell(length="1k", wrong=2))
    table = outcome_table(rows).set_index(["length", "outcome"])
    assert table.loc["0k", "count"].to_dict() == {"right": 4, "wrong": 1, "too_long": 4, "timeout": 1}
    assert table.loc["1k", "count"].to_dict() == {"right": 0, "wrong": 2, "too_long": 0, "timeout": 0}
    assert table.loc[("0k", "too_long"), "share"] == 0.4
    assert table["n"].groupby("length").first().to_dict() == {"0k": 10, "1k": 2}


def test_recall_is_averaged_where_it_is_known():
    rows = frame(cell(right=4, recall=0.5), cell("qa2", right=2, recall=1.0), cell(model="N", right=3))
    table = recall_table(rows)
    assert table[["model", "task", "n", "recall"]].to_numpy().tolist() == [["M", "qa1", 4, 0.5], ["M", "qa2", 2, 1.0]]
    assert (table["low"].iloc[0], table["high"].iloc[0]) == wilson_interval(2, 4)
    assert recall_table(frame(cell(right=1))).empty and recall_table(frame(cell(right=1)).drop(columns="recall")).empty


# ---------------------------------------------------------------------- layout


def test_wide_table_has_whole_per_cent_and_says_what_is_missing():
    rows = frame(cell(length="0k", right=2, wrong=1), cell("qa7", length="4k", right=199, wrong=1))
    wide = wide_table(accuracy_table(rows))
    assert wide.index.tolist() == ["qa1", "qa7"] and wide.columns.tolist() == ["0k", "4k"]
    assert wide.to_numpy().tolist() == [[67, "-"], ["-", 100]]


def test_average_stands_only_where_none_of_the_five_is_missing():
    cells = [cell(task, "0k", right=number, wrong=10 - number) for number, task in enumerate(TASKS)]
    cells += [cell(task, "1k", right=1) for task in TASKS[:4]]
    table = accuracy_table(frame(*cells, cell("qa6", "0k", right=10)))
    assert wide_table(table).loc["avg"].tolist() == [20, "-"]
    (row,) = average_table(table).to_dict("records")
    assert (row["n"], row["correct"], row["accuracy"]) == (50, 10, pytest.approx(0.2))
    assert (row["low"], row["high"]) == wilson_interval(10, 50)
    assert "avg" not in wide_table(table[table["length"] == "1k"]).index


def test_average_is_of_tasks_not_of_samples():
    cells = [cell(task, right=1) for task in TASKS[:4]] + [cell("qa5", wrong=16)]
    assert average_table(accuracy_table(frame(*cells)))["accuracy"].tolist() == [0.8]


def test_wide_table_of_several_models_keeps_them_apart_and_refuses_two_rules():
    rows = frame(cell(right=1, model="B"), cell(wrong=1, model="A"))
    assert wide_table(accuracy_table(rows))["0k"].to_dict() == {("B", "qa1"): 100, ("A", "qa1"): 0}
    with pytest.raises(ValueError, match="babilong_labels, substring; give the rows of one rule"):
        wide_table(accuracy_table(frame(cell(right=1), cell(right=1, rule="substring"))))


def test_with_first_leads_with_the_model_and_its_retrieval():
    rows = frame(*(cell(right=1, model=name) for name in ("a", "M + 5 sentences (bm25)", "Mx", "M")))
    assert with_first(rows, "M")["model"].tolist() == ["M", "M + 5 sentences (bm25)", "a", "Mx"]


def test_model_kinds_are_told_by_name():
    rows = frame(
        *(cell(right=1, model=name) for name in ("M", "M + 5 sentences (bm25)", "last_named", "reference:qa1"))
    )
    assert list(model_kinds(rows, "M").values()) == ["model", "retrieval", "baseline", "memory"]


# ---------------------------------------------------------------------- beside published models


@pytest.fixture
def reference(tmp_path):
    """A folder with a table of published accuracies."""
    columns = ["source", "model", "variant", "task", "length", "segments", "accuracy", "std", "n"]
    rows = [("paper", "GPT", None, task, "0k", None, 90.0, None, None) for task in TASKS]
    rows += [
        ("log", "RMT", "long", "qa1", "500k", 1000, 12.5, None, 999),
        ("log", "RMT", "", "qa9", "0k", 1, 1.0, None, 5),
    ]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "published_accuracy.csv", index=False)
    return tmp_path


def test_published_rows_stand_beside_ours_with_source_and_n(reference):
    table = with_published(accuracy_table(frame(cell(right=3, wrong=1))), reference).fillna({"n": -1})
    assert table["is_ours"].tolist() == [True, False, False]
    assert table[["model", "source", "n", "accuracy"]].to_numpy().tolist() == [
        ["M", "this evaluation", 4, 0.75], ["GPT", "paper", -1, 0.9], ["RMT", "log", 999, 0.125]
    ]  # fmt: skip
    assert table["length"].tolist() == ["0k", "0k", "512k"] and table["rule"].iloc[1] == "as published"


def test_leaderboard_marks_ours_and_sorts_by_accuracy(reference):
    rows = frame(
        *(cell(task, right=8, wrong=2) for task in TASKS), cell(length="1k", right=1), cell(right=1, model="N")
    )
    combined = with_published(accuracy_table(rows), reference)
    table = leaderboard_table(combined)
    assert table.to_numpy().tolist() == [
        ["", "avg", "GPT", 90, "-", "-", "paper"], ["ours", "avg", "M", 80, "-", "50", "this evaluation"]
    ]  # fmt: skip
    of_task = leaderboard_table(combined, task="qa1")
    assert of_task["model"].tolist() == ["N", "M", "GPT"] and of_task["1k"].tolist() == ["-", 100, "-"]
    assert of_task["n"].tolist() == ["1", "1-10", "-"]


def test_published_table_of_the_kit_stands_beside_ours():
    combined = with_published(accuracy_table(frame(*(cell(task, right=1) for task in TASKS))))
    table = leaderboard_table(combined)
    assert {"GPT-4", "gpt-4-0125-preview"} & set(table["model"]) and (table[""] == "ours").sum() == 1
    assert table.loc[table["model"] == "gpt-4-0125-preview", "0k"].tolist() == [87]  # 99, 88, 56, 98, 96: facts C3

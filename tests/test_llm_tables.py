"""Predictions counted, laid out, drawn, said in sentences, written for the leaderboard and read back."""

import json

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rmtkit import plotting  # noqa: E402
from rmtkit.intervals import wilson_interval  # noqa: E402
from rmtkit.llm import leaderboard  # noqa: E402
from rmtkit.llm.answers import render_answers  # noqa: E402
from rmtkit.llm.findings import llm_findings  # noqa: E402
from rmtkit.llm.leaderboard import read_leaderboard_files, write_leaderboard_files  # noqa: E402
from rmtkit.llm.prompts import PromptStyle  # noqa: E402
from rmtkit.llm.tables import (  # noqa: E402
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
from rmtkit.parameters import ConfigError  # noqa: E402
from rmtkit.plotting.llm import CROSS  # noqa: E402

TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")
STYLE = PromptStyle(prompts="rmtkit", instruction=True, examples=True, post_prompt=True, chat_template=False)
NAME = "instruction_yes_examples_yes_post_prompt_yes_chat_template_no"


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


# ---------------------------------------------------------------------- the leaderboard's files


def test_files_are_where_and_what_the_benchmark_has(tmp_path):
    rows = frame(cell("qa1", "4k", right=1, wrong=1, too_long=1))
    written = write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, data="babilong")
    path = tmp_path / "babilong_evals" / "org" / "name" / f"qa1_4k_{NAME}.csv"
    assert written.to_dict("records") == [
        {"task": "qa1", "length": "4k", "n": 3, "failed": 1, "file": path.relative_to(tmp_path).as_posix()}
    ]
    assert path.read_text(encoding="utf-8").splitlines() == [
        ",target,output,question", "0,garden,In the garden.,Where is Mary? ", "1,garden,kitchen,Where is Mary? ",
        "2,garden,,Where is Mary? ",
    ]  # fmt: skip
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["failures"] == {"2": "too_long"} and about["generate_kwargs"]["max_new_tokens"] == 20
    assert "{context}" in about["prompt"]["template"] and "{question}" in about["prompt"]["template"]
    assert about["prompt"]["chat_template"] is False and about["data"] == "babilong"
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.with_suffix(".json").name]


def test_name_of_a_file_says_what_the_prompt_had():
    style = PromptStyle(prompts="rmtkit", instruction=False, examples=True, post_prompt=False, chat_template=True,
                        system_prompt="Be brief.")  # fmt: skip
    name = leaderboard.style_name(style)
    assert name == "instruction_no_examples_yes_post_prompt_no_chat_template_yes_system_prompt_yes"


ODD = ["\r", "a\r\nb\n", '"', "a,b", "\0", "NA", "", " x ", "\u2028", "7"]


@settings(max_examples=15, deadline=None)
@example(outputs=ODD, rule="substring")
@given(st.lists(st.text(), min_size=1, max_size=4), st.sampled_from(["babilong_labels", "substring", "exact_match"]))
def test_predictions_come_back_as_they_were(tmp_path_factory, outputs, rule):
    rows = frame(cell(right=len(outputs), timeout=1)).assign(rule=rule)
    rows["output"] = [*outputs, ""]
    folder = tmp_path_factory.mktemp("evals")
    write_leaderboard_files(rows, folder, model="org/name", style=STYLE, allow_partial=True)
    read = read_leaderboard_files(folder, rule=rule)
    assert read["output"].tolist() == rows["output"].tolist()
    assert read["failure"].tolist() == [None] * len(outputs) + ["timeout"]
    assert read[["target", "question", "index"]].equals(rows[["target", "question", "index"]])


def test_files_read_back_count_the_same(tmp_path):
    rows = frame(
        *(cell(task, length, right=3, wrong=4, refused=2, empty=1) for task in TASKS for length in ("0k", "1M"))
    )
    rows = rows.assign(rule="substring")
    write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE)
    read_rows = read_leaderboard_files(tmp_path, rule="substring")
    for of in ("asked", "answered"):
        table, read = (accuracy_table(each, of=of) for each in (rows, read_rows))
        pd.testing.assert_frame_equal(table.assign(model="org/name"), read)


@pytest.mark.parametrize("below", ["", "babilong_evals", "babilong_evals/org", "babilong_evals/org/name"])
def test_model_is_named_alike_from_whatever_folder_is_read(tmp_path, below):
    write_leaderboard_files(frame(cell(right=1)), tmp_path, model="org/name", style=STYLE)
    assert read_leaderboard_files(tmp_path / below)["model"].tolist() == ["org/name"]


def test_authors_files_are_read_and_scored_by_our_rules(tmp_path):
    folder = tmp_path / "RAG_Llama-3"
    folder.mkdir()
    text = ("Unnamed: 0,target,output,question\n"
            '0,kitchen,"Answer: Mary is in the kitchen.\n\nQuestion: Where is John?\nAnswer: garden",Where is Mary? \n'
            "1,none,nan,Where is Mary? \n2,garden,kitchen or garden,Where is Mary? \n")  # fmt: skip
    old = "instruction_yes_examples_yes_post_prompt_yes"  # as until June 2024
    (folder / f"qa1_10M_{old}.csv").write_text(text)
    (folder / f"qa1_10M_{old} copy.csv").write_text(text)
    read = read_leaderboard_files(tmp_path)
    assert read["is_correct"].tolist() == [True, False, False]
    assert read["target"].tolist()[1] == "none" and read["output"].tolist()[1] == "nan"
    assert set(read["model"]) == {"RAG_Llama-3"} and set(read["length"]) == {"10M"} and read["failure"].isna().all()
    assert read_leaderboard_files(tmp_path, rule="substring")["is_correct"].tolist() == [True, False, True]


def test_several_styles_of_a_model_are_several_models(tmp_path):
    for style in (STYLE, PromptStyle(prompts="plain", instruction=False, examples=False, post_prompt=False,
                                     chat_template=False)):  # fmt: skip
        write_leaderboard_files(frame(cell(right=1)), tmp_path, model="org/name", style=style)
    read = read_leaderboard_files(tmp_path)
    assert read["model"].nunique() == 2 and all("instruction" in name for name in read["model"])
    assert counts(accuracy_table(read)) == [[1, 1, 0]] * 2


@pytest.mark.parametrize(
    "rows, options, message",
    [(frame(cell(right=3), cell("qa2", right=2)), {}, "qa2 at 0k has 2 samples of 3"),
     (frame(cell(right=3)), {"num_samples": 100}, "has 3 samples of 100"),
     (frame(cell(right=3), cell("qa2", right=2)), {"num_samples": {("qa2", "0k"): 5}}, "2 samples of 5"),
     (frame(cell(right=3))[1:], {}, "has 2 samples of 2|has 2 samples"),
     (frame(cell(right=3, rate_limit=2)), {}, r"2 of 5 samples without an answer \(rate_limit\)")],
)  # fmt: skip
def test_unfinished_cells_are_refused_and_nothing_is_written(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, **options)
    assert list(tmp_path.iterdir()) == []
    write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, **options, allow_partial=True)
    assert len(read_leaderboard_files(tmp_path)) == len(rows)


def test_whole_cells_may_differ_in_size_if_that_is_said(tmp_path):
    rows = frame(cell(right=3), cell("qa2", right=2))
    sizes = {("qa1", "0k"): 3, ("qa2", "0k"): 2}
    assert len(write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, num_samples=sizes)) == 2


@pytest.mark.parametrize(
    "rows, model, message",
    [(frame(cell(right=1)), "name", "organisation/name"), (frame(cell(right=1)), "../name", "organisation/name"),
     (frame(cell(right=1)), "org/../name", "organisation/name"),
     (frame(cell(right=1), cell(right=1, model="N")), "org/name", "of M, N; give those of one model"),
     (frame(cell("../qa1", right=1)), "org/name", "no task '../qa1'"),
     (frame(cell(length="64", right=1)), "org/name", "at length '64'")],
)  # fmt: skip
def test_what_the_leaderboard_has_no_place_for_is_refused(tmp_path, rows, model, message):
    with pytest.raises(ValueError, match=message):
        write_leaderboard_files(rows, tmp_path, model=model, style=STYLE)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no predictions of the leaderboard's layout"):
        read_leaderboard_files(tmp_path)
    (tmp_path / f"qa1_0k_{NAME}.csv").write_text(",target,output\n0,garden,garden\n")
    with pytest.raises(ValueError, match="no column question"):
        read_leaderboard_files(tmp_path)
    with pytest.raises(ValueError, match="scoring rule 'guess' does not exist"):
        read_leaderboard_files(tmp_path, rule="guess")


@pytest.mark.parametrize(
    "name, wanted",
    [("SmolLM2-135M", "local/SmolLM2-135M"), ("org/model", "org/model"), ("reference:qa1", "local/reference-qa1"),
     ("/a/b/run 1", "a-b/run 1"), ("..", "local/model")],
)  # fmt: skip
def test_leaderboard_name_is_one_that_can_be_written(tmp_path, name, wanted):
    found = leaderboard.leaderboard_name(name)
    assert found == wanted and leaderboard.MODEL.fullmatch(found)


def test_evaluated_finds_the_model_among_those_it_was_compared_with(tmp_path):
    style = {"prompts": "rmtkit", "instruction": True, "examples": False, "post_prompt": True, "chat_template": True,
             "system_prompt": None}  # fmt: skip
    answering = {"max_answer_tokens": 16}
    records = [("last_named", {"retrieval": None}), ("M + 5", {**answering, "retrieval": "5"}),
               ("M", {**answering, "retrieval": None})]  # fmt: skip
    (tmp_path / "predictions").mkdir()
    for number, (model, what) in enumerate(records):
        record = {"model": model, "task": "qa1", "length": "4k", "num_asked": 7,
                  "what": {**what, "prompts": style, "source": "babilong"}}  # fmt: skip
        (tmp_path / "predictions" / f"{number}.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text(json.dumps({"model": "M"}))
    found = leaderboard.evaluated(tmp_path)
    wanted = {"name": "M", "style": PromptStyle(**style), "num_samples": {("qa1", "4k"): 7}, "data": "babilong"}
    assert found == {**wanted, "generate_kwargs": leaderboard.GREEDY | {"max_new_tokens": 16}}
    assert leaderboard.evaluated(tmp_path, "M + 5")["name"] == "M + 5"
    with pytest.raises(ConfigError, match="no predictions of 'N'; there are those of: last_named, M [+] 5, M"):
        leaderboard.evaluated(tmp_path, "N")


# ---------------------------------------------------------------------- figures

DRAWN = frame(
    *(cell(task, length, right=right, wrong=10 - right, model="SmolLM2") for length, right in (("0k", 7), ("4k", 2))
      for task in TASKS),
    *(cell(task, "1k", right=3, wrong=2, too_long=5, model="SmolLM2") for task in TASKS),
    *(cell("qa1", length, right=10, model="reference:qa1", recall=1.0) for length in ("0k", "1k", "4k")),
)  # fmt: skip


def test_heat_map_has_the_benchmarks_numbers_an_average_and_the_failures():
    table = accuracy_table(DRAWN)
    figure = plotting.plot_llm_heatmap(pd.concat([table, average_table(table)]))
    first, second = figure.axes[:2]
    assert [label.get_text() for label in first.get_yticklabels()] == [*TASKS, "avg"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["0k", "1k", "4k"]
    assert first.yaxis_inverted() and second.yaxis_inverted()
    found = {text.get_position(): text.get_text() for text in first.texts}
    assert found[0.5, 0.5] == "70" and found[1.5, 0.5] == f"30\n5 {CROSS}" and found[1.5, 5.5] == f"30\n25 {CROSS}"
    assert [text.get_text() for text in second.texts] == ["100"] * 3 and first.collections[0].get_clim() == (0, 100)
    assert second.get_title("left") == "reference:qa1"
    for said in (f"{CROSS}: no answer (counted as not right)", "grey: no result", "n = 10 a cell", "babilong labels"):
        assert said in figure.get_supxlabel()


def test_heat_map_leaves_cells_without_a_result_empty():
    table = accuracy_table(frame(cell(right=1), cell("qa2", "1k", wrong=1)))
    figure = plotting.plot_llm_heatmap(table)
    assert {text.get_position() for text in figure.axes[0].texts} == {(0.5, 0.5), (1.5, 1.5)}
    assert CROSS not in figure.get_supxlabel()


def test_heat_map_of_those_answered_says_so_and_can_be_read_where_none_is():
    table = accuracy_table(frame(cell(too_long=2), cell("qa2", right=1)), of="answered")
    figure = plotting.plot_llm_heatmap(table)
    text = next(text for text in figure.axes[0].texts if text.get_position() == (0.5, 0.5))
    assert text.get_text() == f"2 {CROSS}" and text.get_color() == "black"
    assert "left out" in figure.get_supxlabel()


def heights(axis, label):
    """Return the points of a curve by where they stand on the x axis, rounded to a length."""
    line = next(bars for bars in axis.containers if bars.get_label().startswith(label))[0]
    return dict(zip(np.round(line.get_xdata()).astype(int).tolist(), line.get_ydata().tolist(), strict=True))


def test_lengths_figure_draws_every_model_in_the_panels_of_its_tasks():
    table = accuracy_table(DRAWN)
    figure = plotting.plot_llm_lengths(pd.concat([table, average_table(table)]))
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(panels) == [*(f"{task} (n = 10)" for task in TASKS), "mean of qa1 to qa5 (n = 50)"]
    panels = {title.split(" (")[0]: axis for title, axis in panels.items()}
    assert heights(panels["qa1"], "SmolLM2") == pytest.approx({0: 70, 1: 30, 2: 20})
    assert heights(panels["qa1"], "reference:qa1") == {0: 100, 1: 100, 2: 100}
    assert not any(bars.get_label().startswith("reference") for bars in panels["qa2"].containers)
    assert heights(panels["mean of qa1 to qa5"], "SmolLM2") == pytest.approx({0: 70, 1: 30, 2: 20})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SmolLM2", "reference:qa1"]
    assert "babilong labels, 95 % intervals" in legend.get_title().get_text()


def test_lengths_figure_gives_models_looks_by_kind_that_differ_in_every_panel():
    names = {"M": "model", "M + 5": "retrieval", "a": "memory", "b": "memory", "c": "memory", "last_named": "baseline"}
    tasks = {"a": ["qa1"], "b": ["qa2"], "c": ["qa1"]}
    rows = frame(*(cell(task, right=1, model=name) for name in names for task in tasks.get(name, ["qa1", "qa2"])))
    figure = plotting.plot_llm_lengths(accuracy_table(rows), kinds=names)
    colours = [{bars.get_label(): bars[0].get_color() for bars in axis.containers} for axis in figure.axes]
    assert colours[0]["a"] == colours[1]["b"] == "black"
    assert all(len(set(panel.values())) == len(panel) for panel in colours) and len(colours[0]) == 5


def test_model_kinds_are_told_by_name():
    rows = frame(
        *(cell(right=1, model=name) for name in ("M", "M + 5 sentences (bm25)", "last_named", "reference:qa1"))
    )
    assert list(model_kinds(rows, "M").values()) == ["model", "retrieval", "baseline", "memory"]


def test_lengths_figure_has_wilson_bars_crosses_of_those_answered_and_published_curves():
    published = pd.DataFrame({"task": ["qa1", "qa1", "qa1"], "name": "GPT-4", "length": ["0k", "4k", "1M"],
                              "accuracy": [0.99, 0.5, 0.1]})  # fmt: skip
    figure = plotting.plot_llm_lengths(accuracy_table(DRAWN), answered=accuracy_table(DRAWN, of="answered"),
                                       published=published, source="the source $1")  # fmt: skip
    axis = figure.axes[0]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert lines["of those answered: SmolLM2"].get_ydata().tolist() == [60]
    assert lines["published: GPT-4"].get_xdata().tolist() == [0, 2]
    assert lines["published: GPT-4"].get_ydata().tolist() == [99, 50]
    bars = next(bars for bars in axis.containers if bars.get_label().startswith("SmolLM2"))
    low, high = wilson_interval(7, 10)
    np.testing.assert_allclose(bars[2][0].get_segments()[0][:, 1], [100 * low, 100 * high])
    assert figure.legends[0].get_title().get_text().endswith("\n" + r"the source \$1")


def test_outcome_bars_are_as_high_as_the_shares_and_failures_are_hatched():
    figure = plotting.plot_outcomes(outcome_table(DRAWN))
    axis = figure.axes[0]
    bars = {each.get_label(): each for each in axis.containers if hasattr(each, "patches")}
    assert [patch.get_height() for patch in bars["right"]] == pytest.approx([70, 30, 20])
    assert [patch.get_height() for patch in bars["wrong"]] == pytest.approx([30, 20, 80])
    assert [patch.get_height() for patch in bars["too_long"]] == pytest.approx([0, 50, 0])
    assert [patch.get_y() for patch in bars["too_long"]] == pytest.approx([100, 50, 100])
    assert bars["too_long"][0].get_hatch() and not bars["wrong"][0].get_hatch()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["right", "wrong", "no answer: too long"] and "n = 50" in axis.get_title()


def test_every_failure_has_a_look_of_its_own():
    from rmtkit.llm.tables import OUTCOMES
    from rmtkit.plotting.llm import OUTCOME_LOOKS

    assert tuple(OUTCOME_LOOKS) == OUTCOMES
    assert len({(str(look["color"]), look.get("hatch")) for look in OUTCOME_LOOKS.values()}) == len(OUTCOMES)


def test_recall_figure_draws_a_curve_per_task():
    rows = frame(cell(right=4, recall=1.0), cell(length="4k", right=4, recall=0.25), cell("qa2", right=2, recall=0.5))
    axis = plotting.plot_recall(recall_table(rows)).axes[0]
    assert heights(axis, "qa1 (n = 4)") == {0: 100, 1: 25} and heights(axis, "qa2 (n = 2)") == {0: 50}


@pytest.mark.parametrize(
    "draw, table",
    [(plotting.plot_llm_heatmap, accuracy_table), (plotting.plot_recall, recall_table),
     (plotting.plot_outcomes, outcome_table), (plotting.plot_llm_lengths, accuracy_table)],
)  # fmt: skip
def test_figure_of_a_name_with_signs_of_a_formula_is_drawn(draw, table):
    rows = frame(cell(right=1, recall=1.0, model="a$b_{$"))
    assert plotting.as_png(draw(table(rows))).startswith(b"\x89PNG")


# ---------------------------------------------------------------------- sentences and answers


def test_findings_say_who_falls_and_who_does_not_with_their_numbers():
    text = llm_findings(frame(
        cell("qa1", "0k", right=80, wrong=20, model="LLM"), cell("qa1", "4k", right=20, wrong=80, model="LLM"),
        cell("qa1", "0k", right=100, model="RMT"), cell("qa1", "4k", right=99, wrong=1, model="RMT"),
    ))  # fmt: skip
    llm, rmt, ahead, *_ = text.split("\n")
    assert "at 0k 80.0 [71.1, 86.7] % (n=100), at 4k 20.0 [13.3, 28.9] % (n=100). It falls: -60.0 points [" in llm
    assert "No change beyond chance: -1.0 points [" in rmt
    assert ahead.startswith("- qa1 at 4k: RMT 99.0 [") and " 79.0 points [" in ahead and "behind" in ahead
    assert "scored by babilong_labels" in text.split("\n")[-1]


def test_findings_name_the_tasks_that_fall():
    cells = [cell("qa1", length, right=right, wrong=50 - right) for length, right in (("0k", 50), ("1k", 5))]
    cells += [cell("qa2", length, right=25, wrong=25) for length in ("0k", "1k")]
    assert "Lower beyond chance by task: qa1 (of 2 compared" in llm_findings(frame(*cells))


def test_findings_tell_failures_from_wrong_answers():
    text = llm_findings(frame(cell(right=6, wrong=2, timeout=1, too_long=3), cell(model="N", right=1)))
    assert "M has no answer to 4 of 12 questions (too long 3, timeout 1); of those answered: 75.0 [" in text
    assert "All questions were answered by: N (1)." in text
    assert "there is none to score" in llm_findings(frame(cell(refused=2)))


def test_findings_say_what_retrieval_kept():
    text = llm_findings(frame(cell(right=4, recall=1.0), cell(length="4k", right=4, recall=0.5)))
    assert "What M was given held this share of the supporting facts: 100.0 [" in text and "at 4k (n=4)" in text
    assert "held this share" not in llm_findings(frame(cell(right=1)))


def test_findings_of_nothing_or_of_two_rules_are_refused():
    with pytest.raises(ValueError, match="nothing was evaluated"):
        llm_findings(frame(cell(right=1))[:0])
    with pytest.raises(ValueError, match="one rule"):
        llm_findings(frame(cell(right=1), cell("qa2", right=1, rule="substring")))


def test_answers_are_shown_escaped_by_kind_and_cut():
    rows = frame(cell(right=5, wrong=1, timeout=1, model="<i>M</i>"))
    rows.loc[5, "output"] = "<script>alert(1)</script>" + "x" * 400
    rows.loc[6, "detail"] = "no answer in 60 s & gone"
    page = render_answers(rows, per_kind=2)
    assert "<script" not in page and "&lt;script&gt;" in page and "<i>M" not in page
    assert page.count("&#10003; right") == 2 and page.count("&#10007; wrong") == 1 and page.count("no answer (") == 1
    assert "no answer in 60 s &amp; gone" in page and "(125 characters more)" in page
    assert "5 right, 1 wrong, 1 failed of 7" in page

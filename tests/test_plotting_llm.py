"""Figures of language models: heat maps, accuracy by length, outcomes, recall; numbers, looks, what is said below."""

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from llm_rows import TASKS, cell, frame  # noqa: E402
from plotting_tables import legend_texts  # noqa: E402

from rmtkit import plotting  # noqa: E402
from rmtkit.intervals import wilson_interval  # noqa: E402
from rmtkit.llm.tables import accuracy_table, average_table, outcome_table, recall_table  # noqa: E402
from rmtkit.plotting.llm import CROSS  # noqa: E402

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
    lines = [{bars.get_label(): bars[0] for bars in axis.containers} for axis in figure.axes]
    colours = [{label: line.get_color() for label, line in panel.items()} for panel in lines]
    assert colours[0]["a, b"] == colours[1]["a, b"] == "black"
    assert all(len(set(panel.values())) == len(panel) for panel in colours) and len(colours[0]) == 5
    assert lines[0]["a, b"].get_xdata().tolist() == lines[1]["a, b"].get_xdata().tolist()
    assert legend_texts(figure) == ["M", "M + 5", "a, b", "c", "last_named"]


def test_models_that_share_a_task_keep_their_names_where_no_look_is_left():
    names = {name: "memory" for name in "abcd"}
    figure = plotting.plot_llm_lengths(
        accuracy_table(frame(*(cell(right=1, model=name) for name in names))), kinds=names
    )
    assert legend_texts(figure) == ["a", "b", "c", "d"]


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

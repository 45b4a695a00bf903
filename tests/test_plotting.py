"""Figures: all label their axes and leave nothing behind; accuracy, training, results and data point by point."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from plotting_tables import FIGURES, LENGTHS, PUBLISHED, curve, legend_texts, log_table, metrics_table

from rmtkit import plotting

SETTINGS = dict(matplotlib.rcParams)  # as they were before any figure


@pytest.fixture(params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


# ---------------------------------------------------------------------- all figures


def test_figure_labels_its_axes(figure):
    shared = [figure.get_supxlabel(), figure.get_supylabel()]
    for axis in figure.axes:
        if not axis.axison:
            continue
        is_colourbar = axis.get_label() == "<colorbar>"
        assert axis.get_xlabel() or shared[0] or is_colourbar or axis.get_shared_x_axes().get_siblings(axis)[1:]
        assert axis.get_ylabel() or shared[1]


def test_figure_is_drawn_and_left_out_of_pyplot(figure):
    figure.savefig(io.BytesIO(), format="png")
    assert plt.get_fignums() == []


def test_figures_leave_matplotlibs_settings_alone():
    own = plt.figure()
    for make in FIGURES.values():
        make()
    assert dict(matplotlib.rcParams) == SETTINGS
    assert plt.get_fignums() == [own.number]
    plt.close(own)


@pytest.mark.parametrize("name", ["plot_training", "plot_attention_mass", "plot_accuracy_by_depth"])
def test_figure_names_missing_columns(name):
    with pytest.raises(ValueError, match=r"no column .*; columns: accuracy"):
        getattr(plotting, name)(LENGTHS[["accuracy"]])
    with pytest.raises(ValueError, match="empty"):
        plotting.plot_accuracy_by_length(LENGTHS[:0])


# ---------------------------------------------------------------------- accuracy


def test_accuracy_by_length_draws_a_point_and_an_interval_per_length():
    figure = plotting.plot_accuracy_by_length(LENGTHS.sample(frac=1, random_state=0))
    np.testing.assert_allclose(curve(figure, "n = 90-100"), [[96, 100], [224, 90], [480, 60], [992, 40]])
    segments = figure.axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segments[1][:, 1], [82, 95])
    assert figure.axes[0].get_xscale() == "log"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][0] == "96\n1 seg"


def test_accuracy_by_length_shades_only_the_trained_lengths():
    (span,) = plotting.plot_accuracy_by_length(LENGTHS, trained_segments=(1, 2)).axes[0].patches
    assert 224 < span.get_x() + span.get_width() < 480
    assert not plotting.plot_accuracy_by_length(LENGTHS).axes[0].patches


def test_accuracy_by_length_draws_published_numbers_in_grey_with_their_source():
    figure = FIGURES["length"]()
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("published"))
    assert line.get_label() == "published: RMT gpt2, arXiv:1" and line.get_color() == "0.5"
    np.testing.assert_allclose(line.get_xydata(), [[1024, 99], [1_000_000, 50]])
    with pytest.raises(ValueError, match="tasks qa1, qa2"):
        plotting.plot_accuracy_by_length(LENGTHS, published=PUBLISHED.assign(task=["qa1", "qa2", "qa1"]))


def test_accuracy_by_length_names_series_baselines_and_rule():
    table = pd.concat([LENGTHS.assign(name="A"), LENGTHS.assign(name="B")], ignore_index=True)
    table["rule"] = "exact_match"
    figure = plotting.plot_accuracy_by_length(table, series="name", baselines={"majority answer": 0.17})
    assert legend_texts(figure) == ["majority answer: 17 %", "A (n = 90-100)", "B (n = 90-100)"]
    assert figure.axes[0].get_ylabel() == "accuracy (exact match), %"


def test_training_puts_stages_one_after_the_other_and_repeated_steps_once():
    metrics = metrics_table()
    first, second = plotting.plot_training(pd.concat([metrics, metrics.iloc[:2]])).axes[0].lines[::2]
    assert [first.get_label(), second.get_label()] == ["1: 1 segment", "2: 2 segments"]
    assert list(first.get_xdata()) == [50, 100, 150] and list(second.get_xdata()) == [200, 250, 300]


def test_training_draws_the_loss_below_in_the_same_place_and_colour():
    above, below = plotting.plot_training(metrics_table(), log_table()).axes
    for accuracy, loss in zip(above.lines[::2], below.lines[::2], strict=True):
        assert loss.get_color() == accuracy.get_color() and loss.get_xdata()[-1] == accuracy.get_xdata()[-1]
    np.testing.assert_allclose(below.lines[2].get_xydata()[0], [160, 0.2])
    assert below.get_yscale() == "log" and "nats" in below.get_ylabel()
    labels = [text.get_text() for text in (*below.get_yticklabels(), *below.get_yticklabels(minor=True))]
    assert "0.1" in labels and not any("e" in label or "$" in label for label in labels)


def test_training_is_drawn_before_the_first_validation_and_without_a_log():
    above, below = plotting.plot_training(pd.DataFrame(), log_table()[:3]).axes
    assert list(below.lines[0].get_xdata()) == [10, 20, 30] and above.get_xlim() == below.get_xlim()
    assert len(plotting.plot_training(metrics_table(), pd.DataFrame()).axes) == 1
    with pytest.raises(ValueError, match="no column"):
        plotting.plot_training(pd.DataFrame(), pd.DataFrame())


def test_training_places_a_stage_after_what_either_table_knows_of_the_one_before():
    metrics = metrics_table()
    (first, second) = plotting.plot_training(metrics[metrics["step"] < 150], log_table()).axes[0].lines[::2]
    assert list(first.get_xdata()) == [50, 100] and list(second.get_xdata()) == [200, 250]


def test_training_as_png_is_small():
    png = plotting.as_png(FIGURES["training with loss"]())
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_sizes_have_a_line_for_each_power_of_two_of_segments():
    (axis,) = FIGURES["sizes"]().axes
    lines = [
        line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2
    ]
    assert [value for value in lines if value in (32, 64, 128, 256, 512)] == [32, 64, 128, 256, 512]
    assert [text.get_text() for text in axis.texts][:2] == ["1 segment", "2 segments"]


def test_results_have_a_panel_per_task_with_our_points_and_published_ones():
    qa2, qa10, empty = FIGURES["results"]().axes
    assert (qa2.get_title(), qa10.get_title(), empty.axison) == ("qa2", "qa10", False)
    np.testing.assert_allclose(qa2.containers[0].lines[0].get_xydata(), [[512, 50], [4096, 50], [10_000_000, 50]])
    (published,) = [line for line in qa2.lines if line.get_label() == "published: ARMT"]
    np.testing.assert_allclose(published.get_xydata(), [[512, 99], [10_000_000, 80]])  # 50M is beyond our lengths
    (span,) = qa2.patches
    assert span.get_x() + span.get_width() == 4096 and not qa10.patches


def test_results_name_curves_ours_first_and_count_samples_by_length():
    legend = FIGURES["results"]().axes[-1].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == "rmtkit" and texts[-1] == "published: ARMT"
    assert set(texts[1:4]) == {"rmtkit, qa1-seed1", "rmtkit, qa1-seed2", "rmtkit, b"}
    assert "n = 500 (0k to 4k),\n20 (10M)" in legend.get_title().get_text()


def test_results_of_other_seeds_are_points_that_can_be_told_apart():
    lines = [line for line in FIGURES["results"]().axes[0].lines if "-seed" in line.get_label()]
    assert len({line.get_marker() for line in lines}) == 2 and {line.get_linestyle() for line in lines} == {"None"}


# ---------------------------------------------------------------------- data


def test_fact_positions_draws_the_first_samples_and_counts_all():
    above, below = FIGURES["facts"]().axes
    assert len(above.collections[0].get_offsets()) == 160
    heights = [bar.get_height() for bar in below.patches]
    assert len(heights) == 10 and sum(heights) == pytest.approx(100)
    assert "n = 200 in 50 samples" in below.get_ylabel()


def test_distributions_draw_a_panel_per_quantity_and_a_legend_entry_per_source():
    figure = FIGURES["distributions"]()
    assert [axis.get_xlabel() for axis in figure.axes] == ["answer", "facts"]
    assert legend_texts(figure) == ["generated (n = 100)", "recorded (n = 100)"]
    assert len(curve(figure, "recorded")) == 2


def test_floors_are_in_the_order_of_the_tasks():
    rows = [
        {"task": task, "baseline": name, "accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100}
        for task in ("qa10", "qa2")
        for name in ("majority answer", "last answer named")
    ]
    axis = plotting.plot_floors(pd.DataFrame(rows)).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["qa2", "qa10"]
    assert len(axis.containers) == 2 and axis.get_ylim() == (0, 100)


def test_distributions_of_many_words_draw_the_most_frequent():
    rows = [
        {"quantity": "answer", "value": f"word{i:02}", "source": "ours", "share": i / 435, "low": 0, "high": 1, "n": 9}
        for i in range(30)
    ]
    axis = plotting.plot_distributions(pd.DataFrame(rows)).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [f"word{i}" for i in range(15, 30)]
    assert axis.get_xlabel() == "answer (15 most frequent of 30)"

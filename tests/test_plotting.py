"""Figures: labelled axes, the right points, nothing left behind in pyplot or in matplotlib's settings."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402

from rmtkit import plotting  # noqa: E402

SETTINGS = dict(matplotlib.rcParams)  # as they were before any figure
LENGTHS = pd.DataFrame(
    {"num_segments": [1, 2, 4, 8], "num_tokens": [96, 224, 480, 992], "accuracy": [1.0, 0.9, 0.6, 0.4],
     "low": [0.96, 0.82, 0.5, 0.3], "high": [1.0, 0.95, 0.7, 0.5], "n": [100, 100, 100, 90]}
)  # fmt: skip
PUBLISHED = pd.DataFrame(
    {"source": "arXiv:1", "model": "RMT gpt2", "variant": [None, None, None], "task": "qa1",
     "length": ["0k", "1k", "1M"], "segments": [np.nan, 2, np.nan], "accuracy": [100.0, 99.0, 50.0]}
)  # fmt: skip


def write_table(num_layers=2, num_heads=2):
    index = pd.MultiIndex.from_product(
        [range(num_layers), range(num_heads), range(3), range(10, 14)], names=["layer", "head", "slot", "position"]
    )
    table = pd.DataFrame({"weight": np.linspace(0, 0.5, len(index))}, index=index).reset_index()
    tokens = {10: " the", 11: "\n", 12: " $5", 13: " office"}
    return table.assign(token=table["position"].map(tokens), is_fact=table["position"] >= 12)


def mass_table():
    targets = ("facts", "background", "question", "read memory", "write memory")
    index = pd.MultiIndex.from_product([range(2), range(3), targets], names=["layer", "head", "target"])
    table = pd.DataFrame({"share": 0.2, "low": 0.1, "high": 0.3, "n": 20, "baseline": 0.25}, index=index).reset_index()
    return table.assign(baseline=table["baseline"].where(table["target"] != "question", 0))


def metrics_table():
    rows = [(stage, 2**stage, step, 0.2 * step / 50) for stage in range(2) for step in (50, 100, 150)]
    table = pd.DataFrame(rows, columns=["stage", "num_segments", "step", "exact_match"])
    return table.assign(low=table["exact_match"] - 0.1, high=table["exact_match"] + 0.1, n=200)


def log_table():
    rows = [(stage, 2**stage, step, 2.0 / step) for stage in range(2) for step in range(10, 160, 10)]
    return pd.DataFrame(rows, columns=["stage", "num_segments", "step", "loss"])


def shares_table():
    return LENGTHS[["num_tokens", "num_segments"]].assign(share=[0.5, 0.2, 0.1, 0.05], low=0.01, high=0.6, n=50)


def sizes_table():
    return pd.DataFrame({"task": ["qa1", "qa3"], "n": 100, "5 %": [16, 110], "median": [30, 280], "95 %": [66, 810]})


def depth_table():
    depth = pd.cut([0.1, 0.6, 0.1, 0.6], [0, 0.5, 1], labels=["0-50 %", "50-100 %"])
    return LENGTHS.assign(depth=depth, num_segments=[8, 8, 16, 16])


def cross_table():
    return LENGTHS.assign(name="this run", trained=2, segment_size=32)


def task_table():
    return LENGTHS.assign(task="qa1", name="this run", length=["96", "224", "480", "992"], size=LENGTHS["num_tokens"])


def reading_table():
    how = {"device": "cpu", "dtype": "float32", "is_compiled": False, "tokens_per_second": 5000}
    return LENGTHS.assign(length=["96", "224", "480", "992"], peak_resident_mb=500.0, peak_cuda_mb=None, **how)


def facts_table():
    index = np.repeat(np.arange(50), 4)
    return pd.DataFrame({"index": index, "depth": np.arange(200) / 200, "is_supporting": np.arange(200) % 4 == 0})


def distributions_table():
    values = [("answer", "garden"), ("answer", "office"), ("facts", 2), ("facts", 4)]
    rows = [(*value, source) for source in ("generated", "recorded") for value in values]
    table = pd.DataFrame(rows, columns=["quantity", "value", "source"])
    return table.assign(share=0.5, low=0.4, high=0.6, n=100)


def distances():
    return pd.DataFrame(np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))))


def results_table():
    names, lengths = ("rmtkit", "rmtkit, seed 1", "rmtkit, seed 2", "rmtkit, b"), {"10M": 20, "0k": 500, "4k": 500}
    rows = [(task, name, length) for task in ("qa10", "qa2") for name in names for length in lengths]
    table = pd.DataFrame(rows, columns=["task", "name", "length"])
    return table.assign(accuracy=0.5, low=0.4, high=0.6, n=table["length"].map(lengths))


def probe_table():
    rows = [(phase, age) for phase in ("same parity", "other parity") for age in (0, 1, 8)]
    table = pd.DataFrame(rows, columns=["trained_on", "age"])
    return table.assign(accuracy=0.9, low=0.8, high=0.95, n=50, floor=0.2)


def slot_ablation():
    rows = [("all", -1), ("none", -1), *((kept, slot) for kept in ("others", "slot") for slot in range(3))]
    table = pd.DataFrame(rows, columns=["kept", "slot"])
    return table.assign(accuracy=np.linspace(1, 0.3, 8), low=0.2, high=1.0, n=40, filling="mean")


def head_ablation(when):
    rows = [(-1, -1), *((layer, head) for layer in range(2) for head in range(2))]
    table = pd.DataFrame(rows, columns=["layer", "head"]).assign(accuracy=[1, 1, 0.2, 0.9, 1.0])
    return table.assign(low=table["accuracy"] - 0.1, high=table["accuracy"] + 0.05, n=40, when=when)


def swap_table(*questions):
    names, kinds = ("nothing", "everything", "slot 0", "slot 1"), {"own": 0.5, "other": 0.3, "neither": 0.2}
    rows = [(name, kind, share, q) for q in questions for name in names for kind, share in kinds.items()]
    table = pd.DataFrame(rows, columns=["exchanged", "answer", "share", "question"])
    return table.assign(low=table["share"] - 0.1, high=table["share"] + 0.1, n=40)


def drift_summary():
    lag = np.array([0, 1, 2, 3, 4, 5, 8, 9])
    distance = {f"{name}{end}": 0.1 * lag for name in ("distance", "in_phase") for end in ("", "_low", "_high")}
    table = pd.DataFrame({"lag": lag, "tokens": 32 * lag, **distance})
    return table.assign(n=16, accuracy=0.9, low=0.7, high=1.0)


def segment_table():
    index = pd.MultiIndex.from_product(
        [("write", "read"), range(3), range(10, 30)], names=["direction", "slot", "position"]
    )
    table = pd.DataFrame({"weight": np.linspace(0, 0.5, len(index))}, index=index).reset_index()
    return table.assign(kind=np.where(table["position"].between(15, 19), "fact", "text"))


SERIES = pd.DataFrame({"task": "qa2", "series": "ARMT", "length": ["0k", "10M", "50M"], "accuracy": [99.0, 80.0, 40.0]})
FIGURES = {
    "length": lambda: plotting.plot_accuracy_by_length(LENGTHS, trained_segments=(1, 2), published=PUBLISHED),
    "depth": lambda: plotting.plot_accuracy_by_depth(depth_table()),
    "task": lambda: plotting.plot_task_lengths(task_table(), task_table()),
    "cross": lambda: plotting.plot_cross_lengths(cross_table(), cross_table()),
    "reading": lambda: plotting.plot_reading(reading_table()),
    "training": lambda: plotting.plot_training(metrics_table()),
    "training with loss": lambda: plotting.plot_training(metrics_table(), log_table()),
    "shares": lambda: plotting.plot_shares(shares_table()),
    "sizes": lambda: plotting.plot_sizes(sizes_table(), 32),
    "write": lambda: plotting.plot_write_attention(write_table()),
    "read": lambda: plotting.plot_read_attention(write_table()),
    "states": lambda: plotting.plot_state_distances(distances(), marks={"fact 1": 2, "question": 4}),
    "mass": lambda: plotting.plot_attention_mass(mass_table()),
    "facts": lambda: plotting.plot_fact_positions(facts_table()),
    "results": lambda: plotting.plot_results(results_table(), SERIES, trained={"qa2": 4096}, caption="Sources: ..."),
    "distributions": lambda: plotting.plot_distributions(distributions_table()),
    "probes": lambda: plotting.plot_probe_accuracy(probe_table(), series="trained_on"),
    "slots": lambda: plotting.plot_slot_ablation(slot_ablation()),
    "heads": lambda: plotting.plot_head_ablation([head_ablation("answering"), head_ablation("reading")]),
    "swap": lambda: plotting.plot_swap(swap_table("Where?")),
    "swap_by_question": lambda: plotting.plot_swap_by_question(swap_table("Where is Mary?", "Who gave $5?")),
    "drift": lambda: plotting.plot_drift(drift_summary()),
    "segment": lambda: plotting.plot_segment_attention(segment_table()),
}


@pytest.fixture(params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def legend_texts(figure):
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def curve(figure, label):
    """Return the points of the error bars with this label."""
    bars = next(c for axis in figure.axes for c in axis.containers if label in str(c.get_label()))
    return bars.lines[0].get_xydata()


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
    assert set(texts[1:4]) == {"rmtkit, seed 1", "rmtkit, seed 2", "rmtkit, b"}
    assert "n = 500 (0k to 4k),\n20 (10M)" in legend.get_title().get_text()


def test_results_of_other_seeds_are_points_that_can_be_told_apart():
    lines = [line for line in FIGURES["results"]().axes[0].lines if ", seed " in line.get_label()]
    assert len({line.get_marker() for line in lines}) == 2 and {line.get_linestyle() for line in lines} == {"None"}


# ---------------------------------------------------------------------- memory


def test_write_attention_shows_the_head_with_most_attention_on_the_fact():
    axis = FIGURES["write"]().axes[0]
    assert axis.get_title() == "layer 1, head 1"
    labels = axis.get_xticklabels()
    assert [label.get_text() for label in labels] == ["the", r"'\n'", r"\$5", "office"]
    assert [label.get_fontweight() for label in labels] == ["normal", "normal", "bold", "bold"]


def test_write_attention_draws_the_weights_of_the_table():
    table = write_table()
    drawn = plotting.plot_write_attention(table, layer=0, head=1).axes[0].collections[0].get_array()
    expected = table[(table["layer"] == 0) & (table["head"] == 1)]["weight"].to_numpy().reshape(3, 4)
    np.testing.assert_allclose(drawn, expected)


def test_attention_of_a_layer_has_a_map_per_head():
    figure = plotting.plot_write_attention(write_table(num_heads=3), layer=0)
    titles = [axis.get_title() for axis in figure.axes[:-1] if axis.axison]
    assert titles == ["layer 0, head 0", "layer 0, head 1", "layer 0, head 2"]
    with pytest.raises(ValueError, match="layer 7, head None is not in the table"):
        plotting.plot_write_attention(write_table(), layer=7)


def test_read_attention_has_tokens_down_and_slots_across():
    axis = FIGURES["read"]().axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("read slot", "token of the question")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "2"]
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == "office"


def test_state_distances_marks_facts_and_question():
    axis = plotting.plot_state_distances(distances(), marks={"fact 1": 2, "fact 2": 2, "question": 4}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "question: 4", "fact 1, fact 2: 2"]
    np.testing.assert_allclose(axis.images[0].get_array(), distances())
    with pytest.raises(ValueError, match="a square"):
        plotting.plot_state_distances(distances().iloc[1:])


def test_attention_mass_draws_a_point_per_head_and_leaves_out_absent_targets():
    figure = FIGURES["mass"]()
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["on facts", "on background", "on read memory", "on write memory"]
    points = shown[0].containers[0].lines[0].get_xydata()
    assert len(points) == 6 and len(set(points[:, 0])) == 6 and (points[:, 1] == 20).all()


# ---------------------------------------------------------------------- data


def test_probe_accuracy_draws_ages_evenly_with_the_floor():
    figure = plotting.plot_probe_accuracy(probe_table(), series="trained_on")
    x, y = curve(figure, "same parity (n = 50)").T
    assert np.diff(x) == pytest.approx([1, 1]) and y.tolist() == [90] * 3
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "8"]
    assert legend_texts(figure)[0] == "best guess without memory"


def test_slot_ablation_draws_both_kinds_and_the_whole_memory():
    figure = plotting.plot_slot_ablation(slot_ablation())
    assert curve(figure, "without this slot")[:, 1] == pytest.approx([80, 70, 60])
    assert {"whole memory: 100 %", "no slot: 90 %"} <= set(legend_texts(figure))


def test_head_ablation_names_the_heads_that_are_missed():
    figure = plotting.plot_head_ablation([head_ablation("answering"), head_ablation("reading")])
    assert [axis.get_title() for axis in figure.axes] == [
        "silenced while answering (n = 40 samples)", "silenced while reading (n = 40 samples)"]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.1", "1.0"]


def test_swap_draws_shares_that_fill_the_bar():
    axis = plotting.plot_swap(swap_table("Where?")).axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in axis.patches]
    assert max(ends) == pytest.approx(100) and len(axis.patches) == 12


def test_swap_by_question_keeps_the_questions_asked_most():
    table = swap_table(*(f"Where is {name}?" for name in "abcdefghijkl"))
    table["n"] = table["n"].where(table["question"] != "Where is a?", 1)
    labels = [label.get_text() for label in plotting.plot_swap_by_question(table).axes[0].get_yticklabels()]
    assert len(labels) == 8 and not any("is a?" in label for label in labels)


def test_drift_parts_even_and_odd_numbers_of_segments():
    figure = plotting.plot_drift(drift_summary())
    even, odd, in_phase = (line.get_xdata().tolist() for line in figure.axes[0].lines[:3])
    assert even == [64, 128, 256] and odd == [32, 96, 160, 288] and in_phase == [96, 160, 288]


def test_drift_labels_a_million_tokens_shortly():
    figure = plotting.plot_drift(drift_summary().assign(tokens=lambda table: 2**17 * table["lag"]))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert {"128k", "512k"} <= set(labels) and max(map(len, labels)) <= 4


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

"""Heat maps and the figure of memory and speed: numbers in the right cells, blanks, order, texts as they are."""

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402

from rmtkit import plotting  # noqa: E402
from rmtkit.plotting.heatmaps import EMPTY  # noqa: E402

SIZES = {"0k": 0, "1k": 1024, "64": 64, "10M": 10_000_000}


def task_table(*rows):
    table = pd.DataFrame(rows, columns=["task", "name", "length", "n", "accuracy"])
    return table.assign(size=table["length"].map(SIZES))


TASKS = task_table(
    ("qa10", "reference:qa10", "1k", 500, 0.25),
    ("qa2", "reference:b", "10M", 20, 0.5),
    ("qa2", "reference:b", "0k", 500, 0.996),
    ("qa2", "this run", "1k", 30, 1.0),
    ("qa2", "this run", "64", 10, 0.9996),
)
CROSS = pd.DataFrame(
    [("this run", 4, 32, 16, 50, 0.5), ("this run", 4, 32, 4, 50, 0.875), ("stage of this run", 2, 32, 2, 9, 1.0),
     ("other", 3, 128, 128, 7, 0.0)],
    columns=["name", "trained", "segment_size", "num_segments", "n", "accuracy"],
)  # fmt: skip
DEPTHS = pd.DataFrame(
    {"length": ["2k", "2k", "10M"], "depth": pd.Categorical(["75-100 %", "0-25 %", "0-25 %"], ["0-25 %", "75-100 %"]),
     "accuracy": [0.5, 1.0, 0.0], "low": [0.25, 0.61, 0.0], "high": [0.75, 1.0, 0.66], "n": [12, 6, 2000]}
)  # fmt: skip
READING = pd.DataFrame(
    {"length": ["4k", "0k", "1k", "1M"], "num_tokens": [4096, 0, 1024, 2**20],
     "peak_resident_mb": [600.0, 500, 610, 900],
     "tokens_per_second": [6000, 10, 5000, 90_000], "peak_cuda_mb": [None, None, None, 70.5], "device": "cpu",
     "dtype": ["float32"] * 3 + ["bfloat16"], "is_compiled": [False] * 3 + [True]}
)  # fmt: skip
MAPS = {"plot_task_lengths": TASKS, "plot_cross_lengths": CROSS, "plot_accuracy_by_depth": DEPTHS}


def labels(axis):
    return [[label.get_text() for label in ticks] for ticks in (axis.get_yticklabels(), axis.get_xticklabels())]


def cells(axis):
    """Return the texts of a map by (row, column) label."""
    rows, columns = labels(axis)
    places = {text.get_position(): text.get_text() for text in axis.texts}
    found = {(rows[int(y)], columns[int(x)]): text for (x, y), text in places.items()}
    assert len(found) == len(axis.texts)
    return found


# ---------------------------------------------------------------------- all maps


@pytest.mark.parametrize("name", MAPS)
def test_map_draws_values_on_a_scale_from_0_to_100_and_nothing_else(name):
    axis = getattr(plotting, name)(MAPS[name]).axes[0]
    mesh = axis.collections[0]
    assert mesh.get_clim() == (0, 100)
    drawn = np.sort(mesh.get_array().compressed())
    np.testing.assert_allclose(drawn, np.sort(100 * MAPS[name]["accuracy"]))
    assert len(axis.texts) == len(drawn) < mesh.get_array().size
    assert axis.get_facecolor()[:3] == pytest.approx((float(EMPTY),) * 3) and "grey: no result" in axis.get_title(
        "left"
    )


@pytest.mark.parametrize("name", MAPS)
def test_map_writes_in_black_on_light_and_in_white_on_dark(name):
    axis = getattr(plotting, name)(MAPS[name]).axes[0]
    for text in axis.texts:
        value = float(text.get_text().split("\n")[0].removeprefix(">"))
        assert text.get_color() == ("black" if value > 50 else "white")


@pytest.mark.parametrize("name", MAPS)
def test_map_refuses_an_empty_table_and_names_missing_columns(name):
    with pytest.raises(ValueError, match="the table is empty"):
        getattr(plotting, name)(MAPS[name][:0])
    with pytest.raises(ValueError, match="no column accuracy"):
        getattr(plotting, name)(MAPS[name].drop(columns="accuracy"))


# ---------------------------------------------------------------------- task x length


def test_task_lengths_have_numbers_in_the_cells_and_blanks_elsewhere():
    assert cells(plotting.plot_task_lengths(TASKS).axes[0]) == {
        ("qa10 reference:qa10 (n = 500)", "1k"): "25",
        ("qa2 reference:b (n = 20-500)", "10M"): "50",
        ("qa2 reference:b (n = 20-500)", "0k"): "99.6",
        ("qa2 this run (n = 10-30)", "1k"): "100",
        ("qa2 this run (n = 10-30)", "64"): ">99.9",
    }


def test_task_lengths_sort_tasks_by_number_this_run_first_and_lengths_by_size():
    axis = plotting.plot_task_lengths(TASKS).axes[0]
    rows, columns = labels(axis)
    assert [row.split(" (")[0] for row in rows] == ["qa2 this run", "qa2 reference:b", "qa10 reference:qa10"]
    assert columns == ["0k", "64", "1k", "10M"]
    weights = [label.get_fontweight() for label in axis.get_yticklabels()]
    assert weights == ["bold", "normal", "normal"]


def test_task_lengths_draw_published_numbers_apart_with_their_source():
    published = task_table(("qa2", "RMT", "10M", 0, 0.818))
    ours, theirs, _ = plotting.plot_task_lengths(TASKS, published, source="RMT $5, arXiv:1").axes
    assert cells(theirs) == {("qa2 RMT ", "10M"): "81.8"} and len(ours.texts) == len(TASKS)
    assert theirs.get_title("left") == r"published: RMT \$5, arXiv:1"
    assert labels(theirs)[1] == labels(ours)[1]
    assert len(plotting.plot_task_lengths(TASKS, published[:0]).axes) == 2  # a map and its scale


def test_maps_write_names_with_a_dollar_as_they_are():
    odd = "a$b$c"
    task = plotting.plot_task_lengths(TASKS.replace({"name": {"reference:b": odd}})).axes[0]
    cross = plotting.plot_cross_lengths(CROSS.replace({"name": {"other": odd}})).axes[0]
    assert [sum(r"a\$b\$c" in label for label in labels(axis)[0]) for axis in (task, cross)] == [1, 1]


# ---------------------------------------------------------------------- depth x length


def test_accuracy_by_depth_has_interval_and_n_in_each_cell():
    axis = plotting.plot_accuracy_by_depth(DEPTHS).axes[0]
    assert cells(axis) == {
        ("75-100 %", "2k"): "50\n25-75\nn=12",
        ("0-25 %", "2k"): "100\n61-100\nn=6",
        ("0-25 %", "10M"): "0\n0-66\nn=2,000",
    }
    assert labels(axis) == [["0-25 %", "75-100 %"], ["2k", "10M"]]  # lengths in the order of the table


def test_accuracy_by_depth_sorts_numbers_of_segments():
    table = DEPTHS.drop(columns="length").assign(num_segments=[128, 128, 16])
    axis = plotting.plot_accuracy_by_depth(table).axes[0]
    assert labels(axis)[1] == ["16", "128"] and axis.get_xlabel() == "length of the sample, segments"


# ---------------------------------------------------------------------- trained x evaluated


def test_cross_lengths_sort_rows_and_columns_by_number():
    axis = plotting.plot_cross_lengths(CROSS).axes[0]
    rows, columns = labels(axis)
    assert rows == ["2 x 32: stage of this run (n = 9)", "4 x 32: this run (n = 50)", "3 x 128: other (n = 7)"]
    assert columns == ["2", "4", "16", "128"]
    assert cells(axis)[rows[1], "4"] == "87.5" and cells(axis)[rows[2], "128"] == "0"
    assert [label.get_fontweight() for label in axis.get_yticklabels()] == ["bold", "bold", "normal"]


def test_cross_lengths_mark_the_trained_length_where_it_was_evaluated():
    squares = plotting.plot_cross_lengths(CROSS).axes[0].patches
    centres = [
        (square.get_x() + square.get_width() / 2, square.get_y() + square.get_height() / 2) for square in squares
    ]
    assert np.floor(centres).tolist() == [[0, 0], [1, 1]]  # nobody tested the third model at 3 segments
    assert {square.get_linestyle() for square in squares} == {":"}


def test_cross_lengths_draw_the_published_matrix_apart():
    ours, theirs, _ = plotting.plot_cross_lengths(CROSS, CROSS[:2].assign(name="RMT"), source="a log").axes
    assert labels(theirs) == [["4 x 32: RMT (n = 50)"], ["4", "16"]]
    assert theirs.get_title("left") == "published: a log" and len(ours.texts) == len(CROSS)


# ---------------------------------------------------------------------- memory and speed


def curves(axis):
    return {line.get_label(): line.get_xydata().tolist() for line in axis.lines}


def test_reading_has_a_curve_for_each_way_of_computing():
    speed, memory = plotting.plot_reading(READING).axes
    assert curves(speed) == {
        "cpu, float32": [[1024, 5000], [4096, 6000]], "cpu, bfloat16, compiled": [[2**20, 90_000]],
    }  # fmt: skip
    assert curves(memory) == {
        "resident memory of the process\ncpu, float32": [[1024, 610], [4096, 600]],
        "resident memory of the process\ncpu, bfloat16, compiled": [[2**20, 900]],
        "memory allocated on the GPU\ncpu, bfloat16, compiled": [[2**20, 70.5]],
    }


def test_reading_begins_at_0_and_names_lengths():
    for axis in plotting.plot_reading(READING).axes:
        assert axis.get_ylim()[0] == 0 and axis.get_xscale() == "log"
        assert sorted(labels(axis)[1]) == ["1M", "1k", "4k"] and axis.get_xlabel().endswith("tokens")
    segments = READING.assign(length=["32 segments", "0k", "8 segments", "8192 segments"])
    assert plotting.plot_reading(segments[segments["num_tokens"] > 0]).axes[0].get_xlabel().endswith("segments")


def test_reading_of_no_length_is_refused():
    with pytest.raises(ValueError, match="the table is empty"):
        plotting.plot_reading(READING[READING["num_tokens"] == 0])
    with pytest.raises(ValueError, match="no column .*peak_cuda_mb"):
        plotting.plot_reading(READING.drop(columns="peak_cuda_mb"))

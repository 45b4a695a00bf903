"""Heat maps of accuracy: task by length, depth of the fact by length, trained by evaluated segments.

All have one scale, 0 to 100 %, in colours that differ in lightness; the numbers stand in the cells. A cell without a
result is grey and empty.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rmtkit.plotting.style import check_columns, counted, plain, subplots

COLOURMAP = colormaps["viridis"]
EMPTY = "0.9"  # the grey of a cell without a result
CELL = 0.52  # inches; the width of a cell with one number
WIDEST = 10.6  # inches; of a figure, so that a notebook does not shrink it
NO_RESULT = "grey: no result"


def plot_task_lengths(table: pd.DataFrame, published: pd.DataFrame | None = None, *,
                      this_run: str = "this run", source: str = "") -> Figure:  # fmt: skip
    """Draw accuracy by task and length in the benchmark's style, a row for each task of each model.

    Args:   table: of `rmtkit.comparison.task_length_table`: task, name, length, size (to sort by), n, accuracy 0..1;
            published: the same of one published method, drawn below;  source: where that is from;
            this_run: the name whose rows stand first and in bold.
    Paper:  Kuratov et al. 2024, 2406.10149, figure 2 and table 4.
    """
    tables = [table] if published is None or published.empty else [table, published]
    for each in tables:
        check_columns(each, "task", "name", "length", "size", "n", "accuracy")
    lengths = pd.concat(tables).drop_duplicates("size").sort_values("size")["length"].tolist()
    maps = [_task_map(each, lengths, this_run) for each in tables]
    heights = [len(values) for values in maps]
    figure, axes = subplots(min(WIDEST, 3.6 + CELL * len(lengths)), 1.6 * len(maps) + 0.3 * sum(heights), len(maps), 1,
                            height_ratios=heights)  # fmt: skip
    for axis, values in zip(axes[:, 0], maps, strict=True):
        draw_map(axis, values, _numbers(values), fontsize=8)
        axis.set_xlabel("length of the sample, tokens of the model (0k: facts alone)")
        axis.set_ylabel("task and model")
        _embolden(axis, this_run)
    axes[0, 0].set_title(f"rmtkit, bold: {this_run}; {NO_RESULT}", fontsize=10, loc="left")
    if len(maps) > 1:
        axes[1, 0].set_title(plain(f"published: {source}"), fontsize=10, loc="left")
    return with_scale(figure, axes)


def _task_map(table: pd.DataFrame, lengths: list[str], this_run: str) -> pd.DataFrame:
    """Return per cent by row ("qa1 this run (n = 500)") and length, rows by the number of the task."""
    rows = {}
    for (task, name), found in table.groupby(["task", "name"], sort=False):
        label = f"{task} {name} " + (f"({counted(found['n'])})" if found["n"].max() else "")
        values = found.drop_duplicates("length").set_index("length")["accuracy"].reindex(lengths)
        rows[int(task.removeprefix("qa")), name != this_run, name] = values.rename(label)
    return 100 * pd.DataFrame([rows[key] for key in sorted(rows)])


def plot_accuracy_by_depth(table: pd.DataFrame) -> Figure:
    """Draw accuracy by the place of the earliest supporting fact (rows) and length (columns), with n and interval.

    Args:   table: of `rmtkit.generalization.depth_table`: length or num_segments, depth, accuracy, low, high, n.
    Paper:  2402.10790, figure 11.
    """
    check_columns(table, "depth", "accuracy", "low", "high", "n")
    length = "length" if "length" in table else "num_segments"
    check_columns(table, length)
    columns = table[length].unique() if length == "length" else np.sort(table[length].unique())
    depths = table["depth"].cat.categories if hasattr(table["depth"], "cat") else table["depth"].unique()
    cells = table.assign(depth=table["depth"].astype(str), text=_with_interval(table))
    maps = [cells.pivot(index="depth", columns=length, values=value).reindex(index=list(depths), columns=columns)
            for value in ("accuracy", "text")]  # fmt: skip
    width = min(WIDEST, max(5.5, 2.6 + 0.8 * len(columns)))
    figure, axes = subplots(width, 1.5 + 0.55 * len(depths))
    draw_map(axes[0, 0], 100 * maps[0].astype(float), maps[1].fillna("").to_numpy(), fontsize=8)
    unit = "tokens of the model (0k: facts alone)" if length == "length" else "segments"
    axes[0, 0].set(xlabel=f"length of the sample, {unit}", ylabel="place of the earliest supporting\nfact (0 %: start)")
    axes[0, 0].set_title(f"accuracy, %; 95 % interval; n samples; {NO_RESULT}", fontsize=10, loc="left")
    return with_scale(figure, axes)


def _with_interval(table: pd.DataFrame) -> list[str]:
    return [f"{_number(100 * row.accuracy)}\n{100 * row.low:.0f}-{100 * row.high:.0f}\nn={row.n:,}"
            for row in table.itertuples()]  # fmt: skip


def plot_cross_lengths(table: pd.DataFrame, published: pd.DataFrame | None = None, *,
                       this_run: str = "this run", source: str = "") -> Figure:  # fmt: skip
    """Draw accuracy by trained (rows) and evaluated segments (columns); dotted squares are on the trained length.

    Args:   table: of `rmtkit.comparison.cross_table`: name, trained, segment_size, num_segments, n, accuracy 0..1;
            published: the same of `published_cross`, drawn below;  source: where that is from;
            this_run: the name whose rows are in bold.
    Paper:  2402.10790; the matrix is that of the authors' notebook of results.
    """
    tables = [table] if published is None or published.empty else [table, published]
    for each in tables:
        check_columns(each, "name", "trained", "segment_size", "num_segments", "n", "accuracy")
    maps = [_cross_map(each) for each in tables]
    heights, columns = [len(values) for values, _ in maps], max(values.shape[1] for values, _ in maps)
    figure, axes = subplots(min(WIDEST, 4.4 + CELL * columns), 1.6 * len(maps) + 0.3 * sum(heights), len(maps), 1,
                            height_ratios=heights)  # fmt: skip
    for axis, (values, trained) in zip(axes[:, 0], maps, strict=True):
        draw_map(axis, values, _numbers(values), fontsize=8)
        axis.set(xlabel="evaluated segments", ylabel="trained: segments x tokens")
        _embolden(axis, this_run)
        for row, number in enumerate(trained):
            if number in values.columns:
                _mark(axis, values.columns.get_loc(number), row)
    axes[0, 0].set_title(
        f"rmtkit, bold: {this_run}; dotted: the longest trained length; {NO_RESULT}", fontsize=10, loc="left"
    )
    if len(maps) > 1:
        axes[1, 0].set_title(plain(f"published: {source}"), fontsize=10, loc="left")
    return with_scale(figure, axes)


def _cross_map(table: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Return per cent by row and evaluated segments, rows by segment size and trained segments; and those trained."""
    columns = np.sort(table["num_segments"].unique())
    rows, trained = [], []
    for (size, number, name), found in table.groupby(["segment_size", "trained", "name"]):
        found = found.drop_duplicates("num_segments").set_index("num_segments")
        rows.append(found["accuracy"].reindex(columns).rename(f"{number} x {size}: {name} ({counted(found['n'])})"))
        trained.append(number)
    return 100 * pd.DataFrame(rows), trained


# ---------------------------------------------------------------------- a map


def draw_map(axis: Axes, values: pd.DataFrame, texts: np.ndarray, *, fontsize: float) -> None:
    """Draw one map: per cent as colours, the text of each cell in black or white, whatever can be read on it."""
    shown = np.ma.masked_invalid(values.to_numpy(dtype=float))
    axis.set_facecolor(EMPTY)
    axis.pcolormesh(shown, cmap=COLOURMAP, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    axis.grid(False)
    axis.invert_yaxis()
    rows, columns = values.shape
    axis.set_xticks(np.arange(columns) + 0.5, [plain(f"{c:,}" if isinstance(c, (int, np.integer)) else str(c))
                                               for c in values.columns], fontsize=8)  # fmt: skip
    axis.set_yticks(np.arange(rows) + 0.5, [plain(str(name)) for name in values.index], fontsize=8)
    axis.tick_params(length=0)
    for row, column in np.ndindex(rows, columns):
        if texts[row, column]:
            colour = "white" if values.iat[row, column] <= 50 else "black"
            axis.text(column + 0.5, row + 0.5, texts[row, column], ha="center", va="center", color=colour,
                      fontsize=fontsize, linespacing=0.95)  # fmt: skip


def _numbers(values: pd.DataFrame) -> np.ndarray:
    """Return the texts of the cells, "" where there is no result."""
    return values.map(lambda value: "" if pd.isna(value) else _number(value)).to_numpy()


def _number(percent: float) -> str:
    """Write 99.6, 100, 95: one digit behind the point at most, and 100 only for all."""
    return f"{percent:.1f}".removesuffix(".0") if percent < 99.95 or percent >= 100 else ">99.9"


def _embolden(axis: Axes, name: str) -> None:
    """Set the labels of this name's rows, "... name (n = ...", in bold."""
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if f" {name} (" in label.get_text() else "normal")


def _mark(axis: Axes, column: int, row: int) -> None:
    square = Rectangle((column + 0.05, row + 0.07), 0.9, 0.86, fill=False, linestyle=":", linewidth=2,
                       edgecolor="black", zorder=4)  # fmt: skip
    axis.add_patch(square)


def with_scale(figure: Figure, axes: np.ndarray) -> Figure:
    """Add the scale of colours, one for all maps of the figure."""
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label="accuracy, %", pad=0.01, aspect=15, shrink=0.9)
    return figure

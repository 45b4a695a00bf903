"""Language models on BABILong: task by length, accuracy by length, outcomes, recall of retrieval.

Tables are those of `rmtkit.llm.tables`. Lengths stand side by side as they are named, each about twice the one before.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from rmtkit.lengths import length_size
from rmtkit.plotting.heatmaps import CELL, NO_RESULT, WIDEST, draw_map, plain, with_scale
from rmtkit.plotting.style import (
    COLOURS,
    LEGEND,
    LINES,
    MARKERS,
    check_columns,
    counted,
    curve_look,
    draw_interval,
    subplots,
)

COLUMNS = 3  # panels in a row
SHIFT = 0.07  # between the points of two models at one length, in lengths
CROSS = "\N{BALLOT X}"
AVERAGE = "avg"
OUTCOME_LOOKS = {  # right, wrong, and failures, which are hatched
    "right": {"color": COLOURS[0]}, "wrong": {"color": "0.8"},
    "too_long": {"color": COLOURS[1], "hatch": "//"}, "refused": {"color": COLOURS[4], "hatch": "xx"},
    "empty": {"color": COLOURS[8], "hatch": ".."}, "malformed": {"color": COLOURS[5], "hatch": "\\\\"},
    "rate_limit": {"color": COLOURS[6], "hatch": "++"}, "server_error": {"color": COLOURS[3], "hatch": "--"},
    "client_error": {"color": COLOURS[2], "hatch": "oo"}, "timeout": {"color": COLOURS[9], "hatch": "||"},
    "connection": {"color": "0.45", "hatch": "**"},
}  # fmt: skip


def plot_llm_heatmap(table: pd.DataFrame) -> Figure:
    """Draw accuracy by task and length in the benchmark's layout, a map per model; cells with failures say how many.

    Args:   table: of `rmtkit.llm.tables.accuracy_table`, with the rows of `average_table` if these are to be shown:
            model, task, length, n, accuracy 0..1, failed, rule; rows and columns in the order of the table.
    Paper:  2406.10149, figure 2 and table 4; there red to green, here colours that differ in lightness.
    """
    check_columns(table, "model", "task", "length", "n", "accuracy", "failed", "rule")
    lengths, maps = _lengths(table), dict(list(table.groupby("model", sort=False)))
    heights = [cells["task"].nunique() for cells in maps.values()]
    width = min(WIDEST, max(4.6, 2.4 + 1.2 * CELL * len(lengths)))
    figure, axes = subplots(width, sum(0.38 * rows + 0.95 for rows in heights), len(maps), 1, height_ratios=heights)
    for axis, (name, cells) in zip(axes[:, 0], maps.items(), strict=True):
        tasks = list(dict.fromkeys(cells["task"]))
        shape = {"index": tasks, "columns": lengths}
        percent, failed = (cells.pivot(index="task", columns="length", values=value).reindex(**shape)
                           for value in ("accuracy", "failed"))  # fmt: skip
        draw_map(axis, 100 * percent.astype(float), _cell_texts(percent, failed), fontsize=8)
        asked = cells.loc[cells["task"] != AVERAGE, "n"]
        axis.set_title(plain(f"{name} ({counted(asked)} a cell)"), fontsize=10, loc="left")
        axis.set_ylabel("task")
        if AVERAGE in tasks:
            axis.axhline(tasks.index(AVERAGE), color="black", linewidth=1.5)
    axes[-1, 0].set_xlabel(f"length of the sample, tokens (0k: facts alone)\n{_note(table)}", fontsize=9)
    return with_scale(figure, axes)


def _cell_texts(percent: pd.DataFrame, failed: pd.DataFrame) -> np.ndarray:
    """Return the text of each cell: whole per cent, and below how many have failed."""
    texts = np.full(percent.shape, "", dtype=object)
    for row, column in np.ndindex(percent.shape):
        share, number = percent.iat[row, column], failed.iat[row, column]
        failures = f"{int(number)} {CROSS}" if not pd.isna(number) and number else ""
        value = "" if pd.isna(share) else f"{round(100 * share)}"
        texts[row, column] = "\n".join(filter(None, (value, failures)))
    return texts


def _note(table: pd.DataFrame) -> str:
    """Say how answers are scored, what failures are and what a grey cell is."""
    rules = ", ".join(rule.replace("_", " ") for rule in dict.fromkeys(table["rule"]))
    is_asked = "of" not in table or set(table["of"]) == {"asked"}
    failures = f"{CROSS}: no answer ({'counted as not right' if is_asked else 'left out'})"
    return "; ".join([rules, *([failures] if table["failed"].any() else []), NO_RESULT])


# ---------------------------------------------------------------------- accuracy by length


def plot_llm_lengths(table: pd.DataFrame, *, answered: pd.DataFrame | None = None,
                     published: pd.DataFrame | None = None, source: str = "") -> Figure:  # fmt: skip
    """Draw accuracy by length, a panel per task: which model falls, and which does not.

    Args:    table: of `rmtkit.llm.tables.accuracy_table`, with the rows of `average_table` if these are to be shown:
             model, task, length, n, accuracy, low, high (0..1), rule; a curve per model with 95 % intervals;
             answered: the same of those answered: where some were not, a cross stands at their accuracy;
             published: of `rmtkit.comparison.published_by_length`: task, name, length, accuracy 0..1; thin and grey;
             source: of the published curves, in a line below.
    Returns: a figure 10 inches wide, or 9 for a single task.
    """
    check_columns(table, "model", "task", "length", "n", "accuracy", "low", "high", "rule")
    tasks = sorted(dict.fromkeys(table["task"]), key=lambda task: (task == AVERAGE, len(task), task))
    models, lengths = list(dict.fromkeys(table["model"])), _lengths(table)
    columns = min(COLUMNS, len(tasks) + 1)
    rows = -(-(len(tasks) + 1) // columns)
    figure, axes = subplots(10 if len(tasks) > 1 else 9, 3.6 * rows if len(tasks) > 1 else 4.6, rows, columns)
    if len(tasks) == 1:
        axes[0, 0].get_gridspec().set_width_ratios([1.8, 1])
    for axis, task in zip(axes.flat, tasks, strict=False):
        if published is not None:
            _draw_published(axis, published[published["task"] == task], lengths)
        _draw_models(axis, table[table["task"] == task], models, lengths)
        if answered is not None:
            _draw_answered(axis, answered[answered["task"] == task], models, lengths)
        _finish_panel(axis, task, lengths)
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    rules = ", ".join(rule.replace("_", " ") for rule in dict.fromkeys(table["rule"]))
    entries = {text: handle for axis in axes.flat
               for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}  # fmt: skip
    names = sorted(entries, key=lambda text: (text.startswith("published"), text.startswith("of those")))
    axes.flat[len(tasks)].legend([entries[name] for name in names], names, loc="center left", alignment="left",
                                 title=f"{rules}, 95 % intervals", **LEGEND)  # fmt: skip
    if source:
        figure.supxlabel(plain(source), fontsize=8, x=0.01, ha="left")
    return figure


def _draw_models(axis: Axes, cells: pd.DataFrame, models: list[str], lengths: list[str]) -> None:
    for number, name in enumerate(models):
        rows = cells[(cells["model"] == name) & cells["accuracy"].notna()]
        if len(rows):
            draw_interval(axis, _places(rows, number, models, lengths), rows, "accuracy", zorder=4, markersize=5,
                          label=plain(f"{name} ({counted(rows['n'])})"), **curve_look(number))  # fmt: skip


def _draw_answered(axis: Axes, cells: pd.DataFrame, models: list[str], lengths: list[str]) -> None:
    """Draw a cross where some questions have no answer: the accuracy of those that have."""
    rows = cells[(cells["failed"] > 0) & cells["accuracy"].notna()]
    for number, name in enumerate(models):
        mine = rows[rows["model"] == name]
        if len(mine):
            look = {"color": COLOURS[number % len(COLOURS)], "marker": "x", "linestyle": "", "markersize": 7}
            axis.plot(_places(mine, number, models, lengths), 100 * mine["accuracy"], zorder=5, **look,
                      label=plain(f"of those answered: {name}"))  # fmt: skip


def _draw_published(axis: Axes, published: pd.DataFrame, lengths: list[str]) -> None:
    for number, (name, rows) in enumerate(published.groupby("name", sort=False)):
        rows = rows[rows["length"].isin(lengths)]
        look = {"color": "0.6", "linestyle": LINES[number % len(LINES)], "marker": MARKERS[-1 - number % len(MARKERS)]}
        rows = rows.assign(place=rows["length"].map(lengths.index)).sort_values("place")
        axis.plot(rows["place"], 100 * rows["accuracy"], linewidth=1, markersize=3.5, zorder=2, **look,
                  label=plain(f"published: {name}"))  # fmt: skip


def _finish_panel(axis: Axes, title: str, lengths: list[str]) -> None:
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_title("mean of qa1 to qa5" if title == AVERAGE else plain(title))
    axis.set(ylim=(-4, 104), xlim=(-0.5, len(lengths) - 0.5))
    axis.set(xlabel="length, tokens (0k: facts alone)", ylabel="accuracy, %")


def _places(rows: pd.DataFrame, number: int, models: list[str], lengths: list[str]) -> np.ndarray:
    """Return where the points of a model stand: at their lengths, beside those of the other models."""
    return rows["length"].map(lengths.index).to_numpy() + SHIFT * (number - (len(models) - 1) / 2)


def _lengths(table: pd.DataFrame) -> list[str]:
    """Return the lengths from short to long."""
    return sorted(dict.fromkeys(table["length"]), key=length_size)


# ---------------------------------------------------------------------- outcomes


def plot_outcomes(table: pd.DataFrame) -> Figure:
    """Draw shares of right answers, wrong ones and failures by reason, a panel per model, a bar per length.

    Args:   table: of `rmtkit.llm.tables.outcome_table`: model, length, outcome, n, share, low, high (0..1).
    Paper:  2406.10149, figure 6: requests that were refused, removed or counted as wrong.
    """
    check_columns(table, "model", "length", "outcome", "n", "share", "low", "high")
    models, lengths = list(dict.fromkeys(table["model"])), _lengths(table)
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure, axes = subplots(min(WIDEST, 1.4 + 3.1 * columns), 3.1 * rows + 0.6, rows, columns, sharey=True)
    for axis, name in zip(axes.flat, models, strict=False):
        _draw_bars(axis, table[table["model"] == name], lengths)
        asked = table.loc[table["model"] == name, "n"]
        axis.set_title(plain(f"{name}\n({counted(asked)} a length)"), fontsize=9)
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("of the questions asked, %")
    entries = {
        bars.get_label(): bars for axis in axes.flat for bars in axis.containers if isinstance(bars, BarContainer)
    }
    names = [name for name in OUTCOME_LOOKS if name in entries]
    labels = [name if name in ("right", "wrong") else f"no answer: {name.replace('_', ' ')}" for name in names]
    figure.legend(
        [entries[name] for name in names], labels, loc="outside lower center", ncols=min(4, len(names)), **LEGEND
    )
    return figure


def _draw_bars(axis: Axes, table: pd.DataFrame, lengths: list[str]) -> None:
    """Draw the bars of one model: right at the bottom, with its interval, failures at the top."""
    below = np.zeros(len(lengths))
    for outcome, look in OUTCOME_LOOKS.items():
        rows = table[table["outcome"] == outcome].set_index("length").reindex(lengths)
        if rows["share"].notna().any():
            heights = 100 * rows["share"].fillna(0).to_numpy()
            axis.bar(
                range(len(lengths)),
                heights,
                0.75,
                bottom=below,
                edgecolor="white",
                linewidth=0.6,
                label=outcome,
                **look,
            )
            below += heights
    right = table[table["outcome"] == "right"]
    draw_interval(axis, right["length"].map(lengths.index), right, "share", linestyle="", color="black", linewidth=1.2)
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set(ylim=(0, 101), xlabel="length, tokens (0k: facts alone)")


# ---------------------------------------------------------------------- retrieval


def plot_recall(table: pd.DataFrame) -> Figure:
    """Draw the share of supporting facts that retrieval kept, by length: a panel per retriever, a curve per task.

    Args:   table: of `rmtkit.llm.tables.recall_table`: model, task, length, n, recall, low, high (0..1).
    Paper:  2402.10790, figure 7.
    """
    check_columns(table, "model", "task", "length", "n", "recall", "low", "high")
    models, tasks, lengths = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["task"])), _lengths(table)
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure, axes = subplots(min(WIDEST, 2.5 + 4.2 * columns), 3.9 * rows, rows, columns, sharey=True)
    for axis, name in zip(axes.flat, models, strict=False):
        for number, task in enumerate(tasks):
            cells = table[(table["model"] == name) & (table["task"] == task)]
            if len(cells):
                draw_interval(axis, _places(cells, number, tasks, lengths), cells, "recall", markersize=5,
                              label=plain(f"{task} ({counted(cells['n'])})"), **curve_look(number))  # fmt: skip
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set_title(plain(name), fontsize=10)
        axis.set(ylim=(-4, 104), xlim=(-0.5, len(lengths) - 0.5), xlabel="length, tokens (0k: facts alone)")
        axis.legend(title="95 % intervals", loc="lower left", **LEGEND)
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylabel("supporting facts kept, %")
    return figure

"""Language models on BABILong: task by length, accuracy by length, outcomes, recall of retrieval.

Tables are those of `rmtkit.llm.tables`. Lengths stand side by side as they are named, each about twice the one before.
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from rmtkit.lengths import length_size
from rmtkit.plotting.heatmaps import CELL, NO_RESULT, WIDEST, draw_map, with_scale
from rmtkit.plotting.style import (
    COLOURS,
    LEGEND,
    LINES,
    MARKERS,
    check_columns,
    counted,
    curve_look,
    draw_interval,
    plain,
    subplots,
)

COLUMNS = 3  # panels in a row
SHIFT = 0.07  # between the points of two models at one length, in lengths
CROSS = "\N{BALLOT X}"
AVERAGE = "avg"
PUBLISHED, OF_ANSWERED = "published", "of those answered"  # what labels begin with
KIND_LOOKS = {  # the first that no model on the same task has
    "model": [{"color": COLOURS[0], "marker": "o", "linewidth": 2.4, "zorder": 5}],
    "retrieval": [{"color": COLOURS[1], "marker": "s"}],
    "memory": [{"color": colour, "marker": "D", "linewidth": 2.4, "zorder": 5}
               for colour in ("black", COLOURS[2], COLOURS[5])],
    "baseline": [{"color": COLOURS[4], "marker": "^", "linestyle": ":"},
                 {"color": COLOURS[9], "marker": "v", "linestyle": ":"}],
}  # fmt: skip
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
            model, task, length, n, accuracy 0..1, failed, rule.
    Paper:  2406.10149, figure 2 and table 4; there red to green, here colours that differ in lightness.
    """
    check_columns(table, "model", "task", "length", "n", "accuracy", "failed", "rule")
    models, tasks, lengths = list(dict.fromkeys(table["model"])), _tasks(table), _lengths(table)
    width = 0.5 + 1.1 * CELL * len(lengths)
    columns = max(1, min(_columns(models), int((WIDEST - 1) // width)))
    rows = -(-len(models) // columns)
    height = rows * (0.36 * len(tasks) + 0.75) + 0.5
    figure, axes = subplots(max(4.8, min(WIDEST, 1 + width * columns)), height, rows, columns)
    for axis, name in zip(axes.flat, models, strict=False):
        _draw_model_map(axis, table[table["model"] == name], tasks, lengths)
        axis.set_title(plain(_wrapped(name, 14 + 4 * len(lengths))), fontsize=9, loc="left")
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis in axes[:, 1:].flat:
        axis.tick_params(labelleft=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("task")
    figure.supxlabel(f"length of the sample, tokens (0k: facts alone)\n{_note(table)}", fontsize=9)
    return with_scale(figure, axes)


def _draw_model_map(axis: Axes, cells: pd.DataFrame, tasks: list[str], lengths: list[str]) -> None:
    """Draw the map of one model, with a line above the average."""
    percent, failed = (cells.pivot(index="task", columns="length", values=value).reindex(index=tasks, columns=lengths)
                       for value in ("accuracy", "failed"))  # fmt: skip
    draw_map(axis, 100 * percent.astype(float), _cell_texts(percent, failed), fontsize=8)
    if AVERAGE in tasks:
        axis.axhline(tasks.index(AVERAGE), color="black", linewidth=1.5)


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
    """Say how answers are scored, how many, what failures are and what a grey cell is."""
    rules = f"{_rules(table)}, {counted(table.loc[table['task'] != AVERAGE, 'n'])} a cell"
    is_asked = "of" not in table or set(table["of"]) == {"asked"}
    failures = f"{CROSS}: no answer ({'counted as not right' if is_asked else 'left out'})"
    return "; ".join([rules, *([failures] if table["failed"].any() else []), NO_RESULT])


# ---------------------------------------------------------------------- accuracy by length


def plot_llm_lengths(table: pd.DataFrame, *, kinds: dict[str, str] | None = None,
                     answered: pd.DataFrame | None = None, published: pd.DataFrame | None = None,
                     source: str = "") -> Figure:  # fmt: skip
    """Draw accuracy by length, a panel per task: which model falls, and which does not.

    Args:    table: of `rmtkit.llm.tables.accuracy_table`, with the rows of `average_table` if these are to be shown:
             model, task, length, n, accuracy, low, high (0..1), rule; a curve per model with 95 % intervals;
             kinds: of `rmtkit.llm.tables.model_kinds`: model -> model, retrieval, memory or baseline, for the looks;
             answered: the same of those answered: where some were not, a cross stands at their accuracy;
             published: of `rmtkit.comparison.published_by_length`: task, name, length, accuracy 0..1; thin and grey;
             source: of the published curves, in the title of the legend.
    Returns: a figure 10 inches wide, or 7 for a single task.
    """
    check_columns(table, "model", "task", "length", "n", "accuracy", "low", "high", "rule")
    tasks, lengths, looks = _tasks(table), _lengths(table), _looks(table, kinds or {})
    columns = _columns(tasks)
    rows = -(-len(tasks) // columns)
    size = (10, 3.1 * rows + 1.7) if len(tasks) > 1 else (7, 6)
    figure, axes = subplots(*size, rows, columns, sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        cells = table[table["task"] == task]
        if published is not None:
            _draw_published(axis, published[published["task"] == task], lengths)
        _draw_models(axis, cells, looks, lengths)
        if answered is not None:
            _draw_answered(axis, answered[answered["task"] == task], looks, lengths)
        name = "mean of qa1 to qa5" if task == AVERAGE else plain(task)
        axis.set_title(f"{name} ({counted(cells['n'])})", fontsize=10)
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(-4, 104), xlabel="length, tokens")
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    note = f"{_rules(table)}, 95 % intervals; 0k: facts alone"
    _legend(figure, "\n".join(filter(None, (note, _wrapped(source, int(14 * size[0]))))))
    return figure


def _looks(table: pd.DataFrame, kinds: dict[str, str]) -> dict[str, dict]:
    """Return the look and label of each model, by its kind where that is known.

    Such as share no task can look alike: they then are one entry of the legend, with all their names.
    """
    looks: dict[str, dict] = {}
    tasks = {name: set(cells["task"]) for name, cells in table.groupby("model", sort=False)}
    for number, name in enumerate(tasks):
        choices = KIND_LOOKS.get(kinds.get(name, ""), [curve_look(number)])
        beside = [looks[other] for other in looks if tasks[other] & tasks[name]]
        looks[name] = next((look for look in choices if look not in beside), choices[-1])
    return {name: {**look, "label": plain(_label(name, looks, tasks))} for name, look in looks.items()}


def _label(name: str, looks: dict[str, dict], tasks: dict[str, set]) -> str:
    """Return the names of all that look like a model, if no two of them are on the same task; else its own."""
    alike = [other for other in looks if looks[other] == looks[name]]
    share_none = sum(len(tasks[other]) for other in alike) == len(set.union(*(tasks[other] for other in alike)))
    return ", ".join(alike) if share_none else name


def _draw_models(axis: Axes, cells: pd.DataFrame, looks: dict[str, dict], lengths: list[str]) -> None:
    for name, look in looks.items():
        rows = cells[(cells["model"] == name) & cells["accuracy"].notna()]
        if len(rows):
            places = _places(rows, _labels(looks), look["label"], lengths)
            draw_interval(axis, places, rows, "accuracy", markersize=5, **{"zorder": 4, "elinewidth": 1.2, **look})


def _labels(looks: dict[str, dict]) -> list[str]:
    return list(dict.fromkeys(look["label"] for look in looks.values()))


def _draw_answered(axis: Axes, cells: pd.DataFrame, looks: dict[str, dict], lengths: list[str]) -> None:
    """Draw a cross where some questions have no answer: the accuracy of those that have."""
    rows = cells[(cells["failed"] > 0) & cells["accuracy"].notna()]
    for name, look in looks.items():
        mine = rows[rows["model"] == name]
        if len(mine):
            cross = {"color": look["color"], "marker": "x", "linestyle": "", "markersize": 8, "zorder": 5}
            places = _places(mine, _labels(looks), look["label"], lengths)
            axis.plot(places, 100 * mine["accuracy"], label=plain(f"{OF_ANSWERED}: {name}"), **cross)


def _draw_published(axis: Axes, published: pd.DataFrame, lengths: list[str]) -> None:
    for number, (name, rows) in enumerate(published.groupby("name", sort=False)):
        rows = rows[rows["length"].isin(lengths)]
        look = {"color": "0.6", "linestyle": LINES[number % len(LINES)], "marker": MARKERS[-1 - number % len(MARKERS)]}
        rows = rows.assign(place=rows["length"].map(lengths.index)).sort_values("place")
        axis.plot(rows["place"], 100 * rows["accuracy"], linewidth=1, markersize=3.5, zorder=2, **look,
                  label=plain(f"{PUBLISHED}: {name}"))  # fmt: skip


def _legend(figure: Figure, title: str = "") -> None:
    """Put one legend below all panels: models, then those answered, then published ones."""
    found = [axis.get_legend_handles_labels() for axis in figure.axes]
    entries = {text: handle for handles, texts in found for handle, text in zip(handles, texts, strict=True)}
    names = sorted(entries, key=lambda text: (text.startswith(PUBLISHED), text.startswith(OF_ANSWERED)))
    widest = 0.45 + 0.078 * max(map(len, names), default=0)  # inches of an entry
    columns = max(1, min(4, len(names), int(figure.get_figwidth() // widest)))
    legend = figure.legend([entries[name] for name in names], names, loc="outside lower center", ncols=columns,
                           title=plain(title), title_fontsize=9, **LEGEND)  # fmt: skip
    legend.get_title().set_multialignment("center")


def _places(rows: pd.DataFrame, names: list[str], name: str, lengths: list[str]) -> np.ndarray:
    """Return where the points of a curve stand: at their lengths, beside those of the other curves."""
    return rows["length"].map(lengths.index).to_numpy() + SHIFT * (names.index(name) - (len(names) - 1) / 2)


def _columns(panels: list[str]) -> int:
    """Return how many panels stand in a row: three, or two of four."""
    return 2 if len(panels) == 4 else min(COLUMNS, len(panels))


def _tasks(table: pd.DataFrame) -> list[str]:
    """Return the tasks by their numbers, the average last."""
    return sorted(dict.fromkeys(table["task"]), key=lambda task: (task == AVERAGE, len(task), task))


def _lengths(table: pd.DataFrame) -> list[str]:
    """Return the lengths from short to long."""
    return sorted(dict.fromkeys(table["length"]), key=length_size)


def _rules(table: pd.DataFrame) -> str:
    return ", ".join(rule.replace("_", " ") for rule in dict.fromkeys(table["rule"]))


def _wrapped(name: str, width: int) -> str:
    """Return a name in lines of so many characters."""
    return "\n".join(textwrap.wrap(name, width, break_long_words=True))


# ---------------------------------------------------------------------- outcomes


def plot_outcomes(table: pd.DataFrame) -> Figure:
    """Draw shares of right answers, wrong ones and failures by reason, a panel per model, a bar per length.

    Args:   table: of `rmtkit.llm.tables.outcome_table`: model, length, outcome, n, share, low, high (0..1).
    Paper:  2406.10149, figure 6: requests that were refused, removed or counted as wrong.
    """
    check_columns(table, "model", "length", "outcome", "n", "share", "low", "high")
    models, lengths = list(dict.fromkeys(table["model"])), _lengths(table)
    columns = _columns(models)
    rows = -(-len(models) // columns)
    figure, axes = subplots(min(WIDEST, 1.4 + 3.1 * columns), 3.1 * rows + 0.6, rows, columns, sharey=True)
    for axis, name in zip(axes.flat, models, strict=False):
        _draw_bars(axis, table[table["model"] == name], lengths)
        asked = table.loc[table["model"] == name, "n"]
        axis.set_title(plain(f"{_wrapped(name, 45)}\n({counted(asked)} a length)"), fontsize=9)
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("of the questions asked, %")
    entries = {
        bars.get_label(): bars for axis in axes.flat for bars in axis.containers if isinstance(bars, BarContainer)
    }
    names = [name for name in OUTCOME_LOOKS if name in entries]
    labels = [name if name in ("right", "wrong") else f"no answer: {name.replace('_', ' ')}" for name in names]
    figure.legend([entries[name] for name in names], labels, loc="outside lower center", ncols=min(4, len(names)),
                  title="bars: 95 % intervals of the share that is right", title_fontsize=9, **LEGEND)  # fmt: skip
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
    models, tasks, lengths = list(dict.fromkeys(table["model"])), _tasks(table), _lengths(table)
    columns = _columns(models)
    rows = -(-len(models) // columns)
    figure, axes = subplots(min(WIDEST, 2.8 + 3.6 * columns), 3.6 * rows + 0.8, rows, columns, sharey=True)
    for axis, name in zip(axes.flat, models, strict=False):
        for number, task in enumerate(tasks):
            cells = table[(table["model"] == name) & (table["task"] == task)]
            if len(cells):
                draw_interval(axis, _places(cells, tasks, task, lengths), cells, "recall", markersize=5,
                              label=plain(f"{task} ({counted(cells['n'])})"), **curve_look(number))  # fmt: skip
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set_title(plain(_wrapped(name, 50)), fontsize=10)
        axis.set(ylim=(-4, 104), xlim=(-0.5, len(lengths) - 0.5), xlabel="length, tokens (0k: facts alone)")
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylabel("supporting facts kept, %")
    _legend(figure, "95 % intervals")
    return figure

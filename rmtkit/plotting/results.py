"""Accuracy of trained models from 0k to 10M tokens, a panel per task, beside published curves: the README's figure."""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rmtkit.lengths import LENGTHS, TOKENS
from rmtkit.plotting.style import COLOURS, LEGEND, check_columns, draw_interval, subplots

COLUMNS = 3  # panels in a row
FACTS_ALONE = 2**9  # where 0k is drawn: a log axis has no zero
TICKS = ("0k", "1k", "4k", "16k", "64k", "256k", "1M", "10M")
PLACES = {name: max(size, FACTS_ALONE) for name, size in TOKENS.items()} | {"500k": 2**19, "2M": 2**21}
OURS = (  # of a panel's first model, its second, and those after it
    {"color": COLOURS[0], "marker": "o"}, {"color": "black", "marker": "s"}, {"color": COLOURS[5], "marker": "p"},
)  # fmt: skip
SEED = {"color": COLOURS[9], "linestyle": "", "markersize": 6, "zorder": 6}  # of another seed: points only
SEED_MARKERS = (".", "x", "+", "1")
LOOKS = {  # of published series: recurrent models in colours, language models in grey
    "RMT": {"color": COLOURS[3], "marker": "v"},
    "RMT-R": {"color": COLOURS[1], "marker": "^", "linestyle": "--"},
    "ARMT": {"color": COLOURS[2], "marker": "D"},
    "Mamba": {"color": COLOURS[4], "marker": "P", "linestyle": "-."},
    "GPT-4": {"color": "0.35", "marker": "X", "linestyle": ":"},
    "Gemini 1.5 Pro": {"color": "0.55", "marker": "*", "linestyle": ":", "markersize": 6},
}


def plot_results(results: pd.DataFrame, published: pd.DataFrame | None = None, *, trained: dict[str, int] | None = None,
                 baselines: dict[str, float] | None = None, caption: str = "") -> Figure:  # fmt: skip
    """Draw accuracy by length of one model or several, a panel per task, with published curves.

    Args:    results: task, name (of the curve, such as "rmtkit"; with "-seed" in it drawn as points alone), length
             ("0k" .. "10M"), accuracy, low, high, n;
             published: of `rmtkit.results.published_series`: task, series, length, accuracy in per cent;
             trained: task -> tokens of the longest training sample; these lengths are shaded;
             baselines: name -> accuracy 0..1, horizontal lines in every panel;  caption: a line below all.
    Returns: a figure 10 inches wide for two tasks or more: readable at 100 dpi.
    """
    check_columns(results, "task", "name", "length", "accuracy", "low", "high", "n")
    tasks = sorted(results["task"].unique(), key=lambda task: int(task.removeprefix("qa")))
    columns = min(COLUMNS, len(tasks) + 1)
    rows = -(-(len(tasks) + 1) // columns)
    figure, axes = subplots(10 if len(tasks) > 1 else 9, 4.2 * rows if len(tasks) > 1 else 4.8, rows, columns)
    if len(tasks) == 1:
        axes[0, 0].get_gridspec().set_width_ratios([2.6, 1])
    for axis, task in zip(axes.flat, tasks, strict=False):
        _draw_task(axis, results[results["task"] == task], (trained or {}).get(task, 0))
        if published is not None:
            _draw_published(axis, published[published["task"] == task])
        for (name, share), line in zip((baselines or {}).items(), ("--", ":", "-."), strict=False):
            axis.axhline(100 * share, color="0.35", linestyle=line, linewidth=1.2, label=f"{name}: {100 * share:.0f} %")
        _finish_panel(axis, task)
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    entries = _legend_entries(axes.flat)
    axes.flat[len(tasks)].legend(list(entries.values()), list(entries), loc="center left", title=_counts(results),
                                 alignment="left", **LEGEND)  # fmt: skip
    figure.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    return figure


def _legend_entries(axes) -> dict:
    """Return label -> handle of all panels, ours first."""
    entries = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    signs = ("published: ", ": ", "length of", ", ")  # of what comes the later, the earlier the sign
    return dict(sorted(entries.items(), key=lambda entry: [sign in entry[0] for sign in signs]))


def _draw_task(axis: Axes, results: pd.DataFrame, trained: int) -> None:
    """Draw our curves, above the published ones, and the trained lengths."""
    curves = {name: rows.assign(place=rows["length"].map(PLACES)).sort_values("place")
              for name, rows in results.groupby("name", sort=False)}  # fmt: skip
    number, markers = 0, itertools.cycle(SEED_MARKERS)
    for name, rows in curves.items():
        if number and "-seed" in name:
            axis.plot(rows["place"], 100 * rows["accuracy"], marker=next(markers), label=name, **SEED)
            continue
        look = OURS[min(number, len(OURS) - 1)]
        draw_interval(axis, rows["place"], rows, "accuracy", label=name, markersize=5.5, zorder=5, **look)
        number += 1
    if trained:
        axis.axvspan(FACTS_ALONE / 1.4, max(trained, FACTS_ALONE * 1.4), color="0.92", zorder=0, linewidth=0,
                     label="length of training samples")  # fmt: skip


def _draw_published(axis: Axes, published: pd.DataFrame) -> None:
    for series, rows in published.groupby("series", sort=False):
        rows = rows.assign(place=rows["length"].map(PLACES)).dropna(subset="place").sort_values("place")
        look = {"markersize": 4, "linewidth": 1, **LOOKS[series]}
        axis.plot(rows["place"], rows["accuracy"], label=f"published: {series}", **look)


def _finish_panel(axis: Axes, task: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks([PLACES[name] for name in TICKS], TICKS, fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(title=task, ylim=(-3, 104), xlim=(FACTS_ALONE / 1.4, 1.4 * PLACES["10M"]))
    axis.set(xlabel="length, tokens (0k: facts alone)", ylabel="accuracy, %")


def _counts(results: pd.DataFrame) -> str:
    """Return "n = 500 (0k to 128k), 100 (256k to 1M)": the samples of our points, lengths with as many together."""
    ranges = results.groupby("length")["n"].agg(["min", "max"])
    groups: list[tuple[str, list[str]]] = []
    for name in (name for name in LENGTHS if name in ranges.index):
        low, high = ranges.loc[name]
        text = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        if groups and groups[-1][0] == text:
            groups[-1][1].append(name)
        else:
            groups.append((text, [name]))
    parts = [f"{text} ({' to '.join(dict.fromkeys((names[0], names[-1])))})" for text, names in groups]
    return "ours: exact match, 95 % intervals,\nn = " + ",\n".join(parts)

"""Accuracy by length of the sample, beside published curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rmtkit.plotting.style import (
    LEGEND,
    LINES,
    Baselines,
    check_columns,
    counted,
    curve_look,
    draw_interval,
    short_count,
    subplots,
)

PUBLISHED_SEGMENT = 512  # tokens in a segment of the published tables


def _finish_accuracy(figure: Figure, table: pd.DataFrame, baselines: Baselines) -> Figure:
    """Draw the baselines, label the accuracy axis and put the legend below."""
    axis, rules = figure.axes[0], table["rule"].unique() if "rule" in table else []
    for (name, share), line in zip((baselines or {}).items(), LINES[1:] * 4, strict=False):
        axis.axhline(100 * share, color="0.35", linestyle=line, linewidth=1.2, label=f"{name}: {100 * share:.0f} %")
    axis.set(ylim=(-3, 103), ylabel=f"accuracy ({rules[0].replace('_', ' ')}), %" if len(rules) == 1 else "accuracy, %")
    is_wide = any(len(text) > 60 for text in axis.get_legend_handles_labels()[1])
    figure.legend(loc="outside lower center", ncols=1 if is_wide else 2, **LEGEND)
    return figure


def _draw_series(axis: Axes, table: pd.DataFrame, series: str | None, x: pd.Series) -> None:
    """Draw the accuracy over x (of the same index), one curve for each value of the column `series`."""
    check_columns(table, *([series] if series else []))
    groups = table.groupby(series, sort=False, observed=True) if series else [("ours", table)]
    for number, (name, rows) in enumerate(groups):
        places = x[rows.index].sort_values()
        label = f"{name}{' segments' * (series == 'num_segments')} ({counted(rows['n'])})"
        draw_interval(axis, places, rows.loc[places.index], "accuracy", label=label, **curve_look(number))


def plot_accuracy_by_length(table: pd.DataFrame, *, series: str | None = None, baselines: Baselines = None,
                            trained_segments: int | tuple[int, ...] = 0,
                            published: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """Draw accuracy against the length of the sample.

    Args:    table: num_tokens, num_segments, accuracy, low, high, n, as `accuracy_table` makes it; optionally rule;
             series: a column that tells several curves apart;  baselines: name -> accuracy 0..1, horizontal lines;
             trained_segments: the longest sample of the training or all stages; these lengths are shaded;
             published: rows of one task in the format of a published table (source, model, variant, length, segments,
             accuracy in per cent), drawn in grey. Its segments have 512 tokens.
    """
    check_columns(table, "num_tokens", "num_segments", "accuracy", "low", "high", "n")
    figure, axes = subplots(8, 4.8 if published is None else 5.6)
    axis, lengths = axes[0, 0], table.sort_values("num_tokens").drop_duplicates("num_tokens")
    ticks = {row.num_tokens: f"{short_count(row.num_tokens)}\n{row.num_segments} seg" for row in lengths.itertuples()}
    trained = lengths["num_tokens"][lengths["num_segments"] <= np.max(trained_segments)]
    if len(trained):
        label = f"trained: up to {np.max(trained_segments)} segments"
        axis.axvspan(trained.min() / 1.2, trained.max() * 1.2, color="0.93", zorder=0, linewidth=0, label=label)
    if published is not None:
        ticks |= {place: name for place, name in _draw_published(axis, published).items() if place > 1.5 * max(ticks)}
    _draw_series(axis, table, series, table["num_tokens"])
    axis.set_xscale("log", base=2)
    ticks = _thinned(ticks)
    axis.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("length of the sample: tokens, and segments")
    return _finish_accuracy(figure, table, baselines)


def _thinned(ticks: dict[float, str]) -> dict[float, str]:
    """Leave out ticks whose labels would run into the one on their left."""
    kept, last, room = {}, 0.0, (max(ticks) / min(ticks)) ** (1 / 14)
    for place in sorted(ticks):
        if place >= last * room:
            kept[place], last = ticks[place], place
    return kept


def _draw_published(axis: Axes, published: pd.DataFrame) -> dict[float, str]:
    """Draw published curves in grey and return their lengths as ticks."""
    check_columns(published, "source", "model", "variant", "length", "segments", "accuracy")
    if "task" in published and published["task"].nunique() > 1:
        raise ValueError(f"published holds tasks {', '.join(published['task'].unique())}; give the rows of one")
    nominal = published["length"].map(lambda text: float(text[:-1]) * {"k": 2**10, "M": 10**6}[text[-1]])
    exact = pd.to_numeric(published["segments"]) * PUBLISHED_SEGMENT
    drawn = published.assign(variant=published["variant"].fillna(""), num_tokens=exact.fillna(nominal))
    drawn = drawn[drawn["num_tokens"] > 0].sort_values("num_tokens")  # "0k", facts alone, has no place on a log axis
    for number, (name, rows) in enumerate(drawn.groupby(["source", "model", "variant"], sort=False)):
        label = "published: " + ", ".join(filter(None, (name[1], name[2], name[0])))
        look = curve_look(number) | {"color": "0.5", "linestyle": LINES[number % len(LINES)]}
        axis.plot(rows["num_tokens"], rows["accuracy"], markersize=4, linewidth=1.3, label=label, **look)
    return dict(zip(drawn["num_tokens"], drawn["length"], strict=True))

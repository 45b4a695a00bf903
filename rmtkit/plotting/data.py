"""Where facts lie, how often answers and numbers occur, what answers without reading get."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmtkit.plotting.style import COLOURS, LEGEND, check_columns, counted, curve_look, draw_interval, subplots

MAX_SAMPLES_DRAWN = 40  # rows of `plot_fact_positions`
MAX_WORDS_DRAWN = 15


def plot_fact_positions(table: pd.DataFrame) -> Figure:
    """Draw where facts lie: samples one by one, and the distribution over all of them.

    Args:   table: of `explore.fact_table`: index (of the sample), depth (0..1), is_supporting.
    """
    check_columns(table, "index", "depth", "is_supporting")
    rows = {index: row for row, index in enumerate(table["index"].unique())}
    kinds = table["is_supporting"].map({True: "supporting fact", False: "other fact"})
    table = table.assign(row=table["index"].map(rows), kind=kinds, place=100 * table["depth"])
    figure, ((above,), (below,)) = subplots(8, 5.6, 2, 1, sharex=True, height_ratios=(3, 2))
    colours = {"supporting fact": COLOURS[1], "other fact": "0.5"}
    sns.scatterplot(table[table["row"] < MAX_SAMPLES_DRAWN], x="place", y="row", hue="kind", style="kind",
                    palette=colours, markers={"supporting fact": "o", "other fact": "X"}, ax=above)  # fmt: skip
    above.set(ylabel=f"sample (the first {min(len(rows), MAX_SAMPLES_DRAWN)})", xlim=(-2, 102))
    above.invert_yaxis()
    sns.histplot(table, x="place", bins=range(0, 101, 10), stat="percent", shrink=0.9, label="all facts", ax=below)
    below.axhline(10, color="0.35", linestyle="--", label="even spread")
    below.set(xlabel="where a fact starts, % of the sample (0 = its first token)",
              ylabel=f"share of facts, %\nn = {len(table):,} in {len(rows):,} samples")  # fmt: skip
    for axis in (above, below):
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)
    return figure


def plot_distributions(table: pd.DataFrame) -> Figure:
    """Draw how often each value of a few quantities occurs, a panel per quantity, sources side by side.

    Of words the `MAX_WORDS_DRAWN` most frequent ones are shown.

    Args:   table: of `explore.distribution_table`: quantity, value, source, share, low, high, n.
    """
    check_columns(table, "quantity", "value", "source", "share", "low", "high", "n")
    quantities, sources = table["quantity"].unique(), table["source"].unique()
    figure, axes = subplots(4.6 * len(quantities), 3.8, 1, len(quantities))
    for axis, quantity in zip(axes.flat, quantities, strict=True):
        of_quantity, place, name = table[table["quantity"] == quantity], None, quantity
        if isinstance(of_quantity["value"].iloc[0], str):
            words = of_quantity.groupby("value")["share"].sum().nlargest(MAX_WORDS_DRAWN)
            num_words = of_quantity["value"].nunique()
            name = quantity if len(words) == num_words else f"{quantity} ({len(words)} most frequent of {num_words})"
            of_quantity = of_quantity[of_quantity["value"].isin(words.index)]
            place = {word: number for number, word in enumerate(sorted(words.index))}
            axis.set_xticks(range(len(place)), list(place), rotation=45 if max(map(len, place)) > 4 else 0)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, source in enumerate(sources):
            rows = of_quantity[of_quantity["source"] == source]
            x = rows["value"].map(place.get if place else float) + 0.2 * (number - (len(sources) - 1) / 2)
            label = f"{source} ({counted(rows['n'])})"
            draw_interval(axis, x, rows, "share", linestyle="", label=label, **curve_look(number))
        axis.set(xlabel=name, ylabel="share, %", ylim=(0, None))
    curves = axes.flat[0].get_legend_handles_labels()
    figure.legend(*curves, loc="outside upper center", ncols=len(sources), **LEGEND)
    return figure


def plot_floors(table: pd.DataFrame) -> Figure:
    """Draw what answers without reading get in each task.

    Args:   table: of `explore.floor_table`: task, baseline, accuracy, low, high, n; tasks in the order wanted.
    """
    check_columns(table, "task", "baseline", "accuracy", "low", "high", "n")
    place = {task: number for number, task in enumerate(sorted(table["task"].unique(), key=lambda name: int(name[2:])))}
    figure, axes = subplots(9, 3.8)
    for number, (baseline, rows) in enumerate(table.groupby("baseline", sort=False)):
        x = rows["task"].map(place) + 0.2 * (number - 0.5)
        label = f"{baseline} ({counted(rows['n'])})"
        draw_interval(axes[0, 0], x, rows, "accuracy", linestyle="", label=label, **curve_look(number))
    axes[0, 0].set_xticks(range(len(place)), list(place), rotation=45)
    axes[0, 0].set(xlabel="task", ylabel="exact match, %", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=2, **LEGEND)
    return figure

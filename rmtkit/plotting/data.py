"""Where facts lie, what they take of a sample, how often answers occur, what answers without reading get."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from rmtkit.plotting.style import (
    COLOURS,
    LEGEND,
    check_columns,
    counted,
    curve_look,
    draw_interval,
    subplots,
    use_log_scale,
)

MAX_SAMPLES_DRAWN = 40  # rows of `plot_fact_positions`
MAX_WORDS_DRAWN = 15


def plot_fact_positions(table: pd.DataFrame) -> Figure:
    """Draw where facts lie: samples one by one, and the distribution over all of them.

    Args:   table: of `statistics.fact_table`: index (of the sample), depth (0..1), is_supporting.
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

    Args:   table: of `statistics.distribution_table`: quantity, value, source, share, low, high, n.
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

    Args:   table: of `statistics.floor_table`: task, baseline, accuracy, low, high, n; tasks in the order wanted.
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


def plot_shares(table: pd.DataFrame) -> Figure:
    """Draw what share of a prompt its facts are, by length; both axes are logarithmic.

    Args:   table: of `statistics.share_table`: num_tokens, num_segments, share, low, high (5 and 95 % of samples), n.
    """
    check_columns(table, "num_tokens", "num_segments", "share", "low", "high", "n")
    figure, axes = subplots(7, 3.8)
    axis = axes[0, 0]
    label = f"mean; bars: 5 to 95 % of the samples ({counted(table['n'])} a length)"
    draw_interval(axis, table["num_tokens"], table, "share", label=label, **curve_look(0))
    axis.set_xscale("log", base=2)
    use_log_scale(axis)
    axis.set_xticks(table["num_tokens"], [f"{r.num_tokens:,}\n{r.num_segments} seg" for r in table.itertuples()])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="length of the sample: tokens, and segments", ylabel="facts, % of the prompt's tokens")
    figure.legend(loc="outside upper center", **LEGEND)
    return figure


def plot_sizes(table: pd.DataFrame, segment_size: int) -> Figure:
    """Draw what the facts and the question of each task take, and how many tokens whole segments have.

    Args:   table: of `statistics.size_table`: task, n, median, and the 5 and 95 % quantiles, in tokens;
            segment_size: in tokens.
    """
    check_columns(table, "task", "n", "5 %", "median", "95 %")
    figure, axes = subplots(9, 4)
    axis, x = axes[0, 0], range(len(table))
    spread = [table["median"] - table["5 %"], table["95 %"] - table["median"]]
    label = f"median; bars: 5 to 95 % of the problems ({counted(table['n'])} a task)"
    axis.errorbar(x, table["median"], yerr=spread, capsize=3, linestyle="", linewidth=1.8, label=label, **curve_look(0))
    axis.set_yscale("log", base=2)
    top = axis.get_ylim()[1]
    sizes = [2**k * segment_size for k in range(12) if 2**k * segment_size < top]
    for number, size in enumerate(sizes):
        axis.axhline(size, color="0.45", linestyle="--", linewidth=1, zorder=0.9)
        text = f"{2**number} segment{'s' * (number > 0)}"
        axis.annotate(text, (1, size), xycoords=("axes fraction", "data"), xytext=(4, -3), textcoords="offset points",
                      fontsize=9, color="0.35")  # fmt: skip
    axis.set_xticks(x, table["task"], rotation=45)
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.set(xlabel="task", ylabel="facts and question, tokens")
    figure.legend(loc="outside upper center", **LEGEND)
    return figure

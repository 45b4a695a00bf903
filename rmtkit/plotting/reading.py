"""Speed and memory of a reading, by the length of the sample."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from rmtkit.plotting.style import LEGEND, check_columns, curve_look, subplots

MEMORY = {"peak_resident_mb": "resident memory of the process", "peak_cuda_mb": "memory allocated on the GPU"}


def plot_reading(table: pd.DataFrame) -> Figure:
    """Draw tokens a second (left) and peak memory (right) by length; both axes begin at 0, so that flat looks flat.

    Args:   table: of `rmtkit.generalization.reading_table`: length, num_tokens, tokens_per_second, peak_resident_mb,
            peak_cuda_mb, device, dtype, is_compiled. Facts alone (0 tokens) are left out: they are no length.
    """
    check_columns(table, "length", "num_tokens", "tokens_per_second", *MEMORY, "device", "dtype", "is_compiled")
    table = table[table["num_tokens"] > 0].sort_values("num_tokens")
    check_columns(table, "length")
    figure, axes = subplots(10, 4.2, 1, 2)
    speed, memory = axes[0]
    for number, (how, rows) in enumerate(table.groupby(_how(table), sort=False)):
        speed.plot(rows["num_tokens"], rows["tokens_per_second"], label=how, **curve_look(number))
        for name, line in zip(MEMORY, ("-", "--"), strict=True):
            if rows[name].notna().any():
                label = f"{MEMORY[name]}\n{how}"
                memory.plot(rows["num_tokens"], rows[name], linestyle=line, label=label, **curve_look(number))
    _finish(speed, table, "speed, tokens/s (all samples side by side)")
    _finish(memory, table, "peak memory, MB")
    return figure


def _how(table: pd.DataFrame) -> pd.Series:
    """Return how each row was computed, in words."""
    compiled = table["is_compiled"].map({True: ", compiled", False: ""})
    return table["device"].astype(str) + ", " + table["dtype"].astype(str) + compiled


def _finish(axis: Axes, table: pd.DataFrame, label: str) -> None:
    """Set the length axis and legend of a panel, and let its values begin at 0."""
    axis.set_xscale("log", base=2)
    lengths = table.drop_duplicates("num_tokens")
    step = -(-len(lengths) // 7)
    names = lengths["length"].str.removesuffix(" segments")
    unit = "tokens" if names.equals(lengths["length"]) else "segments"
    axis.set_xticks(lengths["num_tokens"].iloc[::-step], names.iloc[::-step], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set(xlabel=f"length of the sample, {unit}", ylabel=label, ylim=(0, 1.15 * axis.dataLim.ymax))
    axis.legend(loc="lower left", **LEGEND)

"""What all figures have in common: style, colours, checks, intervals."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
         "grid.color": "0.9", "font.size": 10}  # fmt: skip
LEGEND = {"frameon": False, "fontsize": 9}
COLOURS = tuple(sns.color_palette("colorblind"))
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":", "-.")
Baselines = dict[str, float] | None  # name -> accuracy 0..1


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure in our style, taken off pyplot's list, and its axes (rows, columns)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), dpi=100, layout="constrained",
                                    squeeze=False, **options)  # fmt: skip
    plt.close(figure)
    return figure, axes


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def use_log_scale(axis: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers: 20, 0.5."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_PlainNumbers(minor_thresholds=(2, 0.5)))
    axis.yaxis.set_minor_formatter(_PlainNumbers(minor_thresholds=(2, 0.5)))


class _PlainNumbers(LogFormatter):
    """Labels the ticks that a logarithmic axis has room for as 20 or 0.5, not 2e+01."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def curve_look(number: int) -> dict:
    """Return colour and marker of the curve with this number."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def check_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise ValueError if a table is empty or has not all of these columns."""
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; columns: {', '.join(map(str, table.columns))}")
    if table.empty:
        raise ValueError("the table is empty; there is nothing to draw")


def plain(text: str) -> str:
    """Return a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def counted(n: pd.Series) -> str:
    """Return "n = 500", or "n = 100-500" where rows differ."""
    low, high = int(n.min()), int(n.max())
    return f"n = {low:,}" if low == high else f"n = {low:,}-{high:,}"


def short_count(num_tokens: float) -> str:
    """Write 992, 2k (of 1,024), 1M (of 1,000,000)."""
    unit, size = ("M", 10**6) if num_tokens >= 950_000 else ("k", 2**10) if num_tokens >= 1000 else ("", 1)
    return f"{round(num_tokens / size, 1):g}{unit}"


def draw_interval(axis: Axes, x, table: pd.DataFrame, value: str, **options) -> None:
    """Draw values with the interval (low, high) of each, all in per cent."""
    centre = table[value].to_numpy(dtype=float)
    below = np.clip(centre - table["low"], 0, None)  # rounding may put an end of the interval beyond the value
    above = np.clip(table["high"] - centre, 0, None)
    axis.errorbar(x, 100 * centre, yerr=[100 * below, 100 * above], capsize=3, **{"linewidth": 1.8, **options})

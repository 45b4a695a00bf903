"""The course of a training: validation accuracy and loss of every stage of a curriculum."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmtkit.plotting.style import LEGEND, check_columns, counted, curve_look, subplots, use_log_scale

PLACE = ("stage", "num_segments", "step")
LEGEND_ROWS = 16


def plot_training(metrics: pd.DataFrame, log: pd.DataFrame | None = None) -> Figure:
    """Draw validation accuracy and training loss of a curriculum, one colour a stage.

    Args:   metrics: `pandas.DataFrame(run.metrics())`: stage, num_segments, step (from 0 in every stage), exact_match,
            low, high, n; before the first validation empty, if there is a log;
            log: `pandas.DataFrame(run.training_log())`: stage, num_segments, step, loss. None or empty (of an old run):
            accuracy alone is drawn. A step that a resumed run did again counts once.
    """
    has_log = log is not None and len(log) > 0
    if not has_log or len(metrics):
        check_columns(metrics, *PLACE, "exact_match", "low", "high", "n")
    tables = [_in_order(metrics), _in_order(log) if has_log else pd.DataFrame(columns=PLACE)]
    ends = pd.concat([table[["stage", "step"]] for table in tables if len(table)]).groupby("stage")["step"].max()
    starts = ends.cumsum() - ends
    columns = max(1, -(-len(ends) // LEGEND_ROWS))
    figure, axes = subplots(6 + 1.5 * columns, 5.6 if has_log else 4, 1 + has_log, 1, sharex=True)
    for number, stage in enumerate(ends.index):
        parts = [table[table["stage"] == stage] for table in tables]
        segments, end = pd.concat(parts)["num_segments"].iloc[0], starts[stage] + ends[stage]
        label = f"{number + 1}: {segments} segment{'' if segments == 1 else 's'}"
        _draw_accuracy(axes[0, 0], parts[0], starts[stage], number, label)
        if has_log:
            _draw_loss(axes[1, 0], parts[1], starts[stage], number)
        for axis in axes.flat:
            axis.axvline(end, color="0.8", linewidth=1, zorder=0)
    n = f"\n{counted(metrics['n'])} samples" if len(metrics) else ""
    axes[0, 0].set(ylim=(-3, 103), xlim=(0, None), ylabel=f"validation accuracy\n(exact match), %{n}")
    axes[-1, 0].set_xlabel("updates since the start of the curriculum")
    figure.legend(title="curriculum stage: length", loc="outside right upper", ncols=columns, **LEGEND)
    return figure


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table):
        return pd.DataFrame(columns=PLACE)
    check_columns(table, *PLACE)
    return table.drop_duplicates(["stage", "step"], keep="last").sort_values(["stage", "step"])


def _draw_accuracy(axis: Axes, rows: pd.DataFrame, start: int, number: int, label: str) -> None:
    look = curve_look(number)
    if not len(rows):
        axis.plot([], [], markersize=4, label=label, **look)
        return
    x = start + rows["step"]
    axis.plot(x, 100 * rows["exact_match"], markersize=4, label=label, **look)
    axis.fill_between(x, 100 * rows["low"], 100 * rows["high"], color=look["color"], alpha=0.2, linewidth=0)


def _draw_loss(axis: Axes, rows: pd.DataFrame, start: int, number: int) -> None:
    if len(rows):
        axis.plot(start + rows["step"], rows["loss"], markersize=3, linewidth=1.2, **curve_look(number))
    use_log_scale(axis)
    axis.set(ylabel="training loss,\nnats per token of the answers")

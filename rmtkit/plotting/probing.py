"""What memory holds: probes by the age of a fact, ablations, swapped memories, drift."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmtkit.plotting.style import (
    COLOURS,
    LEGEND,
    LINES,
    check_columns,
    counted,
    curve_look,
    draw_interval,
    plain,
    short_count,
    subplots,
)

GREY = "0.45"
MOST_QUESTIONS = 8  # rows of a map


def plot_probe_accuracy(table: pd.DataFrame, *, series: str, baseline: bool = True) -> Figure:
    """Draw the accuracy of probes by the age of a fact, a curve for each value of a column.

    Args:   table: of `probing.accuracy_by_age`, grouped by `series`;  baseline: draw the floor, the mean over curves.
    """
    check_columns(table, series, "age", "accuracy", "low", "high", "n", "floor")
    figure, axes = subplots(8, 4)
    axis, ages = axes[0, 0], sorted(table["age"].unique())
    place = {age: number for number, age in enumerate(ages)}  # evenly: ages grow like powers
    names = list(dict.fromkeys(table[series]))
    for number, name in enumerate(names):
        rows = table[table[series] == name]
        shift = 0.08 * (number - (len(names) - 1) / 2)
        label = f"{name} ({counted(rows['n'])})"
        look = {**curve_look(number), "linestyle": LINES[number % len(LINES)], "label": label, "markersize": 5}
        draw_interval(axis, rows["age"].map(place) + shift, rows, "accuracy", **look)
    if baseline:
        floor = 100 * table.groupby("age")["floor"].mean()
        axis.plot(range(len(ages)), floor, color=GREY, linestyle=":", label="best guess without memory")
    axis.set(xlabel="age of the fact: segments read since the one that told it", ylabel="probe is right, %",
             ylim=(-3, 103))  # fmt: skip
    axis.set_xticks(range(len(ages)), [str(age) for age in ages])
    axis.legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_slot_ablation(table: pd.DataFrame) -> Figure:
    """Draw the accuracy without each slot and with each slot alone.

    Args: table: of `interventions.ablate_slots`.
    """
    check_columns(table, "kept", "slot", "accuracy", "low", "high", "n", "filling")
    figure, axes = subplots(8, 3.6)
    axis, accuracy = axes[0, 0], table.set_index(["kept", "slot"])["accuracy"]
    names = {"others": "without this slot", "slot": "with this slot alone"}
    for number, (kept, name) in enumerate(names.items()):
        rows = table[table["kept"] == kept]
        look = {**curve_look(number), "linestyle": "", "label": name}
        draw_interval(axis, rows["slot"] + 0.2 * (number - 0.5), rows, "accuracy", **look)
    _reference_line(axis, accuracy[("all", -1)], "-", "whole memory")
    _reference_line(axis, accuracy[("none", -1)], ":", "no slot")
    filling = {"zero": "zero", "mean": "the mean over samples"}[table["filling"].iloc[0]]
    axis.set(xlabel=f"memory slot (a slot taken away is {filling})", ylim=(-3, 103),
             ylabel=f"right answers, %\n({counted(table['n'])} samples)")  # fmt: skip
    axis.set_xticks(sorted(set(table["slot"]) - {-1}))
    axis.grid(axis="x", visible=False)
    axis.legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _reference_line(axis: Axes, value: float, linestyle: str, name: str) -> None:
    axis.axhline(100 * value, color=GREY, linestyle=linestyle, linewidth=1.2, label=f"{name}: {100 * value:.0f} %")


def plot_head_ablation(tables: list[pd.DataFrame]) -> Figure:
    """Draw the accuracy with each head silenced: a panel for each table, a point for each head.

    Args: tables: of `interventions.ablate_heads`.
    """
    figure, axes = subplots(4.4 * len(tables), 3.8, 1, len(tables), sharey=True)
    for axis, table, colour in zip(axes.flat, tables, COLOURS, strict=False):
        check_columns(table, "layer", "head", "accuracy", "low", "high", "n", "when")
        rows = table[table["layer"] >= 0]
        x = rows["layer"] + 0.8 * ((rows["head"] + 0.5) / (rows["head"].max() + 1) - 0.5)
        draw_interval(axis, x, rows, "accuracy", color=colour, marker="o", linestyle="", markersize=4, linewidth=1.2)
        _reference_line(axis, table[table["layer"] < 0]["accuracy"].iloc[0], "-", "no head silenced")
        _name_weakest(axis, x, rows)
        axis.set(title=f"silenced while {table['when'].iloc[0]} ({counted(rows['n'])} samples)", ylim=(-10, 105),
                 xlim=(-0.5, rows["layer"].max() + 0.5))  # fmt: skip
        axis.set_xticks(sorted(rows["layer"].unique()))
        axis.grid(axis="x", visible=False)
        axis.legend(**LEGEND, loc="lower right")
    figure.supxlabel("layer (a point for each head, in their order)", fontsize=10)
    figure.supylabel("right answers, %", fontsize=10)
    return figure


def _name_weakest(axis: Axes, x: pd.Series, rows: pd.DataFrame, count: int = 4) -> None:
    """Write layer.head below the heads whose loss costs most."""
    for index in rows["accuracy"].nsmallest(count).index:
        row = rows.loc[index]
        if row["high"] < rows["accuracy"].max():
            place = (x[index], 100 * row["low"] - 1)  # below its interval
            axis.annotate(f"{row['layer']}.{row['head']}", place, ha="center", va="top", fontsize=8)


def plot_swap(shares: pd.DataFrame) -> Figure:
    """Draw whose target the answers are when memories are exchanged, a bar for each part of memory.

    Args: shares: of `interventions.swap_shares`.
    """
    check_columns(shares, "exchanged", "answer", "share", "low", "high", "n")
    table = shares.pivot(index="exchanged", columns="answer", values="share").loc[list(shares["exchanged"].unique())]
    figure, axes = subplots(8, 0.34 * len(table) + 1.3)
    axis, left = axes[0, 0], 0
    looks = {"other": (COLOURS[0], "the other sample's answer", ""), "own": (COLOURS[1], "its own answer", "//"),
             "neither": ("0.8", "neither", "")}  # fmt: skip
    for kind, (colour, name, hatch) in looks.items():
        values = 100 * table[kind]
        axis.barh(range(len(table)), values, left=left, color=colour, label=name, hatch=hatch, edgecolor="white")
        left = left + values
    rows = shares[shares["answer"] == "other"].set_index("exchanged").loc[table.index]
    for place, (low, high) in enumerate(zip(rows["low"], rows["high"], strict=True)):
        axis.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1.2)
    axis.set_yticks(range(len(table)), table.index)
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), ylabel="exchanged", xlabel=f"answers, % ({counted(shares['n'])}; line: 95 % interval)")
    axis.grid(visible=False)
    axis.legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_swap_by_question(shares: pd.DataFrame) -> Figure:
    """Draw how often a slot of another sample's memory makes the answer that sample's, for the most frequent questions.

    Args: shares: of `interventions.swap_shares`, by question.
    """
    check_columns(shares, "exchanged", "answer", "question", "share", "n")
    rows = shares[(shares["answer"] == "other") & (shares["exchanged"] != "nothing")]
    asked = rows.groupby("question")["n"].first().sort_values(ascending=False, kind="stable").index[:MOST_QUESTIONS]
    rows = rows[rows["question"].isin(asked)]
    table = rows.pivot(index="question", columns="exchanged", values="share")
    table = 100 * table[list(rows["exchanged"].unique())]
    counts = rows.groupby("question")["n"].first()
    table.index = [plain(f"{question} (n = {counts[question]})") for question in table.index]
    figure, axes = subplots(1.5 + 0.75 * len(table.columns), 0.42 * len(table) + 1.5)
    axis = axes[0, 0]
    sns.heatmap(table, ax=axis, cmap="Blues", vmin=0, vmax=100, annot=True, fmt=".0f", linewidths=0.5,
                cbar_kws={"label": "answers as the\nother sample's, %"})  # fmt: skip
    axis.set(xlabel="exchanged part of memory", ylabel="question")
    axis.tick_params(axis="x", rotation=45, length=0)
    axis.tick_params(axis="y", rotation=0, length=0)
    return figure


def plot_drift(summary: pd.DataFrame) -> Figure:
    """Draw how far a state moves while background is read, and whether it still answers.

    Args: summary: of `drift.summarize_drift`.
    """
    check_columns(summary, "lag", "tokens", "n", "accuracy", "low", "high", "distance", "in_phase")
    figure, axes = subplots(8, 5.4, 2, 1, sharex=True, height_ratios=(3, 2))
    read = summary[summary["lag"] > 0]
    _draw_distances(axes[0, 0], read)
    draw_interval(axes[1, 0], read["tokens"], read, "accuracy", **curve_look(0), markersize=4)
    told = f"tokens of background read since all facts were told ({counted(summary['n'])} texts)"
    axes[1, 0].set(ylabel="right answers, %", ylim=(-3, 106), xlabel=told)
    axes[1, 0].set_xscale("log", base=2)
    axes[1, 0].xaxis.set_major_formatter(lambda value, _: short_count(value))
    return figure


def _draw_distances(axis: Axes, read: pd.DataFrame) -> None:
    """Draw the distance to the reference after an even and after an odd number of segments, and the drift alone."""
    even, odd = (read[read["lag"] % 2 == parity] for parity in (0, 1))
    curves = {
        "even number of segments later": (even, "distance"),
        "odd number of segments later": (odd, "distance"),
        "odd, from the state one segment after": (odd[odd["lag"] > 1], "in_phase"),
    }
    for number, (name, (rows, column)) in enumerate(curves.items()):
        look = {**curve_look(number), "linestyle": LINES[number], "label": name}
        axis.plot(rows["tokens"], rows[column], markersize=4, **look)
        axis.fill_between(
            rows["tokens"], rows[f"{column}_low"], rows[f"{column}_high"], color=look["color"], alpha=0.15
        )
    axis.axhline(1, color=GREY, linestyle=":", label="another text's state")
    axis.set(ylim=(0, None), ylabel="distance to the reference\n(band: 10-90 % of texts)")
    axis.legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))

"""What the memory attends to and when it changes."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rmtkit.plotting.style import COLOURS, LEGEND, check_columns, counted, draw_interval, plain, subplots


def plot_write_attention(table: pd.DataFrame, *, layer: int | None = None, head: int | None = None) -> Figure:
    """Draw which tokens around a fact the write slots attend to; fact tokens are in bold.

    Args:   table: of `analysis.write_attention`;  layer, head: one head; a layer alone: all of its heads; neither: the
            head with the most attention on the fact.
    Paper:  2402.10790, Fig. 10 (c).
    """
    check_columns(table, "layer", "head", "slot", "position", "token", "weight", "is_fact")
    strength = table[table["is_fact"]].groupby(["layer", "head"])["weight"].sum()
    figure, axes = _draw_heads(table, strength, ("slot", "position"), (layer, head))
    facts = table.drop_duplicates("position").sort_values("position")["is_fact"].tolist()
    for axis in axes:
        axis.set(xlabel="token of the sample (bold: the fact)", ylabel="write slot")
        for label, is_fact in zip(axis.get_xticklabels(), facts, strict=True):
            label.set_fontweight("bold" if is_fact else "normal")
    return figure


def plot_read_attention(table: pd.DataFrame, *, layer: int | None = None, head: int | None = None) -> Figure:
    """Draw which read slots the question attends to; the last row predicts the answer.

    Args:   table: of `analysis.read_attention`;  layer, head: as in `plot_write_attention`; neither: the head whose
            answer position attends most to the read slots.
    Paper:  2402.10790, Fig. 10 (d).
    """
    check_columns(table, "layer", "head", "slot", "position", "token", "weight")
    answering = table[table["position"] == table["position"].max()]
    strength = answering.groupby(["layer", "head"])["weight"].sum()
    figure, axes = _draw_heads(table, strength, ("position", "slot"), (layer, head))
    for axis in axes:
        axis.set(xlabel="read slot", ylabel="token of the question")
        axis.get_yticklabels()[-1].set_fontweight("bold")
    return figure


def strongest_layer(table: pd.DataFrame) -> int:
    """Return the layer of the head with the most weight in a table: layer, head, weight."""
    check_columns(table, "layer", "head", "weight")
    return int(table.groupby(["layer", "head"])["weight"].sum().idxmax()[0])


def _draw_heads(table: pd.DataFrame, strength: pd.Series, axes_of_map: tuple[str, str], wanted: tuple) -> tuple:
    """Draw a heat map per wanted (layer, head), all on one scale; None: all, or of both: the strongest head.

    Args:    strength: by (layer, head);  axes_of_map: the columns for the rows and columns of a map.
    Returns: the figure and the axes in use.
    """
    if wanted == (None, None):
        wanted = strength.idxmax()
    chosen = [key for key in strength.index if wanted[0] in (None, key[0]) and wanted[1] in (None, key[1])]
    if not chosen:
        raise ValueError(f"layer {wanted[0]}, head {wanted[1]} is not in the table; it has {list(strength.index)}")
    maps = {key: _attention_map(table, key, *axes_of_map) for key in chosen}
    height, width = maps[chosen[0]].shape
    rows = math.ceil(len(chosen) / min(len(chosen), max(1, int(11.5 / (1.2 + 0.24 * width)))))
    columns = math.ceil(len(chosen) / rows)  # as evenly as it goes
    figure, axes = subplots(columns * (1.2 + 0.24 * width) + 0.8, rows * (1.3 + 0.24 * height), rows, columns)
    largest = max(values.to_numpy().max() for values in maps.values())
    for axis, (key, values) in zip(axes.flat, maps.items(), strict=False):
        sns.heatmap(values, ax=axis, cmap="Reds", vmin=0, vmax=largest, cbar=False, linewidths=0.4, linecolor="0.9",
                    xticklabels=True, yticklabels=True)  # fmt: skip
        axis.set_title(f"layer {key[0]}, head {key[1]}", fontsize=10)
        axis.tick_params(axis="x", rotation=90 if axes_of_map[1] == "position" else 0, length=0)
        axis.tick_params(axis="y", rotation=0, length=0)
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    figure.colorbar(axes.flat[0].collections[0], ax=axes, label="attention weight", pad=0.02, aspect=40)
    return figure, axes.flat[: len(chosen)]


def _attention_map(table: pd.DataFrame, key: tuple[int, int], rows: str, columns: str) -> pd.DataFrame:
    """Return the weights of one head with token texts in place of positions; a bare "$" would begin a formula."""
    of_head = table[(table["layer"] == key[0]) & (table["head"] == key[1])]
    tokens = of_head.drop_duplicates("position").set_index("position")["token"]
    texts = tokens.map(lambda token: plain(token.strip() or repr(token)))
    values = of_head.pivot(index=rows, columns=columns, values="weight")
    return values.rename(index=texts) if rows == "position" else values.rename(columns=texts)


def plot_state_distances(distances: pd.DataFrame, *, marks: dict[str, int] | None = None,
                         metric: str = "euclidean") -> Figure:  # fmt: skip
    """Draw the distance between the memory states after every two segments.

    Args:   distances: of `analysis.state_distances`, or a part: the initial memory is far from all others;
            marks: `recording.state_marks()`, drawn as lines and ticks;  metric: of the distances, for the label.
    Paper:  2402.10790, Fig. 10 (a, b).
    """
    if distances.shape[0] != distances.shape[1] or len(distances) < 2:
        raise ValueError(f"distances has shape {distances.shape}; expected a square of two states or more")
    figure, axes = subplots(6.2, 5.2)
    axis, first, last = axes[0, 0], distances.index[0], distances.index[-1]
    edges = (first - 0.5, last + 0.5, last + 0.5, first - 0.5)
    image = axis.imshow(distances.to_numpy(), cmap="viridis", vmin=0, extent=edges, interpolation="nearest")
    figure.colorbar(image, ax=axis, label=f"{metric} distance between states", shrink=0.9)
    axis.grid(False)
    names = {state: [] for state in (first, last)}
    for name, state in (marks or {}).items():
        names.setdefault(state, []).append(name)
    ticks = {state: f"{', '.join(of_state)}: {state}".removeprefix(": ") for state, of_state in names.items()}
    for state in set(ticks) - {first, last}:
        axis.axhline(state - 0.5, color="white", linewidth=1)
        axis.axvline(state - 0.5, color="white", linewidth=1)
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.set_xticks(list(ticks), list(ticks.values()), rotation=90)
    axis.set(xlabel="memory after segment", ylabel="memory after segment")
    return figure


def plot_attention_mass(summary: pd.DataFrame) -> Figure:
    """Draw what the write slots attend to in segments with facts: a panel per target, a point per head.

    Args:   summary: of `analysis.summarize_mass`: layer, head, target, share, low, high, n, baseline.
    """
    check_columns(summary, "layer", "head", "target", "share", "low", "high", "n", "baseline")
    drawn = summary[summary["baseline"] > 0]
    targets, num_heads = drawn["target"].unique(), drawn["head"].max() + 1
    num_rows = math.ceil(len(targets) / 2)
    figure, axes = subplots(8, 2.6 * num_rows + 0.4, num_rows, 2, sharex=True)
    for axis in axes.flat[len(targets) :]:
        axis.set_axis_off()
    for axis, target, colour in zip(axes.flat, targets, COLOURS, strict=False):
        rows = drawn[drawn["target"] == target]
        x = rows["layer"] + 0.7 * ((rows["head"] + 0.5) / num_heads - 0.5)
        draw_interval(axis, x, rows, "share", color=colour, marker="o", markersize=4, linestyle="", linewidth=1.2)
        even = rows["baseline"].mean()
        axis.axhline(100 * even, color="0.35", linestyle="--", label=f"even spread: {100 * even:.1f} %")
        axis.set(title=f"on {target}", ylim=(0, None), xticks=sorted(rows["layer"].unique()))
        axis.legend(**LEGEND)
        axis.grid(axis="x", visible=False)
    figure.supxlabel(f"layer (one point a head, {num_heads} in each layer)", fontsize=10)
    figure.supylabel(f"share of the write slots' attention, %\nmean over {counted(drawn['n'])} samples", fontsize=10)
    return figure


def plot_segment_attention(table: pd.DataFrame) -> Figure:
    """Draw how all slots attend to the tokens of a segment, and these to them, in one head; facts lie between lines.

    Args: table: of `explore_memory.segment_attention`.
    """
    check_columns(table, "direction", "slot", "position", "weight", "kind")
    titles = {"write": "writing: slots attend to tokens", "read": "reading: tokens attend to slots"}
    num_slots = table["slot"].nunique()
    figure, axes = subplots(9, 2 * (0.9 + 0.16 * num_slots), 2, 1, sharex=True)
    for axis, (direction, title) in zip(axes.flat, titles.items(), strict=True):
        rows = table[table["direction"] == direction].pivot(index="slot", columns="position", values="weight")
        first, last = rows.columns[0] - 0.5, rows.columns[-1] + 0.5
        image = axis.imshow(rows.to_numpy(), cmap="Reds", vmin=0, aspect="auto", interpolation="nearest",
                            extent=(first, last, num_slots - 0.5, -0.5))  # fmt: skip
        figure.colorbar(image, ax=axis, label="weight", pad=0.01)
        axis.set(title=title, ylabel="slot", yticks=range(num_slots))
        axis.grid(False)
        for edge in _edges(table):
            axis.axvline(edge, color="black", linewidth=0.8, linestyle="--")
    axes[-1, 0].set_xlabel("position in the sample, tokens (dashed: facts and question)")
    return figure


def _edges(table: pd.DataFrame) -> list[float]:
    """Return where the kind of text changes."""
    kinds = table.drop_duplicates("position").sort_values("position")
    changes = kinds["kind"] != kinds["kind"].shift(fill_value=kinds["kind"].iloc[0])
    return (kinds[changes]["position"] - 0.5).tolist()

"""Figures from data frames: accuracy by length and depth, training, attention of the memory, distributions.

Every function returns a matplotlib Figure that pyplot does not keep: a notebook shows it once, nothing needs closing,
`figure.savefig(path)` writes it. No style is changed outside of the figures. Shares 0..1 are drawn in per cent; error
bars and bands are the 95 % intervals in the columns low and high; n is named in the legend or the title.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

PUBLISHED_SEGMENT = 512  # tokens in a segment of the published tables
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
         "grid.color": "0.9", "font.size": 10}  # fmt: skip
LEGEND = {"frameon": False, "fontsize": 9}
COLOURS = tuple(sns.color_palette("colorblind"))
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":", "-.")
Baselines = dict[str, float] | None  # name -> accuracy 0..1
MAX_SAMPLES_DRAWN = 40  # rows of `plot_fact_positions`
MAX_WORDS_DRAWN = 15


def _subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure in our style, taken off pyplot's list, and its axes (rows, columns)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), dpi=100, layout="constrained",
                                    squeeze=False, **options)  # fmt: skip
    plt.close(figure)
    return figure, axes


def _look(number: int) -> dict:
    """Return colour and marker of the curve with this number."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _check_columns(table: pd.DataFrame, *names: str) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; columns: {', '.join(map(str, table.columns))}")
    if table.empty:
        raise ValueError("the table is empty; there is nothing to draw")


def _counted(n: pd.Series) -> str:
    """Return "n = 500", or "n = 100-500" where rows differ."""
    low, high = int(n.min()), int(n.max())
    return f"n = {low:,}" if low == high else f"n = {low:,}-{high:,}"


def _draw_interval(axis: Axes, x, table: pd.DataFrame, value: str, **options) -> None:
    """Draw values with the interval (low, high) of each, all in per cent."""
    centre = table[value].to_numpy(dtype=float)
    below = np.clip(centre - table["low"], 0, None)  # rounding may put an end of the interval beyond the value
    above = np.clip(table["high"] - centre, 0, None)
    axis.errorbar(x, 100 * centre, yerr=[100 * below, 100 * above], capsize=3, **{"linewidth": 1.8, **options})


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
    _check_columns(table, *([series] if series else []))
    groups = table.groupby(series, sort=False, observed=True) if series else [("ours", table)]
    for number, (name, rows) in enumerate(groups):
        places = x[rows.index].sort_values()
        label = f"{name}{' segments' * (series == 'num_segments')} ({_counted(rows['n'])})"
        _draw_interval(axis, places, rows.loc[places.index], "accuracy", label=label, **_look(number))


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
    _check_columns(table, "num_tokens", "num_segments", "accuracy", "low", "high", "n")
    figure, axes = _subplots(8, 4.8 if published is None else 5.6)
    axis, lengths = axes[0, 0], table.sort_values("num_tokens").drop_duplicates("num_tokens")
    ticks = {row.num_tokens: f"{_short(row.num_tokens)}\n{row.num_segments} seg" for row in lengths.itertuples()}
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


def _short(num_tokens: float) -> str:
    """Write 992, 2k (of 1,024), 1M (of 1,000,000)."""
    unit, size = ("M", 10**6) if num_tokens >= 950_000 else ("k", 2**10) if num_tokens >= 1000 else ("", 1)
    return f"{round(num_tokens / size, 1):g}{unit}"


def _thinned(ticks: dict[float, str]) -> dict[float, str]:
    """Leave out ticks whose labels would run into the one on their left."""
    kept, last, room = {}, 0.0, (max(ticks) / min(ticks)) ** (1 / 17)
    for place in sorted(ticks):
        if place >= last * room:
            kept[place], last = ticks[place], place
    return kept


def _draw_published(axis: Axes, published: pd.DataFrame) -> dict[float, str]:
    """Draw published curves in grey and return their lengths as ticks."""
    _check_columns(published, "source", "model", "variant", "length", "segments", "accuracy")
    if "task" in published and published["task"].nunique() > 1:
        raise ValueError(f"published holds tasks {', '.join(published['task'].unique())}; give the rows of one")
    nominal = published["length"].map(lambda text: float(text[:-1]) * {"k": 2**10, "M": 10**6}[text[-1]])
    exact = pd.to_numeric(published["segments"]) * PUBLISHED_SEGMENT
    drawn = published.assign(variant=published["variant"].fillna(""), num_tokens=exact.fillna(nominal))
    drawn = drawn[drawn["num_tokens"] > 0].sort_values("num_tokens")  # "0k", facts alone, has no place on a log axis
    for number, (name, rows) in enumerate(drawn.groupby(["source", "model", "variant"], sort=False)):
        label = "published: " + ", ".join(filter(None, (name[1], name[2], name[0])))
        look = _look(number) | {"color": "0.5", "linestyle": LINES[number % len(LINES)]}
        axis.plot(rows["num_tokens"], rows["accuracy"], markersize=4, linewidth=1.3, label=label, **look)
    return dict(zip(drawn["num_tokens"], drawn["length"], strict=True))


def plot_accuracy_by_depth(table: pd.DataFrame, *, series: str | None = None, baselines: Baselines = None) -> Figure:
    """Draw accuracy against the place of the earliest supporting fact in the sample.

    Args:   table: depth (ranges, as `pandas.cut` makes them of the records' fact_depth), accuracy, low, high, n;
            series: a column that tells several curves apart, such as num_segments;  baselines: name -> accuracy 0..1.
    Paper:  2402.10790, Fig. 11.
    """
    _check_columns(table, "depth", "accuracy", "low", "high", "n")
    figure, axes = _subplots(6.5, 4.8)
    depth = pd.Categorical(table["depth"])
    _draw_series(axes[0, 0], table, series, pd.Series(depth.codes, index=table.index))
    axes[0, 0].set_xticks(range(len(depth.categories)), [str(name) for name in depth.categories])
    axes[0, 0].set_xlabel("where the earliest supporting fact is in the sample (0: first token)")
    return _finish_accuracy(figure, table, baselines)


def plot_training(metrics: pd.DataFrame) -> Figure:
    """Draw the validation accuracy of a curriculum, one colour a stage.

    Args:   metrics: `pandas.DataFrame(run.metrics())`: stage, num_segments, step (from 0 in every stage), exact_match,
            low, high, n. A step that a resumed run validated again counts once.
    """
    _check_columns(metrics, "stage", "num_segments", "step", "exact_match", "low", "high", "n")
    metrics = metrics.drop_duplicates(["stage", "step"], keep="last").sort_values(["stage", "step"])
    figure, axes = _subplots(7.5, 4)
    axis, before = axes[0, 0], 0
    for number, (_, rows) in enumerate(metrics.groupby("stage")):
        look, label = _look(number), f"{rows['num_segments'].iloc[0]} segments"
        x, before = before + rows["step"], before + rows["step"].iloc[-1]
        axis.plot(x, 100 * rows["exact_match"], markersize=4, label=label, **look)
        axis.fill_between(x, 100 * rows["low"], 100 * rows["high"], color=look["color"], alpha=0.2, linewidth=0)
        axis.axvline(before, color="0.8", linewidth=1, zorder=0)
    axis.set(ylim=(-3, 103), xlim=(0, None), xlabel="updates since the start of the curriculum",
             ylabel=f"validation accuracy (exact match), %\n{_counted(metrics['n'])} samples")  # fmt: skip
    figure.legend(title="curriculum stage", loc="outside right upper", **LEGEND)
    return figure


def plot_write_attention(table: pd.DataFrame, *, layer: int | None = None, head: int | None = None) -> Figure:
    """Draw which tokens around a fact the write slots attend to; fact tokens are in bold.

    Args:   table: of `analysis.write_attention`;  layer, head: one head; a layer alone: all of its heads; neither: the
            head with the most attention on the fact.
    Paper:  2402.10790, Fig. 10 (c).
    """
    _check_columns(table, "layer", "head", "slot", "position", "token", "weight", "is_fact")
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
    _check_columns(table, "layer", "head", "slot", "position", "token", "weight")
    answering = table[table["position"] == table["position"].max()]
    strength = answering.groupby(["layer", "head"])["weight"].sum()
    figure, axes = _draw_heads(table, strength, ("position", "slot"), (layer, head))
    for axis in axes:
        axis.set(xlabel="read slot", ylabel="token of the question")
        axis.get_yticklabels()[-1].set_fontweight("bold")
    return figure


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
    columns = min(len(chosen), max(1, int(12 / (1.2 + 0.3 * width))))
    rows = math.ceil(len(chosen) / columns)
    figure, axes = _subplots(columns * (1.2 + 0.3 * width) + 0.8, rows * (1.3 + 0.26 * height), rows, columns)
    largest = max(values.to_numpy().max() for values in maps.values())
    for axis, (key, values) in zip(axes.flat, maps.items(), strict=False):
        sns.heatmap(values, ax=axis, cmap="Reds", vmin=0, vmax=largest, cbar=False, linewidths=0.4, linecolor="0.9",
                    xticklabels=True, yticklabels=True)  # fmt: skip
        axis.set_title(f"layer {key[0]}, head {key[1]}", fontsize=10)
        axis.tick_params(axis="x", rotation=90 if axes_of_map[1] == "position" else 0, length=0)
        axis.tick_params(axis="y", rotation=0, length=0)
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    figure.colorbar(axes.flat[0].collections[0], ax=axes, label="attention weight", pad=0.02)
    return figure, axes.flat[: len(chosen)]


def _attention_map(table: pd.DataFrame, key: tuple[int, int], rows: str, columns: str) -> pd.DataFrame:
    """Return the weights of one head with token texts in place of positions; a bare "$" would begin a formula."""
    of_head = table[(table["layer"] == key[0]) & (table["head"] == key[1])]
    tokens = of_head.drop_duplicates("position").set_index("position")["token"]
    texts = tokens.map(lambda token: (token.strip() or repr(token)).replace("$", r"\$"))
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
    figure, axes = _subplots(6.2, 5.2)
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
    _check_columns(summary, "layer", "head", "target", "share", "low", "high", "n", "baseline")
    drawn = summary[summary["baseline"] > 0]
    targets, num_heads = drawn["target"].unique(), drawn["head"].max() + 1
    num_rows = math.ceil(len(targets) / 2)
    figure, axes = _subplots(8, 2.6 * num_rows + 0.4, num_rows, 2, sharex=True)
    for axis in axes.flat[len(targets) :]:
        axis.set_axis_off()
    for axis, target, colour in zip(axes.flat, targets, COLOURS, strict=False):
        rows = drawn[drawn["target"] == target]
        x = rows["layer"] + 0.7 * ((rows["head"] + 0.5) / num_heads - 0.5)
        _draw_interval(axis, x, rows, "share", color=colour, marker="o", markersize=4, linestyle="", linewidth=1.2)
        even = rows["baseline"].mean()
        axis.axhline(100 * even, color="0.35", linestyle="--", label=f"even spread: {100 * even:.1f} %")
        axis.set(title=f"on {target}", ylim=(0, None), xticks=sorted(rows["layer"].unique()))
        axis.legend(**LEGEND)
        axis.grid(axis="x", visible=False)
    figure.supxlabel(f"layer (one point a head, {num_heads} in each layer)", fontsize=10)
    figure.supylabel(f"share of the write slots' attention, %\nmean over {_counted(drawn['n'])} samples", fontsize=10)
    return figure


def plot_fact_positions(table: pd.DataFrame) -> Figure:
    """Draw where facts lie: samples one by one, and the distribution over all of them.

    Args:   table: of `explore.fact_table`: index (of the sample), depth (0..1), is_supporting.
    """
    _check_columns(table, "index", "depth", "is_supporting")
    rows = {index: row for row, index in enumerate(table["index"].unique())}
    kinds = table["is_supporting"].map({True: "supporting fact", False: "other fact"})
    table = table.assign(row=table["index"].map(rows), kind=kinds, place=100 * table["depth"])
    figure, ((above,), (below,)) = _subplots(8, 5.6, 2, 1, sharex=True, height_ratios=(3, 2))
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
    _check_columns(table, "quantity", "value", "source", "share", "low", "high", "n")
    quantities, sources = table["quantity"].unique(), table["source"].unique()
    figure, axes = _subplots(4.6 * len(quantities), 3.8, 1, len(quantities))
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
            label = f"{source} ({_counted(rows['n'])})"
            _draw_interval(axis, x, rows, "share", linestyle="", label=label, **_look(number))
        axis.set(xlabel=name, ylabel="share, %", ylim=(0, None))
    curves = axes.flat[0].get_legend_handles_labels()
    figure.legend(*curves, loc="outside upper center", ncols=len(sources), **LEGEND)
    return figure


def plot_floors(table: pd.DataFrame) -> Figure:
    """Draw what answers without reading get in each task.

    Args:   table: of `explore.floor_table`: task, baseline, accuracy, low, high, n; tasks in the order wanted.
    """
    _check_columns(table, "task", "baseline", "accuracy", "low", "high", "n")
    place = {task: number for number, task in enumerate(sorted(table["task"].unique(), key=lambda name: int(name[2:])))}
    figure, axes = _subplots(9, 3.8)
    for number, (baseline, rows) in enumerate(table.groupby("baseline", sort=False)):
        x = rows["task"].map(place) + 0.2 * (number - 0.5)
        label = f"{baseline} ({_counted(rows['n'])})"
        _draw_interval(axes[0, 0], x, rows, "accuracy", linestyle="", label=label, **_look(number))
    axes[0, 0].set_xticks(range(len(place)), list(place), rotation=45)
    axes[0, 0].set(xlabel="task", ylabel="exact match, %", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=2, **LEGEND)
    return figure

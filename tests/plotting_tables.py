"""Tables as the package makes them, and a figure of each: what the tests of figures draw."""

import matplotlib
import numpy as np
import pandas as pd

from rmtkit import plotting

matplotlib.use("Agg")  # before any figure

LENGTHS = pd.DataFrame(
    {"num_segments": [1, 2, 4, 8], "num_tokens": [96, 224, 480, 992], "accuracy": [1.0, 0.9, 0.6, 0.4],
     "low": [0.96, 0.82, 0.5, 0.3], "high": [1.0, 0.95, 0.7, 0.5], "n": [100, 100, 100, 90]}
)  # fmt: skip
PUBLISHED = pd.DataFrame(
    {"source": "arXiv:1", "model": "RMT gpt2", "variant": [None, None, None], "task": "qa1",
     "length": ["0k", "1k", "1M"], "segments": [np.nan, 2, np.nan], "accuracy": [100.0, 99.0, 50.0]}
)  # fmt: skip


def write_table(num_layers=2, num_heads=2):
    index = pd.MultiIndex.from_product(
        [range(num_layers), range(num_heads), range(3), range(10, 14)], names=["layer", "head", "slot", "position"]
    )
    table = pd.DataFrame({"weight": np.linspace(0, 0.5, len(index))}, index=index).reset_index()
    tokens = {10: " the", 11: "\n", 12: " $5", 13: " office"}
    return table.assign(token=table["position"].map(tokens), is_fact=table["position"] >= 12)


def mass_table():
    targets = ("facts", "background", "question", "read memory", "write memory")
    index = pd.MultiIndex.from_product([range(2), range(3), targets], names=["layer", "head", "target"])
    table = pd.DataFrame({"share": 0.2, "low": 0.1, "high": 0.3, "n": 20, "baseline": 0.25}, index=index).reset_index()
    return table.assign(baseline=table["baseline"].where(table["target"] != "question", 0))


def metrics_table():
    rows = [(stage, 2**stage, step, 0.2 * step / 50) for stage in range(2) for step in (50, 100, 150)]
    table = pd.DataFrame(rows, columns=["stage", "num_segments", "step", "exact_match"])
    return table.assign(low=table["exact_match"] - 0.1, high=table["exact_match"] + 0.1, n=200)


def log_table():
    rows = [(stage, 2**stage, step, 2.0 / step) for stage in range(2) for step in range(10, 160, 10)]
    return pd.DataFrame(rows, columns=["stage", "num_segments", "step", "loss"])


def shares_table():
    return LENGTHS[["num_tokens", "num_segments"]].assign(share=[0.5, 0.2, 0.1, 0.05], low=0.01, high=0.6, n=50)


def sizes_table():
    return pd.DataFrame({"task": ["qa1", "qa3"], "n": 100, "5 %": [16, 110], "median": [30, 280], "95 %": [66, 810]})


def depth_table():
    depth = pd.cut([0.1, 0.6, 0.1, 0.6], [0, 0.5, 1], labels=["0-50 %", "50-100 %"])
    return LENGTHS.assign(depth=depth, num_segments=[8, 8, 16, 16])


def cross_table():
    return LENGTHS.assign(name="this run", trained=2, segment_size=32)


def task_table():
    return LENGTHS.assign(task="qa1", name="this run", length=["96", "224", "480", "992"], size=LENGTHS["num_tokens"])


def reading_table():
    how = {"device": "cpu", "dtype": "float32", "is_compiled": False, "tokens_per_second": 5000}
    return LENGTHS.assign(length=["96", "224", "480", "992"], peak_resident_mb=500.0, peak_cuda_mb=None, **how)


def facts_table():
    index = np.repeat(np.arange(50), 4)
    return pd.DataFrame({"index": index, "depth": np.arange(200) / 200, "is_supporting": np.arange(200) % 4 == 0})


def distributions_table():
    values = [("answer", "garden"), ("answer", "office"), ("facts", 2), ("facts", 4)]
    rows = [(*value, source) for source in ("generated", "recorded") for value in values]
    table = pd.DataFrame(rows, columns=["quantity", "value", "source"])
    return table.assign(share=0.5, low=0.4, high=0.6, n=100)


def distances():
    return pd.DataFrame(np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))))


def results_table():
    names = ("rmtkit", "rmtkit, qa1-seed1", "rmtkit, qa1-seed2", "rmtkit, b")
    lengths = {"10M": 20, "0k": 500, "4k": 500}
    rows = [(task, name, length) for task in ("qa10", "qa2") for name in names for length in lengths]
    table = pd.DataFrame(rows, columns=["task", "name", "length"])
    return table.assign(accuracy=0.5, low=0.4, high=0.6, n=table["length"].map(lengths))


def probe_table():
    rows = [(phase, age) for phase in ("same parity", "other parity") for age in (0, 1, 8)]
    table = pd.DataFrame(rows, columns=["trained_on", "age"])
    return table.assign(accuracy=0.9, low=0.8, high=0.95, n=50, floor=0.2)


def slot_ablation():
    rows = [("all", -1), ("none", -1), *((kept, slot) for kept in ("others", "slot") for slot in range(3))]
    table = pd.DataFrame(rows, columns=["kept", "slot"])
    return table.assign(accuracy=np.linspace(1, 0.3, 8), low=0.2, high=1.0, n=40, filling="mean")


def head_ablation(when):
    rows = [(-1, -1), *((layer, head) for layer in range(2) for head in range(2))]
    table = pd.DataFrame(rows, columns=["layer", "head"]).assign(accuracy=[1, 1, 0.2, 0.9, 1.0])
    return table.assign(low=table["accuracy"] - 0.1, high=table["accuracy"] + 0.05, n=40, when=when)


def swap_table(*questions):
    names, kinds = ("nothing", "everything", "slot 0", "slot 1"), {"own": 0.5, "other": 0.3, "neither": 0.2}
    rows = [(name, kind, share, q) for q in questions for name in names for kind, share in kinds.items()]
    table = pd.DataFrame(rows, columns=["exchanged", "answer", "share", "question"])
    return table.assign(low=table["share"] - 0.1, high=table["share"] + 0.1, n=40)


def drift_summary():
    lag = np.array([0, 1, 2, 3, 4, 5, 8, 9])
    distance = {f"{name}{end}": 0.1 * lag for name in ("distance", "in_phase") for end in ("", "_low", "_high")}
    table = pd.DataFrame({"lag": lag, "tokens": 32 * lag, **distance})
    return table.assign(n=16, accuracy=0.9, low=0.7, high=1.0)


def segment_table():
    index = pd.MultiIndex.from_product(
        [("write", "read"), range(3), range(10, 30)], names=["direction", "slot", "position"]
    )
    table = pd.DataFrame({"weight": np.linspace(0, 0.5, len(index))}, index=index).reset_index()
    return table.assign(kind=np.where(table["position"].between(15, 19), "fact", "text"))


SERIES = pd.DataFrame({"task": "qa2", "series": "ARMT", "length": ["0k", "10M", "50M"], "accuracy": [99.0, 80.0, 40.0]})
FIGURES = {
    "length": lambda: plotting.plot_accuracy_by_length(LENGTHS, trained_segments=(1, 2), published=PUBLISHED),
    "depth": lambda: plotting.plot_accuracy_by_depth(depth_table()),
    "task": lambda: plotting.plot_task_lengths(task_table(), task_table()),
    "cross": lambda: plotting.plot_cross_lengths(cross_table(), cross_table()),
    "reading": lambda: plotting.plot_reading(reading_table()),
    "training": lambda: plotting.plot_training(metrics_table()),
    "training with loss": lambda: plotting.plot_training(metrics_table(), log_table()),
    "shares": lambda: plotting.plot_shares(shares_table()),
    "sizes": lambda: plotting.plot_sizes(sizes_table(), 32),
    "write": lambda: plotting.plot_write_attention(write_table()),
    "read": lambda: plotting.plot_read_attention(write_table()),
    "states": lambda: plotting.plot_state_distances(distances(), marks={"fact 1": 2, "question": 4}),
    "mass": lambda: plotting.plot_attention_mass(mass_table()),
    "facts": lambda: plotting.plot_fact_positions(facts_table()),
    "results": lambda: plotting.plot_results(results_table(), SERIES, trained={"qa2": 4096}, caption="Sources: ..."),
    "distributions": lambda: plotting.plot_distributions(distributions_table()),
    "probes": lambda: plotting.plot_probe_accuracy(probe_table(), series="trained_on"),
    "slots": lambda: plotting.plot_slot_ablation(slot_ablation()),
    "heads": lambda: plotting.plot_head_ablation([head_ablation("answering"), head_ablation("reading")]),
    "swap": lambda: plotting.plot_swap(swap_table("Where?")),
    "swap_by_question": lambda: plotting.plot_swap_by_question(swap_table("Where is Mary?", "Who gave $5?")),
    "drift": lambda: plotting.plot_drift(drift_summary()),
    "segment": lambda: plotting.plot_segment_attention(segment_table()),
}


def legend_texts(figure):
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def curve(figure, label):
    """Return the points of the error bars with this label."""
    bars = next(c for axis in figure.axes for c in axis.containers if label in str(c.get_label()))
    return bars.lines[0].get_xydata()

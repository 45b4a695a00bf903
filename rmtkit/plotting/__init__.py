"""Figures from data frames: accuracy by length, depth and task, speed and memory, training, attention, distributions.

Every function returns a matplotlib Figure that pyplot does not keep: a notebook shows it once, nothing needs closing,
`figure.savefig(path)` writes it. No style is changed outside of the figures. Shares 0..1 are drawn in per cent; error
bars and bands are the 95 % intervals in the columns low and high; n is named in the legend or the title.
"""

from rmtkit.plotting.accuracy import plot_accuracy_by_length
from rmtkit.plotting.data import plot_distributions, plot_fact_positions, plot_floors, plot_shares, plot_sizes
from rmtkit.plotting.heatmaps import plot_accuracy_by_depth, plot_cross_lengths, plot_task_lengths
from rmtkit.plotting.llm import plot_llm_heatmap, plot_llm_lengths, plot_outcomes, plot_recall
from rmtkit.plotting.memory import (
    plot_attention_mass,
    plot_read_attention,
    plot_segment_attention,
    plot_state_distances,
    plot_write_attention,
    strongest_layer,
)
from rmtkit.plotting.probing import (
    plot_drift,
    plot_head_ablation,
    plot_probe_accuracy,
    plot_slot_ablation,
    plot_swap,
    plot_swap_by_question,
)
from rmtkit.plotting.reading import plot_reading
from rmtkit.plotting.results import plot_results
from rmtkit.plotting.style import as_png
from rmtkit.plotting.training import plot_training

__all__ = [
    "as_png",
    "plot_accuracy_by_depth",
    "plot_accuracy_by_length",
    "plot_attention_mass",
    "plot_cross_lengths",
    "plot_distributions",
    "plot_drift",
    "plot_fact_positions",
    "plot_floors",
    "plot_head_ablation",
    "plot_llm_heatmap",
    "plot_llm_lengths",
    "plot_outcomes",
    "plot_probe_accuracy",
    "plot_read_attention",
    "plot_reading",
    "plot_recall",
    "plot_results",
    "plot_segment_attention",
    "plot_shares",
    "plot_sizes",
    "plot_slot_ablation",
    "plot_state_distances",
    "plot_swap",
    "plot_swap_by_question",
    "plot_task_lengths",
    "plot_training",
    "plot_write_attention",
    "strongest_layer",
]

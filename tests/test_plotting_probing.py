"""Figures of what memory holds: probes, ablations, swapped memories and drift, point by point."""

import numpy as np
import pytest
from plotting_tables import curve, drift_summary, head_ablation, legend_texts, probe_table, slot_ablation, swap_table

from rmtkit import plotting


def test_probe_accuracy_draws_ages_evenly_with_the_floor():
    figure = plotting.plot_probe_accuracy(probe_table(), series="trained_on")
    x, y = curve(figure, "same parity (n = 50)").T
    assert np.diff(x) == pytest.approx([1, 1]) and y.tolist() == [90] * 3
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "8"]
    assert legend_texts(figure)[0] == "best guess without memory"


def test_slot_ablation_draws_both_kinds_and_the_whole_memory():
    figure = plotting.plot_slot_ablation(slot_ablation())
    assert curve(figure, "without this slot")[:, 1] == pytest.approx([80, 70, 60])
    assert {"whole memory: 100 %", "no slot: 90 %"} <= set(legend_texts(figure))


def test_head_ablation_names_the_heads_that_are_missed():
    figure = plotting.plot_head_ablation([head_ablation("answering"), head_ablation("reading")])
    assert [axis.get_title() for axis in figure.axes] == [
        "silenced while answering (n = 40 samples)", "silenced while reading (n = 40 samples)"]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.1", "1.0"]


def test_swap_draws_shares_that_fill_the_bar():
    axis = plotting.plot_swap(swap_table("Where?")).axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in axis.patches]
    assert max(ends) == pytest.approx(100) and len(axis.patches) == 12


def test_swap_by_question_keeps_the_questions_asked_most():
    table = swap_table(*(f"Where is {name}?" for name in "abcdefghijkl"))
    table["n"] = table["n"].where(table["question"] != "Where is a?", 1)
    labels = [label.get_text() for label in plotting.plot_swap_by_question(table).axes[0].get_yticklabels()]
    assert len(labels) == 8 and not any("is a?" in label for label in labels)


def test_drift_parts_even_and_odd_numbers_of_segments():
    figure = plotting.plot_drift(drift_summary())
    even, odd, in_phase = (line.get_xdata().tolist() for line in figure.axes[0].lines[:3])
    assert even == [64, 128, 256] and odd == [32, 96, 160, 288] and in_phase == [96, 160, 288]


def test_drift_labels_a_million_tokens_shortly():
    figure = plotting.plot_drift(drift_summary().assign(tokens=lambda table: 2**17 * table["lag"]))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert {"128k", "512k"} <= set(labels) and max(map(len, labels)) <= 4

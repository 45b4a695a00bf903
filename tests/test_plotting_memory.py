"""Figures of what the memory attends to and when it changes: the right heads, weights, tokens and marks."""

import numpy as np
import pytest
from plotting_tables import FIGURES, distances, write_table

from rmtkit import plotting


def test_write_attention_shows_the_head_with_most_attention_on_the_fact():
    axis = FIGURES["write"]().axes[0]
    assert axis.get_title() == "layer 1, head 1"
    labels = axis.get_xticklabels()
    assert [label.get_text() for label in labels] == ["the", r"'\n'", r"\$5", "office"]
    assert [label.get_fontweight() for label in labels] == ["normal", "normal", "bold", "bold"]


def test_write_attention_draws_the_weights_of_the_table():
    table = write_table()
    drawn = plotting.plot_write_attention(table, layer=0, head=1).axes[0].collections[0].get_array()
    expected = table[(table["layer"] == 0) & (table["head"] == 1)]["weight"].to_numpy().reshape(3, 4)
    np.testing.assert_allclose(drawn, expected)


def test_attention_of_a_layer_has_a_map_per_head():
    figure = plotting.plot_write_attention(write_table(num_heads=3), layer=0)
    titles = [axis.get_title() for axis in figure.axes[:-1] if axis.axison]
    assert titles == ["layer 0, head 0", "layer 0, head 1", "layer 0, head 2"]
    with pytest.raises(ValueError, match="layer 7, head None is not in the table"):
        plotting.plot_write_attention(write_table(), layer=7)


def test_read_attention_has_tokens_down_and_slots_across():
    axis = FIGURES["read"]().axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("read slot", "token of the question")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "2"]
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == "office"


def test_state_distances_marks_facts_and_question():
    axis = plotting.plot_state_distances(distances(), marks={"fact 1": 2, "fact 2": 2, "question": 4}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "question: 4", "fact 1, fact 2: 2"]
    np.testing.assert_allclose(axis.images[0].get_array(), distances())
    with pytest.raises(ValueError, match="a square"):
        plotting.plot_state_distances(distances().iloc[1:])


def test_attention_mass_draws_a_point_per_head_and_leaves_out_absent_targets():
    figure = FIGURES["mass"]()
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["on facts", "on background", "on read memory", "on write memory"]
    points = shown[0].containers[0].lines[0].get_xydata()
    assert len(points) == 6 and len(set(points[:, 0])) == 6 and (points[:, 1] == 20).all()

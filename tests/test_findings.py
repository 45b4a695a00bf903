"""Sentences follow the numbers of their tables, whatever these say."""

import numpy as np
import pandas as pd
import pytest

from rmtkit import findings


def ages(first, last, other, *, floor=0.2, n=(100, 40)):
    def row(phase, age, accuracy, count):
        return {"trained_on": phase, "age": age, "accuracy": accuracy, "low": accuracy - 0.05,
                "high": min(1, accuracy + 0.05), "n": count, "floor": floor}  # fmt: skip

    phases = {"same parity": (first, last), "other parity": (other, other), "both parities": (first, last)}
    return pd.DataFrame(
        row(phase, age, accuracy, count)
        for phase, values in phases.items()
        for age, accuracy, count in zip((0, 8), values, n, strict=True)
    )


def slot_table(without, alone, *, whole=1.0, none=0.1):
    rows = [("all", -1, whole), ("none", -1, none), *(("others", k, a) for k, a in enumerate(without))]
    table = pd.DataFrame([*rows, *(("slot", k, a) for k, a in enumerate(alone))], columns=["kept", "slot", "accuracy"])
    return table.assign(low=table["accuracy"] - 0.05, high=table["accuracy"] + 0.05, n=50, filling="mean")


def swap_table(shares):
    rows = [(name, kind, share) for name, other in shares.items() for kind, share in
            (("own", 1 - other), ("other", other), ("neither", 0.0))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["exchanged", "answer", "share"])
    return table.assign(low=table["share"] - 0.1, high=table["share"], n=60)


def test_distances_finding_tells_a_rhythm_from_rest():
    marks = {"fact 1": 2, "question": 7}
    parity = np.arange(8) % 2
    alternating = pd.DataFrame(10.0 * np.abs(np.subtract.outer(parity, parity)))
    assert "alternates between two forms" in findings.distances_finding(alternating, marks)
    resting = pd.DataFrame(np.abs(np.subtract.outer(np.arange(8.0), np.arange(8.0))))
    sentence = findings.distances_finding(resting, {"fact 1": 3, "question": 7})
    assert "does not alternate" in sentence and "2.0 from each other and neighbours 1.0, and" in sentence
    assert "from before it 4.0 from the last one" in sentence
    assert "too few segments" in findings.distances_finding(alternating, {"fact 1": 6, "question": 7})


def test_probe_finding_names_the_numbers_and_whether_the_codes_differ():
    sentence = findings.probe_finding(ages(0.95, 0.9, 0.3))
    assert "95.0 % (90.0-100.0, n=100)" in sentence and "8 segments later in 90.0 % (85.0-95.0, n=40)" in sentence
    assert sentence.endswith("different codes.")
    assert findings.probe_finding(ages(0.95, 0.9, 0.94)).endswith("cannot be told apart.")


@pytest.mark.parametrize("first, last, verdict", [(0.9, 0.2, "up to age 0"), (0.9, 0.8, "up to age 8"),
                                                 (0.2, 0.9, "not beyond the floor")])  # fmt: skip
def test_forgetting_finding_says_up_to_when(first, last, verdict):
    assert verdict in findings.forgetting_finding(ages(first, last, 0.2))


def test_slots_finding_names_the_slots_that_are_missed():
    sentence = findings.slots_finding(slot_table([1.0, 0.6, 0.7], [0.1, 0.5, 0.2]))
    assert "slot 1 and 2 cannot be missed, slot 1 least (60.0 % (55.0-65.0, n=50) without it)" in sentence
    assert "slot 1 does most alone (50.0 %" in sentence
    assert "every single slot can be missed" in findings.slots_finding(slot_table([1.0, 1.0], [0.1, 0.1]))


def test_heads_finding_counts_the_heads_that_are_missed():
    table = pd.DataFrame({"layer": [-1, 0, 0, 1], "head": [-1, 0, 1, 0], "accuracy": [0.9, 0.2, 0.88, 0.5], "n": 50})
    table = table.assign(low=table["accuracy"] - 0.05, high=table["accuracy"] + 0.05)
    sentence = findings.heads_finding(table, table.assign(accuracy=0.9, low=0.85, high=0.95))
    assert "while answering, 2 of 3 heads cannot be missed" in sentence and "layer 0, head 0 least (20.0 %" in sentence
    assert "while reading, 0 of 3 heads" in sentence


def test_swap_finding_names_slots_by_question_only_where_they_move_most_answers():
    shares = swap_table({"nothing": 0.0, "everything": 0.9, "slot 0": 0.5, "slot 1": 0.1})
    by_question = pd.concat([
        swap_table({"everything": 1.0, "slot 0": 0.95, "slot 1": 0.0}).assign(question="Where is Mary?"),
        swap_table({"everything": 1.0, "slot 0": 0.1, "slot 1": 0.4}).assign(question="Where is John?"),
    ])  # fmt: skip
    sentence = findings.swap_finding(shares, by_question)
    assert "90.0 % (80.0-90.0, n=60) of answers are that sample's" in sentence
    assert 'slot 0 for "Where is Mary?"' in sentence and "John" not in sentence
    assert "no single slot" in findings.swap_finding(shares, by_question[by_question["question"].str.contains("John")])


def test_mass_and_read_findings_name_the_strongest_head():
    mass = pd.DataFrame({"layer": [0, 1], "head": [0, 2], "target": "facts", "share": [0.1, 0.6], "low": [0.05, 0.5],
                         "high": [0.2, 0.7], "n": 20, "baseline": 0.05})  # fmt: skip
    sentence = findings.mass_finding(mass)
    assert "layer 1, head 2 give 60.0 % (50.0-70.0, n=20)" in sentence and "1 of 2 heads" in sentence
    rows = [(layer, 0, position, slot, 0.1 + 0.2 * layer + 0.1 * slot * position)
            for layer in range(2) for position in range(2) for slot in range(2)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "head", "position", "slot", "weight"])
    assert "70 % of its attention in layer 1, head 0 to memory, 40 % to slot 1" in findings.read_finding(table)


def test_drift_finding_compares_end_and_beginning():
    summary = pd.DataFrame({"lag": [0, 2, 512], "tokens": [0, 256, 65536], "n": 16, "accuracy": [1.0, 1.0, 0.5],
                            "low": [0.8, 0.8, 0.3], "high": [1.0, 1.0, 0.7], "in_phase": [0.0, 0.1, 0.6]})  # fmt: skip
    sentence = findings.drift_finding(summary)
    assert "After 65,536 tokens" in sentence and "0.60" in sentence and "0.10 after 256 tokens" in sentence
    assert "50.0 % (30.0-70.0, n=16) of answers are right" in sentence

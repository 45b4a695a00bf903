"""The backbone's notebook says how its steps went by their validations."""

import json

from rmtkit.pretraining import findings, validations


def write(folder, number, *accuracies):
    path = folder / f"step-{number}" / "metrics.jsonl"
    path.parent.mkdir()
    rows = [
        {"stage": 0, "step": 50 * (i + 1), "split": "validation", "exact_match": share, "low": share - 0.1, "high": 1.0,
         "n": 20} for i, share in enumerate(accuracies)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_validations_are_those_of_all_steps_in_order(tmp_path):
    write(tmp_path, 0, 0.4, 0.95)
    write(tmp_path, 1, 0.5)
    table = validations(tmp_path)
    assert table[["step", "background", "update"]].values.tolist() == [
        [1, "none", 50], [1, "none", 100], [2, "wiki", 50]
    ]  # fmt: skip


def test_findings_say_when_a_step_was_learned_and_when_not(tmp_path):
    write(tmp_path, 0, 0.4, 0.95, 0.85)
    write(tmp_path, 1, 0.5)
    first, second = findings(validations(tmp_path)).splitlines()
    assert "facts alone: 40.0 [30.0, 100.0] % (n=20) after 50 updates, 85.0 [" in first
    assert first.endswith("At 90 % or more first after 100.")
    assert "in background wiki" in second and second.endswith("At 90 % or more never.")

"""What the backbone is taught, and how its notebook says by their validations how the steps went."""

import json

from rmtkit.babi import TASKS
from rmtkit.config import resolve
from rmtkit.curriculum import StageDataset, stages
from rmtkit.experiment import prepare
from rmtkit.pretraining import curriculum, findings, validations


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


def test_facts_of_all_tasks_can_be_learned_together(tmp_path):
    step = curriculum(resolve({"task": "all"}))[0]
    experiment = prepare(resolve({**step, "task": "all", "backbone": "reference:backbone", "outputs_dir": tmp_path}))
    dataset = StageDataset(experiment.builder, experiment.config, stages(experiment)[0])
    problems = [dataset[index].problem for index in range(len(TASKS))]
    assert [problem.task for problem in problems] == list(TASKS)
    assert max(len(problem.facts) for problem in problems) < 20  # as few as there are

"""What users of a trainer rely on: accumulation, best weights, batches, schedules, freezing, going on."""

import copy
import json
import math
import shutil

import pytest
import torch
from trainer_runs import log_of, make_experiment, spoil, train_once, weights_of
from transformers import TrainerControl, TrainerState
from transformers.utils import logging

from rmtkit.config import CHOICES, ConfigError, resolve
from rmtkit.curriculum import StageDataset, StageEndCallback, stages
from rmtkit.experiment import build_model, load_trained, prepare
from rmtkit.kinds import collate
from rmtkit.runs import read_json
from rmtkit.trainer import make_optimizer
from rmtkit.training import Hooks, make_trainer, train
from rmtkit.validation import validation_loss

# ---------------------------------------------------------------- gradient accumulation


def test_accumulation_ends_with_the_weights_of_the_large_batch(small, tmp_path):
    found, num_labels = [], set()

    def count(batch):
        num_labels.add((len(batch["labels"]), int((batch["labels"] != -100).sum())))
        return batch

    for size in (8, 4, 2, 1):
        hooks = {"batch_transform": count}
        _, stage = train_once(small, tmp_path / str(size), hooks, micro_batch_size=size, eval_steps=3)
        found.append(weights_of(stage.best))
    start = build_model(make_experiment(small, tmp_path / "8").config).state_dict()
    assert len({number for size, number in num_labels if size == 2}) > 1, "micro-batches differ in their labels"
    for others in found[1:]:
        for name, weight in found[0].items():
            torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-6)
    moved = max(float((weight - start[name]).abs().max()) for name, weight in found[0].items())
    assert moved > 1e-4


def test_trainer_counts_the_labels_that_the_loss_counts(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    stage = stages(experiment)[0]
    model = build_model(experiment.config)
    trainer = make_trainer(experiment, stage, model, Hooks())
    dataset = StageDataset(experiment.builder, experiment.config, stage)
    batch = collate([dataset[i] for i in range(4)], 0)
    batch["labels"][:, 0] = 5  # predicted by nothing
    _, count = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    model.eval()
    torch.testing.assert_close(model(**batch).loss * count, model(**batch, num_items_in_batch=1).loss)


# ---------------------------------------------------------------- the best weights


def scripted(*values):
    """Return a metric that gives these values one after another."""
    left = list(values)
    return lambda records: left.pop(0)


@pytest.mark.parametrize(("is_lowest", "best", "step"), [("false", 3.0, 2), ("true", 1.0, 1)])
def test_best_weights_are_those_of_the_custom_metric(small, tmp_path, is_lowest, best, step):
    hooks = {"metrics": {"score": scripted(1, 3, 2)}}
    _, stage = train_once(small, tmp_path, hooks, best_metric="score", best_is_lowest=is_lowest)
    found = read_json(stage.folder / "stage.json")
    assert (found["best_metric"], found["best"], found["best_step"]) == ("score", best, step)
    expected = weights_of(stage.folder / f"checkpoint-{step}")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(stage.best).items())


def test_custom_metrics_see_the_records_and_are_logged(small, tmp_path):
    metrics = {"answered": lambda records: (records["prediction"].str.len() > 0).sum(), "half": lambda records: 0.5}
    experiment, stage = train_once(small, tmp_path, {"metrics": metrics})
    rows = experiment.run.metrics()
    assert len(rows) == 3 and all(0 <= row["answered"] <= row["n"] == 4 and row["half"] == 0.5 for row in rows)
    assert sum("eval_half" in entry for entry in log_of(stage, 3)) == 3


def test_best_loss_is_the_lowest_of_the_validations(small, tmp_path):
    experiment, stage = train_once(small, tmp_path, best_metric="loss", learning_rate=0.03)
    losses = [row["loss"] for row in experiment.run.metrics()]
    found = read_json(stage.folder / "stage.json")
    assert found["best"] == min(losses) and found["best_step"] == losses.index(min(losses)) + 1
    assert len(set(losses)) == 3


@pytest.mark.parametrize("eval_steps, kept", [(1, 3), (2, 3)])
def test_last_weights_are_kept_however_well_others_did(small, tmp_path, monkeypatch, eval_steps, kept):
    losses = [1.0, 2.0, 3.0]
    monkeypatch.setattr("rmtkit.validation.validation_loss", lambda *args, **kwargs: losses.pop(0))
    _, stage = train_once(small, tmp_path, best_metric="last", eval_steps=eval_steps)
    assert read_json(stage.folder / "stage.json")["best_step"] == kept
    expected = weights_of(stage.folder / f"checkpoint-{kept}")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(stage.best).items())


def test_validation_loss_is_the_mean_over_all_labels(small, tmp_path):
    experiment = make_experiment(small, tmp_path, task="qa8,qa1")
    samples = [experiment.builder.sample("validation", i, 112) for i in range(5)]
    model = build_model(experiment.config).train()
    total, count = 0.0, 0
    for sample in samples:
        batch = collate([sample], 0)
        logits = model.eval()(batch["input_ids"]).logits[0, :-1].log_softmax(-1)
        for position, label in enumerate(batch["labels"][0, 1:].tolist()):
            if label != -100:
                total, count = total - float(logits[position, label].detach()), count + 1
    found = validation_loss(model, samples, experiment.tokenizer, batch_size=2)
    assert math.isclose(found, total / count, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("metrics", "parameters", "message"),
    [({}, {"best_metric": "f1"}, "best_metric is 'f1'; allowed: last, exact_match, loss"),
     ({"f1": len}, {"best_metric": "f2"}, "best_metric is 'f2'; allowed: last, exact_match, loss, f1"),
     ({"loss": len}, {}, "a metric is called 'loss'; names that are taken")],
)  # fmt: skip
def test_metrics_that_are_not_there_stop_before_training(small, tmp_path, metrics, parameters, message):
    experiment = make_experiment(small, tmp_path, **parameters)
    with pytest.raises(ConfigError, match=message):
        train(experiment, metrics=metrics)
    assert not (experiment.run.folder / "checkpoints").exists()


def test_metric_that_is_not_a_number_is_named(small, tmp_path):
    with pytest.raises(ValueError, match="metric 'score' is nan, expected a finite number"):
        train_once(small, tmp_path, {"metrics": {"score": lambda records: math.nan}})


@pytest.mark.parametrize(("is_lowest", "stops"), [(True, 5), (False, 3)])
def test_patience_follows_the_best_metric(is_lowest, stops):
    callback, state = StageEndCallback(None, 2, "loss", is_lowest=is_lowest), TrainerState(log_history=[])
    for step, loss in enumerate([0.9, 0.5, 0.4, 0.6, 0.4], start=1):
        state.log_history.append({"step": step, "eval_exact_match": step / 10, "eval_loss": loss})
        control = callback.on_evaluate(None, state, TrainerControl())
        assert control.should_training_stop == (step >= stops)


def test_promotion_is_about_exact_match_whatever_is_best():
    callback = StageEndCallback(0.9, 9, "loss", is_lowest=True)
    state = TrainerState(log_history=[{"step": 1, "eval_exact_match": 0.8, "eval_loss": 0.1}])
    assert not callback.on_evaluate(None, state, TrainerControl()).should_training_stop
    state.log_history.append({"step": 2, "eval_exact_match": 0.95, "eval_loss": 0.3})
    assert callback.on_evaluate(None, state, TrainerControl()).should_training_stop


# ---------------------------------------------------------------- batches


def test_batch_transform_makes_every_training_batch(small, tmp_path):
    seen = []

    def first_label_only(batch):
        is_label = (batch["labels"] != -100).long()
        labels = batch["labels"].masked_fill(is_label.cumsum(1) != 1, -100)
        seen.append(int((labels != -100).sum()))
        return {**batch, "labels": labels}

    _, stage = train_once(small, tmp_path / "a", {"batch_transform": first_label_only}, micro_batch_size=4)
    assert seen == [4] * 6
    _, other = train_once(small, tmp_path / "b", micro_batch_size=4)
    losses = [[entry["loss"] for entry in log_of(each, 3) if "loss" in entry] for each in (stage, other)]
    assert losses[0] != losses[1]


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_schedule_starts_and_reaches_the_peak(small, tmp_path, schedule, optimizer):
    parameters = {"schedule": schedule, "optimizer": optimizer, "steps": 20, "warmup_share": 0.1}
    experiment = make_experiment(small, tmp_path, best_metric="loss", **parameters)
    config = experiment.config
    trainer = make_trainer(experiment, stages(experiment)[0], build_model(config), Hooks())
    groups = trainer.create_optimizer().param_groups
    peaks = [group["lr"] for group in groups]
    scheduler, shares = trainer.create_scheduler(20), []
    trainer.optimizer.step()
    for _ in range(20):
        shares.append([group["lr"] / peak for group, peak in zip(groups, peaks, strict=True)])
        scheduler.step(*([1.0] if schedule == "reduce_lr_on_plateau" else []))
    assert all(max(share) - min(share) < 1e-9 for share in shares), "all groups follow"
    assert max(shares)[0] == pytest.approx(1.0) and peaks[-1] == config.memory_learning_rate
    falls = shares[-1][0] < 0.95
    assert falls == (schedule not in ("constant_with_warmup",))


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_learning_rate_falls_where_the_best_metric_does_not_get_better(small, tmp_path, optimizer):
    hooks = {"metrics": {"score": scripted(1, 2, 2, 2, 2, 2)}}
    _, stage = train_once(small, tmp_path, hooks, best_metric="score", schedule="reduce_lr_on_plateau", steps=6,
                          patience=3, optimizer=optimizer)  # fmt: skip
    rates = [entry["learning_rate"] for entry in log_of(stage, 5) if "learning_rate" in entry]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 1, 1, 1, 0.1])


# ---------------------------------------------------------------- freezing


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_trainable_memory_leaves_the_backbone_as_it_is(small, tmp_path, optimizer):
    experiment, stage = train_once(small, tmp_path, trainable="memory", optimizer=optimizer, eval_steps=3)
    start = build_model(experiment.config).state_dict()
    changed = {name for name, weight in weights_of(stage.best).items() if not torch.equal(weight, start[name])}
    assert changed == {"memory"}


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_optimizer_of_the_memory_alone_survives_saving(small, tmp_path, optimizer):
    experiment = make_experiment(small, tmp_path, optimizer=optimizer)
    model = build_model(experiment.config).requires_grad_(False)
    model.memory.requires_grad_(True)
    made = make_optimizer(model, experiment.config)
    assert [id(p) for group in made.param_groups for p in group["params"]] == [id(model.memory)]
    model.memory.grad = torch.ones_like(model.memory)
    made.step()
    other = make_optimizer(model, experiment.config)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert str(other.state_dict()) == str(made.state_dict())


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize(
    "parameters",
    [{"best_metric": "loss", "micro_batch_size": 4, "schedule": "reduce_lr_on_plateau", "patience": 2},
     {"best_metric": "length", "optimizer": "muon", "schedule": "polynomial"}],
)  # fmt: skip
def test_resumed_stage_ends_as_one_that_was_not_interrupted(small, tmp_path, parameters):
    hooks = {"batch_transform": spoil, "metrics": {"length": lambda records: records["prediction"].str.len().sum()}}
    experiment, stage = train_once(small, tmp_path, hooks, steps=9, learning_rate=0.03, **parameters)
    files = (stage.folder / "stage.json", sorted(stage.folder.glob("checkpoint-*/trainer_state.json"))[-1])
    weights, before = weights_of(stage.best), [read_json(file) for file in files]
    last = max(int(path.name.split("-")[1]) for path in stage.folder.glob("checkpoint-*"))
    for folder in (stage.best, experiment.run.model_path, stage.folder / f"checkpoint-{last}"):
        shutil.rmtree(folder)
    experiment, stage = train_once(small, tmp_path, hooks, steps=9, learning_rate=0.03, **parameters)
    after = [read_json(file) for file in files]
    assert {**before[0], "seconds": 0} == {**after[0], "seconds": 0} and before[0]["skipped_updates"] > 0
    assert json.dumps(before[1]["log_history"]) == json.dumps(after[1]["log_history"])
    assert all(torch.equal(weight, weights_of(stage.best)[name]) for name, weight in weights.items())


# ---------------------------------------------------------------- bars


def test_no_bars_of_transformers_are_left_on(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    folder = tmp_path / "model"
    model = build_model(experiment.config)
    model.save_pretrained(folder)
    experiment.tokenizer.save_pretrained(folder)
    for load in (lambda: prepare(experiment.config), lambda: load_trained(resolve({**small, "checkpoint": folder}))):
        logging.enable_progress_bar()
        load()
        assert not logging.is_progress_bar_enabled()

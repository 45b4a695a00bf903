"""Gradients of an update before the optimizer sees them: clipped, or not finite, and the update skipped."""

import copy
import math
import types

import pytest
import torch
from trainer_runs import spoil, train_once, weights_of
from transformers import TrainerCallback, TrainerState

from rmtkit.callbacks import GradientCallback
from rmtkit.runs import read_json


class Gradients(TrainerCallback):
    """Keep the largest number and the norm of the gradients of each update."""

    def __init__(self):
        self.largest, self.norms = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.largest.append(max(float(g.abs().max()) for g in gradients))
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


# ---------------------------------------------------------------- clipping


def gradients_of(small, folder, **parameters):
    gradients = Gradients()
    train_once(small, folder, {"callbacks": (gradients,)}, **parameters)
    assert len(gradients.norms) == 3
    return gradients


def test_gradients_are_clipped_by_norm(small, tmp_path):
    assert max(gradients_of(small, tmp_path, max_grad_norm=1e-3).norms) == pytest.approx(1e-3, rel=1e-2)


def test_gradients_are_clipped_by_value(small, tmp_path):
    found = gradients_of(small, tmp_path, max_grad_value=1e-3)
    assert max(found.largest) == pytest.approx(1e-3) and min(found.norms) > 2e-3


def test_gradients_are_not_clipped_where_that_is_off(small, tmp_path):
    assert min(gradients_of(small, tmp_path, max_grad_norm=0).norms) > 1.1


# ---------------------------------------------------------------- updates that are skipped


def spoil_all(batch):
    return {**batch, "state": torch.full((len(batch["input_ids"]), 8, 16), math.nan)}


def build_part():
    """A model, its optimizer after one update, and a new gradient."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_skipped_update_changes_neither_weights_nor_optimizer(number):
    model, optimizer = build_part()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model(torch.ones(1, 3)).sum().backward()
    model.weight.grad[0, 0] = number
    GradientCallback(1.0).on_pre_optimizer_step(arguments(), TrainerState(), None, model=model)
    optimizer.step()
    assert str((model.state_dict(), optimizer.state_dict())) == str(before)


def arguments():
    return types.SimpleNamespace(output_dir="stage")


def test_skipped_update_goes_with_the_loss_scaler_of_float16():
    model, optimizer = build_part()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    scaler, callback, state = torch.amp.GradScaler("cpu", init_scale=2.0**16), GradientCallback(), TrainerState()
    for factor, skipped in ((math.inf, 1), (1.0, 1)):
        scaler.scale(model(torch.ones(1, 3)).sum() * factor).backward()
        scaler.unscale_(optimizer)  # as clipping does
        callback.on_pre_optimizer_step(arguments(), state, None, model=model)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert len(state.log_history) == skipped and scaler.get_scale() == 2.0**15
        is_unchanged = str((model.state_dict(), optimizer.state_dict())) == str(before)
        assert is_unchanged == (factor == math.inf)


def test_skipped_updates_are_counted_in_all_files(small, tmp_path):
    experiment, stage = train_once(small, tmp_path, {"batch_transform": spoil}, steps=12, batch_size=4,
                                   micro_batch_size=2)  # fmt: skip
    total = read_json(stage.folder / "stage.json")["skipped_updates"]
    counts = [row["skipped_updates"] for row in experiment.run.metrics()]
    assert 0 < total < 12 and counts[-1] == total and counts == sorted(counts)
    assert all(torch.isfinite(weight).all() for weight in weights_of(stage.best).values())


def test_many_skipped_updates_in_a_row_stop_the_run(small, tmp_path, monkeypatch):
    monkeypatch.setattr(GradientCallback, "MOST_IN_A_ROW", 2)
    with pytest.raises(ValueError, match="the gradients of 2 updates in a row are not finite, up to update 2") as found:
        train_once(small, tmp_path, {"batch_transform": spoil_all})
    assert "\n" not in str(found.value)


def test_skipped_updates_with_others_between_do_not_stop_the_run(monkeypatch):
    monkeypatch.setattr(GradientCallback, "MOST_IN_A_ROW", 2)
    model, state, callback = torch.nn.Linear(1, 1), TrainerState(), GradientCallback()
    for step in (0, 2, 4):
        state.global_step = step
        model.weight.grad = torch.full_like(model.weight, math.nan)
        callback.on_pre_optimizer_step(arguments(), state, None, model=model)
    assert [entry["skipped_updates"] for entry in state.log_history] == [1, 2, 3]

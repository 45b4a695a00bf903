"""Muon with AdamW: torch's updates in float32 too, and a state that survives saving."""

import copy

import pytest
import torch

from rmtkit.optimization import Float32Muon, MuonWithAdamW


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muon_in_float32_is_torchs_but_for_the_rounding(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    one, other = (torch.nn.Parameter(start.clone().to(dtype)) for dtype in (torch.float32, torch.float64))
    ours, theirs = Float32Muon([one], lr=0.1, weight_decay=0.1), torch.optim.Muon([other], lr=0.1, weight_decay=0.1)
    for _ in range(4):
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
        one.grad, other.grad = gradient.float(), gradient.clone()
        ours.step(), theirs.step()
    moved = (other - start).norm()
    assert (one - other).norm() < 0.02 * moved and moved > 0.3
    momentum, expected = (optimizer.state_dict()["state"][0]["momentum_buffer"] for optimizer in (ours, theirs))
    torch.testing.assert_close(momentum, expected.float())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("has, expected", [(True, torch.optim.Muon), (False, Float32Muon)])
def test_muon_is_in_float32_where_the_processor_emulates_bfloat16(monkeypatch, has, expected):
    monkeypatch.setattr("rmtkit.optimization.has_bfloat16", lambda: has)
    rates = {"matrix_learning_rate": 0.1, "learning_rate": 0.1, "weight_decay": 0.0}
    optimizer = MuonWithAdamW([torch.nn.Parameter(torch.ones(2, 2))], [torch.nn.Parameter(torch.ones(2))], **rates)
    assert type(optimizer._parts[0]) is expected


def test_optimizer_state_survives_saving():
    torch.manual_seed(0)

    def build():
        weights = [torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))]
        groups = [{"params": weights[1:]}]
        return weights, MuonWithAdamW(
            weights[:1], groups, matrix_learning_rate=0.1, learning_rate=0.1, weight_decay=0.0
        )

    def update(weights, optimizer, step):
        for number, weight in enumerate(weights):
            weight.grad = torch.sin(
                weight.detach() * (step + 1) + torch.arange(weight.numel()).view_as(weight) + number
            )
        optimizer.step()

    weights, optimizer = build()
    for step in range(3):
        update(weights, optimizer, step)
    others, restored = build()
    for a, b in zip(others, weights, strict=True):
        a.data.copy_(b.data)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    update(weights, optimizer, 3)
    update(others, restored, 3)
    for a, b in zip(others, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)

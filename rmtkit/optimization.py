"""Optimizers by name: AdamW as in the paper, or Muon for the matrices of the layers with AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes a small decoder learn bAbI in a third of the
steps (outputs/reference/LOG.md). It takes matrices only; embeddings, memory, norms and biases stay with AdamW.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch

from rmtkit.precision import has_bfloat16


class Float32Muon(torch.optim.Muon):
    """torch's Muon, with its Newton-Schulz iteration in the gradient's data type instead of bfloat16.

    For processors that emulate bfloat16, where torch's takes longer than all else of an update
    (outputs/reference/LOG.md). Parameters and state are torch's: a checkpoint of one can be read by the other.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Update all matrices once."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            rate, inertia = group["lr"], group["momentum"]
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                if "momentum_buffer" not in self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = self.state[matrix]["momentum_buffer"]
                momentum.lerp_(matrix.grad, 1 - inertia)
                update = matrix.grad.lerp(momentum, inertia)  # Nesterov
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-rate * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5)
        return loss


def orthogonalize(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Return about U V^T of a matrix U S V^T (m, n), by Newton-Schulz steps with a polynomial of degree five."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if is_tall else matrix) / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one: shared `param_groups`, one `step`, one state dict.

    Args:  matrices: parameters for Muon, two axes each, or none;  others: groups of parameters for AdamW;
           matrix_learning_rate: of Muon;  learning_rate: of AdamW;  weight_decay: of both.
    """

    def __init__(self, matrices, others, *, matrix_learning_rate: float, learning_rate: float, weight_decay: float):
        self._parts = [torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))]
        if matrices:
            is_emulated = matrices[0].device.type == "cpu" and not has_bfloat16()
            muon = Float32Muon if is_emulated else torch.optim.Muon
            self._parts.insert(0, muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay))
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {"lr": learning_rate})  # which the schedule "polynomial" reads
        self._share_groups()

    def _share_groups(self) -> None:
        """Let the parts see the very groups that schedulers change here."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:end]
            start = end

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters once."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        """Return the state of the parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._share_groups()


class WithCopies(torch.optim.Optimizer):
    """Another optimizer on float32 copies of a model's weights, with an average of what they have been.

    Weights in bfloat16 are the copies rounded anew after each update: bfloat16 has eight bits, most updates of a weight
    are smaller than its last one and would be lost. The average is exponential (Polyak and Juditsky 1992); early in
    training it forgets faster, with a decay of (1 + n) / (10 + n) after n updates.

    Args:  model: its trainable parameters are updated;  make: returns the optimizer of a model like it, in float32;
           ema_decay: what an update leaves of the average, 0: no average.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        make: Callable[[torch.nn.Module], torch.optim.Optimizer],
        *,
        ema_decay: float = 0.0,
    ):
        master = copy.deepcopy(model).float()
        self.inner = make(master)
        pairs = zip(model.parameters(), master.parameters(), strict=True)
        self._pairs = [(weight, copied) for weight, copied in pairs if weight.requires_grad]
        self.ema_decay, self.num_updates = ema_decay, 0
        self._average = [copied.detach().clone() for _, copied in self._pairs] if ema_decay else []
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self.param_groups = self.inner.param_groups  # the very groups that schedulers change here

    @torch.no_grad()
    def step(self, closure=None):
        """Update the copies by the gradients of the weights, round them to the weights, and go on with the average."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for weight, copied in self._pairs:
            copied.grad = None if weight.grad is None else weight.grad.to(copied.dtype)
        self.inner.step()
        for weight, copied in self._pairs:
            copied.grad = None
            weight.copy_(copied)
        if self.ema_decay:
            decay = min(self.ema_decay, (1 + self.num_updates) / (10 + self.num_updates))
            for average, (_, copied) in zip(self._average, self._pairs, strict=True):
                average.lerp_(copied, 1 - decay)
            self.num_updates += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the weights."""
        for weight, _ in self._pairs:
            weight.grad = None if set_to_none or weight.grad is None else weight.grad.zero_()

    @contextlib.contextmanager
    def averaged(self):
        """Give the model the average of its weights, if there is one, until the block ends."""
        if not self.ema_decay:
            yield
            return
        self._set_weights(self._average)
        try:
            yield
        finally:
            self._set_weights([copied for _, copied in self._pairs])

    @torch.no_grad()
    def _set_weights(self, values: list[torch.Tensor]) -> None:
        for (weight, _), value in zip(self._pairs, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict:
        """Return the copies, the average and the state of the optimizer on the copies."""
        return {
            "inner": self.inner.state_dict(), "master": [copied.detach() for _, copied in self._pairs],
            "average": self._average, "num_updates": self.num_updates,
        }  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what `state_dict` returned, and the weights by the copies."""
        self.inner.load_state_dict(state_dict["inner"])
        self.param_groups = self.inner.param_groups
        for (_, copied), saved in zip(self._pairs, state_dict["master"], strict=True):
            copied.copy_(saved)
        self._set_weights(state_dict["master"])
        for average, saved in zip(self._average, state_dict["average"], strict=True):
            average.copy_(saved)
        self.num_updates = state_dict["num_updates"]

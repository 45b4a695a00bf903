"""What happens to the gradients of an update before the optimizer sees them."""

from __future__ import annotations

import math

import torch
from transformers import TrainerCallback, TrainerState

from rmtkit.processes import gather, uses_fsdp


class GradientCallback(TrainerCallback):
    """Skip updates whose gradients are not finite, and count them; clip those of the others by value.

    A skipped update drops its gradients, so that neither weights nor optimizer change; the schedule goes on. With
    float16 the loss scaler has found the same gradients, skips too and scales less the next time.

    Each one is an entry of the log, which lies in the checkpoint: a resumed run goes on counting.

    Args: max_value: no number in the gradients is larger, 0: any size.
    """

    MOST_IN_A_ROW = 20  # a loss scaler begins at 2^16, and halves it with each

    def __init__(self, max_value: float = 0.0):
        self.max_value = max_value

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Skip or clip. Raises: ValueError after too many skipped updates in a row."""
        if not are_finite([p.grad for p in model.parameters() if p.grad is not None]):
            model.zero_grad()
            self._count(state, args.output_dir)
        elif self.max_value:
            torch.nn.utils.clip_grad_value_(model.parameters(), self.max_value)

    def _count(self, state: TrainerState, folder: str) -> None:
        steps = [*skipped_updates(state), state.global_step + 1]
        state.log_history.append({"step": steps[-1], "skipped_updates": len(steps)})
        if steps[-self.MOST_IN_A_ROW :] == list(range(steps[-1] - self.MOST_IN_A_ROW + 1, steps[-1] + 1)):
            raise ValueError(
                f"the gradients of {self.MOST_IN_A_ROW} updates in a row are not finite, up to update {steps[-1]} of "
                f"{folder}; take smaller learning rates, or precision=float32"
            )


def skipped_updates(state: TrainerState) -> list[int]:
    """Return the numbers of the updates that were skipped since the stage began."""
    return [entry["step"] for entry in state.log_history if "skipped_updates" in entry]


def are_finite(gradients: list[torch.Tensor]) -> bool:
    """Whether all numbers in all gradients are finite, those of the other processes' shards included."""
    largest = torch.nn.utils.get_total_norm(gradients, math.inf)
    if hasattr(largest, "full_tensor"):  # of sharded parameters
        largest = largest.full_tensor()
    is_finite = bool(torch.isfinite(largest))
    return all(gather([is_finite])) if uses_fsdp() else is_finite

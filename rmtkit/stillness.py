"""Keeping still, asked for beside the answers (`stillness`).

An answer changes only once a memory has lost what it holds; the distance that a segment of background moves the memory
says so long before. Ours; not in the paper.

Axis letters: b batch, t tokens, k and n segments, m memory tokens, d width.
"""

from __future__ import annotations

import torch

from rmtkit.memory.base import on_grid


def motion(memories, written, is_background, grid: float, is_start=None) -> torch.Tensor:
    """Return how far two segments of background alone move the memory, the mean over pairs of segments.

    Two, because the memory of a small model may alternate between two states. A pair that tells a fact counts as 0, and
    so does what stays within a quarter of the grid: it is rounded back, with as much to spare.

        mean over segments j, slots, width of  max(0, |written_{j+1} - M_{j-1}| / g - 1/4)^2      g: the grid
        without a grid                         |written_{j+1} - M_{j-1}|^2

    Args:    memories: M_0 .. M_k (k+1, b, m, d);  written: what segments 1 .. k wrote, before it was rounded,
             (k, b, m, d);  is_background: whether a segment is background alone, (b, k);  grid: the spacing, or 0;
             is_start: whether M_0 is a text's initial memory, (b,): no state to stay in, it does not count.
    Returns: (b,); 0 where there are no two segments.
    """
    is_background = is_background.T  # (k, b)
    counts = is_background[:-1] & is_background[1:]
    if is_start is not None:
        counts[:1] &= ~is_start
    distance = (written[1:].float() - memories[:-2].detach().float()).abs()
    if grid:
        distance = (distance / grid - 0.25).relu()
    return (distance.square().mean(dim=(2, 3)) * counts).sum(dim=0) / max(1, len(counts))


def text_loss(model, batch: dict[str, torch.Tensor], num_items=None, *, stillness: float, num_rows: int | None = None):
    """Return the loss of whole texts: their answers' cross-entropy, and how far background moves their memory.

    Args: model: RMTForCausalLM, or what wraps it (DDP);  batch: what the model takes, input_ids and labels (b, t), and
          is_background (b, n), which of their segments are background alone;  num_items: what the cross-entropy is
          divided by; None: the number of labels;  stillness: weight of `motion`, whose sum is divided by num_rows;
          None: the number of texts.
    """
    texts = {name: values for name, values in batch.items() if name != "is_background"}
    output = model(**texts, num_items_in_batch=num_items)
    written = torch.stack(output.written)
    grid = getattr(model, "module", model).config.memory_grid
    memories = on_grid(written.detach(), grid)  # M_1 .. M_n; M_0 is no state to stay in
    moved = motion(memories, written[1:], batch["is_background"][:, 1:], grid)
    return output.loss + stillness * moved.sum() / (num_rows or len(moved))

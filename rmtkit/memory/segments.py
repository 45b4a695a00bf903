"""Cutting a sample into segments, shifting its labels, and moving its padding out of the way.

Axis letters: b batch, t tokens, s segment tokens, n segments.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional


def split_segments(tokens: torch.Tensor, segment_size: int) -> tuple[torch.Tensor, ...]:
    """Cut (b, t) into n = ceil(t / segment_size) pieces (b, s); only the last may be shorter."""
    return tokens.split(segment_size, dim=1)


def next_token_targets(labels: torch.Tensor) -> torch.Tensor:
    """Move labels (b, t) one step to the left, so that position j holds what position j has to predict.

    The shift crosses segment borders: the last token of a segment predicts the first token of the next one.
    """
    return functional.pad(labels[:, 1:], (0, 1), value=-100)


def first_segment_in_graph(num_segments: int, bptt_depth: int | None) -> int:
    """Return the index of the first segment that the last one's loss reaches: BPTT over `bptt_depth` segments.

    The count starts at the end of *this* sample, whatever the longest sample may be.
    """
    return 0 if bptt_depth is None else max(0, num_segments - bptt_depth)


def padding_last(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the order (b, t) that puts what is not padding first and keeps it as it is otherwise.

    In that order a row does not depend on where its padding was: segments begin at its own first token, positions
    count from there, and under a causal mask nothing sees what comes after its end.
    """
    return attention_mask.bool().int().argsort(dim=1, descending=True, stable=True)


def padding_first(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the order (b, t) that puts padding first: all rows end together."""
    return attention_mask.bool().int().argsort(dim=1, stable=True)


def reorder(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return values (b, t) or (b, t, d) with their positions in the given order (b, t)."""
    return values.gather(1, order if values.ndim == 2 else order[..., None].expand(-1, -1, values.shape[2]))


def restore(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Undo `reorder`."""
    return reorder(values, order.argsort(dim=1))


def pack(input_ids, attention_mask, labels=None):
    """Move the padding of rows (b, t) to their end.

    Returns: input_ids, attention_mask, labels, and the order that `restore` takes; mask and order are None if
             there is no padding.
    """
    if attention_mask is None or bool(attention_mask.all()):
        return input_ids, None, labels, None
    order = padding_last(attention_mask)
    labels = None if labels is None else reorder(labels, order)
    return reorder(input_ids, order), reorder(attention_mask, order), labels, order


def align_right(input_ids, attention_mask):
    """Move the padding of rows (b, t) to their beginning, and cut off what is padding in all of them."""
    order = padding_first(attention_mask)[:, -max(1, int(attention_mask.bool().sum(dim=1).max())) :]
    return reorder(input_ids, order), reorder(attention_mask, order)


def borders_from_left(num_tokens: int, segment_size: int) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of n = ceil(t / segment_size) segments that are full but for the last."""
    return ((start, min(start + segment_size, num_tokens)) for start in range(0, num_tokens, segment_size))


def borders_from_right(num_tokens: int, segment_size: int) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of n = ceil(t / segment_size) segments that are full but for the first."""
    return ((max(0, end - segment_size), end) for end in reversed(range(num_tokens, 0, -segment_size)))

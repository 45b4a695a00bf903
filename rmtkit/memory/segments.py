"""Cutting a sample into segments and shifting its labels.

Axis letters: b batch, t tokens, s segment tokens, n segments.
"""

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

"""Samples that end together: cut from the right, so that each ends in the last segment, where it is answered.

The short segment comes first, as in the authors' models for encoders (Bulatov et al. 2023, 2304.11062). A sample of a
batch that is shorter than the others begins later and keeps M_0 until then; its segments do not depend on the others.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, d width, n segments.
"""

from collections.abc import Iterator

import torch

from .base import RMTPreTrainedModel
from .segments import align_right, borders_from_right


class RightAlignedModel(RMTPreTrainedModel):
    """A model that makes something of the last segment only."""

    def segment_borders(self, num_tokens: int) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of the segments that a text (b, t) is read in: full ones, the first may be short."""
        return borders_from_right(num_tokens, self.config.segment_size)

    def read(self, input_ids, state=None, attention_mask=None) -> torch.Tensor | None:
        """Stream tokens (b, t) of any length through the recurrence and return the memory (b, m, d).

        As `RMTPreTrainedModel.read`, but cut from the right: what follows must be whole segments.
        """
        if attention_mask is not None:
            input_ids, attention_mask = align_right(self._on_device(input_ids), attention_mask.to(self.device))
        return super().read(input_ids, state, attention_mask)

    def _read_to_the_end(self, input_ids, attention_mask, state):
        """Step through samples (b, t) with padding anywhere.

        Returns: the output of the last segment, its mask (b, s) or None, and the memory after it (b, m, d).
        """
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        if attention_mask is not None:
            input_ids, attention_mask = align_right(input_ids, attention_mask)
        segments, masks = [], []
        for start, end in self.segment_borders(input_ids.shape[1]):
            segments.append(input_ids[:, start:end])
            masks.append(None if attention_mask is None else attention_mask[:, start:end])
        if not segments:
            raise ValueError("input_ids has no tokens; expected one token or more")
        for read in self._steps(segments, masks, state):
            output, state = read
        return output, masks[-1], state

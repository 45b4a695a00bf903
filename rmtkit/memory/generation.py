"""What a decoder with memory has read so far, while it writes on: memory, the segment being filled, and its keys.

A row of a batch fills segments of its own: rows of different lengths end them at different times. The segment being
filled is read as [M_t ; X_t] with the backbone's own cache, a token at a time; when it is full and another token
comes, it is read once more by `step`, which writes the memory, as in training.

Axis letters: b batch, k new tokens, s tokens of the segment being filled, m memory tokens, d width.
"""

import inspect

import torch
from torch.nn import functional

from .segments import padding_first, padding_last, reorder


class ReadingCache:
    """Stands where transformers keeps keys and values; they are inside of it, for the current segment only.

    Args: memory: M_t before the segment that comes first, (b, m, d).
    """

    is_compileable = False

    def __init__(self, memory: torch.Tensor):
        self.memory = memory
        self.tokens = torch.empty(len(memory), 0, dtype=torch.long, device=memory.device)  # (b, s), padding first
        self.mask = self.tokens.bool()  # (b, s)
        self.keys = None  # the backbone's cache of [M_t ; tokens]
        self.num_read = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read, padding included."""
        return self.num_read

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the rows of the chosen beams."""
        self.memory, self.tokens, self.mask = (
            x.index_select(0, beam_idx) for x in (self.memory, self.tokens, self.mask)
        )
        if self.keys is not None:
            self.keys.reorder_cache(beam_idx)

    def extend(self, model, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Read more tokens.

        Args:    model: an `RMTForCausalLM`;  input_ids, attention_mask (b, k), None: no padding.
        Returns: last hidden states of the end of the current segment, at least of its last token, (b, 1 to s, d).
        """
        new_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.num_read += input_ids.shape[1]
        self.tokens = torch.cat([self.tokens, input_ids], dim=1)
        self.mask = torch.cat([self.mask, new_mask], dim=1)
        is_one = input_ids.shape[1] == 1 and bool(new_mask.all())
        if is_one and self.keys is not None and int(self.mask.sum(dim=1).max()) <= model.config.segment_size:
            return self._decode(model, model.get_input_embeddings()(input_ids))
        self._write_full_segments(model)
        self.keys = None
        return self._decode(model, torch.cat([self.memory, model.get_input_embeddings()(self.tokens)], dim=1))

    def _write_full_segments(self, model) -> None:
        """Write all segments but the last of each row to its memory; keep the last, of one token or more."""
        size, order = model.config.segment_size, padding_last(self.mask)
        tokens, lengths = reorder(self.tokens, order), self.mask.sum(dim=1)
        num_full = (lengths - 1).clamp(min=0) // size
        memory = self.memory.clone()
        for index in range(int(num_full.max())):
            rows = torch.nonzero(num_full > index)[:, 0]
            memory[rows] = model.step(tokens[rows, index * size : (index + 1) * size], memory[rows])[1].to(memory)
        self.memory = memory
        self.tokens, self.mask = _cut(tokens, num_full * size, lengths)

    def _decode(self, model, embeddings: torch.Tensor) -> torch.Tensor:
        """Continue [M_t ; tokens] by embeddings (b, k, d), without keys all of it; return hidden states (b, k, d)."""
        decoder, arguments = model.backbone.get_decoder(), {}
        if not bool(self.mask.all()):
            mask = functional.pad(self.mask, (self.memory.shape[1], 0), value=True)
            order = padding_first(mask)
            mask = reorder(mask, order)
            if self.keys is None:
                embeddings = reorder(embeddings, order)
            arguments["attention_mask"] = mask.long()
            if "position_ids" in inspect.signature(decoder.forward).parameters:
                positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
                arguments["position_ids"] = positions[:, -embeddings.shape[1] :]
        if self.keys is not None:
            arguments["past_key_values"] = self.keys
        output = decoder(inputs_embeds=embeddings, use_cache=True, **arguments)
        self.keys = output.get("past_key_values")  # None (Mamba): the segment is read anew for every token
        return output.last_hidden_state.to(embeddings.dtype)


def _cut(tokens: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens[row, start:end] of every row, padding first, and the mask of what is no padding, (b, s) each."""
    sizes = ends - starts
    index = torch.arange(int(sizes.max()), device=tokens.device) - sizes.max() + ends[:, None]
    return tokens.gather(1, index.clamp(min=0)), index >= starts[:, None]

"""Recurrent Memory Transformer around any Hugging Face decoder.

The method in two lines (Kuratov et al. 2024, 2402.10790, section 4; Bulatov et al. 2022, section 3.2):

    H_t     = Decoder([M_t ; X_t ; M_t])      the same memory in front (read slots) and behind (write slots)
    M_{t+1} = H_t at the write slots          last hidden layer, no gate, no projection

By the causal mask tokens read M_t on their left, and write slots see read memory, tokens and earlier write slots.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, n segments, d width, v vocabulary.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput, can_return_tuple

from .base import RMTPreTrainedModel, SegmentOutput, cross_entropy
from .configuration import RMTConfig
from .generation import ReadingCache
from .segments import next_token_targets, pack, padding_last, reorder, restore


@dataclass
class RMTOutput(ModelOutput):
    """A sample: loss (if labels), logits (b, kept, v) (if no labels), memory after the last segment (b, m, d).

    With a loss to learn from: what each segment wrote, before it was put on the grid, (b, m, d) each.
    While generating, past_key_values holds what was read, and memory is that before the segment being written.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    memory: torch.Tensor | None = None
    written: tuple[torch.Tensor, ...] | None = None
    past_key_values: ReadingCache | None = None


class RMTForCausalLM(RMTPreTrainedModel, GenerationMixin):
    """A decoder with recurrent memory."""

    accepts_loss_kwargs = True  # Trainer hands over the number of labels in all micro-batches of an update
    _is_stateful = True  # memory cannot be rolled back: no assisted generation

    @classmethod
    def check_backbone(cls, backbone: PreTrainedModel) -> None:
        """Raise ValueError if logits are more than the head's output: Gemma 2 caps, Cohere and Granite scale them."""
        if not _is_head_linear(backbone):
            raise ValueError(
                f"{type(backbone).__name__} scales or caps the output of its head, which the wrapper does not; "
                "take a backbone whose logits are its head's output (GPT-2, GPT-NeoX, Llama, Qwen and most others)"
            )

    # ------------------------------------------------------------------ the recurrence

    def step(self, segment, state=None, *, attention_mask=None, output_attentions=False):
        """Read one segment and write the memory: the only place where the recurrence is computed.

        Args:    segment (b, s) token ids, or their embeddings (b, s, d);  state: M_t (b, m, d), None for M_0;
                 attention_mask (b, s), 1 for text and 0 for padding anywhere, None if there is no padding.
        Returns: SegmentOutput and M_{t+1} (b, m, d). A sample whose segment is all padding keeps its memory.
        Paper:   2402.10790, section 4; 2207.06881, equations 2-4.
        """
        if state is None:
            state = self.initial_memory(segment.shape[0])
        m, s = state.shape[1], segment.shape[1]
        text = segment if segment.is_floating_point() else self.get_input_embeddings()(segment)
        embeddings = torch.cat([state, text, state], dim=1)
        order = None
        if attention_mask is not None:  # padding behind the write slots: no mask, no position depends on it
            order = padding_last(functional.pad(attention_mask, (m, m), value=1))
            embeddings = reorder(embeddings, order)
        output = self.backbone.get_decoder()(
            inputs_embeds=embeddings, use_cache=False, output_attentions=output_attentions
        )
        hidden = output.last_hidden_state.to(embeddings.dtype)  # Mamba's is float32 whatever its weights are
        hidden = hidden if order is None else restore(hidden, order)
        written = hidden[:, m + s :].clone()  # a view would keep the segment's whole hidden states (b, m+s+m, d)
        memory = self._carried(written, state, attention_mask)
        return SegmentOutput(hidden=hidden[:, m : m + s], written=written, attentions=output.get("attentions")), memory

    # ------------------------------------------------------------------ its callers

    @can_return_tuple
    def forward(
        self, input_ids, attention_mask=None, labels=None, state=None, *, logits_to_keep: int = 0,
        num_items_in_batch=None, past_key_values: ReadingCache | None = None, use_cache: bool = False,
    ) -> RMTOutput:  # fmt: skip
        """Run a whole sample; the LM head is applied only where a label or a kept logit needs it.

        Args:    input_ids (b, t);  attention_mask (b, t), 0 for padding anywhere, or None;
                 labels (b, t), -100 = no loss there;  state: memory to start from, (b, m, d);
                 logits_to_keep: last positions whose logits to return (0 = all), used only without labels;
                 num_items_in_batch: what the loss is divided by instead of its own number of labels;
                 past_key_values, use_cache: see `generate`.
        Returns: RMTOutput: the mean cross-entropy over all labels, or logits (b, kept, v); the last memory.
        """
        if use_cache and labels is None:
            return self._continue(input_ids, attention_mask, state, past_key_values)
        input_ids, attention_mask, labels, order = pack(input_ids, attention_mask, labels)
        targets = None if labels is None else next_token_targets(labels)
        is_learning = labels is not None and torch.is_grad_enabled()
        if is_learning and not self.config.segment_checkpointing:
            input_ids = self.get_input_embeddings()(input_ids)  # at once: the gradient (v, d) is made once, too
        written = [] if is_learning else None  # of a text without end it would fill the memory
        hidden, targets, memory = self._read_left_to_right(input_ids, attention_mask, targets, state, "hidden", written)
        if labels is not None:
            loss = self._loss(hidden, targets, num_items_in_batch)
            return RMTOutput(loss=loss, memory=memory, written=tuple(written) if is_learning else None)
        hidden = torch.cat(hidden, dim=1)
        hidden = hidden if order is None else restore(hidden, order)
        logits = self.get_output_embeddings()(hidden[:, -logits_to_keep:])
        return RMTOutput(logits=logits, memory=memory)

    def _loss(self, hidden: list[torch.Tensor], targets: list[torch.Tensor], num_items=None) -> torch.Tensor:
        """Return the cross-entropy over the labelled positions, given as (k, d) and (k,) for each segment.

        Args: num_items: what the sum is divided by; None: the number of labels.
        """
        if not targets:
            raise ValueError("labels hold no target: every label after the first position is -100")
        return cross_entropy(self.get_output_embeddings()(torch.cat(hidden)), torch.cat(targets), num_items)

    # ------------------------------------------------------------------ generation

    def generate(self, input_ids=None, **options) -> torch.Tensor:
        """Continue samples by transformers' `generate`; a segment that is full is written to memory as in reading.

        Args:    input_ids (b, t) of any integer type, numpy or torch;  options: those of transformers
                 (attention_mask for samples of several lengths, max_new_tokens, do_sample, num_beams, streamer, ...),
                 and state: memory to start from, (b, m, d).
        Returns: input_ids and the new tokens, (b, t + new), as transformers does for decoders.
        """
        if input_ids is not None:
            options["inputs"] = self._on_device(input_ids)
        return super().generate(**options)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # a ReadingCache is made by the first forward pass instead

    @torch.no_grad()
    def _continue(self, input_ids, attention_mask, state, cache: ReadingCache | None) -> RMTOutput:
        """Read more tokens (b, k) of samples that `cache` has read so far; logits of the last one only, (b, 1, v)."""
        if cache is None:
            cache = ReadingCache(self.initial_memory(len(input_ids)) if state is None else state)
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        hidden = cache.extend(self, input_ids, mask)
        logits = self.get_output_embeddings()(hidden[:, -1:])
        return RMTOutput(logits=logits, memory=cache.memory, past_key_values=cache)


@torch.no_grad()
def _is_head_linear(backbone: PreTrainedModel) -> bool:
    """Whether logits are the output of the head, on a few tokens; several: the embedding of a padding id is zero."""
    num_ids = min(8, backbone.get_input_embeddings().num_embeddings)
    probe, is_training = torch.arange(num_ids, device=backbone.device)[None], backbone.training
    backbone.eval()
    hidden = backbone.get_decoder()(probe, use_cache=False).last_hidden_state
    logits = backbone.get_output_embeddings()(hidden.to(backbone.get_input_embeddings()(probe).dtype))
    expected = backbone(probe, use_cache=False).logits
    backbone.train(is_training)
    return torch.allclose(logits.float(), expected.float(), rtol=1e-4, atol=1e-5)


AutoConfig.register("rmt", RMTConfig)
AutoModelForCausalLM.register(RMTConfig, RMTForCausalLM)

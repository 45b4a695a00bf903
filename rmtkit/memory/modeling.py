"""Recurrent Memory Transformer around any Hugging Face decoder.

The method in two lines (Kuratov et al. 2024, 2402.10790, section 4; Bulatov et al. 2022, section 3.2):

    H_t     = Decoder([M_t ; X_t ; M_t])      the same memory in front (read slots) and behind (write slots)
    M_{t+1} = H_t at the write slots          last hidden layer, no gate, no projection

By the causal mask tokens read M_t on their left, and write slots see read memory, tokens and earlier write slots.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, n segments, d width, h heads, v vocabulary.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration import RMTConfig
from .segments import first_segment_in_graph, next_token_targets, split_segments


@dataclass
class SegmentOutput(ModelOutput):
    """One segment: last hidden states of its tokens (b, s, d); attentions per layer (b, h, m+s+m, m+s+m) if asked."""

    hidden: torch.Tensor | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class RMTOutput(ModelOutput):
    """A sample: loss (if labels), logits (b, kept, v) (if no labels), memory after the last segment (b, m, d)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    memory: torch.Tensor | None = None


class RMTForCausalLM(PreTrainedModel):
    """A decoder that reads its input segment by segment and carries `num_memory_tokens` vectors along."""

    config_class = RMTConfig
    accepts_loss_kwargs = False  # Trainer divides by accumulation steps only if the model says that it does not
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: RMTConfig):
        super().__init__(config)
        self.backbone = AutoModelForCausalLM.from_config(config.backbone_config)
        width = self.backbone.get_input_embeddings().weight.shape[1]
        self.memory = torch.nn.Parameter(torch.empty(config.num_memory_tokens, width))
        self.post_init()

    @classmethod
    def from_backbone(cls, backbone, **settings) -> "RMTForCausalLM":
        """Wrap a pretrained decoder; its weights are kept and fresh memory tokens are drawn.

        Args:    backbone: a causal LM, or the folder or hub name of one;  settings: the fields of `RMTConfig`.
        Raises:  ValueError for sizes that do not fit, or a backbone whose logits are more than its head's output.
        """
        if not isinstance(backbone, PreTrainedModel):
            backbone = AutoModelForCausalLM.from_pretrained(backbone)
        _check_head(backbone)
        config = RMTConfig(backbone_config=backbone.config, **settings)
        with torch.device("meta"):
            model = cls(config)
        model.backbone = backbone
        model.memory = torch.nn.Parameter(backbone.get_input_embeddings().weight.new_empty(model.memory.shape))
        model.reset_memory()
        return model.train(backbone.training)

    @torch.no_grad()
    def reset_memory(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial memory M_0 (m, d): normal, with the spread of the token embeddings (authors' choice)."""
        embeddings = self.backbone.get_input_embeddings().weight
        noise = torch.randn(self.memory.shape, generator=generator)
        self.memory.copy_(noise.to(embeddings) * embeddings.std())

    def _init_weights(self, module) -> None:
        """Initialise only what is ours; the backbone sees to itself, and loaded parameters never come here."""
        if module is self:
            self.reset_memory()

    def get_input_embeddings(self):
        """Return the backbone's token embedding."""
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self):
        """Return the backbone's LM head."""
        return self.backbone.get_output_embeddings()

    def initial_memory(self, batch_size: int) -> torch.Tensor:
        """Return M_0 for every sample of a batch, (b, m, d)."""
        return self.memory.expand(batch_size, -1, -1)

    # ------------------------------------------------------------------ the recurrence

    def step(self, segment, state=None, *, attention_mask=None, output_attentions=False):
        """Read one segment and write the memory: the only place where the recurrence is computed.

        Args:    segment (b, s) token ids;  state: M_t (b, m, d), None for M_0;
                 attention_mask (b, s), 1 for text and 0 for padding on either side, None if there is no padding.
        Returns: SegmentOutput and M_{t+1} (b, m, d). A sample whose segment is all padding keeps its memory.
        Paper:   2402.10790, section 4; 2207.06881, equations 2-4.
        """
        if state is None:
            state = self.initial_memory(segment.shape[0])
        m, s = state.shape[1], segment.shape[1]
        embeddings = torch.cat([state, self.get_input_embeddings()(segment), state], dim=1)
        output = self.backbone.get_decoder()(
            inputs_embeds=embeddings,
            use_cache=False,
            output_attentions=output_attentions,
            **self._mask_arguments(attention_mask, m),
        )
        hidden = output.last_hidden_state
        written = hidden[:, m + s :]
        if attention_mask is not None:
            written = torch.where(attention_mask.any(dim=1)[:, None, None], written, state.to(written.dtype))
        return SegmentOutput(hidden=hidden[:, m : m + s], attentions=output.attentions), written

    def _mask_arguments(self, attention_mask, m: int) -> dict:
        """Widen a padding mask (b, s) by m read and m write slots and number the positions that are not padding.

        Without padding nothing is passed: the decoder counts 0..m+s+m-1, as in the paper's code. transformers takes
        position jumps without a mask for packed sequences and would cut the memory off.
        """
        if attention_mask is None:
            return {}
        mask = functional.pad(attention_mask, (m, m), value=1)
        arguments = {"attention_mask": mask}
        if "position_ids" in inspect.signature(self.backbone.get_decoder().forward).parameters:
            arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return arguments

    def _checkpointed_step(self, segment, state, attention_mask):
        if not (self.config.segment_checkpointing and self.training and torch.is_grad_enabled()):
            return self.step(segment, state, attention_mask=attention_mask)
        return checkpoint(self.step, segment, state, attention_mask=attention_mask, use_reentrant=False)

    # ------------------------------------------------------------------ its callers

    def forward(self, input_ids, attention_mask=None, labels=None, state=None, logits_to_keep: int = 0) -> RMTOutput:
        """Run a whole sample; the LM head is applied only where a label or a kept logit needs it.

        Args:    input_ids (b, t);  attention_mask (b, t) or None;  labels (b, t), -100 = no loss there;
                 state: memory to start from, (b, m, d);  logits_to_keep: last positions whose logits to return
                 (0 = all), used only without labels.
        Returns: RMTOutput: the mean cross-entropy over all labels, or logits (b, kept, v); the last memory.
        """
        size = self.config.segment_size
        segments = split_segments(input_ids, size)
        masks = [None] * len(segments) if attention_mask is None else split_segments(attention_mask, size)
        targets = [None] * len(segments) if labels is None else split_segments(next_token_targets(labels), size)
        first = first_segment_in_graph(len(segments), self.config.bptt_depth)
        kept, wanted = [], []
        for index, (segment, mask, target) in enumerate(zip(segments, masks, targets, strict=True)):
            if state is not None and 0 < index <= first:
                state = state.detach()  # truncated BPTT: what comes before is a constant
            output, state = self._checkpointed_step(segment, state, mask)
            if labels is None:
                kept.append(output.hidden)
            elif (has_label := target != -100).any():  # an empty selection would keep the whole segment in the graph
                kept.append(output.hidden[has_label])
                wanted.append(target[has_label])
        if labels is not None:
            return RMTOutput(loss=self._loss(kept, wanted), memory=state)
        return RMTOutput(logits=self.get_output_embeddings()(torch.cat(kept, dim=1)[:, -logits_to_keep:]), memory=state)

    def _loss(self, hidden: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy over the labelled positions, given as (k, d) and (k,) for each segment."""
        if not targets:
            raise ValueError("labels hold no target: every label after the first position is -100")
        logits = self.get_output_embeddings()(torch.cat(hidden))
        return functional.cross_entropy(logits.float(), torch.cat(targets).to(logits.device))

    @torch.no_grad()
    def read(self, input_ids, state=None, attention_mask=None) -> torch.Tensor | None:
        """Stream tokens (b, t) of any length through the recurrence and return the memory (b, m, d).

        Only one segment is on the device at a time, so peak memory does not grow with t; `input_ids` may stay on
        the CPU and in any integer type (a memory-mapped store of uint16, for example). No tokens: `state` as it is.
        """
        size = self.config.segment_size
        for start in range(0, input_ids.shape[1], size):
            segment = self._on_device(input_ids[:, start : start + size])
            mask = None if attention_mask is None else attention_mask[:, start : start + size].to(self.device)
            _, state = self.step(segment, state, attention_mask=mask)
        return state

    @torch.inference_mode()
    def generate(self, input_ids, attention_mask=None, state=None, **generation_options) -> torch.Tensor:
        """Read all segments but the last, then continue the last one with the backbone's own `generate`.

        Args:    input_ids (b, t), all samples of one length;  state: memory to start from, (b, m, d);
                 generation_options: those of transformers (max_new_tokens, do_sample, num_beams, ...).
        Returns: input_ids and the new tokens, (b, t + new), as transformers does for decoders.
        Trap:    the answer grows in the last segment: segment_size + 2m + new tokens must fit the positions.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("generate takes samples of one length: padding found; group the samples by length")
        size = self.config.segment_size
        whole = (input_ids.shape[1] - 1) // size * size
        state = self.read(input_ids[:, :whole], state)
        if state is None:
            state = self.initial_memory(input_ids.shape[0])
        last = self.get_input_embeddings()(self._on_device(input_ids[:, whole:]))
        embeddings = torch.cat([state, last], dim=1)
        new = self.backbone.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device),
            **generation_options,
        )
        return torch.cat([self._on_device(input_ids), new], dim=1)

    def _on_device(self, tokens) -> torch.Tensor:
        """Copy token ids of any integer type, numpy or torch, to the device as int64."""
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(tokens.astype(np.int64))  # torch would warn of memory that is mapped read-only
        return tokens.to(self.device, torch.long)


@torch.no_grad()
def _check_head(backbone: PreTrainedModel) -> None:
    """Raise ValueError if logits are more than the head's output: Gemma caps, Cohere and Granite scale them."""
    num_ids = min(8, backbone.get_input_embeddings().num_embeddings)  # several: the embedding of a padding id is zero
    probe, is_training = torch.arange(num_ids, device=backbone.device)[None], backbone.training
    backbone.eval()
    logits = backbone.get_output_embeddings()(backbone.get_decoder()(probe, use_cache=False).last_hidden_state)
    expected = backbone(probe, use_cache=False).logits
    backbone.train(is_training)
    if not torch.allclose(logits.float(), expected.float(), rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"{type(backbone).__name__} scales or caps the output of its head, which the wrapper does not; "
            "take a backbone whose logits are its head's output (GPT-2, GPT-NeoX, Llama, Qwen and most others)"
        )


AutoConfig.register("rmt", RMTConfig)
AutoModelForCausalLM.register(RMTConfig, RMTForCausalLM)

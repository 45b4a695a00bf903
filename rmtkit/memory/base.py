"""What all Recurrent Memory Transformers share: a backbone, its memory tokens, and reading a text of any length.

Subclasses say how one segment is read (`step`) and what is made of the hidden states (`forward`).

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, d width, h heads.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration import RMTConfig, check_growth, check_sizes
from .segments import borders_from_left, first_segment_in_graph, split_segments


@dataclass
class SegmentOutput(ModelOutput):
    """One segment: last hidden states of its tokens (b, s, d); of a decoder what it wrote, before that is put on the
    grid (b, m, d); attentions of each layer if asked for.

    Attentions of a decoder are (b, h, m+s+m, m+s+m), those of an encoder (b, h, p, p) over its p positions; padding,
    if there is any, comes last in them.
    """

    hidden: torch.Tensor | None = None
    written: torch.Tensor | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class RMTPreTrainedModel(PreTrainedModel):
    """A pretrained model that reads its input segment by segment and carries `num_memory_tokens` vectors along."""

    config_class = RMTConfig
    auto_class = AutoModelForCausalLM  # of the backbone
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: RMTConfig):
        super().__init__(config)
        self.backbone = self.auto_class.from_config(config.backbone_config)
        width = self.backbone.get_input_embeddings().weight.shape[1]
        self.memory = torch.nn.Parameter(torch.empty(config.num_memory_tokens, width))
        self.post_init()

    @classmethod
    def from_backbone(cls, backbone, **settings) -> "RMTPreTrainedModel":
        """Wrap a pretrained model; its weights are kept and fresh memory tokens are drawn.

        Args:    backbone: a model of the kind that this class wraps, or the folder or hub name of one;
                 settings: the fields of `RMTConfig`.
        Raises:  ValueError for sizes that do not fit, or a backbone that the class cannot wrap.
        """
        if not isinstance(backbone, PreTrainedModel):
            if not isinstance(backbone, str | PathLike):
                kind = type(backbone).__name__
                raise ValueError(f"backbone is a {kind}; expected a transformers model (peft's: get_base_model())")
            backbone = cls.auto_class.from_pretrained(backbone)
        cls.check_backbone(backbone)
        attention = backbone.config._attn_implementation
        config = RMTConfig(backbone_config=backbone.config, **settings)
        with torch.device("meta"):
            model = cls(config)  # chooses an attention anew, in the configuration that it shares with the backbone
        backbone.config._attn_implementation = attention
        model.backbone = backbone
        model.memory = torch.nn.Parameter(backbone.get_input_embeddings().weight.new_empty(model.memory.shape))
        model.reset_memory()
        return model.train(backbone.training)

    @classmethod
    def check_backbone(cls, backbone: PreTrainedModel) -> None:
        """Raise ValueError for a backbone that the class cannot wrap."""

    @torch.no_grad()
    def reset_memory(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial memory M_0 (m, d): normal, with the spread of the token embeddings (authors' choice)."""
        embeddings = self.backbone.get_input_embeddings().weight
        noise = torch.randn(self.memory.shape, generator=generator)
        self.memory.copy_(noise.to(embeddings) * embeddings.std())

    @torch.no_grad()
    def extend_memory(self, num_memory_tokens: int, generator: torch.Generator | None = None) -> None:
        """Give the memory more tokens: M_0 (m, d) is kept, what is added to it is drawn with the spread that it has.

        Raises: ValueError if there are none to begin with or fewer are wanted, or if the segment then does not fit.
        """
        m, config = self.config.num_memory_tokens, copy.copy(self.config)
        check_growth(m, num_memory_tokens)
        config.num_memory_tokens = num_memory_tokens
        check_sizes(config)
        noise = torch.randn(num_memory_tokens - m, self.memory.shape[1], generator=generator)
        self.memory = torch.nn.Parameter(torch.cat([self.memory, noise.to(self.memory) * self.memory.std()]))
        self.config.num_memory_tokens = num_memory_tokens

    def _init_weights(self, module) -> None:
        """Initialise only what is ours; the backbone sees to itself, and loaded parameters never come here."""
        if module is self and not getattr(self.memory, "_is_hf_initialized", False):
            self.reset_memory()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether loading has to guess what is loaded already; guessing leaves out buffers of some backbones."""
        return False

    def get_input_embeddings(self):
        """Return the backbone's token embedding."""
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self):
        """Return the backbone's LM head."""
        return self.backbone.get_output_embeddings()

    def initial_memory(self, batch_size: int) -> torch.Tensor:
        """Return M_0 for every sample of a batch, (b, m, d)."""
        return self.memory.expand(batch_size, -1, -1)

    def step(self, segment, state=None, *, attention_mask=None, output_attentions=False):
        """Read one segment and write the memory: the only place where the recurrence is computed.

        Args:    segment (b, s) token ids;  state: M_t (b, m, d), None for M_0;
                 attention_mask (b, s), 1 for text and 0 for padding anywhere, None if there is no padding.
        Returns: SegmentOutput and M_{t+1} (b, m, d). A sample whose segment is all padding keeps its memory.
        """
        raise NotImplementedError

    def _carried(self, written: torch.Tensor, state: torch.Tensor, attention_mask) -> torch.Tensor:
        """Return M_{t+1} (b, m, d): what was written, on the grid, or M_t where a segment (b, s) is all padding."""
        written = on_grid(written, self.config.memory_grid)
        if attention_mask is None:
            return written
        return torch.where(attention_mask.bool().any(dim=1)[:, None, None], written, state.to(written.dtype))

    def checkpointed_step(self, segment, state, attention_mask):
        """Do what `step` does; in training with `segment_checkpointing` its activations are computed again later."""
        if not (self.config.segment_checkpointing and self.training and torch.is_grad_enabled()):
            return self.step(segment, state, attention_mask=attention_mask)
        return checkpoint(self.step, segment, state, attention_mask=attention_mask, use_reentrant=False)

    def _steps(self, segments, masks, state):
        """Yield output and memory of each segment; what lies before the BPTT depth is a constant to what follows.

        Args: segments: of (b, s) token ids each;  masks: for each segment (b, s) or None;  state: M_t, None for M_0.
        """
        first = first_segment_in_graph(len(segments), self.config.bptt_depth)
        for index, (segment, mask) in enumerate(zip(segments, masks, strict=True)):
            if state is not None and 0 < index <= first:
                state = state.detach()
            output, state = self.checkpointed_step(segment, state, mask)
            yield output, state

    def _read_left_to_right(self, input_ids, attention_mask, targets, state, kept: str, written: list | None = None):
        """Step through all segments, with what is padded at the end of each row.

        Args:    input_ids (b, t), or what else `step` takes, (b, t, d);
                 targets (b, t): what each position has to predict, or None;  kept: the field of the output to keep;
                 written: what each segment wrote is appended to it, (b, m, d).
        Returns: that field of each segment (b, s, .), or with targets (k, .) of its k labelled positions; their
                 targets (k,); the memory after the last segment.
        """
        size = self.config.segment_size
        segments = split_segments(input_ids, size)
        masks = [None] * len(segments) if attention_mask is None else split_segments(attention_mask, size)
        targets = [None] * len(segments) if targets is None else split_segments(targets, size)
        values, wanted = [], []
        for read, target in zip(self._steps(segments, masks, state), targets, strict=True):
            output, state = read
            if written is not None:
                written.append(output.written)
            if target is None:
                values.append(output[kept])
            elif (has_label := target != -100).any():  # an empty selection would keep the whole segment in the graph
                values.append(output[kept][has_label])
                wanted.append(target[has_label])
        return values, wanted, state

    def segment_borders(self, num_tokens: int) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of the segments that `read` cuts a text (b, t) into: full ones, the last may be short."""
        return borders_from_left(num_tokens, self.config.segment_size)

    @torch.no_grad()
    def read(self, input_ids, state=None, attention_mask=None) -> torch.Tensor | None:
        """Stream tokens (b, t) of any length through the recurrence and return the memory (b, m, d).

        Only one segment is on the device at a time, so peak memory does not grow with t; `input_ids` may stay on
        the CPU and in any integer type (a memory-mapped store of uint16, for example; anything with a shape and
        slices [:, start:end]). No tokens: `state` as it is. `rmtkit.streaming` reads faster.
        """
        for start, end in self.segment_borders(input_ids.shape[1]):
            segment = self._on_device(input_ids[:, start:end])
            mask = None if attention_mask is None else attention_mask[:, start:end].to(self.device)
            _, state = self.step(segment, state, attention_mask=mask)
        return state

    def _on_device(self, tokens) -> torch.Tensor:
        """Copy token ids of any integer type, numpy or torch, to the device as int64."""
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(tokens.astype(np.int64))  # torch would warn of memory that is mapped read-only
        return tokens.to(self.device, torch.long)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, num_items=None) -> torch.Tensor:
    """Return the mean cross-entropy of logits (k, v) over labels (k,) but -100; `num_items` replaces their number."""
    logits, labels = logits.float(), labels.to(logits.device)
    if num_items is None:
        return functional.cross_entropy(logits, labels)
    return functional.cross_entropy(logits, labels, reduction="sum") / num_items


def on_grid(memory: torch.Tensor, spacing: float) -> torch.Tensor:
    """Round memory (b, m, d) to multiples of `spacing`; its gradient is that of the identity (straight-through).

    What a segment changes by less than half of the spacing it does not change at all, so that small changes do not add
    up over many segments: a digital memory instead of an analogue one. 0: memory as it is.

    Ours for memory tokens; that states which are made discrete stay right in strings of any length is known of
    recurrent networks that learn finite automata (Zeng, Goodman and Smyth 1993, Neural Computation 5(6)).
    """
    if not spacing:
        return memory
    rounded = torch.round(memory.detach() / spacing) * spacing
    return rounded + (memory - memory.detach())

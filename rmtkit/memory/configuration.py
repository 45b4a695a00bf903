"""Configuration of a Recurrent Memory Transformer: the backbone's configuration and a few numbers."""

import math

from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, PretrainedConfig

FROM_BACKBONE = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "is_encoder_decoder", "id2label",
    "label2id",
)  # fmt: skip


def backbone_kind(config: PretrainedConfig) -> str:
    """Return what a backbone is by its configuration: "decoder", "encoder" or "encoder-decoder".

    An encoder is what transformers knows as a masked language model and what is not told to be a decoder: BERT and
    RoBERTa are in the list of causal language models, too.
    """
    if config.is_encoder_decoder:
        return "encoder-decoder"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return "encoder"
    return "decoder"


class RMTConfig(PretrainedConfig):
    """What a model of this package needs to know.

    Args:
        backbone_config: configuration of the backbone (object or dict with `model_type`).
        num_memory_tokens: m, vectors carried from one segment to the next; 0 makes the segments independent.
        segment_size: tokens of text in a segment; memory, CLS and SEP come on top (see `num_slots`).
        bptt_depth: segments at the end of a sample that the gradient passes through; None is full BPTT.
        segment_checkpointing: recompute a segment's activations in the backward pass (saves memory, costs a third).
        memory_grid: spacing of the grid that written memory is rounded to (`on_grid`); 0: it is carried as it is.
        cls_token_id, sep_token_id: of encoders, whose segment is [CLS] M [SEP] X [SEP]; None: left out.
    Raises:  ValueError if a number is out of range or a segment with its slots exceeds the backbone's positions.
    Paper:   Bulatov et al. 2022 (2207.06881), section 3; Kuratov et al. 2024 (2402.10790), section 4.
    """

    model_type = "rmt"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config=None,
        num_memory_tokens: int = 16,
        segment_size: int = 512,
        bptt_depth: int | None = None,
        segment_checkpointing: bool = False,
        memory_grid: float = 0.0,
        cls_token_id: int | None = None,
        sep_token_id: int | None = None,
        **kwargs,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.num_memory_tokens = num_memory_tokens
        self.segment_size = segment_size
        self.bptt_depth = bptt_depth
        self.segment_checkpointing = segment_checkpointing
        self.memory_grid = memory_grid
        self.cls_token_id = cls_token_id
        self.sep_token_id = sep_token_id
        if backbone_config is not None:
            check_sizes(self)
            kwargs.setdefault("tie_word_embeddings", getattr(backbone_config, "tie_word_embeddings", False))
            for name in FROM_BACKBONE:
                if hasattr(backbone_config, name):
                    kwargs.setdefault(name, getattr(backbone_config, name))
        super().__init__(**kwargs)

    @property
    def num_slots(self) -> int:
        """Positions of a segment that hold no token of text: 2m in a decoder, m in an encoder, and CLS and SEP."""
        m = self.num_memory_tokens
        if backbone_kind(self.backbone_config) == "decoder":
            return 2 * m
        num_sep = 0 if self.sep_token_id is None else 1 + (m > 0)
        return m + (self.cls_token_id is not None) + num_sep

    def get_text_config(self, *args, **kwargs):
        """Return the text part of the backbone's configuration (hidden size, layers, heads, vocabulary)."""
        if self.backbone_config is None:
            return self
        return self.backbone_config.get_text_config(*args, **kwargs)


def check_growth(num_memory_tokens: int, wanted: int) -> None:
    """Raise ValueError if a model with so many memory tokens cannot be given the wanted number and keep them."""
    if wanted < num_memory_tokens or 0 == num_memory_tokens < wanted:
        allowed = f"expected {num_memory_tokens} or more" if num_memory_tokens else "the model has no memory to extend"
        raise ValueError(f"num_memory_tokens cannot go from {num_memory_tokens} to {wanted}: {allowed}")


def check_sizes(config: RMTConfig) -> None:
    """Raise ValueError as `RMTConfig` does."""
    m, segment_size, depth = config.num_memory_tokens, config.segment_size, config.bptt_depth
    if not 0 <= config.memory_grid < math.inf:
        raise ValueError(f"memory_grid is {config.memory_grid}; expected a spacing above 0, or 0 for none")
    if m < 0:
        raise ValueError(f"num_memory_tokens is {m}; expected 0 or more")
    if segment_size < 1:
        raise ValueError(f"segment_size is {segment_size}; expected 1 or more tokens")
    if depth is not None and depth < 1:
        raise ValueError(f"bptt_depth is {depth}; expected None (all segments) or 1 and more segments")
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and segment_size + config.num_slots > positions:
        room = positions - config.num_slots
        slots = f"2 x num_memory_tokens {m}" if config.num_slots == 2 * m else f"{config.num_slots} slots"
        allowed = f"segments of at most {room}" if room > 0 else f"at most {(positions - 1) // 2} memory"
        raise ValueError(
            f"segment_size {segment_size} + {slots} = {segment_size + config.num_slots} exceeds the "
            f"{positions} positions of the backbone; take {allowed} tokens"
        )

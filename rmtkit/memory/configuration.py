"""Configuration of a Recurrent Memory Transformer: the backbone's configuration and four numbers."""

from transformers import AutoConfig, PretrainedConfig


class RMTConfig(PretrainedConfig):
    """What `RMTForCausalLM` needs to know.

    Args:
        backbone_config: configuration of the decoder (object or dict with `model_type`).
        num_memory_tokens: m, vectors carried from one segment to the next; 0 makes the segments independent.
        segment_size: tokens of text in a segment; the 2m read and write slots come on top.
        bptt_depth: segments at the end of a sample that the gradient passes through; None is full BPTT.
        segment_checkpointing: recompute a segment's activations in the backward pass (saves memory, costs a third).
    Raises:  ValueError if a number is out of range or segment + 2m exceeds the backbone's positions.
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
        **kwargs,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.num_memory_tokens = num_memory_tokens
        self.segment_size = segment_size
        self.bptt_depth = bptt_depth
        self.segment_checkpointing = segment_checkpointing
        if backbone_config is not None:
            _check_sizes(self)
            kwargs.setdefault("tie_word_embeddings", getattr(backbone_config, "tie_word_embeddings", False))
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                kwargs.setdefault(name, getattr(backbone_config, name, None))
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        """Return the text part of the backbone's configuration (hidden size, layers, heads, vocabulary)."""
        if self.backbone_config is None:
            return self
        return self.backbone_config.get_text_config(*args, **kwargs)


def _check_sizes(config: RMTConfig) -> None:
    m, segment_size, depth = config.num_memory_tokens, config.segment_size, config.bptt_depth
    if m < 0:
        raise ValueError(f"num_memory_tokens is {m}; expected 0 or more")
    if segment_size < 1:
        raise ValueError(f"segment_size is {segment_size}; expected 1 or more tokens")
    if depth is not None and depth < 1:
        raise ValueError(f"bptt_depth is {depth}; expected None (all segments) or 1 and more segments")
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and segment_size + 2 * m > positions:
        room = positions - 2 * m
        allowed = f"segments of at most {room}" if room > 0 else f"at most {(positions - 1) // 2} memory"
        raise ValueError(
            f"segment_size {segment_size} + 2 x num_memory_tokens {m} = {segment_size + 2 * m} exceeds the "
            f"{positions} positions of the backbone; take {allowed} tokens"
        )

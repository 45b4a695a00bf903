"""The method: a Recurrent Memory Transformer around any Hugging Face model (Bulatov et al. 2022)."""

from .base import RMTPreTrainedModel, SegmentOutput
from .checkpoints import load_authors_checkpoint, load_memory, save_authors_checkpoint, save_memory
from .configuration import RMTConfig, backbone_kind
from .encoders import (
    EncoderSegmentOutput,
    RMTForMaskedLM,
    RMTForSequenceClassification,
    RMTForTokenClassification,
)
from .generation import ReadingCache
from .modeling import RMTForCausalLM, RMTOutput
from .segments import split_segments
from .seq2seq import RMTForSeq2SeqLM

__all__ = [
    "EncoderSegmentOutput",
    "RMTConfig",
    "RMTForCausalLM",
    "RMTForMaskedLM",
    "RMTForSeq2SeqLM",
    "RMTForSequenceClassification",
    "RMTForTokenClassification",
    "RMTOutput",
    "RMTPreTrainedModel",
    "ReadingCache",
    "SegmentOutput",
    "backbone_kind",
    "load_authors_checkpoint",
    "load_memory",
    "save_authors_checkpoint",
    "save_memory",
    "split_segments",
]

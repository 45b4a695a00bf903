"""The method: a Recurrent Memory Transformer around any Hugging Face decoder (Bulatov et al. 2022)."""

from .base import SegmentOutput
from .configuration import RMTConfig
from .generation import ReadingCache
from .modeling import RMTForCausalLM, RMTOutput
from .segments import split_segments

__all__ = ["RMTConfig", "RMTForCausalLM", "RMTOutput", "ReadingCache", "SegmentOutput", "split_segments"]

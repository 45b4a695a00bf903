"""The method: a Recurrent Memory Transformer around any Hugging Face decoder (Bulatov et al. 2022)."""

from .configuration import RMTConfig
from .modeling import RMTForCausalLM, RMTOutput, SegmentOutput
from .segments import split_segments

__all__ = ["RMTConfig", "RMTForCausalLM", "RMTOutput", "SegmentOutput", "split_segments"]

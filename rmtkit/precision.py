"""Data types by name, and which of them a processor is fast in."""

from __future__ import annotations

import torch


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of matrix products.

    "auto" is bfloat16 or float16 on a GPU and float32 on a CPU; "fastest" is bfloat16 on a CPU that multiplies it, too.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision in named:
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.bfloat16 if precision == "fastest" and has_bfloat16() else torch.float32


def has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 products of its own (AVX512-BF16, AMX): emulated they are slower than float32."""
    has = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile"))
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(check() for check in has)


def evaluation_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type to evaluate in: "auto" is the fastest."""
    return resolve_precision("fastest" if precision == "auto" else precision, device)

"""Peak memory of streaming a sample of 1M tokens, against that of 10k tokens."""

from __future__ import annotations

import json
import subprocess
import sys

from rmtkit.config import Config

from .measurement import peak_resident_mb, seconds

STREAM_SIZES = (10_000, 1_000_000)  # tokens


def bench_memory(config: Config) -> dict:
    """Compare the peak memory of streaming one sample of 1M tokens with that of 10k tokens, a fresh process each."""
    peaks = {}
    for size in STREAM_SIZES:
        command = [sys.executable, "-m", "rmtkit", "stream", f"--num_tokens={size}", f"--backbone={config.backbone}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[size] = json.loads(output.splitlines()[-1])
        print(f"{size:>9,} tokens: peak {peaks[size]['peak_mb']:.0f} MB, {peaks[size]['tokens_per_s']:,.0f} tokens/s")
    short, long = (peaks[size]["peak_mb"] for size in STREAM_SIZES)
    print(f"the long one takes {long / short:.3f} times the memory of the short one")
    return {
        "bench": "memory",
        "peak_mb": {str(size): peaks[size]["peak_mb"] for size in STREAM_SIZES},
        "ratio": long / short,
    }


def stream_once(config: Config, num_tokens: int) -> dict:
    """Answer one sample of `num_tokens` and return the peak memory of this process and the speed."""
    import torch

    from rmtkit.experiment import autocast, build_model, open_builder, open_problems, open_tokenizer
    from rmtkit.kinds import answer

    tokenizer = open_tokenizer(config)
    builder = open_builder(config, tokenizer, open_problems(config))
    model = build_model(config).eval()
    sample = builder.sample("test", 0, num_tokens)
    with torch.inference_mode(), autocast(config.precision, model.device):
        duration = seconds(lambda: answer(model, [sample], tokenizer))
    return {"num_tokens": num_tokens, "peak_mb": peak_resident_mb(), "tokens_per_s": num_tokens / duration}

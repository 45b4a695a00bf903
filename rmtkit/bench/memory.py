"""Peak memory of streaming a sample of 1M tokens (or 10M), against that of 10k tokens."""

from __future__ import annotations

import json
import subprocess
import sys

from rmtkit.config import Config
from rmtkit.meters import peak_resident_mb

from .measurement import seconds

STREAM_SIZES = (10_000, 1_000_000)  # tokens


def bench_memory(config: Config, *, num_tokens: int = STREAM_SIZES[1]) -> dict:
    """Compare the peak memory of streaming one sample of `num_tokens` with that of 10k tokens, a fresh process each.

    Raises: ValueError for a number of tokens that is no longer than the short sample.
    """
    if num_tokens <= STREAM_SIZES[0]:
        raise ValueError(f"num_tokens is {num_tokens}, expected more than the {STREAM_SIZES[0]} of the short sample")
    peaks = {}
    for size in (STREAM_SIZES[0], num_tokens):
        command = [sys.executable, "-m", "rmtkit", "stream", f"--num_tokens={size}", f"--backbone={config.backbone}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[size] = json.loads(output.splitlines()[-1])
        print(f"{size:>9,} tokens: peak {peaks[size]['peak_mb']:.0f} MB, {peaks[size]['tokens_per_s']:,.0f} tokens/s")
    short, long = (peak["peak_mb"] for peak in peaks.values())
    print(f"the long one takes {long / short:.3f} times the memory of the short one")
    return {
        "bench": "memory",
        "peak_mb": {str(size): peak["peak_mb"] for size, peak in peaks.items()},
        "ratio": long / short,
    }


def stream_once(config: Config, num_tokens: int) -> dict:
    """Answer one sample of `num_tokens` and return the peak memory of this process and the speed."""
    from rmtkit.experiment import build_model, open_builder, open_problems, open_tokenizer
    from rmtkit.kinds import answer
    from rmtkit.precision import evaluation_dtype
    from rmtkit.progress import Display, ReadingProgress
    from rmtkit.streaming import Reader, fast_copy

    tokenizer = open_tokenizer(config)
    builder = open_builder(config, tokenizer, open_problems(config))
    model = build_model(config).eval()
    model = fast_copy(model, evaluation_dtype(config.precision, model.device))
    sample = builder.sample("test", 0, num_tokens)
    reader = Reader(model, on_tokens=ReadingProgress(Display(), "stream", num_tokens).add)
    if config.compile == "always":
        reader.compile(1)
    duration = seconds(lambda: answer(model, [sample], tokenizer, read=reader.read))
    return {"num_tokens": num_tokens, "peak_mb": peak_resident_mb(), "tokens_per_s": num_tokens / duration}

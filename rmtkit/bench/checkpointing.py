"""How the memory of a training step grows with the segments of a sample, with and without `segment_checkpointing`.

Without, every segment's activations are kept for the backward pass. With, a segment keeps its memory state (b, m, d),
the state of the random generator (5 kB on a CPU) and what is labelled; one segment's activations at a time come on top.
"""

from __future__ import annotations

import dataclasses

from rmtkit.config import Config

from .measurement import peak_allocated
from .train import SETTINGS, Setting, make_batches, make_model

LENGTHS = (1, 2, 4, 8, 16, 32, 64)  # segments
SETTING = dataclasses.replace(SETTINGS["narrow"], batch_size=1)


def bench_checkpointing(config: Config, *, setting: Setting = SETTING, lengths: tuple[int, ...] = LENGTHS) -> dict:
    """Print the peak memory of forward and backward pass by the number of segments.

    Returns: what torch has allocated at most beside weights and sample, by length; what each of the last segments adds.
    """
    from rmtkit.experiment import default_device

    model = make_model(setting).to(default_device())
    state_bytes = setting.batch_size * model.memory.nbytes
    print(
        f"{setting.num_layers} layers of width {setting.width}, segments of {setting.segment_size} tokens, batch of "
        f"{setting.batch_size}; a memory state has {state_bytes / 1e6:.3f} MB"
    )
    print("segments   plain MB  checkpointed MB")
    peaks = {"plain": [], "checkpointed": []}
    for n in lengths:
        peaks["plain"].append(step_peak(model, setting, n, segment_checkpointing=False))
        peaks["checkpointed"].append(step_peak(model, setting, n, segment_checkpointing=True))
        print(f"{n:8} {peaks['plain'][-1] / 1e6:10,.1f} {peaks['checkpointed'][-1] / 1e6:16,.1f}", flush=True)
    growth = {name: (found[-1] - found[-2]) / (lengths[-1] - lengths[-2]) for name, found in peaks.items()}
    for name, each in growth.items():
        print(f"{name}: {each / 1e6:.3f} MB a segment, {each / state_bytes:,.2f} memory states")
    return {
        "bench": "checkpointing", "segments": lengths, "peak_bytes": peaks, "bytes_per_segment": growth,
        "memory_states_per_segment": {name: each / state_bytes for name, each in growth.items()},
    }  # fmt: skip


def step_peak(model, setting: Setting, num_segments: int, *, segment_checkpointing: bool) -> int:
    """Return the bytes that forward and backward pass of one batch need at most."""
    model.config.segment_checkpointing = segment_checkpointing
    one_length = dataclasses.replace(setting, max_segments=num_segments, num_samples=num_segments * setting.batch_size)
    batch = max(make_batches(one_length, is_mixed=False), key=lambda batch: batch[0].shape[1])
    input_ids, labels = (tensor.to(model.device) for tensor in batch)
    model.zero_grad()
    return peak_allocated(lambda: model(input_ids=input_ids, labels=labels).loss.backward(), model.device)

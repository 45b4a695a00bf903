"""Samples per second and peak memory of a training step, against the straightforward step of the authors' code.

The same for both: the weights, the samples and their labels (each number of segments equally often), AdamW, clipping,
the samples in a batch, the machine. No dropout. A process for each, so that its memory is its own. What differs:

straightforward   Batches are drawn from all samples and padded on the right to their longest. The causal LM as a whole
                  is called with output_hidden_states=True; logits and all hidden states of all segments are kept and
                  concatenated, and the labelled positions are selected from them (the authors' wrapper). Left out, in
                  its favour: their padding mask, which is slower, and the copy of what is kept under further names.
rmtkit            The samples of a batch have one number of segments, so that there is no padding; no logits or hidden
                  states but those at labels. With and without `segment_checkpointing`.

Both give the same loss and gradients on the same padded batch: that is checked first.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, n segments, d width, v vocabulary.
"""

from __future__ import annotations

import dataclasses
import time

from rmtkit.config import Config

from .measurement import MemoryGrowth, in_new_process, matmul_peak
from .stream import PEAK_SIZE, straightforward_outputs

TOLERANCE = 1e-4  # of loss and gradients, in float32, relative to the largest entry


@dataclasses.dataclass(frozen=True)
class Setting:
    """A GPT-2 with random weights, and the samples that it is trained on."""

    num_layers: int
    width: int
    max_segments: int
    num_samples: int  # a multiple of max_segments
    num_heads: int
    batch_size: int = 2
    segment_size: int = 512
    num_memory_tokens: int = 16
    vocab_size: int = 50_257
    num_labels: int = 3  # at the end of a sample: an answer and the end of text
    seed: int = 0  # of weights, tokens and order; see SETTINGS


SETTINGS = {  # seeds for which mixed batches are padded to 5.75 and 3.00 segments; independent draws: 5.81 and 3.13
    "narrow": Setting(num_layers=4, width=256, max_segments=8, num_samples=16, num_heads=4, seed=9),
    "small": Setting(num_layers=12, width=768, max_segments=4, num_samples=8, num_heads=12, seed=6),  # GPT-2 small
}
SIDES = ("straightforward", "rmtkit", "rmtkit with segment_checkpointing")


def bench_train(config: Config, *, size: str | None = None) -> dict:
    """Compare our training step with the straightforward one, and show how its memory grows with the segments.

    Args:   size: one of `SETTINGS`; None: all of them, then `bench_checkpointing`.
    Raises: ValueError for another size.
    Returns: for each size the two ratios and, of each side, samples per second and peak MB above weights and libraries.
    """
    from .checkpointing import bench_checkpointing

    if size is not None and size not in SETTINGS:
        raise ValueError(f"size is {size!r}; allowed: {', '.join(SETTINGS)}, or leave it out for all")
    results = {name: compare(SETTINGS[name]) for name in ([size] if size else SETTINGS)}
    failed = {name: result["differences"] for name, result in results.items() if "differences" in result}
    if size is None:
        results["checkpointing"] = bench_checkpointing(config)
    return {"bench": "train", **results, "failed": failed}


def compare(setting: Setting) -> dict:
    """Check that all sides compute the same, measure each in a process of its own, and print a table."""
    print(
        f"{setting.num_layers} layers of width {setting.width}, vocabulary {setting.vocab_size:,}, 1 to "
        f"{setting.max_segments} segments of {setting.segment_size} tokens, batches of {setting.batch_size}, "
        f"{setting.num_samples} samples"
    )
    differences = in_new_process(largest_differences, setting)
    print(f"  largest difference, relative: loss {differences['loss']:.0e}, gradients {differences['gradients']:.0e}")
    if max(differences.values()) > TOLERANCE:
        return {"differences": differences}
    print(f"  {'':34}  samples/s  peak MB  segments a sample  GFLOP/s", flush=True)
    measured = {}
    for side in SIDES:
        measured[side] = in_new_process(measure, setting, side)
        row = measured[side]
        print(
            f"  {side:34} {row['samples_per_s']:10.3f} {row['peak_mb']:8,.0f} {row['segments']:18.2f} "
            f"{row['flops'] / 1e9:8,.0f}",
            flush=True,
        )
    peak = max(row["peak_flops"] for row in measured.values())
    share = measured[SIDES[1]]["flops"] / peak
    print(f"  product of {PEAK_SIZE} x {PEAK_SIZE} matrices in float32: {peak / 1e9:,.0f} GFLOP/s; rmtkit: {share:.0%}")
    return {**_ratios(measured), "peak_flops": peak, "share_of_peak": share, "sides": measured}


def _ratios(measured: dict[str, dict]) -> dict[str, dict]:
    """Print and return how much faster ours is, and the share of the memory that it needs."""
    theirs, ratios = measured[SIDES[0]], {}
    for side in SIDES[1:]:
        speed = measured[side]["samples_per_s"] / theirs["samples_per_s"]
        memory = measured[side]["peak_mb"] / theirs["peak_mb"]
        print(f"  {side}: {speed:.1f} times the samples per second, {memory:.2f} of the peak memory")
        ratios[side] = {"speed": speed, "memory": memory}
    return {"ratios": ratios}


def measure(setting: Setting, side: str) -> dict:
    """Train on all samples once.

    Returns: samples_per_s, peak_mb, segments computed for a sample on average, flops (those of the layers a second,
             three times those of reading; neither head nor recomputation counts), peak_flops of a large product.
    """
    import torch

    from rmtkit.experiment import default_device
    from rmtkit.streaming import flops_per_segment

    device = default_device()
    model = make_model(setting).to(device)
    loss_of = straightforward_loss if side == SIDES[0] else _loss
    model.config.segment_checkpointing = side == SIDES[2]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    batches = make_batches(setting, is_mixed=side == SIDES[0])
    memory = MemoryGrowth(device)
    shortest = min(batches, key=lambda batch: batch[0].shape[1])
    _update(model, optimizer, loss_of, shortest)  # optimizer state and kernels are there when the clock starts
    started = time.perf_counter()
    for batch in batches:
        _update(model, optimizer, loss_of, batch)
    duration = time.perf_counter() - started
    segments = sum(input_ids.shape[1] for input_ids, _ in batches) / len(batches) / setting.segment_size
    found = {"samples_per_s": setting.num_samples / duration, "peak_mb": memory.peak_mb(), "segments": segments}
    found["flops"] = 3 * flops_per_segment(model, setting.segment_size) * segments * found["samples_per_s"]
    return {**found, "peak_flops": matmul_peak(torch.float32, device, PEAK_SIZE)}


def _update(model, optimizer, loss_of, batch) -> None:
    """One update on a batch; `item` waits for a GPU."""
    import torch

    loss, _kept = loss_of(model, *(tensor.to(model.device) for tensor in batch))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    optimizer.step()
    optimizer.zero_grad()


def _loss(model, input_ids, labels):
    """Return the loss as the kit computes it, and nothing else."""
    return model(input_ids=input_ids, labels=labels).loss, None


def straightforward_loss(model, input_ids, labels):
    """Return the loss (a number) as the authors' wrapper computes it, and what that returns beside it.

    Args: model: an `RMTForCausalLM`, of which only the weights are used;  input_ids, labels (b, t).
    """
    from torch.nn import functional

    logits, hidden, outputs, _ = straightforward_outputs(model, input_ids)
    shifted, targets = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
    is_label = (targets != -100).view(-1)
    loss = functional.cross_entropy(shifted.view(-1, shifted.shape[2])[is_label], targets.view(-1)[is_label])
    return loss, (outputs, logits, hidden)


def largest_differences(setting: Setting) -> dict[str, float]:
    """Return how far apart the sides are on the same padded batch of short segments, relative to the largest entry."""
    from rmtkit.experiment import default_device

    setting = dataclasses.replace(setting, segment_size=24, num_samples=2 * setting.max_segments)
    model = make_model(setting).to(default_device())
    input_ids, labels = max(make_batches(setting, is_mixed=True), key=_num_padded)
    found = {}
    for side in SIDES:
        model.zero_grad()
        model.config.segment_checkpointing = side == SIDES[2]
        loss_of = straightforward_loss if side == SIDES[0] else _loss
        loss, _kept = loss_of(model, input_ids.to(model.device), labels.to(model.device))
        loss.backward()
        found[side] = {"loss": [loss.detach()], "gradients": [weight.grad.clone() for weight in model.parameters()]}
    return {name: max(_apart(found[SIDES[0]][name], found[side][name]) for side in SIDES[1:]) for name in found[side]}


def _apart(expected: list, found: list) -> float:
    pairs = zip(expected, found, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


def _num_padded(batch) -> int:
    """Return how many tokens follow the last label of the row where they are most."""
    return max(len(row) - int((row != -100).nonzero().max()) for row in batch[1])


def make_model(setting: Setting):
    """Return a wrapped GPT-2 with random weights, in training mode."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    from rmtkit.memory import RMTForCausalLM

    torch.manual_seed(setting.seed)
    config = GPT2Config(
        vocab_size=setting.vocab_size, n_embd=setting.width, n_layer=setting.num_layers, n_head=setting.num_heads,
        attn_pdrop=0, resid_pdrop=0, embd_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return RMTForCausalLM.from_backbone(
        AutoModelForCausalLM.from_config(config),
        num_memory_tokens=setting.num_memory_tokens,
        segment_size=setting.segment_size,
    ).train()


def make_batches(setting: Setting, *, is_mixed: bool) -> list[tuple]:
    """Return (input_ids, labels), (b, t) each, of all samples, shuffled: batches of any lengths, or of one each."""
    import torch

    generator = torch.Generator().manual_seed(setting.seed)
    per_length = setting.num_samples // setting.max_segments
    sizes = [setting.segment_size * n for n in range(1, setting.max_segments + 1) for _ in range(per_length)]
    samples = [torch.randint(setting.vocab_size, (size,), generator=generator) for size in sizes]
    if is_mixed:
        samples = [samples[i] for i in torch.randperm(len(samples), generator=generator)]
    starts = range(0, len(samples), setting.batch_size)
    batches = [_collate(samples[start : start + setting.batch_size], setting.num_labels) for start in starts]
    return batches if is_mixed else [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def _collate(samples: list, num_labels: int) -> tuple:
    """Return samples (t,) padded on the right, and labels: the last tokens of each."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    labels = [sample.index_fill(0, torch.arange(len(sample) - num_labels), -100) for sample in samples]
    return pad_sequence(samples, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)

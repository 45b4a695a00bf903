"""Tokens per second and peak memory of streaming evaluation, against the straightforward one of the authors' code.

The same for both: the weights (the reference backbone with fresh memory tokens, which are not rounded), segments of 128
tokens, the samples, the machine. A process for each, so that its memory is its own. What differs:

straightforward   One sample at a time, float32; the causal LM as a whole is called with output_hidden_states=True, and
                  logits and hidden states of all segments are kept and concatenated (the authors' wrapper).
rmtkit            What `python -m rmtkit evaluate` does: samples side by side, weights in bfloat16 where the processor
                  has it, a compiled step, nothing kept but the memory, nothing computed but what it depends on;
                  what a step frees stays with the process.

Both read with one precision the same memory: that is checked first. The share of the machine's peak is the
floating-point operations of `rmtkit.streaming.flops_per_segment` against a large product in the same data type.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, n segments, d width, v vocabulary.
"""

from __future__ import annotations

import dataclasses

from rmtkit.config import Config
from rmtkit.meters import peak_resident_mb

from .measurement import in_new_process, matmul_peak, seconds

SEGMENT_SIZE = 128  # tokens
BATCH_SIZE = 32  # samples side by side
LENGTHS = (512, 2**15)  # tokens of each of them: 16k and 1M together
NUM_STRAIGHTFORWARD = 2**14  # tokens of the straightforward side: it keeps everything
ROUNDS = 2  # of all measurements, the best of each counts: the machine is shared, and others only slow it down
PEAK_SIZE = 2048  # of the matrices in the large product
TOLERANCE = 1e-4  # of the memory, in float32, relative to its largest entry


def bench_stream(config: Config) -> dict:
    """Compare streaming with the straightforward implementation, and both with this machine's matrix product.

    Returns: the ratio of tokens per second, the share of the peak, peak MB by length, and each side.
    """
    config = dataclasses.replace(config, segment_size=SEGMENT_SIZE)
    difference = in_new_process(largest_difference, config)
    print(f"largest difference of the memory, relative, in float32: {difference:.0e}")
    if difference > TOLERANCE:
        return {"bench": "stream", "failed": {"difference": difference}}
    runs = [_measure_all(config) for _ in range(ROUNDS)]
    theirs, short, long = (max(sides, key=lambda side: side["tokens_per_s"]) for sides in zip(*runs, strict=True))
    peaks = {name: max(side["peaks"][name] for sides in runs for side in sides) for name in theirs["peaks"]}
    _print_side(f"straightforward, 1 x {NUM_STRAIGHTFORWARD:,} tokens", theirs, peaks)
    for length, side in zip(LENGTHS, (short, long), strict=True):
        _print_side(f"rmtkit, {BATCH_SIZE} x {length:,} tokens", side, peaks)
    ratio, share = long["tokens_per_s"] / theirs["tokens_per_s"], long["flops"] / peaks[long["dtype"]]
    flat = long["peak_mb"] / short["peak_mb"]
    for name, peak in peaks.items():
        print(f"product of {PEAK_SIZE} x {PEAK_SIZE} matrices in {name}: {peak / 1e9:,.0f} GFLOP/s")
    print(f"{ratio:.1f} times the tokens/s, {share:.0%} of the peak of {long['dtype']}")
    print(f"{LENGTHS[1] // LENGTHS[0]} times the length takes {flat:.3f} times the memory")
    return {
        "bench": "stream", "ratio": ratio, "share_of_peak": share, "memory_ratio": flat, "peak_flops": peaks,
        "straightforward": theirs, "rmtkit": {str(LENGTHS[0]): short, str(LENGTHS[1]): long},
    }  # fmt: skip


def _measure_all(config: Config) -> list[dict]:
    """Return the straightforward side, and ours at each of `LENGTHS`."""
    theirs = in_new_process(measure_straightforward, config)
    return [theirs, *(in_new_process(measure_reader, config, length) for length in LENGTHS)]


def _print_side(name: str, side: dict, peaks: dict[str, float]) -> None:
    print(
        f"  {name:38} {side['tokens_per_s']:10,.0f} tokens/s  peak {side['peak_mb']:6,.0f} MB  {side['dtype']}, "
        f"{side['flops'] / 1e9:.0f} GFLOP/s, {side['flops'] / peaks[side['dtype']]:.0%} of its peak"
        + (f", compiled in {side['compile_s']:.0f} s" if side.get("compile_s") else "")
    )


def measure_reader(config: Config, num_tokens: int) -> dict:
    """Read samples of `num_tokens` side by side as an evaluation does.

    Returns: tokens_per_s, peak_mb of the process, dtype, flops (per second), compile_s, and the machine's peaks.
    """
    from rmtkit.background import TokenRows
    from rmtkit.precision import evaluation_dtype
    from rmtkit.streaming import Reader, fast_copy

    model, builder = _open(config)
    reader, compiled = Reader(fast_copy(model, evaluation_dtype(config.precision, model.device))), []
    compile_s = 0.0
    if config.compile != "never":
        compile_s = seconds(lambda: compiled.append(reader.compile(BATCH_SIZE)))
    rows = TokenRows([builder.sample("test", index, num_tokens).prompt for index in range(BATCH_SIZE)], num_tokens)
    duration = seconds(lambda: reader.read(rows))
    found = {"compile_s": compile_s if any(compiled) else 0.0}
    return found | _found(reader.model, BATCH_SIZE * num_tokens, duration, reader.flops_per_segment())


def measure_straightforward(config: Config) -> dict:
    """Read one sample as the authors' code does; returns what `measure_reader` does."""
    import torch

    from rmtkit.streaming import flops_per_segment

    model, builder = _open(config)
    tokens = torch.from_numpy(builder.sample("test", 0, NUM_STRAIGHTFORWARD).prompt.astype("int64"))[None]
    tokens = tokens.to(model.device)
    with torch.no_grad():
        duration = seconds(lambda: straightforward_outputs(model, tokens))
    return _found(model, NUM_STRAIGHTFORWARD, duration, flops_per_segment(model, SEGMENT_SIZE))


def _found(model, num_tokens: int, duration: float, flops: int) -> dict:
    """Return what was measured, with `flops` a segment; peak memory first, before those large matrices."""
    import torch

    peak_mb = peak_resident_mb() if model.device.type == "cpu" else torch.cuda.max_memory_allocated() / 1e6
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, model.dtype)}
    return {
        "tokens_per_s": num_tokens / duration,
        "peak_mb": peak_mb,
        "dtype": str(model.dtype).removeprefix("torch."),
        "flops": flops * num_tokens / SEGMENT_SIZE / duration,
        "peaks": {name: matmul_peak(dtype, model.device, PEAK_SIZE) for name, dtype in dtypes.items()},
    }


def straightforward_outputs(model, input_ids):
    """Return what the authors' wrapper keeps of a sample, and its last memory.

    Args:    model: an `RMTForCausalLM`, of which only the weights are used;  input_ids (b, t).
    Returns: logits (b, t, v); hidden states (b, t, d) of every layer; both of each segment; the memory (b, m, d).
    """
    import torch

    m, state, outputs = len(model.memory), model.memory.expand(len(input_ids), -1, -1), []
    for segment in input_ids.split(model.config.segment_size, dim=1):
        embeddings = torch.cat([state, model.get_input_embeddings()(segment), state], dim=1)
        output = model.backbone(inputs_embeds=embeddings, output_hidden_states=True, use_cache=False)
        state = output.hidden_states[-1][:, -m:]
        outputs.append((output.logits[:, m:-m], [hidden[:, m:-m] for hidden in output.hidden_states]))
    logits = torch.cat([logits for logits, _ in outputs], dim=1)
    hidden = [torch.cat(layer, dim=1) for layer in zip(*(hidden for _, hidden in outputs), strict=True)]
    return logits, hidden, outputs, state


def largest_difference(config: Config) -> float:
    """Return how far apart the memories of both sides are after eight segments in float32, relative."""
    import torch

    from rmtkit.background import TokenRows
    from rmtkit.streaming import Reader

    model, builder = _open(config)
    prompts = [builder.sample("test", index, 8 * SEGMENT_SIZE).prompt for index in range(2)]
    rows = TokenRows(prompts, 8 * SEGMENT_SIZE)
    with torch.no_grad():
        tokens = torch.from_numpy(rows[:, :].astype("int64")).to(model.device)
        expected = straightforward_outputs(model, tokens)[-1]
    return float((Reader(model).read(rows) - expected).abs().max() / expected.abs().max())


def _open(config: Config):
    """Return the model, evaluating, and the samples' builder."""
    from rmtkit.experiment import build_model, default_device, open_builder, open_problems, open_tokenizer

    model = build_model(dataclasses.replace(config, memory_grid=0.0)).eval().requires_grad_(False).to(default_device())
    return model, open_builder(config, open_tokenizer(config), open_problems(config))

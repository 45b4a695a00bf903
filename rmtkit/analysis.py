"""What the memory does: attention of the memory tokens and distances between memory states, as data frames.

The figure of Kuratov et al. 2024 (2402.10790, Fig. 10; 2406.10149, appendix H): who writes a fact into memory, who
reads it for the answer, and when the state changes. `record` reads one sample; the other functions make tables of it.

Layers, heads, slots, facts and segments are counted from 0; a position is that of a token in the sample's prompt.
Axis letters: b batch, s segment tokens, m memory tokens, n segments, d width, h heads, l layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.kinds import answer
from rmtkit.memory import RMTForCausalLM

METRICS = ("euclidean", "cosine")
TARGETS = ("facts", "background", "question", "read memory", "write memory")  # what a write slot can attend to
LONGEST_QUESTION = 128  # tokens at the end of a prompt in which the question is looked for
NUM_RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Recording:
    """What a model did with one sample; made by `record`."""

    sample: Sample
    prediction: str  # greedy answer
    segment_size: int  # tokens of text
    question_start: int  # position of the final question's first token, or of the last token if no question is there
    states: torch.Tensor  # (n + 1, m, d): the initial memory, and the memory after every segment
    attentions: dict[int, torch.Tensor]  # segment -> (l, h, m+s+m, m+s+m); rows attend to columns
    tokenizer: object = field(repr=False)

    @property
    def num_segments(self) -> int:
        """Segments of the prompt, n."""
        return len(self.states) - 1

    @property
    def num_memory_tokens(self) -> int:
        """Memory tokens, m."""
        return self.states.shape[1]

    def bounds(self, segment: int) -> tuple[int, int]:
        """Return the positions [start, end) of a segment; the last one may be shorter."""
        start = segment * self.segment_size
        return start, min(start + self.segment_size, len(self.sample.prompt))

    def fact_segments(self, fact: int) -> range:
        """Return the segments that hold tokens of a fact: two if it straddles their border."""
        start, end = self.sample.fact_spans[fact]
        return _segments_of(int(start), int(end), self.segment_size)

    def attention(self, segment: int) -> torch.Tensor:
        """Return the attentions of a segment, (l, h, m+s+m, m+s+m). Raises: ValueError if they were not recorded."""
        if segment not in self.attentions:
            raise ValueError(f"segment {segment} is not recorded; recorded: {', '.join(map(str, self.attentions))}")
        return self.attentions[segment]

    def state_marks(self) -> dict[str, int]:
        """Return the index of the first state that can know each fact, and that of the last state."""
        marks = {f"fact {fact + 1}": self.fact_segments(fact)[-1] + 1 for fact in range(len(self.sample.fact_spans))}
        return marks | {"question": self.num_segments}


# ---------------------------------------------------------------------- recording


@torch.inference_mode()
def record(model, sample: Sample, tokenizer, *, attention_segments: Iterable[int] | None = None) -> Recording:
    """Read a sample segment by segment and keep every memory state, and the attentions of a few segments.

    Args:    model: an `RMTForCausalLM`;  tokenizer: the model's;
             attention_segments: whose attentions to keep; None: those that hold facts, and the last one.
    Raises:  ValueError for a model that is no decoder, without memory or attentions, or a segment that is not there.
    Trap:    attention weights exist only in the eager implementation, so the model is switched to it meanwhile. They
             take l * h * (s + 2m)^2 floats a segment: 170 MB for GPT-2 with segments of 512 tokens.
    """
    m, size = model.config.num_memory_tokens, model.config.segment_size
    if not isinstance(model, RMTForCausalLM):
        raise ValueError(f"{type(model).__name__} reads and writes at the same slots; the analysis is for decoders")
    if m == 0:
        raise ValueError("the model has num_memory_tokens=0: there is no memory to analyse; train it with some")
    num_segments = -(-len(sample.prompt) // size)
    kept = _kept_segments(sample, size, num_segments, attention_segments)
    with _evaluation_mode(model):
        with _eager_attention(model):
            states, attentions = _read(model, sample, kept)
        prediction = answer(model, [sample], tokenizer)[0]
    return Recording(
        sample=sample,
        prediction=prediction,
        segment_size=size,
        question_start=min(question_ends(sample, tokenizer)[1], len(sample.prompt) - 1),
        states=states,
        attentions=attentions,
        tokenizer=tokenizer,
    )


def _read(model, sample: Sample, kept: set[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    prompt = torch.from_numpy(sample.prompt.astype(np.int64))[None]
    state, attentions = model.initial_memory(1), {}
    states = [state[0].float().cpu()]
    for index, segment in enumerate(prompt.split(model.config.segment_size, dim=1)):
        output, state = model.step(segment.to(model.device), state, output_attentions=index in kept)
        states.append(state[0].float().cpu())
        if index in kept:
            attentions[index] = _stack(output.attentions)
    return torch.stack(states), attentions


def _stack(attentions) -> torch.Tensor:
    """Stack the attentions of one sample to (l, h, m+s+m, m+s+m)."""
    if not attentions or any(weights is None for weights in attentions):
        raise ValueError("the backbone has layers without attention weights; use one with attention in all of them")
    return torch.stack([weights[0].float().cpu() for weights in attentions])


def _kept_segments(sample: Sample, size: int, num_segments: int, asked: Iterable[int] | None) -> set[int]:
    if asked is None:
        return {*_fact_segments(sample, size), num_segments - 1}
    kept = set(asked)
    if not kept <= set(range(num_segments)):
        raise ValueError(f"attention_segments is {sorted(kept)}; the sample has segments 0 to {num_segments - 1}")
    return kept


def _segments_of(start: int, end: int, size: int) -> range:
    return range(start // size, (end - 1) // size + 1)


def _fact_segments(sample: Sample, size: int) -> list[int]:
    """Return the segments of all facts, fact by fact; a fact that straddles a border has two."""
    return [segment for start, end in sample.fact_spans.tolist() for segment in _segments_of(start, end, size)]


@contextlib.contextmanager
def _eager_attention(model) -> Iterator[None]:
    """Compute attention weights inside; the former implementations come back afterwards, after an error too."""
    former = {"": model.config._attn_implementation, "backbone_config": model.backbone.config._attn_implementation}
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(former)


@contextlib.contextmanager
def _evaluation_mode(model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def question_ends(sample: Sample, tokenizer) -> tuple[int, int]:
    """Return where the question at the start of a prompt ends, and where the one at its end starts.

    0 if no question is at the start, the length of the prompt if none is at its end; what stands behind the question at
    the end ("GEN") counts to it.
    """
    asked, prompt, size = _squeezed(sample.question.text), sample.prompt.tolist(), len(sample.prompt)
    heads = range(1, min(size, LONGEST_QUESTION) + 1)
    head = next((end for end in heads if _squeezed(tokenizer.decode(prompt[:end])) == asked), 0)
    tails = range(size - 1, max(head, size - LONGEST_QUESTION) - 1, -1)
    return head, next((start for start in tails if asked in _squeezed(tokenizer.decode(prompt[start:]))), size)


def _squeezed(text: str) -> str:
    """Drop what a tokenizer may change: capitals and spaces."""
    return "".join(text.lower().split())


def find_samples(builder: BabilongBuilder, num_tokens: int | None, segment_size: int, *, num_samples: int = 20,
                 split: str = "test", num_candidates: int = 500) -> list[Sample]:  # fmt: skip
    """Return the samples that show best what memory does: facts apart from each other and from the question, and few.

    Best are those whose facts each lie whole in a segment of their own and not in the last one; among them those with
    the fewest facts (two at least); among them the lowest index.

    Raises: ValueError if fewer than `num_samples` of the first `num_candidates` samples have two facts or more.
    """
    candidates = (builder.sample(split, index, num_tokens) for index in range(num_candidates))
    several = (sample for sample in candidates if len(sample.fact_spans) > 1)
    found = sorted((_crowding(sample, segment_size), len(sample.fact_spans), sample.index) for sample in several)
    if len(found) < num_samples:
        raise ValueError(
            f"{len(found)} of {num_candidates} {split} samples have two facts or more, {num_samples} are wanted; "
            "ask for fewer, or take more candidates"
        )
    return [builder.sample(split, index, num_tokens) for _, _, index in found[:num_samples]]


def _crowding(sample: Sample, size: int) -> int:
    """Return 0 if every fact lies whole in a segment of its own before the last, more the further it is from that."""
    segments = _fact_segments(sample, size)
    num_straddling = len(segments) - len(sample.fact_spans)
    return num_straddling + len(segments) - len(set(segments) - {(len(sample.prompt) - 1) // size})


# ---------------------------------------------------------------------- attention of the memory


def write_attention(recording: Recording, fact: int, *, num_before: int = 10) -> pd.DataFrame:
    """Return how much each write slot attends to a fact, and to the tokens before it in its segments.

    Returns: a row per layer, head, slot and position: segment, position, token, is_fact, weight. If the fact straddles
             two segments, each token has the weights of the segment that it is in.
    Paper:   2402.10790, Fig. 10 (c).
    """
    if not 0 <= fact < len(recording.sample.fact_spans):
        raise ValueError(f"fact is {fact}; the sample has facts 0 to {len(recording.sample.fact_spans) - 1}")
    start, end = recording.sample.fact_spans[fact].tolist()
    m, tables = recording.num_memory_tokens, []
    for segment in recording.fact_segments(fact):
        first, last = recording.bounds(segment)
        positions = np.arange(max(first, start - num_before), min(last, end))
        weights = recording.attention(segment)[:, :, -m:, m + positions - first]
        table = _tidy(recording, weights, positions, ("layer", "head", "slot", "position"))
        tables.append(table.assign(segment=segment))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(is_fact=table["position"] >= start)


def read_attention(recording: Recording) -> pd.DataFrame:
    """Return how much each token of the question attends to each read slot, in the last segment.

    The last position is the one that predicts the answer.

    Returns: a row per layer, head, position and slot: position, token, weight.
    Paper:   2402.10790, Fig. 10 (d).
    """
    segment, m = recording.num_segments - 1, recording.num_memory_tokens
    first, last = recording.bounds(segment)
    positions = np.arange(max(first, recording.question_start), last)
    weights = recording.attention(segment)[:, :, m + positions - first, :m]
    return _tidy(recording, weights, positions, ("layer", "head", "position", "slot"))


def _tidy(recording: Recording, weights: torch.Tensor, positions: np.ndarray, axes: tuple[str, ...]) -> pd.DataFrame:
    """Turn weights into one row each; the axis named "position" holds the given positions of the prompt."""
    values = [positions if axis == "position" else range(size) for axis, size in zip(axes, weights.shape, strict=True)]
    index = pd.MultiIndex.from_product(values, names=axes)
    table = pd.DataFrame({"weight": weights.reshape(-1).numpy()}, index=index).reset_index()
    tokens = {p: recording.tokenizer.decode([int(recording.sample.prompt[p])]) for p in positions.tolist()}
    return table.assign(token=table["position"].map(tokens))


def attention_mass(recording: Recording) -> pd.DataFrame:
    """Return what the write slots attend to in each segment that holds facts.

    Returns: a row per segment, layer, head and target (one of `TARGETS`): share of the write slots' attention, averaged
             over the slots; baseline, the share if each slot attended evenly to all that the causal mask lets it see;
             num_positions of the target. Shares of a head sum to 1, baselines too.
    """
    segments = sorted(set(_fact_segments(recording.sample, recording.segment_size)))
    return pd.concat([_segment_mass(recording, segment) for segment in segments], ignore_index=True)


def _segment_mass(recording: Recording, segment: int) -> pd.DataFrame:
    m, targets = recording.num_memory_tokens, _targets(recording, segment)
    weights = recording.attention(segment)[:, :, -m:].mean(dim=2).numpy()
    even = np.tri(m, len(targets), len(targets) - m)  # row: a write slot; 1 where it may look
    even = (even / even.sum(axis=1, keepdims=True)).mean(axis=0)
    index = pd.MultiIndex.from_product([range(size) for size in weights.shape[:2]], names=("layer", "head"))
    tables = []
    for target in TARGETS:
        is_target = targets == target
        table = pd.DataFrame({"share": weights[:, :, is_target].sum(axis=-1).reshape(-1)}, index=index).reset_index()
        tables.append(table.assign(target=target, baseline=even[is_target].sum(), num_positions=is_target.sum()))
    return pd.concat(tables, ignore_index=True).assign(segment=segment)


def _targets(recording: Recording, segment: int) -> np.ndarray:
    """Return the target that each position of a segment belongs to, (m+s+m,)."""
    first, last = recording.bounds(segment)
    positions = np.arange(first, last)
    kinds = np.full(len(positions), "background", dtype=object)
    for start, end in recording.sample.fact_spans:
        kinds[(positions >= start) & (positions < end)] = "facts"
    kinds[positions >= recording.question_start] = "question"
    slots = [np.full(recording.num_memory_tokens, name, dtype=object) for name in ("read memory", "write memory")]
    return np.concatenate([slots[0], kinds, slots[1]])


def summarize_mass(masses: list[pd.DataFrame]) -> pd.DataFrame:
    """Average `attention_mass` over samples.

    Returns: a row per layer, head and target: share, its 95 % interval (low, high) by the percentile bootstrap over
             samples, n samples, baseline.
    """
    keys = ["layer", "head", "target"]
    samples = pd.concat([mass.groupby(keys)[["share", "baseline"]].mean() for mass in masses], keys=range(len(masses)))
    shares = samples["share"].unstack(keys)
    draws = np.random.default_rng(0).integers(len(masses), size=(NUM_RESAMPLES, len(masses)))
    low, high = np.percentile(shares.to_numpy()[draws].mean(axis=1), [2.5, 97.5], axis=0)
    table = pd.DataFrame({"share": shares.mean(), "low": low, "high": high, "n": len(masses)})
    return table.assign(baseline=samples["baseline"].groupby(keys).mean()).reset_index()


# ---------------------------------------------------------------------- memory states


def state_distances(recording: Recording, *, metric: str = "euclidean") -> pd.DataFrame:
    """Return the distance between every two memory states, (n + 1, n + 1); index 0 is the initial memory.

    Args:   metric: "euclidean" of the flattened states, as in the paper, or "cosine" (1 - cosine similarity).
    Paper:  2402.10790, Fig. 10 (a, b).
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
    states = recording.states.flatten(start_dim=1).double()
    if metric == "cosine":
        states = states / states.norm(dim=1, keepdim=True)
    distances = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
    if metric == "cosine":
        distances = distances.square() / 2  # of vectors of length 1
    index = pd.RangeIndex(len(states), name="segments read")
    return pd.DataFrame(distances.numpy(), index=index, columns=index)

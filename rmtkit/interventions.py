"""Changing what a model has in memory, or how it reads and writes it, to see what the answer depends on.

    prompt     segment 1 .. n-1             last segment
    memory     M_0 .. -> M_{n-1} -> (changed) -> last segment, question -> answer

A sample here has no fact in its last segment, so that all the answer can know has passed through memory. The memory
before the last segment is read once; then slots of it are replaced, or it is exchanged with that of another sample
(interchange: Geiger et al. 2021, arXiv 2106.02997), or single attention heads are silenced.

Ours; not in the paper. Slots, layers and heads are counted from 0. Axis letters: b samples, m memory tokens, d width,
h heads, s tokens of a segment.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import TokenRows
from rmtkit.evaluation import accuracy_table
from rmtkit.kinds import answer
from rmtkit.memory import RMTForCausalLM
from rmtkit.scoring import score

FILLINGS = ("zero", "mean")  # what takes the place of a slot: nothing, or the mean over the samples
PHASES = ("answering", "reading")  # when a head is silenced: in the last segment, or in all before it
SILENT = "rmtkit_silent"  # the name of our attention function in transformers


# ---------------------------------------------------------------------- samples and their memories


def memory_samples(builder: BabilongBuilder, num_tokens: int | None, segment_size: int, num_samples: int, *,
                   split: str = "test") -> list[Sample]:  # fmt: skip
    """Return the first samples of a split, built with all facts before the last segment.

    Raises: ValueError without background, or if the facts do not fit before the last segment.
    """
    if num_tokens is None or builder.background is None:
        raise ValueError("background is none: all facts are in the segments with the question; take a background")
    limited = copy.copy(builder)
    low, high = builder.fact_depth
    limited.fact_depth = (low, min(high, (num_tokens - 1) // segment_size * segment_size / num_tokens))
    samples, index = [], 0
    while len(samples) < num_samples and index < 2 * num_samples + 100:
        sample = limited.sample(split, index, num_tokens)
        if sample.fact_spans.max() <= (len(sample.prompt) - 1) // segment_size * segment_size:
            samples.append(sample)
        index += 1
    if len(samples) < num_samples:
        raise ValueError(f"the facts of {split} samples do not fit before the last segment of {num_tokens} tokens")
    return samples


def _batches(samples: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of samples whose prompts are equally long, `batch_size` at most."""
    by_length: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        by_length.setdefault(len(sample.prompt), []).append(index)
    for indices in by_length.values():
        yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))


@torch.inference_mode()
def read_memories(model: RMTForCausalLM, samples: Sequence[Sample], *, batch_size: int = 64) -> torch.Tensor:
    """Return the memory of each sample before its last segment, (b, m, d), on the CPU.

    Raises: ValueError for a model without memory, or prompts of one segment only.
    """
    size, read = model.config.segment_size, {}
    if not model.config.num_memory_tokens:
        raise ValueError("the model has num_memory_tokens=0: there is no memory to change; train it with some")
    for indices in _batches(samples, batch_size):
        start = (len(samples[indices[0]].prompt) - 1) // size * size
        memory = model.read(TokenRows([samples[index].prompt for index in indices], start))
        if memory is None:
            raise ValueError("the prompts have one segment, which needs no memory; take longer ones")
        read.update(zip(indices, memory.cpu(), strict=True))
    return torch.stack([read[index] for index in range(len(samples))])


def answer_from(model: RMTForCausalLM, samples: Sequence[Sample], memories: torch.Tensor, tokenizer, *,
                batch_size: int = 64) -> list[str]:  # fmt: skip
    """Return the greedy answers to samples from given memories (b, m, d) before their last segment."""
    answers: dict[int, str] = {}
    for indices in _batches(samples, batch_size):
        given = memories[indices].to(model.device)
        texts = answer(model, [samples[index] for index in indices], tokenizer, read=lambda _, given=given: given)
        answers.update(zip(indices, texts, strict=True))
    return [answers[index] for index in range(len(samples))]


def records_of(samples: Sequence[Sample], predictions: Sequence[str], rule: str = "exact_match") -> pd.DataFrame:
    """Return a row per sample: index, question, target, prediction, is_correct."""
    rows = []
    for sample, prediction in zip(samples, predictions, strict=True):
        question, task = sample.question, sample.problem.task
        is_correct = score(rule, prediction, question=question.text, target=question.answer, task=task)
        rows.append((sample.index, question.text, question.answer, prediction, is_correct))
    return pd.DataFrame(rows, columns=["index", "question", "target", "prediction", "is_correct"])


# ---------------------------------------------------------------------- slots


def replace_slots(memories: torch.Tensor, slots: Sequence[int], filling: str) -> torch.Tensor:
    """Return memories (b, m, d) with the given slots zero, or the mean of that slot over the samples.

    Raises: ValueError for a filling or a slot that is not there.
    """
    if filling not in FILLINGS:
        raise ValueError(f"filling is {filling!r}; allowed: {', '.join(FILLINGS)}")
    if not set(slots) <= set(range(memories.shape[1])):
        raise ValueError(f"slots is {list(slots)}; the memory has slots 0 to {memories.shape[1] - 1}")
    changed, chosen = memories.clone(), list(slots)
    changed[:, chosen] = 0 if filling == "zero" else memories[:, chosen].float().mean(dim=0).to(memories)
    return changed


def ablate_slots(model, samples: Sequence[Sample], memories: torch.Tensor, tokenizer, *, filling: str = "mean",
                 batch_size: int = 64, rule: str = "exact_match") -> pd.DataFrame:  # fmt: skip
    """Answer with each slot of the memory replaced, with all others replaced, with all, and with none.

    Args:    memories: before the last segment, (b, m, d);  filling: as in `replace_slots`.
    Returns: a row per kept ("all", "none", "others" than the slot, "slot" alone) and slot (-1 where it is about all):
             accuracy, its 95 % Wilson interval (low, high), n, filling.
    """
    every = range(memories.shape[1])
    cases = [("all", -1, []), ("none", -1, every), *(("others", slot, [slot]) for slot in every)]
    cases += [("slot", slot, [other for other in every if other != slot]) for slot in every]
    records = []
    for kept, slot, replaced in cases:
        changed = replace_slots(memories, replaced, filling)
        found = records_of(samples, answer_from(model, samples, changed, tokenizer, batch_size=batch_size), rule)
        records.append(found.assign(kept=kept, slot=slot))
    return accuracy_table(pd.concat(records), ["kept", "slot"]).assign(filling=filling)


# ---------------------------------------------------------------------- heads


def attention_layers(model: RMTForCausalLM) -> list[tuple[torch.nn.Module, int]]:
    """Return the attention of each layer that can be silenced, in the order of computing, and its number of heads.

    Raises: ValueError for a backbone whose attention does not go through transformers' AttentionInterface with "sdpa"
            (BLOOM and Falcon with ALiBi, Mamba): nothing there says what a head's output is.
    """
    found: dict[torch.nn.Module, int] = {}

    def note(module, query, *_):
        found[module] = query.shape[1]
        return ()

    with _attention(model, note), torch.inference_mode():
        model.step(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    if not found:
        raise ValueError(
            f"the layers of {type(model.backbone).__name__} compute attention by themselves, not through transformers' "
            "AttentionInterface, so that single heads cannot be silenced; GPT-2, Llama, Qwen and most others can"
        )
    return list(found.items())


@contextlib.contextmanager
def silenced(model: RMTForCausalLM, layer: int, head: int) -> Iterator[None]:
    """Inside, the output of one attention head is zero wherever the model computes; no weight is touched.

    Raises: ValueError for a head that is not there, or as `attention_layers` does.
    """
    layers = attention_layers(model)
    if not (0 <= layer < len(layers) and 0 <= head < layers[layer][1]):
        shape = [num_heads for _, num_heads in layers]
        raise ValueError(f"layer {layer}, head {head} is not there; the layers have {shape} heads")
    silent = layers[layer][0]
    with _attention(model, lambda module, *_: (head,) if module is silent else ()):
        yield


@contextlib.contextmanager
def _attention(model, heads_of: Callable) -> Iterator[None]:
    """Compute attention by "sdpa" and zero the heads that `heads_of(module, query (b, h, s, d / h))` names."""
    former = {"": model.config._attn_implementation, "backbone_config": model.backbone.config._attn_implementation}
    ALL_ATTENTION_FUNCTIONS.register(SILENT, partial(_attend, heads_of))
    ALL_MASK_ATTENTION_FUNCTIONS.register(SILENT, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    try:
        model.set_attn_implementation(SILENT)
        yield
    finally:
        model.set_attn_implementation(former)


def _attend(heads_of: Callable, module, query, key, value, attention_mask, **options):
    output, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    if heads := heads_of(module, query):
        output = output.clone()
        output[:, :, list(heads)] = 0  # (b, s, h, d / h)
    return output, weights


def ablate_heads(model, samples: Sequence[Sample], memories: torch.Tensor, tokenizer, *, when: str,
                 batch_size: int = 64, rule: str = "exact_match") -> pd.DataFrame:  # fmt: skip
    """Answer with each attention head silenced.

    Args:    memories: of the whole model before the last segment, (b, m, d);  when: "answering", with these memories,
             in the last segment only; or "reading", in all segments before it, whose memory the whole model answers
             from: the prompts are read anew for each head.
    Returns: a row per layer and head, the first with both -1 for the whole model: accuracy, its 95 % Wilson interval
             (low, high), n, when.
    Raises:  ValueError for another `when`, or as `attention_layers` does.
    """
    if when not in PHASES:
        raise ValueError(f"when is {when!r}; allowed: {', '.join(PHASES)}")
    heads = [(layer, head) for layer, (_, n) in enumerate(attention_layers(model)) for head in range(n)]
    records = []
    for layer, head in [(-1, -1), *heads]:
        silence = contextlib.nullcontext() if layer < 0 else silenced(model, layer, head)
        with silence if when == "reading" else contextlib.nullcontext():
            given = read_memories(model, samples, batch_size=batch_size) if when == "reading" else memories
        with silence if when == "answering" else contextlib.nullcontext():
            predictions = answer_from(model, samples, given, tokenizer, batch_size=batch_size)
        records.append(records_of(samples, predictions, rule).assign(layer=layer, head=head))
    return accuracy_table(pd.concat(records), ["layer", "head"]).assign(when=when)


# ---------------------------------------------------------------------- swapping


def swap_pairs(samples: Sequence[Sample], num_pairs: int | None = None) -> list[tuple[int, int]]:
    """Return pairs of indices of samples that ask the same and have different answers; none is in two pairs.

    Raises: ValueError if there is no such pair.
    """
    waiting: dict[str, list[int]] = {}
    pairs = []
    for index, sample in enumerate(samples):
        others = waiting.setdefault(sample.question.text, [])
        other = next((o for o in others if samples[o].question.answer != sample.question.answer), None)
        if other is None:
            others.append(index)
        else:
            others.remove(other)
            pairs.append((other, index))
    if not pairs:
        raise ValueError(f"none of {len(samples)} samples asks what another one asks with another answer; take more")
    return pairs[:num_pairs]


def swap_memories(model, samples: Sequence[Sample], memories: torch.Tensor, tokenizer, *, pairs: list[tuple[int, int]],
                  slots: Sequence[int] | None = None, batch_size: int = 64) -> pd.DataFrame:  # fmt: skip
    """Answer each sample of a pair from the other one's memory, or with some slots of it.

    Args:    memories: before the last segment, (b, m, d);  slots: to exchange; None: all.
    Returns: a row per sample in a pair: index, other (its partner's), question, target, other_target, prediction.
    """
    slots = range(memories.shape[1]) if slots is None else slots
    given, partner = memories.clone(), dict(pairs) | {second: first for first, second in pairs}
    for index, other in partner.items():
        given[index, list(slots)] = memories[other, list(slots)]
    order = sorted(partner)
    asked = [_with_room(samples[index], samples[partner[index]]) for index in order]
    predictions = answer_from(model, asked, given[order], tokenizer, batch_size=batch_size)
    others = [samples[partner[index]] for index in order]
    return records_of(asked, predictions).drop(columns="is_correct").assign(
        other=[sample.index for sample in others], other_target=[sample.question.answer for sample in others]
    )  # fmt: skip


def _with_room(sample: Sample, other: Sample) -> Sample:
    """Return a sample whose answer may have as many tokens as the longer one of two: answers are cut at their own."""
    longer = max(sample, other, key=lambda each: int(np.append(each.is_answer, False).argmin()))
    return dataclasses.replace(sample, continuation=longer.continuation, is_answer=longer.is_answer)


def swap_each(model, samples: Sequence[Sample], memories: torch.Tensor, tokenizer, *, pairs: list[tuple[int, int]],
              batch_size: int = 64) -> pd.DataFrame:  # fmt: skip
    """Answer from the other sample's memory: nothing of it, everything, and each of its slots alone.

    Returns: the rows of `swap_memories` for each, with exchanged ("nothing", "everything", "slot 0", ...), and answer:
             whose target the prediction is ("own", "other", "neither").
    """
    cases = {"nothing": [], "everything": None} | {f"slot {slot}": [slot] for slot in range(memories.shape[1])}
    tables = []
    for name, slots in cases.items():
        found = swap_memories(model, samples, memories, tokenizer, pairs=pairs, slots=slots, batch_size=batch_size)
        answers = pd.Series("neither", index=found.index)
        answers = answers.mask(found["prediction"] == found["other_target"], "other")
        answers = answers.mask(found["prediction"] == found["target"], "own")
        tables.append(found.assign(exchanged=name, answer=answers))
    return pd.concat(tables, ignore_index=True)


def swap_shares(records: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Count whose target the answers are.

    Args:    records: of `swap_each`;  by: further columns to group by, such as question.
    Returns: a row per exchanged, further group and answer: share, its 95 % Wilson interval (low, high), n.
    """
    keys, kinds = ["exchanged", *by], ("own", "other", "neither")
    tables = [
        accuracy_table(records.assign(is_correct=records["answer"] == kind), keys).assign(answer=kind) for kind in kinds
    ]
    order = {name: place for place, name in enumerate(records["exchanged"].unique())}
    table = pd.concat(tables, ignore_index=True).rename(columns={"accuracy": "share"})
    return table.sort_values("exchanged", key=lambda names: names.map(order), kind="stable", ignore_index=True)

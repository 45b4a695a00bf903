"""Evaluation at any length, streamed segment by segment; accuracy by group with Wilson intervals.

Axis letters: b batch, t tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pandas as pd

from rmtkit.babilong import Sample
from rmtkit.background import TokenPieces
from rmtkit.intervals import wilson_interval
from rmtkit.kinds import answer
from rmtkit.scoring import check_rule, score

MAX_TOKENS_IN_BATCH = 2**23  # prompts of one batch together, in tokens, unless they are views: they stay in RAM


def accuracy_table(records: pd.DataFrame, by: list[str] | str) -> pd.DataFrame:
    """Group the records of `evaluate` and return accuracy, n and the 95 % Wilson interval (low, high) per group."""
    groups = records.groupby(by, observed=True)["is_correct"].agg(["sum", "count"]).reset_index()
    intervals = [wilson_interval(int(k), int(n)) for k, n in zip(groups["sum"], groups["count"], strict=True)]
    groups["accuracy"] = groups["sum"] / groups["count"]
    groups["low"], groups["high"] = [low for low, _ in intervals], [high for _, high in intervals]
    return groups.rename(columns={"count": "n"}).drop(columns="sum")


def evaluate(model, samples: Iterable[Sample], tokenizer, *, batch_size: int = 32, rule: str = "exact_match",
             on_batch: Callable[[int], None] | None = None, reader=None) -> pd.DataFrame:  # fmt: skip
    """Answer every sample greedily and score it.

    Samples are read side by side where their prompts are equally long; nothing grows with the length but the prompt
    itself, and only one segment at a time is on the device.

    Args:    model: of any kind (`rmtkit.kinds`);  samples: in any order, consumed lazily;  tokenizer: the model's;
             batch_size: samples side by side at most;  rule: a name in `rmtkit.scoring.SCORING_RULES`;
             on_batch: called with the number of prompt tokens read (progress);
             reader: an `rmtkit.streaming.Reader` that reads the prompts; None: `model.read`.
    Returns: a row per sample: task, split, index, num_tokens, num_segments, fact_depth (of the earliest supporting
             fact, 0..1), num_facts, target, prediction, is_correct, rule.
    Trap:    an answer has as many tokens as its target at most, so a longer one counts by what it begins with.
    """
    check_rule(rule)
    was_training = model.training
    model.eval()
    rows = []
    try:
        for batch in batches(samples, batch_size):
            names = [[sample.split, sample.index] for sample in batch]
            read = None if reader is None else partial(reader.read, names=names)
            for sample, prediction in zip(batch, answer(model, batch, tokenizer, read=read), strict=True):
                rows.append(_record(model, sample, prediction, rule))
            if on_batch:
                on_batch(sum(len(sample.prompt) for sample in batch))
    finally:
        model.train(was_training)
    return pd.DataFrame(rows)


def batches(samples: Iterable[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Group samples of equal prompt length, `batch_size` at most and `MAX_TOKENS_IN_BATCH` tokens together.

    The same samples in the same order give the same batches.
    """
    waiting: dict[int, list[Sample]] = {}
    for sample in samples:
        length = len(sample.prompt)
        group = waiting.setdefault(length, [])
        group.append(sample)
        held = 0 if isinstance(sample.prompt, TokenPieces) else length
        if len(group) >= min(batch_size, max(1, MAX_TOKENS_IN_BATCH // max(1, held))):
            yield waiting.pop(length)
    yield from waiting.values()


def _record(model, sample: Sample, prediction: str, rule: str) -> dict:
    depths, question, task = sample.supporting_depths, sample.question, sample.problem.task
    prediction = prediction.replace("\r", "\n")  # which a CSV file holds in quotes; a lone \r would end the row
    return {
        "task": task,
        "split": sample.split,
        "index": sample.index,
        "num_tokens": len(sample.prompt),
        "num_segments": -(-len(sample.prompt) // model.config.segment_size),
        "num_facts": len(sample.problem.facts),
        "fact_depth": min(depths) if depths else math.nan,
        "target": question.answer,
        "prediction": prediction,
        "is_correct": score(rule, prediction, question=question.text, target=question.answer, task=task),
        "rule": rule,
    }

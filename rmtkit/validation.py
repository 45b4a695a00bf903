"""Validation while training: exact match, loss and custom metrics on the validation samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch

from rmtkit.babilong import Sample
from rmtkit.config import Config, ConfigError
from rmtkit.evaluation import evaluate
from rmtkit.intervals import wilson_interval
from rmtkit.kinds import collate
from rmtkit.processes import gather, share

Metric = Callable[[pd.DataFrame], float]  # the records of `rmtkit.evaluation.evaluate` -> a number
RESERVED = (  # what else a row of metrics.jsonl holds
    "exact_match", "low", "high", "n", "loss", "last", "skipped_updates", "stage", "num_segments", "step", "split",
)  # fmt: skip


def check_metrics(config: Config, metrics: Mapping[str, Metric]) -> None:
    """Raise ConfigError if a custom metric takes the name of ours, or if nothing is called `best_metric`."""
    for name in metrics:
        if name in RESERVED:
            raise ConfigError(f"a metric is called {name!r}; names that are taken: {', '.join(RESERVED)}")
    allowed = ("last", "exact_match", "loss", *metrics)
    if config.best_metric not in allowed:
        raise ConfigError(
            f"best_metric is {config.best_metric!r}; allowed: {', '.join(allowed)}; others go to train(metrics=...)"
        )


def validate(model, samples: list[Sample], tokenizer, *, config: Config, batch_size: int,
             metrics: Mapping[str, Metric]) -> dict[str, float]:  # fmt: skip
    """Answer samples greedily, each process its share, and return the same numbers in all of them.

    Args:    metrics: custom ones by name.
    Returns: exact_match with its 95 % interval (low, high) and n; custom metrics; loss, unless one of these decides
             which weights are kept.
    Raises:  ValueError for a metric that is not a finite number.
    """
    records = evaluate(model, share(samples), tokenizer, batch_size=batch_size)
    parts = [part for part in gather([records]) if len(part)]
    records = pd.concat(parts).sort_values("index", ignore_index=True)
    num_correct, n = int(records["is_correct"].sum()), len(records)
    low, high = wilson_interval(num_correct, n)
    found = {"exact_match": num_correct / n, "low": low, "high": high, "n": n}
    if config.best_metric in ("loss", "last"):
        found["loss"] = validation_loss(model, samples, tokenizer, batch_size=batch_size)
    found |= {name: float(metric(records)) for name, metric in metrics.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"the validation metric {name!r} is {value}, expected a finite number")
    return found


@torch.no_grad()
def validation_loss(model, samples: list[Sample], tokenizer, *, batch_size: int) -> float:
    """Return the mean cross-entropy over the labels of all samples, whatever the batches and processes."""
    was_training = model.training
    model.eval()
    mine, total, num_labels = list(share(samples)), 0.0, 0
    for start in range(0, len(mine), batch_size):
        batch = collate(mine[start : start + batch_size], tokenizer.eos_token_id, model)
        count = int((batch["labels"] != -100).sum())
        total += count * float(model(**{name: values.to(model.device) for name, values in batch.items()}).loss)
        num_labels += count
    model.train(was_training)
    parts = gather([(total, num_labels)])
    return sum(part[0] for part in parts) / sum(part[1] for part in parts)

"""Length generalisation of a trained model: the test split at growing lengths, kept on disk as it comes in.

Kuratov et al. 2024 (2402.10790), figure 9: accuracy by length, far beyond the lengths of training.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pandas as pd
import torch

from rmtkit.babilong import BabilongBuilder
from rmtkit.config import Config, identity
from rmtkit.evaluation import accuracy_table, evaluate
from rmtkit.experiment import autocast, prompt_size
from rmtkit.progress import Display

BY_LENGTH = ["task", "num_segments", "num_tokens"]


def evaluate_lengths(config: Config, model, tokenizer, builder: BabilongBuilder, folder: Path) -> pd.DataFrame:
    """Evaluate `test_samples` of the test split at every length in `test_segments`.

    A length that is done is kept as a CSV file under `folder`/test and not computed again.

    Returns: the records of `rmtkit.evaluation.evaluate`, all lengths together.
    """
    display, parts = Display(), []
    for num_segments in config.test_segments:
        path = _records_path(config, folder, num_segments)
        if not path.is_file():
            records = _evaluate_length(config, model, tokenizer, builder, num_segments, display)
            path.parent.mkdir(parents=True, exist_ok=True)
            records.to_csv(path.with_suffix(".partial"), index=False)
            path.with_suffix(".partial").rename(path)
        parts.append(pd.read_csv(path, keep_default_na=False, na_values={"fact_depth": ["", "nan"]}))
    records = pd.concat(parts, ignore_index=True)
    display.show(summary(records), force=True)
    return records


def summary(records: pd.DataFrame) -> str:
    """Return one line per length: tokens, segments, accuracy, interval, n and the scoring rule."""
    rows = accuracy_table(records, [*BY_LENGTH, "rule"]).itertuples()
    return "\n".join(
        f"{row.num_tokens:>9,} tokens {row.num_segments:>6} segments: {row.rule} {row.accuracy:.3f} "
        f"[{row.low:.3f}, {row.high:.3f}] n={row.n}" for row in rows
    )  # fmt: skip


def _records_path(config: Config, folder: Path, num_segments: int) -> Path:
    """Name a file by everything that its numbers depend on."""
    how = [config.precision, config.scoring, config.test_samples]
    what = [identity(config), config.checkpoint, num_segments, *how]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=5).hexdigest()
    return folder / "test" / f"{num_segments}-segments-{digest}.csv"


def _evaluate_length(config, model, tokenizer, builder, num_segments, display) -> pd.DataFrame:
    size = prompt_size(config, num_segments)
    fitting = builder.num_fitting("test", size)
    num_samples = config.test_samples if fitting is None else min(config.test_samples, fitting)
    samples = (builder.sample("test", index, size) for index in range(num_samples))
    done, started = 0, time.monotonic()

    def report(num_tokens: int) -> None:
        nonlocal done
        done += num_tokens
        rate = done / (time.monotonic() - started)
        left = max(0.0, num_samples * (size or 0) - done) / rate
        display.show(f"{num_segments} segments: {done:,} tokens read, {rate:,.0f} tokens/s, {left:.0f} s left")

    with torch.inference_mode(), autocast(config.precision, model.device):
        return evaluate(
            model, samples, tokenizer, batch_size=config.test_batch_size, rule=config.scoring, on_batch=report
        )

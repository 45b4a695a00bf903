"""Drift: what becomes of a memory state while nothing but background is read, and whether it still answers.

All facts of a text lie in its first segments; what follows is background. The state after those segments is the
reference. From it the state is followed at distances that grow like powers of two, each with its neighbour, because the
memory of a small model may alternate between two states.

Ours; not in the paper, whose figure 10 shows the distance between all states of one sample. Axis letters: b texts,
m memory tokens, d width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from rmtkit.babi import Problem
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import TokenRows
from rmtkit.config import Config
from rmtkit.intervals import wilson_interval
from rmtkit.interventions import answer_from, records_of
from rmtkit.lengths import TOKENS
from rmtkit.probing import tell
from rmtkit.streaming import FLOPS_TO_COMPILE, Reader, fast_copy
from rmtkit.streams import Text

NUM_TEXTS = 16  # side by side, unless asked otherwise


class States:
    """Stands where a reader keeps its snapshot: keeps the memory at some positions, in RAM.

    Args: positions: numbers of tokens read.
    """

    def __init__(self, positions):
        self.positions = frozenset(positions)
        self.at: dict[int, torch.Tensor] = {}  # position -> (b, m, d)

    def load(self, what) -> tuple[None, int]:
        """Nothing was read before."""
        return None, 0

    def keep(self, what, state: torch.Tensor, end: int) -> None:
        """Keep the memory (b, m, d) if it was asked for at this position."""
        if end in self.positions:
            self.at[end] = state.cpu().clone()


def drift_segments(config: Config) -> int:
    """Return how many segments to follow a memory: `max_length`, or as many as the preset's longest test has."""
    if config.max_length:
        return max(2, TOKENS[config.max_length] // config.segment_size)
    return max(config.test_segments)


def lags(num_segments: int) -> list[int]:
    """Return 0, 1, 2, 3, 4, 5, 8, 9, 16, 17 ... up to `num_segments`: powers of two, each with its neighbour."""
    powers = (2**power for power in range(num_segments.bit_length()))
    return sorted({0, *(lag for power in powers for lag in (power, power + 1) if lag <= num_segments)})


def follow(model, tokenizer, builder: BabilongBuilder, config: Config, *, num_fact_segments: int = 8) -> pd.DataFrame:
    """Read texts of `test_split` with facts at their beginning, and measure at each of `lags` how far the state moved.

    Returns: a row per text and lag (segments read since the reference): tokens (lag * segment_size), distance
             (Euclidean of the flattened states, to the reference), in_phase (to the reference after an even lag, to its
             neighbour after an odd one), scale (mean distance of the reference to those of other texts), target,
             prediction, is_correct.
    Raises:  ValueError as `rmtkit.probing.tell` does.
    """
    size, num_segments = config.segment_size, drift_segments(config)
    whole = num_fact_segments + num_segments + 1  # one more is asked in
    num_texts = max(2, config.num_samples or min(NUM_TEXTS, config.test_samples))  # two at least: the scale
    texts = tell(builder, config.test_split, num_texts, whole * size, (0.0, num_fact_segments / whole))
    ends = {lag: (num_fact_segments + lag) * size for lag in lags(num_segments)}
    states = read_at(model, texts, ends.values(), config)
    distances = state_drift({lag: states[end] for lag, end in ends.items()})
    answers = [_answers(model, tokenizer, builder, config, texts, states[end], end).assign(lag=lag)
               for lag, end in ends.items()]  # fmt: skip
    table = pd.concat(answers).merge(distances, on=["text", "lag"])
    return table.assign(tokens=table["lag"] * size)


def read_at(model, texts: list[Text], positions, config: Config) -> dict[int, torch.Tensor]:
    """Return the memory (b, m, d) of texts after so many tokens, read as fast as the machine can."""
    reader = Reader(fast_copy(model, model.dtype), snapshot=States(positions))
    last = max(positions)
    num_segments = last // model.config.segment_size * len(texts)
    is_long = model.device.type == "cpu" and num_segments * reader.flops_per_segment() >= FLOPS_TO_COMPILE
    if config.compile == "always" or config.compile == "auto" and is_long:
        reader.compile(len(texts))
    reader.read(TokenRows([text.tokens for text in texts], last))
    return reader.snapshot.at


def state_drift(states: dict[int, torch.Tensor]) -> pd.DataFrame:
    """Return how far each text's state is from where it was; see `follow`.

    Args: states: lag -> (b, m, d), with lags 0 and 1.
    """
    flat = {lag: state.flatten(start_dim=1).double() for lag, state in states.items()}
    between = torch.cdist(flat[0], flat[0], compute_mode="donot_use_mm_for_euclid_dist")
    scale = between.sum(dim=1) / max(1, len(between) - 1)
    tables = []
    for lag, state in flat.items():
        distance, in_phase = ((state - flat[origin]).norm(dim=1) for origin in (0, lag % 2))
        values = {"lag": lag, "distance": distance, "in_phase": in_phase, "scale": scale}
        tables.append(pd.DataFrame({"text": range(len(state)), **values}))
    return pd.concat(tables, ignore_index=True)


def _answers(model, tokenizer, builder, config: Config, texts, states: torch.Tensor, end: int) -> pd.DataFrame:
    """Ask each text's question in the segment that begins at `end`, at the place where it stands in evaluation."""
    size = config.segment_size - config.answer_size
    asked = [_asked(builder, text, text.tokens[end : end + size], config.test_split) for text in texts]
    found = records_of(asked, answer_from(model, asked, states.to(model.dtype), tokenizer), config.scoring)
    return found.drop(columns="index").assign(text=range(len(texts)))


def _asked(builder: BabilongBuilder, text: Text, told: np.ndarray, split: str) -> Sample:
    """Return a sample of one segment: as much of what is told (t,) as fits, and the text's question at its end."""
    question, task = text.questions_after(len(text.fact_spans))[0], text.problem.task
    tokens, is_answer = builder.ask((question,), task, builder.answer_size)
    num_asked = int(is_answer.argmax())
    nothing = np.empty((0, 2), dtype=np.int64)
    return Sample(
        prompt=np.concatenate([told[: max(0, len(told) - num_asked)], tokens[:num_asked]]),
        continuation=tokens[num_asked:],
        is_answer=is_answer[num_asked:],
        fact_spans=nothing,
        earlier_answers=nothing,
        foreground_spans=nothing,
        problem=Problem(task, text.problem.facts, (dataclasses.replace(question),)),
        split=split,
        index=0,
    )


def summarize_drift(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per lag: mean distance and in_phase in units of scale, their spread over texts (10th and 90th
    percentile), accuracy with its 95 % Wilson interval (low, high), n."""
    rows = []
    for lag, rows_of_lag in table.groupby("lag"):
        n, num_correct = len(rows_of_lag), int(rows_of_lag["is_correct"].sum())
        row = {"lag": lag, "tokens": rows_of_lag["tokens"].iloc[0], "n": n, "accuracy": num_correct / n}
        row["low"], row["high"] = wilson_interval(num_correct, n)
        for name in ("distance", "in_phase"):
            values = rows_of_lag[name] / rows_of_lag["scale"]
            row |= {name: values.mean(), f"{name}_low": values.quantile(0.1), f"{name}_high": values.quantile(0.9)}
        rows.append(row)
    return pd.DataFrame(rows)

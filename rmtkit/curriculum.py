"""The curriculum: stages of more and more segments, what their batches hold, and when they end.

Kuratov et al. 2024 (2402.10790), section 4 and appendix A. Batches of one number of segments, questions on the way,
samples that grow inside of a stage and pieces of facts strewn over the background are ours (outputs/reference/LOG.md).

Axis letters: t tokens, k facts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import TrainerCallback

from rmtkit.babilong import BabilongBuilder, Sample, tokens_in
from rmtkit.config import Config
from rmtkit.experiment import Experiment, prompt_size

SUBJECTS = 0.5  # share of the pieces strewn over the background that begin where a fact does


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum."""

    index: int
    num_segments: int
    max_steps: int
    folder: Path
    is_last: bool  # nothing to be promoted to: it runs to its end, and its learning rate decays
    rate: float = 1.0  # share of the configured learning rates

    @property
    def best(self) -> Path:
        """The model that the stage kept; its presence means that the stage is over."""
        return self.folder / "best"

    def config(self, config: Config) -> Config:
        """Return a configuration with the learning rates of this stage."""
        names = ("learning_rate", "matrix_learning_rate", "memory_learning_rate")
        rates = {name: getattr(config, name) for name in names}
        return replace(config, **{name: rate and self.rate * rate for name, rate in rates.items()})


def stages(experiment: Experiment) -> list[Stage]:
    """Return the curriculum of a configuration."""
    config, folder = experiment.config, experiment.run.folder / "checkpoints"
    steps, rates = config.of_each_stage(config.steps), config.of_each_stage(config.stage_rates)
    return [
        Stage(
            index,
            num_segments,
            steps[index],
            folder / f"stage-{index}-of-{num_segments}-segments",
            is_last=index + 1 == len(steps),
            rate=rates[index],
        )
        for index, num_segments in enumerate(config.segments)
    ]


class StageDataset(Dataset):
    """Training samples of one stage; all samples of a batch have the same number of segments."""

    def __init__(self, builder: BabilongBuilder, config: Config, stage: Stage):
        self.builder = builder
        self.config = config
        self.stage = stage
        self.first_index = stage.index << 32  # no stage repeats another's samples
        self.grown_at: list[int] = []  # batches from which on samples are harder; see GrowthCallback

    def __len__(self) -> int:
        return self.stage.max_steps * self.config.batch_size

    def num_segments(self, index: int) -> int:
        """Return the segments of a sample: the stage's, or for `vary_segments` of the batches fewer.

        Fewer: uniform from the first stage on. The paper draws per sample and pads; one number a batch wastes nothing.
        """
        batch = index // self.config.batch_size
        rng = np.random.default_rng([self.config.seed, self.stage.index, batch])
        if rng.random() >= self.config.vary_segments:
            return self.stage.num_segments
        shortest = self.config.segments[0]
        return int(rng.integers(shortest, self.stage.num_segments + 1))

    def __getitem__(self, index: int) -> Sample:
        size = prompt_size(self.config, self.num_segments(index))
        sample = self.builder.sample(
            "train",
            self.first_index + index,
            size,
            num_extra_questions=self.config.num_extra_questions,
            num_questions_between=self.config.num_questions_between,
            **self._ease(index // self.config.batch_size),
        )
        return self._distracted(sample) if self.config.distraction else sample

    def _distracted(self, sample: Sample) -> Sample:
        tokens = np.asarray(sample.prompt)
        is_background = ~tokens_in(sample.foreground_spans, len(tokens))
        rng = np.random.default_rng([self.config.seed, self.stage.index, sample.index])
        return replace(sample, prompt=distract(tokens, sample.fact_spans, is_background, self.config.distraction, rng))

    def _ease(self, batch: int) -> dict:
        """Return how easy the samples of a batch are: few facts, or little background.

        A level of growth is two facts more, or a tenth of the background. `vary_background` of the batches have any
        share of the background that they would have, so that facts stand close together, too.
        """
        level = sum(batch >= grown for grown in self.grown_at)
        max_n_facts, share = None, 1.0
        if self.config.growth == "facts":
            max_n_facts = self.builder.problems.fewest_facts + 2 * level
        if self.config.growth == "background":
            share = min(1.0, level / 10)
        rng = np.random.default_rng([self.config.seed, self.stage.index, batch, 1])
        if rng.random() < self.config.vary_background:
            share *= rng.random()
        return {"max_n_facts": max_n_facts, "background_share": share}


def distract(tokens, fact_spans: np.ndarray, is_background: np.ndarray, share: float, rng: np.random.Generator):
    """Write pieces of the facts (k, 2) over so many tokens of the background of a text, at places drawn at random.

    A piece is at most half of a fact, and lies in the background alone: all that the text tells it tells as before.
    Half of the pieces begin where a fact does, with its subject: a name in another sentence tells no fact of it.

    Args:    tokens: the text, (t,);  fact_spans: [start, end) of each fact, (k, 2);  is_background: (t,);
             share: of the tokens of background.
    Returns: another text, (t,).
    """
    distracted, num_left = tokens.copy(), share * np.count_nonzero(is_background)
    while num_left > rng.random():
        first, last = fact_spans[rng.integers(len(fact_spans))]
        size = int(rng.integers(1, max(1, (last - first) // 2) + 1))
        start = first if rng.random() < SUBJECTS else rng.integers(first, last - size + 1)
        place = rng.integers(len(tokens) - size + 1)
        if is_background[place : place + size].all():
            distracted[place : place + size] = tokens[start : start + size]
        num_left -= size
    return distracted


class StageEndCallback(TrainerCallback):
    """End a stage that is learned or does not get better.

    Decided from the log, which lies in the checkpoint, so that a resumed run stops where one that was not killed does.

    Args: promote_at: exact match that is enough, None: the stage runs on;  patience: validations without a better
          `best_metric` that are too many;  is_lowest: whether a lower one is better.
    """

    def __init__(
        self, promote_at: float | None, patience: int, best_metric: str = "exact_match", *, is_lowest: bool = False
    ):
        self.promote_at = promote_at
        self.patience = patience
        self.best_metric = best_metric
        self.is_lowest = is_lowest

    def on_train_begin(self, args, state, control, **kwargs):
        """Ask the Trainer to stop; at the beginning, if it had stopped when it was killed."""
        validations = [entry for entry in state.log_history if "eval_exact_match" in entry]
        if validations:
            accuracy = max(entry["eval_exact_match"] for entry in validations)
            is_learned = self.promote_at is not None and accuracy >= self.promote_at
            values = [entry[f"eval_{self.best_metric}"] for entry in validations]
            best = min(values) if self.is_lowest else max(values)
            is_stuck = len(values) - 1 - values.index(best) >= self.patience
            control.should_training_stop |= is_learned or is_stuck
        return control

    on_evaluate = on_train_begin


class GrowthCallback(TrainerCallback):
    """Make samples harder each time that the training loss since the last log is below `growth_loss`.

    Decided from the log, which lies in the checkpoint, and `AHEAD` batches in advance, since the Trainer asks for
    samples before it needs them: a resumed run grows where one that was not killed does.
    """

    AHEAD = 5

    def __init__(self, dataset: StageDataset):
        self.dataset = dataset

    def on_train_begin(self, args, state, control, **kwargs):
        """Grow as far as the log tells."""
        limit = self.dataset.config.growth_loss
        solved = [entry["step"] for entry in state.log_history if entry.get("loss", limit) < limit]
        self.dataset.grown_at = [step + self.AHEAD for step in solved]

    on_log = on_train_begin

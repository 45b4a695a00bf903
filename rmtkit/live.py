"""How a training goes, while it goes: a line a stage, and in a notebook its curves, both replaced in place.

Everything is read from the run folder, so that a run opened again shows the same figure (`rmtkit.summary`).
transformers' own table for notebooks is off wherever `rmtkit.training` makes the Trainer.
"""

from __future__ import annotations

import time
from datetime import timedelta

import pandas as pd
from transformers import TrainerCallback

from rmtkit.plotting import as_png, plot_training
from rmtkit.progress import Display, LiveImage
from rmtkit.runs import Run


def training_png(run: Run) -> bytes:
    """Return the learning curves of a run, as far as it has come, as a PNG of less than 100 kB."""
    return as_png(plot_training(pd.DataFrame(run.metrics()), pd.DataFrame(run.training_log())))


class TrainingProgress(TrainerCallback):
    """Show stage, step, loss, validation accuracy, speed and time left while a curriculum trains.

    Plain lines in a terminal; in a notebook one output of a line a stage, and one of the learning curves.
    """

    def __init__(self):
        self.display, self.image = Display(), LiveImage()
        self.lines: list[str] = []
        self._work, self._started = 0, time.monotonic()

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Open a line for the stage."""
        self.stage, config = train_dataloader.dataset.stage, train_dataloader.dataset.config
        self.run = Run(self.stage.folder.parents[1], config)
        self._later = _work_after(self.stage.index, config)
        self._loss = self._accuracy = "not yet"
        self._speed = "tokens/s not yet"
        self._step = state.global_step
        self.lines.append("")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Take the loss, the tokens a second, and the validation accuracy where there is one."""
        if logs and "loss" in logs:
            self._loss = f"{logs['loss']:.3f}"
            here = (self.stage.index, state.global_step)
            for row in (row for row in self.run.training_log() if (row["stage"], row["step"]) == here):
                self._speed = f"{row['num_tokens'] / max(row['seconds'], 1e-9):,.0f} tokens/s"
        if logs and "eval_exact_match" in logs:
            low, high = logs["eval_low"], logs["eval_high"]
            self._accuracy = f"{logs['eval_exact_match']:.3f} [{low:.3f}, {high:.3f}] n={logs['eval_n']}"
        if logs and ("loss" in logs or "eval_exact_match" in logs):
            self.image.show(lambda: training_png(self.run))

    def on_step_end(self, args, state, control, **kwargs):
        """Refresh the line."""
        segments = self.stage.num_segments
        self._work += segments * (state.global_step - self._step)
        self._step = state.global_step
        left = segments * (state.max_steps - state.global_step) + self._later
        seconds = (time.monotonic() - self._started) * left / max(1, self._work)
        self.lines[-1] = f"{self._reached(state)}, at most {timedelta(seconds=round(seconds))} left"
        self.display.show(self._text())

    def on_train_end(self, args, state, control, **kwargs):
        """Show what the stage has reached, its last validation included."""
        seconds = timedelta(seconds=round(time.monotonic() - self._started))
        self.lines[-1] = f"{self._reached(state)}, ended after {seconds}"
        self.display.show(self._text(), force=True)
        self.image.show(lambda: training_png(self.run), force=True)

    def _reached(self, state) -> str:
        number, of_all = self.stage.index + 1, len(self.run.config.segments)
        return (
            f"stage {number} of {of_all}, {self.stage.num_segments} segments: "
            f"step {state.global_step}/{state.max_steps}, "
            f"loss {self._loss}, exact match {self._accuracy}, {self._speed}"
        )

    def _text(self) -> str:
        return "\n".join(self.lines) if self.display.is_in_place else self.lines[-1]


def _work_after(stage: int, config) -> int:
    """Return what is left after a stage, updates times segments; a stage that is learned ends before that."""
    steps = config.of_each_stage(config.steps)
    later = zip(config.segments[stage + 1 :], steps[stage + 1 :], strict=True)
    return sum(segments * number for segments, number in later)

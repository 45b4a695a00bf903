"""Where the numbers of a training run are shown: TensorBoard, trackio or Weights & Biases, by transformers' callbacks.

tensorboard   files in RUN/tensorboard/STAGE; nothing else is needed
trackio       a local database; `trackio show --project rmtkit`
wandb         needs an account, or WANDB_MODE=offline: then files in RUN/wandb, which `wandb sync` sends later

metrics.jsonl is written whatever is chosen here.
"""

from __future__ import annotations

import os
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import (
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from rmtkit.config import Config, ConfigError
from rmtkit.processes import is_main

PROJECT_NAME = "rmtkit"  # of trackio and wandb, unless WANDB_PROJECT names another


class StageWandbCallback(WandbCallback):
    """Give every stage a wandb run of its own, kept in the run folder."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Open the run before transformers does, which would take the working folder."""
        project = os.environ.get("WANDB_PROJECT", PROJECT_NAME)
        self._wandb.init(project=project, name=args.run_name, dir=self.folder, reinit="finish_previous")
        super().on_train_begin(args, state, control, model=model, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        """Close it: the next stage has its own."""
        super().on_train_end(args, state, control, **kwargs)
        self._wandb.finish()


def check_trackers(config: Config) -> None:
    """Raise ConfigError for a tracker that is not installed."""
    is_available = {
        "tensorboard": is_tensorboard_available, "trackio": is_trackio_available, "wandb": is_wandb_available,
    }  # fmt: skip
    missing = [name for name in config.tracker_names if not is_available[name]()]  # asks, and imports, no other one
    if missing:
        raise ConfigError(
            f"trackers is {config.trackers!r}, but {missing[0]} is not installed; "
            f"pip install {missing[0]}, or leave it out (trackers=none: no tracker)"
        )


def tracker_callbacks(config: Config, folder: Path, stage_name: str) -> list[TrainerCallback]:
    """Return the callbacks of the trackers that a configuration names, in the main process only.

    Args: folder: of the run.
    """
    if not is_main():
        return []
    from torch.utils.tensorboard import SummaryWriter

    make = {
        "tensorboard": lambda: TensorBoardCallback(SummaryWriter(folder / "tensorboard" / stage_name)),
        "trackio": TrackioCallback,
        "wandb": lambda: StageWandbCallback(folder),
    }
    return [make[name]() for name in config.tracker_names]

"""Short trainings, and what they leave behind: what the tests of the trainer, its callbacks and trackers look at."""

import math

import torch
from safetensors.torch import load_file

from rmtkit.config import resolve
from rmtkit.curriculum import stages
from rmtkit.experiment import prepare
from rmtkit.runs import read_json
from rmtkit.training import train


def make_experiment(small, folder, **more):
    return prepare(resolve({**small, "outputs_dir": str(folder), **more}))


def train_once(small, folder, hooks=None, **more):
    """Train, and return the experiment and its only stage."""
    experiment = make_experiment(small, folder, **more)
    train(experiment, **(hooks or {}))
    return experiment, stages(experiment)[0]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def log_of(stage, step):
    return read_json(stage.folder / f"checkpoint-{step}" / "trainer_state.json")["log_history"]


def spoil(batch):
    """Start some batches from a memory that is not a number; which ones, their tokens decide."""
    if int(batch["input_ids"].sum()) % 3 == 0:
        batch["state"] = torch.full((len(batch["input_ids"]), 8, 16), math.nan)
    return batch

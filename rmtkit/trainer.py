"""One stage's Trainer: samples in their order, our optimizer, our metric, and the memory that windows carry on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import Trainer

from rmtkit.callbacks import skipped_updates
from rmtkit.config import Config
from rmtkit.curriculum import Stage
from rmtkit.experiment import Experiment
from rmtkit.memory import RMTPreTrainedModel
from rmtkit.optimization import MuonWithAdamW, WithCopies
from rmtkit.processes import is_main, rank
from rmtkit.progress import Pace
from rmtkit.sharding import whole_model
from rmtkit.stillness import text_loss
from rmtkit.streams import CarriedMemory, window_loss
from rmtkit.validation import Metric, validate


class StageTrainer(Trainer):
    """transformers' Trainer with the samples in their order, our optimizer and our metric."""

    def __init__(self, experiment: Experiment, stage: Stage, metrics: Mapping[str, Metric], **arguments):
        self.experiment = experiment
        self.stage = stage
        self.metrics = metrics
        config = experiment.config
        self.carried = CarriedMemory(config.batch_size) if config.window else None
        self.pace = Pace()
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)

    def create_optimizer(self, model=None):
        """Return Muon for the layers' matrices and AdamW for the rest, or AdamW alone as the paper does."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(model or self.model, self.stage.config(self.experiment.config))
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch; of windows after what their rows have read, and carry the memory on."""
        self.pace.num_tokens += sum(inputs[name].numel() for name in ("input_ids", "text") if name in inputs)
        config = self.experiment.config
        if self.carried is None and not config.stillness:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        num_rows = None if num_items_in_batch is None else config.batch_size  # of the update, as those items are
        settings = {"num_items": num_items_in_batch, "stillness": config.stillness, "num_rows": num_rows}
        if self.carried is None:
            loss = text_loss(model, inputs, **settings)
        else:
            rows, reader = inputs["rows"], self.accelerator.unwrap_model(model)
            memory = self.carried.before(reader, rows, inputs["is_start"])
            loss, memory = window_loss(model, inputs, memory, **settings)
            self.carried.keep(rows, memory)
        if num_items_in_batch is not None:  # those of all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes
        return loss

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the average of the weights, if there is one; to go on with, the optimizer has them as they are."""
        with self._averaged_weights():
            super().save_model(output_dir, _internal_call)

    def _averaged_weights(self):
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        return optimizer.averaged() if isinstance(optimizer, WithCopies) else contextlib.nullcontext()

    def _save_rng_state(self, output_dir):
        """Save with the generators what else this process has to go on with: the carried memory."""
        super()._save_rng_state(output_dir)
        if self.carried is not None:
            save_file({"memory": self.carried.memory}, _carried_path(output_dir))

    def _load_rng_state(self, checkpoint):
        """Restore what `_save_rng_state` saved."""
        super()._load_rng_state(checkpoint)
        if self.carried is not None and checkpoint is not None:
            memory = load_file(_carried_path(checkpoint))["memory"]
            self.carried.memory = memory.to(self.model.memory)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Stretch the schedule by `schedule_horizon`: the paper's linear decay ends at half of the peak rate."""
        horizon = self.experiment.config.schedule_horizon
        return super().create_scheduler(int(num_training_steps * horizon), optimizer)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Answer the validation samples greedily; log exact match with its interval, and other metrics."""
        with self.pace.paused(), self._averaged_weights(), self.accelerator.autocast():
            metrics = validate(
                whole_model(self.model), self.eval_dataset, self.experiment.tokenizer, config=self.experiment.config,
                batch_size=self.args.eval_batch_size, metrics=self.metrics,
            )  # fmt: skip
        metrics["skipped_updates"] = len(skipped_updates(self.state))
        if is_main():
            self.experiment.run.append_metrics({**self._place("validation"), **metrics})
        if self.experiment.config.best_metric == "last":
            metrics["last"] = self.state.global_step
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs, start_time=None):
        """Log; the training loss also to the run's training.jsonl, with the tokens and seconds that it took."""
        if "loss" in logs and is_main():
            self.experiment.run.append_log({**self._place("train"), "loss": logs["loss"], **self.pace.lap()})
        super().log(logs, start_time)

    def _place(self, split: str) -> dict:
        stage = self.stage
        return {"stage": stage.index, "num_segments": stage.num_segments, "step": self.state.global_step,
                "split": split}  # fmt: skip


def _carried_path(folder: str) -> Path:
    return Path(folder) / f"carried_memory_{rank()}.safetensors"


def make_optimizer(model: RMTPreTrainedModel, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer that a configuration names. Matrices for Muon are those inside of repeated layers.

    Of a model whose weights are in bfloat16 it updates copies in float32, and with `ema_decay` it averages them.
    """
    if model.memory.dtype is torch.bfloat16 or config.ema_decay:
        alone = dataclasses.replace(config, ema_decay=0.0)
        return WithCopies(model, lambda copy: make_optimizer(copy, alone), ema_decay=config.ema_decay)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    if model.get_output_embeddings() is not None:  # a classifier has none
        embeddings.add(id(model.get_output_embeddings().weight))
    is_matrix = {id(p) for p in trainable if p.ndim == 2 and id(p) not in embeddings and p is not model.memory}
    memory_rate = config.learning_rate if config.memory_learning_rate is None else config.memory_learning_rate
    others = [p for p in trainable if id(p) not in is_matrix and p is not model.memory]
    memory = {"params": [p for p in trainable if p is model.memory], "lr": memory_rate}
    matrices = [p for p in trainable if id(p) in is_matrix]
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        groups = [group for group in ({"params": others}, memory) if group["params"]]
        return MuonWithAdamW(matrices, groups, matrix_learning_rate=config.matrix_learning_rate, **rates)
    groups = [group for group in ({"params": others + matrices}, memory) if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)

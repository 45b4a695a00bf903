"""Curriculum training: stages of more and more segments, each from the best weights of the last.

Kuratov et al. 2024 (2402.10790), section 4 and appendix A. The loop is transformers' Trainer; ours are the curriculum,
the batches of one number of segments, and the metric (exact match on the validation split, greedy answers).

A run that is killed at any moment and started again ends with the weights of one that was not: samples are a function
of their index, and the newest complete checkpoint holds optimizer, schedule and the log that decides what comes next.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import torch
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from rmtkit.config import Config
from rmtkit.curriculum import GrowthCallback, Stage, StageDataset, StageEndCallback, stages
from rmtkit.evaluation import evaluate, wilson_interval
from rmtkit.experiment import (
    Experiment,
    build_model,
    default_device,
    prompt_size,
    resolve_precision,
    silence_transformers,
)
from rmtkit.kinds import collate, load_model, training_questions
from rmtkit.memory import RMTPreTrainedModel
from rmtkit.optimization import MuonWithAdamW
from rmtkit.processes import from_main, gather, is_main, micro_batch_size, num_processes, share, wait_for_all
from rmtkit.runs import read_json, write_json


class StageTrainer(Trainer):
    """transformers' Trainer with the samples in their order, our optimizer and our metric."""

    def __init__(self, experiment: Experiment, stage: Stage, **arguments):
        self.experiment = experiment
        self.stage = stage
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)

    def create_optimizer(self, model=None):
        """Return Muon for the layers' matrices and AdamW for the rest, or AdamW alone as the paper does."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(model or self.model, self.experiment.config)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Stretch the schedule by `schedule_horizon`: the paper's linear decay ends at half of the peak rate."""
        horizon = self.experiment.config.schedule_horizon
        return super().create_scheduler(int(num_training_steps * horizon), optimizer)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Answer the validation samples greedily; log exact match with its interval."""
        with self.accelerator.autocast():
            records = evaluate(
                self.model, share(self.eval_dataset), self.experiment.tokenizer, batch_size=self.args.eval_batch_size
            )
        is_correct = gather(records["is_correct"].tolist() if len(records) else [])
        num_correct, n = sum(is_correct), len(is_correct)
        low, high = wilson_interval(num_correct, n)
        metrics = {"exact_match": num_correct / n, "low": low, "high": high, "n": n}
        if is_main():
            self.experiment.run.append_metrics(
                {"stage": self.stage.index, "num_segments": self.stage.num_segments, "step": self.state.global_step,
                 "split": "validation", **metrics}
            )  # fmt: skip
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def make_optimizer(model: RMTPreTrainedModel, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer that a configuration names. Matrices for Muon are those inside of repeated layers."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    if model.get_output_embeddings() is not None:  # a classifier has none
        embeddings.add(id(model.get_output_embeddings().weight))
    is_matrix = {id(p) for p in trainable if p.ndim == 2 and id(p) not in embeddings and p is not model.memory}
    memory_rate = config.learning_rate if config.memory_learning_rate is None else config.memory_learning_rate
    others = [
        {"params": [p for p in trainable if id(p) not in is_matrix and p is not model.memory]},
        {"params": [p for p in trainable if p is model.memory], "lr": memory_rate},
    ]
    matrices = [p for p in trainable if id(p) in is_matrix]
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        return MuonWithAdamW(matrices, others, matrix_learning_rate=config.matrix_learning_rate, **rates)
    others[0]["params"] += matrices
    return torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay)


def train(experiment: Experiment, callbacks: tuple[TrainerCallback, ...] = ()) -> RMTPreTrainedModel:
    """Run the curriculum, or what is left of it, and return the model of the last stage's best validation.

    Args:    callbacks: of transformers, for progress displays.
    Returns: the model; it is also saved in the run folder with its tokenizer.
    """
    silence_transformers()
    model = None
    for stage in stages(experiment):
        if not stage.best.is_dir():
            model = model or _starting_model(experiment, stage)
            model = run_stage(experiment, stage, model, callbacks)
    model = model or load_model(stage.best)
    model.eval()
    if is_main() and not experiment.run.model_path.is_dir():
        _save(model, experiment.run.model_path, experiment.tokenizer)
    return model


def _starting_model(experiment: Experiment, stage: Stage) -> RMTPreTrainedModel:
    if stage.index == 0:
        return build_model(experiment.config)
    return load_model(stages(experiment)[stage.index - 1].best)


def run_stage(experiment: Experiment, stage: Stage, model: RMTPreTrainedModel, callbacks=()) -> RMTPreTrainedModel:
    """Train one stage from its newest complete checkpoint, or from its start; return the best model."""
    config, started = experiment.config, time.perf_counter()
    pad = experiment.tokenizer.eos_token_id
    size = prompt_size(config, stage.num_segments)
    dataset = StageDataset(experiment.builder, training_questions(config, model), stage)
    trainer = StageTrainer(
        experiment,
        stage,
        model=model,
        args=training_arguments(config, stage, default_device()),
        train_dataset=dataset,
        eval_dataset=[experiment.builder.sample("validation", i, size) for i in range(config.validation_samples)],
        data_collator=lambda samples: collate(samples, pad, model),
        callbacks=[
            StageEndCallback(None if stage.is_last else config.promote_at, config.patience),
            GrowthCallback(dataset),
            *_trackers(experiment.run.folder / "tensorboard" / stage.folder.name),
            *callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=from_main(lambda: newest_complete_checkpoint(stage.folder)))
    if is_main():
        write_json(
            stage.folder / "stage.json",
            {"num_segments": stage.num_segments, "steps": trainer.state.global_step, "best": trainer.state.best_metric,
             "best_step": trainer.state.best_global_step, "seconds": round(time.perf_counter() - started, 1)},
        )  # fmt: skip
        _save(trainer.model, stage.best, experiment.tokenizer)
    wait_for_all()
    return trainer.model


def _trackers(folder: Path) -> list[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(folder))] if is_main() else []


def training_arguments(config: Config, stage: Stage, device: torch.device) -> TrainingArguments:
    """Translate a configuration into transformers' arguments for one stage."""
    dtype = resolve_precision(config.precision, device)
    steps = min(config.eval_steps, stage.max_steps)
    micro = micro_batch_size(config)
    arguments = TrainingArguments(
        output_dir=str(stage.folder),
        max_steps=stage.max_steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=config.test_batch_size,
        gradient_accumulation_steps=config.batch_size // (micro * num_processes()),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        lr_scheduler_kwargs=_schedule_arguments(config, stage),
        warmup_steps=int(config.warmup_share * stage.max_steps),
        max_grad_norm=config.max_grad_norm,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=device.type == "cpu",
        seed=config.seed,
        dataloader_num_workers=config.num_workers,
        ddp_find_unused_parameters=False,
        log_level_replica="error",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        logging_steps=max(1, steps // 5),
        eval_strategy="steps",
        eval_steps=steps,
        save_strategy="steps",
        save_steps=steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="exact_match",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several visible ones would be torch's DataParallel: a larger batch
    return arguments


def _schedule_arguments(config: Config, stage: Stage) -> dict:
    if config.schedule != "warmup_stable_decay":
        return {}
    return {"num_decay_steps": int(config.decay_share * stage.max_steps), "decay_type": "linear", "min_lr_ratio": 0.05}


def newest_complete_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end; those cut off by a kill are deleted.

    Trainer writes trainer_state.json last, so that one that parses vouches for the rest.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for path in found:
        try:
            read_json(path / "trainer_state.json")
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def _save(model: RMTPreTrainedModel, folder: Path, tokenizer) -> None:
    """Save model and tokenizer under a temporary name and rename the folder into place."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(folder)


def finish(experiment: Experiment, table) -> dict:
    """Write result.json, the last file of a run, and return its content.

    Args: table: data frame of `accuracy_table` over the test split, by length.
    """
    result = {
        "config": dataclasses.asdict(experiment.config),
        "scoring_rule": experiment.config.scoring,
        "stages": [read_json(stage.folder / "stage.json") for stage in stages(experiment)],
        "tests": table.to_dict("records"),
    }
    experiment.run.finish(result)
    return result

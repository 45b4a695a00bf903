"""Curriculum training: stages of more and more segments, each from the weights that the last one kept.

Kuratov et al. 2024 (2402.10790), section 4 and appendix A. The loop is transformers' Trainer; ours are the curriculum,
the batches of one number of segments, and the metric (exact match on the validation split, greedy answers).

A run that is killed at any moment and started again ends with the weights of one that was not: samples are a function
of their index, and the newest complete checkpoint holds optimizer, schedule and the log that decides what comes next.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from rmtkit.callbacks import GradientCallback, skipped_updates
from rmtkit.config import Config, ConfigError
from rmtkit.curriculum import GrowthCallback, Stage, StageDataset, StageEndCallback, stages
from rmtkit.experiment import Experiment, build_model, default_device, prompt_size
from rmtkit.kinds import collate, load_model, training_questions
from rmtkit.memory import RMTForCausalLM, RMTPreTrainedModel
from rmtkit.precision import resolve_precision
from rmtkit.processes import from_main, is_main, micro_batch_size, num_processes, wait_for_all
from rmtkit.runs import read_json, write_json
from rmtkit.sharding import whole_model
from rmtkit.streams import StreamDataset, collate_windows
from rmtkit.trackers import PROJECT_NAME, check_trackers, tracker_callbacks
from rmtkit.trainer import StageTrainer
from rmtkit.validation import Metric, check_metrics

NUM_RESTARTS = 3  # cycles of the schedule cosine_with_restarts
BatchTransform = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a caller adds to training; see `train`."""

    callbacks: tuple[TrainerCallback, ...] = ()
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    batch_transform: BatchTransform | None = None


def choose_trainable(model: RMTPreTrainedModel, config: Config) -> None:
    """Freeze what `trainable` does not name."""
    model.requires_grad_(config.trainable == "all")
    model.memory.requires_grad_(True)


def train(experiment: Experiment, callbacks: tuple[TrainerCallback, ...] = (), *,
          metrics: Mapping[str, Metric] | None = None,
          batch_transform: BatchTransform | None = None) -> RMTPreTrainedModel:  # fmt: skip
    """Run the curriculum, or what is left of it, and return the model that the last stage kept.

    Args:    callbacks: of transformers, for progress displays;
             metrics: of the validation by name, each a function of the records of `rmtkit.evaluation.evaluate` that
             returns a number; they are logged, and `best_metric` may name one;
             batch_transform: takes each training batch (input_ids and labels on the CPU) and returns the one to learn
             from; it must not depend on what it was called with before, or a resumed run ends elsewhere.
    Returns: the model, mixed with what it was at the start if `start_share` says so; it is also saved in the run folder
             with its tokenizer.
    Raises:  ConfigError for a tracker that is not installed, or a metric that is not there.
    """
    hooks = Hooks(tuple(callbacks), metrics or {}, batch_transform)
    check_trackers(experiment.config)
    check_metrics(experiment.config, hooks.metrics)
    model = None
    for stage in stages(experiment):
        if not stage.best.is_dir():
            model = model or _starting_model(experiment, stage)
            model = run_stage(experiment, stage, model, hooks)
    model = model or load_model(stage.best)
    if experiment.config.start_share:
        mix_with_start(model, experiment.config)
    model.eval()
    if is_main() and not experiment.run.model_path.is_dir():
        _save(model, experiment.run.model_path, experiment.tokenizer)
    return model


def _starting_model(experiment: Experiment, stage: Stage) -> RMTPreTrainedModel:
    if stage.index == 0:
        return build_model(experiment.config)
    return load_model(stages(experiment)[stage.index - 1].best)


@torch.no_grad()
def mix_with_start(model: RMTPreTrainedModel, config: Config) -> None:
    """Replace weights w by (1 - r) w + r w_0, where w_0 are those that training began with and r is `start_share`.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903), section 3. For runs
    that go on from a trained model: their two ends are near enough to each other.
    """
    start = dict(build_model(config).named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(weight.float().lerp(start[name].to(weight.device, torch.float32), config.start_share))


def run_stage(experiment: Experiment, stage: Stage, model: RMTPreTrainedModel, hooks: Hooks) -> RMTPreTrainedModel:
    """Train one stage from its newest complete checkpoint, or from its start; return the model that it keeps."""
    started = time.perf_counter()
    trainer = make_trainer(experiment, stage, model, hooks)
    checkpoint = from_main(lambda: newest_complete_checkpoint(stage.folder))
    trainer.train(resume_from_checkpoint=checkpoint)
    trained = whole_model(trainer.model)
    if is_main():
        state = trainer.state
        write_json(
            stage.folder / "stage.json",
            {"num_segments": stage.num_segments, "steps": state.global_step,
             "best_metric": experiment.config.best_metric, "best": state.best_metric,
             "best_step": state.best_global_step, "skipped_updates": len(skipped_updates(state)),
             "seconds": round(_seconds_before(experiment, stage, checkpoint) + time.perf_counter() - started, 1)},
        )  # fmt: skip
        _save(trained, stage.best, experiment.tokenizer)
    wait_for_all()
    return trained


def _seconds_before(experiment: Experiment, stage: Stage, checkpoint: str | None) -> float:
    """Return how long the updates up to a checkpoint took, which another process made; 0 without one."""
    if checkpoint is None:
        return 0.0
    step = _step_of(Path(checkpoint))
    rows = (row for row in experiment.run.training_log() if row["stage"] == stage.index)
    return sum(row["seconds"] for row in rows if row["step"] <= step)


def make_trainer(experiment: Experiment, stage: Stage, model: RMTPreTrainedModel, hooks: Hooks) -> StageTrainer:
    """Return the Trainer of one stage, with all its callbacks."""
    config, pad = experiment.config, experiment.tokenizer.eos_token_id
    choose_trainable(model, config)
    choose_precision(model, config)
    size = prompt_size(config, config.validation_segments or stage.num_segments)
    dataset = stage_dataset(experiment, stage, model)
    make_batch = functools.partial(collate_windows, pad_token_id=pad)
    if not config.window:
        marks_background = bool(config.stillness)
        make_batch = functools.partial(collate, pad_token_id=pad, model=model, marks_background=marks_background)
    transform = hooks.batch_transform or (lambda batch: batch)
    promote_at = None if stage.is_last else config.promote_at
    trainer = StageTrainer(
        experiment,
        stage,
        hooks.metrics,
        model=model,
        args=training_arguments(stage.config(config), stage, default_device()),
        train_dataset=dataset,
        eval_dataset=[experiment.builder.sample("validation", i, size) for i in range(config.validation_samples)],
        data_collator=lambda samples: transform(make_batch(samples)),
        callbacks=[
            GradientCallback(config.max_grad_value),
            StageEndCallback(promote_at, config.patience, config.best_metric, is_lowest=config.is_lowest_best),
            *([] if config.window else [GrowthCallback(dataset)]),
            *tracker_callbacks(config, experiment.run.folder, stage.folder.name),
            *hooks.callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def stage_dataset(experiment: Experiment, stage: Stage, model: RMTPreTrainedModel) -> StageDataset | StreamDataset:
    """Return what a stage trains on: samples, or with `window` texts that are read on and on."""
    config = experiment.config
    is_decoder = isinstance(model, RMTForCausalLM)
    if config.stillness and not is_decoder:
        raise ConfigError("stillness is for decoders, which say what they wrote; leave it at 0")
    if not config.window:
        return StageDataset(experiment.builder, training_questions(config, model), stage)
    if not is_decoder:
        raise ConfigError("window is for decoders: questions are asked aside of a memory, which a decoder answers from")
    return StreamDataset(experiment.builder, config, stage)


def first_training_text(experiment: Experiment) -> str:
    """Return what the first row of the first update reads: text, and questions with their answers."""
    config, decode, stage = experiment.config, experiment.tokenizer.decode, stages(experiment)[0]
    if not config.window:
        sample = StageDataset(experiment.builder, config, stage)[0]
        return f"{decode(sample.prompt)}\n--> {decode(sample.continuation)}"
    window = StreamDataset(experiment.builder, config, stage)[0]
    asides = (f"--> aside, of the memory before segment {a.segment}: {decode(a.tokens)}" for a in window.asides)
    return "\n".join([decode(window.tokens), *asides])


def choose_precision(model: RMTPreTrainedModel, config: Config) -> None:
    """Turn the weights to the data type that they are trained in, whatever they are stored in.

    That is float32, for float16 too (autocast), and bfloat16 where a CPU trains in it: autocast would lose in casts
    what products gain (outputs/reference/LOG.md). There the attention that is written out is faster than the fused one,
    whose backward pass is slow on a CPU. A GPU in bfloat16 takes the weights as they are.
    """
    device = default_device()
    if resolve_precision(config.precision, device) is not torch.bfloat16:
        model.float()
    elif device.type == "cpu":
        model.bfloat16()
        model.set_attn_implementation("eager")


def training_arguments(config: Config, stage: Stage, device: torch.device) -> TrainingArguments:
    """Translate a configuration into transformers' arguments for one stage."""
    dtype = resolve_precision(config.precision, device)
    if config.ema_decay and dtype is torch.float16:
        raise ConfigError("ema_decay goes without float16, whose scaler does not see what is averaged; take float32")
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
        lr_scheduler_kwargs=schedule_arguments(config, stage),
        warmup_steps=int(config.warmup_share * stage.max_steps),
        max_grad_norm=config.max_grad_norm,
        bf16=dtype is torch.bfloat16 and device.type != "cpu",  # there the weights are: choose_precision
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
        metric_for_best_model=f"eval_{config.best_metric}",
        greater_is_better=not config.is_lowest_best,
        report_to="none",  # trackers are callbacks
        project=PROJECT_NAME,
        run_name=f"{stage.folder.parents[1].name}-{stage.folder.name}",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several visible ones would be torch's DataParallel: a larger batch
    return arguments


def schedule_arguments(config: Config, stage: Stage) -> dict:
    """Return what transformers' schedule of this name takes beside warm-up and number of updates."""
    decay_steps = int(config.decay_share * stage.max_steps)
    mode = "min" if config.is_lowest_best else "max"
    return {
        "warmup_stable_decay": {"num_decay_steps": decay_steps, "decay_type": "linear", "min_lr_ratio": 0.05},
        "cosine_with_restarts": {"num_cycles": NUM_RESTARTS},
        "polynomial": {"power": 2.0, "lr_end": 0.0},
        "reduce_lr_on_plateau": {"mode": mode, "factor": 0.1, "patience": config.patience // 2},
    }.get(config.schedule, {})


def newest_complete_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end; those cut off by a kill are deleted.

    Trainer writes trainer_state.json last, so that one that parses vouches for the rest.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True)
    for path in found:
        try:
            read_json(path / "trainer_state.json")
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def _step_of(checkpoint: Path) -> int:
    """Return the updates made before a checkpoint, which Trainer puts into its name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


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

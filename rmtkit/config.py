"""Presets, and strict checking of parameters.

A preset is a frozen dataclass; a notebook parameter or a command-line option overrides one of its fields by name. An
unknown name or a value out of range raises one line that says what is allowed: papermill itself would only warn.
"""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from rmtkit.lengths import LENGTHS, lengths_between
from rmtkit.parameters import ConfigError, check_bound, check_choice, read_fields

PROJECT = Path(__file__).resolve().parent.parent
PLACE = {"identity": False}  # a field that says where or how fast, not what: it does not change a trained model


@dataclass(frozen=True)
class Config:
    """One experiment. The defaults are those of the preset `tiny`: offline, two CPU cores, minutes."""

    preset: str = "tiny"
    task: str = "qa1"  # bAbI task; several, such as qa1,qa2, or all: a multitask model; who: an aid, see LEARNABLE
    seed: int = 0
    # problems
    babi_path: str | None = None  # real bAbI: folder, zip or "hub"; None: generated stories
    max_n_facts: int | None = None  # problems with more facts are left out; None: those that do not fit the length
    min_n_facts: int = 1  # generated stories go on until a problem has so many
    min_n_answers: int = 1  # and until all that can be asked about them has so many different answers
    num_people: int | None = None  # in generated stories; None: as in the original
    num_places: int | None = None
    num_things: int | None = None  # objects, animals, shapes, containers
    vocabulary: str = "original"  # names, places and things of generated stories; "held_out": words never used there
    balance_answers: bool = False  # generated problems have all answers of a task equally often
    num_extra_questions: int = 2  # more about the same facts, as many as answer_size holds; training of decoders only
    num_questions_between: int = 4  # on the way, at each point where the story asks; training of decoders only
    also_ask: str | None = None  # tasks such as qa1,who whose questions are among these; generated stories
    shuffle_questions: bool = False  # the questions of a sample come in any order: nobody can guess the first; training
    # background
    background: str = "wiki"  # wiki, pg19, wikitext, local, none
    background_path: str | None = None  # folder of "local", or a local copy of pg19 / wikitext
    background_tokens: int | None = None  # tokens kept per split at most
    # sample
    layout: str = "spaced"  # "authors": the token layout of the paper's code
    question_position: str = "last"  # last, first, both
    fact_depth_start: float = 0.0  # facts start after this share of the sample
    fact_depth_end: float = 1.0  # and end before this one
    answer_size: int = 16  # tokens of the last segment kept free for answers
    # model
    backbone: str = "reference:backbone"  # our small one, or a folder, or a hub name
    spread_embeddings: bool = False  # before training, for a task in words that the backbone never had to tell apart
    num_memory_tokens: int = 8
    segment_size: int = 32  # tokens of text; memory comes on top
    memory_grid: float | None = 1.0  # memory is rounded to multiples of it; 0: not; None: as the model has it
    bptt_depth: int | None = None  # segments that gradients pass through; None: all
    segment_checkpointing: bool = False  # recompute activations in the backward pass
    # training
    segments: tuple[int, ...] = (2, 4, 16)  # curriculum: number of segments of each stage
    steps: tuple[int, ...] = (150, 300, 150)  # updates per stage at most; one number serves all stages
    vary_segments: float = 0.5  # share of batches whose number of segments is uniform, first stage's to this one's
    vary_background: float = 0.0  # share of batches whose share of the background is uniform: facts lie closer, too
    window: int | None = None  # segments between two updates of a text read on and on; None: whole samples
    distraction: float = 0.0  # share of the background that pieces of facts are written over in training
    stillness: float = 0.0  # weight of the loss on what background alone moves in the memory
    num_asides: int = 2  # places of a window where questions are asked aside, which the memory does not see
    growth: str = "none"  # what samples have little of when a stage begins: facts, background; or none
    growth_loss: float = 0.15  # training loss below which they grow, by two facts or a tenth of the background
    batch_size: int = 32  # samples per update
    micro_batch_size: int = 32  # samples in memory at once
    optimizer: str = "muon"  # muon (matrices; AdamW for the rest), adamw
    learning_rate: float = 3e-4  # peak, AdamW
    matrix_learning_rate: float = 0.015  # peak, Muon
    memory_learning_rate: float | None = 3e-3  # peak, AdamW on the memory tokens; None: learning_rate
    stage_rates: tuple[float, ...] = (1.0, 1.0, 0.33)  # share of these rates in each stage; one number serves all
    weight_decay: float = 0.3
    ema_decay: float = 0.0  # of the average of the weights that is validated and kept; 0: the weights as they are
    start_share: float = 0.0  # share of the weights that training began with in those kept, mixed in at its end
    trainable: str = "all"  # all, memory (the memory tokens only; the backbone stays as it is)
    schedule: str = "warmup_stable_decay"  # of the learning rates; others see CHOICES
    schedule_horizon: float = 1.0  # the schedule is that of a stage this many times longer (paper: 2)
    warmup_share: float = 0.05  # of a stage's updates
    decay_share: float = 0.5  # of a stage's updates, at its end, in the schedule warmup_stable_decay
    max_grad_norm: float = 1.0  # clip the gradients of an update together; 0: off
    max_grad_value: float = 0.0  # or clip each number in them; 0: off
    # validation, on the validation split
    eval_steps: int = 50  # updates between validations, and between checkpoints
    validation_samples: int = 200
    validation_segments: int | None = None  # of these samples; None: as many as the stage has
    best_metric: str = "last"  # the weights a stage keeps: last, best exact_match or loss, or one handed to `train`
    best_is_lowest: bool | None = None  # whether lower is better; None: for loss only
    promote_at: float = 1.0  # exact match at which the next stage begins; above 1: when the steps are done
    patience: int = 20  # validations without a better `best_metric` before a stage ends
    # test, after training
    test_split: str = field(default="test", metadata=PLACE)  # test, validation (held out as well): to choose a model by
    test_segments: tuple[int, ...] = field(default=(2, 4, 8, 16, 32, 64, 128), metadata=PLACE)
    test_samples: int = field(default=500, metadata=PLACE)
    max_length: str | None = field(default=None, metadata=PLACE)  # test at the named lengths up to this: 0k, 1k .. 10M
    min_length: str = field(default="0k", metadata=PLACE)  # and from this one on: machines can share the lengths
    num_samples: int | None = field(default=None, metadata=PLACE)  # of each of these; None: 500, from 256k 100, 10M 20
    test_batch_size: int = field(default=64, metadata=PLACE)  # samples side by side
    scoring: str = field(default="exact_match", metadata=PLACE)  # exact_match, babilong_labels, substring, lm_eval
    # where, and how fast
    precision: str = field(default="auto", metadata=PLACE)  # auto, fastest, float32, bfloat16, float16
    compile: str = field(default="auto", metadata=PLACE)  # the step of the test: auto (where it pays), always, never
    num_workers: int = field(default=0, metadata=PLACE)  # processes that build samples
    trackers: str = field(default="tensorboard", metadata=PLACE)  # tensorboard, trackio, wandb, with commas; none
    data_dir: str = field(default=str(PROJECT / "data"), metadata=PLACE)
    outputs_dir: str = field(default=str(PROJECT / "outputs"), metadata=PLACE)
    run_dir: str | None = field(default=None, metadata=PLACE)  # None: a folder under outputs_dir/runs
    checkpoint: str | None = field(default=None, metadata=PLACE)  # a trained model to evaluate; None: that of the run

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names in `task`."""
        return TASKS if self.task == "all" else tuple(name.strip() for name in self.task.split(","))

    @property
    def also_asked(self) -> tuple[str, ...]:
        """The names in `also_ask`."""
        return tuple(name.strip() for name in self.also_ask.split(",")) if self.also_ask else ()

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The names in `trackers`."""
        return () if self.trackers == "none" else tuple(name.strip() for name in self.trackers.split(","))

    def of_each_stage(self, numbers: tuple) -> tuple:
        """`steps` or `stage_rates` as one number for each stage."""
        return numbers if len(numbers) > 1 else len(self.segments) * numbers

    @property
    def is_lowest_best(self) -> bool:
        """Whether a lower `best_metric` is better."""
        return self.best_metric == "loss" if self.best_is_lowest is None else self.best_is_lowest

    @property
    def task_name(self) -> str:
        """`task` as a part of a folder's name."""
        return "+".join(self.tasks) if self.task != "all" else "all"


TASKS = tuple(f"qa{number}" for number in range(1, 21))
LEARNABLE = (*TASKS, "who")  # "who": no task of bAbI, an aid to learning qa2 and qa3
TRACKERS = ("tensorboard", "trackio", "wandb")
TINY = Config()
SMOKE = dataclasses.replace(
    TINY, preset="smoke", segments=(2, 4), steps=(4, 4), stage_rates=(1.0,), batch_size=8, micro_batch_size=8,
    eval_steps=2, validation_samples=8, test_segments=(2, 4, 8), test_samples=16, test_batch_size=16,
)  # fmt: skip
PAPER = dataclasses.replace(
    TINY, preset="paper", babi_path="hub", num_extra_questions=0, num_questions_between=0,
    background="pg19", background_tokens=200_000_000,
    layout="authors", answer_size=20, backbone="gpt2", num_memory_tokens=16, segment_size=512, memory_grid=None,
    segments=(1, 2, 4, 6, 8, 16, 32), steps=(5000,), vary_segments=1.0, batch_size=64, micro_batch_size=4,
    optimizer="adamw", learning_rate=1e-5, memory_learning_rate=None, stage_rates=(1.0,), weight_decay=0.01,
    schedule="linear", schedule_horizon=2.0, warmup_share=0.1, eval_steps=250, validation_samples=1000,
    best_metric="exact_match", patience=15, test_segments=(1, 2, 4, 8, 16, 32, 64, 128, 256), test_samples=1000,
    test_batch_size=8,
)  # fmt: skip
LONG = dataclasses.replace(
    TINY, preset="long", backbone="reference:qa1-tiny", memory_grid=None, segment_size=128, segments=(16,),
    steps=(250,), window=4, distraction=0.01, learning_rate=2e-4, matrix_learning_rate=0.005, memory_learning_rate=1e-3,
    stage_rates=(1.0,), weight_decay=0.1, decay_share=0.6, precision="fastest", eval_steps=100, validation_samples=128,
    validation_segments=64, promote_at=2.0, test_segments=(8, 32, 128, 512), test_samples=200, test_batch_size=32,
)  # fmt: skip
PRESETS = {"smoke": SMOKE, "tiny": TINY, "long": LONG, "paper": PAPER}
PAPER_TASKS = {  # the authors' scripts: first stage 2,000 or more updates, then a number per stage
    "qa2": {"steps": (10_000,)},
    "qa3": {"learning_rate": 3e-5},
    "qa4": {"steps": (10_000,)},
}
LONG_TASKS = {"qa3", "qa15", "qa16", "qa18", "qa19"}  # facts and question do not fit two small segments: twice as many
TEXT_FIELDS = (  # those that decide which stories there are, and in which text
    "task", "seed", "babi_path", "max_n_facts", "min_n_facts", "min_n_answers", "num_people", "num_places",
    "num_things", "vocabulary", "balance_answers", "background", "background_path", "background_tokens",
    "fact_depth_start", "fact_depth_end",
)  # fmt: skip
CHOICES = {
    "preset": tuple(PRESETS),
    "background": ("wiki", "pg19", "wikitext", "local", "none"),
    "layout": ("spaced", "authors"),
    "question_position": ("last", "first", "both"),
    "vocabulary": ("original", "held_out"),
    "growth": ("none", "facts", "background"),
    "optimizer": ("muon", "adamw"),
    "trainable": ("all", "memory"),
    "schedule": (
        "warmup_stable_decay",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "constant_with_warmup",
        "reduce_lr_on_plateau",
    ),
    "test_split": ("test", "validation"),
    "scoring": ("exact_match", "babilong_labels", "substring", "lm_eval"),
    "precision": ("auto", "fastest", "float32", "bfloat16", "float16"),
    "compile": ("auto", "always", "never"),
}
AT_LEAST = {
    "seed": 0, "max_n_facts": 1, "min_n_facts": 1, "min_n_answers": 1,
    "num_people": 1, "num_places": 1, "num_things": 1,
    "num_extra_questions": 0, "num_questions_between": 0, "background_tokens": 1000, "fact_depth_start": 0,
    "answer_size": 1, "num_memory_tokens": 0, "segment_size": 2, "memory_grid": 0, "bptt_depth": 1, "segments": 1,
    "steps": 1, "vary_segments": 0, "vary_background": 0, "growth_loss": 0, "window": 1, "num_asides": 1,
    "distraction": 0, "stillness": 0, "validation_segments": 1, "batch_size": 1, "micro_batch_size": 1,
    "learning_rate": 0, "matrix_learning_rate": 0, "memory_learning_rate": 0, "stage_rates": 0,
    "weight_decay": 0, "ema_decay": 0, "start_share": 0, "schedule_horizon": 1, "warmup_share": 0, "decay_share": 0,
    "max_grad_norm": 0, "max_grad_value": 0, "eval_steps": 1, "validation_samples": 1, "promote_at": 0, "patience": 1,
    "test_segments": 1, "test_samples": 1, "num_samples": 1, "test_batch_size": 1, "num_workers": 0,
}  # fmt: skip
AT_MOST = {
    "seed": 2**32 - 1, "vary_segments": 1, "vary_background": 1, "distraction": 0.5, "ema_decay": 0.9999,
    "start_share": 1, "warmup_share": 1, "decay_share": 1, "fact_depth_end": 1,
}  # fmt: skip


def resolve(parameters: dict | None = None) -> Config:
    """Return the preset with the given fields overridden, coerced and checked.

    Args:   parameters: name -> value; text is parsed by the field's type ("1,2,4", "true", "1e-4"); None keeps the
            preset's value. `preset` names the preset, default "tiny".
    Raises: ConfigError.
    """
    values = read_fields(parameters or {}, Config)
    preset = PRESETS[check_choice("preset", values.get("preset", "tiny"), PRESETS)]
    tasks = dataclasses.replace(preset, task=values.get("task", preset.task)).tasks
    if preset is PAPER:
        for task in tasks:
            values = {**PAPER_TASKS.get(task, {}), **values}
    elif not preset.window and LONG_TASKS & set(tasks):
        twice = {name: tuple(2 * n for n in getattr(preset, name)) for name in ("segments", "test_segments")}
        preset = dataclasses.replace(preset, **twice)
    if "segments" in values and "steps" not in values and len(preset.steps) > 1:
        values["steps"] = (max(preset.steps),)
    if "segments" in values and "stage_rates" not in values:
        values["stage_rates"] = (max(preset.stage_rates),)
    if values.get("max_grad_value") and "max_grad_norm" not in values:
        values["max_grad_norm"] = 0.0
    return check(dataclasses.replace(preset, **values))


def check(config: Config) -> Config:
    """Return the configuration if every field is in range and the fields agree with each other.

    Raises: ConfigError.
    """
    for name, allowed in CHOICES.items():
        check_choice(name, getattr(config, name), allowed)
    for task in config.tasks:
        if task not in LEARNABLE or config.tasks.count(task) > 1:
            allowed = f"{', '.join(LEARNABLE)}, several of them with commas, or all"
            raise ConfigError(f"task is {config.task!r}; allowed: {allowed}")
    for task in config.also_asked:
        if task not in LEARNABLE:
            raise ConfigError(f"also_ask is {config.also_ask!r}; allowed: {', '.join(LEARNABLE)}, with commas")
    for name, low in AT_LEAST.items():
        check_bound(name, getattr(config, name), low, is_below=True)
    for name, high in AT_MOST.items():
        check_bound(name, getattr(config, name), high, is_below=False)
    _check_training(config)
    _check_lengths(config)
    if config.fact_depth_start >= config.fact_depth_end:
        start, end = config.fact_depth_start, config.fact_depth_end
        raise ConfigError(f"fact_depth_start {start} is not below fact_depth_end {end}")
    if config.answer_size >= config.segment_size:
        size = config.segment_size
        raise ConfigError(f"answer_size {config.answer_size} leaves no room in segments of {size} tokens")
    if config.background == "local" and not config.background_path:
        raise ConfigError("background local needs background_path: a folder of .txt, .jsonl or .parquet files")
    return config


def _check_training(config: Config) -> None:
    if list(config.segments) != sorted(set(config.segments)):
        raise ConfigError(f"segments is {config.segments}; expected growing numbers of segments such as 1,2,4")
    for name in ("steps", "stage_rates"):
        count, stages = len(getattr(config, name)), len(config.segments)
        if count not in (1, stages):
            raise ConfigError(f"{name} has {count} numbers for {stages} stages; one each, or one for all")
    if config.warmup_share + config.decay_share > 1:
        raise ConfigError(
            f"warmup_share {config.warmup_share} and decay_share {config.decay_share} exceed 1; take smaller ones"
        )
    if config.batch_size % config.micro_batch_size:
        micro = config.micro_batch_size
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of micro_batch_size {micro}")
    if config.window and (config.growth != "none" or config.vary_background or config.question_position != "last"):
        raise ConfigError(
            "window reads texts on and on, with growth none, vary_background 0 and question_position last, not "
            f"{config.growth}, {config.vary_background} and {config.question_position}"
        )
    if config.growth == "facts" and config.babi_path is not None:
        raise ConfigError("growth facts needs generated stories; recorded ones (babi_path) have the facts they have")
    if config.background == "none" and (config.growth == "background" or config.vary_background):
        raise ConfigError(
            f"growth {config.growth} and vary_background {config.vary_background} change how much background there is; "
            "with background none take growth none or facts, and vary_background 0"
        )
    if config.best_metric == "last" and config.best_is_lowest:
        raise ConfigError("best_is_lowest with best_metric last would keep the first weights; leave it out")
    if config.best_metric == "last" and config.schedule == "reduce_lr_on_plateau":
        raise ConfigError("schedule reduce_lr_on_plateau looks at best_metric, and last never gets worse; give loss")
    if config.max_grad_norm and config.max_grad_value:
        raise ConfigError(
            f"max_grad_norm {config.max_grad_norm} and max_grad_value {config.max_grad_value} exclude each other; "
            "set one of them to 0"
        )
    if config.trainable == "memory" and not config.num_memory_tokens:
        raise ConfigError("trainable memory with num_memory_tokens 0 leaves nothing to train; take some memory tokens")
    if config.trainable == "memory" and config.spread_embeddings:
        raise ConfigError("spread_embeddings changes the backbone, which trainable memory keeps; give one of the two")
    names = config.tracker_names
    if set(names) - set(TRACKERS) or len(set(names)) < len(names):
        allowed = f"{', '.join(TRACKERS)}, several of them with commas, or none"
        raise ConfigError(f"trackers is {config.trackers!r}; allowed: {allowed}")


def _check_lengths(config: Config) -> None:
    for name, allowed in (("max_length", (None, *LENGTHS)), ("min_length", LENGTHS)):
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; allowed: {', '.join(LENGTHS)}")
    if not lengths_between(config.min_length, config.max_length or "0k"):
        raise ConfigError(f"min_length {config.min_length} needs a max_length as long, not {config.max_length}")
    if config.max_length is None and config.num_samples is not None:
        raise ConfigError(
            "num_samples counts samples of the lengths up to max_length; of test_segments test_samples does"
        )
    if config.background == "none" and config.max_length not in (None, "0k"):
        raise ConfigError(f"background none has facts alone, which is max_length 0k, not {config.max_length}")


def identity(config: Config) -> dict:
    """Return the fields that decide what a trained model is: without folders, test sizes and speed."""
    fields = dataclasses.fields(config)
    return {f.name: getattr(config, f.name) for f in fields if f.metadata.get("identity", True)}


def notebook_parameters(namespace: dict) -> dict:
    """Collect the parameters of a running notebook: its own cell, and the one that papermill injected.

    Both begin with the line "# Parameters"; their names are read from the cells' source, so that a mistyped name is
    found although papermill lets it pass.
    """
    names = []
    for source in namespace.get("In", []):
        if source.lstrip().startswith("# Parameters"):
            names += [target.id for node in ast.parse(source).body for target in _targets(node)]
    return {name: namespace[name] for name in names}


def _targets(node: ast.stmt) -> list[ast.Name]:
    if isinstance(node, ast.AnnAssign):
        return [node.target]
    return list(node.targets) if isinstance(node, ast.Assign) else []

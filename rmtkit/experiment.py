"""From a configuration to the objects of an experiment: problems, background, tokenizer, model.

Everything that can be wrong with a configuration is found here, before anything heavy starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging

from rmtkit.babi import ORIGINAL, GeneratedProblems, MixedProblems, RecordedProblems, Variation
from rmtkit.babi.tasks import find_task
from rmtkit.babilong import BabilongBuilder
from rmtkit.background import open_background
from rmtkit.config import Config, ConfigError
from rmtkit.kinds import load_model, model_class
from rmtkit.memory import RMTConfig, RMTForSequenceClassification, RMTPreTrainedModel
from rmtkit.memory.configuration import check_growth
from rmtkit.processes import check_processes, is_main, local_device
from rmtkit.reference import check_model, checkpoint_folder, resolve_reference, verify_weights
from rmtkit.runs import Run, check_writable, open_run, run_folder

NUM_PROBES = 200  # problems looked at before training to see whether they fit


@dataclass(frozen=True)
class Experiment:
    """The resolved configuration and what it names; made by `prepare`."""

    config: Config
    run: Run
    tokenizer: object
    builder: BabilongBuilder


def prepare(config: Config) -> Experiment:
    """Check a configuration against the disk, the backbone and the data, and open what it names.

    Raises: ConfigError or another ValueError with one line that says what is wrong and what is allowed.
    """
    check_processes(config)
    check_writable(Path(config.outputs_dir).expanduser())
    check_memory(config)
    problems = open_problems(config)
    tokenizer = open_tokenizer(config)
    builder = open_builder(config, tokenizer, problems)
    check_fit(config, builder)
    run = open_run(config) if is_main() else Run(run_folder(config), config)
    return Experiment(config, run, tokenizer, builder)


def open_problems(
    config: Config, splits: tuple[str, ...] = ("train", "test")
) -> GeneratedProblems | RecordedProblems | MixedProblems:
    """Return the source of bAbI problems.

    Args:   splits: of recorded problems, whose files are read and checked at once.
    Raises: ValueError for a variation that a task does not have, or bad files.
    """
    sources = [_open_task(config, task, splits) for task in config.tasks]
    return sources[0] if len(sources) == 1 else MixedProblems(sources)


def open_stories(config: Config) -> GeneratedProblems | MixedProblems:
    """Return generated stories of the tasks, even where `babi_path` names recorded ones."""
    return open_problems(dataclasses.replace(config, babi_path=None))


def _open_task(config: Config, task: str, splits: tuple[str, ...]) -> GeneratedProblems | RecordedProblems:
    variation = _variation(config)
    limits = {"seed": config.seed, "max_n_facts": config.max_n_facts}
    if config.babi_path is None:
        asked = {"also_ask": config.also_asked, "shuffle_questions": config.shuffle_questions}
        return GeneratedProblems(task, variation=variation, **asked, **limits)
    if variation != ORIGINAL:
        names = ", ".join(f.name for f in dataclasses.fields(Variation))
        raise ConfigError(f"babi_path {config.babi_path!r} is recorded; {names} are for generated stories only")
    problems = RecordedProblems(config.babi_path, task, **limits)
    for split in splits:
        problems.num_problems(split)
    return problems


def _variation(config: Config) -> Variation:
    return Variation(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Variation)})


def all_answers(config: Config) -> list[str]:
    """Return every answer of the tasks, sorted: the classes of an encoder."""
    variation = _variation(config)
    return sorted({label for task in config.tasks for label in find_task(task, variation).labels})


@contextlib.contextmanager
def loading(what: str, name: str, advice: str = "offline use backbone=reference:backbone or a local folder"):
    """Load without transformers' bars, and turn its several errors into one line: no hub, no such name, no such file.

    The bars stay off, also for saving: headless they would leave widgets behind.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot load the {what} of {name!r} ({reason}); {advice}") from None


def open_tokenizer(config: Config):
    """Return the backbone's tokenizer; where BERT's has no EOS token, SEP ends an answer."""
    from transformers import AutoTokenizer

    with loading("tokenizer", config.backbone):
        tokenizer = AutoTokenizer.from_pretrained(resolve_reference(config.backbone))
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.sep_token
    return tokenizer


def check_memory(config: Config) -> None:
    """Compare segment and memory with the backbone's positions, and its memory if it has one. Raises: ConfigError.

    Only the backbone's configuration is read.
    """
    with loading("configuration", config.backbone):
        backbone = AutoConfig.from_pretrained(resolve_reference(config.backbone))
    try:
        if isinstance(backbone, RMTConfig):
            check_growth(backbone.num_memory_tokens, config.num_memory_tokens)
            backbone = backbone.backbone_config
        RMTConfig(backbone_config=backbone, **_wrapper_settings(config, backbone))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def memory_settings(config: Config) -> dict:
    """Return the fields of `RMTConfig` that a configuration sets."""
    names = ("num_memory_tokens", "segment_size", "bptt_depth", "segment_checkpointing")
    settings = {name: getattr(config, name) for name in names}
    return settings if config.memory_grid is None else {**settings, "memory_grid": config.memory_grid}


def _wrapper_settings(config: Config, backbone) -> dict:
    """Return the fields of `RMTConfig` for a backbone with this configuration: an encoder also has CLS and SEP."""
    settings = memory_settings(config)
    if model_class(backbone) is RMTForSequenceClassification:
        tokenizer = open_tokenizer(config)
        settings.update(cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id)
    return settings


def open_builder(config: Config, tokenizer, problems) -> BabilongBuilder:
    """Return the sample builder; builds the background's token store the first time (minutes for PG-19)."""
    background = open_background(
        config.background,
        tokenizer,
        data_dir=config.data_dir,
        path=config.background_path,
        max_tokens=config.background_tokens,
        is_joined=config.layout == "spaced",
    )
    return BabilongBuilder(
        problems,
        background,
        tokenizer,
        seed=config.seed,
        layout=config.layout,
        question_position=config.question_position,
        fact_depth=(config.fact_depth_start, config.fact_depth_end),
        answer_size=config.answer_size,
    )


def prompt_size(config: Config, num_segments: int) -> int | None:
    """Return the tokens of a prompt that fills `num_segments` and leaves `answer_size` free; None: facts alone."""
    return None if config.background == "none" else num_segments * config.segment_size - config.answer_size


def check_fit(config: Config, builder: BabilongBuilder) -> None:
    """See whether facts fit the shortest samples. Raises: ConfigError.

    Without `max_n_facts` problems that are too long are left out, so one that fits is enough; a given `max_n_facts` is
    a promise that all of them fit.
    """
    size = prompt_size(config, config.segments[0])
    try:
        builder.sample("train", 0, size)
    except ValueError as error:
        raise ConfigError(f"segments starts at {config.segments[0]}: {error}") from None
    if size is None or config.max_n_facts is None:
        return
    probes = (builder.problems.problem("train", index) for index in range(NUM_PROBES))
    longest = max(builder.num_fixed_tokens(problem) for problem in probes)
    if longest > size:
        raise ConfigError(
            f"max_n_facts={config.max_n_facts} allows problems of {longest} tokens, but the first stage "
            f"(segments={config.segments[0]}) has {size}; take fewer facts or start with more segments"
        )


def build_model(config: Config) -> RMTPreTrainedModel:
    """Load the backbone and wrap it with freshly drawn memory tokens (from the seed), or load an RMT to go on with."""
    folder = resolve_reference(config.backbone)
    with loading("weights", config.backbone):
        backbone_config = AutoConfig.from_pretrained(folder)
        if isinstance(backbone_config, RMTConfig):
            model = _continue_model(folder, config)
        else:
            model = _wrap(folder, backbone_config, config)
    if config.spread_embeddings:
        spread_embeddings(model)
    return model


def _wrap(folder: str, backbone_config, config: Config) -> RMTPreTrainedModel:
    wrapper = model_class(backbone_config)
    backbone = _open_classifier(folder, config) if wrapper is RMTForSequenceClassification else folder
    model = wrapper.from_backbone(backbone, **_wrapper_settings(config, backbone_config))
    model.reset_memory(torch.Generator().manual_seed(config.seed))
    return model


def _open_classifier(folder: str, config: Config):
    """Load an encoder with a freshly drawn head (from the seed) that has a class for every answer."""
    answers = dict(enumerate(all_answers(config)))
    label2id = {answer: index for index, answer in answers.items()}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return AutoModelForSequenceClassification.from_pretrained(folder, id2label=answers, label2id=label2id)


def _continue_model(folder: str, config: Config) -> RMTPreTrainedModel:
    """Load an RMT to train on: its memory tokens are kept and more drawn (from the seed) if the configuration has more.

    Segment size and BPTT depth are the configuration's, as is the memory's grid where it names one.
    """
    model = load_model(folder)
    if isinstance(model, RMTForSequenceClassification) and sorted(model.config.label2id) != all_answers(config):
        known = ", ".join(sorted(model.config.label2id))
        raise ConfigError(f"{folder} answers {known}; task {config.task} has other answers, take the encoder itself")
    settings = memory_settings(config)
    num_memory_tokens = settings.pop("num_memory_tokens")
    for name, value in settings.items():
        setattr(model.config, name, value)
    if num_memory_tokens != model.config.num_memory_tokens:
        model.extend_memory(num_memory_tokens, torch.Generator().manual_seed(config.seed))
    return model


@torch.no_grad()
def spread_embeddings(model: RMTPreTrainedModel) -> None:
    """Take out of all token embeddings (v, d) what they have in common, and keep their norms.

    Where the embeddings are the output layer, too, those of tokens that are never predicted drift into a narrow cone
    (Gao et al. 2019, arXiv 1907.12009), and a task told in such words is slow to learn. Taking out what dominates them
    is the remedy of Mu, Bhat and Viswanath 2018 (arXiv 1702.01417); here it is one direction, that of the mean.
    """
    weight = model.get_input_embeddings().weight
    embeddings = weight.double()
    common = normalize(normalize(embeddings, dim=-1).mean(0), dim=0)
    spread = embeddings - (embeddings @ common)[:, None] * common
    weight.copy_(normalize(spread, dim=-1) * embeddings.norm(dim=-1, keepdim=True))


def model_folder(config: Config) -> Path:
    """Return the folder of the model to evaluate: of `checkpoint`, or of the run with the same parameters."""
    return checkpoint_folder(config.checkpoint) if config.checkpoint else run_folder(config) / "model"


def load_trained(config: Config) -> tuple[RMTPreTrainedModel, object]:
    """Load a trained model and its tokenizer: `checkpoint`, or what notebook 02 trained with the same parameters.

    Raises: ConfigError if there is none, or if its memory or segment size is not that of the configuration.
    """
    from transformers import AutoTokenizer

    folder = model_folder(config)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"no trained model in {folder}; run notebooks/02_train.ipynb with the same parameters, "
            "or give checkpoint=FOLDER"
        )
    check_model(config, folder)
    verify_weights(folder)
    with loading("weights", str(folder), "give another checkpoint, or train again"):
        model, tokenizer = load_model(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if config.memory_grid is not None:
        model.config.memory_grid = config.memory_grid
    return model.to(default_device()), tokenizer


def default_device() -> torch.device:
    """Return this process's GPU, or the CPU."""
    return torch.device(local_device() if torch.cuda.is_available() else "cpu")


def evaluation_folder(config: Config) -> Path:
    """Return (and create) the folder for evaluations: the run's, or for a `checkpoint` one under outputs_dir.

    Those by validation samples have one of their own, so that nothing of them is taken for a test.
    """
    folder = run_folder(config)
    if config.checkpoint:
        name, is_reference = Path(config.checkpoint.replace(":", "-")).expanduser(), ":" in config.checkpoint
        place = config.checkpoint if is_reference else str(name.absolute())
        digest = hashlib.blake2b(place.encode(), digest_size=3).hexdigest()
        folder = Path(config.outputs_dir).expanduser() / "evaluations" / f"{config.task_name}-{name.name}-{digest}"
    if config.test_split != "test":
        folder = folder.with_name(f"{folder.name}-{config.test_split}")
    check_writable(folder)
    return folder

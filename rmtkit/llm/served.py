"""A model behind an OpenAI-compatible server: vLLM, sglang, llama.cpp, `transformers serve`, or one that is hosted.

The `openai` client sends, waits and tries again. Here its answers are read and its failures named (`FAILURES`):

| what comes back | tried again | in the end |
|---|---|---|
| status 429 | yes | rate_limit |
| status 5xx | yes | server_error |
| no complete answer within the timeout | yes | timeout |
| a connection refused or dropped | yes | connection |
| finish_reason or error code of a content filter, or a refusal | no | refused |
| another 4xx (408 and 409: yes) | no | client_error |
| 200 without JSON, or without the text of a choice | no | malformed |
| 200 with blank text | no | empty |

Pauses: what Retry-After says, unless it is over two minutes, which ends the attempts; else 0.5 s, doubled each time up
to 8 s, less up to a quarter by chance. Six attempts bridge 12 s in which a server is away, 20 attempts 95 s.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import KW_ONLY, dataclass, field, replace
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from rmtkit.llm.cases import Answer, Prompt
from rmtkit.parameters import ConfigError

BYTES_PER_TOKEN = 3  # of the estimate; English has 4 and more in vocabularies of 30,000 tokens and more
TEMPLATE_TOKENS = 16  # that a chat template puts around a message, in the estimate
NO_KEY = "none"  # sent where no key is set: the client wants one, a server of one's own does not look at it
SHORTEST_KEY = 8  # characters; what is shorter is no secret, and may be a word of an answer
HIDDEN = "[key]"
DETAIL_SIZE = 200  # characters
CONTENT_FILTERS = ("content_filter", "content_policy_violation")  # error codes
UNSUPPORTED = ("unsupported_parameter", "unsupported_value")  # error codes
NOT_GREEDY = "the server takes no temperature: not greedy"


@dataclass(eq=False)
class ServedModel:
    """A model that is asked over HTTP, a few prompts at a time (`rmtkit.llm.cases.Model`).

    name:     the model, as the server calls it;  base_url: up to and with "/v1", without a key in it;
    window:   tokens of prompt and answer together, None for no check; what does not fit is not sent;
    concurrency: requests at a time;  timeout: seconds for one attempt, the answer complete;
    max_attempts: times that a prompt is sent before it counts as failed;
    api_key_variable: the environment variable with the key, read when it is needed and kept nowhere; None for no key;
    tokenizer: a Hugging Face tokenizer, its name or folder. Without one, prompts are measured by an estimate that is
              too high for English (a token for each `BYTES_PER_TOKEN` bytes): with a window, better give one;
    chat:     chat completions, or plain completions of the system's message, an empty line and the prompt.

    Raises: ValueError if a number is out of range or the address is not one.
    Trap:   the key goes to whatever server the address names.
    Reasoning models think within `max_answer_tokens`: give them more. A server that refuses `max_tokens` is sent
    `max_completion_tokens`, one that refuses `temperature` none, from then on (`options`); that counts as an attempt.
    """

    name: str
    _: KW_ONLY
    base_url: str
    window: int | None = None
    concurrency: int = 8
    max_answer_tokens: int = 20
    timeout: float = 60.0
    max_attempts: int = 6
    api_key_variable: str | None = "OPENAI_API_KEY"
    tokenizer: Any = field(default=None, repr=False)
    chat: bool = True
    options: dict = field(init=False)  # sent with every prompt

    def __post_init__(self):
        for name in ("concurrency", "max_answer_tokens", "timeout", "max_attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} must be more than 0")
        _check_address(self.base_url)
        self.options = {"temperature": 0, "max_tokens": self.max_answer_tokens}
        if isinstance(self.tokenizer, str | os.PathLike):
            from transformers import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)

    def num_tokens(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt: exact with a tokenizer that has the chat template, else rather too many."""
        messages = _messages(prompt) if self.chat else [{"content": prompt.whole}]
        around = TEMPLATE_TOKENS * len(messages) * self.chat
        if self.tokenizer is None:
            return around + sum(math.ceil(len(part["content"].encode()) / BYTES_PER_TOKEN) for part in messages)
        if self.chat and self.tokenizer.chat_template:
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            return len(encoded["input_ids"])
        return around + sum(len(self.tokenizer(part["content"])["input_ids"]) for part in messages)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield the place of a prompt and its answer as they come. Works inside of a running loop, as Jupyter's.

        No more is sent than is waited for: at most `concurrency` prompts beyond what the caller has taken. To leave
        the iterator, or an interrupt, ends these.

        Raises: ImportError without the openai client; ValueError if the key cannot be sent.
        """
        key = _read_key(self.api_key_variable)
        client = self._connect(key)
        from anyio.from_thread import start_blocking_portal

        queue, asked = iter(enumerate(prompts)), {}
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            try:
                while True:
                    while len(asked) < self.concurrency and (following := next(queue, None)):
                        place, prompt = following
                        if too_long := self._too_long(prompt):
                            yield place, too_long
                        else:
                            asked[portal.start_task_soon(self._ask, client, prompt)] = place
                    if not asked:
                        return
                    done = _first(asked)
                    yield asked.pop(done), _harmless(done.result(), key)
            finally:
                for request in asked:
                    request.cancel()

    def check(self) -> None:
        """Ask the server for its models; one that does not list them passes: its answers will say.

        Raises: ConfigError if it is not reached, refuses the key, or has no model of this name.
        """
        import openai

        key = _read_key(self.api_key_variable) or NO_KEY
        client = openai.OpenAI(base_url=self.base_url, api_key=key, timeout=min(self.timeout, 10.0), max_retries=1)
        try:
            names = [model.id for model in client.models.list()]
        except openai.APIConnectionError as error:  # also what a time-out is
            kind = type(error).__name__
            raise ConfigError(f"no answer from the server at {self.base_url} ({kind}); is it running?") from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            said = f"{self.base_url} refuses the key in {self.api_key_variable} (status {error.status_code})"
            raise ConfigError(f"{said}; set that variable") from None
        except Exception:  # no list, or in another form than the client knows
            return
        if names and self.name not in names:
            listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError(f"{self.base_url} has no model {self.name!r}; it has {listed}")

    def _connect(self, key: str):
        """Return the client. The key is in it alone."""
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise ImportError("a served model needs the package openai: pip install 'rmtkit[llm]'") from None
        return AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=self.base_url,
            max_retries=self.max_attempts - 1,
            http_client=_bounded_client(self.timeout),
        )

    def _too_long(self, prompt: Prompt) -> Answer | None:
        """Return the failure of a prompt that does not fit the window, None if it does."""
        if self.window is None:
            return None
        size = self.num_tokens(prompt)
        if size + self.max_answer_tokens <= self.window:
            return None
        how = "" if self.tokenizer is not None else f" (estimated: one for {BYTES_PER_TOKEN} bytes; give a tokenizer)"
        detail = f"{size} tokens{how} and {self.max_answer_tokens} of the answer do not fit {self.window}"
        return Answer(failure="too_long", detail=detail, num_prompt_tokens=size, num_attempts=0)

    async def _ask(self, client, prompt: Prompt) -> Answer:
        """Return what comes of a prompt, all attempts counted."""
        from openai import APIError

        create = (client.chat.completions if self.chat else client.completions).with_raw_response.create
        content = {"messages": _messages(prompt)} if self.chat else {"prompt": prompt.whole}
        options, num_attempts = self.options, 0
        while True:
            try:
                raw = await create(model=self.name, **content, **options)
            except APIError as error:
                num_attempts += 1 + int(error.request.headers["x-stainless-retry-count"])
                if self.chat and error.code in UNSUPPORTED and error.param in options:
                    options = self.options = _without_option(options, error.param)
                    continue
                return replace(_failure(error), num_attempts=num_attempts)
            answer = _read(raw.http_response, self.chat)
            detail = answer.detail if answer.failure or "temperature" in options else NOT_GREEDY
            return replace(answer, detail=detail, num_attempts=num_attempts + 1 + raw.retries_taken)


def _check_address(base_url: str) -> None:
    """Raise ValueError unless this is an address that may be shown."""
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query:
        raise ValueError("base_url has a name, password or query in it; keys come from api_key_variable")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url {base_url!r} is not an address such as http://localhost:8000/v1")


def _read_key(variable: str | None) -> str:
    """Return the key in an environment variable, "" if there is none."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not re.fullmatch("[!-~]*", key):
        raise ValueError(f"the key in {variable} has characters that a request cannot carry; set it again")
    return key


def _bounded_client(seconds: float):
    """Return the HTTP client of `openai`, with a time for each attempt as a whole: its own is for one read of many."""
    import anyio
    import openai

    base = openai.DefaultAsyncHttpxClient
    http = import_module(base.__base__.__module__.partition(".")[0])  # httpx2, or httpx in earlier versions

    class BoundedClient(base):
        async def send(self, request, **options):
            try:
                with anyio.fail_after(seconds):
                    return await super().send(request, **options)
            except TimeoutError:
                raise http.ReadTimeout(f"no answer in {seconds:g} s", request=request) from None

    return BoundedClient(timeout=seconds)


def _first(asked: dict[Future, int]) -> Future:
    """Return one of the requests that are done, as soon as there is one."""
    return wait(asked, return_when=FIRST_COMPLETED).done.pop()


def _messages(prompt: Prompt) -> list[dict]:
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": prompt.text}]


def _without_option(options: dict, name: str) -> dict:
    """Return the options without one; the limit of the answer goes on under its other name."""
    renamed = {"max_completion_tokens": options[name]} if name == "max_tokens" else {}
    return {key: value for key, value in options.items() if key != name} | renamed


def _failure(error) -> Answer:
    """Return the failure that an exception of the client stands for."""
    from openai import APIConnectionError, APITimeoutError

    if isinstance(error, APIConnectionError):
        failure = "timeout" if isinstance(error, APITimeoutError) else "connection"
        cause = error.__cause__ or error
        return Answer(failure=failure, detail=f"{type(cause).__name__}: {cause}")
    status = error.status_code
    if error.code in CONTENT_FILTERS:
        failure = "refused"
    elif status == 429:
        failure = "rate_limit"
    else:
        failure = "server_error" if status >= 500 else "client_error"
    return Answer(failure=failure, detail=f"status {status}: {_said(error.body)}")


def _said(body) -> str:
    """Return what the body of an error says, in any of the forms that servers give it."""
    if isinstance(body, dict):
        return next((_said(body[name]) for name in ("message", "detail", "error") if body.get(name)), "")
    return str(body or "")


def _read(response, chat: bool) -> Answer:
    """Return the answer in a response of status 200, or its failure."""
    try:
        body = response.json()
        choice = body["choices"][0]
        message = choice["message"] if chat else choice
        text = message.get("content" if chat else "text") or ""
        refusal = message.get("refusal") or ""
        usage = body.get("usage") or {}
        known = Answer(
            finish_reason=_text_or_none(choice.get("finish_reason")),
            num_prompt_tokens=_count_or_none(usage.get("prompt_tokens")),
            num_answer_tokens=_count_or_none(usage.get("completion_tokens")),
        )
        if not isinstance(text, str):
            raise TypeError("the text of the choice is none")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(failure="malformed", detail=f"not a completion: {response.text}")
    if refusal or known.finish_reason == "content_filter":
        return replace(known, failure="refused", detail=str(refusal) or "finish_reason content_filter")
    if not text.strip():
        return replace(known, failure="empty", detail=f"finish_reason {known.finish_reason}")
    return replace(known, text=text)


def _text_or_none(value) -> str | None:
    return None if value is None else str(value)


def _count_or_none(value) -> int | None:
    return value if type(value) is int else None


def _harmless(answer: Answer, key: str) -> Answer:
    """Return an answer in which the key does not occur, that a file in UTF-8 can hold, its detail in one short line."""

    def clean(text: str) -> str:
        shown = text.replace(key, HIDDEN) if len(key) >= SHORTEST_KEY else text
        return shown.encode(errors="replace").decode()  # JSON may have half of a surrogate pair

    return replace(
        answer,
        text=clean(answer.text),
        detail=" ".join(clean(answer.detail).split())[:DETAIL_SIZE],
        finish_reason=answer.finish_reason and clean(answer.finish_reason),
    )

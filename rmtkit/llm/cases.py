"""What goes through an evaluation of a language model: a case, the prompt made of it, the answer to it.

    Case --prompts--> Prompt --model--> Answer --scoring--> right, wrong or failed

A model is anything with the methods of `Model`: a Hugging Face decoder (`rmtkit.llm.local`), a server
(`rmtkit.llm.served`), a Recurrent Memory Transformer or a trivial baseline (`rmtkit.llm.ours`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Case:
    """One question of BABILong as text.

    context:      the facts in their background, no question;
    supporting:   [start, end) in characters of the context of each supporting fact; None where it is not known.
    """

    task: str
    length: str
    index: int
    context: str
    question: str
    target: str
    supporting: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked.

    case:    what it was made of; its context is what retrieval left of it, where there was retrieval;
    text:    the user's message, complete;
    system:  the system's message, None if there is none.
    """

    case: Case
    text: str
    system: str | None = None

    @property
    def whole(self) -> str:
        """The system's message and the user's as one text, for a model that takes no messages."""
        return f"{self.system}\n\n{self.text}" if self.system else self.text


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. A failure is not a wrong answer: it is counted apart (2402.10790, Fig. 6).

    failure: None, or in a word why there is no answer (`FAILURES`);  detail: what was said of it, one line, no secrets;
    num_prompt_tokens, num_answer_tokens: as the model counts them;  num_attempts: times it was sent.
    """

    text: str = ""
    failure: str | None = None
    detail: str = ""
    finish_reason: str | None = None
    num_prompt_tokens: int | None = None
    num_answer_tokens: int | None = None
    num_attempts: int = 1


FAILURES = {
    "too_long": "the prompt does not fit the model's window; it was not sent",
    "refused": "the model or its server declined to answer (content filter, refusal)",
    "empty": "an answer without text",
    "malformed": "the server's answer is not what the protocol says (broken JSON, no choices)",
    "rate_limit": "status 429 to the last attempt",
    "server_error": "status 5xx to the last attempt",
    "client_error": "another status 4xx: wrong key, unknown model, prompt refused",
    "timeout": "no answer in time, at the last attempt",
    "connection": "the server was not reached or hung up, at the last attempt",
}


class Model(Protocol):
    """What an evaluation needs of a model.

    name:   as results name it;
    window: tokens of prompt and answer together that it takes, None if there is no such limit;
    weights: a hash, if it may get others under its name: its answers are then known by both. Most have none.
    """

    name: str
    window: int | None

    def num_tokens(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt as it is sent: chat template, system message and all."""

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield the place of a prompt in the sequence and its answer, in whatever order they come."""

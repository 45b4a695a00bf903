"""The three things the data side talks about: a story, a question in it, and a problem (one sample)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer and the facts that support the answer."""

    text: str  # "Where is Mary?", no space or tab at the end
    answer: str  # "bathroom"
    num_facts: int  # facts told before it in the story
    supporting: tuple[int, ...]  # indices into the story's facts, from 0, in the order of the file


@dataclass(frozen=True, slots=True)
class Story:
    """Facts in the order in which they are told, and the questions asked between them."""

    task: str  # "qa1"
    facts: tuple[str, ...]  # "Mary moved to the bathroom."
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One bAbI sample: a question and all facts told before it (earlier questions are dropped).

    The first question is the question of the sample. Further ones, if asked for, are extra questions about the same
    facts, and earlier ones were asked in between, after `num_facts` of them: dense supervision for training.
    """

    task: str
    facts: tuple[str, ...]
    questions: tuple[Question, ...]
    earlier: tuple[Question, ...] = ()


def problems(story: Story) -> list[Problem]:
    """One problem for each question of a story, in order."""
    return [Problem(story.task, story.facts[: q.num_facts], (q,)) for q in story.questions]

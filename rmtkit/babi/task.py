"""What a bAbI task is made of: a world that tells facts, and the questions about it.

Tasks 1 to 3 and 5 to 14 pick their questions by the window rule. All rules were measured from the v1.2 files of
Weston et al. 2015 (arXiv 1502.05698).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from rmtkit.babi.story import Question
from rmtkit.babi.words import Draws, pick

WINDOW = 5  # a question is about one of the last five clauses
TRIES = 100  # draws before a question is given up


class World(Protocol):
    """It knows the truth and keeps what it has told the reader.

    facts:   Mary went to the garden. | John and Daniel moved to the office.
    clauses: what they say, in a form that questions are computed from (a sentence about two people is two clauses)
    """

    facts: list[str]
    clauses: list[Any]


class Task(Protocol):
    """How the stories of one task are made."""

    labels: tuple[str, ...]  # all answers, as they are written
    num_questions: int | None  # in a story; None: as many as it happens to have
    max_n_facts: int | None  # facts that a problem can be asked to have; None: no limit

    def new_world(self, rng: Draws) -> World:
        """Return a world of which nothing has been told."""

    def tell_and_ask(self, world: World, rng: Draws) -> Iterator[Question | None]:
        """Tell facts, and yield what is asked at each point of the story; None: nothing. May go on for ever."""

    def every_question(self, world: World) -> list[Question]:
        """Return all different questions of the task's kind that the facts told so far answer, each with one answer."""


@dataclass(frozen=True)
class WindowTask:
    """A task whose questions are about what one of the last five clauses is about (its topic).

    Who occurs in several of the last clauses is asked about more often, and nothing older is asked about.
    """

    new_world: Callable[[Draws], Any]
    topic: Callable[[Any], object]  # what a clause is asked about; None if it is not asked about
    questions: Callable[[Any, Any], list[Question]]  # all about a topic; a repeated question is as often asked
    labels: tuple[str, ...]
    choose: Callable[[Draws, list[Question]], Question | None] = pick
    is_clear: Callable[[Any, Question], bool] = lambda world, question: True  # has one right answer
    num_questions: int = 5
    max_n_facts: int | None = None

    def tell_and_ask(self, world, rng: Draws) -> Iterator[Question | None]:
        """Tell facts and ask a question if one is possible; again and again."""
        while not world.is_over:
            world.tell(rng)
            yield self._ask(world, rng)

    def every_question(self, world) -> list[Question]:
        """See Task."""
        topics = dict.fromkeys(self.topic(clause) for clause in world.clauses)
        found = [q for topic in topics if topic is not None for q in self.questions(world, topic)]
        return different(q for q in found if self.is_clear(world, q))

    def _ask(self, world, rng: Draws) -> Question | None:
        topics = [self.topic(clause) for clause in world.clauses[-WINDOW:]]
        questions = {topic: self.questions(world, topic) for topic in topics if topic is not None}
        if not any(questions.values()):
            return None
        for _ in range(TRIES):
            about_topic = questions.get(pick(rng, topics))
            question = self.choose(rng, about_topic) if about_topic else None
            if question:
                return question
        return None


def different(questions) -> list[Question]:
    """Return the questions without those whose text comes again."""
    return list({question.text: question for question in questions}.values())


def first_half_the_time(rng: Draws, questions: list[Question]) -> Question:
    """Choose the first question with chance 1/2, otherwise one of the others (qa6, qa9, qa10: the true place)."""
    if len(questions) == 1 or rng.random() < 0.5:
        return questions[0]
    return pick(rng, questions[1:])

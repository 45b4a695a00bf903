"""Tasks 1 to 5: what each one tells and asks, and the window rule that picks a question.

A task is a row of `TASK_BY_NAME`: the world that it is told from, what a clause makes it ask about (its topic), and
the questions about a topic. The rules were measured from the v1.2 files of Weston et al. 2015 (arXiv 1502.05698).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rmtkit.babi.story import Question
from rmtkit.babi.worlds import (
    CHANCE_OF_THERE,
    GIVING_PEOPLE,
    OPPOSITE,
    PLACES,
    THINGS,
    Clause,
    Draws,
    Household,
    Link,
    PlacesInLine,
    pick,
)

World = Household | PlacesInLine
WINDOW = 5  # a question is about one of the last five clauses
TRIES = 100  # draws before a question is given up
CHANCE_OF_EARLIER = 0.75  # qa3: that a question means an earlier move than the one at hand; fitted, not exact


@dataclass(frozen=True)
class Task:
    """How the stories of one task are made."""

    new_world: Callable[[Draws], World]
    topic: Callable[[Clause | Link], object]  # what a clause is asked about; None if it is not asked about
    questions: Callable[[World, object], list[Question]]  # all about a topic; a repeated question is as often asked
    labels: tuple[str, ...]  # all answers
    choose: Callable[[Draws, list[Question]], Question | None] = pick
    is_clear: Callable[[World, Question], bool] = lambda world, question: True  # has one right answer
    num_questions: int = 5  # in a story


def ask(task: Task, world: World, rng: Draws) -> Question | None:
    """Draw a question by the window rule: about one of the last five clauses, or None if they allow none.

    Who occurs in several of the last clauses is asked about more often, and nothing older is asked about.
    """
    topics = [task.topic(clause) for clause in world.clauses[-WINDOW:]]
    questions = {topic: task.questions(world, topic) for topic in topics if topic is not None}
    if not any(questions.values()):
        return None
    for _ in range(TRIES):
        about_topic = questions.get(pick(rng, topics))
        question = task.choose(rng, about_topic) if about_topic else None
        if question:
            return question
    return None


def every_question(task: Task, world: World) -> list[Question]:
    """All different questions of the task's kind that the facts told so far answer, each with one right answer."""
    topics = dict.fromkeys(task.topic(clause) for clause in world.clauses)
    found = [q for topic in topics if topic is not None for q in task.questions(world, topic)]
    return list({q.text: q for q in found if task.is_clear(world, q)}.values())


def _question(world: World, text: str, answer: str, *support: Clause | Link) -> Question:
    return Question(text, answer, len(world.facts), tuple(clause.fact for clause in support))


def _latest(clauses: Sequence[Clause], kinds: Sequence[str], *, actor: str = "", thing: str = "") -> Clause | None:
    """The latest clause of the kinds wanted, by the actor and about the thing if one is named."""
    for clause in reversed(clauses):
        if clause.kind in kinds and actor in ("", clause.actor) and thing in ("", clause.thing):
            return clause
    return None


def _where_is_person(world: Household, person: str) -> list[Question]:
    """qa1. Where is Mary? The place of her latest move."""
    move = _latest(world.clauses, ("go",), actor=person)
    return [_question(world, f"Where is {person}?", move.place, move)] if move else []


def _where_is_thing(world: Household, thing: str) -> list[Question]:
    """qa2. Where is the milk? Where its holder is, or was when it was dropped.

    Answered by the holder's latest move before the drop, or after the get: that the milk was got in a place already
    known is not enough.
    """
    clauses = world.clauses
    event = _latest(clauses, ("get", "drop"), thing=thing)
    if event is None:
        return []
    since = clauses[: event.fact] if event.kind == "drop" else clauses[event.fact :]
    move = _latest(since, ("go",), actor=event.actor)
    return [_question(world, f"Where is the {thing}?", move.place, event, move)] if move else []


def _where_was_thing_before(world: Household, thing: str) -> list[Question]:
    """qa3. Where was the milk before the garden? The place it was carried from when it last came to the garden.

    Only moves of its latest holder with it in hand count. One question for each of these but the first, the latest
    move first; if it came to a place twice, both questions are about the latest time.
    """
    clauses = world.clauses
    event = _latest(clauses, ("get", "drop"), thing=thing)
    if event is None:
        return []
    end = event.fact if event.kind == "drop" else len(clauses)
    get = _latest(clauses[:end], ("get",), thing=thing)
    moves = [c for c in clauses[get.fact : end] if c.kind == "go" and c.actor == event.actor]
    latest_at = {move.place: i for i, move in enumerate(moves)}
    questions = []
    for move in reversed(moves[1:]):
        i = latest_at[move.place]
        questions.append(
            _question(
                world,
                f"Where was the {thing} before the {move.place}?",
                moves[i - 1].place,
                event,
                moves[i],
                moves[i - 1],
            )
        )
    return questions


def _choose_by_age(rng: Draws, questions: list[Question]) -> Question | None:
    """qa3. The question about a move is the likelier the later the move was; None asks for another clause."""
    age = 0
    while rng.random() < CHANCE_OF_EARLIER:
        age += 1
    return questions[age] if age < len(questions) else None


def _what_lies_where(world: PlacesInLine, link: Link) -> list[Question]:
    """qa4. What is north of the office? What is the office south of? Both mean the subject of the fact."""
    _, place, direction, landmark = link
    return [
        _question(world, text, place, link)
        for text in (
            f"What is {direction} of the {landmark}?",
            f"What is the {landmark} {OPPOSITE[direction]} of?",
        )
    ]


def _who_gave_what(world: Household, thing: str) -> list[Question]:
    """qa5. Who gave the milk to Jeff? All about the latest time that the thing was given."""
    gift = _latest(world.clauses, ("give",), thing=thing)
    if gift is None:
        return []
    giver, receiver = gift.actor, gift.receiver
    what = (f"What did {giver} give to {receiver}?", thing)
    return [
        _question(world, text, answer, gift)
        for text, answer in (
            what,
            what,
            (f"Who gave the {thing} to {receiver}?", giver),
            (f"Who gave the {thing}?", giver),
            (f"Who received the {thing}?", receiver),
            (f"Who did {giver} give the {thing} to?", receiver),
        )
    ]


def _is_latest_gift(world: Household, question: Question) -> bool:
    """qa5. bAbI may ask what Fred gave to Jeff and mean an older gift (0.2 % of answers): false for these."""
    if not question.text.startswith("What did"):
        return True
    gift = world.clauses[question.supporting[0]]
    return not any(
        c.kind == "give" and (c.actor, c.receiver) == (gift.actor, gift.receiver)
        for c in world.clauses[gift.fact + 1 :]
    )


def _person_who_moved(clause: Clause) -> str | None:
    return clause.actor if clause.kind == "go" else None


def _thing_moved(clause: Clause) -> str | None:
    return clause.thing if clause.kind in ("get", "drop") else None


def _thing_given(clause: Clause) -> str | None:
    return clause.thing if clause.kind == "give" else None


def _link_itself(link: Link) -> Link:
    return link


_GO_GET_DROP = (Household.go, Household.get, Household.drop)

TASK_BY_NAME = {
    "qa1": Task(partial(Household, acts=(Household.go,)), _person_who_moved, _where_is_person, labels=PLACES),
    "qa2": Task(partial(Household, acts=_GO_GET_DROP), _thing_moved, _where_is_thing, labels=PLACES),
    "qa3": Task(
        partial(Household, acts=_GO_GET_DROP, chance_of_there=CHANCE_OF_THERE),
        _thing_moved,
        _where_was_thing_before,
        labels=PLACES,
        choose=_choose_by_age,
    ),
    "qa4": Task(PlacesInLine, _link_itself, _what_lies_where, labels=PLACES, num_questions=1),
    "qa5": Task(
        partial(Household, acts=(*_GO_GET_DROP, Household.give), people=GIVING_PEOPLE),
        _thing_given,
        _who_gave_what,
        labels=tuple(sorted(GIVING_PEOPLE)) + THINGS,
        is_clear=_is_latest_gift,
    ),
}

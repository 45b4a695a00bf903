"""Tasks 1, 2, 3, 5, 6, 7, 8, and an aid to them: people who walk between places and take, leave and give things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import NamedTuple

from rmtkit.babi.story import Question
from rmtkit.babi.task import WindowTask, first_half_the_time
from rmtkit.babi.words import DROP_VERBS, GET_VERBS, GIVE_VERBS, GO_VERBS, Draws, Words, pick

CHANCE_OF_THERE = 0.2  # "Mary dropped the milk there."
CHANCE_OF_EARLIER = 0.75  # qa3: that a question means an earlier move than the one at hand; fitted, not exact
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")


class Clause(NamedTuple):
    """What one fact says; each fact of the household is one clause."""

    kind: str  # "go", "get", "drop" or "give"
    fact: int  # index of the fact, and of the clause
    actor: str  # who did it
    place: str  # "go": where to; otherwise empty: the reader is not told
    thing: str = ""
    receiver: str = ""


class Household:
    """People who walk between places and take, leave and give things.

    Mary travelled to the kitchen. / Mary got the milk there. / Mary went back to the garden. / Mary left the milk.

    Everybody and everything starts in a random place that the reader is not told.
    """

    is_over = False

    def __init__(self, rng: Draws, *, words: Words, acts: Sequence[Callable], chance_of_there: float = 1.0):
        self.words = words
        self.acts = acts  # what a step may be, of Household.go, get, drop, give
        self.chance_of_there = chance_of_there  # of "there" after getting
        self.facts: list[str] = []
        self.clauses: list[Clause] = []
        self.place_of = {person: pick(rng, words.places) for person in words.people}
        self.lies_in: dict[str, str | None] = {t: pick(rng, words.places) for t in words.things}  # None: held
        self.holder_of: dict[str, str | None] = dict.fromkeys(words.things)

    def tell(self, rng: Draws) -> None:
        """Tell two facts, as many as stand between two questions.

        An impossible act is drawn anew as a whole, so people who can do more act more often.
        """
        for _ in range(2):
            while not pick(rng, self.acts)(self, rng, pick(rng, self.words.people)):
                pass

    def go(self, rng: Draws, person: str) -> bool:
        """Walk to a place, unless the person is there. Returns whether it happened, as all acts do."""
        place = pick(rng, self.words.places)
        if place == self.place_of[person]:
            return False
        self.place_of[person] = place
        self._record(f"{person} {pick(rng, GO_VERBS)} to the {place}.", "go", person, place=place)
        return True

    def get(self, rng: Draws, person: str) -> bool:
        """Take one of the things that lie where the person is."""
        here = self.place_of[person]
        within_reach = [thing for thing in self.words.things if self.lies_in[thing] == here]
        if not within_reach:
            return False
        thing = pick(rng, within_reach)
        self.lies_in[thing], self.holder_of[thing] = None, person
        there = " there" if rng.random() < self.chance_of_there else ""
        self._record(f"{person} {pick(rng, GET_VERBS)} the {thing}{there}.", "get", person, thing=thing)
        return True

    def drop(self, rng: Draws, person: str) -> bool:
        """Leave one of the things that the person holds."""
        held = [thing for thing in self.words.things if self.holder_of[thing] == person]
        if not held:
            return False
        thing = pick(rng, held)
        self.lies_in[thing], self.holder_of[thing] = self.place_of[person], None
        there = " there" if rng.random() < CHANCE_OF_THERE else ""
        self._record(f"{person} {pick(rng, DROP_VERBS)} the {thing}{there}.", "drop", person, thing=thing)
        return True

    def give(self, rng: Draws, _person: str) -> bool:
        """Hand over the first thing that can be, to the first person who can have it; the person drawn is ignored.

        The fixed orders are bAbI's: the apple is given most, and often handed straight back.
        """
        for thing, giver in self.holder_of.items():
            for receiver in self.words.people:
                if giver and receiver != giver and self.place_of[receiver] == self.place_of[giver]:
                    self.holder_of[thing] = receiver
                    sentence = f"{giver} {pick(rng, GIVE_VERBS)} the {thing} to {receiver}."
                    self._record(sentence, "give", giver, thing=thing, receiver=receiver)
                    return True
        return False

    def _record(self, sentence, kind, actor, *, place="", thing="", receiver="") -> None:
        self.clauses.append(Clause(kind, len(self.facts), actor, place, thing, receiver))
        self.facts.append(sentence)


def _latest(clauses: Sequence, kinds: Sequence[str], *, actor: str = "", thing: str = ""):
    """Return the latest clause of the kinds wanted, by the actor and about the thing if one is named; or None."""
    for clause in reversed(clauses):
        if clause.kind in kinds and actor in ("", clause.actor) and thing in ("", clause.thing):
            return clause
    return None


def make_question(world, text: str, answer: str, *support) -> Question:
    """Return a question asked now, supported by the facts of these clauses, in this order."""
    return Question(text, answer, len(world.facts), tuple(clause.fact for clause in support))


def _where_is_person(world: Household, person: str) -> list[Question]:
    """qa1. Where is Mary? The place of her latest move."""
    move = _latest(world.clauses, ("go",), actor=person)
    return [make_question(world, f"Where is {person}?", move.place, move)] if move else []


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
    return [make_question(world, f"Where is the {thing}?", move.place, event, move)] if move else []


def _who_had_thing(world: Household, thing: str) -> list[Question]:
    """Who had the milk? Who got or left it last, which is half of the way to where it is."""
    event = _latest(world.clauses, ("get", "drop"), thing=thing)
    return [make_question(world, f"Who had the {thing}?", event.actor, event)] if event else []


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
        text, answer = f"Where was the {thing} before the {move.place}?", moves[i - 1].place
        questions.append(make_question(world, text, answer, event, moves[i], moves[i - 1]))
    return questions


def _choose_by_age(rng: Draws, questions: list[Question]) -> Question | None:
    """qa3. The question about a move is the likelier the later the move was; None asks for another clause."""
    age = 0
    while rng.random() < CHANCE_OF_EARLIER:
        age += 1
    return questions[age] if age < len(questions) else None


def _who_gave_what(world: Household, thing: str) -> list[Question]:
    """qa5. Who gave the milk to Jeff? All about the latest time that the thing was given."""
    gift = _latest(world.clauses, ("give",), thing=thing)
    if gift is None:
        return []
    giver, receiver = gift.actor, gift.receiver
    what = (f"What did {giver} give to {receiver}?", thing)
    return [
        make_question(world, text, answer, gift)
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
    later = world.clauses[gift.fact + 1 :]
    return not any(c.kind == "give" and (c.actor, c.receiver) == (gift.actor, gift.receiver) for c in later)


def _is_person_there(world: Household, person: str) -> list[Question]:
    """qa6. Is Mary in the garden? Yes for the place of her latest move, which comes first; no for the others."""
    move = _latest(world.clauses, ("go",), actor=person)
    places = (move.place, *(place for place in world.words.places if place != move.place))
    answers = ("yes", *("no",) * (len(places) - 1))
    return [
        make_question(world, f"Is {person} in the {place}?", answer, move)
        for place, answer in zip(places, answers, strict=True)
    ]


def _how_many_things(world: Household, person: str) -> list[Question]:
    """qa7. How many objects is Mary carrying? Supported by all that she got, left, gave or was given."""
    events = [c for c in world.clauses if c.kind != "go" and person in (c.actor, c.receiver)]
    number = sum(holder == person for holder in world.holder_of.values())
    return [make_question(world, f"How many objects is {person} carrying?", NUMBERS[number], *events)]


def _which_things(world: Household, person: str) -> list[Question]:
    """qa8. What is Mary carrying? Things and the facts about them are in the order in which she first got each."""
    events: dict[str, list[Clause]] = {}
    for clause in world.clauses:
        if clause.kind != "go" and clause.actor == person:
            events.setdefault(clause.thing, []).append(clause)
    held = [thing for thing in events if world.holder_of[thing] == person]
    support = [clause for about_thing in events.values() for clause in about_thing]
    return [make_question(world, f"What is {person} carrying?", ",".join(held) or "nothing", *support)]


def _person_who_moved(clause: Clause) -> str | None:
    return clause.actor if clause.kind == "go" else None


def _thing_moved(clause: Clause) -> str | None:
    return clause.thing if clause.kind in ("get", "drop") else None


def _thing_given(clause: Clause) -> str | None:
    return clause.thing if clause.kind == "give" else None


def _person_with_thing(clause: Clause) -> str | None:
    return clause.actor if clause.kind != "go" else None


_GO_GET_DROP = (Household.go, Household.get, Household.drop)
_ALL_ACTS = (*_GO_GET_DROP, Household.give)


def _household(words: Words, acts: Sequence[Callable], **options) -> Callable[[Draws], Household]:
    return partial(Household, words=words, acts=acts, **options)


def qa1(words: Words) -> WindowTask:
    """Where is Mary?"""
    world = _household(Words(words.people, words.places), (Household.go,))
    return WindowTask(world, _person_who_moved, _where_is_person, labels=words.places)


def qa2(words: Words) -> WindowTask:
    """Where is the milk?"""
    return WindowTask(_household(words, _GO_GET_DROP), _thing_moved, _where_is_thing, labels=words.places)


def qa3(words: Words) -> WindowTask:
    """Where was the milk before the garden?"""
    world = _household(words, _GO_GET_DROP, chance_of_there=CHANCE_OF_THERE)
    return WindowTask(world, _thing_moved, _where_was_thing_before, labels=words.places, choose=_choose_by_age)


def qa5(words: Words) -> WindowTask:
    """Who gave the milk to Jeff?"""
    labels = tuple(sorted(words.people)) + words.things
    return WindowTask(_household(words, _ALL_ACTS), _thing_given, _who_gave_what, labels, is_clear=_is_latest_gift)


def qa6(words: Words) -> WindowTask:
    """Is Mary in the garden?"""
    world = _household(words, _GO_GET_DROP)
    return WindowTask(world, _person_who_moved, _is_person_there, ("no", "yes"), choose=first_half_the_time)


def qa7(words: Words) -> WindowTask:
    """How many objects is Mary carrying?"""
    labels = NUMBERS[: len(words.things) + 1]
    return WindowTask(_household(words, _ALL_ACTS), _person_with_thing, _how_many_things, labels)


def qa8(words: Words) -> WindowTask:
    """What is Mary carrying?"""
    lists = [",".join(some) for n in range(1, len(words.things) + 1) for some in permutations(words.things, n)]
    return WindowTask(_household(words, _GO_GET_DROP), _person_with_thing, _which_things, ("nothing", *lists))


def who(words: Words) -> WindowTask:
    """Who had the milk? No task of bAbI: what a model learns by that later has to tell things apart, as in qa2 and qa3.

    Nobody walks: all are in one place, and what they get and leave is all that is told.
    """
    world = _household(Words(words.people, words.places[:1], words.things), (Household.get, Household.drop))
    return WindowTask(world, _thing_moved, _who_had_thing, labels=words.people)

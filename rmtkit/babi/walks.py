"""Tasks 9 to 14: people who walk, told of by denial, doubt, pronouns, in pairs, or out of order."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rmtkit.babi.household import make_question
from rmtkit.babi.story import Question
from rmtkit.babi.task import WINDOW, WindowTask, first_half_the_time
from rmtkit.babi.words import GO_VERBS, MEN, Draws, Words, pick, pick_other

THEN = ("Afterwards", "After that", "Following that", "Then")
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")


class Move(NamedTuple):
    """That one person came to a place; a sentence about two people is two of these."""

    fact: int
    actor: str
    place: str


class Report(NamedTuple):
    """What one fact says of where a person is."""

    fact: int
    actor: str
    places: tuple[str, ...]  # the one place, or both that it may be
    is_denial: bool = False  # the person is not in the place

    def answer(self, place: str) -> str:
        """Whether the person is in a place, by this report alone."""
        if len(self.places) == 2:
            return "maybe" if place in self.places else "no"
        return "yes" if place in self.places and not self.is_denial else "no"


class Walks:
    """People who are somewhere and move; a subclass tells of it. Where they start the reader is not told."""

    is_over = False

    def __init__(self, rng: Draws, *, words: Words):
        self.words = words
        self.facts: list[str] = []
        self.clauses: list[Move | Report] = []
        self.place_of = {person: pick(rng, words.places) for person in words.people}

    def move(self, rng: Draws, person: str) -> tuple[str, str]:
        """Move a person somewhere else; return the old place and the new one."""
        old = self.place_of[person]
        self.place_of[person] = pick_other(rng, self.words.places, old)
        return old, self.place_of[person]

    def record(self, sentence: str, *clauses) -> None:
        """Tell a fact that says these things."""
        self.facts.append(sentence)
        self.clauses.extend(clauses)


def _goes(rng: Draws, who: str, place: str) -> str:
    return f"{who} {pick(rng, GO_VERBS)} to the {place}."


class ReportedWalks(Walks):
    """Moves told of in three ways; the third, a quarter of the facts, is the subclass's."""

    def tell(self, rng: Draws) -> None:
        """Tell two facts."""
        for _ in range(2):
            person = pick(rng, self.words.people)
            old, new = self.move(rng, person)
            chance = rng.random()
            if chance < 0.5:
                self.report(_goes(rng, person, new), person, new)
            elif chance < 0.75:
                self.report(f"{person} is in the {new}.", person, new)
            else:
                self.tell_unclearly(rng, person, old, new)

    def report(self, sentence: str, person: str, *places: str, is_denial: bool = False) -> None:
        """Tell a fact that says where a person is, may be or is not."""
        self.record(sentence, Report(len(self.facts), person, places, is_denial))


class DeniedWalks(ReportedWalks):
    """qa9. Mary moved to the office. / John is in the garden. / Mary is no longer in the office.

    A denial is itself a move: it names the place that the person has left.
    """

    def tell_unclearly(self, rng: Draws, person: str, old: str, new: str) -> None:
        """Tell where a person is not any more."""
        self.report(f"{person} is {pick(rng, ('no longer', 'not'))} in the {old}.", person, old, is_denial=True)


class DoubtfulWalks(ReportedWalks):
    """qa10. Julie is either in the park or the office. Both may be the same place, as in the official files."""

    def tell_unclearly(self, rng: Draws, person: str, old: str, new: str) -> None:
        """Tell two places, in any order, of which the first or the second is the right one."""
        other = pick(rng, self.words.places)
        one, two = (new, other) if rng.random() < 0.5 else (other, new)
        self.report(f"{person} is either in the {one} or the {two}.", person, one, two)


class PronounWalks(Walks):
    """qa11. Mary went to the office. / Then she moved to the garden."""

    def tell(self, rng: Draws) -> None:
        """Tell of two moves of one person."""
        person = pick(rng, self.words.people)
        _, first = self.move(rng, person)
        self.record(_goes(rng, person, first), Move(len(self.facts), person, first))
        pronoun = "he" if person in MEN else "she"
        _, second = self.move(rng, person)
        then = f"{pick(rng, THEN)} {pronoun}"
        self.record(_goes(rng, then, second), Move(len(self.facts), person, second))


class PairWalks(Walks):
    """qa12. Mary and John went to the office."""

    def tell(self, rng: Draws) -> None:
        """Tell two facts."""
        for _ in range(2):
            self.tell_of_pair(rng)

    def tell_of_pair(self, rng: Draws) -> tuple[str, str]:
        """Move two people to a place where neither is; drawn anew as a whole until so. Returns who they are."""
        while True:
            one = pick(rng, self.words.people)
            two = pick_other(rng, self.words.people, one)
            place = pick(rng, self.words.places)
            if place not in (self.place_of[one], self.place_of[two]):
                break
        self.take_to(rng, f"{one} and {two}", (one, two), place)
        return one, two

    def take_to(self, rng: Draws, who: str, pair: tuple[str, str], place: str) -> None:
        """Tell that both go to a place."""
        self.place_of |= dict.fromkeys(pair, place)
        self.record(_goes(rng, who, place), *(Move(len(self.facts), person, place) for person in pair))


class PairPronounWalks(PairWalks):
    """qa13. Mary and John went to the office. / Then they moved to the garden."""

    def tell(self, rng: Draws) -> None:
        """Tell of two moves of one pair."""
        pair = self.tell_of_pair(rng)
        place = pick_other(rng, self.words.places, self.place_of[pair[0]])
        self.take_to(rng, f"{pick(rng, THEN)} they", pair, place)


class Station(NamedTuple):
    """That a person was in a place at a time of the day."""

    fact: int  # -1: not told yet
    actor: str
    time: int  # index into TIMES
    place: str


class Days:
    """qa14. This morning Fred went to the park. / Fred moved to the school yesterday.

    Each person's day has four times, filled in order; the facts between two questions are told out of order.
    """

    def __init__(self, rng: Draws, *, words: Words):
        self.words = words
        self.facts: list[str] = []
        self.clauses: list[Station] = []  # in the order drawn
        self.day_of: dict[str, list[str]] = {person: [] for person in words.people}

    @property
    def is_over(self) -> bool:
        """Whether every day is full."""
        return len(self._waiting()) == 0

    def tell(self, rng: Draws) -> None:
        """Tell two facts, and two more while nobody has two stations among the last clauses."""
        new = []
        while not self.is_over and (not new or all(station.time == 0 for station in self.clauses[-WINDOW:])):
            for _ in range(min(2, sum(len(TIMES) - len(self.day_of[p]) for p in self._waiting()))):
                new.append(len(self.clauses))
                self.clauses.append(self._next_station(rng))
        for i in range(len(new) - 1, 0, -1):  # Sattolo's shuffle, as in bAbI: no fact keeps its place
            j = int(rng.random() * i)
            new[i], new[j] = new[j], new[i]
        for index in new:
            self.clauses[index] = self.clauses[index]._replace(fact=len(self.facts))
            self.facts.append(self._sentence(rng, self.clauses[index]))

    def _waiting(self) -> list[str]:
        return [person for person, day in self.day_of.items() if len(day) < len(TIMES)]

    def _next_station(self, rng: Draws) -> Station:
        person = pick(rng, self._waiting())
        day = self.day_of[person]
        day.append(pick_other(rng, self.words.places, day[-1] if day else None))
        return Station(-1, person, len(day) - 1, day[-1])

    def _sentence(self, rng: Draws, station: Station) -> str:
        time, move = TIMES[station.time], _goes(rng, station.actor, station.place)
        return f"{time.capitalize()} {move}" if rng.random() < 0.5 else f"{move[:-1]} {time}."


def _is_person_there(world: Walks, person: str) -> list[Question]:
    """qa9, qa10. Is Mary in the garden? By her latest report; the true place comes first.

    After a denial only the place that it names is asked about.
    """
    report = next(report for report in reversed(world.clauses) if report.actor == person)
    here = world.place_of[person]
    places = report.places if report.is_denial else (here, *(p for p in world.words.places if p != here))
    return [make_question(world, f"Is {person} in the {place}?", report.answer(place), report) for place in places]


def _where_is_person(world: Walks, person: str) -> list[Question]:
    """qa12. Where is Mary? The place of her latest move."""
    move = next(move for move in reversed(world.clauses) if move.actor == person)
    return [make_question(world, f"Where is {person}?", move.place, move)]


def _where_is_person_now(world: Walks, person: str) -> list[Question]:
    """qa11, qa13. Where is Mary? Supported by both moves of her latest pair of sentences."""
    first, second = [clause for clause in world.clauses if clause.actor == person][-2:]
    return [make_question(world, f"Where is {person}?", second.place, first, second)]


def _where_was_person_before(world: Days, station: tuple[str, str]) -> list[Question]:
    """qa14. Where was Fred before the park? If he was there more than once, before the latest time."""
    person, place = station
    day = [clause for clause in world.clauses if clause.actor == person]
    time = max(clause.time for clause in day if clause.place == place)
    text = f"Where was {person} before the {place}?"
    return [make_question(world, text, day[time - 1].place, day[time], day[time - 1])]


def _actor(clause) -> str:
    return clause.actor


def _station_but_first(station: Station) -> tuple[str, str] | None:
    return (station.actor, station.place) if station.time > 0 else None


def qa9(words: Words) -> WindowTask:
    """Is Mary in the garden? Some facts say where she is not."""
    world = partial(DeniedWalks, words=words)
    return WindowTask(world, _actor, _is_person_there, ("no", "yes"), choose=first_half_the_time)


def qa10(words: Words) -> WindowTask:
    """Is Julie in the park? Some facts leave it open."""
    world = partial(DoubtfulWalks, words=words)
    return WindowTask(world, _actor, _is_person_there, ("maybe", "no", "yes"), choose=first_half_the_time)


def qa11(words: Words) -> WindowTask:
    """Where is Mary? Every second fact calls her she."""
    return WindowTask(partial(PronounWalks, words=words), _actor, _where_is_person_now, labels=words.places)


def qa12(words: Words) -> WindowTask:
    """Where is Mary? People go in pairs."""
    return WindowTask(partial(PairWalks, words=words), _actor, _where_is_person, labels=words.places)


def qa13(words: Words) -> WindowTask:
    """Where is Mary? People go in pairs, and every second fact calls them they."""
    return WindowTask(partial(PairPronounWalks, words=words), _actor, _where_is_person_now, labels=words.places)


def qa14(words: Words) -> WindowTask:
    """Where was Fred before the park?"""
    world, longest = partial(Days, words=words), len(TIMES) * len(words.people)
    return WindowTask(world, _station_but_first, _where_was_person_before, labels=words.places, max_n_facts=longest)

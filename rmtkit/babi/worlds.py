"""The worlds that bAbI stories are told from. A world knows the truth and keeps what it has told the reader.

`facts` are the sentences told so far, `clauses` what they say, in a form that questions can be computed from.
Every draw is made with `rng.random()`, so that `random.Random` (fast, the same in every Python) and
`numpy.random.Generator` both serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

PEOPLE = ("John", "Mary", "Sandra", "Daniel")
GIVING_PEOPLE = ("Mary", "Fred", "Bill", "Jeff")  # qa5; the order matters to Household.give
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")  # the order matters to Household.give
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}

GO_VERBS = ("went", "journeyed", "travelled", "moved", "went back")
GET_VERBS = ("picked up", "grabbed", "got", "took")
DROP_VERBS = ("put down", "dropped", "discarded", "left")
GIVE_VERBS = ("gave", "handed", "passed")
CHANCE_OF_THERE = 0.2  # "Mary dropped the milk there."

T = TypeVar("T")


class Draws(Protocol):
    """A source of random numbers: `random.Random` or `numpy.random.Generator`."""

    def random(self) -> float: ...


def pick(rng: Draws, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


class Clause(NamedTuple):
    """What one fact of the household says."""

    kind: str  # "go", "get", "drop" or "give"
    fact: int  # index of the fact, and of the clause: each fact of the household is one clause
    actor: str  # who did it
    place: str  # "go": where to; otherwise empty: the reader is not told
    thing: str = ""
    receiver: str = ""


class Link(NamedTuple):
    """What one fact of a map says: `The place is direction of the landmark.`"""

    fact: int
    place: str
    direction: str
    landmark: str


class Household:
    """People who walk between places and take, leave and give things (tasks 1, 2, 3, 5).

    Mary travelled to the kitchen. / Mary got the milk there. / Mary went back to the garden. / Mary left the milk.

    Everybody and everything starts in a random place that the reader is not told.
    """

    def __init__(
        self, rng: Draws, *, acts: Sequence[Callable], people: Sequence[str] = PEOPLE, chance_of_there: float = 1.0
    ):
        self.acts = acts  # what a step may be, of Household.go, get, drop, give
        self.people = people
        self.chance_of_there = chance_of_there  # of "there" after getting
        self.facts: list[str] = []
        self.clauses: list[Clause] = []
        self.place_of = {person: pick(rng, PLACES) for person in people}
        self.lies_in: dict[str, str | None] = {thing: pick(rng, PLACES) for thing in THINGS}  # None: somebody holds it
        self.holder_of: dict[str, str | None] = dict.fromkeys(THINGS)

    def tell(self, rng: Draws) -> None:
        """Tell two facts, as many as stand between two questions.

        An impossible act is drawn anew as a whole, so people who can do more act more often.
        """
        for _ in range(2):
            while not pick(rng, self.acts)(self, rng, pick(rng, self.people)):
                pass

    def go(self, rng: Draws, person: str) -> bool:
        """Walk to a place, unless the person is there. Returns whether it happened, as all acts do."""
        place = pick(rng, PLACES)
        if place == self.place_of[person]:
            return False
        self.place_of[person] = place
        self._record(f"{person} {pick(rng, GO_VERBS)} to the {place}.", "go", person, place=place)
        return True

    def get(self, rng: Draws, person: str) -> bool:
        """Take one of the things that lie where the person is."""
        here = self.place_of[person]
        within_reach = [thing for thing in THINGS if self.lies_in[thing] == here]
        if not within_reach:
            return False
        thing = pick(rng, within_reach)
        self.lies_in[thing], self.holder_of[thing] = None, person
        there = " there" if rng.random() < self.chance_of_there else ""
        self._record(f"{person} {pick(rng, GET_VERBS)} the {thing}{there}.", "get", person, thing=thing)
        return True

    def drop(self, rng: Draws, person: str) -> bool:
        """Leave one of the things that the person holds."""
        held = [thing for thing in THINGS if self.holder_of[thing] == person]
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
            for receiver in self.people:
                if giver and receiver != giver and self.place_of[receiver] == self.place_of[giver]:
                    self.holder_of[thing] = receiver
                    self._record(
                        f"{giver} {pick(rng, GIVE_VERBS)} the {thing} to {receiver}.",
                        "give",
                        giver,
                        thing=thing,
                        receiver=receiver,
                    )
                    return True
        return False

    def _record(
        self, sentence: str, kind: str, actor: str, *, place: str = "", thing: str = "", receiver: str = ""
    ) -> None:
        self.clauses.append(Clause(kind, len(self.facts), actor, place, thing, receiver))
        self.facts.append(sentence)


class PlacesInLine:
    """Three places on a straight line (task 4).

    The garden is north of the office. / The kitchen is south of the office.
    """

    def __init__(self, rng: Draws):
        self.facts: list[str] = []
        self.clauses: list[Link] = []
        self.line: list[str] = []  # first, middle, last
        while len(self.line) < 3:
            place = pick(rng, PLACES)
            if place not in self.line:
                self.line.append(place)
        self.direction = pick(rng, tuple(OPPOSITE))  # of the first place, seen from the middle one

    def tell(self, rng: Draws) -> None:
        """Tell both neighbouring pairs, each from a random end: an end place is the subject of two facts in three."""
        told: set[frozenset[int]] = set()
        while len(told) < 2:
            subject = pick(rng, (0, 1, 2))
            landmark = pick(rng, (0, 2)) if subject == 1 else 1
            if frozenset((subject, landmark)) in told:
                continue
            told.add(frozenset((subject, landmark)))
            direction = self.direction if subject < landmark else OPPOSITE[self.direction]
            link = Link(len(self.facts), self.line[subject], direction, self.line[landmark])
            self.clauses.append(link)
            self.facts.append(f"The {link.place} is {link.direction} of the {link.landmark}.")

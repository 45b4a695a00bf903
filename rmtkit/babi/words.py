"""The words of the bAbI stories, and harder or unseen ones in their place.

The original words and their verbs are those of the v1.2 files. `more` words join them when a harder world is wanted;
`held_out` words never occur in an original story, so that a model can be tested on names that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

GO_VERBS = ("went", "journeyed", "travelled", "moved", "went back")
GET_VERBS = ("picked up", "grabbed", "got", "took")
DROP_VERBS = ("put down", "dropped", "discarded", "left")
GIVE_VERBS = ("gave", "handed", "passed")
VOCABULARIES = ("original", "held_out")

T = TypeVar("T")


class Draws(Protocol):
    """A source of random numbers: `random.Random` (fast, the same in every Python) or `numpy.random.Generator`."""

    def random(self) -> float: ...


def pick(rng: Draws, items: Sequence[T]) -> T:
    """Return one of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def pick_other(rng: Draws, items: Sequence[T], without: T) -> T:
    """Return one of the items but this one, all equally likely."""
    return pick(rng, [item for item in items if item != without])


class Pool(NamedTuple):
    """Words of one role."""

    original: tuple[str, ...]
    more: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    least: int = 2  # words that a story of the task cannot do without

    def choose(self, count: int | None, vocabulary: str, role: str) -> tuple[str, ...]:
        """Return so many words (None: as many as the original has).

        Raises: ValueError that says how many there are.
        """
        words = self.held_out if vocabulary == "held_out" else self.original + self.more
        count = len(self.original) if count is None else count
        if not self.least <= count <= len(words):
            raise ValueError(f"num_{role} is {count}; this task allows {self.least} to {len(words)}")
        return words[:count]


@dataclass(frozen=True)
class Words:
    """The words that one world is made of; a role that a task does not have is empty."""

    people: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    things: tuple[str, ...] = ()


MORE_PEOPLE = ("Emma", "Oliver", "Sophia", "Lucas", "Nora", "Henry")
HELD_OUT_PEOPLE = ("Alice", "Peter", "Helen", "George", "Laura", "Victor", "Irene", "Simon", "Clara", "Martin")
HELD_OUT_PLACES = ("library", "cellar", "attic", "garage", "balcony", "stable", "chapel", "harbour", "market", "museum")
HELD_OUT_THINGS = ("lantern", "violin", "hammer", "pencil", "basket", "candle")
MEN = frozenset("John Daniel Fred Bill Oliver Lucas Henry Peter George Victor Simon Martin".split())

PEOPLE = Pool(("John", "Mary", "Sandra", "Daniel"), MORE_PEOPLE, HELD_OUT_PEOPLE)
GIVING_PEOPLE = Pool(("Mary", "Fred", "Bill", "Jeff"), MORE_PEOPLE, HELD_OUT_PEOPLE)  # qa5; their order matters
CITY_PEOPLE = Pool(("Fred", "Bill", "Julie", "Mary"), MORE_PEOPLE, HELD_OUT_PEOPLE)  # qa10, qa14
PLACES = Pool(
    ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
    ("pantry", "lounge", "nursery", "studio"),
    HELD_OUT_PLACES,
)
CITY_PLACES = Pool(
    ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    ("theater", "bakery", "station", "hospital"),
    HELD_OUT_PLACES,
)
THINGS = Pool(("apple", "football", "milk"), ("book", "lamp", "umbrella"), HELD_OUT_THINGS, least=1)  # order matters

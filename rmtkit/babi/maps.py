"""Tasks 4, 17, 18, 19: places on a map, shapes on a sheet, things of different sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from typing import NamedTuple, TypeVar

from rmtkit.babi.household import make_question
from rmtkit.babi.story import Question
from rmtkit.babi.task import TRIES, different
from rmtkit.babi.words import Draws, Words, pick, pick_other

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
DIRECTIONS = tuple(OPPOSITE)
SIDES = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
SMALLEST = ("chocolate", "box of chocolates")  # qa18: these two are always smaller than the containers
LAST_FACTS = 10  # qa18: a question starts from one of the last facts, the newer the likelier; fitted, not exact
AGEING = 0.94  # qa18: how much less likely each fact before; fitted
Item = TypeVar("Item")


class Link(NamedTuple):
    """What one fact of a map says: `The place is direction of the landmark.`"""

    fact: int
    place: str
    direction: str
    landmark: str


def _other_pairs(rng: Draws, neighbours: dict[Item, list[Item]]) -> Iterator[tuple[Item, Item]]:
    """Yield each pair of neighbours once: any item first, then one of its neighbours, skipped if told already.

    So an item with few neighbours comes first in its pair more often.
    """
    items, told = tuple(neighbours), set()
    num_pairs = sum(map(len, neighbours.values())) // 2
    while len(told) < num_pairs:
        one = pick(rng, items)
        two = pick(rng, neighbours[one])
        if frozenset((one, two)) not in told:
            told.add(frozenset((one, two)))
            yield one, two


def _tell_link(world: PlacesInLine | MapOfPlaces, place: str, direction: str, landmark: str) -> None:
    world.clauses.append(Link(len(world.facts), place, direction, landmark))
    world.facts.append(f"The {place} is {direction} of the {landmark}.")


class PlacesInLine:
    """Three places on a straight line (qa4); in harder worlds up to two more, on the other sides of the middle one.

    The garden is north of the office. / The kitchen is south of the office. / The hallway is east of the office. ...
    """

    def __init__(self, rng: Draws, *, words: Words):
        self.words = words
        self.facts: list[str] = []
        self.clauses: list[Link] = []
        self.line: list[str] = []  # first, middle, last
        while len(self.line) < 3:
            place = pick(rng, words.places)
            if place not in self.line:
                self.line.append(place)
        self.direction = pick(rng, DIRECTIONS)  # of the first place, seen from the middle one

    def tell(self, rng: Draws) -> None:
        """Tell both neighbouring pairs; an end place is the subject of two facts in three."""
        for subject, landmark in _other_pairs(rng, {0: [1], 1: [0, 2], 2: [1]}):
            direction = self.direction if subject < landmark else OPPOSITE[self.direction]
            _tell_link(self, self.line[subject], direction, self.line[landmark])

    def tell_more(self, rng: Draws) -> bool:
        """Tell of a neighbour of the middle place on a side where there is none yet. Returns whether there can be."""
        middle = self.line[1]
        told = {place for link in self.clauses for place in (link.place, link.landmark)}
        taken = {side if landmark == middle else OPPOSITE[side] for _, _, side, landmark in self.clauses}
        places = [place for place in self.words.places if place not in told]
        sides = [side for side in DIRECTIONS if side not in taken]
        if not (places and sides):
            return False
        _tell_link(self, pick(rng, places), pick(rng, sides), middle)
        return True


@dataclass(frozen=True)
class qa4:  # noqa: N801 - a task is called by its name
    """What is north of the office? What is the office south of? Both mean the subject of a fact."""

    words: Words
    num_questions: int = 1
    max_n_facts: int = 4  # in the original two

    @property
    def labels(self) -> tuple[str, ...]:
        """All places."""
        return self.words.places

    def new_world(self, rng: Draws) -> PlacesInLine:
        """See Task."""
        return PlacesInLine(rng, words=self.words)

    def tell_and_ask(self, world: PlacesInLine, rng: Draws) -> Iterator[Question]:
        """See Task."""
        world.tell(rng)
        yield pick(rng, self._about(world, pick(rng, world.clauses)))
        while world.tell_more(rng):
            yield pick(rng, self._about(world, pick(rng, world.clauses)))

    def every_question(self, world: PlacesInLine) -> list[Question]:
        """See Task."""
        return [question for link in world.clauses for question in self._about(world, link)]

    def _about(self, world: PlacesInLine, link: Link) -> list[Question]:
        _, place, direction, landmark = link
        texts = (f"What is {direction} of the {landmark}?", f"What is the {landmark} {OPPOSITE[direction]} of?")
        return [make_question(world, text, place, link) for text in texts]


class ShapesOnSheet:
    """Three shapes, two of them beside the one in the middle (qa17).

    The triangle is above the pink rectangle. / The blue square is to the left of the triangle.
    """

    def __init__(self, rng: Draws, *, words: Words):
        self.facts: list[str] = []
        self.clauses: list[Link] = []
        shapes = list(words.things)
        self.ends = []
        for _ in range(2):
            self.ends.append(shapes.pop(int(rng.random() * len(shapes))))
        self.middle = pick(rng, shapes)
        side = pick(rng, tuple(SIDES))
        other = pick_other(rng, tuple(SIDES), side)
        self.position_of = {self.middle: (0, 0), self.ends[0]: SIDES[side], self.ends[1]: SIDES[other]}

    def tell(self, rng: Draws) -> None:
        """Tell where both ends are; the middle is the subject of two facts in three."""
        neighbours = {self.middle: self.ends, **{end: [self.middle] for end in self.ends}}
        for landmark, shape in _other_pairs(rng, neighbours):
            side = next(side for side in SIDES if self.is_on_side(shape, side, landmark))
            self.clauses.append(Link(len(self.facts), shape, side, landmark))
            self.facts.append(f"The {shape} is {side} the {landmark}.")

    def is_on_side(self, shape: str, side: str, landmark: str) -> bool:
        """Whether a shape lies strictly on this side of the landmark."""
        (x, y), (x0, y0), (dx, dy) = self.position_of[shape], self.position_of[landmark], SIDES[side]
        return dx * (x - x0) + dy * (y - y0) > 0


@dataclass(frozen=True)
class qa17:  # noqa: N801
    """Is the triangle above the blue square? Asked of the two shapes that no fact names together."""

    words: Words
    labels: tuple[str, ...] = ("no", "yes")
    num_questions: int = 8
    max_n_facts: int = 2

    def new_world(self, rng: Draws) -> ShapesOnSheet:
        """See Task."""
        return ShapesOnSheet(rng, words=self.words)

    def tell_and_ask(self, world: ShapesOnSheet, rng: Draws) -> Iterator[Question]:
        """See Task. Yes and no are equally likely."""
        world.tell(rng)
        questions = self.every_question(world)
        while True:
            wanted = "yes" if rng.random() < 0.5 else "no"
            yield pick(rng, [question for question in questions if question.answer == wanted])

    def every_question(self, world: ShapesOnSheet) -> list[Question]:
        """See Task."""
        found = []
        for (one, two), side in product((world.ends, world.ends[::-1]), SIDES):
            support = [link for end in (one, two) for link in world.clauses if end in (link.place, link.landmark)]
            answer = "yes" if world.is_on_side(one, side, two) else "no"
            found.append(make_question(world, f"Is the {one} {side} the {two}?", answer, *support))
        return found


class MapOfPlaces:
    """Places joined by links, the first three of them a path (qa19).

    The garden is west of the bathroom. / The bathroom is north of the office. ...
    """

    def __init__(self, rng: Draws, *, words: Words):
        self.facts: list[str] = []
        self.clauses: list[Link] = []
        places = list(words.places)
        shuffled = [places.pop(int(rng.random() * len(places))) for _ in words.places]
        self.start, middle, self.goal, *others = shuffled
        self.direction_of: dict[str, dict[str, str]] = {place: {} for place in shuffled}  # of each neighbour
        first = pick(rng, DIRECTIONS)
        self._join(self.start, first, middle)
        self._join(middle, pick_other(rng, DIRECTIONS, OPPOSITE[first]), self.goal)
        for place in others:
            while True:
                at, direction = pick(rng, (self.start, middle, self.goal)), pick(rng, DIRECTIONS)
                if direction not in self.direction_of[at].values():
                    break
            self._join(at, direction, place)

    def _join(self, at: str, direction: str, place: str) -> None:
        self.direction_of[at][place] = direction
        self.direction_of[place][at] = OPPOSITE[direction]

    def tell(self, rng: Draws) -> None:
        """Tell all links; the end place is the subject most often, and links of ends come early."""
        neighbours = {place: list(directions) for place, directions in self.direction_of.items()}
        for place, landmark in _other_pairs(rng, neighbours):
            _tell_link(self, place, self.direction_of[landmark][place], landmark)


@dataclass(frozen=True)
class qa19:  # noqa: N801
    """How do you go from the kitchen to the garden? Two steps, written as n,w."""

    words: Words
    num_questions: int = 1

    @property
    def labels(self) -> tuple[str, ...]:
        """All pairs of directions but there and back."""
        paths = product(DIRECTIONS, DIRECTIONS)
        return tuple(f"{one[0]},{two[0]}" for one, two in paths if two != OPPOSITE[one])

    @property
    def max_n_facts(self) -> int:
        """One link fewer than places."""
        return len(self.words.places) - 1

    def new_world(self, rng: Draws) -> MapOfPlaces:
        """See Task."""
        return MapOfPlaces(rng, words=self.words)

    def tell_and_ask(self, world: MapOfPlaces, rng: Draws) -> Iterator[Question]:
        """See Task."""
        world.tell(rng)
        yield next(q for q in self.every_question(world) if q.text == _way(world.start, world.goal))

    def every_question(self, world: MapOfPlaces) -> list[Question]:
        """See Task. All ways of two steps."""
        link_of = {frozenset((link.place, link.landmark)): link for link in world.clauses}
        found = []
        for middle, ends in world.direction_of.items():
            for start, goal in product(ends, ends):
                if start != goal:
                    steps = world.direction_of[start][middle], world.direction_of[middle][goal]
                    support = link_of[frozenset((start, middle))], link_of[frozenset((middle, goal))]
                    answer = ",".join(step[0] for step in steps)
                    found.append(make_question(world, _way(start, goal), answer, *support))
        return found


def _way(start: str, goal: str) -> str:
    return f"How do you go from the {start} to the {goal}?"


class Pair(NamedTuple):
    """What one fact of qa18 says: one thing is smaller than another."""

    fact: int
    small: str
    big: str


@dataclass
class Boxes:
    """Things that fit into each other (qa18).

    The chocolate fits inside the chest. / The suitcase is bigger than the box of chocolates.
    """

    things: tuple[str, ...]  # the smallest first
    facts: list[str] = field(default_factory=list)
    clauses: list[Pair] = field(default_factory=list)

    def tell(self, rng: Draws) -> None:
        """Tell a batch of five facts, each about any two things; a fact may come again."""
        for _ in range(5):
            one = int(rng.random() * len(self.things))
            two = pick_other(rng, range(len(self.things)), one)
            small, big = self.things[min(one, two)], self.things[max(one, two)]
            self.clauses.append(Pair(len(self.facts), small, big))
            is_fit = rng.random() < 0.5
            self.facts.append(
                f"The {small} fits inside the {big}." if is_fit else f"The {big} is bigger than the {small}."
            )


@dataclass(frozen=True)
class qa18:  # noqa: N801
    """Does the chocolate fit in the chest? Two facts that share a thing prove it."""

    words: Words
    labels: tuple[str, ...] = ("no", "yes")
    num_questions: None = None
    max_n_facts: int = 10  # that can be asked for; one story in fifty has more, up to 20

    def new_world(self, rng: Draws) -> Boxes:
        """See Task."""
        containers = list(self.words.things)
        shuffled = [containers.pop(int(rng.random() * len(containers))) for _ in self.words.things]
        return Boxes((*SMALLEST, *shuffled))

    def tell_and_ask(self, world: Boxes, rng: Draws) -> Iterator[Question]:
        """See Task. After each batch up to five questions; the first batch that has all five is the last."""
        num_found = 0
        while num_found < 5:
            world.tell(rng)
            drawn = (self._ask(world, rng) for _ in range(TRIES))
            num_found = 0
            for question in islice((q for q in drawn if q), 5):
                num_found += 1
                yield question

    def _ask(self, world: Boxes, rng: Draws) -> Question | None:
        """Draw a new fact and a thing in it; the first other fact that names the thing must continue the chain."""
        age = self._draw_age(rng, min(LAST_FACTS, len(world.clauses)))
        one = world.clauses[-1 - age]
        middle = one.small if rng.random() < 0.5 else one.big
        two = next((pair for pair in world.clauses if pair is not one and middle in (pair.small, pair.big)), None)
        if two is None or one[1:].index(middle) == two[1:].index(middle):
            return None
        return pick(rng, self._about(world, one, two, "yes" if middle == one.small else "no"))

    def _draw_age(self, rng: Draws, num_facts: int) -> int:
        weights = [AGEING**age for age in range(num_facts)]
        left = rng.random() * sum(weights)
        for age, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return age
        return num_facts - 1

    def every_question(self, world: Boxes) -> list[Question]:
        """See Task. All chains of two facts."""
        chains = [(one, two) for one, two in product(world.clauses, world.clauses) if one.small == two.big]
        found = [self._about(world, one, two, "yes") + self._about(world, two, one, "no") for one, two in chains]
        return different(question for some in found for question in some)

    def _about(self, world: Boxes, one: Pair, two: Pair, answer: str) -> list[Question]:
        """Return both ways to ask, of the two facts in the order of the support."""
        upper, lower = (one, two) if answer == "yes" else (two, one)
        inner, outer = (lower.small, upper.big) if answer == "yes" else (upper.big, lower.small)
        texts = (f"Does the {inner} fit in the {outer}?", f"Is the {outer} bigger than the {inner}?")
        return [make_question(world, text, answer, one, two) for text in texts]

"""All twenty tasks by name, with the words that each is told in, and what can be varied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from rmtkit.babi import household, maps, rules, walks
from rmtkit.babi.task import Task
from rmtkit.babi.words import (
    CITY_PEOPLE,
    CITY_PLACES,
    GIVING_PEOPLE,
    PEOPLE,
    PLACES,
    THINGS,
    VOCABULARIES,
    Pool,
    Words,
)

ROLES = ("people", "places", "things")
_MAP_PLACES = PLACES._replace(least=3)
_ANIMALS_15 = Pool(("wolf", "sheep", "mouse", "cat"), ("goose", "fox"), ("eagle", "snake", "tiger", "rabbit", "calf"))
_PEOPLE_15 = Pool(
    ("Gertrude", "Winona", "Jessica", "Emily"),
    ("Agatha", "Beatrix", "Cordelia"),
    ("Harold", "Edmund", "Cecil", "Rupert", "Alfred", "Edgar", "Oswald"),
)
_ANIMALS_16 = Pool(("swan", "lion", "frog", "rhino"), ("horse", "crow"), ("eagle", "snake", "tiger", "rabbit", "bear"))
_PEOPLE_16 = Pool(
    ("Lily", "Bernhard", "Greg", "Brian", "Julius"),
    ("Astrid", "Magnus"),
    ("Harold", "Edmund", "Cecil", "Rupert", "Alfred", "Edgar", "Oswald"),
)
_SHAPES = Pool(
    ("red square", "blue square", "yellow square", "pink rectangle", "red sphere", "triangle"),
    ("green circle", "blue sphere"),
    ("purple hexagon", "orange cube", "black star", "white ring", "brown cone", "silver cross"),
    least=3,
)
_CONTAINERS = Pool(
    ("box", "chest", "container", "suitcase"), ("barrel", "drawer"), ("basket", "bucket", "crate", "bag", "trunk"), 1
)
_PEOPLE_20 = Pool(
    ("Jason", "Antoine", "Yann", "Sumit"),
    ("Bruno", "Claire"),
    ("Harold", "Edmund", "Cecil", "Rupert", "Alfred", "Edgar"),
    least=1,
)
_EVERYTHING = {"people": PEOPLE, "places": PLACES, "things": THINGS}
_WALKS = {"people": PEOPLE, "places": PLACES}
_PAIRS = {"people": PEOPLE._replace(least=3), "places": PLACES._replace(least=3)}
_CITY = {"people": CITY_PEOPLE, "places": CITY_PLACES}


@dataclass(frozen=True)
class _Row:
    """A task, and the pools of its words by role."""

    make: Callable[[Words], Task]
    pools: dict[str, Pool] = field(hash=False)


_ROWS = {
    "qa1": _Row(household.qa1, _WALKS),
    "qa2": _Row(household.qa2, _EVERYTHING),
    "qa3": _Row(household.qa3, _EVERYTHING),
    "qa4": _Row(maps.qa4, {"places": _MAP_PLACES}),
    "qa5": _Row(household.qa5, {"people": GIVING_PEOPLE, "places": PLACES, "things": THINGS}),
    "qa6": _Row(household.qa6, _EVERYTHING),
    "qa7": _Row(household.qa7, _EVERYTHING),
    "qa8": _Row(household.qa8, _EVERYTHING),
    "qa9": _Row(walks.qa9, _WALKS),
    "qa10": _Row(walks.qa10, _CITY),
    "qa11": _Row(walks.qa11, _WALKS),
    "qa12": _Row(walks.qa12, _PAIRS),
    "qa13": _Row(walks.qa13, _PAIRS),
    "qa14": _Row(walks.qa14, _CITY),
    "qa15": _Row(rules.qa15, {"people": _PEOPLE_15, "things": _ANIMALS_15}),
    "qa16": _Row(rules.qa16, {"people": _PEOPLE_16, "things": _ANIMALS_16}),
    "qa17": _Row(maps.qa17, {"things": _SHAPES}),
    "qa18": _Row(maps.qa18, {"things": _CONTAINERS}),
    "qa19": _Row(maps.qa19, {"places": _MAP_PLACES}),
    "qa20": _Row(rules.qa20, {"people": _PEOPLE_20}),
    "who": _Row(household.who, _EVERYTHING),
}
LEARNABLE = tuple(_ROWS)  # what training can ask
TASKS = tuple(name for name in LEARNABLE if name != "who")


@dataclass(frozen=True)
class Variation:
    """What the original never had: harder worlds, unseen words, balanced answers. The defaults are the original's.

    Args: num_people, num_places, num_things: in the world; None: the original number. Things are the animals of
              qa15 and qa16, the shapes of qa17, the containers of qa18.
          vocabulary: "original", or "held_out": other words of the same kinds.
          min_n_facts: facts that a problem has at least; stories go on until then.
          min_n_answers: different answers to all that can be asked about its facts, at least; stories go on until then.
          balance_answers: all answers of a task are equally likely.
    """

    num_people: int | None = None
    num_places: int | None = None
    num_things: int | None = None
    vocabulary: str = "original"
    min_n_facts: int = 1
    min_n_answers: int = 1
    balance_answers: bool = False


ORIGINAL = Variation()


@cache
def find_task(name: str, variation: Variation = ORIGINAL) -> Task:
    """Return a task in the words of a variation.

    Raises: ValueError if there is no such task, or if the variation asks for what the task does not have.
    """
    if name not in LEARNABLE:
        check_task(name)
    if variation.vocabulary not in VOCABULARIES:
        raise ValueError(f"vocabulary is {variation.vocabulary!r}; allowed: {', '.join(VOCABULARIES)}")
    row, words = _ROWS[name], {}
    for role in ROLES:
        count = getattr(variation, f"num_{role}")
        if role in row.pools:
            try:
                words[role] = row.pools[role].choose(count, variation.vocabulary, role)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        elif count is not None:
            allowed = ", ".join(f"num_{each}" for each in row.pools)
            raise ValueError(f"num_{role} is {count}, but {name} has no {role}; allowed: {allowed}")
    task = row.make(Words(**words))
    if task.max_n_facts is not None and variation.min_n_facts > task.max_n_facts:
        raise ValueError(f"min_n_facts is {variation.min_n_facts}; {name} allows {task.max_n_facts} at most")
    if variation.min_n_answers > len(task.labels):
        raise ValueError(f"min_n_answers is {variation.min_n_answers}; {name} has {len(task.labels)} answers")
    return task


def check_task(name: str) -> None:
    """Raise ValueError if there is no such task."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} does not exist; the tasks are {', '.join(TASKS)}")

"""Tasks 15, 16, 20: who fears what, who has which color, and why people do what they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rmtkit.babi.household import make_question
from rmtkit.babi.story import Question
from rmtkit.babi.task import different
from rmtkit.babi.words import GET_VERBS, GO_VERBS, Draws, Words, pick, pick_other

PLURALS = {"wolf": "wolves", "sheep": "sheep", "mouse": "mice", "goose": "geese", "fox": "foxes", "calf": "calves"}
COLORS = ("gray", "green", "white", "yellow")


@dataclass(frozen=True)
class Mood:
    """qa20: where a mood leads to, and what is got there."""

    name: str
    place: str
    thing: str


MOODS = (
    Mood("hungry", "kitchen", "apple"),
    Mood("thirsty", "kitchen", "milk"),
    Mood("bored", "garden", "football"),
    Mood("tired", "bedroom", "pajamas"),
)


class Trait(NamedTuple):
    """What one fact says of a person or an animal: who fears whom, who is what."""

    fact: int
    subject: str
    value: str


@dataclass
class Fears:
    """Animals that fear each other, and people who are such animals (qa15).

    Mice are afraid of wolves. / Gertrude is a mouse.
    """

    words: Words
    facts: list[str] = field(default_factory=list)
    fear_of: dict[str, Trait] = field(default_factory=dict)  # by animal
    animal_of: dict[str, Trait] = field(default_factory=dict)  # by person

    @property
    def clauses(self) -> list[Trait]:
        """What the facts say, in their order."""
        return sorted([*self.fear_of.values(), *self.animal_of.values()])

    def tell(self, rng: Draws) -> None:
        """Tell one fact of each animal and each person; a person after the animal. An invalid draw is drawn anew."""
        animals, people = self.words.things, self.words.people
        while len(self.facts) < len(animals) + len(people):
            if rng.random() < 0.5:
                animal = pick(rng, animals)
                feared = pick_other(rng, animals, animal)
                if animal not in self.fear_of:
                    self.fear_of[animal] = Trait(len(self.facts), animal, feared)
                    self.facts.append(f"{_plural(animal).capitalize()} are afraid of {_plural(feared)}.")
            else:
                person, animal = pick(rng, people), pick(rng, animals)
                if person not in self.animal_of and animal in self.fear_of:
                    self.animal_of[person] = Trait(len(self.facts), person, animal)
                    self.facts.append(f"{person} is a {animal}.")


def _plural(animal: str) -> str:
    return PLURALS.get(animal, animal + "s")


@dataclass(frozen=True)
class qa15:  # noqa: N801 - a task is called by its name
    """What is gertrude afraid of? What her kind of animal fears. Names are lower case in questions."""

    words: Words
    num_questions: int = 4

    @property
    def labels(self) -> tuple[str, ...]:
        """All animals."""
        return self.words.things

    @property
    def max_n_facts(self) -> int:
        """One for each animal and each person."""
        return len(self.words.things) + len(self.words.people)

    def new_world(self, rng: Draws) -> Fears:
        """See Task."""
        return Fears(self.words)

    def tell_and_ask(self, world: Fears, rng: Draws) -> Iterator[Question]:
        """See Task. A question may come again."""
        world.tell(rng)
        while True:
            yield self._about(world, pick(rng, self.words.people))

    def every_question(self, world: Fears) -> list[Question]:
        """See Task."""
        return [self._about(world, person) for person in self.words.people]

    def _about(self, world: Fears, person: str) -> Question:
        animal = world.animal_of[person]
        fear = world.fear_of[animal.value]
        return make_question(world, f"What is {person.lower()} afraid of?", fear.value, animal, fear)


@dataclass
class Colors:
    """People who are animals of some color; of one the color is not told (qa16).

    Lily is a swan. / Lily is white. / Greg is a swan.
    """

    words: Words
    facts: list[str] = field(default_factory=list)
    animal_of: dict[str, Trait] = field(default_factory=dict)
    color_of: dict[str, Trait] = field(default_factory=dict)

    @property
    def clauses(self) -> list[Trait]:
        """What the facts say, in their order."""
        return sorted([*self.animal_of.values(), *self.color_of.values()])

    def tell(self, rng: Draws) -> None:
        """Tell every animal and all colors but one. An invalid draw is drawn anew.

        So is a story in which nobody or exactly two others are what the person asked about is: bAbI has none.
        """
        while not self.facts or len(self.alike) in (0, 2):
            for told in (self.facts, self.animal_of, self.color_of):
                told.clear()
            self._tell_of_all(rng)

    def _tell_of_all(self, rng: Draws) -> None:
        """Tell one story.

        Each kind of animal has a color of the day, drawn anew whenever somebody is said to be one; a fact about a color
        tells that of the day. So two of a kind may differ.
        """
        people, color_of_kind = self.words.people, {}
        while len(self.facts) < 2 * len(people) - 1:
            if rng.random() < 0.5:
                person, kind = pick(rng, people), pick(rng, self.words.things)
                if person not in self.animal_of:
                    color_of_kind[kind] = pick(rng, COLORS)
                    self.animal_of[person] = Trait(len(self.facts), person, kind)
                    self.facts.append(f"{person} is a {kind}.")
            else:
                person = pick(rng, people)
                if person in self.animal_of and person not in self.color_of:
                    color = color_of_kind[self.animal_of[person].value]
                    self.color_of[person] = Trait(len(self.facts), person, color)
                    self.facts.append(f"{person} is {color}.")

    @property
    def asked(self) -> str:
        """The person whose color is not told."""
        return next(person for person in self.words.people if person not in self.color_of)

    @property
    def alike(self) -> list[Trait]:
        """The other people who are the same animal, in the order told."""
        kind = self.animal_of[self.asked].value
        return sorted(trait for person, trait in self.animal_of.items() if trait.value == kind and person != self.asked)


@dataclass(frozen=True)
class qa16:  # noqa: N801
    """What color is Greg? That of the other swan, the one called a swan last."""

    words: Words
    labels: tuple[str, ...] = COLORS
    num_questions: int = 1

    @property
    def max_n_facts(self) -> int:
        """Two for each person but one."""
        return 2 * len(self.words.people) - 1

    def new_world(self, rng: Draws) -> Colors:
        """See Task."""
        return Colors(self.words)

    def tell_and_ask(self, world: Colors, rng: Draws) -> Iterator[Question]:
        """See Task."""
        world.tell(rng)
        yield from self.every_question(world)

    def every_question(self, world: Colors) -> list[Question]:
        """See Task."""
        model = world.alike[-1]
        color = world.color_of[model.subject]
        text, kind = f"What color is {world.asked}?", world.animal_of[world.asked]
        return [make_question(world, text, color.value, kind, model, color)]


@dataclass
class Needs:
    """People who feel something, go somewhere for it and take something there (qa20).

    Sumit is tired. / Sumit went back to the bedroom. / Sumit grabbed the pajamas there.
    """

    words: Words
    facts: list[str] = field(default_factory=list)
    clauses: list[Trait] = field(default_factory=list)  # the facts that tell a mood
    mood_of: dict[str, Mood] = field(default_factory=dict)
    num_steps: dict[str, int] = field(default_factory=dict)  # of three that a person can make
    taken: set[str] = field(default_factory=set)

    def waiting(self) -> list[str]:
        """Return the people who have a step left; a thing is there for one."""
        return [person for person in self.words.people if self._can_step(person)]

    def _can_step(self, person: str) -> bool:
        num_steps = self.num_steps.get(person, 0)
        return num_steps < 2 or (num_steps == 2 and self.mood_of[person].thing not in self.taken)

    def step(self, rng: Draws, person: str) -> None:
        """Tell what a person does next."""
        num_steps = self.num_steps.get(person, 0)
        self.num_steps[person] = num_steps + 1
        if num_steps == 0:
            mood = self.mood_of[person] = pick(rng, MOODS)
            self.clauses.append(Trait(len(self.facts), person, mood.name))
            self.facts.append(f"{person} is {mood.name}.")
        elif num_steps == 1:
            self.facts.append(f"{person} {pick(rng, GO_VERBS)} to the {self.mood_of[person].place}.")
        else:
            self.taken.add(self.mood_of[person].thing)
            self.facts.append(f"{person} {pick(rng, GET_VERBS)} the {self.mood_of[person].thing} there.")


@dataclass(frozen=True)
class qa20:  # noqa: N801
    """Where will sumit go? Why did sumit go to the bedroom? Names are lower case in questions."""

    words: Words
    num_questions: None = None
    labels: tuple[str, ...] = (
        *sorted({mood.place for mood in MOODS}),
        *sorted(mood.name for mood in MOODS),
    )

    @property
    def max_n_facts(self) -> int:
        """Three for a person, but each thing is taken once."""
        return 2 * len(self.words.people) + min(len(MOODS), len(self.words.people))

    def new_world(self, rng: Draws) -> Needs:
        """See Task."""
        return Needs(self.words)

    def tell_and_ask(self, world: Needs, rng: Draws) -> Iterator[Question]:
        """See Task. Each fact is followed by its question."""
        while waiting := world.waiting():
            person = pick(rng, waiting)
            world.step(rng, person)
            yield self._about(world, person)[-1]

    def every_question(self, world: Needs) -> list[Question]:
        """See Task."""
        return different(question for person in world.mood_of for question in self._about(world, person))

    def _about(self, world: Needs, person: str) -> list[Question]:
        """Return the questions about all steps of a person so far, the latest last."""
        mood, name = world.mood_of[person], person.lower()
        told = next(trait for trait in world.clauses if trait.subject == person)
        asked = (
            (f"Where will {name} go?", mood.place),
            (f"Why did {name} go to the {mood.place}?", mood.name),
            (f"Why did {name} get the {mood.thing}?", mood.name),
        )
        return [make_question(world, text, answer, told) for text, answer in asked[: world.num_steps[person]]]

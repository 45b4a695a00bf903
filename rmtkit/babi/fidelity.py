"""How close generated stories are to the official ones: their sentences, words, and six distributions.

Two samples of stories differ even if they are made by the same rules. How much is found by relabelling: generated and
real stories are pooled and split anew at random into two samples of the same sizes; the largest distance in 12,000
such splits is what is allowed (a permutation test). Whole stories change sides, since the questions of a story hang
together. A right generator exceeds it in 1 of 12,000 comparisons, so in 1 % of runs over 20 tasks x 6 distributions.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from rmtkit.babi.generation import generate_story
from rmtkit.babi.reading import read_stories
from rmtkit.babi.story import Story

NUM_RELABELLINGS = 12_000  # 20 tasks x 6 distributions / 1 %
CHUNK = 250  # relabellings at once
ROUNDING = 1e-9  # two ways to the same distance differ by less
DISTRIBUTIONS = ("answers", "templates", "facts", "gaps", "ages", "supports")
# Written down here and not taken from the generators, whose words are to be checked.
_ITEMS = {
    "person": "John Mary Sandra Daniel Fred Bill Jeff Julie Gertrude Winona Jessica Emily Lily Bernhard Greg Brian "
    "Julius Jason Antoine Yann Sumit",
    "place": "bathroom bedroom garden hallway kitchen office cinema park school",
    "thing": "apple football milk pajamas",
    "animal": "wolf wolves sheep mouse mice cat cats swan lion frog rhino",
    "color": "white green yellow gray",
    "mood": "hungry thirsty bored tired",
    "shape": "red_square blue_square yellow_square pink_rectangle red_sphere triangle",
    "box": "chocolate box_of_chocolates box chest container suitcase",
}
_SLOT_OF = {item.replace("_", " ").lower(): slot for slot, items in _ITEMS.items() for item in items.split()}
_ITEM = re.compile(rf"\b({'|'.join(sorted(_SLOT_OF, key=len, reverse=True))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Comparison:
    """One distribution of generated stories against real ones; distances are total variation, 0 to 1."""

    distribution: str  # one of DISTRIBUTIONS
    distance: float  # generated stories to the training stories
    allowed: float  # the largest distance of two samples of these sizes from the same source
    chance: float  # share of such samples that are at least as far apart as the generated and the training stories
    small: float  # generated samples as large as the test file to the training stories: the mean of their distances
    test: float  # the test file to the training stories
    largest: str  # the values that differ most, "garden 0.21 real 0.17"

    @property
    def has_passed(self) -> bool:
        """Whether the distance is allowed."""
        return self.distance <= self.allowed + ROUNDING


@dataclass(frozen=True)
class Report:
    """How close the generator of one task is to the official files."""

    task: str
    num_generated: int  # stories
    num_train: int  # stories
    num_test: int  # stories
    questions_per_s: float  # of the generator, in one process, by its own CPU time
    comparisons: list[Comparison]
    differences: dict[str, list[str]]  # missing and extra templates and words; only those there are
    note: str  # what stood in for the training file

    @property
    def failures(self) -> list[str]:
        """What has failed, by name; empty if the task has passed."""
        return [*self.differences, *(each.distribution for each in self.comparisons if not each.has_passed)]


def check_task(
    task: str, path: str, *, num_stories: int, seed: int, num_relabellings: int = NUM_RELABELLINGS
) -> Report:
    """Compare `num_stories` generated stories of a task with the official files.

    Args:   path: as for `read_stories`.
    Raises: ValueError if the files are missing.
    """
    train, test, note = official_stories(path, task)
    rng, started = random.Random(f"{task}/{seed}"), time.process_time()
    generated = [generate_story(task, rng) for _ in range(num_stories)]
    seconds = time.process_time() - started
    draws = np.random.default_rng([seed, int(task.removeprefix("qa"))])
    return Report(
        task, len(generated), len(train), len(test),
        questions_per_s=sum(len(story.questions) for story in generated) / seconds,
        comparisons=compare(generated, train, test, draws, num_relabellings=num_relabellings),
        differences=differences(generated, train),
        note=note,
    )  # fmt: skip


def differences(generated: Sequence[Story], real: Sequence[Story]) -> dict[str, list[str]]:
    """Return the templates and words that only one side has, by name: "missing words", "extra templates" and so on."""
    found = {}
    for name, of in (("templates", templates), ("words", vocabulary)):
        ours, theirs = of(generated), of(real)
        found |= {f"missing {name}": sorted(theirs - ours), f"extra {name}": sorted(ours - theirs)}
    return {name: items for name, items in found.items() if items}


@cache
def template(text: str) -> str:
    """Return a sentence with names for its items: "Is <Person> in the <place>?".

    A slot keeps the case of what it stands for; an item that is named again becomes <same place>.
    """
    seen = set()

    def name(match: re.Match) -> str:
        item = match[0].lower()
        slot = f"same {_SLOT_OF[item]}" if item in seen else _SLOT_OF[item]
        seen.add(item)
        return f"<{slot.capitalize() if match[0][0].isupper() else slot}>"

    return _ITEM.sub(name, text)


def templates(stories: Sequence[Story]) -> set[str]:
    """Return the templates of all facts and questions."""
    return {template(text) for story in stories for text in _texts(story)}


def vocabulary(stories: Sequence[Story]) -> set[str]:
    """Return all words of facts, questions and answers, as they are written."""
    texts = {text for story in stories for text in (*_texts(story), *(q.answer for q in story.questions))}
    return {word for text in texts for word in re.findall(r"\w+", text)}


def compare(
    generated: Sequence[Story],
    train: Sequence[Story],
    test: Sequence[Story],
    rng: np.random.Generator,
    *,
    num_relabellings: int = NUM_RELABELLINGS,
) -> list[Comparison]:
    """Compare the distributions of generated stories with those of the official training file.

    The distributions are those of answers, templates, facts per story, facts between questions (those before the first
    one apart), facts told since a supporting fact, that one included, and supporting facts per question.

    Trap:   the allowance shrinks as the samples grow, so that a few thousand stories find what hundreds do not.
    """
    table = _tabulate((*generated, *train, *test))
    ours, theirs, held = np.split(table.counts, np.cumsum([len(generated), len(train)]))
    size = min(len(ours), len(held))
    parts = [ours[i : i + size] for i in range(0, len(ours) - size + 1, size)]
    distance = table.distances(ours.sum(0), theirs.sum(0))
    by_chance = _distances_by_chance(table, ours, theirs, rng, num_relabellings)
    columns = (
        distance,
        by_chance.max(0),
        (by_chance >= distance - ROUNDING).mean(0),
        np.mean([table.distances(part.sum(0), theirs.sum(0)) for part in parts], axis=0),
        table.distances(held[:size].sum(0), theirs.sum(0)),
    )
    largest = table.largest_differences(ours.sum(0), theirs.sum(0))
    rows = zip(DISTRIBUTIONS, *(column.tolist() for column in columns), largest, strict=True)
    return [Comparison(*row) for row in rows]


def official_stories(path: str, task: str) -> tuple[list[Story], list[Story], str]:
    """Read the training and the test stories of a task, and say what stood in for the former ("" if nothing did).

    Some copies lack a training file of en-10k: the different stories of its 1k version in en, and of the part of it in
    en-valid-10k that was held out for validation, serve then.
    """
    test = read_stories(path, task, "test")
    try:
        return read_stories(path, task, "train"), test, ""
    except ValueError:
        stories: dict[Story, None] = {}
        for folder, split in (("en", "train"), ("en-valid-10k", "valid")):
            if (Path(path) / folder).is_dir():
                stories |= dict.fromkeys(read_stories(Path(path) / folder, task, split))
        if not stories:
            raise
        note = f"{task}: no training file in en-10k; {len(stories)} different stories of en and en-valid-10k instead"
        return list(stories), test, note


@dataclass(frozen=True)
class _Table:
    """How often each story has each value; the columns of one distribution lie side by side."""

    values: list[str]  # of the columns
    starts: list[int]  # first column of each distribution
    counts: np.ndarray  # (stories, values)

    def shares(self, counts: np.ndarray) -> np.ndarray:
        """Divide counts (..., values) by the total of their distribution."""
        totals = np.add.reduceat(counts.astype(np.float64), self.starts, axis=-1)
        return counts / np.repeat(totals, np.diff([*self.starts, len(self.values)]), axis=-1)

    def distances(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the total variation distance (..., distributions) of counts (..., values)."""
        return np.add.reduceat(abs(self.shares(some) - self.shares(others)), self.starts, axis=-1) / 2

    def largest_differences(self, some: np.ndarray, others: np.ndarray) -> list[str]:
        """Name the two values of each distribution whose shares differ most."""
        some, others = self.shares(some), self.shares(others)
        found = []
        for columns in np.split(np.arange(len(self.values)), self.starts[1:]):
            most = sorted(columns, key=lambda i: -abs(some[i] - others[i]))[:2]
            found.append(", ".join(f"{self.values[i]}: {some[i]:.4f} real {others[i]:.4f}" for i in most))
        return found


def _texts(story: Story) -> tuple[str, ...]:
    return (*story.facts, *(q.text for q in story.questions))


def _values(story: Story) -> dict[str, list]:
    """The values of one story, by distribution."""
    told = [q.num_facts for q in story.questions]
    return {
        "answers": [q.answer for q in story.questions],
        "templates": [template(text) for text in _texts(story)],
        "facts": [len(story.facts)],
        "gaps": [f"first {told[0]}", *(b - a for a, b in pairwise(told))],
        "ages": [q.num_facts - i for q in story.questions for i in q.supporting],
        "supports": [len(q.supporting) for q in story.questions],
    }


def _tabulate(stories: Sequence[Story]) -> _Table:
    measured = [_values(story) for story in stories]
    column_of: dict[tuple, int] = {}
    starts = []
    for name in DISTRIBUTIONS:
        starts.append(len(column_of))
        for value in {value: None for values in measured for value in values[name]}:
            column_of[name, value] = len(column_of)
    counts = np.zeros((len(stories), len(column_of)), np.float32)
    for row, values in zip(counts, measured, strict=True):
        for name in DISTRIBUTIONS:
            for value in values[name]:
                row[column_of[name, value]] += 1
    return _Table([str(value) for _, value in column_of], starts, counts)


def _distances_by_chance(
    table: _Table, some: np.ndarray, others: np.ndarray, rng: np.random.Generator, num_relabellings: int
) -> np.ndarray:
    """The distances (relabellings, distributions) of stories that are split at random as `some` and `others` are."""
    counts, is_first = np.concatenate((some, others)), np.zeros(len(some) + len(others), np.float32)
    is_first[: len(some)] = 1
    total, found = counts.sum(0), []
    for done in range(0, num_relabellings, CHUNK):
        shape = min(CHUNK, num_relabellings - done), len(counts)
        first = rng.permuted(np.broadcast_to(is_first, shape), axis=1) @ counts
        found.append(table.distances(first, total - first))
    return np.concatenate(found)

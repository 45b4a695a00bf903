"""Generated stories as files that look like the official ones: which stories, under which names.

en-10k/qa7_counting_train.txt    10,000 questions
en-10k/qa7_counting_test.txt      1,000 questions
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from rmtkit.babi.generation import generate_story
from rmtkit.babi.source import split_of
from rmtkit.babi.story import Story

MAX_DRAWS = 10_000  # stories in a row that belong to the other split
OFFICIAL_SIZES = {"train": 10_000, "test": 1_000}  # questions
TITLES = {
    "qa1": "single-supporting-fact",
    "qa2": "two-supporting-facts",
    "qa3": "three-supporting-facts",
    "qa4": "two-arg-relations",
    "qa5": "three-arg-relations",
    "qa6": "yes-no-questions",
    "qa7": "counting",
    "qa8": "lists-sets",
    "qa9": "simple-negation",
    "qa10": "indefinite-knowledge",
    "qa11": "basic-coreference",
    "qa12": "conjunction",
    "qa13": "compound-coreference",
    "qa14": "time-reasoning",
    "qa15": "basic-deduction",
    "qa16": "basic-induction",
    "qa17": "positional-reasoning",
    "qa18": "size-reasoning",
    "qa19": "path-finding",
    "qa20": "agents-motivations",
}


def file_name(task: str, split: str) -> str:
    """Return the official name of the file of a task and split, such as qa7_counting_test.txt."""
    return f"{task}_{TITLES[task]}_{split}.txt"


def story(task: str, seed: int, index: int) -> Story:
    """Return a generated story: a pure function of task, seed and index, counted from 0 without end."""
    return generate_story(task, random.Random(f"{task}/{seed}/story/{index}"))


def stories(task: str, seed: int, split: str, num_questions: int) -> Iterator[Story]:
    """Yield the stories of a file with exactly `num_questions` questions; the last story is cut after its last one.

    Every story belongs to "train" (nine in ten) or "test" by the hash of its facts, so that no two files of different
    splits share one, whatever their seeds and sizes.

    Args:   split: "train" or "test".
    Raises: ValueError for another split, a number below 1, a task that has no generator, or one of so few different
            stories that none is of the split.
    """
    if split not in OFFICIAL_SIZES:
        raise ValueError(f"split {split!r} does not exist; a file is of split {', '.join(OFFICIAL_SIZES)}")
    if num_questions < 1:
        raise ValueError(f"num_questions is {num_questions}; expected at least 1")
    num_missing, num_waiting = num_questions, 0
    for index in count():
        drawn = story(task, seed, index)
        num_waiting += 1
        if (split_of(drawn.facts) == "test") is (split == "test"):
            drawn, num_waiting = _first_questions(drawn, num_missing), 0
            num_missing -= len(drawn.questions)
            yield drawn
        if not num_missing:
            return
        if num_waiting == MAX_DRAWS:
            raise ValueError(f"none of {MAX_DRAWS} stories of {task} in a row is of split {split!r}")


def _first_questions(told: Story, num_questions: int) -> Story:
    """Return a story up to its question of this number; a shorter one as it is."""
    if len(told.questions) <= num_questions:
        return told
    questions = told.questions[:num_questions]
    return replace(told, facts=told.facts[: questions[-1].num_facts], questions=questions)

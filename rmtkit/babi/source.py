"""Where problems come from: generated without end, or recorded in the official files. Both are asked the same way."""

from __future__ import annotations

import functools
import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

from rmtkit.babi.generation import check_same_world, generate_problem, with_any_first
from rmtkit.babi.reading import has_stories, read_stories
from rmtkit.babi.story import Problem, Story, problems
from rmtkit.babi.tasks import ORIGINAL, Variation, find_task

SPLITS = ("train", "validation", "test")
NUM_PROBES = 200  # problems looked at for how short they can be
_SPLIT_OF_BUCKET = ("train",) * 8 + ("validation", "test")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; the splits are {', '.join(SPLITS)}")


def _bucket(facts: tuple[str, ...], num_buckets: int) -> int:
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % num_buckets


def split_of(facts: tuple[str, ...]) -> str:
    """Return the split that generated problems with these facts belong to, whatever their seed."""
    return _SPLIT_OF_BUCKET[_bucket(facts, len(_SPLIT_OF_BUCKET))]


def _is_too_long(facts: tuple[str, ...], max_n_facts: int | None) -> bool:
    return max_n_facts is not None and len(facts) > max_n_facts


class GeneratedProblems:
    """Problems drawn from the rules of bAbI, as many as wanted.

    No two splits ever share the facts of a problem, whatever the seeds: the facts' hash decides where they belong
    (80 % train, 10 % validation, 10 % test), and a problem is drawn anew until it belongs to the split asked for.

    Args: max_n_facts: problems with more facts are drawn anew (the authors count the question too).
          variation: harder worlds, other words, balanced answers.
          also_ask: tasks of the same world, whose kinds of questions are among the further ones of a problem.
          shuffle_questions: the first of several questions is any of them; see `with_any_first`.
    """

    def __init__(self, task: str, *, seed: int, max_n_facts: int | None = None, variation: Variation = ORIGINAL,
                 also_ask: tuple[str, ...] = (), shuffle_questions: bool = False):  # fmt: skip
        find_task(task, variation)
        check_same_world(task, also_ask)
        if max_n_facts is not None and max_n_facts < variation.min_n_facts:
            raise ValueError(f"max_n_facts {max_n_facts} is below min_n_facts {variation.min_n_facts}")
        self.task = task
        self.seed = seed
        self.max_n_facts = max_n_facts
        self.variation = variation
        self.also_ask = also_ask
        self.shuffle_questions = shuffle_questions

    @functools.cached_property
    def fewest_facts(self) -> int:
        """The facts of the shortest of the first `NUM_PROBES` training problems: 2 in qa1, 9 in qa16."""
        return min(len(self.problem("train", index).facts) for index in range(NUM_PROBES))

    def has_split(self, split: str) -> bool:
        """True: every split is drawn from the rules."""
        _check_split(split)
        return True

    def num_problems(self, split: str) -> None:
        """None: there is no end."""
        _check_split(split)

    def problem(
        self,
        split: str,
        index: int,
        *,
        num_extra_questions: int = 0,
        num_questions_between: int = 0,
        max_n_facts: int | None = None,
    ) -> Problem:
        """The problem with this index: a pure function of task, seed, split and index.

        Args: index from 0, without end;  num_extra_questions, num_questions_between: see `generate_problem`; the facts
              and the first question do not depend on them;  max_n_facts: a limit below that of all problems.
        """
        _check_split(split)
        rng = random.Random(f"{self.task}/{self.seed}/{split}/{index}")
        problem = generate_problem(
            self.task,
            rng,
            num_extra_questions=num_extra_questions,
            num_questions_between=num_questions_between,
            max_n_facts=min((n for n in (self.max_n_facts, max_n_facts) if n is not None), default=None),
            is_wanted=lambda facts: split_of(facts) == split,
            variation=self.variation,
            also_ask=self.also_ask,
        )
        return with_any_first(problem, rng) if self.shuffle_questions else problem


class RecordedProblems:
    """Problems of the official files, in the same splits.

    "test" is the official test file; "train" and "validation" are nine and one tenth of the stories of the training
    file, by the hash of their facts: equal stories fall on one side. Each file is read when it is first needed.

    Trap: the official training and test files are not disjoint. 988 of the 1,000 test stories of qa4 tell the facts of
    a training story, 741 of them with the same question; in qa17 it is 29 of 125. In the other tasks no story is
    shared, but beginnings of a few facts are: 26 of the 1,000 test questions of qa1 follow facts seen in training.
    """

    def __init__(self, path: str | os.PathLike, task: str, *, seed: int, max_n_facts: int | None = None):
        if Path(path).suffix == ".txt":
            raise ValueError(f"{str(path)!r} is one file, expected a folder or archive with a training and a test file")
        self.path = path
        self.task = task
        self.seed = seed
        self.max_n_facts = max_n_facts  # problems with more facts are left out
        self._recorded: dict[str, list[Problem]] = {}  # by split

    def has_split(self, split: str) -> bool:
        """Return whether there is a file for it: those who only test may have no training file."""
        _check_split(split)
        return has_stories(self.path, self.task, "test" if split == "test" else "train")

    def num_problems(self, split: str) -> int:
        """How many there are; indices beyond start again from the first."""
        return len(self._problems(split))

    def problem(
        self, split: str, index: int, *, num_extra_questions: int = 0, num_questions_between: int = 0
    ) -> Problem:
        """The problem with this index, modulo their number.

        The seed decides the order of "train"; the others are in the order of the file.
        Args: num_extra_questions, num_questions_between: ignored; a recorded problem has its one question.
        """
        recorded = self._problems(split)
        return recorded[index % len(recorded)]

    def _problems(self, split: str) -> list[Problem]:
        _check_split(split)
        if split not in self._recorded:
            self._read("test" if split == "test" else "train")
        if not self._recorded[split]:
            raise ValueError(f"split {split!r} of {str(self.path)!r} holds no question of {self.task}")
        return self._recorded[split]

    def _read(self, file_split: str) -> None:
        stories = read_stories(self.path, self.task, file_split)
        if file_split == "test":
            self._recorded["test"] = [p for story in stories for p in self._short_problems(story)]
            return
        train: list[Problem] = []
        validation: list[Problem] = []
        for story in stories:
            is_validation = _bucket(story.facts, 10) == 0
            (validation if is_validation else train).extend(self._short_problems(story))
        rng = random.Random(f"{self.task}/{self.seed}")
        self._recorded["train"] = sorted(train, key=lambda _: rng.random())
        self._recorded["validation"] = validation

    def _short_problems(self, story: Story) -> list[Problem]:
        return [problem for problem in problems(story) if not _is_too_long(problem.facts, self.max_n_facts)]


class MixedProblems:
    """Problems of several tasks in turn, for a model of more than one task.

    Generated problems alternate without end. Of recorded ones each comes once; the tasks alternate until the smaller
    are used up.

    Args: sources: one for each task, either all generated or all recorded.
    """

    def __init__(self, sources: Sequence[GeneratedProblems] | Sequence[RecordedProblems]):
        self.sources = tuple(sources)
        self.max_n_facts = self.sources[0].max_n_facts
        self._places: dict[str, list[tuple[int, int]]] = {}  # by split: source and index of each recorded problem

    @property
    def fewest_facts(self) -> int:
        """The facts of the shortest problem of any task."""
        return min(source.fewest_facts for source in self.sources)

    def has_split(self, split: str) -> bool:
        """Return whether every task has it."""
        return all(source.has_split(split) for source in self.sources)

    def num_problems(self, split: str) -> int | None:
        """How many there are; None if there is no end."""
        sizes = [source.num_problems(split) for source in self.sources]
        return None if None in sizes else sum(sizes)

    def problem(self, split: str, index: int, **asked) -> Problem:
        """The problem with this index; the options are those of the sources.

        Args: max_n_facts: a limit below that of all problems; a task whose problems all have more takes its shortest.
        """
        if self.num_problems(split) is None:
            source = self.sources[index % 2**40 % len(self.sources)]
            if asked.get("max_n_facts"):
                asked["max_n_facts"] = max(asked["max_n_facts"], source.fewest_facts)
            return source.problem(split, index, **asked)
        if split not in self._places:
            places = [(i, n) for n, source in enumerate(self.sources) for i in range(source.num_problems(split))]
            self._places[split] = sorted(places)
        within, number = self._places[split][index % len(self._places[split])]
        return self.sources[number].problem(split, within, **asked)

"""Stories and problems drawn from the rules that the bAbI files were made by."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from rmtkit.babi.story import Problem, Question, Story
from rmtkit.babi.task import Task, World
from rmtkit.babi.tasks import ORIGINAL, TASKS, Variation, find_task
from rmtkit.babi.words import Draws, pick

MAX_DRAWS = 20_000  # problems drawn in search of one that is wanted
MAX_FACTS = 1_000  # told in search of as many different answers as are wanted
LABELS = {name: find_task(name).labels for name in TASKS}  # all answers of a task, as they are written


def generate_story(task: str, rng: Draws, variation: Variation = ORIGINAL) -> Story:
    """Draw one story with the distribution of the official files: five questions in most tasks.

    1 Mary got the milk there.
    2 Mary travelled to the hallway.
    3 Where is the milk?    hallway    1 2
    4 Mary left the milk. ...

    Args:   task: one of TASKS;  rng: `random.Random` (faster) or `numpy.random.Generator`;  variation: its words; the
            number of facts and the balance of answers are those of problems, not of stories.
    Raises: ValueError for a task that does not exist.
    """
    rules = find_task(task, variation)
    world = rules.new_world(rng)
    questions = tuple(islice(filter(None, rules.tell_and_ask(world, rng)), rules.num_questions))
    return Story(task, tuple(world.facts), questions)


def generate_problem(
    task: str,
    rng: Draws,
    *,
    num_extra_questions: int = 0,
    num_questions_between: int = 0,
    max_n_facts: int | None = None,
    is_wanted: Callable[[tuple[str, ...]], bool] = lambda facts: True,
    variation: Variation = ORIGINAL,
    also_ask: tuple[str, ...] = (),
) -> Problem:
    """Draw one problem: a question of a story, all its questions equally likely, and the facts before it.

    facts: Mary got the milk there. Mary travelled to the hallway.    question: Where is the milk? hallway (0, 1)

    Args:   num_extra_questions: at most so many different questions more of the task's kind that the same facts answer,
            in random order. num_questions_between: at most so many at each point of the story where a question would
            be asked, the last included; a question may come up again, the first one too. Neither changes the facts
            or the first question.
            also_ask: tasks of the same world (`check_same_world`), whose questions are among those further ones.
            max_n_facts: the problem is drawn anew if it has more facts, which is noticed while it is told.
            is_wanted: given the facts of a problem; the problem is drawn anew until it says yes.
    Raises: ValueError for a task that does not exist or has no such variation, or if nothing wanted comes up in
            MAX_DRAWS draws or, where many answers are wanted, MAX_FACTS facts.
    Trap:   in qa5 a first question "What did Fred give to Jeff?" may mean an older gift, as in the official files
            (0.2 % of answers). Extra questions never do.
    """
    rules, others = find_task(task, variation), random.Random(rng.random())
    kinds = [rules, *(find_task(name) for name in also_ask)]
    answer = pick(rng, rules.labels) if variation.balance_answers else None
    for _ in range(MAX_DRAWS):
        world, question, earlier = _draw(kinds, rng, others, num_questions_between, variation, max_n_facts or math.inf)
        if question and answer in (None, question.answer) and is_wanted(tuple(world.facts)):
            possible = _every_question(kinds, world)
            earlier += _some_of(possible, num_questions_between, others)
            extra = _some_of([q for q in possible if q.text != question.text], num_extra_questions, others)
            return Problem(task, tuple(world.facts), (question, *extra), tuple(earlier))
    raise ValueError(f"none of {MAX_DRAWS} problems of {task} is as wanted; ask for less (other numbers of facts)")


def with_any_first(problem: Problem, rng: Draws) -> Problem:
    """Return a problem with its questions in random order.

    What bAbI asks first is about what has just been told: a model can guess it, and never reads the question.
    """
    return replace(problem, questions=tuple(_some_of(problem.questions, len(problem.questions), rng)))


def check_same_world(task: str, also_ask: tuple[str, ...]) -> None:
    """Raise ValueError unless the stories of `task` can be asked the questions of the other tasks, too."""
    for name in also_ask:
        rng = random.Random(0)
        if type(find_task(task).new_world(rng)) is not type(find_task(name).new_world(rng)):
            raise ValueError(f"stories of {task} cannot be asked what {name} asks: they tell of other things")


def _every_question(kinds: list[Task], world: World) -> list[Question]:
    """Return all questions that the facts answer, each text once."""
    return list({q.text: q for rules in reversed(kinds) for q in rules.every_question(world)}.values())


def _draw(
    kinds: list[Task], rng: Draws, others: Draws, num_questions_between: int, variation: Variation, max_n_facts: float
) -> tuple[World, Question | None, list[Question]]:
    """Tell a story up to one of its questions, or on until it has enough facts and answers. What follows is not drawn.

    The question is None if the story ends or has too many facts before. It is of the first kind.
    """
    rules = kinds[0]
    if rules.num_questions is None:
        seed = rng.random()
        whole = random.Random(seed)
        num_questions = sum(1 for _ in filter(None, rules.tell_and_ask(rules.new_world(whole), whole)))
        chosen, rng = int(rng.random() * num_questions), random.Random(seed)
        world = rules.new_world(rng)
    else:
        world = rules.new_world(rng)
        chosen = int(rng.random() * rules.num_questions)
    earlier: dict[int, list[Question]] = {}  # by number of facts
    number = -1
    for question in rules.tell_and_ask(world, rng):
        if len(world.facts) > max_n_facts:
            break
        if question is None:
            continue
        number += 1
        has_enough = question.num_facts >= variation.min_n_facts and _has_answers(rules, world, variation.min_n_answers)
        if number >= chosen and has_enough:
            earlier.pop(question.num_facts, None)
            return world, question, [q for asked in earlier.values() for q in asked]
        if num_questions_between and question.num_facts not in earlier:
            earlier[question.num_facts] = _some_of(_every_question(kinds, world), num_questions_between, others)
    return world, None, []


def _has_answers(rules: Task, world: World, min_n_answers: int) -> bool:
    if min_n_answers == 1:
        return True
    num_answers = len({question.answer for question in rules.every_question(world)})
    if num_answers < min_n_answers and len(world.facts) >= MAX_FACTS:
        raise ValueError(f"min_n_answers is {min_n_answers}; such stories have {num_answers} at a time, take fewer")
    return num_answers >= min_n_answers


def _some_of(questions: Sequence[Question], count: int, rng: Draws) -> list[Question]:
    left, chosen = list(questions), []
    while left and len(chosen) < count:
        chosen.append(left.pop(int(rng.random() * len(left))))
    return chosen

"""Stories and problems drawn from the rules that the bAbI files were made by (tasks 1 to 5)."""

from __future__ import annotations

import random
from collections.abc import Callable

from rmtkit.babi.story import Problem, Question, Story
from rmtkit.babi.tasks import TASK_BY_NAME, Task, World, ask, every_question
from rmtkit.babi.worlds import Draws

MAX_DRAWS = 20_000  # problems drawn in search of one that is wanted
TASKS = tuple(TASK_BY_NAME)  # the tasks that have a generator
LABELS = {name: task.labels for name, task in TASK_BY_NAME.items()}  # all answers of a task, as they are written


def generate_story(task: str, rng: Draws) -> Story:
    """Draw one story with the distribution of the official files: five questions, one in qa4.

    1 Mary got the milk there.
    2 Mary travelled to the hallway.
    3 Where is the milk?    hallway    1 2
    4 Mary left the milk. ...

    Args:   task: one of TASKS;  rng: `random.Random` (faster) or `numpy.random.Generator`.
    Raises: ValueError for a task that has no generator.
    """
    rules = _rules_of(task)
    world = rules.new_world(rng)
    questions = tuple(_next_question(rules, world, rng) for _ in range(rules.num_questions))
    return Story(task, tuple(world.facts), questions)


def generate_problem(
    task: str,
    rng: Draws,
    *,
    num_extra_questions: int = 0,
    num_questions_between: int = 0,
    is_wanted: Callable[[tuple[str, ...]], bool] = lambda facts: True,
) -> Problem:
    """Draw one problem: a question of a story, all its questions equally likely, and the facts before it.

    facts: Mary got the milk there. Mary travelled to the hallway.    question: Where is the milk? hallway (0, 1)

    Args:   num_extra_questions: at most so many different questions more of the task's kind that the same facts answer,
            in random order. num_questions_between: at most so many at each point of the story where a question would
            be asked, the last included; a question may come up again. Neither changes the facts or the first question.
            is_wanted: given the facts of a problem; the problem is drawn anew until it says yes.
    Raises: ValueError for a task that has no generator, or if nothing wanted comes up in MAX_DRAWS draws.
    Trap:   in qa5 a first question "What did Fred give to Jeff?" may mean an older gift, as in the official files
            (0.2 % of answers). Extra questions never do.
    """
    rules, others = _rules_of(task), random.Random(rng.random())
    for _ in range(MAX_DRAWS):
        world, question, earlier = _draw(rules, rng, others, num_questions_between)
        if is_wanted(tuple(world.facts)):
            earlier += _some_of(every_question(rules, world), num_questions_between, others)
            extra = _some_of(every_question(rules, world), num_extra_questions, others, without=question)
            return Problem(task, tuple(world.facts), (question, *extra), tuple(earlier))
    raise ValueError(f"none of {MAX_DRAWS} problems of {task} is as wanted; ask for less (a larger max_n_facts)")


def check_task(task: str) -> None:
    """Raise ValueError if the task has no generator."""
    if task not in TASK_BY_NAME:
        raise ValueError(f"task {task!r} has no generator; those that have one: {', '.join(TASKS)}")


def _rules_of(task: str) -> Task:
    check_task(task)
    return TASK_BY_NAME[task]


def _next_question(rules: Task, world: World, rng: Draws) -> Question:
    """Tell facts until a question is possible, and ask it."""
    while True:
        world.tell(rng)
        question = ask(rules, world, rng)
        if question:
            return question


def _draw(rules: Task, rng: Draws, others: Draws, num_questions_between: int) -> tuple[World, Question, list[Question]]:
    """Tell a story up to one of its questions. What would follow is not drawn."""
    world, earlier = rules.new_world(rng), []
    for _ in range(int(rng.random() * rules.num_questions)):
        _next_question(rules, world, rng)
        if num_questions_between:
            earlier += _some_of(every_question(rules, world), num_questions_between, others)
    return world, _next_question(rules, world, rng), earlier


def _some_of(questions: list[Question], count: int, rng: Draws, *, without: Question | None = None) -> list[Question]:
    others = [q for q in questions if without is None or q.text != without.text]
    chosen = []
    while others and len(chosen) < count:
        chosen.append(others.pop(int(rng.random() * len(others))))
    return chosen

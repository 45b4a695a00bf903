"""Scoring rules: whether the text of an answer is right. Every number names the rule that it was scored by.

| rule | right if | whose |
|---|---|---|
| exact_match | the answer is the target | fine-tuned models (2402.10790) |
| babilong_labels | of the task's labels, its first sentence names the target alone | Kuratov et al. 2024 (2406.10149) |
| substring | its first sentence contains the target | the same until June 2024 |
| lm_eval | it contains the target, anywhere | lm-evaluation-harness, task babilong (0.4.13) |

Results under different rules are not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from rmtkit.babi import LABELS

LONGEST_PAIR = 3  # characters: "s,w" (qa19) is one label, "apple,milk" (qa8) a list of labels
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f]")


def exact_match(answer: str, target: str) -> bool:
    """Return whether the answer is the target, to the letter."""
    return answer == target


def babilong_labels(answer: str, question: str, target: str, labels: Collection[str]) -> bool:
    """Return whether the target is the only label of the task that the first sentence names.

    Upper and lower case are the same. Labels that the question names do not count. A target that is a list, as in qa8
    ("apple,milk"), must be named completely, in any order, and nothing else.

    Args:   labels: all answers of the task, see `labels_of`.
    Source: babilong/metrics.py of booydar/babilong.
    Trap:   a label is found anywhere, inside of words too, as in the benchmark's code. So the target "none" of qa7 is
            never right ("one" is in it), "I do not know" says "no", "e, n" says nothing (the label is "e,n"), and
            a target that the question names is never right.
    """
    said, asked = first_sentence(answer), question.lower()
    labels = {label.lower() for label in labels}
    named = {label for label in labels if label in said and label not in asked}
    return named == set(_parts(target.lower()))


def substring(answer: str, target: str) -> bool:
    """Return whether the first sentence contains the target; upper and lower case are the same.

    Source: babilong/babilong_utils.py of booydar/babilong.
    """
    return target.lower() in first_sentence(answer)


def lm_eval(answer: str, target: str) -> bool:
    """Return whether the whole answer contains the target; upper and lower case are the same.

    Source: process_results of lm_eval/tasks/babilong/common_utils.py, 0.4.13, control characters included.
    Trap:   "no" is in "I do not know", "one" in "none"; a list of labels must be in the order of the target.
    """
    return target.strip().lower() in CONTROL_CHARACTER.sub("\n", answer).lower()


def first_sentence(answer: str) -> str:
    """Return what the benchmark reads of an answer: lower-cased, up to a full stop or a made-up further example.

    Trap: the benchmark also cuts at "Question", after lower-casing, which therefore never happens.
    """
    text = answer.lower()
    for end in (".", "<context>", "<example>"):
        text = text.partition(end)[0]
    return text


def labels_of(task: str) -> tuple[str, ...]:
    """Return the labels of a task: its answers, lists taken apart (qa8: apple, football, milk, nothing).

    Raises: ValueError for an unknown task.
    """
    if task not in LABELS:
        raise ValueError(f"task {task!r} has no labels; tasks that have: {', '.join(LABELS)}")
    return tuple(sorted({part for label in LABELS[task] for part in _parts(label)}))


def score(rule: str, answer: str, *, question: str, target: str, task: str) -> bool:
    """Return whether an answer is right by the rule with this name.

    Raises: ValueError if there is no such rule, or no labels of the task where the rule needs them.
    """
    check_rule(rule)
    return SCORING_RULES[rule](answer, question, target, task)


def check_rule(rule: str) -> None:
    """Raise ValueError if there is no such rule."""
    if rule not in SCORING_RULES:
        raise ValueError(f"scoring rule {rule!r} does not exist; rules: {', '.join(SCORING_RULES)}")


def _parts(target: str) -> list[str]:
    return target.split(",") if len(target) > LONGEST_PAIR else [target]


SCORING_RULES: dict[str, Callable[[str, str, str, str], bool]] = {  # of answer, question, target and task
    "exact_match": lambda answer, question, target, task: exact_match(answer, target),
    "babilong_labels": lambda answer, question, target, task: babilong_labels(
        answer, question, target, labels_of(task)
    ),
    "substring": lambda answer, question, target, task: substring(answer, target),
    "lm_eval": lambda answer, question, target, task: lm_eval(answer, target),
}

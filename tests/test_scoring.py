"""Scoring rules: a table of cases for each, and the labels of every task."""

import pytest

from rmtkit.babi import LABELS
from rmtkit.scoring import SCORING_RULES, babilong_labels, exact_match, first_sentence, labels_of, score, substring

PLACES = "bathroom bedroom garden hallway kitchen office"
BENCHMARK_LABELS = {  # of booydar/babilong, babilong/metrics.py
    **{f"qa{number}": PLACES for number in (1, 2, 3, 4, 11, 12, 13)},
    **{f"qa{number}": "no yes" for number in (6, 9, 17, 18)},
    "qa5": "Bill Fred Jeff Mary apple football milk",
    "qa7": "none one two three",
    "qa8": "apple football milk nothing",
    "qa10": "maybe no yes",
    "qa14": "bedroom cinema kitchen office park school",
    "qa15": "cat mouse sheep wolf",
    "qa16": "gray green white yellow",
    "qa19": "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w",
    "qa20": "bedroom bored garden hungry kitchen thirsty tired",
}
WHERE, CARRYING, WHO = "Where is Mary?", "What is Mary carrying?", "Who gave the milk to Jeff?"
COUNT, WAY = "How many objects is Mary carrying?", "How do you go from a to b?"
BEFORE = "Where was the milk before the garden?"
CASES = [  # task, question, target, answer, right by babilong_labels, right by substring
    ("qa1", WHERE, "garden", "garden", True, True),
    ("qa1", WHERE, "garden", " Garden", True, True),
    ("qa1", WHERE, "garden", "Mary is in the garden.", True, True),
    ("qa1", WHERE, "garden", "The garden. She left the office.", True, True),
    ("qa1", WHERE, "garden", "She left the office. Now the garden.", False, False),
    ("qa1", WHERE, "garden", "the garden or the office", False, True),
    ("qa1", WHERE, "garden", "the garden, yes the garden", True, True),
    ("qa1", WHERE, "garden", "gardens", True, True),
    ("qa1", WHERE, "garden", "office", False, False),
    ("qa1", WHERE, "garden", "", False, False),
    ("qa1", WHERE, "garden", ".garden", False, False),
    ("qa1", WHERE, "garden", "garden<context>office", True, True),
    ("qa1", WHERE, "garden", "garden <example> Mary went to the office", True, True),
    ("qa1", WHERE, "garden", "garden Question: is it the office?", False, True),
    ("qa3", BEFORE, "office", "office, before the garden", True, True),
    ("qa3", BEFORE, "garden", "garden", False, True),
    ("qa5", WHO, "Fred", "fred gave the milk to jeff", True, True),
    ("qa5", WHO, "Fred", "Bill", False, False),
    ("qa5", WHO, "Fred", "Fred gave the apple to Jeff", False, True),
    ("qa6", "Is Mary in the office?", "no", "I do not know", True, True),
    ("qa6", "Is Mary in the office?", "yes", "yes, I know", False, True),
    ("qa6", "Is Mary in the office?", "yes", "Yes", True, True),
    ("qa7", COUNT, "one", "one", True, True),
    ("qa7", COUNT, "none", "none", False, True),
    ("qa7", COUNT, "one", "none", False, True),
    ("qa7", COUNT, "two", "2", False, False),
    ("qa8", CARRYING, "apple,milk", "apple,milk", True, True),
    ("qa8", CARRYING, "apple,milk", "milk and apple", True, False),
    ("qa8", CARRYING, "apple,milk", "apple", False, False),
    ("qa8", CARRYING, "apple,milk", "apple, milk, football", False, False),
    ("qa8", CARRYING, "apple", "apple,milk", False, True),
    ("qa8", CARRYING, "nothing", "Nothing", True, True),
    ("qa19", WAY, "s,w", "s,w", True, True),
    ("qa19", WAY, "s,w", "s, w", False, False),
    ("qa19", WAY, "s,w", "w,s", False, False),
    ("qa19", WAY, "s,w", "s,w,n", False, True),
    ("qa19", WAY, "e,e", "e,e", True, True),
]


def labels(task):
    return BENCHMARK_LABELS[task].split()


@pytest.mark.parametrize("task, question, target, answer, by_labels, by_substring", CASES)
def test_rules_score_as_the_benchmark(task, question, target, answer, by_labels, by_substring):
    assert babilong_labels(answer, question, target, labels(task)) is by_labels
    assert substring(answer, target) is by_substring


@pytest.mark.parametrize("task, question, target, answer, by_labels, by_substring", CASES)
def test_babilong_labels_equals_the_rule_spelt_out(task, question, target, answer, by_labels, by_substring):
    found = {label for label in labels(task) if label.lower() in first_sentence(answer)}
    found -= {label for label in labels(task) if label.lower() in question.lower()}
    wanted = target.split(",") if "," in target and len(target) > 3 else [target]
    is_right = all(part in found for part in wanted) and len(found) == len(wanted)
    assert babilong_labels(answer, question, target, labels(task)) is is_right


@pytest.mark.parametrize(
    "answer, is_right",
    [("garden", True), ("Garden", False), ("garden.", False), ("the garden", False), ("garden...", False), ("", False),
     ("gard", False), (" garden", False)],
)  # fmt: skip
def test_exact_match_is_equality(answer, is_right):
    assert exact_match(answer, "garden") is is_right


@pytest.mark.parametrize("task", LABELS)
def test_labels_of_are_those_of_the_benchmark(task):
    assert set(labels_of(task)) == set(labels(task))


def test_labels_of_takes_lists_apart(monkeypatch):
    monkeypatch.setitem(LABELS, "qa8", ("nothing", "apple", "milk", "apple,milk", "milk,apple"))
    monkeypatch.setitem(LABELS, "qa19", ("e,e", "s,w"))
    assert labels_of("qa8") == ("apple", "milk", "nothing") and labels_of("qa19") == ("e,e", "s,w")


@pytest.mark.parametrize("rule, is_right", [("exact_match", False), ("babilong_labels", False), ("substring", True)])
def test_score_takes_the_rule_by_name(rule, is_right):
    assert set(SCORING_RULES) == {"exact_match", "babilong_labels", "substring"}
    assert score(rule, "garden or office", question=WHERE, target="garden", task="qa1") is is_right


def test_score_by_labels_ignores_what_the_question_names():
    asked = {"question": BEFORE, "target": "office", "task": "qa3"}
    assert score("babilong_labels", "the office, then the garden", **asked)
    assert not score("babilong_labels", "the office, then the kitchen", **asked)


def test_score_refuses_an_unknown_rule_and_an_unknown_task():
    asked = {"question": WHERE, "target": "garden"}
    with pytest.raises(ValueError, match="rules: exact_match, babilong_labels, substring"):
        score("fuzzy", "garden", task="qa1", **asked)
    with pytest.raises(ValueError, match="'qa99' has no labels; tasks that have: qa1"):
        score("babilong_labels", "garden", task="qa99", **asked)

"""Scoring rules: one table of answers that each rule finds right or wrong, and the labels of every task."""

from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtkit.babi import LABELS
from rmtkit.scoring import (
    SCORING_RULES,
    babilong_labels,
    exact_match,
    first_sentence,
    labels_of,
    lm_eval,
    score,
    substring,
)

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
COUNT, WAY, MOOD = (
    "How many objects is Mary carrying?",
    "How do you go from the office to the park?",
    "Why did yann go?",
)
IS_IT, BEFORE = "Is Mary in the office?", "Where was the milk before the garden?"
GIFT, SOUTH, FEAR = "What did Fred give to Bill?", "What is the garden south of?", "What is emily afraid of?"
# who finds the answer right: B babilong_labels, S substring (first sentence), L lm_eval (anywhere), E exact_match
TABLE = [  # task, question, target, answer, right by
    ("qa1", WHERE, "garden", "garden", "BSLE"),
    ("qa1", WHERE, "garden", "office", ""),
    ("qa1", WHERE, "garden", "", ""),  # nothing was said
    ("qa1", WHERE, "garden", "   \n", ""),
    ("qa1", WHERE, "garden", " garden", "BSL"),
    ("qa1", WHERE, "garden", "Garden", "BSL"),  # capitals
    ("qa1", WHERE, "garden", "GARDEN!", "BSL"),
    ("qa1", WHERE, "garden", "garden.", "BSL"),
    ("qa1", WHERE, "garden", "Mary is in the garden.", "BSL"),  # a whole sentence
    ("qa1", WHERE, "garden", "**Answer:** garden", "BSL"),
    ("qa1", WHERE, "garden", "The garden. She left the office.", "BSL"),  # several sentences: the first one counts
    ("qa1", WHERE, "garden", "She left the office. Now the garden.", "L"),
    ("qa1", WHERE, "garden", "I will look at the facts. Garden", "L"),
    ("qa1", WHERE, "garden", ".garden", "L"),
    ("qa1", WHERE, "garden", "Dr. Mary is in the garden", "L"),  # any full stop ends it
    ("qa1", WHERE, "garden", "garden\n\noffice", "SL"),  # a line does not
    ("qa1", WHERE, "garden", "garden! Not the office", "SL"),  # nor another mark
    ("qa1", WHERE, "garden", "the garden or the office", "SL"),  # two labels
    ("qa1", WHERE, "garden", "the garden, yes the garden", "BSL"),  # one label, twice
    ("qa1", WHERE, "garden", "gardens", "BSL"),  # inside of a word
    ("qa1", WHERE, "garden", "a gardener", "BSL"),
    ("qa1", WHERE, "garden", "gar den", ""),
    ("qa1", WHERE, "office", "an officer in the garden", "SL"),  # both found inside of words or not
    ("qa1", WHERE, "garden", "not in the garden", "BSL"),  # what is said of it is not read
    ("qa1", WHERE, "garden", "garden<context>office", "BSL"),  # a made-up further example
    ("qa1", WHERE, "garden", "garden <example> Mary went to the office", "BSL"),
    ("qa1", WHERE, "garden", "<context>garden", "L"),
    ("qa1", WHERE, "garden", "office<example>garden", "L"),
    ("qa1", WHERE, "garden", "garden <CONTEXT> office", "BSL"),  # lower-cased before it is cut
    ("qa1", WHERE, "garden", "garden Question: is it the office?", "SL"),  # and so "Question" never cuts
    ("qa1", WHERE, "garden", "garden question: is it the office?", "SL"),
    ("qa1", WHERE, "garden", "garden\nQuestion: Where is John?", "BSL"),
    ("qa3", BEFORE, "office", "office, before the garden", "BSL"),  # labels that the question names do not count
    ("qa3", BEFORE, "office", "before the garden, the office and the kitchen", "SL"),
    ("qa3", BEFORE, "garden", "garden", "SLE"),  # not even as the target
    ("qa4", SOUTH, "bedroom", "The garden is south of the bedroom", "BSL"),
    ("qa5", WHO, "Fred", "Fred", "BSLE"),
    ("qa5", WHO, "Fred", "fred gave the milk to jeff", "BSL"),  # the others are in the question
    ("qa5", WHO, "Fred", "Fred gave the apple to Jeff", "SL"),
    ("qa5", WHO, "Fred", "Bill", ""),
    ("qa5", WHO, "Fred", "Bill, not Fred", "SL"),
    ("qa5", GIFT, "football", "Fred gave Bill a football", "BSL"),
    ("qa5", GIFT, "apple", "a pineapple", "BSL"),
    ("qa6", IS_IT, "yes", "Yes", "BSL"),
    ("qa6", IS_IT, "yes", "yes, I know", "SL"),  # "no" is in "know"
    ("qa6", IS_IT, "no", "I do not know", "BSL"),
    ("qa6", IS_IT, "no", "It is not known", "BSL"),
    ("qa6", IS_IT, "no", "Yes. No", "L"),
    ("qa6", IS_IT, "yes", "It was so yesterday", "BSL"),  # "yes" is in "yesterday"
    ("qa6", IS_IT, "no", "false", ""),
    ("qa7", COUNT, "one", "one", "BSLE"),
    ("qa7", COUNT, "none", "none", "SLE"),  # "one" is in "none": never right by labels
    ("qa7", COUNT, "one", "none", "SL"),  # and right by the other two
    ("qa7", COUNT, "one", "None", "SL"),
    ("qa7", COUNT, "one", "someone has it", "BSL"),
    ("qa7", COUNT, "two", "2", ""),
    ("qa7", COUNT, "two", "two, not three", "SL"),
    ("qa8", CARRYING, "apple,milk", "apple,milk", "BSLE"),
    ("qa8", CARRYING, "apple,milk", "milk,apple", "B"),  # the order
    ("qa8", CARRYING, "apple,milk", "milk and apple", "B"),
    ("qa8", CARRYING, "apple,milk", "apple, milk", "B"),
    ("qa8", CARRYING, "apple,milk", "apple", ""),  # one is missing
    ("qa8", CARRYING, "apple,milk", "apple, milk, football", ""),  # one too many
    ("qa8", CARRYING, "apple,milk", "apple,milk,football", "SL"),
    ("qa8", CARRYING, "apple,milk", "apple,milk,apple", "BSL"),  # one twice
    ("qa8", CARRYING, "apple,milk", "apple. milk", ""),
    ("qa8", CARRYING, "apple,milk", "apple,milk,nothing", "SL"),
    ("qa8", CARRYING, "apple", "apple,milk", "SL"),
    ("qa8", CARRYING, "milk,apple,football", "football apple milk", "B"),
    ("qa8", CARRYING, "nothing", "Nothing", "BSL"),
    ("qa8", CARRYING, "nothing", "nothing but milk", "SL"),
    ("qa10", IS_IT, "maybe", "maybe", "BSLE"),
    ("qa10", IS_IT, "maybe", "Maybe, I do not know", "SL"),
    ("qa10", IS_IT, "maybe", "maybe yes, maybe no", "SL"),
    ("qa10", IS_IT, "yes", "yes", "BSLE"),
    ("qa10", IS_IT, "no", "Nobody can tell", "BSL"),
    ("qa10", IS_IT, "maybe", "may be", ""),
    ("qa15", FEAR, "cat", "cats", "BSL"),
    ("qa15", FEAR, "wolf", "wolves", ""),  # the plural is another word
    ("qa15", FEAR, "cat", "a catfish, or sheep", "SL"),
    ("qa19", WAY, "s,w", "s,w", "BSLE"),
    ("qa19", WAY, "s,w", "S,W", "BSL"),
    ("qa19", WAY, "s,w", "s, w", ""),  # a space: no label at all
    ("qa19", WAY, "s,w", "south, west", ""),
    ("qa19", WAY, "s,w", "w,s", ""),  # the order
    ("qa19", WAY, "s,w", "s,w,n", "SL"),  # "w,n" is in it, too
    ("qa19", WAY, "e,e", "e,e", "BSLE"),
    ("qa19", WAY, "e,e", "e,e,e", "BSL"),
    ("qa19", WAY, "n,e", "open,east", "BSL"),
    ("qa19", WAY, "n,e", "go n,e.", "BSL"),
    ("qa20", MOOD, "tired", "because he was tired and went to the bedroom", "SL"),
    ("qa20", MOOD, "bored", "He was bored", "BSL"),
]
ODD_TEXT = st.text(alphabet="aAß .\n\t\r\0\x1c\x1fΣσİ")
CODES = {"B": "babilong_labels", "S": "substring", "L": "lm_eval", "E": "exact_match"}


def labels(task):
    return BENCHMARK_LABELS[task].split()


@pytest.mark.parametrize("task, question, target, answer, right_by", TABLE)
def test_rules_find_right_what_the_table_says(task, question, target, answer, right_by):
    found = {rule: score(rule, answer, question=question, target=target, task=task) for rule in SCORING_RULES}
    assert found == {rule: code in right_by for code, rule in CODES.items()}


def test_table_has_every_rule_right_and_wrong():
    assert set(CODES.values()) == set(SCORING_RULES) and len(TABLE) >= 60
    assert len({tuple(case[:4]) for case in TABLE}) == len(TABLE)
    for code in CODES:
        assert 0 < sum(code in case[4] for case in TABLE) < len(TABLE)


@pytest.mark.parametrize("task, question, target, answer, right_by", TABLE)
def test_babilong_labels_equals_the_rule_spelt_out(task, question, target, answer, right_by):
    found = {label for label in labels(task) if label.lower() in first_sentence(answer)}
    found -= {label for label in labels(task) if label.lower() in question.lower()}
    wanted = target.split(",") if "," in target and len(target) > 3 else [target]
    is_right = all(part in found for part in wanted) and len(found) == len(wanted)
    assert babilong_labels(answer, question, target, labels(task)) is is_right is ("B" in right_by)


@pytest.fixture(scope="module")
def harness():
    """What lm_eval scores with."""
    pytest.importorskip("lm_eval")
    process = import_module("lm_eval.tasks.babilong.common_utils").process_results
    return lambda answer, target: process({"target": target}, [answer])["acc"] == 1.0


@pytest.mark.parametrize("task, question, target, answer, right_by", TABLE)
def test_lm_eval_is_the_rule_of_the_installed_package(harness, task, question, target, answer, right_by):
    assert harness(answer, target) is ("L" in right_by)


@given(answer=ODD_TEXT | st.text(), other=ODD_TEXT, start=st.integers(0, 9), end=st.integers(0, 9))
def test_lm_eval_is_the_rule_of_the_installed_package_for_any_text(harness, answer, other, start, end):
    part = answer[start:end]
    for target in (other, part, part.swapcase(), part.replace("\t", "\n")):
        assert lm_eval(answer, target) is harness(answer, target)


@given(answer=st.text(), target=st.sampled_from(PLACES.split()))
def test_what_substring_finds_lm_eval_finds(answer, target):
    for text in (answer, f"{answer}{target}", f"{target}{answer}"):
        assert lm_eval(text, target) or not substring(text, target)
        assert substring(text, target) or not exact_match(text, target)


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


def test_score_by_labels_ignores_what_the_question_names():
    asked = {"question": BEFORE, "target": "office", "task": "qa3"}
    assert score("babilong_labels", "the office, then the garden", **asked)
    assert not score("babilong_labels", "the office, then the kitchen", **asked)


def test_score_refuses_an_unknown_rule_and_an_unknown_task():
    asked = {"question": WHERE, "target": "garden"}
    with pytest.raises(ValueError, match="rules: exact_match, babilong_labels, substring, lm_eval"):
        score("fuzzy", "garden", task="qa1", **asked)
    with pytest.raises(ValueError, match="'qa99' has no labels; tasks that have: qa1"):
        score("babilong_labels", "garden", task="qa99", **asked)

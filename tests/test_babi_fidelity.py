"""The comparison of generated with official stories: it finds wrong generators and lets right ones pass."""

import csv
import dataclasses
import json
import random
from functools import cache

import numpy as np
import pytest
from official_babi import REAL, needs_real_files

from rmtkit.babi import Question, Story, generate_story, read_stories, write_stories
from rmtkit.babi.fidelity import (
    DISTRIBUTIONS,
    compare,
    differences,
    official_stories,
    template,
    templates,
    vocabulary,
)
from rmtkit.bench.babi import bench_babi
from rmtkit.cli import main
from rmtkit.config import resolve

TASK = "qa8"  # with gaps, ages and numbers of supporting facts that vary


@cache
def stories(source, task=TASK, count=300):
    rng = random.Random(source)
    return tuple(generate_story(task, rng) for _ in range(count))


def failed(generated, train=None, test=None):
    """The distributions that are too far from those of other stories made by the rules."""
    train, test = train or stories("train"), test or stories("test")
    found = compare(generated, train, test, np.random.default_rng(0), num_relabellings=500)
    assert [each.distribution for each in found] == list(DISTRIBUTIONS)
    return {each.distribution for each in found if not each.has_passed}


def with_questions(story, change):
    return dataclasses.replace(story, questions=tuple(map(change, story.questions)))


def test_stories_by_the_same_rules_pass():
    assert failed(stories("generated")) == set()
    assert differences(stories("generated"), stories("train")) == {}


@needs_real_files
@pytest.mark.parametrize("task", ["qa17", "qa20"])
def test_real_stories_pass_against_real_stories(task):
    real = read_stories(REAL, task, "train")
    random.Random(0).shuffle(real)
    half = len(real) // 2
    assert failed(real[:half], real[half:], read_stories(REAL, task, "test")) == set()
    assert differences(real[:half], real[half:]) == {}


def test_one_wrong_verb_is_found():
    wrong = [
        dataclasses.replace(story, facts=tuple(fact.replace("journeyed", "walked") for fact in story.facts))
        for story in stories("generated")
    ]
    assert differences(wrong, stories("train")) == {
        "missing templates": ["<Person> journeyed to the <place>."],
        "extra templates": ["<Person> walked to the <place>."],
        "missing words": ["journeyed"],
        "extra words": ["walked"],
    }
    assert failed(wrong) == {"templates"}


def test_skewed_answers_are_found():
    rng = random.Random(0)
    wrong = [
        with_questions(story, lambda q: dataclasses.replace(q, answer="apple") if rng.random() < 0.2 else q)
        for story in stories("generated")
    ]
    assert failed(wrong) == {"answers"}


def test_older_supporting_facts_are_found():
    wrong = [
        with_questions(story, lambda q: dataclasses.replace(q, supporting=tuple(max(0, i - 2) for i in q.supporting)))
        for story in stories("generated")
    ]
    assert failed(wrong) == {"ages"}


def test_missing_supporting_facts_are_found():
    wrong = [
        with_questions(story, lambda q: dataclasses.replace(q, supporting=q.supporting[-2:]))
        for story in stories("generated")
    ]
    assert "supports" in failed(wrong)


def test_other_gaps_between_questions_are_found():
    def ask_second_earlier(story):
        first, second, *others = story.questions
        return (first, dataclasses.replace(second, num_facts=second.num_facts - 1), *others)

    wrong = [dataclasses.replace(story, questions=ask_second_earlier(story)) for story in stories("generated")]
    assert "gaps" in failed(wrong) and "facts" not in failed(wrong)


def test_facts_after_the_last_question_are_found():
    wrong = [dataclasses.replace(story, facts=(*story.facts, *story.facts[:2])) for story in stories("generated")]
    assert "facts" in failed(wrong) and "gaps" not in failed(wrong)


def test_distance_is_total_variation():
    some, others = (Story("qa1", ("Mary went to the garden.",), (Question("Where is Mary?", answer, 1, (0,)),))
                    for answer in ("garden", "office"))  # fmt: skip
    answers, words, *_ = compare([some] * 4, [some, others, others, others], [others], np.random.default_rng(0))
    assert (answers.distance, answers.test, answers.small) == (0.75, 0.25, 0.75)
    assert (words.distance, words.allowed, words.chance) == (0, 0, 1)
    assert answers.largest == "garden: 1.0000 real 0.2500, office: 0.0000 real 0.7500"
    answers, *_ = compare([some, others] * 3, [some, others], [some, others], np.random.default_rng(0))
    assert (answers.small, answers.test) == (0, 0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Mice are afraid of wolves.", "<Animal> are afraid of <animal>."),
        ("What is gertrude afraid of?", "What is <person> afraid of?"),
        ("Fred is either in the park or the park.", "<Person> is either in the <place> or the <same place>."),
        ("The box of chocolates fits inside the box.", "The <box> fits inside the <box>."),
        ("Is the yellow square below the triangle?", "Is the <shape> below the <shape>?"),
        ("Sumit is gray.", "<Person> is <color>."),
    ],
)
def test_template_names_the_items(text, wanted):
    assert template(text) == wanted


def test_words_and_templates_are_of_facts_and_questions():
    story = Story("qa8", ("Mary got the milk there.",), (Question("What is Mary carrying?", "milk,apple", 1, (0,)),))
    assert templates([story]) == {"<Person> got the <thing> there.", "What is <Person> carrying?"}
    assert vocabulary([story]) == set("Mary got the milk there What is carrying apple".split())


def write(folder, name, some):
    folder.mkdir(exist_ok=True)
    write_stories(some, folder / name)


def test_other_files_stand_in_for_a_missing_training_file(tmp_path):
    some = stories("generated", "qa1", 30)
    write(tmp_path / "en-10k", "qa1_x_test.txt", some[:5])
    with pytest.raises(ValueError, match="no qa1_.*_train.txt"):
        official_stories(str(tmp_path), "qa1")
    write(tmp_path / "en", "qa1_x_train.txt", some[5:20])
    write(tmp_path / "en-valid-10k", "qa1_x_valid.txt", some[15:])
    train, test, note = official_stories(str(tmp_path), "qa1")
    assert (tuple(train), tuple(test)) == (some[5:], some[:5]) and "25 different stories" in note
    write(tmp_path / "en-10k", "qa1_x_train.txt", some[:10])
    assert official_stories(str(tmp_path), "qa1") == (list(some[:10]), list(some[:5]), "")


@pytest.fixture
def babi_folder(tmp_path, monkeypatch):
    """A folder of "official" stories of two tasks, the only ones there are."""
    monkeypatch.setattr("rmtkit.babi.TASKS", ("qa1", "qa4"))
    for task in ("qa1", "qa4"):
        for split, count in (("train", 150), ("test", 50)):
            write(tmp_path / "babi", f"{task}_x_{split}.txt", stories(split, task, count))
    return tmp_path / "babi"


def run_bench(folder, capsys, *options):
    status = main(["bench", "babi", f"--babi_path={folder}", "--num_stories=150", *options])
    printed = capsys.readouterr().out.splitlines()
    return status, printed, json.loads(printed[-1])


def test_bench_passes_a_right_generator(babi_folder, capsys, tmp_path):
    status, printed, result = run_bench(babi_folder, capsys, f"--output={tmp_path / 'table.csv'}")
    assert (status, result["failed"], result["num_stories"]) == (0, {}, 150)
    assert result["num_varying"] == 6 and 0 < result["least_chance"] < 1
    assert [line.split()[0] for line in printed if line.endswith("passed")] == ["qa1", "qa4"]
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == 12 and {row["has_passed"] for row in rows} == {"True"}


def test_bench_fails_a_wrong_generator(babi_folder, capsys):
    file = babi_folder / "qa1_x_train.txt"
    file.write_text(file.read_text().replace("journeyed", "walked"))
    status, printed, result = run_bench(babi_folder, capsys)
    wanted = ["missing templates", "extra templates", "missing words", "extra words", "templates"]
    assert (status, result["failed"]) == (1, {"qa1": wanted})
    assert "      missing words: walked" in printed


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {}, "babi_path is not given"),
        ({"babi_path": "."}, {"num_stories": 0}, "num_stories is 0"),
        ({"babi_path": "."}, {"output": "no/such/table.csv"}, "no/such/table.csv"),
    ],
)
def test_bench_says_what_is_wrong_before_it_starts(fields, options, message):
    with pytest.raises(ValueError, match=message):
        bench_babi(resolve(fields), **options)

"""Generated and recorded problems: splits, seeds, purity."""

import pickle
import random

import pytest

from rmtkit.babi import (
    SPLITS,
    TASKS,
    GeneratedProblems,
    MixedProblems,
    Question,
    RecordedProblems,
    Story,
    generate_story,
    write_stories,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of qa4: a training file in which every story stands twice, and a test file."""
    path = tmp_path_factory.mktemp("babi")
    stories = [generate_story("qa4", random.Random(i)) for i in range(400)]
    write_stories(stories[:300] + stories[:300], path / "qa4_two-arg-relations_train.txt")
    write_stories(stories[300:], path / "qa4_two-arg-relations_test.txt")
    return path


@pytest.mark.parametrize("task", TASKS)
def test_generated_problem_is_a_function_of_seed_split_and_index(task):
    order = [("test", 3), ("train", 0), ("validation", 7), ("train", 1)]
    first, again = GeneratedProblems(task, seed=5), pickle.loads(pickle.dumps(GeneratedProblems(task, seed=5)))
    drawn = {key: first.problem(*key) for key in order}
    assert drawn == {key: again.problem(*key) for key in reversed(order)}
    assert first.problem("train", 0) != first.problem("train", 1)
    other = GeneratedProblems(task, seed=6)
    assert any(other.problem(*key) != problem for key, problem in drawn.items())


@pytest.mark.parametrize("task", ["qa1", "qa4"])  # short stories: without the rule, some would be shared
def test_generated_splits_never_share_facts_even_between_seeds(task):
    facts = {
        split: {GeneratedProblems(task, seed=seed).problem(split, i).facts for seed in (0, 1) for i in range(400)}
        for split in SPLITS
    }
    assert all(facts.values())
    assert not (
        facts["train"] & facts["test"] or facts["train"] & facts["validation"] or facts["validation"] & facts["test"]
    )


def test_generated_problems_have_no_end():
    source = GeneratedProblems("qa1", seed=0)
    assert source.num_problems("train") is None
    assert source.problem("train", 10**12) == source.problem("train", 10**12)


@pytest.mark.parametrize("task", TASKS)
def test_generated_first_question_does_not_depend_on_extra_questions(task):
    source = GeneratedProblems(task, seed=0)
    for i in range(30):
        plain, dense = source.problem("test", i), source.problem("test", i, num_extra_questions=3)
        assert len(plain.questions) == 1
        assert dense.facts == plain.facts and dense.questions[:1] == plain.questions


def test_recorded_problems_cover_the_files_and_keep_equal_stories_on_one_side(folder):
    source = RecordedProblems(folder, "qa4", seed=0)
    number = {split: source.num_problems(split) for split in SPLITS}
    assert number["train"] + number["validation"] == 600 and number["test"] == 100
    assert 20 <= number["validation"] <= 120
    train, validation = (
        {source.problem(split, i).facts for i in range(number[split])} for split in ("train", "validation")
    )
    assert not train & validation


def test_recorded_problems_start_again_after_the_last(folder):
    source = RecordedProblems(folder, "qa4", seed=0)
    assert source.problem("test", 103) == source.problem("test", 3, num_extra_questions=2)
    assert len(source.problem("test", 3).questions) == 1


def test_recorded_seed_changes_the_order_of_train_and_nothing_else(folder):
    def facts(seed, split):
        source = RecordedProblems(folder, "qa4", seed=seed)
        return [source.problem(split, i).facts for i in range(source.num_problems(split))]

    assert facts(0, "train") == facts(0, "train") != facts(1, "train")
    assert sorted(facts(0, "train")) == sorted(facts(1, "train"))
    assert facts(0, "validation") == facts(1, "validation") and facts(0, "test") == facts(1, "test")


def test_recorded_problems_need_only_the_file_that_is_asked_for(tmp_path):
    write_stories([Story("qa9", ("Ann sat.",), (Question("Is Ann up?", "no", 1, (0,)),))], tmp_path / "qa9_x_test.txt")
    source = RecordedProblems(tmp_path, "qa9", seed=0)
    assert source.num_problems("test") == 1
    assert [source.has_split(split) for split in SPLITS] == [False, False, True]
    assert not MixedProblems([source]).has_split("train") and GeneratedProblems("qa9", seed=0).has_split("train")
    with pytest.raises(ValueError, match="no qa9_.*_train"):
        source.num_problems("train")


def test_recorded_problems_say_when_a_split_is_empty(tmp_path):
    write_stories([], tmp_path / "qa1_x_test.txt")
    with pytest.raises(ValueError, match="holds no question"):
        RecordedProblems(tmp_path, "qa1", seed=0).problem("test", 0)


def test_recorded_problems_refuse_a_single_file(folder):
    with pytest.raises(ValueError, match="expected a folder"):
        RecordedProblems(folder / "qa4_two-arg-relations_test.txt", "qa4", seed=0)


def test_sources_list_what_is_allowed(folder):
    with pytest.raises(ValueError, match="qa1, qa2, .*qa20"):
        GeneratedProblems("qa21", seed=0)
    for source in (GeneratedProblems("qa4", seed=0), RecordedProblems(folder, "qa4", seed=0)):
        for ask in (source.num_problems, lambda split, source=source: source.problem(split, 0)):
            with pytest.raises(ValueError, match="train, validation, test"):
                ask("dev")


def test_mixed_generated_problems_alternate_and_stay_with_their_task_when_drawn_anew():
    mixed = MixedProblems([GeneratedProblems(task, seed=0) for task in ("qa1", "qa7", "qa19")])
    assert mixed.num_problems("train") is None
    assert [mixed.problem("train", index).task for index in range(6)] == ["qa1", "qa7", "qa19"] * 2
    assert mixed.problem("train", 4 + (5 << 40)).task == "qa7"
    assert mixed.problem("train", 4) == GeneratedProblems("qa7", seed=0).problem("train", 4)


def test_mixed_problems_of_few_facts_are_the_shortest_of_tasks_that_need_more():
    sources = [GeneratedProblems(task, seed=0) for task in ("qa1", "qa16", "qa3")]
    fewest = {source.task: source.fewest_facts for source in sources}
    mixed = MixedProblems(sources)
    assert fewest["qa1"] == 2 and fewest["qa16"] == 9 and fewest["qa3"] > 2 and mixed.fewest_facts == 2
    for problem in (mixed.problem("train", index, max_n_facts=4) for index in range(12)):
        assert len(problem.facts) <= max(4, fewest[problem.task])


def test_mixed_recorded_problems_come_once_each(tmp_path):
    for task, count in (("qa4", 30), ("qa17", 2)):
        stories = [generate_story(task, random.Random(i)) for i in range(count)]
        for split in ("train", "test"):
            write_stories(stories, tmp_path / f"{task}_x_{split}.txt")
    sources = [RecordedProblems(tmp_path, task, seed=0) for task in ("qa4", "qa17")]
    mixed, sizes = MixedProblems(sources), [source.num_problems("test") for source in sources]
    assert mixed.num_problems("test") == sum(sizes)
    drawn = [mixed.problem("test", index) for index in range(sum(sizes))]
    assert sizes == [30, 16] and [problem.task for problem in drawn[:4]] == ["qa4", "qa17"] * 2
    for source, size in zip(sources, sizes, strict=True):
        assert [p for p in drawn if p.task == source.task] == [source.problem("test", i) for i in range(size)]

"""Files of generated stories: how many questions, which stories, under which names."""

import json

import pytest

from rmtkit.babi import TASKS, RecordedProblems, read_stories
from rmtkit.babi.files import file_name, stories, story
from rmtkit.cli import main
from rmtkit.export import export_story_file, export_story_folder

SIZES = {"train": 30, "test": 7}
SMALL = {"qa1": 23, "qa4": 7, "qa20": 23}  # questions; qa20 has up to twelve in a story


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stories") / "en-10k"
    export_story_folder(path, ["qa1", "qa4"], seed=5, sizes=SIZES)
    return path


@pytest.mark.parametrize("task, num_questions", SMALL.items())
def test_stories_have_exactly_the_questions_asked_for(task, num_questions):
    told = list(stories(task, 5, "train", num_questions))
    assert sum(len(one.questions) for one in told) == num_questions
    assert all(one.questions[-1].num_facts == len(one.facts) for one in told)


@pytest.mark.parametrize("task", SMALL)
def test_stories_of_a_smaller_file_begin_the_larger_one(task):
    larger, smaller = (list(stories(task, 5, "train", number)) for number in (30, 23))
    assert larger[: len(smaller) - 1] == smaller[:-1]
    last, cut = larger[len(smaller) - 1], smaller[-1]
    assert last.questions[: len(cut.questions)] == cut.questions and last.facts[: len(cut.facts)] == cut.facts


def test_stories_are_those_of_their_index():
    assert set(stories("qa1", 5, "train", 50)) <= {story("qa1", 5, index) for index in range(40)}
    assert story("qa1", 5, 3) == story("qa1", 5, 3) and len({story("qa1", 5, index) for index in range(9)}) == 9
    assert story("qa1", 5, 3) != story("qa1", 6, 3)


@pytest.mark.parametrize("task", ["qa1", "qa4"])
def test_train_and_test_share_no_story_whatever_the_seed(task):
    train = {one.facts for seed in range(3) for one in stories(task, seed, "train", 300)}
    assert not train & {one.facts for seed in range(3) for one in stories(task, seed, "test", 60)}


@pytest.mark.parametrize("task", TASKS)
def test_story_file_is_read_back_unchanged(task, tmp_path):
    path = tmp_path / file_name(task, "train")
    export_story_file(path, task, seed=5, split="train", num_questions=23)
    assert read_stories(path, task) == list(stories(task, 5, "train", 23))


def test_story_folder_has_the_official_names(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "qa1_single-supporting-fact_test.txt", "qa1_single-supporting-fact_train.txt",
        "qa4_two-arg-relations_test.txt", "qa4_two-arg-relations_train.txt",
    ]  # fmt: skip
    assert {file_name(task, "test") for task in TASKS} >= {"qa8_lists-sets_test.txt", "qa14_time-reasoning_test.txt"}


@pytest.mark.parametrize("task", ["qa1", "qa4"])
def test_story_folder_is_read_as_the_official_one(folder, task):
    recorded = RecordedProblems(folder.parent, task, seed=0)
    assert recorded.num_problems("test") == SIZES["test"]
    assert recorded.num_problems("train") + recorded.num_problems("validation") == SIZES["train"]


def test_story_folder_repeats_byte_for_byte(folder, tmp_path):
    export_story_folder(tmp_path / "again", ["qa1", "qa4"], seed=5, sizes=SIZES)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_story_export_never_replaces_what_is_there(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="mine.txt exists already"):
        export_story_file(tmp_path / "mine.txt", "qa1", seed=0, split="train", num_questions=5)
    with pytest.raises(ValueError, match="exists already"):
        export_story_folder(folder, ["qa1"], seed=0, sizes=SIZES)
    assert (tmp_path / "mine.txt").read_text() == "mine" and len(list(folder.iterdir())) == 4


def test_story_export_leaves_nothing_half_written(tmp_path):
    with pytest.raises(ValueError, match="num_questions is 0"):
        export_story_folder(tmp_path / "out", ["qa1"], seed=0, sizes={"train": 5, "test": 0})
    with pytest.raises(ValueError, match="split 'valid' does not exist; a file is of split train, test"):
        export_story_file(tmp_path / "out.txt", "qa1", seed=0, split="valid", num_questions=5)
    assert not list(tmp_path.iterdir())


def test_command_writes_a_file(tmp_path, capsys):
    path = tmp_path / "new" / "qa7.txt"
    assert main(["babi", "--task", "qa7", "--num_questions", "12", "--seed", "1", "--output", str(path)]) == 0
    assert read_stories(path, "qa7") == list(stories("qa7", 1, "train", 12))
    assert json.loads(capsys.readouterr().out)["num_questions"] == 12


def test_command_writes_a_folder(tmp_path):
    sizes = ["--num_questions=6", "--num_test_questions=3"]
    assert main(["babi", "--task=qa1,qa8", *sizes, f"--output={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert sum(len(one.questions) for one in read_stories(tmp_path / "out", "qa8", "test")) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (["--task=qa99"], "task 'qa99' does not exist; allowed: qa1, "),
        (["--task=qa1", "--num_questions=0"], "num_questions is 0; expected at least 1"),
        (["--task=qa1,qa2", "--split=test"], "split is 'test'; a folder of several tasks has both"),
        (["--task=qa1", "--num_test_questions=5"], "num_test_questions is for a folder"),
        (["--task=qa1", "--colour=red"], "unknown option --colour"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(options, message, tmp_path, capsys):
    assert main(["babi", *options, f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())

"""The reader and writer of the official bAbI files."""

import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_babi import REAL, needs_real_files

from rmtkit.babi import (
    TASKS,
    BabiFormatError,
    Question,
    Story,
    parse_stories,
    problems,
    read_stories,
    write_stories,
)

LINES = [
    "1 Ann went to the pond.",
    "2 Bob took the key.",
    "3 Where is Ann? \tpond\t1",
    "4 Bob left.",
    "5 Who left? \tBob\t4 2",
    "1 Cy sat.",
    "2 Who sat? \tCy\t1",
]
STORIES = [
    Story(
        "qa1",
        ("Ann went to the pond.", "Bob took the key.", "Bob left."),
        (Question("Where is Ann?", "pond", 2, (0,)), Question("Who left?", "Bob", 3, (2, 1))),
    ),
    Story("qa1", ("Cy sat.",), (Question("Who sat?", "Cy", 1, (0,)),)),
]


def make_folder(folder, lines=LINES, name="qa1_single-supporting-fact_test.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def test_parse_stories_counts_facts_and_supports_from_zero():
    assert parse_stories(LINES, "qa1", "here") == STORIES


def test_problems_drop_earlier_questions_and_later_facts():
    first, second = problems(STORIES[0])
    assert first.facts == STORIES[0].facts[:2] and first.questions == STORIES[0].questions[:1]
    assert second.facts == STORIES[0].facts and second.questions == STORIES[0].questions[1:]


@pytest.mark.parametrize(
    ("lines", "where", "what"),
    [
        (["2 Ann sat."], 1, "expected 1"),
        (["1 Ann sat.", "3 Bob sat."], 2, "expected 2"),
        (["1 Ann sat.", "2² Bob sat."], 2, "expected 2"),
        (["1 Ann sat.", ""], 2, "expected 2"),
        (["Ann sat."], 1, "'Ann'"),
        (["1 "], 1, "empty"),
        (["1"], 1, "empty"),
        (["1 Ann sat.", "2 Who sat?"], 2, "tab"),
        (["1 Ann sat.", "2 Who sat?\tAnn"], 2, "2 columns"),
        (["1 Ann sat.", "2 Who sat?\t\t1"], 2, "empty"),
        (["1 Ann sat.", "2 Who sat?\tAnn\t"], 2, "empty"),
        (["1 Ann sat.", "2 Who sat?\tAnn\t2"], 2, "'2'"),
        (["1 Ann sat.", "2 Who sat?\tAnn\t0"], 2, "'0'"),
        (["1 Ann sat.", "2 Who sat?\tAnn\tx"], 2, "'x'"),
        (["1 Ann sat.", "2 Who sat?\tAnn\t1", "3 Who sat?\tAnn\t2"], 3, "'2'"),
    ],
)
def test_parse_stories_says_file_line_and_what_was_expected(lines, where, what):
    with pytest.raises(BabiFormatError) as caught:
        parse_stories(lines, "qa1", "here.txt")
    message = str(caught.value)
    assert message.startswith(f"here.txt:{where}: ") and what in message and "\n" not in message


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.builds("{} {}".format, st.integers(0, 4), st.text(max_size=12)),
            st.builds("{} Who?\t{}\t{}".format, st.integers(1, 4), st.text(max_size=4), st.text("1234 x", max_size=4)),
        ),
        max_size=6,
    )
)
def test_parse_stories_only_ever_raises_format_errors(lines):
    try:
        parse_stories(lines, "qa1", "here")
    except BabiFormatError as error:
        assert str(error).startswith("here:")


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_read_stories_only_ever_raises_format_errors_for_a_strange_file(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strange.txt"
        path.write_bytes(content)
        try:
            read_stories(path, "qa1")
        except BabiFormatError as error:
            assert str(error).startswith(f"{path}:")


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t"), min_size=1, max_size=8).filter(str.strip)
FACTS = WORDS.filter(lambda text: not text.rstrip().endswith("?"))


@st.composite
def any_story(draw):
    facts = draw(st.lists(FACTS, min_size=1, max_size=4))
    asked_after = sorted(draw(st.lists(st.integers(1, len(facts)), max_size=3)))
    return Story(
        "qa1",
        tuple(facts),
        tuple(
            Question(
                draw(WORDS).strip(),
                draw(WORDS).strip(),
                n,
                tuple(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))),
            )
            for n in asked_after
        ),
    )


@settings(max_examples=50)
@given(st.lists(any_story(), min_size=1, max_size=3))
def test_write_stories_then_read_stories_gives_the_same(stories):
    with tempfile.TemporaryDirectory() as folder:
        write_stories(stories, Path(folder) / "any.txt")
        assert read_stories(Path(folder) / "any.txt", "qa1") == stories


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("qa3", "Who sat? \tCy"),
        ("qa4", "Who sat?\tCy"),
        ("qa14", "Who sat? \tCy"),
        ("qa15", "Who sat?\tCy"),
    ],
)
def test_write_stories_puts_a_space_before_the_tab_where_the_official_files_do(tmp_path, task, question):
    write_stories([Story(task, ("Cy sat.",), STORIES[1].questions)], tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes().decode() == f"1 Cy sat.\n2 {question}\t1\n"


def test_read_stories_takes_windows_line_ends_and_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "".join(line + "\r\n" for line in LINES).encode())
    assert read_stories(tmp_path / "a.txt", "qa1") == STORIES


def test_write_stories_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_stories(STORIES, tmp_path / "a.txt")
    broken = Story("qa1", ("Ann sat.",), (Question("Who sat?", "Ann", 1, (7,)),))
    with pytest.raises(IndexError):
        write_stories([*STORIES, broken], tmp_path / "a.txt")
    assert read_stories(tmp_path / "a.txt", "qa1") == STORIES
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_read_stories_prefers_en_10k_to_the_folder_itself(tmp_path):
    make_folder(tmp_path, LINES[-2:])
    assert len(read_stories(tmp_path, "qa1")) == 1
    make_folder(tmp_path / "en-10k")
    assert read_stories(tmp_path, "qa1") == STORIES


def test_read_stories_does_not_take_qa10_for_qa1(tmp_path):
    make_folder(tmp_path, name="qa10_indefinite-knowledge_test.txt")
    with pytest.raises(ValueError, match="no qa1_"):
        read_stories(tmp_path, "qa1")


def make_archive(folder, kind):
    """An archive as the official one: the right file between the same task in other folders."""
    for name, lines in (("en", LINES[-2:]), ("en-10k", LINES), ("hn-10k", LINES[-2:])):
        make_folder(folder / "tasks_1-20_v1-2" / name, lines)
    files = sorted((folder / "tasks_1-20_v1-2").rglob("*.txt"))
    archive = folder / f"tasks_1-20_v1-2.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in files:
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz") as file:
            for path in files:
                file.add(path, path.relative_to(folder))
    return archive


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_read_stories_takes_en_10k_from_the_archive(tmp_path, kind):
    archive = make_archive(tmp_path, kind)
    assert read_stories(archive, "qa1") == STORIES == read_stories(tmp_path, "qa1")  # as it is, and unpacked
    with pytest.raises(ValueError, match="no qa2_"):
        read_stories(archive, "qa2")


def test_read_stories_unpacks_what_the_hub_gives(tmp_path, monkeypatch):
    archive = make_archive(tmp_path, "tar.gz")
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kw: asked.append((args, kw)) or str(archive))
    assert read_stories("hub", "qa1") == STORIES
    assert asked[0][0] == ("facebook/babi_qa", "data/tasks_1-20_v1-2.tar.gz") and asked[0][1]["repo_type"] == "dataset"


def test_read_stories_names_the_offline_ways_if_the_hub_is_out_of_reach(monkeypatch):
    def fail(*args, **kw):
        raise OSError("first line\nsecond line")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ValueError, match="generated stories.*folder or zip.*babi_path") as caught:
        read_stories("hub", "qa1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "split", "what"),
    [
        ("qa21", "test", "qa20"),
        ("1", "test", "qa1"),
        ("qa1", "dev", "train"),
        ("qa2", "test", "qa2_.*en-10k"),
    ],
)
def test_read_stories_lists_what_is_allowed(tmp_path, task, split, what):
    with pytest.raises(ValueError, match=what):
        read_stories(make_folder(tmp_path), task, split)


def test_read_stories_refuses_a_file_of_another_task(tmp_path):
    with pytest.raises(ValueError, match="of task 'qa1'"):
        read_stories(make_folder(tmp_path) / "qa1_single-supporting-fact_test.txt", "qa2")


def test_read_stories_names_the_line_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1 Ann sat.\n2 Bob \xff sat.\n")
    with pytest.raises(BabiFormatError, match=r"a\.txt:2: byte 0xff"):
        read_stories(tmp_path / "a.txt", "qa1")


@needs_real_files
@pytest.mark.parametrize("task", TASKS)
def test_official_files_hold_the_right_number_of_questions_and_round_trip(task, tmp_path):
    for path in sorted((REAL / "en-10k").glob(f"{task}_*.txt")):
        stories = read_stories(path, task)
        assert sum(len(story.questions) for story in stories) == (1_000 if "_test" in path.name else 10_000)
        write_stories(stories, tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()

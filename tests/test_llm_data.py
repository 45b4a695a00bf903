"""Cases of language models: generated to fit a length, of public sets, and read from JSON lines."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkit.babi import GeneratedProblems
from rmtkit.config import resolve
from rmtkit.export import Request, export_samples, export_story_folder
from rmtkit.llm.cases import Case
from rmtkit.llm.data import (
    FittingProblems,
    generated_cases,
    longest_fitting,
    prompt_room,
    public_cases,
    read_cases,
    token_counter,
)

LINE = {
    "task": "qa1", "length": "4k", "context": "Mary went to the garden. It rained.", "question": "Where is Mary?",
    "target": "garden", "supporting": [[0, 24]],
}  # fmt: skip


def count_words(text):
    return len(text.split())


def first_of_background(case):
    """What the first sentence of the library in a context begins with."""
    return re.search(r"Text \d+ says in sentence \d+", case.context)[0]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """One folder for all tests here, so that the token store is built once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def make_cases(library, data_dir):
    """Return a function that makes cases of qa2 at 1k; a word is a token unless told otherwise."""

    def make(task="qa2", length="1k", num_samples=3, *, num_tokens=count_words, background=library, **given):
        options = {"prompt_room": 100, "seed": 5, "data_dir": data_dir, **given}
        return generated_cases(task, length, num_samples, num_tokens=num_tokens, background=background, **options)

    return make


@pytest.fixture
def write_lines(tmp_path):
    """Return a function that writes records, or lines as they are, to a file."""

    def write(*records):
        lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
        path = tmp_path / "cases.jsonl"
        path.write_bytes(b"\n".join(lines))
        return path

    return write


# ------------------------------------------------------------------ generated


def test_generated_cases_are_as_long_as_fits(make_cases):
    for case in make_cases(num_samples=5):
        assert count_words(case.context) == 1024 - 100


@pytest.mark.parametrize("name", ["tokenizer", "bos_tokenizer"])
def test_generated_cases_are_counted_by_the_models_tokenizer(make_cases, request, name):
    tokenizer = request.getfixturevalue(name)
    sizes = [len(tokenizer.tokenize(case.context)) for case in make_cases(num_tokens=tokenizer, num_samples=4)]
    assert all(1024 - 100 - 8 < size <= 1024 - 100 for size in sizes)


def test_generated_cases_without_a_tokenizer_are_counted_by_our_own(make_cases):
    sizes = [token_counter()(case.context) for case in make_cases(num_tokens=None)]
    assert all(1024 - 100 - 8 < size <= 1024 - 100 for size in sizes)
    assert max(sizes) > 1.5 * max(count_words(case.context) for case in make_cases(num_tokens=None))


def test_generated_cases_say_where_the_supporting_facts_are(make_cases):
    problems = GeneratedProblems("qa2", seed=5)
    for case in make_cases():
        problem = problems.problem("test", case.index)
        supporting = [problem.facts[fact] for fact in sorted(problem.questions[0].supporting)]
        assert [case.context[start:end] for start, end in case.supporting] == supporting and len(supporting) > 1
        assert (case.question, case.target) == (problem.questions[0].text, problem.questions[0].answer)
        assert "that the river was long and wide" in case.context


def test_generated_cases_at_0k_are_the_facts_alone(make_cases):
    problems = GeneratedProblems("qa2", seed=5)
    for case in make_cases(length="0k", background="none", prompt_room=10_000):
        assert case.context == " ".join(problems.problem("test", case.index).facts) and case.length == "0k"


def test_generated_cases_do_not_depend_on_how_many(make_cases):
    assert make_cases(num_samples=2) == make_cases(num_samples=4)[:2]
    assert [case.index for case in make_cases(num_samples=4)] == [0, 1, 2, 3]


def test_generated_cases_depend_on_seed_index_and_length(make_cases):
    first, second = make_cases(num_samples=2)
    assert first.context != second.context != make_cases(seed=6)[1].context
    assert len(make_cases(length="2k")[0].context) > 1.9 * len(first.context)


def test_generated_cases_of_another_seed_have_other_background(make_cases):
    starts = [[first_of_background(case) for case in make_cases(seed=seed)] for seed in (5, 6)]
    assert starts[0] != starts[1]


def test_token_counter_leaves_out_special_tokens(tokenizer, bos_tokenizer):
    assert token_counter(bos_tokenizer)("Mary slept.") == token_counter(tokenizer)("Mary slept.")


def test_generated_cases_of_two_models_differ_in_length_only(make_cases, tokenizer):
    short, long = make_cases(num_tokens=tokenizer)[0], make_cases()[0]
    assert (short.question, short.target) == (long.question, long.target)
    assert first_of_background(short) == first_of_background(long)
    assert len(short.context) < len(long.context)


def test_generated_cases_leave_out_problems_that_do_not_fit(make_cases):
    cases = make_cases("qa3", prompt_room=1024 - 150, num_samples=6)
    assert max(count_words(case.context) for case in cases) <= 150 and len({case.context for case in cases}) == 6


def test_generated_cases_of_recorded_problems_come_once_in_the_files_order(make_cases, tmp_path):
    export_story_folder(tmp_path / "babi", ["qa3"], seed=5, sizes={"train": 5, "test": 12})
    every = make_cases("qa3", "0k", 50, babi_path=tmp_path / "babi")
    fitting = make_cases("qa3", "1k", 50, babi_path=tmp_path / "babi", prompt_room=1024 - 200)
    short = [case for case in every if count_words(case.context) <= 200]
    assert len(every) == 12 and 0 < len(short) < 12
    assert [(case.question, case.target) for case in fitting] == [(case.question, case.target) for case in short]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"task": "qa21"}, "task is 'qa21'; allowed: qa1, "),
        ({"length": "3k"}, "length is '3k'; allowed: 0k, 1k"),
        ({"num_samples": 0}, "num_samples is 0; expected at least 1"),
        ({"prompt_room": 1024}, "prompt_room is 1024; expected 0 or more, and less than 1k=1024"),
        ({"prompt_room": -1}, "prompt_room is -1"),
        ({"prompt_room": 1020}, "none of 9 generated problems fits: the facts of qa2 take more than the 4 tokens"),
        ({"background": "none"}, "background 'none' is facts alone, which is length 0k, not 1k"),
        ({"background": "local"}, "background 'local' is neither a folder nor a source"),
        ({"background": "wikki"}, "background 'wikki' is neither a folder nor a source: wiki, pg19"),
    ],
)
def test_generated_cases_say_in_one_line_what_is_wrong(make_cases, monkeypatch, given, message):
    monkeypatch.setattr("rmtkit.llm.data.MAX_DRAWS", 9)
    with pytest.raises(ValueError, match=message) as raised:
        make_cases(**given)
    assert "\n" not in str(raised.value)


def test_fitting_problems_are_those_of_the_source_where_they_fit():
    source = GeneratedProblems("qa3", seed=1)
    problems = FittingProblems(source, count_words, 150)
    for index in range(10):
        expected = source.problem("test", index)
        is_short = count_words(" ".join(expected.facts)) <= 150
        assert (problems.problem("test", index) == expected) == is_short
    assert len({problems.problem("test", index).facts for index in range(10)}) == 10


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.integers(1, 40), base=st.integers(0, 30), beyond=st.integers(0, 900))
def test_longest_fitting_finds_the_largest_size(seed, most, base, beyond):
    growth = np.random.default_rng(seed).integers(0, most + 1, 4000)
    measures = [base, *(base + np.cumsum(growth)).tolist()]
    room, asked = base + beyond, []

    def build(size):
        asked.append(size)
        return {"size": size, "measure": measures[size] if size < len(measures) else 10_000}

    found = longest_fitting(build, lambda built: built["measure"], room)
    following = {**found, "measure": build(found["size"] + 1)["measure"]}
    assert found["measure"] <= room and (found["measure"] == room or following["measure"] > room)
    assert len(asked) <= 30


def test_longest_fitting_needs_few_steps_where_growth_is_even():
    asked = []

    def build(size):
        asked.append(size)
        return {"measure": 70 + int(0.74 * size)}

    assert longest_fitting(build, lambda built: built["measure"], 1_000_000)["measure"] == 1_000_000
    assert len(asked) <= 5


def test_prompt_room_holds_every_prompt_without_context():
    sizes = []

    def count_prompt(case):
        assert case.context == ""
        sizes.append(200 + 10 * len(case.question))
        return sizes[-1]

    room = prompt_room("qa3", count_prompt)
    assert max(sizes) + 8 <= room < max(sizes) + 24 and room % 16 == 0 and len(set(sizes)) > 5


def test_data_is_imported_without_torch():
    code = (
        "import sys, rmtkit.llm.data, rmtkit.llm.retrieval\n"
        "print([name for name in ('torch', 'transformers', 'bm25s', 'nltk') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# ------------------------------------------------------------------ public sets


def test_public_cases_are_the_rows_of_the_file(tmp_path):
    rows = [{"input": f"Mary went {n}.", "question": "Where is Mary? ", "target": str(n)} for n in range(3)]
    (tmp_path / "data" / "qa4").mkdir(parents=True)
    (tmp_path / "data" / "qa4" / "2k.json").write_text(json.dumps(rows))
    assert public_cases(tmp_path, "qa4", "2k", 2) == [
        Case("qa4", "2k", n, f"Mary went {n}.", "Where is Mary? ", str(n)) for n in range(2)
    ]
    assert len(public_cases(tmp_path, "qa4", "2k")) == 3


@pytest.fixture(scope="module")
def exported(library, data_dir, tmp_path_factory):
    local = {"background": "local", "background_path": str(library), "data_dir": str(data_dir)}
    folder = tmp_path_factory.mktemp("exported") / "samples"
    export_samples(resolve({"task": "qa2", "seed": 7, **local}), Request(("1k",), num_samples=3), folder)
    return folder


def test_public_cases_of_our_own_export_know_the_supporting_facts(exported):
    problems = GeneratedProblems("qa2", seed=7)
    for case in public_cases(exported, "qa2", "1k", 3):
        problem = problems.problem("test", case.index)
        found = {case.context[start:end] for start, end in case.supporting}
        assert found == {problem.facts[fact] for fact in problem.questions[0].supporting}


# ------------------------------------------------------------------ the user's


def test_read_cases_reads_what_is_written(write_lines):
    other = {**LINE, "context": "John slept.", "supporting": None, "question": "Where is Mary? "}
    third = {"input" if name == "context" else name: value for name, value in LINE.items() if name != "supporting"}
    path = write_lines(LINE, b"", {**other, "length": "0k"}, {**third, "question": "Who rained?"})
    fields = ("4k", 0, LINE["context"], "Where is Mary?", "garden")
    assert read_cases(path) == [
        Case("qa1", *fields, ((0, 24),)),
        Case("qa1", "0k", 0, "John slept.", "Where is Mary?", "garden"),
        Case("qa1", "4k", 1, LINE["context"], "Who rained?", "garden"),
    ]


def test_read_cases_reads_what_export_wrote(exported):
    assert read_cases(exported / "data" / "qa2" / "1k.jsonl") == public_cases(exported, "qa2", "1k")


@pytest.mark.parametrize(
    "line, message",
    [
        (b"{", r":2: not a line of UTF-8 JSON \("),
        (b'"\xff"', ":2: not a line of UTF-8 JSON"),
        (b"[]", ":2: expected a JSON object"),
        ({**LINE, "suporting": []}, ":2: unknown field 'suporting'; fields: task, length, input"),
        ({**LINE, "input": "x"}, ":2: expected either input or context"),
        ({"task": "qa1"}, ":2: expected either input or context"),
        ({**LINE, "target": " "}, ":2: target is ' '; expected a text"),
        ({**LINE, "question": 3}, ":2: question is 3; expected a text"),
        ({name: value for name, value in LINE.items() if name != "task"}, ":2: task is None; expected a text"),
        ({**LINE, "task": "qa0"}, ":2: task is 'qa0'; allowed: qa1, qa2"),
        ({**LINE, "length": "4K"}, ":2: length is '4K'; allowed: 0k, 1k"),
        ({**LINE, "supporting": [[0, 36]]}, r":2: supporting has \[0, 36\]; expected 0 <= start < end <= 35"),
        ({**LINE, "supporting": [[3, 3]]}, r":2: supporting has \[3, 3\]"),
        ({**LINE, "supporting": [[0, 1.5]]}, r":2: supporting has \[0, 1.5\]"),
        ({**LINE, "supporting": [0, 24]}, r":2: supporting is not a list of pairs \[start, end\]"),
        ({**LINE, "supporting": ["It rained."]}, ":2: supporting is not a list of pairs"),
        (LINE, ":2: repeats line 1: task, length, context and question are the same"),
    ],
)
def test_read_cases_says_which_line_is_wrong(write_lines, line, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_cases(write_lines(LINE, line))
    assert "\n" not in str(raised.value)


def test_read_cases_needs_a_file_with_cases(write_lines, tmp_path):
    with pytest.raises(ValueError, match="cases.jsonl holds no case"):
        read_cases(write_lines(b"", b" "))
    with pytest.raises(ValueError, match="cannot read .*none.jsonl .No such file"):
        read_cases(tmp_path / "none.jsonl")

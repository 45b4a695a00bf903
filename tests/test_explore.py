"""The HTML of a sample, the browser with and without a front end, and the tables of notebook 01."""

import re
import sys
import types

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rmtkit import explore, generalization
from rmtkit.babi import GeneratedProblems, MixedProblems, Problem, Question
from rmtkit.babilong import BabilongBuilder

SENTENCE = " He wrote <script>alert('x')</script> & left the old town for good."


class Sentences:
    """A background that repeats one sentence."""

    def __init__(self, tokenizer):
        self.sentence = np.array(tokenizer.encode(SENTENCE), dtype=np.uint16)

    def passage(self, split, num_tokens, rng):
        size = len(self.sentence)
        return np.resize(self.sentence, num_tokens), np.arange(0, num_tokens, size)

    num_documents = staticmethod({"train": 8, "validation": 1, "test": 1}.get)
    num_sentences = staticmethod({"train": 80, "validation": 10, "test": 20}.get)
    num_tokens = staticmethod({"train": 1600, "validation": 210, "test": 410}.get)


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"special_tokens": ["<eos>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    bpe.train_from_iterator([SENTENCE] * 3, trainers.BpeTrainer(vocab_size=300, **special))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


@pytest.fixture(scope="module")
def problems():
    return GeneratedProblems("qa1", seed=0)


@pytest.fixture(scope="module")
def builder(tokenizer, problems):
    return BabilongBuilder(problems, Sentences(tokenizer), tokenizer)


def marked(text, kind):
    """Return the texts that an HTML page marks as something."""
    return re.findall(f'<span title="{kind}"[^>]*>([^<]*)</span>', text)


# ---------------------------------------------------------------------- HTML


def test_render_sample_escapes_the_background(builder, tokenizer):
    text = explore.render_sample(builder.sample("train", 0, 600), tokenizer)
    assert "<script" not in text
    assert "&lt;script&gt;" in text and "&amp; left" in text


def test_render_sample_marks_facts_question_and_answer(builder, tokenizer):
    sample = builder.sample("train", 0, 600)
    text, problem = explore.render_sample(sample, tokenizer), sample.problem
    legend = 1
    supporting = [problem.facts[i] for i in sample.question.supporting]
    assert marked(text, "supporting fact")[legend:] == supporting
    assert marked(text, "fact")[legend:] == [fact for fact in problem.facts if fact not in supporting]
    assert marked(text, "question")[legend:] == [sample.question.text]
    assert marked(text, "answer") == [sample.question.answer]


def test_render_sample_marks_a_question_at_the_start(problems, tokenizer):
    builder = BabilongBuilder(problems, Sentences(tokenizer), tokenizer, question_position="first")
    text = explore.render_sample(builder.sample("train", 0, 600), tokenizer)
    assert len(marked(text, "question")) == 2
    assert text.index(marked(text, "question")[1]) < text.index("&lt;script")


def test_render_sample_shortens_long_background_and_says_by_how_much(builder, tokenizer):
    sample = builder.sample("train", 0, 3000)
    short, whole = (explore.render_sample(sample, tokenizer, max_chars=chars) for chars in (400, 10**6))
    assert "tokens of background" in short and "tokens of background" not in whole
    assert len(short) < len(whole) / 3


def test_render_sample_keeps_the_order_of_the_prompt(builder, tokenizer):
    sample = builder.sample("train", 1, 300)
    text = explore.render_sample(sample, tokenizer, max_chars=10**6)
    body = text.split("<div", 1)[1].split(">", 1)[1].split(" &rarr;")[0]
    plain = explore.html.unescape(re.sub("<[^>]*>", "", body))
    assert plain == tokenizer.decode(sample.prompt.tolist())


def test_render_sample_shows_facts_without_background(builder, tokenizer):
    text = explore.render_sample(builder.sample("train", 0), tokenizer)
    assert "script" not in text and len(marked(text, "supporting fact")) == 2


# ---------------------------------------------------------------------- browser


def front_end(monkeypatch, *, allow_stdin=True, environment="JPY_SESSION_NAME"):
    """Pretend that a kernel runs this, started by a front end."""
    kernel = types.SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": allow_stdin}})
    shell = types.SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    for name in ("CI", "JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    if environment:
        monkeypatch.setenv(environment, "1")


def test_is_interactive_needs_no_kernel_to_say_no(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not explore.is_interactive()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace()))
    assert not explore.is_interactive()


@pytest.mark.parametrize(
    ("environment", "allow_stdin", "expected"),
    [
        ("JPY_SESSION_NAME", True, True),
        ("VSCODE_PID", True, True),
        ("JPY_SESSION_NAME", False, False),
        (None, True, False),
    ],
)
def test_is_interactive_needs_a_front_end_that_takes_input(monkeypatch, environment, allow_stdin, expected):
    front_end(monkeypatch, allow_stdin=allow_stdin, environment=environment)
    assert explore.is_interactive() is expected


def test_is_interactive_is_never_so_in_ci(monkeypatch):
    front_end(monkeypatch)
    monkeypatch.setenv("CI", "true")
    assert not explore.is_interactive()


def test_explore_samples_headless_is_the_first_sample_without_a_widget(builder, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    shown = explore.explore_samples(builder, lengths=[300, 600])
    assert shown.data == explore.render_sample(builder.sample("train", 0, 300), tokenizer)


def test_explore_samples_interactive_follows_its_controls_without_output_capture(builder, tokenizer):
    ipywidgets = pytest.importorskip("ipywidgets")
    browser = explore.explore_samples(builder, lengths=[300, None], interactive=True, num_samples=9)
    (length, index), view = browser.children[0].children, browser.children[1]
    index.value = 5
    assert view.value == explore.render_sample(builder.sample("train", 5, 300), tokenizer)
    length.value = None
    assert view.value == explore.render_sample(builder.sample("train", 5, None), tokenizer)
    assert not any(isinstance(widget, ipywidgets.Output) for widget in (length, index, view)) and index.max == 8


# ---------------------------------------------------------------------- tables


def test_first_problems_stops_where_recorded_problems_end(problems):
    assert len(generalization.first_problems(problems, "train", 7)) == 7
    few = types.SimpleNamespace(num_problems=lambda split: 3, problem=lambda split, index: index)
    assert generalization.first_problems(few, "test", 7) == [0, 1, 2]


def test_distribution_table_counts_every_problem_once(problems):
    table = explore.distribution_table({"generated": generalization.first_problems(problems, "train", 60)})
    totals = table.groupby("quantity")["share"].sum()
    assert len(totals) == 3 and totals.to_numpy() == pytest.approx(1)
    assert (table["n"] == 60).all()
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()


def test_distribution_table_counts_facts_behind_the_last_supporting_one():
    problem = Problem("qa1", ("a.", "b.", "c.", "d."), (Question("Where?", "x", 4, (0, 2)),))
    table = explore.distribution_table({"one": [problem]}).set_index("quantity")["value"]
    assert table["facts told after the last supporting one"] == 1 and table["facts in a problem"] == 4


def test_fact_table_places_every_fact(builder):
    samples = [builder.sample("train", index, 300) for index in range(4)]
    table = explore.fact_table(samples)
    assert len(table) == sum(len(sample.problem.facts) for sample in samples)
    assert table["is_supporting"].sum() == 4
    row = table[table["index"] == 2].iloc[1]
    assert row["position"] == samples[2].fact_spans[1, 0] and row["depth"] == row["position"] / 300


def test_background_table_has_a_row_per_split(builder):
    table = explore.background_table(builder.background)
    assert list(table.index) == ["train", "validation", "test"]
    assert table.loc["test", "tokens_per_sentence"] == 20.5


def test_baseline_records_answer_without_reading():
    facts = ("Mary went to the garden.", "John moved to the office.")
    train = Problem("qa1", facts, (Question("Where is Mary?", "garden", 2, (0,)),))
    other = Problem("qa1", facts, (Question("Where is John?", "office", 2, (1,)),))
    splits = {"train": [train, train, other], "test": [other, train]}
    source = types.SimpleNamespace(
        num_problems=lambda split: len(splits[split]), problem=lambda split, index: splits[split][index]
    )
    records = generalization.baseline_records(source)
    assert records.groupby("baseline")["is_correct"].apply(list).to_dict() == {
        "majority answer": [False, True],
        "last answer named": [True, False],
    }


def test_baseline_records_know_the_majority_of_each_task():
    source = MixedProblems([GeneratedProblems(task, seed=0) for task in ("qa6", "qa1")])
    records = generalization.baseline_records(source, num_problems=100)
    majority = records[records["baseline"] == "majority answer"]
    assert majority.groupby("task")["prediction"].nunique().to_dict() == {"qa1": 1, "qa6": 1}
    assert set(majority[majority["task"] == "qa6"]["prediction"]) <= {"yes", "no"} and len(majority) == 100


def test_story_table_stars_the_supporting_facts():
    table = explore.story_table(["qa1", "qa15"], seed=0)
    assert list(table.index) == ["qa1", "qa15"]
    assert [facts.count("*") for facts in table["facts"]] == [1, 2]
    place = table.loc["qa1", "answer"]
    assert re.search(rf"to the {place}\. \*", table.loc["qa1", "facts"])


def test_floor_table_has_both_baselines_of_each_task():
    table = explore.floor_table(["qa4", "qa17"], seed=0, num_problems=200)
    assert len(table) == 4 and (table["n"] == 200).all()
    majority = table[table["baseline"] == "majority answer"].set_index("task")["accuracy"]
    assert majority["qa17"] == pytest.approx(0.5, abs=0.12) and majority["qa4"] < 0.3

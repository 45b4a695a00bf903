"""A sample: exact length, facts where they are said to be, purity, layouts."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmtkit.babi import Question, RecordedProblems, Story, write_stories
from rmtkit.babilong import BabilongBuilder

LENGTHS = st.integers(min_value=60, max_value=700)
POSITIONS = ("last", "first", "both")
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def record(tmp_path):
    """Return a function that writes qa1 stories, one of each given number of facts, and opens them as problems."""

    def write(numbers_of_facts, *, max_n_facts=None):
        stories = [told(number, name) for name, number in enumerate(numbers_of_facts)]
        for split in ("train", "test"):
            write_stories(stories, tmp_path / f"qa1_single-supporting-fact_{split}.txt")
        return RecordedProblems(tmp_path, "qa1", seed=0, max_n_facts=max_n_facts)

    return write


def told(num_facts, name):
    facts = tuple(f"Mary{name} went to the garden." for _ in range(num_facts))
    return Story("qa1", facts, (Question("Where is Mary?", "garden", num_facts, (num_facts - 1,)),))


def same(first, second):
    return np.array_equal(first.prompt, second.prompt) and np.array_equal(first.continuation, second.continuation)


def without_facts(sample):
    inside = np.zeros(len(sample.prompt), dtype=bool)
    for start, end in sample.fact_spans:
        inside[start:end] = True
    return sample.prompt[~inside]


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@MANY
@given(length=LENGTHS, index=st.integers(0, 10**6), split=st.sampled_from(["train", "validation", "test"]))
def test_sample_has_exactly_the_length_asked_for(make_builder, length, index, split):
    sample = make_builder().sample(split, index, length)
    assert len(sample.prompt) == length
    assert sample.prompt.dtype == np.uint16


@pytest.mark.parametrize("position", POSITIONS)
def test_sample_has_the_length_wherever_the_question_is(make_builder, position):
    assert len(make_builder(question_position=position).sample("train", 0, 300).prompt) == 300


@MANY
@given(length=LENGTHS, index=st.integers(0, 10**6), position=st.sampled_from(POSITIONS))
def test_fact_spans_hold_the_facts_in_order(make_builder, tokenizer, length, index, position):
    sample = make_builder(question_position=position).sample("train", index, length)
    told = [text_of(tokenizer, sample.prompt[start:end]).strip() for start, end in sample.fact_spans]
    assert told == list(sample.problem.facts)
    assert (np.diff(sample.fact_spans.ravel()) >= 0).all()


@MANY
@given(length=LENGTHS, index=st.integers(0, 10**6))
def test_background_is_consecutive_sentences(make_builder, tokenizer, length, index):
    """Without the facts the passage that the same generator draws is left, whose last sentence is cut."""
    builder = make_builder()
    sample = builder.sample("test", index, length)
    asked = len(tokenizer(" " + sample.question.text)["input_ids"])
    found = without_facts(sample)[:-asked]
    passage, _ = builder.background.passage("test", len(found), np.random.default_rng([0, 2, index]))
    assert np.array_equal(found, passage)


def test_facts_stand_between_sentences(make_builder, tokenizer):
    builder = make_builder()
    for index in range(20):
        sample = builder.sample("train", index, 400)
        for start, _ in sample.fact_spans:
            before = text_of(tokenizer, sample.prompt[:start])
            is_after_the_cut = start + sum(end - begin for begin, end in sample.fact_spans) > 370
            assert not before or before.endswith(".") or is_after_the_cut


def test_facts_spread_over_all_of_the_sample(make_builder):
    builder = make_builder()
    starts = [sample.fact_spans[0, 0] / 600 for sample in (builder.sample("train", i, 600) for i in range(60))]
    assert min(starts) < 0.1 and max(starts) > 0.6


def test_supporting_depths_are_shares_of_the_prompt(make_builder):
    sample = make_builder(task="qa2").sample("train", 1, 300)
    expected = [sample.fact_spans[number][0] / 300 for number in sample.question.supporting]
    assert sample.supporting_depths == tuple(expected) and len(expected) == 2


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize("layout", ["spaced", "authors"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("low, high", [(0.0, 0.4), (0.3, 0.7), (0.6, 1.0)])
def test_fact_depth_keeps_facts_in_its_window(make_builder, low, high, position, layout):
    builder = make_builder(fact_depth=(low, high), question_position=position, layout=layout)
    for index in range(60):
        sample = builder.sample("train", index, 600)
        assert low * len(sample.prompt) <= sample.fact_spans.min()
        assert sample.fact_spans.max() <= high * len(sample.prompt)


def test_fact_depth_without_a_gap_takes_the_nearest(make_builder):
    for index in range(10):
        sample = make_builder(fact_depth=(0.5, 0.51)).sample("train", index, 1000)
        assert abs(sample.fact_spans[0, 0] - 500) < 100


@pytest.mark.parametrize("position", POSITIONS)
def test_fact_depth_of_all_reaches_the_last_gap(make_builder, tokenizer, position):
    """In the authors' layout the question lies beyond the length asked for; the last gap still counts."""
    builder = make_builder(layout="authors", question_position=position)
    samples = [builder.sample("train", index, 90) for index in range(40)]
    num_asked = len(tokenizer(samples[0].question.text + " ")["input_ids"]) if position != "last" else 0
    assert max(sample.fact_spans[-1, 1] for sample in samples) == 90 + num_asked


# ---------------------------------------------------------------- purity


def test_sample_does_not_depend_on_the_order_of_access(make_builder):
    asked = [("train", 7, 200), ("test", 7, 200), ("train", 3, None), ("train", 2**33, 150)]
    one, other = make_builder(), make_builder()
    forward = [one.sample(*each) for each in asked]
    backward = [other.sample(*each) for each in reversed(asked)][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_sample_differs_by_seed_split_and_index(make_builder):
    samples = [make_builder().sample("train", 0, 200), make_builder().sample("train", 1, 200)]
    samples += [make_builder().sample("test", 0, 200), make_builder(seed=1).sample("train", 0, 200)]
    samples += [make_builder(problem_seed=4).sample("train", 0, 200)]
    assert not any(same(a, b) for i, a in enumerate(samples) for b in samples[:i])


def test_splits_share_no_background_and_no_problem(make_builder, tokenizer):
    builder, texts, facts = make_builder(), {}, {}
    for split in ("train", "validation", "test"):
        samples = [builder.sample(split, index, 300) for index in range(30)]
        words = " ".join(text_of(tokenizer, sample.prompt) for sample in samples).split()
        texts[split] = {b for a, b in zip(words, words[1:], strict=False) if a == "Text" and b.isdigit()}
        facts[split] = {sample.problem.facts for sample in samples}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert texts[one] and texts[other] and not texts[one] & texts[other]
        assert not facts[one] & facts[other]


# ---------------------------------------------------------------- the layout of the paper's code


def authors_prompt(tokenizer, sample, passage, positions):
    """Build the prompt slowly as facts B3 tell: no separator, question with its space, first piece of "GEN"."""

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    facts, ids = [encode(fact) for fact in sample.problem.facts], []
    for place in range(len(passage) + 1):
        ids += [token for fact, position in zip(facts, positions, strict=True) if position == place for token in fact]
        ids += passage[place : place + 1].tolist()
    answer = encode(sample.question.answer) + [tokenizer.eos_token_id]
    return ids, encode(sample.question.text + " ") + encode("GEN")[:1], answer


@pytest.mark.parametrize("index", range(6))
def test_layout_authors_repeats_the_papers_code(make_builder, tokenizer, index):
    builder = make_builder(layout="authors")
    sample = builder.sample("train", index, 250)
    lengths = [end - start for start, end in sample.fact_spans]
    rng = np.random.default_rng([0, 0, index])
    passage, _ = builder.background.passage("train", 250 - sum(lengths), rng)
    positions = sample.fact_spans[:, 0] - np.cumsum([0, *lengths[:-1]])
    context, asked, answer = authors_prompt(tokenizer, sample, passage, positions)
    assert len(context) == 250
    assert sample.prompt.tolist() == context + asked
    assert sample.continuation.tolist() == answer and sample.is_answer.all()
    assert text_of(tokenizer, asked[:-1]).endswith("? ")


def test_layout_authors_puts_no_space_between_pieces(make_builder, tokenizer):
    sample = make_builder(layout="authors", background=None).sample("train", 0, None)
    facts = "".join(sample.problem.facts)
    assert text_of(tokenizer, sample.prompt).startswith(f"{facts}{sample.question.text} G")
    assert text_of(tokenizer, sample.continuation) == f"{sample.question.answer}<|endoftext|>"


# ---------------------------------------------------------------- which problems fit


@pytest.mark.parametrize("length", [None, 500])
def test_sample_without_background_is_facts_and_question(make_builder, tokenizer, length):
    sample = make_builder(background=None).sample("train", 0, length)
    assert text_of(tokenizer, sample.prompt).strip() == " ".join((*sample.problem.facts, sample.question.text))


def test_sample_of_facts_and_question_alone_fits_exactly(make_builder):
    builder = make_builder()
    problem = builder.problems.problem("train", 0)
    sample = builder.sample("train", 0, builder.num_fixed_tokens(problem))
    assert sample.problem == problem and len(sample.prompt) == builder.num_fixed_tokens(problem)


def test_generated_problems_that_do_not_fit_are_drawn_anew(make_builder):
    builder = make_builder()
    sizes = [builder.num_fixed_tokens(builder.problems.problem("train", index)) for index in range(40)]
    limit = (min(sizes) + max(sizes)) // 2
    samples = [builder.sample("train", index, limit) for index in range(40)]
    assert {len(sample.prompt) for sample in samples} == {limit}
    for index, size in enumerate(sizes):
        assert (samples[index].problem == builder.problems.problem("train", index)) == (size <= limit)


def test_recorded_problems_that_do_not_fit_are_left_out(record, tokenizer, open_library):
    builder = BabilongBuilder(record([2, 60, 3, 80, 4]), open_library(tokenizer), tokenizer)
    assert [builder.num_fitting("test", length) for length in (None, 2000, 200)] == [5, 5, 3]
    found = [len(builder.sample("test", index, 200).problem.facts) for index in range(6)]
    assert found == [2, 3, 4, 2, 3, 4]


def test_recorded_problems_without_background_all_fit(record, tokenizer):
    builder = BabilongBuilder(record([2, 60]), None, tokenizer)
    assert builder.num_fitting("test", 50) == 2
    assert len(builder.sample("test", 1, 50).problem.facts) == 60


def test_num_fitting_of_generated_problems_is_endless(make_builder):
    assert make_builder().num_fitting("test", 100) is None


def test_problems_that_never_fit_raise(make_builder, record, tokenizer, open_library):
    with pytest.raises(ValueError, match="generated problems fits a prompt of 5 tokens.*max_n_facts=4"):
        make_builder().sample("train", 0, 5)
    with pytest.raises(ValueError, match="none of the recorded test problems fits a prompt of 5 tokens; take longer"):
        BabilongBuilder(record([2]), open_library(tokenizer), tokenizer).sample("test", 0, 5)


@pytest.mark.parametrize(
    "setting, message",
    [({"layout": "dense"}, "spaced, authors"), ({"question_position": "middle"}, "last, first, both"),
     ({"fact_depth": (0.5, 0.5)}, "low < high"), ({"fact_depth": (-0.1, 1)}, "0 <= low"),
     ({"fact_depth": (0, 1.1)}, "high <= 1")],
)  # fmt: skip
def test_builder_refuses_a_setting_out_of_range(make_builder, setting, message):
    with pytest.raises(ValueError, match=message):
        make_builder(**setting)


def test_builder_refuses_a_tokenizer_without_eos(make_builder, tokenizer):
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="EOS"):
        make_builder(tokenizer=bare, background=None)


def test_sample_of_an_unknown_split_raises(make_builder):
    with pytest.raises(ValueError, match="train, validation, test"):
        make_builder().sample("dev", 0, 200)

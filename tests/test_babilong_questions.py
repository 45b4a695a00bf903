"""Questions of a sample: at its ends, after the first answer, and on the way; answers and their marks."""

import numpy as np
import pytest

POSITIONS = ("last", "first", "both")


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def sample_of_questions(builder, length=300, **options):
    """Return the first sample that has two extra questions, with them."""
    samples = (builder.sample("train", index, length, num_extra_questions=2, **options) for index in range(1000))
    return next(sample for sample in samples if len(sample.problem.questions) == 3)


def test_question_last_ends_the_prompt(make_builder, tokenizer):
    sample = make_builder().sample("train", 0, 200)
    text = text_of(tokenizer, sample.prompt)
    assert text.endswith(" " + sample.question.text) and text.count(sample.question.text) == 1


def test_question_first_begins_the_prompt_and_a_mark_ends_it(make_builder, tokenizer):
    sample = make_builder(question_position="first").sample("train", 0, 200)
    text = text_of(tokenizer, sample.prompt).strip()
    assert text.startswith(sample.question.text + " ") and text.endswith(" Answer:")
    assert text.count(sample.question.text) == 1


def test_question_at_both_ends(make_builder, tokenizer):
    sample = make_builder(question_position="both").sample("train", 0, 200)
    text = text_of(tokenizer, sample.prompt).strip()
    assert text.startswith(sample.question.text) and text.endswith(sample.question.text)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("layout", ["spaced", "authors"])
def test_extra_questions_are_asked_before_they_are_answered(make_builder, tokenizer, position, layout):
    builder = make_builder(question_position=position, layout=layout, answer_size=300)
    sample = sample_of_questions(builder)
    text = text_of(tokenizer, sample.continuation)
    mark = {"spaced": "Answer:" if position == "first" else "", "authors": "G"}[layout]  # the first piece of "GEN"
    pieces = [sample.question.answer + "<|endoftext|>"]
    pieces += [f"{q.text}{mark}{q.answer}<|endoftext|>" for q in sample.problem.questions[1:]]
    assert text.replace(" ", "") == "".join(pieces).replace(" ", "")


def test_is_answer_marks_answers_and_their_ends(make_builder, tokenizer):
    sample = sample_of_questions(make_builder(answer_size=300))
    answers = text_of(tokenizer, sample.continuation[sample.is_answer]).replace(" ", "")
    assert answers == "".join(q.answer + "<|endoftext|>" for q in sample.problem.questions)


@pytest.mark.parametrize("layout", ["spaced", "authors"])
def test_extra_questions_beyond_answer_size_are_dropped(make_builder, tokenizer, layout):
    """In the authors' layout the question and "GEN" lie in that room too."""
    whole = sample_of_questions(make_builder(layout=layout, answer_size=300))
    ends = len(whole.prompt) - 300 + np.flatnonzero(whole.continuation == tokenizer.eos_token_id) + 1
    for answer_size, expected in ((1, 1), (ends[1] - 1, 1), (ends[1], 2), (ends[2] - 1, 2), (ends[2], 3)):
        builder = make_builder(layout=layout, answer_size=answer_size)
        sample = builder.sample("train", whole.index, 300, num_extra_questions=2)
        assert (sample.continuation == tokenizer.eos_token_id).sum() == expected
        assert sample.continuation[-1] == tokenizer.eos_token_id


def test_extra_questions_change_nothing_else(make_builder):
    plain, extra = (make_builder().sample("train", 5, 200, num_extra_questions=number) for number in (0, 3))
    assert np.array_equal(plain.prompt, extra.prompt) and plain.question == extra.question
    assert np.array_equal(plain.continuation, extra.continuation[: len(plain.continuation)])


def test_pieces_are_separated_by_spaces(make_builder, tokenizer):
    sample = sample_of_questions(make_builder(), None)
    assert text_of(tokenizer, sample.prompt) == " " + " ".join((*sample.problem.facts, sample.question.text))
    assert text_of(tokenizer, sample.continuation).startswith(f" {sample.question.answer}<|endoftext|> ")


def test_sample_holds_no_bos(make_builder, bos_tokenizer):
    assert bos_tokenizer("Mary")["input_ids"][0] == bos_tokenizer.bos_token_id
    sample = make_builder(tokenizer=bos_tokenizer).sample("train", 0, 200, num_extra_questions=2)
    assert bos_tokenizer.bos_token_id not in [*sample.prompt, *sample.continuation]


# ---------------------------------------------------------------- on the way


def with_questions_between(builder, length=400):
    """Return the first sample that is asked something on the way."""
    samples = (builder.sample("train", index, length, num_questions_between=2) for index in range(1000))
    return next(sample for sample in samples if len(sample.earlier_answers) > 1)


@pytest.mark.parametrize("layout", ["spaced", "authors"])
def test_questions_between_leave_length_type_and_facts_as_they_are(make_builder, tokenizer, layout):
    builder = make_builder(layout=layout)
    sample = with_questions_between(builder)
    plain = builder.sample("train", sample.index, 400)
    assert len(sample.prompt) == len(plain.prompt) and sample.prompt.dtype == plain.prompt.dtype == np.uint16
    assert sample.problem.facts == plain.problem.facts and sample.question == plain.question
    told = [text_of(tokenizer, sample.prompt[start:end]).strip() for start, end in sample.fact_spans]
    assert told == list(sample.problem.facts)
    assert not len(plain.earlier_answers)


@pytest.mark.parametrize("position", POSITIONS)
def test_questions_between_stand_after_the_facts_that_answer_them(make_builder, tokenizer, position):
    sample = with_questions_between(make_builder(question_position=position))
    mark = " Answer:" if position == "first" else ""
    assert len(sample.earlier_answers) == len(sample.problem.earlier)
    for question, (start, end) in zip(sample.problem.earlier, sample.earlier_answers, strict=True):
        assert text_of(tokenizer, sample.prompt[:start]).endswith(f" {question.text}{mark}")
        assert text_of(tokenizer, sample.prompt[start:end]) == f" {question.answer}<|endoftext|>"
        told = sample.fact_spans[:, 1] <= start
        assert told.sum() == question.num_facts


def test_questions_between_that_do_not_fit_are_left_out(make_builder):
    builder = make_builder()
    whole = with_questions_between(builder)
    smallest = builder.num_fixed_tokens(whole.problem)
    counts = []
    for length in range(smallest, 400, 5):
        sample = builder.sample("train", whole.index, length, num_questions_between=2)
        assert sample.problem == whole.problem and len(sample.prompt) == length
        counts.append(len(sample.earlier_answers))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == len(whole.problem.earlier)


def test_questions_between_without_background_all_fit(make_builder):
    builder = make_builder(background=None)
    assert len(with_questions_between(builder, None).earlier_answers) > 1

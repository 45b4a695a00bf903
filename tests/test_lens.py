"""A sample as HTML: everything escaped, everything marked, borders of segments and ruler where they belong."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rmtkit import lens
from rmtkit.babi import GeneratedProblems
from rmtkit.babilong import BabilongBuilder

SENTENCE = " He wrote <script>alert('x')</script> & left the old town for good."


class Sentences:
    """A background that repeats one sentence."""

    def __init__(self, tokenizer):
        self.sentence = np.array(tokenizer.encode(SENTENCE), dtype=np.uint16)

    def passage(self, split, num_tokens, rng):
        size = len(self.sentence)
        return np.resize(self.sentence, num_tokens), np.arange(0, num_tokens, size)


@pytest.fixture(scope="module")
def byte_tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"special_tokens": ["<eos>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    bpe.train_from_iterator([SENTENCE] * 3, trainers.BpeTrainer(vocab_size=300, **special))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


@pytest.fixture(scope="module")
def problems():
    return GeneratedProblems("qa1", seed=0)


@pytest.fixture(scope="module")
def builder(byte_tokenizer, problems):
    return BabilongBuilder(problems, Sentences(byte_tokenizer), byte_tokenizer)


def marked(text, kind):
    """Return the texts that an HTML page marks as something."""
    return re.findall(f'<span title="{kind}"[^>]*>([^<]*)</span>', text)


def body_of(text):
    """Return the HTML of the prompt alone, without title, ruler and answer."""
    return text.split(f'<div style="{lens.STYLE}">', 1)[1].split(" &rarr;")[0]


def plain(text):
    return lens.html.unescape(re.sub("<[^>]*>", "", text))


def segments_of(body):
    """Cut the HTML of a prompt at its borders: number -> the text of that segment."""
    parts = re.split(r'<span title="segment (\d+) begins at token [\d,]+"[^>]*>\d+</span>', body)
    assert parts[0] == "" or "<span" in parts[0]  # the first border stands at the first token
    return {int(number): plain(part) for number, part in zip(parts[1::2], parts[2::2], strict=True)}


def test_render_sample_escapes_the_background(builder, byte_tokenizer):
    text = lens.render_sample(builder.sample("train", 0, 600), byte_tokenizer)
    assert "<script" not in text
    assert "&lt;script&gt;" in text and "&amp; left" in text


def test_render_sample_marks_facts_question_and_answer(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 600)
    text, problem = lens.render_sample(sample, byte_tokenizer), sample.problem
    legend = 1
    supporting = [problem.facts[i] for i in sample.question.supporting]
    assert marked(text, "supporting fact")[legend:] == supporting
    assert marked(text, "fact")[legend:] == [fact for fact in problem.facts if fact not in supporting]
    assert marked(text, "question")[legend:] == [sample.question.text]
    assert marked(text, "answer") == [sample.question.answer]


def test_render_sample_marks_a_question_at_the_start(problems, byte_tokenizer):
    builder = BabilongBuilder(problems, Sentences(byte_tokenizer), byte_tokenizer, question_position="first")
    text = lens.render_sample(builder.sample("train", 0, 600), byte_tokenizer)
    assert len(marked(text, "question")) == 2
    assert text.index(marked(text, "question")[1]) < text.index("&lt;script")


def test_render_sample_shortens_long_background_and_says_by_how_much(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 3000)
    short, whole = (lens.render_sample(sample, byte_tokenizer, max_tokens=size) for size in (100, 10**6))
    assert "tokens of background" in short and "tokens of background" not in whole
    assert len(short) < len(whole) / 3


def test_render_sample_keeps_both_ends_of_a_background_that_it_shortens(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 3000)
    pieces = [piece for piece in lens.cut_sample(sample, byte_tokenizer) if piece.kind == "background"]
    text, room = lens.render_sample(sample, byte_tokenizer, max_tokens=400), 400 // len(pieces) // 2
    longest = max(pieces, key=lambda piece: piece.end - piece.start)
    for start in (longest.start, longest.end - room):
        end_of_it = byte_tokenizer.decode(sample.prompt[start : start + room].tolist())
        assert lens.html.escape(end_of_it) in text and len(end_of_it) > 20


def test_render_sample_keeps_the_order_of_the_prompt(builder, byte_tokenizer):
    sample = builder.sample("train", 1, 300)
    text = lens.render_sample(sample, byte_tokenizer, max_tokens=10**6)
    assert plain(body_of(text)) == byte_tokenizer.decode(sample.prompt.tolist())


def test_render_sample_shows_facts_without_background(builder, byte_tokenizer):
    text = lens.render_sample(builder.sample("train", 0), byte_tokenizer)
    assert "script" not in text and len(marked(text, "supporting fact")) == 2


def test_render_sample_says_right_or_wrong_beside_the_answer(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 300)
    wrong = lens.render_sample(sample, byte_tokenizer, prediction="<b>attic", is_correct=False)
    assert marked(wrong, "answer of the model") == ["&lt;b&gt;attic"] and "(wrong)" in wrong
    assert "(right)" in lens.render_sample(sample, byte_tokenizer, prediction="x", is_correct=True)
    assert marked(lens.render_sample(sample, byte_tokenizer), "answer of the model") == []


# ---------------------------------------------------------------------- segments


def test_borders_cut_the_text_into_the_segments_that_the_model_reads(builder, byte_tokenizer):
    sample = builder.sample("train", 1, 300)
    text = lens.render_sample(sample, byte_tokenizer, segment_size=37, max_tokens=10**6)
    found = segments_of(body_of(text))
    expected = {n: byte_tokenizer.decode(sample.prompt[37 * n : 37 * n + 37].tolist()) for n in range(9)}
    assert found == expected


def test_borders_do_not_change_the_text(builder, byte_tokenizer):
    sample = builder.sample("train", 2, 300)
    with_borders = body_of(lens.render_sample(sample, byte_tokenizer, segment_size=7, max_tokens=10**6))
    without = re.sub(r'<span title="segment \d+ begins[^>]*>\d+</span>', "", with_borders)
    assert plain(without) == byte_tokenizer.decode(sample.prompt.tolist())


def test_border_inside_of_a_character_goes_before_it(byte_tokenizer):
    text = " caf\u00e9 na\u00efve"  # two bytes a letter, which this tokenizer keeps apart
    ids = np.array(byte_tokenizer.encode(text))
    sample = type("Sample", (), {"prompt": ids})
    places = [place for place in range(1, len(ids)) if byte_tokenizer.decode(ids[:place].tolist()).endswith("\ufffd")]
    assert places
    for place in places:
        found = lens._render_text(sample, 0, len(ids), byte_tokenizer, place)
        segments = segments_of(found)
        assert "".join(segments.values()) == text and "\ufffd" not in found
        assert segments[0] == byte_tokenizer.decode(ids[:place].tolist()).rstrip("\ufffd")


def test_hidden_background_tells_which_segments_begin_in_it(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 3000)
    body = body_of(lens.render_sample(sample, byte_tokenizer, segment_size=50, max_tokens=200))
    shown = {int(n) for n in re.findall(r'title="segment (\d+) begins', body)}
    hidden = set()
    for first, last in re.findall(r"segments? (\d+)(?: to (\d+))? begins? there", body):
        hidden |= set(range(int(first), int(last or first) + 1))
    assert shown | hidden == set(range(60)) and not shown & hidden and len(hidden) > 20
    counts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) tokens of background", body)]
    visible = plain(re.sub(r"<i>.*?</i>", "", re.sub(r'<span title="segment[^>]*>\d+</span>', "", body)))
    assert sum(counts) + len(byte_tokenizer.encode(visible)) == pytest.approx(3000, abs=30)


# ---------------------------------------------------------------------- ruler


def ticks(text):
    """Return (kind, token, left in per cent) of each tick of a ruler, as drawn."""
    found = re.findall(r'<div title="([a-z ]+) at token ([\d,]+) [^"]*" style="position:absolute;left:([\d.]+)%', text)
    return sorted((int(token.replace(",", "")), kind, float(left)) for kind, token, left in found)


def test_ruler_has_a_tick_where_each_fact_and_the_question_begin(builder, byte_tokenizer):
    sample = builder.sample("train", 0, 600)
    found = ticks(lens.render_sample(sample, byte_tokenizer))
    starts = sample.fact_spans[:, 0].tolist()
    kinds = ["supporting fact" if k in sample.question.supporting else "fact" for k in range(len(starts))]
    assert [(token, kind) for token, kind, _ in found[:-1]] == list(zip(starts, kinds, strict=True))
    assert found[-1][1] == "question" and found[-1][0] > starts[-1]
    assert all(left == pytest.approx(token / 6, abs=0.01) for token, _, left in found)


def test_ruler_has_a_stripe_for_every_other_segment_up_to_a_number(byte_tokenizer):
    pieces = [lens.Piece("background", 0, 100)]
    track = lens.render_ruler(pieces, 20)
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", track)[1:3] == [("20.00", "20.00"), ("60.00", "20.00")]
    many = [lens.Piece("background", 0, 10_000)]
    assert lens.render_ruler(many, 20) == lens.render_ruler(many)


def test_lens_of_a_long_prompt_in_pieces_stays_small(make_builder):
    builder = make_builder()
    sample = builder.sample("train", 0, 200_000)
    text = lens.render_sample(sample, builder.tokenizer, segment_size=128)
    assert len(text) < 20_000 and "200,000 tokens in 1,563 segments of 128" in text

"""The retrieval baseline: pieces of a context, which are kept, and what is lost of the supporting facts."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkit.llm.cases import Case
from rmtkit.llm.data import generated_cases
from rmtkit.llm.retrieval import Retriever, mean_recall

BACKGROUND = [f"The river of valley {number} is long and wide." for number in range(12)]
MOVES = ["Mary went to the garden.", "John slept.", "Mary moved to the office."]


def make_case(sentences, question="Where is Mary?", supporting=None):
    """A case of these sentences; `supporting` are some of them."""
    context = " ".join(sentences)
    spans = supporting and tuple((context.index(fact), context.index(fact) + len(fact)) for fact in supporting)
    return Case("qa1", "1k", 0, context, question, "office", spans)


def count_letters(texts):
    """A stand-in for sentence embeddings: how often each letter occurs."""
    return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)


@pytest.fixture
def mixed():
    """Two moves of Mary and one of John, among sentences about rivers."""
    return make_case([*BACKGROUND[:4], *MOVES, *BACKGROUND[4:]], supporting=[MOVES[2]])


def test_retriever_keeps_the_sentences_with_the_questions_words(mixed):
    retriever = Retriever(top=2)
    kept = retriever.retrieve(mixed)
    assert kept.context == f"{MOVES[0]} {MOVES[2]}"
    assert [kept.context[start:end] for start, end in kept.supporting] == [MOVES[2]]
    assert retriever.recall(mixed, kept) == 1.0
    assert (kept.task, kept.question, kept.target, kept.index) == ("qa1", "Where is Mary?", "office", 0)


def test_retriever_keeps_the_order_of_the_text():
    facts = ["Mary slept.", "Mary is where Mary was.", "Where is Mary?"]
    kept = Retriever(top=3).retrieve(make_case([facts[0], *BACKGROUND, facts[1], BACKGROUND[0], facts[2]]))
    assert kept.context == " ".join(facts)


def test_retriever_misses_a_fact_that_shares_no_word():
    facts = ["Mary took the apple.", "Mary went to the garden."]
    apples = ["The apple is red.", "An apple is green.", "One apple is big.", "My apple is small.", "An apple fell."]
    case = make_case([*apples, *facts, *BACKGROUND], "Where is the apple?", supporting=facts)
    retriever = Retriever()
    kept = retriever.retrieve(case)
    assert retriever.recall(case, kept) == 0.5 and facts[1] not in kept.context


def test_retriever_takes_the_later_of_equals():
    sentences = [f"Mary went to the {place}." for place in ("hall", "park", "barn", "yard")]
    assert Retriever(top=2).retrieve(make_case([*sentences, *BACKGROUND])).context == " ".join(sentences[2:])


@pytest.mark.parametrize("question", ["Who?", "?", "Is it?"])
def test_retriever_keeps_top_pieces_whatever_they_are(question):
    case = make_case(BACKGROUND, question=question)
    assert Retriever(top=3).retrieve(case).context == " ".join(BACKGROUND[-3:])


@pytest.mark.parametrize("unit", ["sentence", "chunk"])
def test_retriever_leaves_a_short_context_as_it_is(unit):
    for context in (["  Mary", *MOVES, ""], MOVES, []):
        case = make_case(context, supporting=context[1:2])
        assert Retriever(unit=unit).retrieve(case) == case


def test_retriever_does_not_know_the_recall_of_unknown_facts(mixed):
    retriever = Retriever(top=1)
    unknown = make_case([*MOVES, *BACKGROUND])
    kept = retriever.retrieve(unknown)
    assert kept.supporting is None and retriever.recall(unknown, kept) is None


def test_mean_recall_is_of_the_known_ones():
    assert mean_recall([1.0, None, 0.5, 0.0]) == 0.5 and mean_recall([None]) is None


# ------------------------------------------------------------------ pieces


def test_chunks_without_a_tokenizer_have_384_words():
    text = " ".join(f"w{number}" for number in range(1000))
    chunks = [text[start:end] for start, end in Retriever(unit="chunk").split(text)]
    assert [len(chunk.split()) for chunk in chunks] == [384, 384, 232] and " ".join(chunks) == text


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text("abcMary.", min_size=1, max_size=30), max_size=60), size=st.integers(1, 40))
def test_chunks_have_whole_words_and_as_many_tokens_as_fit(tokenizer, words, size):
    text = " ".join(words)
    spans = Retriever(unit="chunk", chunk_size=size, tokenizer=tokenizer).split(text)
    assert [word for start, end in spans for word in text[start:end].split(" ")] == words
    for start, end in spans:
        before = len(tokenizer.tokenize(text[: max(0, start - 1)]))
        longer = (text + " ").index(" ", min(end + 1, len(text)))  # with the word after it
        sizes = [len(tokenizer.tokenize(text[:place])) - before for place in (end, longer)]
        assert sizes[0] <= size + 1 or " " not in text[start:end]  # a token may be the space before
        assert end == len(text) or sizes[1] > size


def test_a_fact_in_two_neighbouring_chunks_is_kept_whole():
    words = [f"w{number}" for number in range(60)]
    context = " ".join([*words[:19], "Mary went", "to the garden.", *words[19:]])
    start = context.index("Mary")
    case = Case("qa1", "1k", 0, context, "Mary garden", "garden", ((start, start + len("Mary went to the garden.")),))
    retriever = Retriever(unit="chunk", chunk_size=28, top=2)  # 21 words
    assert [context[a:b].split()[0] for a, b in retriever.split(context)][1] == "to"
    kept = retriever.retrieve(case)
    assert retriever.recall(case, kept) == 1.0 and "Mary went to the garden." in kept.context
    one = Retriever(unit="chunk", chunk_size=28, top=1)
    assert one.recall(case, one.retrieve(case)) == 0.0


@pytest.mark.parametrize("task", ["qa1", "qa3", "qa5"])
def test_a_fact_is_a_sentence_of_its_own_but_after_the_cut_end_of_the_background(library, tmp_path_factory, task):
    cases = generated_cases(
        task, "1k", 12, num_tokens=lambda text: len(text.split()), seed=1, background=library,
        data_dir=tmp_path_factory.getbasetemp() / "sentences",
    )  # fmt: skip
    for case in cases:
        sentences = Retriever().split(case.context)
        for start, end in case.supporting:
            before = case.context[:start].rstrip()
            assert (start, end) in sentences or not before.endswith(".")
            assert any(first <= start and end == last for first, last in sentences)


# ------------------------------------------------------------------ embeddings


def test_embeddings_keep_the_nearest_by_angle():
    nearest, farther = "Zzq.", "Zzzzzzzzzzzzzzzaaaaaaaaaaaa."  # the second is longer, as a vector, too
    case = make_case([*BACKGROUND, nearest, farther, *BACKGROUND], question="zzzz qq")
    retriever = Retriever("embeddings", top=1, encoder=count_letters)
    assert retriever.retrieve(case).context == nearest


def test_embeddings_may_be_zero():
    case = make_case(BACKGROUND, question="0")
    assert Retriever("embeddings", top=1, encoder=count_letters).retrieve(case).context == BACKGROUND[-1]


@pytest.mark.parametrize(
    "kind, package, message",
    [
        ("bm25", "bm25s", r"retrieval by bm25 needs the package bm25s: pip install 'rmtkit\[llm\]'"),
        ("embeddings", "sentence_transformers", "needs the package sentence-transformers: pip install"),
    ],
)
def test_retriever_says_which_package_is_missing(monkeypatch, kind, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=message):
        Retriever(kind)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "tfidf"}, "kind is 'tfidf'; allowed: bm25, embeddings"),
        ({"unit": "word"}, "unit is 'word'; allowed: sentence, chunk"),
        ({"top": 0}, "top is 0; expected at least 1"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_retriever_says_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        Retriever(**settings)

"""Token stores of background text: building, splits, limits, passages, and what a killed build leaves."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_types import SENTENCES, make_byte_bpe, make_unigram, wrap
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rmtkit.background import SPLITS, Document, encode_piece, open_background, read_documents, store
from rmtkit.background.encoding import token_dtype, tokenizer_fingerprint

NUM_DOCUMENTS = 24

SLOW_BUILD = """
import logging, sys, time
from transformers import PreTrainedTokenizerFast
from rmtkit.background import open_background, store
logging.basicConfig(level=logging.INFO)
streams = store.document_streams

def slowly(documents):
    for document in documents:
        yield document
        time.sleep(float(sys.argv[1]))

store.document_streams = lambda source, path: [slowly(documents) for documents in streams(source, path)]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=sys.argv[2])
print(open_background("local", tokenizer, data_dir=sys.argv[3], path=sys.argv[4]).meta["splits"])
"""


def sentence(document, number):
    return f"Report {document} line {number} says that the river was high."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """24 files of 2 to 6 sentences of one form, each over two lines: a decoded passage tells what it holds."""
    folder = tmp_path_factory.mktemp("corpus")
    for document in range(NUM_DOCUMENTS):
        lines = [sentence(document, number) for number in range(2 + document % 5)]
        (folder / f"{document:02}.txt").write_text("\n".join([*lines, "Oh."]).replace(" says", "\n  says"))
    return folder


@pytest.fixture(scope="module")
def background(byte_bpe, corpus, tmp_path_factory):
    return open_background("local", byte_bpe, data_dir=tmp_path_factory.mktemp("data"), path=corpus)


def sentences_of(background, tokenizer, split, num_tokens, *, seed=0):
    """(document, line) of each whole sentence of a passage."""
    tokens, starts = background.passage(split, num_tokens, np.random.default_rng(seed))
    texts = [tokenizer.decode(part).strip() for part in np.split(tokens, starts[1:])]
    found = [re.fullmatch(r"Report (\d+) line (\d+) says that the river was high\.", text) for text in texts]
    assert all(found[:-1])
    return [(int(match[1]), int(match[2])) for match in found if match]


def documents_of(background, tokenizer, split):
    pairs = sentences_of(background, tokenizer, split, 3 * background.num_tokens(split))
    return {document for document, _ in pairs}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_store_dtype_holds_the_vocabulary(corpus, tmp_path, vocab_size, dtype):
    words = {f"word{number}": number for number in range(vocab_size - 1)} | {"river": vocab_size - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    background = open_background("local", wrap(tokenizer), data_dir=tmp_path, path=corpus)
    tokens, _ = background.passage("train", 50, np.random.default_rng(0))
    assert token_dtype(wrap(tokenizer)) == tokens.dtype == dtype
    assert vocab_size - 1 in tokens


def test_background_counts_sentences_and_documents(background, byte_bpe):
    assert sum(background.num_documents(split) for split in SPLITS) == NUM_DOCUMENTS
    expected = [
        len(encode_piece(byte_bpe, sentence(document, number)))
        for document in range(NUM_DOCUMENTS)
        for number in range(2 + document % 5)
    ]
    assert sum(background.num_sentences(split) for split in SPLITS) == len(expected)
    assert sum(background.num_tokens(split) for split in SPLITS) == sum(expected)
    files = {file.name for file in background.folder.iterdir()}
    assert files == {"tokens.bin", "sentences.npy", "documents.npy", "meta.json"}
    assert background.meta["source"] == "local"
    assert background.meta["tokenizer"] == tokenizer_fingerprint(byte_bpe)


def test_splits_share_no_document_and_have_about_their_shares(background, byte_bpe):
    members = [documents_of(background, byte_bpe, split) for split in SPLITS]
    assert set.union(*members) == set(range(NUM_DOCUMENTS))
    assert sum(map(len, members)) == NUM_DOCUMENTS
    shares = np.array([background.num_tokens(split) for split in SPLITS]) / sum(map(background.num_tokens, SPLITS))
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.06


def test_splits_do_not_depend_on_the_tokenizer_or_the_order(background, byte_bpe, corpus, tmp_path):
    for number, file in enumerate(sorted(corpus.iterdir(), reverse=True)):
        (tmp_path / f"{number}.txt").write_text(file.read_text())
    coarse = wrap(make_byte_bpe(vocab_size=280))
    other = open_background("local", coarse, data_dir=tmp_path, path=tmp_path)
    assert documents_of(other, coarse, "test") == documents_of(background, byte_bpe, "test")


def test_splits_do_not_depend_on_the_sentences_that_are_kept(background, byte_bpe, corpus, tmp_path):
    longest = len(encode_piece(byte_bpe, sentence(10, 1)))
    strict = open_background("local", byte_bpe, data_dir=tmp_path, path=corpus, min_sentence_tokens=longest)
    assert sum(strict.num_documents(split) for split in SPLITS) < NUM_DOCUMENTS
    for split in SPLITS:
        assert documents_of(strict, byte_bpe, split) <= documents_of(background, byte_bpe, split)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (50, 1, 1), (1, 50, 1), (1, 1, 50), (9, 9, 1)])
def test_three_documents_fill_every_split(byte_bpe, tmp_path, sizes):
    for document, size in enumerate(sizes):
        (tmp_path / f"{document}.txt").write_text(" ".join(sentence(document, number) for number in range(size)))
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=tmp_path)
    assert [background.num_documents(split) for split in SPLITS] == [1, 1, 1]


def test_copies_of_a_document_share_a_split(byte_bpe, tmp_path):
    for copy in range(12):
        (tmp_path / f"{copy}.txt").write_text(sentence(copy % 3, 0))
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=tmp_path)
    assert [background.num_documents(split) for split in SPLITS] == [4, 4, 4]
    assert all(len(documents_of(background, byte_bpe, split)) == 1 for split in SPLITS)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 4), split=st.sampled_from(SPLITS), seed=st.integers(0, 2**32))
def test_passage_is_exact_and_made_of_whole_sentences(background, byte_bpe, share, split, seed):
    num_tokens = int(share * background.num_tokens(split))
    tokens, starts = background.passage(split, num_tokens, np.random.default_rng(seed))
    assert tokens.shape == (num_tokens,)
    assert starts.dtype == np.int64
    assert starts.tolist() == sorted(set(starts.tolist()))
    assert starts[:1].tolist() == [0][:num_tokens]
    assert not len(starts) or starts[-1] < num_tokens
    pairs = sentences_of(background, byte_bpe, split, num_tokens, seed=seed)
    assert len(pairs) in (len(starts), len(starts) - 1)


def test_passage_runs_on_and_takes_each_document_once_a_round(background, byte_bpe):
    num_documents, num_sentences = background.num_documents("train"), background.num_sentences("train")
    for seed in range(20):
        pairs = sentences_of(background, byte_bpe, "train", 4 * background.num_tokens("train"), seed=seed)
        ends = [(document, line) for document, line in pairs if line == 1 + document % 5]
        for (document, line), following in pairwise(pairs):
            assert following == (document, line + 1) if (document, line) not in ends else following[1] == 0
        rounds = [
            tuple(document for document, _ in ends[start : start + num_documents])
            for start in range(0, 3 * num_documents, num_documents)
        ]
        assert len(set(rounds)) == 3
        assert all(len(set(documents)) == num_documents for documents in rounds)
        assert len(pairs) >= 3 * num_sentences


def test_passage_starts_uniformly_over_sentences(background, byte_bpe):
    first = [sentences_of(background, byte_bpe, "test", 40, seed=seed)[0] for seed in range(600)]
    counts = [first.count(pair) for pair in set(first)]
    expected = 600 / background.num_sentences("test")
    assert len(counts) == background.num_sentences("test")
    assert max(abs(count - expected) for count in counts) < 5 * expected**0.5


def test_passage_repeats_for_a_seed_and_survives_pickling(background):
    clone = pickle.loads(pickle.dumps(background))
    assert len(pickle.dumps(background)) < 1000
    for one, same in zip(
        background.passage("train", 700, np.random.default_rng(5)),
        clone.passage("train", 700, np.random.default_rng(5)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, same)
    other, _ = background.passage("train", 700, np.random.default_rng(6))
    assert not np.array_equal(one, other)


def test_passage_refuses_a_negative_length_and_an_unknown_split(background):
    with pytest.raises(ValueError, match="-1"):
        background.passage("train", -1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown split 'dev': use one of train, validation, test"):
        background.passage("dev", 5, np.random.default_rng(0))


def test_passage_of_an_empty_split_says_why(byte_bpe, tmp_path):
    (tmp_path / "only.txt").write_text(sentence(0, 0))
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=tmp_path)
    with pytest.raises(ValueError, match="split 'test' of background 'local' is empty"):
        background.passage("test", 5, np.random.default_rng(0))


def test_min_sentence_tokens_is_kept(byte_bpe, corpus, tmp_path):
    least = len(encode_piece(byte_bpe, sentence(1, 1)))
    longest = len(encode_piece(byte_bpe, sentence(10, 1)))
    assert least < longest
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=corpus, min_sentence_tokens=longest)
    _, starts = background.passage("train", background.num_tokens("train"), np.random.default_rng(0))
    assert np.diff(starts).min() >= longest


@pytest.mark.parametrize("own_splits", [False, True])
def test_max_tokens_ends_a_split_with_the_document_that_reaches_it(byte_bpe, corpus, tmp_path, own_splits):
    folder = tmp_path / "text"
    for split in SPLITS if own_splits else [""]:
        (folder / split).mkdir(parents=True)
        for file in corpus.iterdir():
            (folder / split / file.name).write_text(split + file.read_text())
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=folder, max_tokens=200)
    longest = 6 * len(encode_piece(byte_bpe, sentence(10, 1))) + 10
    assert 200 <= background.num_tokens("train") < 200 + longest


def test_a_full_split_is_read_no_further(byte_bpe, corpus, tmp_path, monkeypatch):
    def stream():
        for number in range(10**9):
            yield Document(str(number), " ".join(SENTENCES[:1] * 100), "train")

    monkeypatch.setattr(store, "document_streams", lambda source, path: [stream()])
    background = open_background("local", byte_bpe, data_dir=tmp_path, path=corpus, max_tokens=1000)
    assert background.num_tokens("train") >= 1000


def test_open_background_builds_once_for_each_setting(byte_bpe, corpus, tmp_path, monkeypatch):
    built, build = [], store.write_store
    monkeypatch.setattr(store, "write_store", lambda *args, **options: (built.append(args[0]), build(*args, **options)))
    tokenizers = [byte_bpe, byte_bpe, wrap(make_unigram())]
    folders = {open_background("local", tokenizer, data_dir=tmp_path, path=corpus).folder for tokenizer in tokenizers}
    folders.add(open_background("local", byte_bpe, data_dir=tmp_path, path=corpus, min_sentence_tokens=11).folder)
    assert len(built) == len(folders) == 3
    assert all(folder.parent == tmp_path / "cache" and folder.name.startswith("local-") for folder in folders)


def test_open_background_opens_a_store_without_writing(byte_bpe, corpus, background, monkeypatch):
    monkeypatch.setattr(store, "_lock", lambda folder: pytest.fail("locked"))
    again = open_background("local", byte_bpe, data_dir=background.folder.parent.parent, path=corpus)
    assert again.folder == background.folder


def test_open_background_of_none_is_none(byte_bpe, tmp_path):
    assert open_background("none", byte_bpe, data_dir=tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_open_background_refuses_a_damaged_store(byte_bpe, corpus, tmp_path):
    folder = open_background("local", byte_bpe, data_dir=tmp_path, path=corpus).folder
    for name in ("tokens.bin", "sentences.npy", "documents.npy", "meta.json"):
        content = (folder / name).read_bytes()
        for damaged in (content[:-8], b"", None):
            (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
            with pytest.raises(ValueError, match="delete .*local-"):
                open_background("local", byte_bpe, data_dir=tmp_path, path=corpus)
        (folder / name).write_bytes(content)
    assert open_background("local", byte_bpe, data_dir=tmp_path, path=corpus).num_tokens("train")


def test_open_background_refuses_an_unwritable_folder_before_any_work(byte_bpe, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "write_store", lambda *args, **options: pytest.fail("worked"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*cache"):
        open_background("local", byte_bpe, data_dir=tmp_path / "file", path=corpus)


@pytest.mark.parametrize("options", [{"min_sentence_tokens": 0}, {"max_tokens": 0}])
def test_open_background_refuses_limits_below_one(byte_bpe, corpus, tmp_path, options):
    with pytest.raises(ValueError, match="must be 1 or more"):
        open_background("local", byte_bpe, data_dir=tmp_path, path=corpus, **options)


def test_a_source_without_long_sentences_leaves_nothing_behind(byte_bpe, tmp_path):
    (tmp_path / "a.txt").write_text("Short.")
    with pytest.raises(ValueError, match="no sentence of 10 tokens"):
        open_background("local", byte_bpe, data_dir=tmp_path, path=tmp_path)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def start_slow_build(tokenizer, corpus, folder, *, seconds):
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    command = [sys.executable, "-c", SLOW_BUILD, str(seconds), str(folder / "tokenizer.json"), str(folder), str(corpus)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_killed_build_leaves_no_store_and_the_next_one_works(byte_bpe, corpus, background, tmp_path):
    process = start_slow_build(byte_bpe, corpus, tmp_path, seconds=60)
    while not list(tmp_path.glob("cache/*.building/arrived.bin")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (building,) = tmp_path.glob("cache/*.building")
    assert not building.with_suffix("").exists()
    rebuilt = open_background("local", byte_bpe, data_dir=tmp_path, path=corpus)
    assert rebuilt.folder == building.with_suffix("")
    assert not building.exists()
    assert (rebuilt.folder / "tokens.bin").read_bytes() == (background.folder / "tokens.bin").read_bytes()


def test_two_processes_build_one_store(byte_bpe, corpus, background, tmp_path):
    processes = [start_slow_build(byte_bpe, corpus, tmp_path, seconds=0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [output for output, _ in outputs] == [f"{background.meta['splits']}\n"] * 2
    assert "".join(errors for _, errors in outputs).count("building background") == 1


def test_wiki_store_holds_the_articles(tmp_path):
    text = [document.text for document in read_documents("wiki")][:10]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    background = open_background("wiki", wrap(tokenizer), data_dir=tmp_path)
    assert [background.num_documents(split) for split in SPLITS] == [81, 11, 6]
    assert sum(map(background.num_sentences, SPLITS)) > 15_000
    tokens, starts = background.passage("test", 2_000_000, np.random.default_rng(0))
    assert len(tokens) == 2_000_000
    assert tokenizer.decode(tokens[starts[1] : starts[2]].tolist()).strip() in " ".join(
        " ".join(document.text.split()) for document in read_documents("wiki")
    )
    assert json.loads((background.folder / "meta.json").read_text())["origin"].endswith("CC BY-SA 3.0 and GFDL")

"""Pieces of text to token ids: how they join, what is added and dropped, the fingerprint of a tokenizer."""

import numpy as np
import pytest
from tokenizer_types import MAKERS, SENTENCES, make_byte_bpe, make_byte_bpe_with_bos, wrap
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.utils.logging import get_logger

from rmtkit.background import encode_piece, encode_pieces, joining_prefix
from rmtkit.background.encoding import tokenizer_fingerprint


@pytest.mark.parametrize("name", MAKERS)
def test_encoded_pieces_joined_decode_to_sentences_with_a_space_between(name):
    tokenizer = wrap(MAKERS[name]())
    joined = np.concatenate(encode_pieces(tokenizer, SENTENCES))
    expected = tokenizer(" ".join(SENTENCES), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(joined).strip() == tokenizer.decode(expected).strip()
    if name != "wordpiece":  # which spaces punctuation its own way
        assert tokenizer.decode(joined).strip() == " ".join(SENTENCES)


@pytest.mark.parametrize(
    ("name", "prefix"), [("byte_bpe", " "), ("wordpiece", ""), ("unigram", ""), ("metaspace_bpe", " ")]
)
def test_joining_prefix_by_kind_of_tokenizer(name, prefix):
    assert joining_prefix(wrap(MAKERS[name]())) == prefix


def test_joining_prefix_refuses_a_tokenizer_that_loses_spaces():
    words = {word: number for number, word in enumerate(["[UNK]", "The", "cat", "Mary", "went"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    with pytest.raises(ValueError, match="cannot join"):
        joining_prefix(wrap(tokenizer))


def test_encode_piece_adds_no_special_token():
    tokenizer = wrap(make_byte_bpe_with_bos())
    assert tokenizer("Mary went")["input_ids"][0] == 0
    assert 0 not in encode_piece(tokenizer, "Mary went")


def test_encode_piece_drops_white_space_at_the_ends(byte_bpe):
    assert encode_piece(byte_bpe, " Mary went\n") == encode_piece(byte_bpe, "Mary went")
    assert encode_piece(byte_bpe, " ") == []


def test_encode_pieces_equals_encode_piece_for_more_than_one_batch(byte_bpe):
    texts = [f"Mary went to garden {number}. " for number in range(3000)] + [""]
    pieces = encode_pieces(byte_bpe, texts)
    assert len(pieces) == len(texts)
    assert all(piece.dtype == np.uint16 for piece in pieces)
    for number in (0, 2047, 2048, 2999, 3000):
        assert pieces[number].tolist() == encode_piece(byte_bpe, texts[number])


def test_encode_piece_does_not_warn_about_the_length_of_the_model(monkeypatch):
    logger = get_logger("transformers.tokenization_utils_base")
    monkeypatch.setattr(logger, "warning", lambda *args: pytest.fail(args[0]))
    assert len(encode_piece(wrap(make_byte_bpe(), model_max_length=4), SENTENCES[0])) > 4


def test_tokenizer_fingerprint_ignores_truncation_and_sees_the_vocabulary(byte_bpe):
    tokenizer = wrap(make_byte_bpe(), pad_token="<s>")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(SENTENCES, truncation=True, max_length=4, padding="max_length")
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.add_tokens(["garden"])
    assert tokenizer_fingerprint(tokenizer) != before

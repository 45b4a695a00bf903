"""Text pieces (sentences, facts, questions) to token ids, so that pieces can be joined by joining their ids.

A piece is encoded with the space that separates it from the piece before, and without special tokens. Tokenizers differ
in who adds that space: byte-level BPE (GPT-2) wants it in the text, SentencePiece (Llama) and WordPiece (BERT) add it.
"""

import json
from functools import lru_cache
from hashlib import blake2b

import numpy as np

BATCH_PIECES = 2048  # pieces in one call of the tokenizer: enough to keep it busy, few enough to hold in memory
PROBES = (("The cat sat on the mat.", "Then Mary went home."), ("He said no.", '(In 1990 it was "yes".)'))


@lru_cache(maxsize=16)
def joining_prefix(tokenizer) -> str:
    """Return what to put before a piece so that the ids of pieces, joined, read as the pieces with a space between.

    Args:    tokenizer: a Hugging Face tokenizer.
    Returns: "" or " "; "" where both work.
    Raises:  ValueError if neither works.
    Trap:    what the joined ids decode to is compared with what the ids of the whole text decode to, not with the text,
             because a tokenizer may lose capitals or the spaces around punctuation by design (BERT).
    """
    for prefix in ("", " "):
        if all(_joins(tokenizer, prefix, first, second) for first, second in PROBES):
            return prefix
    raise ValueError(
        f"tokenizer {type(tokenizer).__name__} cannot join encoded sentences: neither with nor without a "
        f"leading space do the ids of {PROBES[0]} decode to both with a space between; use another one"
    )


def encode_piece(tokenizer, text: str) -> list[int]:
    """Return the token ids of one piece, with the space before it and without special tokens.

    Args: text: white space at its ends is dropped; an empty text has no ids.
    """
    return _encode(tokenizer, joining_prefix(tokenizer), [text])[0]


def encode_pieces(tokenizer, texts: list[str], *, is_joined: bool = True) -> list[np.ndarray]:
    """Return the token ids of many pieces, each as `encode_piece` does, in arrays of `token_dtype`.

    Args: is_joined: False encodes the bare text, no space before it and nothing stripped, as the authors' code does.
    """
    prefix, dtype = joining_prefix(tokenizer) if is_joined else None, token_dtype(tokenizer)
    batches = (texts[start : start + BATCH_PIECES] for start in range(0, len(texts), BATCH_PIECES))
    return [np.array(ids, dtype=dtype) for batch in batches for ids in _encode(tokenizer, prefix, batch)]


@lru_cache(maxsize=16)
def token_dtype(tokenizer) -> np.dtype:
    """Return the smaller of uint16 and uint32 that holds every id of the tokenizer."""
    vocab_size = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def tokenizer_fingerprint(tokenizer) -> str:
    """Return a short hash of what the tokenizer does to a text: vocabulary, merges, normaliser.

    Trap: truncation and padding are left out, since a mere call of the tokenizer with these options changes them.
    """
    state = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
    return blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=8).hexdigest()


def _joins(tokenizer, prefix, first, second):
    text = f"{first} {second}"
    whole, first_ids, second_ids = _encode(tokenizer, prefix, [text, first, second])
    decoded = _decode(tokenizer, first_ids + second_ids)
    keeps_spaces = len(decoded.split()) >= len(text.split())
    return keeps_spaces and decoded == _decode(tokenizer, whole)


def _encode(tokenizer, prefix, texts):
    """Return the token ids of each text; verbose=False: no warning that a text is longer than the model's input."""
    pieces = texts if prefix is None else [prefix + text.strip() if text.strip() else "" for text in texts]
    return tokenizer(
        pieces,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        verbose=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]


def _decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()

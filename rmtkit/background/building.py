"""Build a token store: documents to sentences to token ids, in one pass that holds few documents in memory.

A store is a folder: `tokens.bin` (ids of all sentences, one after another), `sentences.npy` (token at which each
sentence starts, then the total), `documents.npy` (sentence at which each document starts, then the total) and
`meta.json`, written last. Documents are grouped by split.
"""

import json
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rmtkit.background.encoding import BATCH_PIECES, encode_pieces, token_dtype
from rmtkit.background.sources import SPLITS, Document, read_documents

TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1  # of the characters, where a source has no splits of its own; the rest is test


class EncodedDocument(NamedTuple):
    """A document whose tokens are on disk, in order of arrival."""

    key: bytes  # with num_chars it decides the split where the source does not, so that no tokenizer can change it
    num_chars: int
    split: str | None
    start: int  # its first token in the file
    lengths: np.ndarray  # tokens of each of its sentences

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all its sentences."""
        return int(self.lengths.sum())


def write_store(folder: Path, streams: list, tokenizer, *, meta: dict) -> None:
    """Write documents as a token store into an empty folder.

    Args:   streams: iterators of Document, one per split, or a single one of documents without split;
            meta: goes into meta.json with counts; its `source`, `min_sentence_tokens` and `max_tokens` are obeyed.
    Raises: ValueError if no sentence is long enough.
    """
    dtype, arrived = token_dtype(tokenizer), folder / "arrived.bin"
    documents = list(_write_arriving(arrived, streams, tokenizer, meta))
    if not any(len(document.lengths) for document in documents):
        raise ValueError(
            f"background {meta['source']!r} has no sentence of {meta['min_sentence_tokens']} tokens or "
            "more: check its text"
        )
    splits = _arrange(documents, meta["max_tokens"])
    stored = [document for split in SPLITS for document in splits[split]]
    _copy_tokens(np.memmap(arrived, dtype=dtype, mode="r"), stored, folder / "tokens.bin")
    arrived.unlink()
    np.save(folder / "sentences.npy", _starts(np.concatenate([document.lengths for document in stored])))
    np.save(folder / "documents.npy", _starts([len(document.lengths) for document in stored]))
    counts = {split: _count(members) for split, members in splits.items()}
    text = json.dumps({**meta, "dtype": dtype.name, "splits": counts}, indent=1)
    (folder / "meta.json").write_text(text, encoding="utf-8")


def read_split(source: str, split: str, *, path: str | Path | None = None) -> list[Document]:
    """Return the documents of one split, as a token store has them; held in memory, so not for PG-19.

    Args: source, path: as in `read_documents`;  split: train, validation or test.
    """
    documents = list(read_documents(source, path=path))
    keyed = [
        EncodedDocument(_split_key(document, source), len(document.text), document.split, number, np.empty(0))
        for number, document in enumerate(documents)
    ]
    keyed = _assign_splits(keyed) if documents[0].split is None else keyed
    return [documents[member.start] for member in keyed if member.split == split]


def _write_arriving(path, streams, tokenizer, meta):
    """Write documents as they come and yield what is to be known of each; a split that is full is read no further."""
    start = 0
    with path.open("wb") as file:
        for stream in streams:
            first = start
            for document, sentences in _encode(stream, tokenizer, meta):
                file.writelines(sentence.tobytes() for sentence in sentences)
                lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
                key = _split_key(document, meta["source"])
                yield EncodedDocument(key, len(document.text), document.split, start, lengths)
                start += int(lengths.sum())
                if document.split and meta["max_tokens"] and start - first >= meta["max_tokens"]:
                    break


def _encode(documents, tokenizer, meta):
    """Yield each document with the token ids of its sentences, short ones left out."""
    for batch in _batch_sentences(documents):
        texts = [sentence for _, sentences in batch for sentence in sentences]
        pieces = iter(encode_pieces(tokenizer, texts, is_joined=meta["is_joined"]))
        for document, sentences in batch:
            yield document, [ids for ids in islice(pieces, len(sentences)) if len(ids) >= meta["min_sentence_tokens"]]


def _batch_sentences(documents):
    """Split documents into sentences as the paper does (Punkt, untrained), and batch them for the tokenizer.

    Punkt sees the whole text, so a heading goes with the sentence after it. White space, line ends included, becomes
    one space.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    splitter, batch, num_sentences = PunktSentenceTokenizer(), [], 0
    for document in documents:
        sentences = [" ".join(sentence.split()) for sentence in splitter.tokenize(document.text)]
        batch.append((document, sentences))
        num_sentences += len(sentences)
        if num_sentences >= BATCH_PIECES:
            yield batch
            batch, num_sentences = [], 0
    yield batch


def _split_key(document, source):
    """Hash the title of an article, which outlives a change of its text; the text of a file: copies share a split."""
    return blake2b((document.title if source == "wiki" else document.text).encode(), digest_size=8).digest()


def _arrange(documents, max_tokens):
    """Return the documents of each split in the order of storing, up to the one that reaches max_tokens."""
    if documents[0].split is None:
        documents = _assign_splits(documents)
    documents = [document for document in documents if len(document.lengths)]
    splits = {split: [document for document in documents if document.split == split] for split in SPLITS}
    return {split: _first_documents(members, max_tokens) for split, members in splits.items()}


def _assign_splits(documents):
    """Sort by key and cut at 80 and 90 % of the characters; from three different documents on, none is empty."""
    documents = sorted(documents, key=lambda document: document.key)
    groups = [list(group) for _, group in groupby(documents, key=lambda document: document.key)]
    sizes = np.array([sum(document.num_chars for document in group) for group in groups])
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    train, validation = np.searchsorted(middles, [TRAIN_SHARE, TRAIN_SHARE + VALIDATION_SHARE])
    if len(groups) < len(SPLITS):
        train = validation = len(groups)
    else:
        train = np.clip(train, 1, len(groups) - 2)
        validation = np.clip(validation, train + 1, len(groups) - 1)
    names = np.repeat(SPLITS, [train, validation - train, len(groups) - validation]).tolist()
    return [document._replace(split=name) for name, group in zip(names, groups, strict=True) for document in group]


def _first_documents(documents, max_tokens):
    before = _starts([document.num_tokens for document in documents])[:-1]
    return [document for document, start in zip(documents, before, strict=True) if not max_tokens or start < max_tokens]


def _copy_tokens(arrived, documents, path):
    with path.open("wb") as file:
        for document in documents:
            file.write(arrived[document.start : document.start + document.num_tokens].tobytes())


def _starts(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _count(documents):
    return {
        "num_documents": len(documents),
        "num_sentences": sum(len(document.lengths) for document in documents),
        "num_tokens": sum(document.num_tokens for document in documents),
    }

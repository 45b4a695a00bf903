"""The retrieval baseline: of a long context only the few pieces that are most like the question go into the prompt.

Kuratov et al. 2024 (2402.10790, section on retrieval-augmented generation): the haystack is split by sentence or by
chunks of 512 tokens, the top five go into the prompt, and the recall of supporting facts says what was lost on the way.
One search by the words of the question cannot find a fact that shares none with it: who took the apple is found, where
she went with it is not, so tasks of two facts and more are beyond it.

Axis letters: n pieces, d width of embeddings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

from rmtkit.llm.cases import Case

UNITS = ("sentence", "chunk")
WORDS_PER_TOKEN = 0.75  # of English in GPT-2's tokens, for chunks without a tokenizer
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SEPARATOR = " "  # between pieces that are not neighbours in the text, as between facts and background
Spans = list[tuple[int, int]]  # [start, end) in characters
Scores = Callable[[list[str], str], np.ndarray]  # of pieces (n,) for a question


class Retriever:
    """Keeps the pieces of a context that are most like the question.

    Args:
        kind: "bm25" (the words of the question) or "embeddings" (cosine of sentence embeddings).
        unit: "sentence" (untrained Punkt, as for the background) or "chunk".
        top: pieces kept.
        chunk_size: tokens of a chunk at most; chunks end between words.
        tokenizer: a fast Hugging Face tokenizer that counts these tokens; None: a word counts as 4/3 tokens.
        encoder: for embeddings, a name or folder for sentence-transformers, or a function from n texts to (n, d).
    Raises: ValueError for a value outside of what is listed above, or if a package that it needs is missing.
    """

    def __init__(self, kind: str = "bm25", unit: str = "sentence", *, top: int = 5, chunk_size: int = 512,
                 tokenizer=None, encoder: str | Callable = ENCODER):  # fmt: skip
        for name, value, allowed in (("kind", kind, tuple(KINDS)), ("unit", unit, UNITS)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        for name, value in (("top", top), ("chunk_size", chunk_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.kind, self.unit, self.top, self.chunk_size = kind, unit, top, chunk_size
        self.tokenizer = tokenizer
        self._scores = KINDS[kind](encoder)

    def retrieve(self, case: Case) -> Case:
        """Return the case with what was kept of its context, in the order of the text.

        The order of the text is that of the events: whoever went somewhere last is there. Neighbours stay as they stand
        in the text, other pieces have a space between. Of equally good pieces the later one is kept: it is newer.

        Returns: a case whose `supporting` are the supporting facts that were kept, each wholly within what was kept;
                 None if they are not known. A context of no more than `top` pieces is kept as it is.
        """
        pieces = self.split(case.context)
        if len(pieces) <= self.top:
            return case
        scores = self._scores([case.context[start:end] for start, end in pieces], case.question)
        best = np.lexsort((-np.arange(len(pieces)), -scores))[: self.top]
        return _cut(case, _joined(pieces, np.sort(best)))

    def recall(self, case: Case, retrieved: Case) -> float | None:
        """Return the share of the supporting facts that was kept; None if they are not known, or there are none."""
        if not case.supporting:
            return None
        return len(retrieved.supporting) / len(case.supporting)

    def split(self, text: str) -> Spans:
        """Return the sentences or chunks of a text."""
        if self.unit == "sentence":
            return _sentences(text)
        words = [match.span() for match in re.finditer(r"\S+", text)]
        if self.tokenizer is None:
            numbers = np.arange(len(words))
            return _chunks(words, numbers, numbers + 1, int(self.chunk_size * WORDS_PER_TOKEN))
        return _chunks(words, *_num_tokens(text, words, self.tokenizer), self.chunk_size)


def mean_recall(recalls: Iterable[float | None]) -> float | None:
    """Return the mean over the cases whose supporting facts are known; None if there is none."""
    known = [recall for recall in recalls if recall is not None]
    return sum(known) / len(known) if known else None


# ------------------------------------------------------------------ scores


def _bm25(_) -> Scores:
    try:
        import bm25s
    except ImportError:
        raise ValueError("retrieval by bm25 needs the package bm25s: pip install 'rmtkit[llm]'") from None

    def scores(pieces: list[str], question: str) -> np.ndarray:
        index = bm25s.BM25()
        index.index(bm25s.tokenize(pieces, show_progress=False), show_progress=False)
        asked = bm25s.tokenize(question, show_progress=False, return_ids=False)[0]
        return index.get_scores_from_ids(index.get_tokens_ids(asked))

    return scores


def _embeddings(encoder: str | Callable) -> Scores:
    encode = encoder if callable(encoder) else _open_encoder(encoder)

    def scores(pieces: list[str], question: str) -> np.ndarray:
        embeddings = np.asarray(encode([*pieces, question]), dtype=np.float32)
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return embeddings[:-1] @ embeddings[-1]

    return scores


KINDS = {"bm25": _bm25, "embeddings": _embeddings}


def _open_encoder(name: str) -> Callable:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        message = "retrieval by embeddings needs the package sentence-transformers: pip install sentence-transformers"
        raise ValueError(f"{message}, or take bm25") from None
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot load the encoder {name!r} ({reason}); give a folder with a copy, or take bm25"
        ) from None
    return lambda texts: model.encode(texts, show_progress_bar=False)


# ------------------------------------------------------------------ pieces


def _sentences(text: str) -> Spans:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return list(PunktSentenceTokenizer().span_tokenize(text))


def _chunks(words: Spans, num_before: np.ndarray, num_after: np.ndarray, size: int) -> Spans:
    """Return chunks of whole words.

    Args: num_before, num_after: tokens up to the start and the end of each word, (words,);  size: tokens of a chunk; a
          word that has more is a chunk by itself.
    """
    chunks, first = [], 0
    while first < len(words):
        end = int(np.searchsorted(num_after, num_before[first] + size, side="right"))
        end = max(first + 1, end)
        chunks.append((words[first][0], words[end - 1][1]))
        first = end
    return chunks


def _num_tokens(text: str, words: Spans, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return how many tokens of the text end before each word, and with it or before, (words,) each."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    starts_and_ends = np.array(words, dtype=np.int64).reshape(-1, 2).T
    num_before, num_after = (np.searchsorted(ends, places, side="right") for places in starts_and_ends)
    return num_before, num_after


def _joined(pieces: Spans, kept: np.ndarray) -> Spans:
    """Return spans of what was kept, one for each run of neighbours; `kept` is sorted."""
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    return [(pieces[run[0]][0], pieces[run[-1]][1]) for run in runs]


def _cut(case: Case, kept: Spans) -> Case:
    """Return a case with these spans of its context, and the supporting facts that are wholly in one of them."""
    supporting, size = [], 0
    for start, end in kept:
        inside = [fact for fact in case.supporting or () if start <= fact[0] and fact[1] <= end]
        supporting += [(fact[0] - start + size, fact[1] - start + size) for fact in inside]
        size += end - start + len(SEPARATOR)
    return dataclasses.replace(
        case,
        context=SEPARATOR.join(case.context[start:end] for start, end in kept),
        supporting=None if case.supporting is None else tuple(supporting),
    )

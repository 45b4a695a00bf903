"""Token stores of background text: built once per source and tokenizer, opened memory-mapped, read by slices."""

import json
import logging
import shutil
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rmtkit.background.building import write_store
from rmtkit.background.encoding import tokenizer_fingerprint
from rmtkit.background.sources import ORIGINS, SPLITS, check_source, document_streams, source_identity

FORMAT_VERSION = 1  # goes up when older code would build another store: sources, splits, sentences, files
MAX_TOKENS = {"pg19": 50_000_000}  # per split, unless asked otherwise: some 500 of the 28,602 books
LOGGER = logging.getLogger(__name__)


def open_background(
    source: str,
    tokenizer,
    *,
    data_dir: str | Path,
    path: str | Path | None = None,
    max_tokens: int | None = None,
    min_sentence_tokens: int = 10,
    is_joined: bool = True,
) -> "Background | None":
    """Return the token store of a source, building it if it is not there yet; None for source 'none'.

    Args:   source: one of SOURCES;  tokenizer: a Hugging Face tokenizer;
            data_dir: the store is kept in its folder `cache`;
            path: folder of 'local', or local copy of the hub repository of 'pg19' or 'wikitext';
            max_tokens: a split ends with the document that reaches this many tokens (None: no end; 50M for 'pg19');
            min_sentence_tokens: sentences with fewer tokens are left out;
            is_joined: False stores sentences without the space between them, as the authors' code does.
    Raises: ValueError for a source that cannot be read, a folder that cannot be written, a damaged store.
    Paper:  sentences of an untrained Punkt splitter, at least 10 tokens long (authors' code for Bulatov et al. 2024).
    """
    check_source(source, path)
    if source == "none":
        return None
    if min_sentence_tokens < 1 or (max_tokens is not None and max_tokens < 1):
        raise ValueError(
            f"min_sentence_tokens and max_tokens must be 1 or more, got {min_sentence_tokens} and {max_tokens}"
        )
    meta = {
        "source": source,
        "origin": ORIGINS[source],
        "made_by": f"rmtkit.background, format {FORMAT_VERSION}",
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "min_sentence_tokens": min_sentence_tokens,
        "is_joined": is_joined,
        "max_tokens": max_tokens or MAX_TOKENS.get(source),
    }
    identity = json.dumps([meta, source_identity(source, path)], sort_keys=True)
    folder = Path(data_dir) / "cache" / f"{source}-{blake2b(identity.encode(), digest_size=6).hexdigest()}"
    if not folder.is_dir():
        with _lock(folder):
            if not folder.is_dir():  # another process may have built it while this one waited
                _build(folder, tokenizer, path, meta)
    return Background(folder)


class Background:
    """A token store, opened read-only. It pickles as its folder, so that a worker opens it again.

    `meta` tells the source, its origin and licence, the fingerprint of the tokenizer and the counts of each split.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        try:
            self.meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            self._tokens = np.asarray(np.memmap(self.folder / "tokens.bin", dtype=self.meta["dtype"], mode="r"))
            self._sentences = np.asarray(np.load(self.folder / "sentences.npy", mmap_mode="r"))
            self._documents = np.asarray(np.load(self.folder / "documents.npy", mmap_mode="r"))
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise ValueError(f"damaged token store ({error}): delete {self.folder} to have it built again") from error
        self._check_sizes()

    def __reduce__(self):
        return Background, (self.folder,)

    def num_tokens(self, split: str) -> int:
        """Return the number of tokens of a split."""
        return self._counts(split)["num_tokens"]

    def num_sentences(self, split: str) -> int:
        """Return the number of sentences of a split."""
        return self._counts(split)["num_sentences"]

    def num_documents(self, split: str) -> int:
        """Return the number of documents of a split."""
        return self._counts(split)["num_documents"]

    def passage(self, split: str, num_tokens: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return consecutive sentences from random documents, exactly num_tokens tokens long.

        It starts at a sentence drawn uniformly from the split, runs to the end of its document and goes on with the
        other documents of the split in a random order. The last sentence is cut to length.

        Returns: tokens (num_tokens,) in the store's dtype, and where each sentence starts, (num_sentences,) int64.
        Raises:  ValueError for a negative length, an unknown split, or one without sentences.
        Paper:   Bulatov et al. 2024, section 2.
        Trap:    longer than the split, it wraps around: after every document has come once, all come in a new order.
        """
        views, starts = self.passage_views(split, num_tokens, rng)
        return np.concatenate([np.empty(0, self._tokens.dtype), *views]), starts

    def passage_views(self, split: str, num_tokens: int, rng: np.random.Generator) -> tuple[list, np.ndarray]:
        """Return the passage of `passage` without copying it: views of the store, one or more for each document."""
        if num_tokens < 0:
            raise ValueError(f"num_tokens must be 0 or more, got {num_tokens}")
        views, starts, filled = [], [np.empty(0, np.int64)], 0
        runs = self._sentence_runs(split, rng)
        while filled < num_tokens:
            run = next(runs)
            begin, end = int(self._sentences[run.start]), int(self._sentences[run.stop])
            end = min(end, begin + num_tokens - filled)
            views.append(self._tokens[begin:end])
            sentences = self._sentences[run]
            starts.append(sentences[: np.searchsorted(sentences, end)] + (filled - begin))
            filled += end - begin
        return views, np.concatenate(starts)

    def _sentence_runs(self, split, rng):
        """Yield slices of sentences without end: the rest of a document, the others, then all of them over and over."""
        num_documents = self.num_documents(split)
        if not num_documents:
            raise ValueError(
                f"split {split!r} of background {self.meta['source']!r} is empty: its source has no such "
                "split, or too few documents to share out (three are needed)"
            )
        first = sum(self.num_documents(earlier) for earlier in SPLITS[: SPLITS.index(split)])
        bounds = self._documents[first : first + num_documents + 1]
        sentence = int(rng.integers(bounds[0], bounds[-1]))
        document = int(np.searchsorted(bounds, sentence, side="right")) - 1
        yield slice(sentence, bounds[document + 1])
        remaining = np.delete(np.arange(num_documents), document)
        while True:
            for document in rng.permutation(remaining):
                yield slice(bounds[document], bounds[document + 1])
            remaining = np.arange(num_documents)

    def _counts(self, split):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
        return self.meta["splits"][split]

    def _check_sizes(self):
        names = ("num_tokens", "num_sentences", "num_documents")
        expected = [sum(self._counts(split)[name] for split in SPLITS) for name in names]
        found = [len(self._tokens), len(self._sentences) - 1, len(self._documents) - 1]
        if found != expected:
            raise ValueError(
                f"damaged token store (tokens, sentences, documents: {found}, but meta.json says "
                f"{expected}): delete {self.folder} to have it built again"
            )


@contextmanager
def _lock(folder):
    """Hold the lock of a store: one process builds it, and a cache that cannot be written is found before any work."""
    from filelock import FileLock

    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ValueError(f"cannot write to {folder.parent} ({error}): give a data_dir that can be written") from error
    try:
        yield
    finally:
        lock.release()


def _build(folder, tokenizer, path, meta):
    """Build a store beside its place, then move it there whole. The lock is held, so leftovers are of a dead build."""
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        LOGGER.info("building background %s in %s", meta["source"], folder)
        write_store(building, document_streams(meta["source"], path), tokenizer, meta=meta)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)

"""Documents of background text, from an installed package, the hub or a local folder.

| source | documents | splits |
|---|---|---|
| wiki | 98 Wikipedia articles in gensim's test data | by hash of the title |
| pg19 | books, `emozilla/pg19` (Rae et al. 2020): the paper's background | its own |
| wikitext | articles, `Salesforce/wikitext`, wikitext-103-raw-v1 (Merity et al. 2017) | its own |
| local | .txt (file = document), .jsonl (line, field "text"), .parquet (row, column "text") | sub-folders, or by hash |
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rmtkit.background.wiki import find_wiki_file, read_wiki_articles

SOURCES = ("wiki", "pg19", "wikitext", "local", "none")
SPLITS = ("train", "validation", "test")
FILE_TYPES = (".txt", ".jsonl", ".parquet")
HUB_TIMEOUT = 10  # seconds for the first answer of the hub; it decides between reading and a clear error


class Document(NamedTuple):
    """One text of a source: an article, a book, a file."""

    title: str
    text: str
    split: str | None  # None: the source has no splits of its own


class HubDataset(NamedTuple):
    """A data set of parquet files on the hub, at a fixed commit: the same name must mean the same text."""

    repository: str
    config: str | None  # also the sub-folder of its files; None: the default
    revision: str


HUB = {
    "pg19": HubDataset("emozilla/pg19", None, "c021754c8e01c5b1cc83a1f549c1f97fbbb756b8"),
    "wikitext": HubDataset("Salesforce/wikitext", "wikitext-103-raw-v1", "b08601e04326c79dfdd32d625aee71d232d685c3"),
}
ORIGINS = {
    "wiki": "English Wikipedia articles of 2016 in the test data of the gensim package; CC BY-SA 3.0 and GFDL",
    "pg19": "emozilla/pg19 (Project Gutenberg, published before 1919); public domain in the US, data set Apache-2.0",
    "wikitext": "Salesforce/wikitext, wikitext-103-raw-v1 (English Wikipedia); CC BY-SA 3.0 and GFDL",
    "local": "local folder; the licence is that of its files",
}


def read_documents(source: str, *, path: str | Path | None = None) -> Iterator[Document]:
    """Yield the documents of a source; those of a source with its own splits come split by split.

    Args:   source: one of SOURCES ('none' has no documents);
            path: folder of 'local', or local copy of the hub repository of 'pg19' or 'wikitext'.
    Raises: ValueError for an unknown source, a folder without usable files, a malformed file, a hub out of reach.
    """
    check_source(source, path)
    return iter(()) if source == "none" else chain.from_iterable(document_streams(source, path))


def document_streams(source: str, path: str | Path | None) -> list[Iterator[Document]]:
    """Return the documents of `read_documents` as one stream per split, so that a reader may stop a split early."""
    if source == "wiki":
        return [(Document(title, text, None) for title, text in read_wiki_articles())]
    if source == "local":
        return [_read_files(files, Path(path), split) for split, files in _local_files(Path(path)).items()]
    rows = _parquet_splits(source, Path(path)) if path else _hub_splits(source)
    read = _wikitext_documents if source == "wikitext" else _book_documents
    return [read(split_rows, split) for split, split_rows in rows.items()]


def source_identity(source: str, path: str | Path | None) -> list:
    """Return what tells one state of a source from another, as JSON can hold it.

    A file counts by name, size and time of change: to read a library only to hash it would take too long.
    """
    if source == "wiki":
        return [find_wiki_file().name, find_wiki_file().stat().st_size]
    if path is None:
        return list(HUB[source])
    files = _local_files(Path(path)) if source == "local" else _parquet_files(source, Path(path))
    stats = {file.relative_to(path).as_posix(): file.stat() for file in chain.from_iterable(files.values())}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())]


def check_source(source: str, path: str | Path | None) -> None:
    """Raise ValueError unless the source exists and the path is one that it can take."""
    if source not in SOURCES:
        raise ValueError(f"unknown background {source!r}: use one of {', '.join(SOURCES)}")
    if path is not None and source in ("wiki", "none"):
        raise ValueError(f"background {source!r} takes no background_path, got {str(path)!r}: leave it out")
    if path is None and source == "local":
        raise ValueError(f"background 'local' needs background_path: a folder of {', '.join(FILE_TYPES)} files")
    if path is not None and not Path(path).is_dir():
        raise ValueError(f"background_path {str(path)!r} is not a folder")


def _local_files(folder):
    """Files of a folder by split; the only key is None where it has no split sub-folders."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix in FILE_TYPES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise ValueError(f"background_path {str(folder)!r} holds no {', '.join(FILE_TYPES)} file")
    if not any((folder / split).is_dir() for split in SPLITS):
        return {None: files}
    by_split = {split: [file for file in files if file.is_relative_to(folder / split)] for split in SPLITS}
    outside = sorted(set(files).difference(*by_split.values()))
    if outside:
        raise ValueError(
            f"background_path {str(folder)!r} has split folders, but {outside[0].relative_to(folder)} is "
            f"in none of {', '.join(SPLITS)}: move it there, or take it out"
        )
    return by_split


def _read_files(files, folder, split):
    readers = {".txt": _read_text, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    for file in files:
        for number, text in enumerate(readers[file.suffix](file), 1):
            yield Document(f"{file.relative_to(folder)}:{number}", text, split)


def _read_text(file):
    try:
        yield file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}): convert it first") from error


def _read_json_lines(file):
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:  # also what a decoding error is
                raise ValueError(f"{file}:{number}: not a line of UTF-8 JSON: {error}") from error
            has_text = isinstance(record, dict) and isinstance(record.get("text"), str)
            if not has_text:
                raise ValueError(f'{file}:{number}: expected an object with a string field "text"')
            yield record["text"]


def _read_parquet(file):
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file} is not a parquet file: {error}") from error
    if "text" not in table.schema_arrow.names:
        raise ValueError(f'{file} has no column "text", only {", ".join(table.schema_arrow.names)}')
    for batch in table.iter_batches(batch_size=64, columns=["text"]):  # a row may be a whole book
        yield from (text or "" for text in batch.column(0).to_pylist())


def _parquet_files(source, folder):
    """Files of a local copy of a hub repository, by split; the names start with the split as on the hub."""
    config = HUB[source].config
    root = folder / config if config and (folder / config).is_dir() else folder
    files = {split: sorted(root.rglob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(files.values()):
        raise ValueError(
            f"background_path {str(folder)!r} is no copy of {HUB[source].repository}: "
            "it has no file such as train-*.parquet"
        )
    return files


def _parquet_splits(source, folder):
    files_by_split = _parquet_files(source, folder)
    return {split: chain.from_iterable(map(_read_parquet, files)) for split, files in files_by_split.items()}


def _hub_splits(source):
    """Texts of a hub data set by split, streamed: nothing is stored but what the caller keeps."""
    from huggingface_hub import HfApi

    name, _, revision = HUB[source]
    try:  # asked once and first: load_dataset would try again for half a minute, with many warnings
        HfApi().dataset_info(name, revision=revision, timeout=HUB_TIMEOUT)
    except Exception as error:  # its classes differ from one version of the hub client to the next
        raise _hub_error(source, error) from error
    return {split: _stream_split(source, split) for split in SPLITS}


def _stream_split(source, split):
    from datasets import load_dataset

    name, config, revision = HUB[source]
    try:
        rows = load_dataset(name, config, split=split, revision=revision, streaming=True).select_columns(["text"])
        yield from (row["text"] for row in rows)
    except Exception as error:  # as above
        raise _hub_error(source, error) from error


def _hub_error(source, error):
    name, reason = HUB[source].repository, " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
    return ValueError(
        f"background {source!r} needs the Hugging Face hub, which did not give {name} ({reason}). "
        "Offline: background=wiki, background=local with background_path=a folder of texts, or "
        f"background_path=a local copy of {name}"
    )


def _book_documents(texts, split):
    for number, text in enumerate(texts, 1):
        yield Document(f"{split}:{number}", text, split)


_WIKITEXT_TITLE = re.compile(r"\s*= ([^=].*?) =\s*$")
_WIKITEXT_HEADING = re.compile(r"\s*=.*=\s*$")


def _wikitext_documents(lines: Iterable[str], split: str) -> Iterator[Document]:
    """Group the lines of wikitext into articles, which start at a line ` = Title = `; other headings are dropped."""
    title, paragraphs = None, []
    for line in lines:
        heading = _WIKITEXT_TITLE.match(line)
        if heading and paragraphs:
            yield Document(title or f"{split}:start", "\n\n".join(paragraphs), split)
        if heading:
            title, paragraphs = heading[1], []
        elif line.strip() and not _WIKITEXT_HEADING.match(line):
            paragraphs.append(detokenize_wikitext(line))
    if paragraphs:
        yield Document(title or f"{split}:start", "\n\n".join(paragraphs), split)


def detokenize_wikitext(line: str) -> str:
    """Undo the spaces of wikitext's tokenisation around punctuation: `1 @,@ 200 men ( all ) .` is `1,200 men (all).`

    These are the rules of Megatron-LM's detokeniser that are safe on any line.
    """
    line = re.sub(r" @([-,.])@ ", r"\1", line.strip())
    line = re.sub(r" ([.,;:!?)\]])(?= |$)", r"\1", line)
    line = re.sub(r"([(\[]) ", r"\1", line)
    line = re.sub(r'" ([^"]*?) "', r'"\1"', line)
    return re.sub(r" ('(?:s|t|m|d|re|ve|ll)\b)", r"\1", line)

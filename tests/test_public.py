"""Reading of the public sets: folders in their layouts, and a hub that is played by a folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from rmtkit.public import LENGTHS, context_size, read_public

ROWS = [{"input": f"Mary moved {n}. Café.", "question": "Where is Mary? ", "target": f"office {n}"} for n in range(5)]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def babilong(tmp_path):
    """A copy of a part of RMT-team/babilong."""
    write(tmp_path, "data/qa1/4k.json", ROWS)
    write(tmp_path, "data/qa1/0k.json", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS[:2]) + "\n\n")
    write(tmp_path, "data/qa10/4k.json", "not read")
    return tmp_path


@pytest.fixture
def thousand(tmp_path):
    """A copy of a part of RMT-team/babilong-1k-samples."""
    write(tmp_path, "4k/qa1-00000-of-00001.parquet", ROWS)
    write(tmp_path, "4k/qa10-00000-of-00001.parquet", ROWS[:1])
    write(tmp_path, "128k/qa1-00000-of-00002.parquet", ROWS[:3])
    write(tmp_path, "128k/qa1-00001-of-00002.parquet", ROWS[3:])
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """Return a function that makes the hub hold a folder; it returns the list of what is fetched from there."""

    def hold(folder):
        fetched = []
        names = [SimpleNamespace(rfilename=p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()]

        def download(repository, file, *, repo_type, revision):
            fetched.append((repository, file, repo_type, revision))
            return str(folder / file)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(
            huggingface_hub.HfApi, "dataset_info", lambda *args, **options: SimpleNamespace(siblings=names)
        )
        return fetched

    return hold


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """The hub cannot be reached; return its cache, which is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def refuse(*args, **options):
        raise ConnectionError("no network here")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    return tmp_path / "cache"


@pytest.mark.parametrize("length, rows", [("4k", ROWS), ("0k", ROWS[:2])])
def test_read_public_reads_arrays_and_lines_of_json(babilong, length, rows):
    assert read_public(babilong, length, "qa1") == rows


@pytest.mark.parametrize("length", ["4k", "128k"])
def test_read_public_reads_parquet_in_parts(thousand, length):
    assert read_public(str(thousand), length, "qa1") == ROWS


@pytest.mark.parametrize("length", ["4k", "0k"])
def test_read_public_stops_when_told(babilong, length):
    assert read_public(babilong, length, "qa1", num_samples=1) == ROWS[:1]


@pytest.mark.parametrize("name", ["babilong", "RMT-team/babilong"])
def test_read_public_fetches_one_file_only(babilong, hub, name):
    fetched = hub(babilong)
    assert read_public(name, "4k", "qa1") == ROWS
    assert fetched == [("RMT-team/babilong", "data/qa1/4k.json", "dataset", "main")]


def test_read_public_fetches_all_parts_of_a_file(thousand, hub):
    fetched = hub(thousand)
    assert read_public("babilong-1k-samples", "128k", "qa1", revision="abc") == ROWS
    assert [file for _, file, _, _ in fetched] == [f"128k/qa1-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert {revision for *_, revision in fetched} == {"abc"}


def test_read_public_says_what_a_set_holds(babilong, hub):
    hub(babilong)
    with pytest.raises(ValueError, match="has no qa2 at 4k; it holds qa1-qa20 at 0k, qa1-qa10 at all other"):
        read_public("babilong", "4k", "qa2")


def test_read_public_reads_the_cache_when_the_hub_is_away(babilong, no_hub):
    repository = no_hub / "datasets--RMT-team--babilong"
    write(repository, "refs/main", "abc")
    shutil.copytree(babilong / "data", repository / "snapshots" / "abc" / "data")
    assert read_public("babilong", "4k", "qa1") == ROWS


def test_read_public_without_hub_says_what_to_do(no_hub):
    with pytest.raises(ValueError, match=r"qa1 at 4k of RMT-team/babilong \(ConnectionError: no network.*folder"):
        read_public("babilong", "4k", "qa1")


@pytest.mark.parametrize(
    "source, length, task, message",
    [
        (".", "3k", "qa1", "length '3k' does not exist; lengths: 0k, 1k, 2k, .*, 10M"),
        (".", "4k", "qa21", "task 'qa21' does not exist; tasks: qa1, .*, qa20"),
        ("babilong-1k-samples", "1M", "qa1", "length '1M' does not exist; lengths: 0k, .*, 128k$"),
        ("nowhere", "4k", "qa1", "'nowhere' is neither a folder nor a public set; sets: babilong, babilong-1k"),
        (".", "8k", "qa1", r"has no qa1 at 8k; expected data/qa1/8k.json or 8k/qa1-00000-of-00001.parquet"),
        (".", "4k", "qa2", "has no qa2 at 4k"),
    ],
)
def test_read_public_says_what_is_allowed(babilong, monkeypatch, source, length, task, message):
    monkeypatch.chdir(babilong)
    with pytest.raises(ValueError, match=message):
        read_public(source, length, task)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"input": "a", "question": "b"}\n', "row 1 is not an object with the texts input, question, target"),
        ("[1, 2]", "row 1 is not an object"),
        ('{"input": "a"', "Expecting"),
        (json.dumps(ROWS[0]) + '\n{"input": 3}', "row 2 is not"),
    ],
)
def test_read_public_names_a_malformed_file(tmp_path, content, message):
    write(tmp_path, "data/qa1/4k.json", content)
    with pytest.raises(ValueError, match=f"cannot read .*4k.json: .*{message}"):
        read_public(tmp_path, "4k", "qa1")


def test_read_public_names_a_damaged_parquet_and_a_missing_part(thousand):
    Path(thousand / "4k" / "qa1-00000-of-00001.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read .*qa1-00000"):
        read_public(thousand, "4k", "qa1")
    (thousand / "128k" / "qa1-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="is one of 2 parts, of which 1 are there"):
        read_public(thousand, "128k", "qa1")


def test_context_size_leaves_room_for_the_prompt():
    sizes = {length: context_size(length) for length in LENGTHS}
    assert (sizes["0k"], sizes["1k"], sizes["128k"], sizes["10M"]) == (None, 700, 127_700, 9_999_700)
    with pytest.raises(ValueError, match="lengths: 0k, 1k"):
        context_size("11M")

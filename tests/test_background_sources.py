"""Documents of background text: the installed Wikipedia excerpt, local folders, data sets of the hub."""

import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from rmtkit.background import read_documents
from rmtkit.background.sources import detokenize_wikitext, source_identity
from rmtkit.background.wiki import strip_markup

WIKITEXT_ROWS = [
    "",
    " = Marble = \n",
    "",
    " Marble , a rock . \n",
    " = = Uses = = \n",
    " It is used @-@ often . \n",
    "",
    " = Sand = \n",
    "",
    " Sand is small . \n",
]


@pytest.fixture(scope="module")
def articles():
    return list(read_documents("wiki"))


def write_parquet(file, texts, column="text"):
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({column: texts}), file)


def summary(documents):
    return [(document.split, document.text) for document in documents]


def test_read_documents_of_wiki_finds_all_articles(articles):
    titles = [article.title for article in articles]
    assert len(titles) == len(set(titles)) == 98
    assert titles[0] == "Anarchism"
    assert {"Abraham Lincoln", "Albedo", "Apollo 11"} < set(titles)
    assert not any(title.endswith("(disambiguation)") for title in titles)
    assert {article.split for article in articles} == {None}


def test_read_documents_of_wiki_leaves_no_markup(articles):
    text = "\n".join(article.text for article in articles)
    assert 350_000 < len(text.split()) < 450_000
    for mark in ("[[", "]]", "{{", "}}", "{|", "'''", "==", "<ref", "</", "http://", "|thumb", "&nbsp;", "&amp;"):
        assert mark not in text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Marble''' is a [[rock (geology)|rock]].", "Marble is a rock."),
        ('Hard{{citation needed|date={{x}} 2015}} stone.<ref name="a"/><ref>See [[b]].</ref>', "Hard stone."),
        ("[[File:A.jpg|thumb|A [[stone]] (see [1]).]]Stone is old.", "Stone is old."),
        ("It weighs {{convert|5|to|10|kg|lb}} or {{convert|1300|mi|km}}.", "It weighs 5 to 10 kg or 1300 mi."),
        ("Named {{lang|grc|marmaros}} by {{nowrap|[[Greece|Greeks]]}}.", "Named marmaros by Greeks."),
        ("Marble ({{IPAc-en|m}}; ) is [http://example.org a rock].", "Marble is a rock."),
        ("{| class=x\n| cell.\n{|\n|\nInner cell.\n|}\nOuter cell.\n|}\nArt.", "Art."),
        ("* A list.\n== Uses ==\n  code.\nArt &amp;amp; use.", "Art & use."),
        ("One.\n\nTwo.\n== See also ==\nThree.", "One.\n\nTwo."),
        ("No sentence\nA sentence.", "A sentence."),
    ],
)
def test_strip_markup_keeps_running_text(markup, text):
    assert strip_markup(markup) == text


def test_read_documents_of_wiki_without_gensim_says_what_to_do(monkeypatch):
    monkeypatch.setattr("rmtkit.background.wiki.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        list(read_documents("wiki"))


def test_read_documents_of_none_is_empty():
    assert list(read_documents("none")) == []


def test_read_documents_reads_every_local_file_type_in_sorted_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.txt").write_text("first\nstill first", encoding="utf-8")
    lines = [json.dumps({"text": "second"}), "", json.dumps({"text": "third", "id": 3})]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    write_parquet(tmp_path / "d.parquet", ["fourth", "fifth"])
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    documents = list(read_documents("local", path=tmp_path))
    assert [document.text for document in documents] == ["first\nstill first", "second", "third", "fourth", "fifth"]
    assert {document.split for document in documents} == {None}
    assert len({document.title for document in documents}) == 5


def test_read_documents_takes_split_folders(tmp_path):
    for split in ("test", "train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.txt").write_text(split)
    assert summary(read_documents("local", path=tmp_path)) == [(name, name) for name in ("train", "validation", "test")]


def test_read_documents_refuses_a_file_beside_split_folders(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.txt").write_text("a")
    (tmp_path / "stray.txt").write_text("b")
    with pytest.raises(ValueError, match=r"stray\.txt"):
        read_documents("local", path=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl:2: not a line"),
        ("a.jsonl", b'{"text": "caf\xe9"}', r"a\.jsonl:1: not a line"),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "x"}', r'a\.jsonl:3: expected .* "text"'),
        ("a.jsonl", b'["text"]', r"a\.jsonl:1: expected"),
        ("a.parquet", b"no table", r"a\.parquet is not a parquet file"),
        ("a.csv", b"text", "holds no .txt"),
    ],
)
def test_read_documents_names_the_bad_local_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents("local", path=tmp_path))


def test_read_documents_names_the_columns_of_a_table_without_text(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["x"], column="body")
    with pytest.raises(ValueError, match='no column "text", only body'):
        list(read_documents("local", path=tmp_path))


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("wikipedia", None, "unknown background 'wikipedia': use one of wiki, pg19"),
        ("local", None, "needs background_path"),
        ("local", "missing", "is not a folder"),
        ("wiki", ".", "takes no background_path"),
        ("none", ".", "takes no background_path"),
        ("pg19", ".", "no copy of emozilla/pg19"),
    ],
)
def test_read_documents_checks_source_and_path(tmp_path, source, path, message):
    with pytest.raises(ValueError, match=message):
        list(read_documents(source, path=path and tmp_path / path))


def test_read_documents_reads_a_local_copy_of_pg19(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002-2b13.parquet", ["book one", "book two"])
    write_parquet(tmp_path / "data" / "train-00001-of-00002-ffff.parquet", ["book three"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001-29a5.parquet", ["book four"])
    assert summary(read_documents("pg19", path=tmp_path)) == [
        ("train", "book one"),
        ("train", "book two"),
        ("train", "book three"),
        ("test", "book four"),
    ]


def test_read_documents_groups_wikitext_lines_into_articles(tmp_path):
    write_parquet(tmp_path / "wikitext-103-raw-v1" / "train-00000-of-00001.parquet", WIKITEXT_ROWS)
    write_parquet(tmp_path / "wikitext-2-raw-v1" / "train-00000-of-00001.parquet", [" = Other = \n", " Other . \n"])
    documents = list(read_documents("wikitext", path=tmp_path))
    assert [tuple(document) for document in documents] == [
        ("Marble", "Marble, a rock.\n\nIt is used-often.", "train"),
        ("Sand", "Sand is small.", "train"),
    ]


def test_detokenize_wikitext_joins_punctuation():
    line = ' The game \'s 1 @,@ 200 men ( all of them ) , was " well @-@ made " ; 3 @.@ 5 of it ! \n'
    assert detokenize_wikitext(line) == 'The game\'s 1,200 men (all of them), was "well-made"; 3.5 of it!'


def test_read_documents_streams_the_hub_split_by_split(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [f"{split} book"])
    load, asked = datasets.load_dataset, []

    def load_local(name, config, *, split, revision, streaming):
        asked.append((name, config, len(revision), streaming))
        return load("parquet", data_files={split: str(tmp_path / f"{split}.parquet")}, split=split, streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    assert summary(read_documents("pg19")) == [(split, f"{split} book") for split in ("train", "validation", "test")]
    assert asked == [("emozilla/pg19", None, 40, True)] * 3


@pytest.mark.parametrize("source", ["pg19", "wikitext"])
def test_read_documents_says_what_works_without_the_hub(source):
    code = f"from rmtkit.background import read_documents as r\ntry: r({source!r})\nexcept ValueError as e: print(e)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert len(run.stdout.splitlines()) == 1
    assert "offline mode is enabled" in run.stdout
    assert "background=wiki" in run.stdout
    assert "background=local" in run.stdout


def test_read_documents_says_what_works_when_the_hub_breaks_off(monkeypatch):
    import datasets
    import huggingface_hub

    def break_off(*args, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    monkeypatch.setattr(datasets, "load_dataset", break_off)
    with pytest.raises(ValueError, match=r"ConnectionError: gone.*background=wiki"):
        list(read_documents("wikitext"))


def test_source_identity_changes_with_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = source_identity("local", tmp_path)
    assert source_identity("local", tmp_path) == before
    (tmp_path / "a.txt").write_text("other")
    assert source_identity("local", tmp_path) != before

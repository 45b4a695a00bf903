"""BABILong samples as files: the text and the facts in it, the formats, and what a folder promises."""

import dataclasses
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_types import make_metaspace_bpe, make_unigram, make_wordpiece
from transformers import PreTrainedTokenizerFast

from rmtkit.babi import GeneratedProblems
from rmtkit.background import open_background
from rmtkit.cli import main
from rmtkit.config import ConfigError, resolve
from rmtkit.export import ContextBuilder, Request, export_samples, export_story_folder, sample_row
from rmtkit.formats import FORMATS, sha256
from rmtkit.public import read_public

COLUMNS = {
    "input", "question", "target", "task", "length", "split", "index", "seed", "num_tokens", "facts",
    "supporting_facts", "fact_positions", "fact_tokens",
}  # fmt: skip
REQUEST = {"lengths": ("0k", "1k"), "num_samples": 3}


@pytest.fixture(scope="module")
def builder(tokenizer, open_library):
    return ContextBuilder(GeneratedProblems("qa2", seed=3), open_library(tokenizer), tokenizer, seed=4)


@pytest.fixture(scope="module")
def config(library, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    local = {"background": "local", "background_path": str(library), "data_dir": str(data_dir)}
    return resolve({"task": "qa1,qa8", "seed": 7, **local})


@pytest.fixture(scope="module", params=list(FORMATS))
def exported(request, config, tmp_path_factory):
    """A folder in each format, and the format."""
    folder = tmp_path_factory.mktemp("exported") / "new" / "samples"
    export_samples(config, Request(**REQUEST, format=request.param), folder)
    return folder, request.param


def row_of(builder, index, size):
    return sample_row(builder.sample("test", index, size), builder.tokenizer, length="1k", seed=4)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 999), size=st.none() | st.integers(700, 1500))
def test_sample_row_says_where_the_facts_are(builder, index, size):
    row = row_of(builder, index, size)
    assert [row["input"][start:end] for start, end in row["fact_positions"]] == row["facts"]
    assert set(row) == COLUMNS and row["facts"] == list(builder.sample("test", index, size).problem.facts)
    assert "  " not in row["input"] and row["input"] == row["input"].strip() and "\ufffd" not in row["input"]


@pytest.mark.parametrize("index", range(4))
def test_sample_row_has_the_tokens_of_the_sample(builder, index):
    sample, row = builder.sample("test", index, 900), row_of(builder, index, 900)
    assert builder.tokenizer.decode(sample.prompt).split() == row["input"].split()
    assert row["num_tokens"] == len(sample.prompt) == 900
    texts = [builder.tokenizer.decode(sample.prompt[start:end]).strip() for start, end in row["fact_tokens"]]
    assert texts == row["facts"]


def test_sample_row_is_the_problem_in_the_benchmarks_columns(builder):
    row, problem = row_of(builder, 5, None), builder.problems.problem("test", 5)
    assert row["input"] == " ".join(problem.facts)
    assert (row["question"], row["target"]) == (problem.questions[0].text, problem.questions[0].answer)
    assert [row["facts"][i] for i in row["supporting_facts"]] == [problem.facts[i] for i in row["supporting_facts"]]
    assert row["supporting_facts"] == list(problem.questions[0].supporting)
    assert (row["task"], row["split"], row["index"], row["seed"]) == ("qa2", "test", 5, 4)


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("make", [None, make_wordpiece, make_unigram, make_metaspace_bpe])
def test_sample_row_is_the_same_however_much_is_decoded_at_once(builder, library, tmp_path, monkeypatch, make, size):
    if make:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="<eos>")
        background = open_background("local", tokenizer, data_dir=tmp_path, path=library)
        builder = ContextBuilder(GeneratedProblems("qa1", seed=3), background, tokenizer, seed=4)
    whole = row_of(builder, 1, 600)
    monkeypatch.setattr("rmtkit.export.DECODE_SIZE", size)
    assert row_of(builder, 1, 600) == whole
    assert "that the river was long and wide" in whole["input"]


def test_sample_row_drops_half_a_character(tokenizer, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(3):
        (texts / f"{number}.txt").write_text(f"{number} 日本語のとても長い長い文です。 " * 30, encoding="utf-8")
    background = open_background("local", tokenizer, data_dir=tmp_path, path=texts)
    builder = ContextBuilder(GeneratedProblems("qa1", seed=3), background, tokenizer)
    rows = [row_of(builder, 0, size) for size in range(400, 412)]
    assert not any("\ufffd" in row["input"] for row in rows) and len({row["input"] for row in rows}) > 3


def test_export_writes_what_the_public_reader_reads(exported, config):
    folder, _ = exported
    for task in config.tasks:
        facts_alone, long = (read_public(folder, length, task) for length in REQUEST["lengths"])
        assert [row["index"] for row in long] == [0, 1, 2] and set(long[0]) == COLUMNS
        assert {row["num_tokens"] for row in long} == {700} and {row["task"] for row in long} == {task}
        assert [row["input"] for row in facts_alone] == [" ".join(row["facts"]) for row in facts_alone]
        assert [row["facts"] for row in long] == [row["facts"] for row in facts_alone]


def test_export_formats_hold_the_same_rows(config, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.formats.JSON_AT_ONCE", 100)
    monkeypatch.setattr("rmtkit.formats.TEXT_AT_ONCE", 100)
    request = {"lengths": ("1k",), "num_samples": 2}
    found = []
    for name in FORMATS:
        export_samples(config, Request(**request, format=name), tmp_path / name)
        found.append(read_public(tmp_path / name, "1k", "qa8"))
    assert found[0] == found[1] == found[2] and len(found[0]) == 2


def test_export_repeats_byte_for_byte(exported, config, tmp_path):
    folder, name = exported
    export_samples(config, Request(**REQUEST, format=name), tmp_path / "elsewhere")
    assert content(folder) == content(tmp_path / "elsewhere")


def test_export_depends_on_the_seed_and_split(config, tmp_path):
    for split in ("test", "train"):
        export_samples(config, Request(("1k",), num_samples=2, split=split), tmp_path / split)
    test, train = (read_public(tmp_path / split, "1k", "qa1") for split in ("test", "train"))
    assert test[0]["input"] != train[0]["input"] and {row["split"] for row in train} == {"train"}


def test_export_manifest_describes_every_file(exported):
    folder, name = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["request"] == {**REQUEST, "lengths": ["0k", "1k"], "split": "test", "format": name}
    assert manifest["config"]["seed"] == 7 and manifest["tokenizer"]["name"] == "reference:backbone"
    assert manifest["background"]["source"] == "local" and manifest["made_by"].startswith("rmtkit ")
    assert {(file["task"], file["length"]) for file in manifest["files"]} == {
        (task, length) for task in ("qa1", "qa8") for length in ("0k", "1k")
    }
    for file in manifest["files"]:
        assert file["sha256"] == sha256(folder / file["path"]) and file["num_samples"] == 3
        assert file["num_bytes"] == (folder / file["path"]).stat().st_size


def test_export_is_loaded_by_datasets(exported, tmp_path):
    import datasets

    folder, name = exported
    if name == "datasets":
        tasks = datasets.load_from_disk(str(folder / "1k"))
    else:
        tasks = datasets.load_dataset(str(folder), "1k", cache_dir=str(tmp_path))
    assert list(tasks) == ["qa1", "qa8"]
    assert tasks["qa8"].to_list() == read_public(folder, "1k", "qa8")


def test_export_of_recorded_stories_stops_when_they_are_used_up(config, tmp_path):
    export_story_folder(tmp_path / "babi", ["qa1"], seed=5, sizes={"train": 20, "test": 5})
    recorded = resolve({"babi_path": str(tmp_path / "babi"), "background": "none", "task": "qa1"})
    manifest = export_samples(recorded, Request(("0k",), num_samples=9), tmp_path / "out")
    assert manifest["files"][0]["num_samples"] == 5 == len(read_public(tmp_path / "out", "0k", "qa1"))


def test_export_never_replaces_what_is_there(exported, config):
    folder, name = exported
    before = content(folder)
    with pytest.raises(ValueError, match="samples exists already; give another output"):
        export_samples(config, Request(format=name), folder)
    assert content(folder) == before


def test_export_leaves_nothing_half_written(config, tmp_path, monkeypatch):
    def fill_the_disk(folder, length, task, rows):
        (folder / "half").write_text("".join(row["input"] for row in rows))
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "jsonl", fill_the_disk)
    with pytest.raises(ValueError, match="No space left on device"):
        export_samples(config, Request(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"layout": "authors"}, "layout is 'authors'; texts are written with layout=spaced only"),
        ({"question_position": "first"}, "question_position is 'first'"),
        ({"background": "none", "background_path": None}, "background is 'none', which has no text for lengths 0k, 1k"),
    ],
)
def test_export_refuses_what_texts_cannot_have(config, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        export_samples(dataclasses.replace(config, **fields), Request(**REQUEST), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lengths": ("3k",)}, "length '3k' does not exist; lengths: 0k, 1k"),
        ({"num_samples": 0}, "num_samples is 0; expected at least 1"),
        ({"split": "valid"}, "split is 'valid'; allowed: train, validation, test"),
        ({"format": "csv"}, "format is 'csv'; allowed: jsonl, parquet, datasets"),
    ],
)
def test_request_says_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        Request(**settings)


def test_command_exports(config, tmp_path, capsys):
    fields = ["--background=local", f"--background_path={config.background_path}", f"--data_dir={config.data_dir}"]
    options = ["--task=qa8", "--seed=7", "--length", "1k,0k", "--num_samples", "2", "--format=parquet"]
    assert main(["export", *options, *fields, f"--output={tmp_path / 'out'}"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_files"] == 2 and result["num_samples"] == 4
    assert len(read_public(tmp_path / "out", "1k", "qa8")) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--length=3k"], "length '3k' does not exist; allowed: 0k, 1k, .*, 10M, or all"),
        (["--task=qa77"], "task is 'qa77'; allowed: qa1, "),
        (["--format=csv"], "format is 'csv'; allowed: jsonl, parquet, datasets"),
        (["--tokeniser=gpt2"], "unknown parameter 'tokeniser'"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(options, message, tmp_path, capsys):
    assert main(["export", *options, f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not list(tmp_path.iterdir())

"""A run beside others: task by length, trained by evaluated segments."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from rmtkit.comparison import (
    CROSS,
    cross_table,
    evaluate_stages,
    published_by_length,
    published_cross,
    task_length_table,
)
from rmtkit.config import resolve
from rmtkit.memory import RMTForCausalLM
from rmtkit.runs import write_json

RESULTS = "task,variant,seed,length,tokens,n,correct,low,high,run\n"


def make_records(*rows):
    """Return records of (length or None, num_segments, correct, n)."""
    records = [
        {"task": "qa1", "length": length, "num_segments": segments, "num_tokens": 32 * segments - 16,
         "rule": "exact_match", "is_correct": i < correct}
        for length, segments, correct, n in rows for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(records).dropna(axis="columns")


@pytest.fixture
def reference(tmp_path):
    """Results of a model that was trained to 4 segments of 64 tokens, and of another task."""
    folder = tmp_path / "reference"
    (folder / "qa1-x").mkdir(parents=True)
    write_json(folder / "qa1-x" / "recipe.json", {"trained_tokens": 256})
    write_json(folder / "qa1-x" / "config.json", {"segment_size": 64})
    rows = ["qa1,,0,0k,41,9,9,0,1,outputs/reference/qa1-x", "qa1,,0,1k,1008,8,6,0.4,0.9,outputs/reference/qa1-x",
            "qa5,,0,1k,1008,8,2,0,1,outputs/reference/qa5"]  # fmt: skip
    (folder / "results.csv").write_text(RESULTS + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def config(tmp_path):
    return resolve({"preset": "tiny", "segments": "2,4,8", "segment_size": 32, "outputs_dir": tmp_path / "outputs"})


def write_result(config, name, *, segments=(2, 16), task="qa1", preset="tiny", **test):
    tests = [{"num_segments": 32, "n": 4, "accuracy": 0.75, "low": 0.3, "high": 0.9, **test}]
    settings = {"task": task, "preset": preset, "segments": segments, "segment_size": 32}
    folder = config_folder(config) / name
    folder.mkdir(parents=True)
    write_json(folder / "result.json", {"config": settings, "tests": tests})


def config_folder(config):
    return Path(config.outputs_dir) / "runs"


def values(table):
    return {(row.name, row.trained, row.segment_size, row.num_segments): (row.accuracy, row.n)
            for row in table.itertuples(index=False)}  # fmt: skip


# ---------------------------------------------------------------------- task x length


def test_task_lengths_are_of_the_run_and_of_the_reference_models(config, reference):
    table = task_length_table(config, make_records(("0k", 1, 3, 4), ("1k", 32, 1, 4)), reference)
    rows = table.set_index(["name", "task", "length"])
    assert rows["accuracy"].to_dict() == {
        ("this run", "qa1", "0k"): 0.75, ("this run", "qa1", "1k"): 0.25, ("reference:qa1-x", "qa1", "0k"): 1.0,
        ("reference:qa1-x", "qa1", "1k"): 0.75, ("reference:qa5", "qa5", "1k"): 0.25,
    }  # fmt: skip
    assert rows["size"].tolist() == [0, 1024, 0, 1024, 1024] and rows["n"].tolist() == [4, 4, 9, 8, 8]


def test_task_lengths_of_a_run_in_segments_have_the_names_of_their_tokens(config, reference):
    table = task_length_table(config, make_records((None, 2, 1, 1), (None, 32, 1, 1), (None, 100, 1, 1)), reference)
    mine = table[table["name"] == "this run"]
    assert mine["length"].tolist() == ["64", "1k", "3,200"] and mine["size"].tolist() == [64, 1024, 3200]


def test_published_numbers_are_of_one_method_with_its_sources():
    table, source = published_by_length("ARMT")
    cells = table.set_index(["task", "length"])["accuracy"]
    assert cells["qa1", "10M"] == pytest.approx(0.894) and not cells.index.duplicated().any()
    assert source == "ARMT gpt2, arXiv:2407.04841 Table 1; ARMT gpt2, arXiv:2406.10149 Table 4"
    assert published_by_length()[1].endswith("trained to 32 (qa1: 64) segments")
    with pytest.raises(ValueError, match="no published series 'GPT-9'; there are: RMT, RMT-R"):
        published_by_length("GPT-9")


# ---------------------------------------------------------------------- trained x evaluated


def test_published_matrix_is_the_authors_log():
    cells = values(published_cross("qa1"))
    assert cells["RMT", 16, 512, 32] == (0.958, 999) and cells["RMT", 64, 512, 19532] == (0.818, 100)
    assert {trained for _, trained, *_ in cells} == {16, 32, 64}
    assert published_cross("qa20").empty and list(published_cross("qa20").columns) == CROSS


def test_cross_table_leaves_out_the_facts_alone(config, reference):
    table = cross_table(config, make_records(("0k", 1, 0, 4), ("1k", 32, 3, 4)), reference=reference)
    assert values(table) == {("this run", 8, 32, 32): (0.75, 4), ("reference:qa1-x", 4, 64, 16): (0.75, 8)}
    assert table["low"].notna().all() and list(table.columns) == CROSS


def test_cross_table_has_other_finished_runs_of_the_task(config, reference):
    write_result(config, "other")
    write_result(config, "other-task", task="qa2")
    write_result(config, "try", preset="smoke")
    (config_folder(config) / "unfinished").mkdir()
    table = cross_table(config, make_records((None, 4, 1, 1)), reference=reference)
    assert values(table) == {
        ("this run", 8, 32, 4): (1.0, 1), ("other", 16, 32, 32): (0.75, 4), ("reference:qa1-x", 4, 64, 16): (0.75, 8),
    }  # fmt: skip


def test_cross_table_takes_the_tests_of_a_reference_where_they_are_there(config, reference):
    result = {"config": {"segments": [1, 2], "segment_size": 64},
              "tests": [{"num_segments": 1, "n": 5, "accuracy": 0.2, "low": 0, "high": 1}]}  # fmt: skip
    write_json(reference / "qa1-x" / "result.json", result)
    table = cross_table(config, make_records((None, 4, 1, 1)), reference=reference)
    assert values(table)["reference:qa1-x", 2, 64, 1] == (0.2, 5) and len(table) == 2


# ---------------------------------------------------------------------- stages


@pytest.fixture
def run(make_backbone, tokenizer, tmp_path):
    """The folder of a run with the models of three stages."""
    folder = tmp_path / "run"
    for number, segments in enumerate((10, 2, 4)):  # in an order that is not that of the folders' names
        stage = folder / "checkpoints" / f"stage-{number}"
        backbone = make_backbone("llama", seed=segments, vocab_size=len(tokenizer), max_position_embeddings=64)
        model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=32)
        model.reset_memory(torch.Generator().manual_seed(segments))
        for place in (stage / "best", *([folder / "model"] if segments == 10 else [])):
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
        (stage / "stage.json").write_text(json.dumps({"num_segments": segments}))
    return folder


def of_run(run, tmp_path, **fields):
    of_model = {"segments": "2,4,10", "segment_size": 32, "num_memory_tokens": 2}
    return resolve({"checkpoint": run, **of_model, "answer_size": 8, "outputs_dir": tmp_path, **fields})


def test_stages_are_evaluated_at_the_lengths_of_the_run(run, make_builder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.comparison.STAGE_SAMPLES", 2)
    monkeypatch.setattr("rmtkit.comparison.STAGE_TOKENS", 300)
    config, builder = of_run(run, tmp_path, test_segments="4,8,16", test_samples=3), make_builder(answer_size=8)
    table = evaluate_stages(config, tokenizer, builder, tmp_path)
    rows = table[["trained", "num_segments", "n"]].values.tolist()  # neither the last stage nor 16 segments
    assert rows == [[2, 4, 2], [2, 8, 2], [4, 4, 2], [4, 8, 2]] and set(table["name"]) == {"stage of this run"}
    monkeypatch.setattr("rmtkit.evaluator.Evaluator.records", lambda *_: pytest.fail("evaluated again"))
    pd.testing.assert_frame_equal(evaluate_stages(config, tokenizer, builder, tmp_path), table)


def test_stages_at_lengths_by_name(run, make_builder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.comparison.STAGE_TOKENS", 1500)
    monkeypatch.setattr("rmtkit.generalization.NUM_PROBLEMS", 20)
    config = of_run(run, tmp_path, max_length="2k", num_samples=2)
    table = evaluate_stages(config, tokenizer, make_builder(answer_size=8), tmp_path)
    assert table[["trained", "num_segments"]].values.tolist() == [[2, 32], [4, 32]]


def test_stages_that_are_not_kept_are_none(run, make_builder, tokenizer, tmp_path, monkeypatch):
    config = of_run(run / "model", tmp_path, test_segments="8", test_samples=1)
    monkeypatch.setattr("rmtkit.comparison.STAGE_TOKENS", 100)
    assert evaluate_stages(config, tokenizer, make_builder(), tmp_path) is None  # all lengths are too long
    (run / "model").rename(tmp_path / "model")
    config = of_run(tmp_path / "model", tmp_path, test_segments="8", test_samples=1)
    assert evaluate_stages(config, tokenizer, make_builder(), tmp_path) is None

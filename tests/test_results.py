"""Reference models: made of finished runs, evaluated, scored again from their predictions, drawn."""

import json

import pandas as pd
import pytest
import torch

from rmtkit import load_reference
from rmtkit.babi import GeneratedProblems
from rmtkit.babilong import BabilongBuilder
from rmtkit.cli import main
from rmtkit.config import ConfigError
from rmtkit.experiment import evaluation_folder, load_trained
from rmtkit.generalization import evaluate_lengths
from rmtkit.intervals import wilson_interval
from rmtkit.memory import RMTForCausalLM
from rmtkit.publishing import READ, publish, read_lengths
from rmtkit.reference import REFERENCE, resolve_trained
from rmtkit.results import COLUMNS, named_results, published_series, results_table
from rmtkit.runs import read_json, write_json

VALIDATION = {"stage": 0, "num_segments": 2, "step": 2, "split": "validation", "exact_match": 0.5, "low": 0.1,
              "high": 0.9, "n": 4}  # fmt: skip


@pytest.fixture
def make_run(make_backbone, tokenizer, tmp_path):
    """Return a function that writes the folder of a finished run, as `rmtkit.training` does."""

    def make(name, *, seed=0, **fields):
        folder = tmp_path / name
        config = {"task": "qa1", "preset": "tiny", "seed": seed, "segments": [1, 2], "segment_size": 64,
                  "answer_size": 8, "backbone": "reference:backbone", "outputs_dir": str(tmp_path)}  # fmt: skip
        backbone = make_backbone("llama", seed=seed, vocab_size=len(tokenizer), max_position_embeddings=128)
        model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=64)
        model.reset_memory(torch.Generator().manual_seed(seed))
        model.config.backbone_config._name_or_path = str(tmp_path / "backbone")  # as after loading it from there
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        (folder / "metrics.jsonl").write_text(json.dumps(VALIDATION) + "\n")
        stage, config = {"num_segments": 2, "seconds": 5.0}, {**config, **fields}
        write_json(folder / "config.json", {"identity": {}, "config": config})
        write_json(folder / "result.json", {"config": config, "scoring_rule": "exact_match", "stages": [stage]})
        return folder

    return make


@pytest.fixture
def evaluate_run(open_library, tmp_path):
    """Return a function that evaluates a run at 0k and 1k; it returns the evaluation's folder."""

    def evaluate(run, **fields):
        config = resolve_trained({"checkpoint": run, "max_length": "1k", "num_samples": 3, "outputs_dir": tmp_path,
                                  **fields})  # fmt: skip
        (model, tokenizer), folder = load_trained(config), evaluation_folder(config)
        problems = GeneratedProblems("qa1", seed=config.seed, max_n_facts=4)
        builder = BabilongBuilder(problems, open_library(tokenizer), tokenizer, answer_size=8)
        evaluate_lengths(config, model, tokenizer, builder, folder)
        return folder

    return evaluate


# ---------------------------------------------------------------------- a run becomes a reference


def test_publish_copies_model_recipe_metrics_and_curve(make_run, tmp_path):
    run = make_run("run")
    publish("qa1", runs=[run], reference=tmp_path / "reference")
    folder = tmp_path / "reference" / "qa1"
    assert {"model.safetensors", "config.json", "tokenizer.json", "recipe.json", "metrics.jsonl", "training.png"} <= {
        path.name for path in folder.iterdir()
    }
    recipe = read_json(folder / "recipe.json")
    assert (recipe["task"], recipe["seed"], recipe["seconds"], recipe["trained_tokens"]) == ("qa1", 0, 5.0, 128)
    assert "note" not in recipe
    assert not [path.name for path in folder.glob("*.json*") if str(tmp_path) in path.read_text()]
    assert resolve_trained({"checkpoint": folder}).segment_size == 64


def test_publish_describes_the_whole_chain(make_run, tmp_path):
    first = make_run("first")
    second = make_run("second", seed=1, backbone=str(first / "model"), segments=[8])
    publish("qa1", runs=[first, second], reference=tmp_path / "reference")
    recipe = read_json(tmp_path / "reference" / "qa1" / "recipe.json")
    assert [run["config"]["seed"] for run in recipe["runs"]] == [0, 1] and recipe["trained_tokens"] == 512
    with pytest.raises(ConfigError, match="began with backbone .*first/model, not with the model of .*second"):
        publish("qa1", runs=[second, second], reference=tmp_path / "reference")


def test_chain_goes_on_from_a_published_model_in_its_own_place(make_run, tmp_path, monkeypatch):
    reference = tmp_path / "reference"
    monkeypatch.setattr("rmtkit.reference.REFERENCE", reference)
    first = make_run("first")
    chain = [first, make_run("second", seed=1, backbone=str(first / "model"))]
    publish("qa1", runs=chain, note="by hand before", reference=reference)
    third = make_run("third", seed=2, backbone="reference:qa1", segments=[8])
    publish("qa1", runs=["reference:qa1", third], reference=reference)
    recipe = read_json(reference / "qa1" / "recipe.json")
    assert [run["config"]["seed"] for run in recipe["runs"]] == [0, 1, 2]
    assert (recipe["seconds"], recipe["trained_tokens"], recipe["note"]) == (15.0, 512, "by hand before")
    rows = [json.loads(line) for line in (reference / "qa1" / "metrics.jsonl").read_text().splitlines()]
    assert [row["run"] for row in rows] == [0, 1, 2]
    with pytest.raises(ConfigError, match="run 4 of the chain is in it before; reference:qa1 has it already"):
        publish("qa1", runs=["reference:qa1", third], reference=reference)
    with pytest.raises(ConfigError, match="third began with backbone .*qa1, not with the model of .*first"):
        publish("qa1", runs=[first, third], reference=reference)
    (reference / "qa1" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match="is not what recipe.json says"):
        publish("qa1", runs=["reference:qa1", third], reference=reference)


def test_chain_cannot_begin_with_a_model_whose_runs_are_unknown(make_run, tmp_path):
    run = make_run("run", backbone="reference:backbone")
    with pytest.raises(ConfigError, match="recipe of reference:backbone names no runs"):
        publish("qa1", runs=["reference:backbone", run], reference=tmp_path / "reference")


def test_publish_that_fails_leaves_what_was_there(make_run, tmp_path):
    reference, run = tmp_path / "reference", make_run("run")
    publish("qa1", runs=[run], reference=reference)
    before = sorted(path.name for path in reference.rglob("*"))
    (run / "result.json").unlink()
    with pytest.raises(ConfigError, match="no finished run"):
        publish("qa1", runs=[run], reference=reference)
    with pytest.raises(ConfigError, match="variant and note are said of a model when it is made"):
        publish("qa1", note="by hand", reference=reference)
    with pytest.raises(ConfigError, match="has no recipe.json; give run"):
        publish("qa2", evaluation=str(tmp_path), reference=reference)
    assert sorted(path.name for path in reference.rglob("*")) == before


def test_load_reference_verifies_the_weights(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.reference.REFERENCE", tmp_path / "reference")
    publish("qa1", runs=[make_run("run")], reference=tmp_path / "reference")
    model, tokenizer = load_reference("qa1")
    assert not model.training and model.config.segment_size == 64 and tokenizer.eos_token
    with pytest.raises(ConfigError, match="no trained model 'qa9' in outputs/reference; there are: qa1$"):
        load_reference("qa9")
    with (tmp_path / "reference" / "qa1" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="is not what recipe.json says"):
        load_reference("qa1")


# ---------------------------------------------------------------------- evaluations and results


def test_results_are_scored_again_from_the_predictions(make_run, evaluate_run, tmp_path):
    reference, run = tmp_path / "reference", make_run("run")
    publish("qa1", runs=[run], evaluation=str(evaluate_run(run)), reference=reference)
    table = results_table(reference)
    assert list(table.columns) == COLUMNS and table["length"].tolist() == ["0k", "1k"]
    assert table["n"].tolist() == [3, 3] and table["tokens"][1] == 1016
    file = reference / "qa1" / "evaluation" / "1k.csv"
    records = pd.read_csv(file)
    records["prediction"], records["is_correct"] = records["target"], True
    records.to_csv(file, index=False)
    assert results_table(reference)["correct"][1] == 3
    assert results_table(reference)["low"][1] == pytest.approx(wilson_interval(3, 3)[0], abs=1e-4)
    records.assign(is_correct=False).to_csv(file, index=False)
    with pytest.raises(ValueError, match="is_correct is not what exact_match says"):
        results_table(reference)


def test_evaluation_names_sizes_and_keeps_the_larger_records(make_run, evaluate_run, tmp_path):
    reference, run = tmp_path / "reference", make_run("run")
    publish("qa1", runs=[run], reference=reference)
    folder = evaluate_run(run, num_samples=5)
    publish("qa1", evaluation=str(evaluate_run(run)), reference=reference)
    sizes = pd.read_csv(reference / "qa1" / "evaluation" / "lengths.csv")
    assert sizes["length"].tolist() == ["0k", "1k"] and sizes["num_characters"][1] > 1016
    assert results_table(reference)["n"].tolist() == [5, 5] and folder.is_dir()


def test_evaluation_keeps_how_fast_and_in_how_much_memory_each_length_was_read(make_run, evaluate_run, tmp_path):
    reference, run = tmp_path / "reference", make_run("run")
    publish("qa1", runs=[run], evaluation=str(evaluate_run(run, max_length="0k")), reference=reference)
    kept = reference / "qa1" / "evaluation"
    lengths = pd.read_csv(kept / "lengths.csv").drop(columns=READ)  # as before there were such columns
    lengths.to_csv(kept / "lengths.csv", index=False)
    publish(
        "qa1", evaluation=str(evaluate_run(run, min_length="1k", outputs_dir=tmp_path / "later")), reference=reference
    )
    facts, row = read_lengths(kept)
    assert not set(facts) & set(READ) and facts["length"] == "0k"
    assert (row["num_read"], row["device"], row["dtype"], row["is_compiled"]) == (3 * 1016, "cpu", "float32", False)
    assert row["seconds"] > 0 and row["peak_resident_mb"] > 50 and "peak_cuda_mb" not in row


def test_evaluation_of_other_weights_or_of_two_settings_is_refused(make_run, evaluate_run, tmp_path):
    reference, run, other = tmp_path / "reference", make_run("run"), make_run("other", seed=3)
    publish("qa1", runs=[run], reference=reference)
    with pytest.raises(ConfigError, match="no records of this model"):
        publish("qa1", evaluation=str(evaluate_run(other)), reference=reference)
    folder = str(evaluate_run(run))
    assert str(evaluate_run(run, seed=7)) == folder
    with pytest.raises(ConfigError, match="several settings .*seed: "):
        publish("qa1", evaluation=folder, reference=reference)
    publish("qa1", evaluation=folder, wanted={"seed": "7"}, reference=reference)
    assert read_json(reference / "qa1" / "evaluation" / "setting.json")["seed"] == 7


def test_records_from_before_a_field_existed_are_of_its_default(make_run, evaluate_run, tmp_path):
    reference, run = tmp_path / "reference", make_run("run")
    folder = str(evaluate_run(run))
    publish("qa1", runs=[run], evaluation=folder, reference=reference)
    path = reference / "qa1" / "evaluation" / "setting.json"
    setting = read_json(path)
    path.write_text(json.dumps({name: value for name, value in setting.items() if name != "min_n_answers"}))
    publish("qa1", evaluation=folder, reference=reference)
    assert read_json(path) == setting
    path.write_text(json.dumps({**setting, "min_n_answers": 2}))
    with pytest.raises(ConfigError, match="records of another setting: min_n_answers: 2 or 1; give run anew"):
        publish("qa1", evaluation=folder, reference=reference)


def test_committed_results_are_those_of_the_committed_predictions():
    committed = pd.read_csv(REFERENCE / "results.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(results_table(), committed)


def test_first_model_of_a_task_is_that_of_its_folder():
    models = (("qa1-a", "", 0), ("qa1", "", 1), ("qa1-both", "both ends", 0), ("qa2-x", "", 4))
    rows = [
        (name[:3], variant, seed, "1k", 1, 4, 2, 0, 1, f"outputs/reference/{name}") for name, variant, seed in models
    ]
    named = named_results(pd.DataFrame(rows, columns=COLUMNS)).set_index("run")["name"]
    assert named.loc["outputs/reference/qa1"] == named.loc["outputs/reference/qa2-x"] == "rmtkit"
    assert named.loc["outputs/reference/qa1-a"] == "rmtkit, qa1-a"
    assert named.loc["outputs/reference/qa1-both"] == "rmtkit, both ends"


def test_published_series_are_one_curve_each():
    table = published_series().set_index(["task", "series", "length"])["accuracy"]
    assert not table.index.duplicated().any()
    assert table["qa1", "RMT", "1M"] == 94.2 and table["qa2", "RMT", "1M"] == 25.5
    assert table["qa1", "ARMT", "10M"] == 89.4 and table["qa1", "ARMT", "4k"] == 100 == table["qa2", "ARMT", "4k"]
    assert table["qa1", "GPT-4", "128k"] == 39 and table["qa1", "Mamba", "512k"] == 92.3


def test_commands_refuse_with_one_line(capsys):
    assert main(["reference", "--name", "qa1", "--memory_grid=nan"]) == 2
    assert capsys.readouterr().err == "rmtkit: memory_grid is 'nan'; expected a number\n"
    assert main(["reference", "--name=../x", "--run=nowhere"]) == 2
    assert "expected the name of a folder" in capsys.readouterr().err
    assert main(["results", "--seed=1"]) == 2
    assert "unknown option --seed" in capsys.readouterr().err

"""Bad input: each a line that says what is allowed, before anything heavy starts."""

import pytest
import torch

from rmtkit.config import PROJECT, ConfigError, resolve
from rmtkit.experiment import (
    build_model,
    evaluation_folder,
    load_trained,
    open_tokenizer,
    prepare,
    resolve_reference,
)
from rmtkit.precision import resolve_precision
from rmtkit.runs import write_json


def refuse(message: str, **parameters):
    with pytest.raises(ValueError, match=message) as found:
        prepare(resolve({"preset": "smoke", **parameters}))
    assert "\n" not in str(found.value)


def test_prepare_refuses_segments_beyond_the_positions(tmp_path):
    refuse("1024 positions of the backbone; take segments of at most 1008", outputs_dir=tmp_path, segment_size=1020)


def test_prepare_refuses_more_facts_than_fit(tmp_path):
    refuse("max_n_facts=10 allows problems of .* tokens, but the first stage", outputs_dir=tmp_path, max_n_facts=10)


def test_prepare_refuses_a_length_that_no_problem_fits(tmp_path):
    refuse(
        "segments starts at 1: none of .* generated problems fits", outputs_dir=tmp_path, segments="1", segment_size=20
    )


def test_prepare_refuses_a_missing_babi_folder(tmp_path):
    refuse("nowhere", outputs_dir=tmp_path, babi_path=tmp_path / "nowhere")


def test_prepare_names_file_and_line_of_malformed_babi(tmp_path):
    (tmp_path / "qa1_x_train.txt").write_text("1 Mary went to the garden.\n3 Where is Mary? \tgarden\t1\n")
    refuse(r"qa1_x_train.txt:2", outputs_dir=tmp_path, babi_path=tmp_path)


def test_prepare_refuses_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    refuse("cannot write to .*give another outputs_dir", outputs_dir=tmp_path / "file" / "below")


def test_prepare_refuses_an_unknown_reference(tmp_path):
    refuse(
        "'reference:nothing' is not there; reference models: backbone",
        outputs_dir=tmp_path,
        backbone="reference:nothing",
    )


def test_prepare_says_what_works_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(
        "cannot load the configuration of 'no/such-model'.*offline use", outputs_dir=tmp_path, backbone="no/such-model"
    )


def test_prepare_refuses_the_run_folder_of_another_configuration(tmp_path):
    prepare(resolve({"preset": "smoke", "run_dir": tmp_path, "outputs_dir": tmp_path}))
    refuse("another configuration .seed: 0 there, 1 asked", outputs_dir=tmp_path, run_dir=tmp_path, seed=1)


def test_load_trained_refuses_a_checkpoint_of_another_configuration(tmp_path):
    write_json(tmp_path / "config.json", {"num_memory_tokens": 16, "segment_size": 512})
    with pytest.raises(ConfigError, match="has num_memory_tokens=16, the configuration 8; give num_memory_tokens=16"):
        load_trained(resolve({"checkpoint": tmp_path}))


def test_evaluation_folder_of_a_checkpoint_is_not_the_runs(tmp_path):
    own = evaluation_folder(resolve({"outputs_dir": tmp_path}))
    other = evaluation_folder(resolve({"outputs_dir": tmp_path, "checkpoint": "reference:backbone"}))
    assert own != other and other.is_dir()


def test_evaluation_folder_of_a_reference_does_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    config = resolve({"outputs_dir": tmp_path, "checkpoint": "reference:qa1"})
    before = evaluation_folder(config)
    monkeypatch.chdir(tmp_path)
    assert evaluation_folder(config) == before


def test_reference_backbone_is_what_its_recipe_says():
    import hashlib

    from rmtkit.runs import read_json

    folder = PROJECT / "outputs" / "reference" / "backbone"
    assert resolve_reference("reference:backbone") == str(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert read_json(folder / "recipe.json")["sha256"] == {"model.safetensors": digest}
    assert len(open_tokenizer(resolve())) == 2048


def test_precision_named_is_precision_used():
    import torch

    assert resolve_precision("float16", torch.device("cpu")) is torch.float16
    assert resolve_precision("auto", torch.device("cpu")) is torch.float32


@pytest.mark.parametrize("has, expected", [(True, "torch.bfloat16"), (False, "torch.float32")])
def test_fastest_precision_is_bfloat16_where_the_processor_has_it(monkeypatch, has, expected):
    import torch

    monkeypatch.setattr("rmtkit.precision.has_bfloat16", lambda: has)
    assert str(resolve_precision(resolve({"preset": "long"}).precision, torch.device("cpu"))) == expected
    assert resolve_precision("auto", torch.device("cpu")) is torch.float32


def test_build_model_draws_more_memory_for_a_trained_model_from_the_seed(make_model, tmp_path):
    make_model(num_memory_tokens=2).save_pretrained(tmp_path)
    kept, *drawn = (
        build_model(resolve({"backbone": tmp_path, "num_memory_tokens": m, "segment_size": 40, "seed": seed})).memory
        for m, seed in ((2, 0), (4, 0), (4, 0), (4, 1))
    )
    assert all(memory.shape[0] == 4 and torch.equal(memory[:2], kept) for memory in drawn)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_prepare_refuses_less_memory_than_a_trained_model_has(make_model, tmp_path):
    make_model(num_memory_tokens=2).save_pretrained(tmp_path / "model")
    refuse(
        "^num_memory_tokens cannot go from 2 to 1: expected 2 or more$",
        outputs_dir=tmp_path, backbone=tmp_path / "model", num_memory_tokens=1, segment_size=40,
    )  # fmt: skip


def test_build_model_counts_the_positions_of_the_segments_to_come(make_model, tmp_path):
    make_model(num_memory_tokens=2, segment_size=60).save_pretrained(tmp_path)  # of 64 positions
    model = build_model(resolve({"backbone": tmp_path, "num_memory_tokens": 10, "segment_size": 40}))
    assert (model.config.num_memory_tokens, model.config.segment_size) == (10, 40)

"""What a checkpoint says of itself."""

import json
import shlex

import pytest

from rmtkit.cli import main
from rmtkit.config import Config, ConfigError, identity, resolve
from rmtkit.reference import REFERENCE, checkpoint_folder, reference_names, resolve_reference, resolve_trained
from rmtkit.runs import read_json, write_json

MODEL = {"model_type": "rmt", "num_memory_tokens": 4, "segment_size": 64}
RUN = {
    "preset": "smoke", "task": "qa3", "layout": "authors", "question_position": "both", "answer_size": 24,
    "background": "local", "background_path": "texts", "segments": [1, 2, 5], "steps": [3, 4, 5], "seed": 9,
}  # fmt: skip


@pytest.fixture(params=["result.json", "recipe.json", "run folder"])
def checkpoint(request, tmp_path):
    """A checkpoint whose run's configuration is in one of the three places."""
    folder = tmp_path / "model" if request.param == "run folder" else tmp_path
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", MODEL)
    if request.param == "run folder":
        write_json(tmp_path / "config.json", {"identity": {}, "config": RUN})
    else:
        recipe = {"runs": [{"config": {"task": "qa1"}}, {"config": RUN}]}
        write_json(folder / request.param, {"config": RUN} if request.param == "result.json" else recipe)
    return tmp_path


def test_checkpoint_gives_what_it_was_trained_with(checkpoint):
    config = resolve_trained({"checkpoint": checkpoint, "task": None})
    assert (config.num_memory_tokens, config.segment_size, config.task, config.layout) == (4, 64, "qa3", "authors")
    assert (config.question_position, config.answer_size, config.background_path) == ("both", 24, "texts")
    assert config.segments == (1, 2, 5) and config.preset == "smoke" and config.seed == 0
    assert checkpoint_folder(checkpoint) in (checkpoint, checkpoint / "model")


def test_given_values_go_before_those_of_the_checkpoint(checkpoint):
    given = {"checkpoint": checkpoint, "task": "qa1", "background": "none", "preset": "tiny", "segments": "1,2"}
    config = resolve_trained(given)
    assert (config.task, config.background, config.preset, config.segments) == ("qa1", "none", "tiny", (1, 2))
    assert config.segment_size == 64


@pytest.mark.parametrize("name, value", [("segment_size", 32), ("num_memory_tokens", 8)])
def test_value_that_the_model_contradicts_is_one_line(checkpoint, name, value):
    with pytest.raises(ConfigError, match=f"has {name}={MODEL[name]}, the configuration {value}; give") as found:
        resolve_trained({"checkpoint": checkpoint, name: value})
    assert "\n" not in str(found.value)


def test_checkpoint_without_memory_is_refused(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    with pytest.raises(ConfigError, match="has no num_memory_tokens: it is no model with memory"):
        resolve_trained({"checkpoint": tmp_path})


def test_mistyped_parameter_beside_a_checkpoint_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="unknown parameter 'taks'"):
        resolve_trained({"checkpoint": checkpoint, "taks": "qa1"})


def test_precision_of_training_is_not_that_of_an_evaluation():
    assert resolve_trained({"checkpoint": "reference:qa1"}).precision == "auto"
    assert resolve_trained({"checkpoint": "reference:qa1", "precision": "bfloat16"}).precision == "bfloat16"


def test_run_folder_stands_for_its_model(tmp_path, monkeypatch):
    write_json(tmp_path / "config.json", {"identity": {}})
    assert resolve_reference(str(tmp_path)) == str(tmp_path)
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", MODEL)
    assert resolve_reference(str(tmp_path)) == str(tmp_path / "model") == resolve_reference(str(tmp_path / "model"))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert resolve_reference(f"~/{tmp_path.name}") == str(tmp_path / "model")
    assert resolve_reference("gpt2") == "gpt2"


@pytest.mark.parametrize("name", sorted(set(reference_names()) - {"backbone"}))
def test_printed_commands_train_with_the_recorded_settings(name, capsys):
    """Each begins with the model of the one before; what a recipe says goes before today's preset."""
    runs, folder = read_json(REFERENCE / name / "recipe.json")["runs"], "outputs/runs"
    assert main(["reference", "--name", name, "--commands"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    for number, (run, command) in enumerate(zip(runs, commands, strict=True), start=1):
        start, options = shlex.split(command)[:4], shlex.split(command)[4:]
        assert start == ["python", "-m", "rmtkit", "train"]
        given = dict(option.removeprefix("--").split("=", 1) for option in options)
        assert given.pop("run_dir") == f"{folder}/{name}-{number}"
        backbone = f"{folder}/{name}-{number - 1}" if number > 1 else run["config"]["backbone"]
        found = json.loads(json.dumps(identity(resolve(given))))
        recorded = {field: value for field, value in run["config"].items() if field in identity(Config())}
        assert {field: found[field] for field in recorded} == {**recorded, "backbone": backbone}
        assert found["memory_grid"] == recorded.get("memory_grid"), "the oldest recipes had no such field"


@pytest.mark.parametrize("name, message", [("backbone", "names runs"), ("qa0", "reference models: ")])
def test_commands_of_a_model_that_no_runs_are_known_of_are_one_line(name, message, capsys):
    assert main(["reference", "--name", name, "--commands"]) == 2
    assert message in capsys.readouterr().err


def test_printed_commands_keep_steps_and_rates_that_other_segments_would_change(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rmtkit.reference.REFERENCE", tmp_path)
    usual = resolve({"preset": "tiny"})
    config = json.loads(json.dumps({**identity(usual), "segments": [1, 2, 3]}))
    (tmp_path / "mine").mkdir()
    write_json(tmp_path / "mine" / "config.json", MODEL)
    write_json(tmp_path / "mine" / "recipe.json", {"note": "one\ntwo", "runs": [{"config": config, "seconds": 120}]})
    assert main(["reference", "--name", "mine", "--commands"]) == 0
    *comments, command = capsys.readouterr().out.splitlines()
    assert comments == ["# one", "# two", "# 1 of 1: commit unknown, 2 minutes"]
    found = resolve(dict(option.removeprefix("--").split("=", 1) for option in shlex.split(command)[4:]))
    assert (found.segments, found.steps, found.stage_rates) == ((1, 2, 3), usual.steps, usual.stage_rates)

"""The run folder: its name, what it refuses, what a crash may do to it."""

import dataclasses
import json

import pytest

from rmtkit.config import Config, ConfigError, resolve
from rmtkit.runs import environment, open_run, read_json, run_folder, write_json


@pytest.fixture
def config(tmp_path):
    """The default configuration with its outputs in a folder of this test."""
    return resolve({"outputs_dir": str(tmp_path)})


def row(step, accuracy, stage=0):
    return {"stage": stage, "split": "validation", "step": step, "exact_match": accuracy}


def changed(config, field):
    """Return the configuration with another value in one field."""
    value = getattr(config, field.name)
    other = {bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 0.5, tuple: lambda: (*value, 99)}
    return dataclasses.replace(config, **{field.name: other.get(type(value), lambda: f"{value}x")()})


def test_run_folder_is_the_same_for_the_same_configuration(config):
    again = resolve({"outputs_dir": config.outputs_dir, "task": "qa1"})
    assert run_folder(again) == run_folder(config) == open_run(config).folder == open_run(again).folder


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_run_folder_depends_on_what_is_trained_only(config, field):
    other = run_folder(changed(config, field))
    if field.metadata.get("identity", True):
        assert other != run_folder(config)
    elif field.name in ("outputs_dir", "run_dir"):
        assert other.name == run_folder(config).name or other.name.endswith("x")
    else:
        assert other == run_folder(config)


def test_open_run_writes_configuration_and_environment(config):
    run = open_run(config)
    assert read_json(run.folder / "config.json")["config"]["segments"] == list(config.segments)
    assert read_json(run.folder / "environment.json")["packages"]["torch"]
    assert not run.is_finished


def test_open_run_refuses_a_folder_of_another_configuration(config, tmp_path):
    open_run(dataclasses.replace(config, run_dir=str(tmp_path / "mine")))
    other = dataclasses.replace(config, run_dir=str(tmp_path / "mine"), seed=5, segments=(1, 2), task="qa2")
    with pytest.raises(ConfigError, match="task: 'qa1' there, 'qa2' asked; seed: 0 there, 5 asked; segments") as error:
        open_run(other)
    assert "learning_rate" not in str(error.value)


def test_open_run_takes_its_folder_with_other_places(config, tmp_path):
    first = dataclasses.replace(config, run_dir=str(tmp_path / "mine"))
    open_run(first)
    assert open_run(dataclasses.replace(first, test_samples=7, num_workers=2)).folder == tmp_path / "mine"


def test_open_run_in_an_unwritable_place_says_what_to_do(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for name in ("outputs_dir", "run_dir"):
        with pytest.raises(ConfigError, match="cannot write to .*file.*give another outputs_dir or run_dir"):
            open_run(dataclasses.replace(config, **{name: str(tmp_path / "file")}))


def test_finish_makes_the_run_whole(config):
    run = open_run(config)
    run.finish({"accuracy": 0.5})
    assert open_run(config).is_finished and open_run(config).result() == {"accuracy": 0.5}


def test_write_json_leaves_no_other_file(tmp_path):
    write_json(tmp_path / "a.json", {"n": 1})
    write_json(tmp_path / "a.json", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"n": 2}


def test_write_json_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"n": object()})
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(tmp_path / "a.json", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"n": 1}


def test_metrics_of_a_new_run_are_empty(config):
    assert open_run(config).metrics() == []


def test_metrics_come_in_the_order_written(config):
    run = open_run(config)
    rows = [row(50, 0.1), row(100, 0.2), row(50, 0.3, stage=1)]
    for each in rows:
        run.append_metrics(each)
    assert run.metrics() == rows


def test_metrics_drop_a_line_cut_by_a_crash(config):
    run = open_run(config)
    run.append_metrics(row(50, 0.1))
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(100, 0.2))[:20])
    assert run.metrics() == [row(50, 0.1)]
    run.append_metrics(row(100, 0.25))
    run.append_metrics(row(150, 0.3))
    assert run.metrics() == [row(50, 0.1), row(100, 0.25), row(150, 0.3)]


def test_metrics_repeated_after_a_resume_count_once(config):
    run = open_run(config)
    for each in (row(50, 0.1), row(100, 0.2), row(50, 0.9, stage=1), row(100, 0.25), row(150, 0.3)):
        run.append_metrics(each)
    assert run.metrics() == [row(50, 0.1), row(100, 0.25), row(50, 0.9, stage=1), row(150, 0.3)]


def test_training_log_is_a_file_of_its_own_and_counts_a_repeated_step_once(config):
    run = open_run(config)
    assert run.training_log() == []
    rows = [{"stage": 0, "step": step, "split": "train", "loss": loss} for step, loss in ((10, 2.0), (20, 1.0))]
    for each in (*rows, {**rows[1], "loss": 1.5}):
        run.append_log(each)
    assert run.training_log() == [rows[0], {**rows[1], "loss": 1.5}] and run.metrics() == []


def test_environment_tells_versions_and_processors():
    found = environment()
    assert {"torch", "transformers", "numpy"} <= set(found["packages"]) and found["processors"] >= 1
    json.dumps(found)

"""Where a training shows its numbers: TensorBoard, and stubs of wandb and trackio that keep what they are given."""

import sys
import types

import pytest
from trainer_runs import make_experiment, train_once

from rmtkit.config import ConfigError
from rmtkit.curriculum import stages
from rmtkit.training import train


def stub(monkeypatch, name, **attributes):
    """Install a module that does nothing but keep what it is called with."""
    module = types.ModuleType(name)
    module.__spec__ = types.SimpleNamespace(name=name, loader=None)
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def wandb(monkeypatch):
    """A stub of wandb; `calls` has what it was given."""
    calls = []
    settings = type("Settings", (dict,), {"update": lambda self, *a, **k: None})()
    module = stub(monkeypatch, "wandb", run=None, config=settings, calls=calls)

    def init(**options):
        calls.append(("init", options))
        module.run = types.SimpleNamespace(_label=lambda **k: None, summary={}, id="1", name="1")

    def finish():
        calls.append(("finish", {}))
        module.run = None

    module.init, module.finish = init, finish
    module.log = lambda numbers: calls.append(("log", numbers))
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        stub(monkeypatch, name)
    stub(monkeypatch, "wandb.sdk.lib.config_util", ConfigError=RuntimeError)
    return module


@pytest.fixture
def trackio(monkeypatch):
    """A stub of trackio; `calls` has what it was given."""
    calls = []
    context = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
    config = type("Settings", (dict,), {"update": lambda self, *a, **k: None})()
    module = stub(monkeypatch, "trackio", config=config, context_vars=context, calls=calls)
    module.init = lambda **options: calls.append(("init", options))
    module.log = lambda numbers: calls.append(("log", numbers))
    module.finish = lambda: calls.append(("finish", {}))
    return module


def test_tensorboard_writes_to_a_folder_of_each_stage(small, tmp_path):
    experiment, stage = train_once(small, tmp_path, trackers="tensorboard")
    assert list((experiment.run.folder / "tensorboard" / stage.folder.name).glob("events.*"))


def test_trackers_none_writes_no_tensorboard(small, tmp_path):
    experiment, _ = train_once(small, tmp_path)
    assert not (experiment.run.folder / "tensorboard").exists()


def test_every_named_tracker_gets_the_validations_of_each_stage(small, tmp_path, wandb, trackio):
    experiment, _ = train_once(small, tmp_path, trackers="wandb,trackio", segments="2,3", steps=2)
    names = [f"{experiment.run.folder.name}-{stage.folder.name}" for stage in stages(experiment)]
    for module in (wandb, trackio):
        opened = [options for name, options in module.calls if name == "init"]
        assert [(each["project"], each["name"]) for each in opened] == [("rmtkit", name) for name in names]
        logged = [numbers for name, numbers in module.calls if name == "log"]
        assert sum("eval/exact_match" in numbers for numbers in logged) == 4
        assert [name for name, _ in module.calls].count("finish") == 2
    assert all(options["dir"] == experiment.run.folder for name, options in wandb.calls if name == "init")


def test_tracker_that_is_not_installed_stops_before_training(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    experiment = make_experiment(small, tmp_path, trackers="tensorboard,wandb")
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb, or leave it out") as found:
        train(experiment)
    assert "\n" not in str(found.value) and not (experiment.run.folder / "checkpoints").exists()

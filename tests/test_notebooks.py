"""Every notebook: its format, its parameters, two headless runs with preset smoke, a report of them, and bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill import inspect_notebook

from rmtkit.config import PROJECT, Config
from rmtkit.llm.settings import LLMSettings
from rmtkit.runs import read_json

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
FIELDS = {field for field in Config.__dataclass_fields__}
LLM_FIELDS = {field for field in LLMSettings.__dataclass_fields__}
FOLDERS = {"project": PROJECT, "notebooks": PROJECT / "notebooks", "elsewhere": None}  # to type the command in
MAX_BYTES = 2_000_000  # of an executed notebook
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CI": "1"}


def papermill(notebook: str, folder: Path, *, working_folder="elsewhere", **parameters) -> subprocess.CompletedProcess:
    """Run a notebook as a user would, offline, in a working folder; "elsewhere" is the one of the results."""
    place = FOLDERS[working_folder] or folder
    source = os.path.relpath(PROJECT / "notebooks" / notebook, place)
    arguments = [item for name, value in parameters.items() for item in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", source, str(folder / notebook), *arguments]
    options = ["--execution-timeout", "240", "--no-progress-bar"]
    return subprocess.run(command + options, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def error_of(run: subprocess.CompletedProcess) -> str:
    return run.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which notebook 02 has run with preset smoke."""
    folder = tmp_path_factory.mktemp("notebooks")
    options = {"task": "qa1", "preset": "smoke", "outputs_dir": folder / "outputs"}
    run = papermill("02_train.ipynb", folder, working_folder="project", **options)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.metadata.tags for cell in code[:2]] == [["setup"], ["parameters"]]
    assert code[1].source.startswith("# Parameters")
    assert "What we see" in notebook.cells[-1].source
    assert all(len(cell.source.splitlines()) <= 20 for cell in code)
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_parameters_are_fields_with_help(path):
    parameters = inspect_notebook(str(path))
    assert parameters and set(parameters) <= (LLM_FIELDS if path.stem == "05_llm_evaluation" else FIELDS)
    assert all(parameter["help"] for parameter in parameters.values())


def test_train_notebook_writes_a_whole_run(trained):
    (result_path,) = trained.glob("outputs/runs/*/result.json")
    result = read_json(result_path)
    assert result["scoring_rule"] == "exact_match"
    assert [row["num_segments"] for row in result["tests"]] == result["config"]["test_segments"]
    assert all(row["low"] <= row["accuracy"] <= row["high"] and row["n"] == 16 for row in result["tests"])
    assert (result_path.parent / "model" / "model.safetensors").is_file()
    assert list(result_path.parent.glob("tensorboard/*/events*"))
    assert "learning curves" in (result_path.parent / "summary.html").read_text(encoding="utf-8")


def test_train_notebook_shows_its_course_as_one_text_and_one_image(trained):
    text, image = outputs_of(trained / "02_train.ipynb")["cell-06"]  # and no table of transformers beside them
    assert "stage 2 of 2, 4 segments: step 4/4, loss " in text["text/html"]
    assert 1000 < len(image["image/png"]) < 4 / 3 * 100_000


def outputs_of(path: Path) -> dict[str, list[dict]]:
    """Return what each cell has shown, printed text left out, by the cell's id."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return {cell.id: [output.data for output in cell.outputs if "data" in output] for cell in cells}


def test_train_notebook_run_again_only_shows_the_result(trained):
    (model,) = trained.glob("outputs/runs/*/model/model.safetensors")
    before = model.stat().st_mtime_ns
    run = papermill("02_train.ipynb", trained, task="qa1", preset="smoke", outputs_dir=trained / "outputs")
    assert run.returncode == 0, run.stderr[-3000:]
    assert model.stat().st_mtime_ns == before
    shown = outputs_of(trained / "02_train.ipynb")
    assert shown["cell-06"] == [] and shown["form"] == []
    assert "learning curves" in shown["summary"][0]["text/html"]
    assert "validation split the last stage" in shown["findings"][0]["text/markdown"]


@pytest.mark.parametrize(
    ("name", "working_folders"),
    [
        ("01_explore_data", ("project", "notebooks")),
        ("03_length_generalization", ("notebooks", "elsewhere")),
        ("04_memory_attention", ("elsewhere", "project")),
    ],
)
def test_notebook_runs_headless_twice_from_any_folder(name, working_folders, trained):
    beside = sorted((PROJECT / "notebooks").iterdir())
    for place in working_folders:
        options = {"preset": "smoke", "outputs_dir": trained / "outputs"}
        run = papermill(f"{name}.ipynb", trained, working_folder=place, **options)
        assert run.returncode == 0, run.stderr[-3000:]
        check_executed(trained / f"{name}.ipynb")
    assert sorted((PROJECT / "notebooks").iterdir()) == beside


def check_executed(path):
    """Figures, no widgets, and not too large."""
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < MAX_BYTES


def test_executed_train_notebook_is_small_and_has_figures(trained):
    check_executed(trained / "02_train.ipynb")


def test_backbone_notebook_runs_headless_and_again_only_shows_the_result(tmp_path):
    weights = []
    for place in ("elsewhere", "notebooks"):
        run = papermill("00_backbone.ipynb", tmp_path, working_folder=place, preset="smoke", outputs_dir=tmp_path)
        assert run.returncode == 0, run.stderr[-3000:]
        (model,) = tmp_path.glob("runs/*/backbone/model.safetensors")
        weights.append(model.stat().st_mtime_ns)
    assert weights[0] == weights[1] and (tmp_path / "00_backbone.ipynb").stat().st_size < MAX_BYTES
    assert len(read_json(model.with_name("recipe.json"))["sha256"]["model.safetensors"]) == 64


def test_report_of_a_run_has_its_figures_and_leaves_it_alone(trained, tmp_path):
    (folder,) = trained.glob("outputs/runs/*")
    model, metrics = folder / "model" / "model.safetensors", (folder / "metrics.jsonl").read_text()
    before = model.stat().st_mtime_ns
    options = ["--notebooks", "02_train", "--output", str(tmp_path / "run.html")]
    command = [sys.executable, "-m", "rmtkit", "report", str(folder), *options]
    run = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert json.loads(run.stdout)["num_bytes"] == len(page.encode()) < MAX_BYTES
    assert page.count('src="data:image/png;base64') >= 2 and "exact_match" in page
    assert str(trained) not in page and str(PROJECT) not in page
    assert model.stat().st_mtime_ns == before and (folder / "metrics.jsonl").read_text() == metrics


def test_readme_of_the_notebooks_names_them_all_and_only_what_exists():
    text = (PROJECT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\d\d_\w+\.ipynb)\)", text)) == {path.name for path in NOTEBOOKS}
    assert set(re.findall(r"notebooks/(\w+\.ipynb)", text)) <= {path.name for path in NOTEBOOKS}
    assert set(re.findall(r"-p (\w+)", text)) <= FIELDS | LLM_FIELDS


def test_mistyped_parameter_stops_the_notebook_with_one_line(tmp_path):
    run = papermill("02_train.ipynb", tmp_path, taks="qa1", preset="smoke", outputs_dir=tmp_path)
    assert run.returncode != 0
    assert "unknown parameter 'taks' (did you mean 'task'?); allowed: preset, task" in error_of(run)


@pytest.mark.parametrize(
    "name, message", [("03_length_generalization", "no trained model"), ("04_memory_attention", "no trained model")]
)
def test_notebook_without_trained_model_says_what_to_run(name, message, tmp_path):
    run = papermill(f"{name}.ipynb", tmp_path, preset="smoke", outputs_dir=tmp_path)
    assert run.returncode != 0
    assert message in error_of(run) and "02_train.ipynb" in error_of(run)


def test_llm_notebook_runs_headless_twice_and_asks_nothing_again(tmp_path):
    pytest.importorskip("bm25s")
    lines = []
    for place in ("elsewhere", "notebooks"):
        options = {"preset": "smoke", "outputs_dir": tmp_path / "outputs"}
        run = papermill("05_llm_evaluation.ipynb", tmp_path, working_folder=place, **options)
        assert run.returncode == 0, run.stderr[-3000:]
        check_executed(tmp_path / "05_llm_evaluation.ipynb")
        files = sorted(tmp_path.glob("outputs/llm/*/predictions/*.jsonl"))
        lines.append({path.name: path.read_text(encoding="utf-8") for path in files})
    assert lines[0] and lines[0] == lines[1]
    assert len(list(tmp_path.glob("outputs/llm/*/leaderboard/babilong_evals/*/*/*.csv"))) == 2

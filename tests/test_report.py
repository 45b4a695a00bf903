"""Reports: which notebooks with which parameters, one page that needs nothing else, whole or not at all."""

import json
import re
import shutil
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest

from rmtkit import report
from rmtkit.cli import main
from rmtkit.config import PROJECT, ConfigError, resolve
from rmtkit.experiment import evaluation_folder
from rmtkit.generalization import evaluate_lengths, reading_table
from rmtkit.reference import REFERENCE, resolve_trained, weights_digest
from rmtkit.report import render, write_report
from rmtkit.runs import open_run, run_folder, write_json

BADGE = "[![Open in Colab](https://colab.research.google.com/badge.svg)](https://colab.research.google.com/x)"


def executed(text="# A notebook", **data):
    """A notebook as papermill leaves it: text, a parameters cell, a cell with an output."""
    code = nbformat.v4.new_code_cell("secret = 'code'", id="a")
    shown = nbformat.v4.new_code_cell("show()", id="b")
    shown.outputs = [nbformat.v4.new_output("display_data", data=data or {"text/html": "<b>seen</b>"})]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="c"), code, shown])


@pytest.fixture
def run(tmp_path):
    """A finished run, but for its model."""
    config = resolve({"preset": "smoke", "seed": 7, "memory_learning_rate": 0.02, "outputs_dir": str(tmp_path)})
    run = open_run(config)
    run.finish({})
    return run


@pytest.fixture
def calls(monkeypatch):
    """What is executed, instead of executing it: name -> parameters."""
    found = {}

    def note(name, parameters, folder):
        found[name] = parameters
        return executed(f"# {name}", **{"text/plain": f"it was in {parameters.get('run_dir')}"})

    monkeypatch.setattr(report, "execute", note)
    return found


def refused(capsys, *arguments):
    status = main(["report", *map(str, arguments)])
    error = capsys.readouterr().err.strip()
    assert status == 2 and "\n" not in error
    return error


def test_executed_notebook_is_rendered_beside_it_without_code_and_places(tmp_path):
    notebook = executed(**{"text/plain": f"it was in {tmp_path}/outputs"})
    notebook.metadata["papermill"] = {"parameters": {"outputs_dir": f"{tmp_path}/outputs", "segments": [2, 4]}}
    for cell in notebook.cells[1:]:
        cell.execution_count = 1
    nbformat.write(notebook, tmp_path / "out.ipynb")
    assert write_report(str(tmp_path / "out.ipynb"))["notebooks"] == ["out"]
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "it was in outputs" in page and str(tmp_path) not in page and "secret" not in page


def test_notebook_not_executed_to_its_end_is_refused_with_one_line(tmp_path, capsys):
    nbformat.write(executed(), tmp_path / "out.ipynb")
    assert "was not executed to its end" in refused(capsys, tmp_path / "out.ipynb")
    assert "there is no notebook" in refused(capsys, tmp_path / "other.ipynb")
    assert not (tmp_path / "out.html").exists()


def test_report_of_no_run_is_refused_with_one_line(tmp_path, capsys):
    assert "nothing is no run folder" in refused(capsys, tmp_path / "nothing")
    assert "qa1 is no run folder" in refused(capsys, REFERENCE / "qa1")
    assert "reference models: " in refused(capsys, "reference:qa99")


def test_report_of_an_unfinished_run_is_refused(run, capsys):
    run.result_path.unlink()
    assert "is not finished" in refused(capsys, run.folder)
    assert not (run.folder / "report.html").exists()


def test_report_refuses_what_does_not_exist(run, capsys):
    assert "notebook '05_none' does not exist; allowed: 02_train" in refused(capsys, run.folder, "--notebooks=05_none")
    assert "unknown parameter 'taks'" in refused(capsys, run.folder, "--taks=qa1")


def test_report_opens_the_run_itself_wherever_it_was_moved(run, calls, tmp_path):
    moved = run.folder.rename(tmp_path / "moved")
    write_report(str(moved))
    found = resolve(calls["02_train"])
    assert run_folder(found) == moved
    assert open_run(found).is_finished  # refuses another configuration
    assert list(calls) == ["02_train"] and (moved / "report.html").is_file()


def test_report_keeps_a_field_that_the_run_had_set_to_none(tmp_path, calls):
    settings = {"preset": "long", "memory_learning_rate": "none", "outputs_dir": str(tmp_path)}
    run = open_run(resolve(settings))
    run.finish({})
    write_report(str(run.folder))
    assert resolve(calls["02_train"]).memory_learning_rate is None


def test_report_has_the_notebooks_that_were_run(run, calls):
    (run.folder / "accuracy_by_depth.csv").touch()
    (run.folder / "analysis").mkdir()
    (run.folder / "model").mkdir()
    assert write_report(str(run.folder))["notebooks"] == list(report.WRITES) == list(calls)
    assert resolve_trained(calls["04_memory_attention"]) == resolve(calls["02_train"])


@pytest.mark.parametrize(
    ("first", "num_samples", "expected"),
    [("0k", 500, {}), ("0k", 10, {"num_samples": 10}), ("2k", 500, {"min_length": "2k"})],
)
def test_report_asks_for_the_lengths_that_were_evaluated(run, calls, first, num_samples, expected):
    for folder in ("test", "model"):
        (run.folder / folder).mkdir()
    (run.folder / "model" / "model.safetensors").write_bytes(b"weights")
    weights = weights_digest(run.folder / "model")
    for length, of in ((first, weights), ("4k", weights), ("64k", "another"), (None, weights)):
        about = {"length": length, "num_samples": num_samples, "weights": of}
        write_json(run.folder / "test" / f"{length}.json", about)
    write_report(str(run.folder), notebooks=["02_train", "03_length_generalization"])
    asked = {k: v for k, v in calls["03_length_generalization"].items() if calls["02_train"][k] != v}
    assert asked == {"max_length": "4k", **expected}


def test_report_is_written_whole_or_not_at_all(run, monkeypatch):
    def stop(name, parameters, folder):
        raise ConfigError("stopped")

    monkeypatch.setattr(report, "execute", stop)
    (run.folder / "report.html").write_text("before")
    with pytest.raises(ConfigError, match="stopped"):
        write_report(str(run.folder))
    assert (run.folder / "report.html").read_text() == "before"
    assert not list(run.folder.glob(".report*"))


def test_report_names_no_place_of_this_machine(run, calls):
    output = write_report(str(run.folder))["output"]
    page = open(output, encoding="utf-8").read()
    assert f"it was in {run.folder.name}" in page
    assert str(run.folder.parent) not in page and str(PROJECT) not in page


# ---------------------------------------------------------------------- a reference model


def test_report_of_a_reference_model_has_no_training(calls, capsys):
    assert "is a model without its run" in refused(capsys, "reference:qa1", "--notebooks=02_train")
    assert "are on real bAbI; give babi_path" in refused(capsys, "reference:qa1")
    assert not calls


def test_report_of_a_reference_model_finds_the_committed_predictions(tmp_path, monkeypatch, make_builder, tokenizer):
    found = {}

    def evaluate(name, parameters, folder):
        config = resolve_trained(parameters)
        found["records"] = evaluate_lengths(config, None, tokenizer, make_builder(), evaluation_folder(config))
        found["reading"] = reading_table(config, evaluation_folder(config)).set_index("length")
        return executed()

    monkeypatch.setattr(report, "execute", evaluate)
    monkeypatch.setattr("rmtkit.generalization.NUM_PROBLEMS", 20)
    names, output = ["03_length_generalization"], tmp_path / "page.html"
    write_report("reference:qa2", output, notebooks=names, overrides={"babi_path": "somewhere"})
    results = pd.read_csv(REFERENCE / "results.csv", keep_default_na=False)
    expected = results[results["run"].str.endswith("/qa2")].set_index("length")["correct"].to_dict()
    assert found["records"].groupby("length")["is_correct"].sum().to_dict() == expected
    assert found["records"].groupby("length")["num_segments"].max()["8k"] == -(-8192 // 48)
    assert found["reading"].loc["10M", ["num_read", "dtype", "is_compiled"]].tolist() == [200_000_320, "bfloat16", True]


def test_report_of_a_reference_model_begins_with_its_shortest_length(tmp_path, monkeypatch, calls):
    source = tmp_path / "qa5"
    shutil.copytree(REFERENCE / "qa5", source)
    (source / "evaluation" / "0k.csv").unlink()
    monkeypatch.setattr(report, "resolve_reference", lambda _: source)
    names, overrides = ["03_length_generalization"], {"babi_path": "somewhere", "max_length": "4k"}
    write_report("reference:qa5", tmp_path / "page.html", notebooks=names, overrides=overrides)
    asked = calls["03_length_generalization"]
    assert (asked["min_length"], asked["max_length"]) == ("1k", "4k")


# ---------------------------------------------------------------------- the page


class Loads(HTMLParser):
    """The addresses that a browser would load by itself."""

    def __init__(self, page):
        super().__init__()
        self.found, self.in_script = [], False
        self.feed(page)
        self.found += re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found += [] if tag != "script" else [attributes.get("src") or "inline script"]
        address = attributes.get("href") if tag == "link" else attributes.get("src")
        self.found += [address] if address and not address.startswith("data:") else []


def test_page_loads_nothing_from_anywhere():
    page = render([executed(f"# Title\n\n{BADGE}\n\nText\n\n![far](https://example.org/far.png)")], title="a run")
    assert Loads(page).found == []
    assert "Text" in page and len(page) < 600_000


def test_page_has_text_and_outputs_and_no_code():
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    page = render([executed("# One"), executed("# Two", **{"image/png": png})], title="<a run>")
    assert "One" in page and "Two" in page and "<b>seen</b>" in page and f"data:image/png;base64,{png}" in page
    assert "secret" not in page and "show()" not in page
    assert "<title>&lt;a run&gt;</title>" in page


def test_report_prints_what_it_has_written(run, calls, tmp_path, capsys):
    assert main(["report", str(run.folder), "--output", str(tmp_path / "new" / "page.html")]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["num_bytes"] == (tmp_path / "new" / "page.html").stat().st_size

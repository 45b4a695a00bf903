"""The page of a finished run: its tables, its examples, its sentences, and the command that trains on."""

import html
import json
import re
import shlex
import types

import pandas as pd
import pytest

from rmtkit import cli, continuation, summary
from rmtkit.config import PROJECT, resolve
from rmtkit.experiment import prepare
from rmtkit.generalization import evaluate_lengths, length_table
from rmtkit.launch import train_and_test
from rmtkit.runs import Run, read_json
from rmtkit.training import train


@pytest.fixture(scope="module")
def finished(library, tmp_path_factory):
    """The result of a run of preset smoke in a terminal, its experiment and its records."""
    given = {"preset": "smoke", "background": "local", "background_path": str(library), "precision": "float32"}
    folder = tmp_path_factory.mktemp("run")
    config = resolve({**given, "data_dir": str(folder), "outputs_dir": str(folder), "validation_samples": 4})
    result = train_and_test(config)
    experiment = prepare(config)
    records = evaluate_lengths(
        config, train(experiment), experiment.tokenizer, experiment.builder, experiment.run.folder
    )
    return types.SimpleNamespace(result=result, experiment=experiment, records=records, run=experiment.run)


# ---------------------------------------------------------------------- page


def test_train_and_test_writes_the_page(finished):
    page = (finished.run.folder / "summary.html").read_text()
    assert finished.result["summary"] == str(finished.run.folder / "summary.html")
    assert (
        page.count("<img ") == 1 and "data:image/png;base64," in page and "http" not in re.sub('base64,[^"]*', "", page)
    )
    assert len(page) < 300_000 and not list(finished.run.folder.glob("*.partial"))


def test_page_is_made_of_files_alone(finished, monkeypatch):
    monkeypatch.setattr("rmtkit.evaluation.answer", lambda *a, **k: pytest.fail("answered again"))
    monkeypatch.setattr("rmtkit.training.run_stage", lambda *a, **k: pytest.fail("trained again"))
    page = summary.summarize(finished.experiment, finished.records, num_examples=1)
    stored = (finished.run.folder / "summary.html").read_text()
    assert page.split("<h4>Right")[0] in stored


def test_stage_table_says_what_each_stage_took_and_reached(finished):
    table = summary.stage_table(finished.run)
    stages, metrics = finished.result["stages"], pd.DataFrame(finished.run.metrics())
    assert table["segments"].tolist() == [2, 4] and table["updates"].tolist() == [stage["steps"] for stage in stages]
    best = metrics[(metrics["stage"] == 1) & (metrics["step"] == stages[1]["best_step"])].iloc[0]
    assert table["exact match, %"].iloc[1].startswith(f"{100 * best['exact_match']:.1f} [{100 * best['low']:.1f}, ")
    tokens = sum(row["num_tokens"] for row in finished.run.training_log() if row["stage"] == 1)
    assert table["tokens read"].iloc[1] == f"{tokens:,}"


def test_stage_table_of_an_old_run_has_no_tokens(finished, tmp_path):
    for name in ("metrics.jsonl", "result.json"):
        (tmp_path / name).write_bytes((finished.run.folder / name).read_bytes())
    table = summary.stage_table(Run(tmp_path, finished.run.config))
    assert "tokens/s" not in table and table["exact match, %"].notna().all()


def test_shown_tests_are_those_of_the_result(finished):
    table, tests = summary.shown_tests(finished.records), finished.result["tests"]
    assert table["segments"].tolist() == [row["num_segments"] for row in tests]
    expected = [f"{100 * r['accuracy']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]" for r in tests]
    assert table["accuracy, %"].tolist() == expected and set(table["rule"]) == {"exact_match"}


# ---------------------------------------------------------------------- examples


def test_choose_examples_takes_the_longest_right_and_the_shortest_wrong_ones():
    rows = [(0, 48, True), (1, 48, False), (0, 240, True), (1, 240, False), (2, 240, True)]
    records = pd.DataFrame(rows, columns=["index", "num_tokens", "is_correct"])
    right, wrong = (summary.choose_examples(records, kind, 2) for kind in (True, False))
    assert right[["index", "num_tokens"]].to_numpy().tolist() == [[0, 240], [2, 240]]
    assert wrong[["index", "num_tokens"]].to_numpy().tolist() == [[1, 48], [1, 240]]


def test_examples_are_the_samples_that_were_asked(finished):
    records = finished.records.rename(columns={"index": "index_of_sample"})
    for record in records.groupby("num_segments").tail(2).itertuples():
        sample = summary.rebuild_sample(finished.experiment, record)
        assert (len(sample.prompt), sample.question.answer) == (record.num_tokens, record.target)
        assert min(sample.supporting_depths) == pytest.approx(record.fact_depth)


def test_example_of_a_length_by_name_is_rebuilt_too(finished):
    config = resolve({**vars(finished.experiment.config), "max_length": "1k", "num_samples": 2})
    experiment = types.SimpleNamespace(config=config, builder=finished.experiment.builder)
    sizes = []
    for length in ("0k", "1k"):
        record = types.SimpleNamespace(length=length, num_segments=2, index_of_sample=0)
        sizes.append(len(summary.rebuild_sample(experiment, record).prompt))
    assert sizes[0] < 100 and sizes[1] == 1008


def test_page_shows_predictions_right_and_wrong_with_their_facts(finished):
    records = finished.records.assign(
        prediction="<i>attic", is_correct=[i % 2 == 0 for i in range(len(finished.records))]
    )
    page = summary.summarize(finished.experiment, records)
    right, wrong = page.split("<h4>Right answers")[1].split("<h4>Wrong answers")
    wrong = wrong.split("<h4>To train on")[0]
    assert right.count("&lt;i&gt;attic") == wrong.count("&lt;i&gt;attic") == 2
    assert right.count("(right)") == wrong.count("(wrong)") == 2 and f"({len(records) // 2:,} of" in right
    assert all(part.count('title="supporting fact at token') >= 2 for part in (right, wrong))


# ---------------------------------------------------------------------- sentences


def test_findings_are_the_numbers_of_the_run(finished):
    text = summary.findings(finished.experiment, finished.records)
    table = length_table(finished.records)
    for row in table.itertuples():
        if row.num_segments in (4, 8):
            score = f"{100 * row.accuracy:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}] % of n={row.n} answers"
            assert score in text
    assert "at 4 segments (trained: up to 4)" in text and "At 8 segments, 2 times the longest trained" in text
    assert f"{sum(row['num_tokens'] for row in finished.run.training_log()):,} tokens" in text
    above = int(re.search(r"above both at (\d+) of 3", text)[1])
    floor = max(int(share) for share in re.findall(r"(\d+) % \(", text.split("without reading")[1])) / 100
    assert above == int((table["low"] > floor).sum())


# ---------------------------------------------------------------------- training on


def given_by(command: str) -> dict[str, str]:
    """Return the parameters that a command gives."""
    words = shlex.split(command)
    if words[0] == "papermill":
        return dict(zip(words[4::3], words[5::3], strict=True))
    return cli._overrides(words[4:])


def test_both_commands_give_the_run_that_goes_on(finished):
    parameters = continuation.continued(finished.experiment.config, finished.run)
    commands = continuation.notebook_command(parameters), continuation.terminal_command(parameters)
    configs = [resolve(given_by(command)) for command in commands]
    changes = {"segments": (8,), "steps": (4,), "seed": 1, "backbone": str(finished.run.model_path)}
    expected = resolve({**vars(finished.experiment.config), **changes})
    assert configs == [expected, expected]
    assert all(html.escape(command) in (finished.run.folder / "summary.html").read_text() for command in commands[1:])
    assert (PROJECT / shlex.split(commands[0])[1]).is_file()


@pytest.mark.parametrize(
    "given",
    [{}, {"preset": "long"}, {"task": "qa3,qa1", "memory_learning_rate": "none", "steps": "5,6,7"}, {"preset": "paper"},
     {"run_dir": "elsewhere", "balance_answers": True, "learning_rate": 1e-4, "spread_embeddings": True}],
)  # fmt: skip
def test_commands_keep_what_the_run_was_given(given, tmp_path):
    config = resolve(given)
    command = continuation.terminal_command(continuation.continued(config, Run(tmp_path / "a b", config)))
    changes = {"segments": (2 * config.segments[-1],), "steps": (config.steps[-1],), "seed": 1, "run_dir": None}
    changes |= {"backbone": str(tmp_path / "a b" / "model"), "spread_embeddings": False}
    changes |= {"stage_rates": config.stage_rates[-1:]}
    assert vars(resolve(given_by(command))) == {**vars(config), **changes}


def test_command_trains_on_from_the_model(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = continuation.terminal_command(continuation.continued(finished.experiment.config, finished.run))
    assert shlex.split(command)[:4] == ["python", "-m", "rmtkit", "train"]
    assert cli.main([*shlex.split(command)[3:], "--validation_samples=2", "--test_samples=2"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["stages"][0]["num_segments"] == 8 and result["run"] != str(finished.run.folder)
    assert read_json(finished.run.result_path)["config"]["segments"] == [2, 4]

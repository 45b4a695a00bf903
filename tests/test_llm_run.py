"""Whole evaluations of language models: the folder, going on, what is refused, the command."""

import dataclasses
import json
import socket

import pytest
from llm_fakes import EchoModel, make_cases

from rmtkit.cli import main
from rmtkit.llm import opening
from rmtkit.llm.predictions import FOLDER, read_predictions
from rmtkit.llm.run import run_llm
from rmtkit.llm.settings import LLMSettings, resolve_llm
from rmtkit.parameters import ConfigError, as_text
from rmtkit.reference import REFERENCE, weights_digest
from rmtkit.runs import read_json

# ---------------------------------------------------------------------- a whole evaluation


def write_cases(path, cases):
    rows = [
        {"task": case.task, "length": case.length, "context": case.context, "question": case.question,
         "target": case.target, "supporting": [list(span) for span in case.supporting]}
        for case in cases
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def own_cases(tmp_path):
    """A file of questions of the user's: four of qa1 at 0k, two of qa2 at 1k."""
    return write_cases(tmp_path / "mine.jsonl", [*make_cases(4), *make_cases(2, task="qa2", length="1k")])


@pytest.fixture
def echo(monkeypatch):
    """The model that every name stands for."""
    model = EchoModel()
    monkeypatch.setattr(opening, "open_model", lambda settings: model)
    return model


def own_settings(own_cases, **parameters):
    own = {"preset": "smoke", "source": str(own_cases), "compare": "none", "outputs_dir": str(own_cases.parent)}
    return resolve_llm({**own, "trivial": "none", "retrieval": "none", **parameters})


def test_run_llm_asks_what_the_file_holds_and_writes_the_folder(own_cases, echo):
    folder = run_llm(own_settings(own_cases))
    found = read_predictions(folder)
    assert len(found) == 6 == len(echo.sent) and found["is_correct"].all()
    assert {"config.json", "environment.json", "accuracy.csv", "result.json", FOLDER} == {
        p.name for p in folder.iterdir()
    }
    result = read_json(folder / "result.json")
    assert (result["model"], result["num_predictions"], result["failures"]) == ("echo", 6, {})


def test_run_llm_again_asks_nothing_and_more_samples_only_those(own_cases, echo):
    folder = run_llm(own_settings(own_cases, num_samples=2))
    assert len(echo.sent) == 4
    assert run_llm(own_settings(own_cases, num_samples=2)) == folder and len(echo.sent) == 4
    assert run_llm(own_settings(own_cases, num_samples=4)) == folder and len(echo.sent) == 6


def test_run_llm_asks_the_model_after_retrieval_and_baselines_the_same(own_cases, echo):
    pytest.importorskip("bm25s")
    folder = run_llm(own_settings(own_cases, retrieval="sentence", top=1, trivial="most_frequent,last_named"))
    counts = read_predictions(folder).groupby("model")["is_correct"].size().to_dict()
    assert counts == {"echo": 6, "echo + 1 sentence (bm25)": 6, "most_frequent": 6, "last_named": 6}


def test_run_llm_retries_what_failed_for_good_when_told(own_cases, echo):
    echo.failures = {0: "client_error"}
    folder = run_llm(own_settings(own_cases))
    assert read_json(folder / "result.json")["failures"] == {"client_error": 2}
    echo.failures = {}
    run_llm(own_settings(own_cases))
    assert len(echo.sent) == 6
    run_llm(own_settings(own_cases, retry_failed=True))
    assert len(echo.sent) == 8 and read_json(folder / "result.json")["failures"] == {}


def test_run_llm_refuses_a_folder_of_other_settings(own_cases, echo, tmp_path):
    run_llm(own_settings(own_cases, run_dir=str(tmp_path / "run")))
    with pytest.raises(
        ConfigError, match="holds an evaluation with other settings .max_answer_tokens: 20 there, 9 asked"
    ):
        run_llm(own_settings(own_cases, run_dir=str(tmp_path / "run"), max_answer_tokens=9))


def test_run_llm_does_not_take_answers_of_other_weights_for_those_of_a_model(own_cases, echo, monkeypatch):
    folder = run_llm(own_settings(own_cases, compare="qa1"))
    (record,) = (folder / FOLDER).glob("reference-qa1*.json")
    assert read_json(record)["what"]["weights"] == weights_digest(REFERENCE / "qa1")[:16]
    run_llm(own_settings(own_cases, compare="qa1"))
    monkeypatch.setattr("rmtkit.reference.weights_digest", lambda *_: "of another training")
    with pytest.raises(ConfigError, match="has answers of other weights of reference:qa1; give another run_dir"):
        run_llm(own_settings(own_cases, compare="qa1", num_samples=4))


def test_run_llm_refuses_lengths_beyond_the_window(echo, tmp_path):
    echo.window = 1024
    asked = {"preset": "smoke", "compare": "none", "retrieval": "none", "outputs_dir": str(tmp_path)}
    with pytest.raises(
        ConfigError, match="lengths 2k are beyond the window of reference:backbone, 1,024.*give lengths 1k"
    ):
        run_llm(resolve_llm({**asked, "lengths": "1k,2k"}))
    assert echo.sent == []


def test_run_llm_names_a_package_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    asked = {"outputs_dir": str(tmp_path), "base_url": "http://localhost:1/v1", "retrieval": "none"}
    with pytest.raises(ConfigError, match="these settings need openai: pip install 'rmtkit.llm.'"):
        run_llm(resolve_llm(asked))
    assert list(tmp_path.iterdir()) == []


def test_run_llm_names_a_server_that_does_not_answer(own_cases, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2-hunter2")
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ConfigError, match=f"no answer from the server at {address}"):
            run_llm(own_settings(own_cases, base_url=address, model="some"))
    assert not [path for path in own_cases.parent.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_run_llm_refuses_a_recurrent_model_of_another_task(own_cases, echo):
    with pytest.raises(ConfigError, match="reference:qa5 was trained on qa5"):
        run_llm(own_settings(own_cases, compare="qa5"))
    with pytest.raises(ConfigError, match="'reference:qa77'"):
        run_llm(own_settings(own_cases, compare="reference:qa77"))


def test_run_llm_in_the_preset_smoke_is_whole_and_goes_on(tmp_path, library):
    pytest.importorskip("bm25s")
    given = {"preset": "smoke", "num_samples": 2, "background": str(library), "data_dir": str(tmp_path)}
    folder = run_llm(resolve_llm({**given, "outputs_dir": str(tmp_path)}))
    found = read_predictions(folder)
    models = ["most_frequent", "reference:backbone", "reference:backbone + 5 sentences (bm25)", "reference:qa1-tiny"]
    assert sorted(set(found["model"])) == models
    assert (found.groupby(["model", "length"]).size() == 2).all() and set(found["length"]) == {"0k", "1k"}
    plain = found[found["model"] == "reference:backbone"]
    assert plain["failure"].isna().all() or set(plain["failure"].dropna()) == {"empty"}
    assert plain.loc[plain["length"] == "1k", "num_prompt_tokens"].between(900, 1024 - 20).all()


# ---------------------------------------------------------------------- the command


def run_command(capsys, *arguments):
    status = main([str(argument) for argument in ("llm", *arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("part", ["run", "export"])
def test_help_of_the_command_lists_every_field(part, capsys):
    with pytest.raises(SystemExit):
        main(["llm", part, "--help"])
    out = capsys.readouterr().out
    assert all(f"  --{field.name}=" in out for field in dataclasses.fields(LLMSettings))
    assert "of an OpenAI-compatible server" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--tsak=qa1"), "unknown parameter 'tsak' (did you mean 'task'?)"),
        (("run", "qa1"), "unexpected argument 'qa1'"),
        (("table", "nowhere"), "holds no predictions"),
        (("table", "nowhere", "--task=qa1"), "unknown option --task"),
        (("submit", "nowhere", "--output=x", "--model=a/b"), "holds no predictions"),
    ],
)
def test_command_refuses_with_one_line_and_status_2(arguments, message, capsys):
    status, out, err = run_command(capsys, *arguments)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_command_runs_tables_and_submits(own_cases, echo, capsys, tmp_path):
    echo.answers, echo.failures = {1: "moon"}, {3: "too_long"}
    given = dataclasses.asdict(own_settings(own_cases))
    options = [f"--{name}={as_text(value)}" for name, value in given.items() if value is not None]
    status, out, _ = run_command(capsys, "run", *options)
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and result["num_predictions"] == 6 and result["failures"] == {"too_long": 1}

    status, out, _ = run_command(capsys, "table", result["folder"])
    assert status == 0 and json.loads(out.splitlines()[-1])["models"] == ["echo"]
    assert "echo, % right by babilong_labels" in out and "50.0 [15.0, 85.0] n=4 failed=1" in out

    submitted = tmp_path / "pull"
    status, out, _ = run_command(capsys, "submit", result["folder"], f"--output={submitted}", "--model=me/echo",
                                 "--allow_partial")  # fmt: skip
    assert status == 0 and json.loads(out)["n"] == 6
    names = sorted(path.name for path in (submitted / "babilong_evals" / "me" / "echo").glob("*.csv"))
    ending = "instruction_no_examples_no_post_prompt_no_chat_template_yes.csv"
    assert names == [f"qa1_0k_{ending}", f"qa2_1k_{ending}"]


def test_command_submit_names_the_models_that_there_are(own_cases, echo, capsys):
    folder = run_llm(own_settings(own_cases))
    status, _, err = run_command(capsys, "submit", folder, "--output=x", "--model=me/echo", "--of=other")
    assert status == 2 and "no predictions of 'other'; there are those of: echo" in err


def test_command_exports_tasks_for_lm_eval(own_cases, capsys, tmp_path):
    options = ["--preset=smoke", f"--source={own_cases}", f"--output={tmp_path / 'tasks'}"]
    status, out, _ = run_command(capsys, "export", *options)
    assert status == 0 and json.loads(out)["num_cases"] == 6
    assert json.loads(out)["tasks"] == ["rmtkit_babilong_qa1_0k", "rmtkit_babilong_qa2_1k"]
    assert (tmp_path / "tasks" / "data" / "qa1_0k.jsonl").is_file()


def test_open_candidates_cuts_chunks_in_tokens_of_the_model():
    settings = resolve_llm({"preset": "smoke", "retrieval": "chunk", "compare": "none"})
    first, second, *_ = opening.open_candidates(settings, opening.open_cells(settings))
    assert second.retriever.unit == "chunk" and second.retriever.tokenizer is first.model.tokenizer

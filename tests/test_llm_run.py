"""Evaluations of language models: settings, predictions on disk, going on after a kill or a full disk, the command."""

import dataclasses
import errno
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_fakes import EchoModel, HalfRetriever, make_case, make_cases

from rmtkit.cli import main
from rmtkit.llm import opening
from rmtkit.llm.asking import AnswerProgress, evaluate_model
from rmtkit.llm.cases import FAILURES, Answer
from rmtkit.llm.predictions import (
    COLUMNS,
    FOLDER,
    TRANSIENT,
    PredictionFile,
    WriteError,
    forget_failures,
    read_predictions,
)
from rmtkit.llm.prompts import PromptStyle
from rmtkit.llm.run import run_llm
from rmtkit.llm.settings import PRESETS, LLMSettings, public_url, resolve_llm
from rmtkit.parameters import ConfigError, as_text
from rmtkit.progress import Display
from rmtkit.runs import read_json

PLAIN = PromptStyle(prompts="plain", chat_template=False)


def ask(model, cases, folder, *, style=PLAIN, rule="exact_match", **options):
    return evaluate_model(model, cases, style, folder=folder, rule=rule, **options)


def only_file(folder):
    (path,) = (Path(folder) / FOLDER).glob("*.jsonl")
    return path


# ---------------------------------------------------------------------- settings


def test_resolve_llm_understands_text_as_papermill_and_shells_give_it():
    given = {"task": "qa2,qa3", "num_samples": "7", "examples": "false", "timeout": "1e1", "base_url": "none"}
    found = resolve_llm({**given, "chat_template": "true", "system_prompt": None})
    assert (found.tasks, found.num_samples, found.examples, found.timeout) == (("qa2", "qa3"), 7, False, 10.0)
    assert found.base_url is None and found.chat_template is True


@pytest.mark.parametrize("preset", PRESETS)
def test_resolve_llm_of_a_presets_own_fields_as_text_gives_the_preset(preset):
    fields = {field.name: as_text(getattr(PRESETS[preset], field.name)) for field in dataclasses.fields(LLMSettings)}
    assert resolve_llm(fields) == PRESETS[preset] == resolve_llm({"preset": preset})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tsak": "qa1"}, "unknown parameter 'tsak' (did you mean 'task'?)"),
        ({"preset": "paper"}, "preset is 'paper'; allowed: smoke, tiny"),
        ({"task": "qa21"}, "task is 'qa21'; allowed: qa1"),
        ({"task": "qa1,qa1"}, "task is 'qa1,qa1'"),
        ({"lengths": "3k"}, "lengths is '3k'; allowed: 0k, 1k, 2k"),
        ({"lengths": ""}, "lengths is ''"),
        ({"num_samples": 0}, "num_samples is 0; expected at least 1"),
        ({"num_samples": 1.5}, "num_samples is 1.5; expected a whole number"),
        ({"seed": 2**32}, "seed is 4294967296; expected at most"),
        ({"scoring": "vibes"}, "scoring is 'vibes'; allowed: "),
        ({"prompts": "poem"}, "prompts is 'poem'; allowed: rmtkit, lm_eval, plain"),
        ({"prompts": "plain", "examples": True}, "prompts plain are context and question alone"),
        ({"retrieval": "page"}, "retrieval is 'page'; allowed: none, sentence, chunk"),
        ({"trivial": "oracle"}, "trivial is 'oracle'; allowed: most_frequent, last_named"),
        ({"source": "babylong"}, "source is 'babylong'; allowed: generated, babilong"),
        ({"source": "mine.jsonl"}, "there is no such file"),
        ({"source": "babilong", "babi_path": "hub"}, "babi_path is for source generated"),
        ({"background": "tales"}, "background is 'tales'; allowed: wiki"),
        ({"background": "none"}, "background none has facts alone"),
        ({"base_url": "localhost:8000"}, "base_url is "),
        ({"window": 4096}, "window is of a model at a server"),
    ],
)  # fmt: skip
def test_resolve_llm_refuses_with_one_line(parameters, message):
    with pytest.raises(ConfigError) as caught:
        resolve_llm(parameters)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_parts_of_the_prompt_follow_the_wording_unless_given():
    plain = resolve_llm({"prompts": "plain"})
    assert not (plain.instruction or plain.examples or plain.post_prompt)
    small, other = resolve_llm({}), resolve_llm({"model": "gpt2"})
    assert (small.examples, small.chat_template) == (False, False)
    assert (other.examples, other.chat_template) == (True, None)
    assert resolve_llm({"examples": True}).examples and resolve_llm({"prompts": "lm_eval"}).examples
    worded = resolve_llm({"preset": "smoke", "prompts": "rmtkit", "examples": False})
    assert worded.instruction and worded.post_prompt and not worded.examples


def test_settings_show_nothing_secret_of_an_address():
    address = "https://me:hunter2@host.example:81/v1?api_key=hunter2#hunter2"
    found = dataclasses.replace(PRESETS["tiny"], base_url=address)
    assert "hunter2" not in repr(found) + json.dumps(found.record())
    assert public_url(address) == "https://host.example:81/v1" and "base_url='https://host.example:81/v1'" in repr(
        found
    )
    with pytest.raises(ConfigError) as caught:
        resolve_llm({"base_url": address})
    assert "hunter2" not in str(caught.value) and "api_key_variable" in str(caught.value)


# ---------------------------------------------------------------------- predictions


def test_evaluate_model_scores_and_keeps_failures_apart(tmp_path):
    model = EchoModel(answers={1: "moon"}, failures={2: "refused"})
    found = ask(model, make_cases(4), tmp_path)
    assert list(found.columns) == list(COLUMNS)
    assert found["index"].tolist() == [0, 1, 2, 3]
    assert found["is_correct"].tolist() == [True, False, False, True]
    assert found["failure"].fillna("").tolist() == ["", "", "refused", ""]
    assert found["output"].tolist() == ["garden", "moon", "", "garden"] and set(found["rule"]) == {"exact_match"}
    assert found.drop(columns="recall").equals(read_predictions(tmp_path).drop(columns="recall"))


def test_what_is_answered_is_not_sent_again(tmp_path):
    ask(EchoModel(), make_cases(3), tmp_path)
    model = EchoModel()
    found = ask(model, make_cases(5), tmp_path)
    assert sorted(model.sent) == sorted(f"{case.context}\n{case.question}" for case in make_cases(5)[3:])
    assert len(found) == 5 and found["is_correct"].all()


def test_fewer_cases_return_their_rows_and_lose_none(tmp_path):
    ask(EchoModel(), make_cases(5), tmp_path)
    assert len(ask(EchoModel(), make_cases(2), tmp_path)) == 2 and len(read_predictions(tmp_path)) == 5


@pytest.mark.parametrize("failure", FAILURES)
def test_only_failures_that_may_pass_are_asked_again(failure, tmp_path):
    ask(EchoModel(failures={0: failure}), make_cases(2), tmp_path)
    model = EchoModel()
    found = ask(model, make_cases(2), tmp_path)
    assert len(model.sent) == (failure in TRANSIENT)
    assert found["failure"].isna().tolist() == [failure in TRANSIENT, True]
    assert len(read_predictions(tmp_path)) == 2


def test_forget_failures_lets_them_be_asked_again(tmp_path):
    ask(EchoModel(failures={1: "client_error", 2: "too_long"}), make_cases(4), tmp_path)
    assert forget_failures(tmp_path) == 2
    model = EchoModel()
    assert ask(model, make_cases(4), tmp_path)["is_correct"].all() and len(model.sent) == 2


def test_a_failure_is_right_by_no_rule(tmp_path):
    case = dataclasses.replace(make_case(0), target="")
    assert not ask(EchoModel(failures={0: "empty"}), [case], tmp_path, rule="substring")["is_correct"].any()


def test_tasks_and_lengths_have_files_of_their_own(tmp_path):
    cases = [*make_cases(2), *make_cases(2, task="qa2"), *make_cases(1, length="1k")]
    found = ask(EchoModel(), cases, tmp_path)
    assert len(list((tmp_path / FOLDER).glob("*.jsonl"))) == 3
    cells = {(name, len(rows)) for name, rows in read_predictions(tmp_path).groupby(["task", "length"])}
    assert cells == {(("qa1", "0k"), 2), (("qa2", "0k"), 2), (("qa1", "1k"), 1)} and len(found) == 5


@pytest.mark.parametrize(
    "change",
    [{"about": {"seed": 1}}, {"style": PromptStyle(prompts="plain", chat_template=False, system_prompt="Be brief.")}],
)
def test_another_setting_asks_anew_in_another_file_and_is_not_mixed(change, tmp_path):
    ask(EchoModel(), make_cases(2), tmp_path, about={"seed": 0})
    model = EchoModel()
    ask(model, make_cases(2), tmp_path, **{"about": {"seed": 0}, **change})
    assert len(model.sent) == 2 and len(list((tmp_path / FOLDER).glob("*.jsonl"))) == 2
    with pytest.raises(ConfigError, match="another (seed|prompts)"):
        read_predictions(tmp_path)


def test_another_rule_scores_anew_what_is_there(tmp_path):
    said = {0: "It is the garden.", 1: "office"}
    assert ask(EchoModel(answers=said), make_cases(2), tmp_path)["is_correct"].tolist() == [False, True]
    model = EchoModel()
    found = ask(model, make_cases(2), tmp_path, rule="substring")
    assert model.sent == [] and found["is_correct"].tolist() == [True, True] and set(found["rule"]) == {"substring"}
    assert read_predictions(tmp_path)["is_correct"].all() and set(read_predictions(tmp_path)["rule"]) == {"substring"}
    assert read_json(only_file(tmp_path).with_suffix(".json"))["num_correct"] == 2


def test_equal_prompts_are_sent_once(tmp_path):
    cases = [make_case(index, context="Mary is away.") for index in (0, 3, 6)]
    model = EchoModel()
    assert len(ask(model, cases[:2], tmp_path)) == 2 and len(model.sent) == 1
    found = ask(model, cases, tmp_path)
    assert len(model.sent) == 1 and found["index"].tolist() == [0, 3, 6] and found["is_correct"].all()


def test_a_case_that_has_changed_is_asked_and_replaces_the_old(tmp_path):
    ask(EchoModel(answers={0: "moon"}), make_cases(2), tmp_path)
    changed = [make_case(0, context="Mary moved."), make_case(1)]
    model = EchoModel()
    ask(model, changed, tmp_path)
    assert len(model.sent) == 1
    assert read_predictions(tmp_path)["output"].tolist() == ["garden", "office"]


def test_retrieval_shortens_the_prompt_and_its_recall_is_kept(tmp_path):
    model = EchoModel()
    ask(model, make_cases(2), tmp_path)
    found = ask(model, make_cases(2), tmp_path, retriever=HalfRetriever())
    assert len(model.sent[-1]) < len(model.sent[0]) and found["recall"].tolist() == [0.0, 0.0]
    rows = read_predictions(tmp_path)
    assert set(rows["model"]) == {"echo", "echo + 5 sentences (bm25)"}
    assert rows[rows["model"] == "echo"]["recall"].isna().all()


def test_the_record_says_what_predictions_are_of(tmp_path):
    ask(EchoModel(failures={0: "refused"}), make_cases(4), tmp_path, about={"seed": 3, "base_url": "http://host/v1"})
    record = read_json(only_file(tmp_path).with_suffix(".json"))
    expected = {"model": "echo", "task": "qa1", "length": "0k", "rule": "exact_match", "n": 4, "num_failed": 1}
    assert {name: record[name] for name in expected} == expected and record["num_correct"] == 3
    assert record["low"] < 0.75 < record["high"] and record["what"]["seed"] == 3
    assert record["prompt"]["text"] == "{context}\n{question}" and "torch" in record["versions"]["packages"]


def test_a_task_that_cannot_be_scored_is_refused_before_anything_is_sent(tmp_path):
    model = EchoModel()
    with pytest.raises(ValueError, match="qa99"):
        ask(model, make_cases(1, task="qa99"), tmp_path, rule="babilong_labels")
    assert model.sent == []


def test_a_model_that_leaves_prompts_out_is_an_error(tmp_path):
    model = EchoModel()
    model.answer = lambda prompts: iter([(0, Answer("garden"))])
    with pytest.raises(RuntimeError, match="left 1 of 2 prompts"):
        ask(model, make_cases(2), tmp_path)


# ---------------------------------------------------------------------- what goes wrong on disk


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_goes_on_with_its_whole_lines(data):
    with tempfile.TemporaryDirectory() as folder:
        ask(EchoModel(answers={1: 'say "x"\n{\u2028'}), make_cases(4), folder)
        path = only_file(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        num_whole = sum(line in whole.split(b"\n") for line in path.read_bytes().split(b"\n") if line)
        model = EchoModel(answers={1: 'say "x"\n{\u2028'})
        found = ask(model, make_cases(4), folder)
        assert len(model.sent) == 4 - num_whole
        assert path.read_bytes() == whole and len(found) == 4


@settings(max_examples=30, deadline=None)
@given(junk=st.binary(max_size=40).filter(lambda junk: b"\n" not in junk))
def test_junk_behind_the_last_line_is_dropped(junk):
    with tempfile.TemporaryDirectory() as folder:
        ask(EchoModel(), make_cases(2), folder)
        path = only_file(folder)
        whole = path.read_bytes()
        path.write_bytes(whole + junk)
        model = EchoModel()
        assert len(ask(model, make_cases(2), folder)) == 2 and model.sent == [] and path.read_bytes() == whole


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    ask(EchoModel(), make_cases(2), tmp_path)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    model = EchoModel()
    assert len(ask(model, make_cases(2), tmp_path)) == 2 and model.sent == [] and path.read_bytes() == whole


ASKING = """
import os, resource, signal, sys
sys.path.insert(0, {tests!r})
from llm_fakes import EchoModel, make_cases
from rmtkit.llm.asking import evaluate_model
from rmtkit.llm.prompts import PromptStyle

{before}
model = EchoModel(log={log!r}, stop={stop})
try:
    style = PromptStyle(prompts="plain", chat_template=False)
    evaluate_model(model, make_cases(12), style, folder={folder!r}, rule="exact_match")
except ValueError as error:
    print(type(error).__name__, error)
"""


def ask_elsewhere(folder, *, stop=None, before=""):
    """Ask twelve prompts in a process of its own, which notes them in a file."""
    code = ASKING.format(tests=str(Path(__file__).parent), before=before, stop=stop, folder=str(folder),
                         log=str(folder / "log"))  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_killed_run_goes_on_and_asks_every_prompt_once(tmp_path):
    killed = ask_elsewhere(tmp_path, stop="(5, lambda: os.kill(os.getpid(), signal.SIGKILL))")
    assert killed.returncode == -signal.SIGKILL
    assert len(only_file(tmp_path).read_text().splitlines()) == 5
    assert len(ask(EchoModel(log=tmp_path / "log"), make_cases(12), tmp_path)) == 12
    asked = Counter((tmp_path / "log").read_text().splitlines())
    assert len(asked) == 12 and set(asked.values()) == {1}


def test_a_full_disk_stops_with_one_line_and_the_run_goes_on_later(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2600, resource.RLIM_INFINITY))"
    stopped = ask_elsewhere(tmp_path, before=limit)
    assert stopped.returncode == 0 and stopped.stdout.startswith("WriteError cannot write")
    assert len(stopped.stdout.splitlines()) == 1 and "run the same again" in stopped.stdout
    text = only_file(tmp_path).read_text()
    assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())
    assert 0 < len(text.splitlines()) < 12
    assert len(ask(EchoModel(log=tmp_path / "log"), make_cases(12), tmp_path)) == 12
    assert len((tmp_path / "log").read_text().splitlines()) == 12 + 1  # the one whose answer did not fit


def test_no_space_left_in_the_middle_of_a_line_leaves_nothing_of_it(tmp_path):
    class FullFile:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            if line.startswith(b'{"key"'):
                return self.file.write(line[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    row = {"key": "k", "index": 0}
    with PredictionFile(tmp_path, {"model": "m", "task": "qa1", "length": "0k"}) as file:
        file.append({**row, "output": "kept"})
        before = file.path.read_bytes()
        file._file = FullFile(file._file)
        with pytest.raises(WriteError, match="No space left on device; its 1 predictions are kept"):
            file.append({**row, "index": 1})
        assert file.path.read_bytes() == before and list(file.rows) == [0]


def test_a_file_has_one_writer(tmp_path):
    what = {"model": "m", "task": "qa1", "length": "0k"}
    with PredictionFile(tmp_path, what):
        with pytest.raises(ConfigError, match="is being written by another process"):
            PredictionFile(tmp_path, what).__enter__()
        with pytest.raises(ConfigError, match="is being written by another process"):
            forget_failures(tmp_path)
        with PredictionFile(tmp_path, {**what, "task": "qa2"}):
            pass
    with PredictionFile(tmp_path, what):
        pass


def test_progress_tells_answers_failures_speed_and_time_left():
    progress = AnswerProgress(Display(), "echo, qa1 4k", num_cases=50, num_saved=10)
    for answer in [Answer("x", num_prompt_tokens=100)] * 8 + [Answer(failure="timeout")] * 2:
        progress.add(answer, 1)
    expected = "echo, qa1 4k: 20 of 50 answered, 10 from before, 2 failed, 2.0 answers/s, 160 tokens/s, 0:00:15 left"
    assert progress.line(5.0) == expected


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

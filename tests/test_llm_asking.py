"""Asking a model: what is sent and scored, predictions on disk, going on after a kill or a full disk."""

import dataclasses
import errno
import json
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_fakes import EchoModel, HalfRetriever, make_case, make_cases

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
from rmtkit.parameters import ConfigError
from rmtkit.progress import Display
from rmtkit.runs import read_json

PLAIN = PromptStyle(prompts="plain", chat_template=False)


def ask(model, cases, folder, *, style=PLAIN, rule="exact_match", **options):
    return evaluate_model(model, cases, style, folder=folder, rule=rule, **options)


def only_file(folder):
    (path,) = (Path(folder) / FOLDER).glob("*.jsonl")
    return path


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

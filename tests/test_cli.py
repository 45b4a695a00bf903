"""The commands train and evaluate, and how commands refuse and help."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from rmtkit.babi import Question, Story, write_stories
from rmtkit.cli import main
from rmtkit.config import Config
from rmtkit.runs import read_json

SMALL = ["--preset", "smoke", "--segments=2", "--steps=2", "--test_segments=2,4", "--test_samples=4",
         "--validation_samples=2", "--batch_size=2", "--micro_batch_size=2", "--background=local"]  # fmt: skip


def run(capsys, *arguments):
    status = main([str(item) for item in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_train_and_evaluate_write_what_the_notebooks_write(tmp_path, library, capsys):
    options = [*SMALL, "--background_path", library, "--outputs_dir", tmp_path, "--data_dir", tmp_path]
    status, out, err = run(capsys, "train", "--task", "qa1", *options)
    result = json.loads(out)
    assert status == 0 and "stage 1 of 1, 2 segments: step 2/2" in err
    folder = tmp_path / "runs" / result["run"].rpartition("/")[2]
    assert {
        "config.json",
        "metrics.jsonl",
        "training.jsonl",
        "model",
        "result.json",
        "summary.html",
        "accuracy_by_length.png",
    } <= {path.name for path in folder.iterdir()}
    assert read_json(folder / "result.json")["tests"] == result["tests"]

    status, out, _ = run(capsys, "evaluate", "--task", "qa1", *options)
    evaluated = json.loads(out)
    assert status == 0 and evaluated["tests"] == result["tests"] and evaluated["folder"] == str(folder)
    by_depth = pd.read_csv(folder / "accuracy_by_depth.csv")
    assert by_depth["n"].sum() == 8 and len(pd.read_csv(folder / "accuracy_by_length.csv")) == 2

    told = Story("qa1", ("Mary went to the garden.",), (Question("Where is Mary?", "garden", 1, (0,)),))
    write_stories([told], tmp_path / "qa1_x_test.txt")  # there is no training file
    options = [*options, "--checkpoint", folder, "--babi_path", tmp_path]
    status, out, _ = run(capsys, "evaluate", "--task", "qa1", *options)
    assert status == 0 and [row["n"] for row in json.loads(out)["tests"]] == [1, 1]


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tsak=qa1", "unknown parameter 'tsak' (did you mean 'task'?)"),
        ("--batch_size=many", "batch_size is 'many'; expected a whole number"),
        ("--preset=big", "preset is 'big'; allowed: smoke, tiny, long, paper"),
        ("qa1", "unexpected argument 'qa1'"),
    ],
)
def test_command_refuses_with_one_line_and_status_2(command, option, message, capsys):
    status, out, err = run(capsys, command, option)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_evaluate_without_a_model_says_so(tmp_path, capsys):
    status, _, err = run(capsys, "evaluate", "--preset=smoke", "--outputs_dir", tmp_path)
    assert status == 2 and "no trained model in" in err.splitlines()[-1]


def test_reader_that_leaves_early_is_no_error():
    closed, pipe = os.pipe()
    os.close(closed)
    command = [sys.executable, "-m", "rmtkit", "reference", "--name", "qa1", "--commands"]
    with open(pipe, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
def test_help_lists_every_field(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert all(f"  --{name}=" in out for name in Config.__dataclass_fields__)
    assert "samples per update" in out

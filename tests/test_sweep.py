"""Sweeps: the grid, its processes, what is skipped, retried and reported; the script for Slurm."""

import json
import os
import stat

import nbformat
import pandas as pd
import pytest

from rmtkit import sweep
from rmtkit.cli import main
from rmtkit.config import ConfigError, resolve
from rmtkit.runs import run_folder
from rmtkit.sweep import Machine, grid, run_point, submit_to_slurm

pytest.importorskip("submitit")
NOTEBOOK = """
from pathlib import Path
from rmtkit.config import notebook_parameters, resolve
from rmtkit.runs import open_run
import os
config = resolve(notebook_parameters(globals()))
tries = Path(config.outputs_dir) / f"tries-{config.seed}"
with open(tries, "a") as file:
    file.write("x")
if config.seed == 2 or (config.seed == 1 and len(tries.read_text()) < 2):
    raise ValueError(f"seed {config.seed} does not work")
row = dict(task=config.task, num_segments=2, num_tokens=48, n=4, accuracy=0.5, low=0.1, high=0.9)
open_run(config).finish({"tests": [row], "threads": os.environ["OMP_NUM_THREADS"], "steps": config.steps})
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A notebook in the place of 02_train: seed 1 fails the first time, seed 2 always."""
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    )
    made.cells = [nbformat.v4.new_code_cell("# Parameters\ntask: str = 'qa1'", metadata={"tags": ["parameters"]}),
                  nbformat.v4.new_code_cell(NOTEBOOK)]  # fmt: skip
    nbformat.write(made, tmp_path / "02_train.ipynb")
    monkeypatch.setattr(sweep, "NOTEBOOK", tmp_path / "02_train.ipynb")
    return tmp_path


def start(folder, seeds, *more):
    return main(["sweep", "--tasks", "qa1", "--presets", "smoke", "--seeds", seeds, "--output", str(folder / "sweep"),
                 "--outputs_dir", str(folder), "--steps=3", *more])  # fmt: skip


def tries(folder, seed):
    return len((folder / f"tries-{seed}").read_text())


def test_sweep_runs_skips_retries_and_reports(notebook, capsys):
    assert start(notebook, "0,1", "--parallel", "2", "--cpus", "1") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["points"], result["skipped"], result["finished"], result["failed"]) == (2, 0, 2, {})
    assert (tries(notebook, 0), tries(notebook, 1)) == (1, 2)
    assert (notebook / "sweep" / "qa1-smoke-0.ipynb").is_file()

    assert start(notebook, "0,1,2") == 1
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert result["skipped"] == 2 and list(result["failed"]) == ["qa1-smoke-2"]
    assert result["failed"]["qa1-smoke-2"] == "ValueError: seed 2 does not work"
    assert "qa1-smoke-2 failed: ValueError" in output.err
    assert (tries(notebook, 0), tries(notebook, 2)) == (1, 2)
    table = pd.read_csv(notebook / "sweep" / "table.csv")
    assert table["seed"].tolist() == [0, 1] and table["accuracy"].tolist() == [0.5, 0.5]
    assert set(table) >= {"task", "preset", "num_tokens", "low", "high", "n", "run"}


def test_sweep_hands_over_fields_and_threads(notebook):
    assert start(notebook, "5", "--executor", "debug", "--cpus", "3") == 0
    config = resolve({"preset": "smoke", "seed": 5, "outputs_dir": notebook, "steps": "3"})
    result = json.loads((run_folder(config) / "result.json").read_text())
    assert (result["threads"], result["steps"]) == ("3", [3])


def test_point_that_another_process_has_is_waited_for_and_not_run_twice(tmp_path, monkeypatch):
    from filelock import FileLock

    calls = []
    monkeypatch.setattr(FileLock, "acquire", lambda self, *a, **k: (tmp_path / "result.json").write_text("{}"))
    monkeypatch.setattr(sweep.subprocess, "run", lambda *a, **k: calls.append(a))
    assert run_point(["papermill"], str(tmp_path / "a.log"), str(tmp_path / "result.json"), {})
    assert calls == []


def test_machine_divides_processors_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    slots = [Machine(parallel=2).environment(slot) for slot in range(2)]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4,5", "6,7"]
    assert slots[0]["OMP_NUM_THREADS"] == "4"
    assert Machine(parallel=8, gpus=1).environment(5)["CUDA_VISIBLE_DEVICES"] == "5"
    assert Machine(parallel=2, gpus=0).environment(0)["CUDA_VISIBLE_DEVICES"] == ""


def test_slurm_script_asks_for_what_was_given(tmp_path, monkeypatch):
    for name, text in {"sbatch": f'cp "$1" {tmp_path}/script; echo Submitted batch job 123', "srun": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    machine = Machine("slurm", parallel=3, gpus=2, cpus=6, partition="long", minutes=90)
    jobs = submit_to_slurm(grid("qa1,qa2", "smoke", "0,1", {}, tmp_path), machine, tmp_path)
    assert [job.job_id for job in jobs] == [f"123_{index}" for index in range(4)]
    lines = (tmp_path / "script").read_text().splitlines()
    wanted = {"array=0-3%3", "partition=long", "time=90", "gpus-per-node=2", "cpus-per-task=6", "job-name=rmtkit"}
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
    assert any("submitit.core._submit" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "qa21"], "tasks is 'qa21'; expected different names with commas between; allowed: qa1"),
        (["--tasks", "qa1,qa1"], "tasks is 'qa1,qa1'"),
        (["--tasks", "qa1", "--executor", "ray"], "executor is 'ray'; allowed: local, slurm, debug"),
        (["--tasks", "qa1", "--parallel", "0"], "parallel is 0; expected at least 1"),
        (["--tasks", "qa1", "--seed", "3"], "seed cannot be given to a sweep"),
        (["--tasks", "qa1", "--batchsize=3"], "unknown parameter 'batchsize'"),
        (["--tasks", "qa1", "--partition", "a"], "for executor slurm only"),
        (["--tasks", "qa1", "--executor", "slurm"], "executor slurm: "),
    ],
)
def test_sweep_refuses_with_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["sweep", "--output", str(tmp_path), "--outputs_dir", str(tmp_path), *arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rmtkit: ")]
    assert len(errors) == 1 and message in errors[0]


def test_grid_refuses_a_field_that_is_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match="batch_size is 0"):
        grid("qa1", "smoke", "0", {"batch_size": "0"}, tmp_path)

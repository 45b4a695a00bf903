"""Killed at random moments and started again, a run must end as one that was never killed, bit for bit.

A short run of several stages with gradient accumulation is made once without a kill. Then the same run is made again
and again, each process killed (SIGKILL) after a time drawn uniformly from the duration of the whole one, start-up,
validation, saving and the change of stages included, and started once more, until all kills are spent. Every run that
comes to its end is compared: all weights, all validations, the steps of each stage and its best one.

On the CPU: the order in which a GPU adds is not the same twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rmtkit.config import Config

RUN = {
    "segments": (1, 2, 3), "steps": (24, 24, 24), "eval_steps": 4, "validation_samples": 32,
    "batch_size": 16, "micro_batch_size": 8, "growth": "none", "promote_at": 1.0, "precision": "float32",
}  # fmt: skip
PROGRAM = "from rmtkit.bench.resume import train_once; train_once()"


def bench_resume(config: Config, *, num_kills: int = 20, run: dict | None = None) -> dict:
    """Kill a training run `num_kills` times and compare how it ends.

    Args:   run: fields of the configuration other than those of `RUN`.
    Raises: ValueError for fewer than one kill.
    Returns: kills, the runs that they were spread over, is_equal; what differs under "failed".
    """
    if num_kills < 1:
        raise ValueError(f"num_kills is {num_kills}, expected 1 or more")
    config = dataclasses.replace(config, **{**RUN, **(run or {})})
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        duration = _train(config, whole)
        print(f"not killed: {duration:.0f} s")
        failed, num_runs = _kill_and_compare(config, whole, num_kills, duration)
    return {
        "bench": "resume", "kills": num_kills, "runs": num_runs, "duration_s": duration,
        "is_equal": not failed, "failed": failed,
    }  # fmt: skip


def _kill_and_compare(config: Config, whole: Path, num_kills: int, duration: float) -> tuple[dict, int]:
    """Spend all kills; return what differs by run, and the number of runs."""
    rng, failed, num_runs, killed = random.Random(config.seed), {}, 0, 0
    while killed < num_kills:
        num_runs += 1
        folder, num_killed, seconds = whole.with_name(f"run-{num_runs}"), 0, None
        while seconds is None:
            delay = rng.uniform(0, duration) if killed < num_kills else None
            seconds = _train(config, folder, kill_after=delay)
            if seconds is None:
                killed, num_killed = killed + 1, num_killed + 1
                print(f"kill {killed:2}, run {num_runs}, after {delay:5.1f} s: {_reached(folder)}", flush=True)
        if num_killed == 0:
            duration = min(duration, seconds)  # the first time the machine may have been busy
        found = differences(whole, folder)
        print(f"run {num_runs}, killed {num_killed} times: {', '.join(found) or 'equal'}", flush=True)
        if found:
            failed[f"run {num_runs}"] = found
    return failed, num_runs


def _train(config: Config, folder: Path, kill_after: float | None = None) -> float | None:
    """Start the run in a new process; return its seconds, or None if it was killed.

    Raises: RuntimeError if it ends with an error.
    """
    fields = json.dumps({**dataclasses.asdict(config), "run_dir": str(folder)})
    command = [sys.executable, "-c", PROGRAM, fields]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    try:
        errors = process.communicate(timeout=kill_after)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode:
        raise RuntimeError(f"training ended with status {process.returncode}:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - started


def train_once() -> None:
    """Train the configuration given on the command line as JSON; note what was last done in RUN.progress."""
    from transformers import TrainerCallback

    from rmtkit.config import resolve
    from rmtkit.experiment import prepare
    from rmtkit.parameters import as_given
    from rmtkit.training import train

    config = resolve(as_given(json.loads(sys.argv[1]), Config))
    progress = _progress_path(Path(config.run_dir))

    class Progress(TrainerCallback):
        """Says how far the run has come."""

        def _note(self, args, state, event):
            progress.write_text(f"{Path(args.output_dir).name}, step {state.global_step}, {event}")

        def on_train_begin(self, args, state, control, **kwargs):
            self._note(args, state, "beginning")

        def on_step_end(self, args, state, control, **kwargs):
            self._note(args, state, "updated")

        def on_evaluate(self, args, state, control, **kwargs):
            self._note(args, state, "validated")

        def on_save(self, args, state, control, **kwargs):
            self._note(args, state, "saved")

        def on_train_end(self, args, state, control, **kwargs):
            self._note(args, state, "stage ends")

    progress.unlink(missing_ok=True)
    train(prepare(config), callbacks=(Progress(),))


def _progress_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.progress")


def _reached(folder: Path) -> str:
    """Return what a killed process had last done."""
    path = _progress_path(folder)
    done = path.read_text() if path.is_file() else ""
    path.unlink(missing_ok=True)
    return done or "starting up"


def differences(whole: Path, other: Path) -> list[str]:
    """Return how a finished run differs from another: nothing if all weights, validations and best steps are equal."""
    import torch
    from safetensors.torch import load_file

    from rmtkit.runs import Run, read_json

    found = []
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (whole, other))
    if weights.keys() != others.keys():
        found.append("names of weights")
    found += [name for name in weights if name in others and not torch.equal(weights[name], others[name])]
    if Run(whole, None).metrics() != Run(other, None).metrics():
        found.append("validations in metrics.jsonl")
    for path in sorted(whole.glob("checkpoints/*/stage.json")):
        stages = [read_json(folder / path.relative_to(whole)) for folder in (whole, other)]
        if {**stages[0], "seconds": 0} != {**stages[1], "seconds": 0}:
            found.append(str(path.relative_to(whole)))
    return found

"""A grid of experiments: tasks x presets x seeds, a papermill process for each, one table in the end.

    python -m rmtkit sweep --tasks qa1,qa2 --presets tiny --seeds 0,1 --parallel 2 --output outputs/sweep

The processes are started by submitit (extra "sweep"): `local` ones next to each other on this machine, `debug` ones
inside of this process one after another, `slurm` ones as a job array. Each is notebook 02 with its own kernel. A point
whose run is finished is skipped, and a notebook that fails is tried once more, going on from its checkpoint.

FOLDER/TASK-PRESET-SEED.ipynb   the notebooks          FOLDER/table.csv   accuracy by length of all finished points
FOLDER/TASK-PRESET-SEED.log     their messages         FOLDER/submitit    what submitit keeps

Killed and started again, a sweep goes on. A lock keeps two processes from the same point, so that jobs that outlive a
sweep (kill -9, and always on Slurm) are waited for. On a cluster the nodes have to share output and data folders.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from rmtkit.config import PRESETS, PROJECT, TASKS, Config, ConfigError, resolve
from rmtkit.launch import as_options
from rmtkit.runs import check_writable, read_json, run_folder

EXECUTORS = ("local", "slurm", "debug")
NOTEBOOK = PROJECT / "notebooks" / "02_train.ipynb"
NUM_TRIES = 2
POLL_SECONDS = 0.2
NO_END = 60 * 24 * 365  # minutes; submitit would end a local process after two


@dataclass(frozen=True)
class Point:
    """One experiment of the grid."""

    config: Config
    output: Path  # of notebook and log, without their endings

    @property
    def name(self) -> str:
        """The point as its files are called."""
        return self.output.name

    @property
    def result_path(self) -> Path:
        """The file whose presence means that the run is whole."""
        return run_folder(self.config) / "result.json"

    def command(self) -> list[str]:
        """Return the papermill command; -r hands the values over as text, which `resolve` reads."""
        pairs = [option.removeprefix("--").partition("=") for option in as_options(self.config)]
        parameters = [item for name, _, value in pairs for item in ("-r", name, value)]
        files = [str(NOTEBOOK), f"{self.output}.ipynb"]
        return [sys.executable, "-m", "papermill", *files, *parameters, "--no-progress-bar", "--log-output"]


@dataclass(frozen=True)
class Machine:
    """What the processes run on. Raises: ConfigError for a value that is not allowed."""

    executor: str = "local"  # local, slurm, debug
    parallel: int = 1  # processes at the same time
    gpus: int | None = None  # of each process; None: local processes share out what is there, slurm ones get none
    cpus: int | None = None  # of each process; None: local processes share out what is there, slurm ones get 4
    partition: str | None = None  # of Slurm
    minutes: int = 24 * 60  # of Slurm, for each process

    def __post_init__(self):
        if self.executor not in EXECUTORS:
            raise ConfigError(f"executor is {self.executor!r}; allowed: {', '.join(EXECUTORS)}")
        for name, low in {"parallel": 1, "gpus": 0, "cpus": 1, "minutes": 1}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} is {value}; expected at least {low}")
        if self.executor != "slurm" and self.partition:
            raise ConfigError(f"partition is {self.partition!r}; it is for executor slurm only")

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables of a process in one of the `parallel` slots: its share of processors and GPUs.

        On Slurm the GPUs are the scheduler's.
        """
        threads = self.cpus or max(1, len(os.sched_getaffinity(0)) // self.parallel)
        if self.executor == "slurm":
            return {"OMP_NUM_THREADS": str(self.cpus or 4)}
        devices = visible_gpus()
        number = max(1, len(devices) // self.parallel) if self.gpus is None else self.gpus
        mine = [devices[(slot * number + i) % len(devices)] for i in range(number)] if devices else []
        return {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ",".join(mine)}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def grid(tasks: str, presets: str, seeds: str, fields: dict[str, str], folder: Path) -> list[Point]:
    """Return the points of tasks x presets x seeds (each with commas between), all of them checked.

    Args:   fields: further fields of `Config`, for all points;  folder: of the notebooks.
    Raises: ConfigError.
    """
    for name in ("task", "preset", "seed", "run_dir", "checkpoint"):
        if name in fields:
            raise ConfigError(f"{name} cannot be given to a sweep; it takes --tasks, --presets, --seeds and a run each")
    names = [_names("tasks", tasks, TASKS), _names("presets", presets, PRESETS), _names("seeds", seeds)]
    points = []
    for task, preset, seed in product(*names):
        config = resolve({**fields, "task": task, "preset": preset, "seed": seed})
        points.append(Point(config, folder / f"{task}-{preset}-{config.seed}"))
    return points


def _names(what: str, text: str, allowed=None) -> list[str]:
    """Split at commas. Raises: ConfigError for a name twice, none, or one that is not allowed."""
    names = [name.strip() for name in text.split(",")]
    bad = [name for name in names if not name or (allowed is not None and name not in allowed)]
    if bad or len(set(names)) < len(names):
        choice = f"; allowed: {', '.join(allowed)}" if allowed is not None else ""
        raise ConfigError(f"{what} is {text!r}; expected different names with commas between{choice}")
    return names


def run_sweep(points: list[Point], machine: Machine, folder: Path) -> dict:
    """Run what is not finished, wait for it, and write table.csv.

    Returns: the table's file, how many points there are, were skipped and are finished, and under "failed" the last
             line of the error of each that is not.
    Raises:  ConfigError without submitit, or for a folder that cannot be written.
    """
    check_submitit()
    check_writable(folder)
    waiting = [point for point in points if not point.result_path.is_file()]
    tell(f"{len(points)} points, {len(points) - len(waiting)} of them finished before")
    if machine.executor == "slurm" and waiting:
        for job in submit_to_slurm(waiting, machine, folder):
            job.wait()
    elif machine.executor != "slurm":
        run_here(waiting, machine, folder)
    failed = {point.name: last_error(point) for point in points if not point.result_path.is_file()}
    for name, error in failed.items():
        tell(f"{name} failed: {error}")
    table = collect(points)
    unfinished = folder / "table.partial"
    table.to_csv(unfinished, index=False)
    unfinished.replace(folder / "table.csv")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    return {"table": str(folder / "table.csv"), "points": len(points), "skipped": len(points) - len(waiting),
            "finished": len(points) - len(failed), "failed": failed}  # fmt: skip


def check_submitit() -> None:
    """Raise ConfigError if submitit is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError('a sweep needs submitit, which is not installed; pip install "submitit>=1.5"') from None


def tell(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def run_point(command: list[str], log: str, result: str, environment: dict[str, str]) -> bool:
    """Run the notebook of a point, once more if it fails; what submitit calls in a process of its own.

    Returns: whether the run is finished. If another process has this point, it is waited for.
    """
    from filelock import FileLock

    with FileLock(f"{log}.lock"):
        for _ in range(NUM_TRIES):
            if Path(result).is_file():
                return True
            with open(log, "w", encoding="utf-8") as file:
                subprocess.run(command, env={**os.environ, **environment}, stdout=file, stderr=file, check=False)
    return Path(result).is_file()


def _job(point: Point, environment: dict[str, str]) -> tuple:
    return point.command(), f"{point.output}.log", str(point.result_path), environment


def run_here(points: list[Point], machine: Machine, folder: Path) -> None:
    """Run points on this machine, `parallel` at a time; if this is interrupted, they are ended."""
    import submitit

    executor = submitit.AutoExecutor(folder / "submitit", cluster=machine.executor)
    executor.update_parameters(timeout_min=NO_END)
    waiting, running = list(points), {}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that jobs are ended
    try:
        while waiting or running:
            for slot in set(range(machine.parallel)) - set(running):
                if waiting:
                    point = waiting.pop(0)
                    tell(f"{point.name} starts")
                    running[slot] = point, executor.submit(run_point, *_job(point, machine.environment(slot)))
            for slot, (point, job) in list(running.items()):
                if machine.executor == "debug" and not job.done():
                    job.results()
                if job.done():
                    del running[slot]
                    tell(f"{point.name} {'is finished' if point.result_path.is_file() else 'failed'}")
            time.sleep(POLL_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)
        for _, job in running.values():
            job.cancel()


def submit_to_slurm(points: list[Point], machine: Machine, folder: Path) -> list:
    """Submit points as one job array, `parallel` of them at a time, and return submitit's jobs."""
    executor = slurm_executor(machine, folder)
    columns = zip(*(_job(point, machine.environment(0)) for point in points), strict=True)
    jobs = executor.map_array(run_point, *map(list, columns))
    tell(f"Slurm job {jobs[0].job_id.partition('_')[0]}: {len(jobs)} tasks; scancel ends them")
    return jobs


def slurm_executor(machine: Machine, folder: Path):
    """Return submitit's executor, which writes the sbatch script to FOLDER/submitit.

    Raises: ConfigError if there is no Slurm here.
    """
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder / "submitit")
    except RuntimeError as error:
        raise ConfigError(f"executor slurm: {error}; start the sweep where sbatch is, or take local") from None
    executor.update_parameters(
        job_name="rmtkit", partition=machine.partition, time=machine.minutes, cpus_per_task=machine.cpus or 4,
        gpus_per_node=machine.gpus or None, array_parallelism=machine.parallel, mem=None,
    )  # fmt: skip
    return executor


def last_error(point: Point) -> str:
    """Return the last line that the notebook of a point has left."""
    path = Path(f"{point.output}.log")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message; see submitit's logs")


def collect(points: list[Point]) -> pd.DataFrame:
    """Return a row per finished point and length, with its 95 % interval (low, high), n and the run folder."""
    rows = []
    for point in points:
        if point.result_path.is_file():
            for test in read_json(point.result_path)["tests"]:
                own = {"task": test["task"], "preset": point.config.preset, "seed": point.config.seed}
                names = ("num_segments", "num_tokens", "accuracy", "low", "high", "n")
                rows.append({**own, **{name: test[name] for name in names}, "run": str(point.result_path.parent)})
    return pd.DataFrame(rows)

"""A run beside others: accuracy by task and length, and by trained and evaluated segments.

Kuratov et al. 2024 (arXiv 2402.10790): models trained on 1, 2, 4 .. 64 segments, each evaluated at all lengths. Ours
are the stages of a run's curriculum, other finished runs, and the reference models; published numbers stay apart.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd

from rmtkit.babilong import BabilongBuilder
from rmtkit.config import Config
from rmtkit.evaluation import accuracy_table
from rmtkit.experiment import load_trained, model_folder
from rmtkit.generalization import SHARES, evaluate_lengths, length_table, lengths_asked
from rmtkit.lengths import LENGTHS, TOKENS
from rmtkit.plotting.accuracy import PUBLISHED_SEGMENT
from rmtkit.reference import REFERENCE
from rmtkit.results import SERIES, published_accuracy, published_series
from rmtkit.runs import read_json

THIS_RUN = "this run"
TASK_LENGTHS = ["task", "name", "length", "size", "n", "accuracy"]
CROSS = ["name", "trained", "segment_size", "num_segments", "n", *SHARES]
NUM_RUNS = 6  # other runs that are shown at most
STAGE_SAMPLES = 50  # that a stage's model answers of a length
STAGE_TOKENS = 2**14  # of their prompts at most


# ---------------------------------------------------------------------- task x length


def task_length_table(config: Config, records: pd.DataFrame, reference: Path = REFERENCE) -> pd.DataFrame:
    """Return accuracy by task and length of a run, and of the reference models of `reference`/results.csv.

    Returns: task, name ("this run", or that of the model's folder), length ("4k"; where a number of segments is no
             length with a name the tokens in them, "64"), size (tokens, to sort by), n, accuracy 0..1.
    """
    mine = length_table(records)
    if "length" not in mine:
        sizes = mine["num_segments"] * config.segment_size
        mine = mine.assign(length=[_length_name(size) for size in sizes], size=sizes)
    else:
        mine = mine.assign(size=mine["length"].map(TOKENS))
    results = pd.read_csv(reference / "results.csv", keep_default_na=False)
    others = results.assign(
        name=[f"reference:{Path(run).name}" for run in results["run"]], size=results["length"].map(TOKENS),
        accuracy=results["correct"] / results["n"],
    )  # fmt: skip
    return pd.concat([mine.assign(name=THIS_RUN)[TASK_LENGTHS], others[TASK_LENGTHS]], ignore_index=True)


def _length_name(num_tokens: int) -> str:
    return next((name for name, size in TOKENS.items() if size == num_tokens), f"{num_tokens:,}")


def published_by_length(series: str = "RMT") -> tuple[pd.DataFrame, str]:
    """Return one published method as a table like `task_length_table` (n is unknown: 0), and its sources in words.

    Args:   series: a name in `rmtkit.results.SERIES`.  Raises: ValueError for another one.
    """
    if series not in SERIES:
        raise ValueError(f"no published series {series!r}; there are: {', '.join(SERIES)}")
    table = published_series()
    table = table[(table["series"] == series) & table["length"].isin(LENGTHS)]
    shares = {"size": table["length"].map(TOKENS), "accuracy": table["accuracy"] / 100, "n": 0}
    sources = dict.fromkeys(f"{model}, {source}" for source, model in SERIES[series])
    trained = ", trained to 32 (qa1: 64) segments" if series == "RMT" else ""
    return table.assign(name=series, **shares)[TASK_LENGTHS], "; ".join(sources) + trained


# ---------------------------------------------------------------------- trained x evaluated segments


def cross_table(config: Config, records: pd.DataFrame, stages: pd.DataFrame | None = None, *,
                reference: Path = REFERENCE) -> pd.DataFrame:  # fmt: skip
    """Return accuracy by trained and evaluated segments: of this run, its stages, other runs, reference models.

    Other runs are the finished ones on the same task in `outputs_dir`/runs, the `NUM_RUNS` newest.

    Args:    records: of the run;  stages: of `evaluate_stages`;  reference: the folder of the reference models.
    Returns: name, trained (segments of the longest training sample), segment_size (tokens), num_segments (evaluated),
             n, accuracy, low, high. Facts alone (0k) are no number of segments and are left out.
    """
    about = {"name": THIS_RUN, "trained": max(config.segments), "segment_size": config.segment_size}
    parts = [_by_segments(records).assign(**about), stages, *_other_runs(config), *_references(config.task, reference)]
    return pd.concat([part[CROSS] for part in parts if part is not None and len(part)], ignore_index=True)


def _by_segments(records: pd.DataFrame) -> pd.DataFrame:
    """Return num_segments, n, accuracy, low, high; of lengths with equally many segments the longest."""
    if "length" not in records:
        return accuracy_table(records, "num_segments")
    records = records[records["length"] != "0k"]
    table = accuracy_table(records, "length")
    sizes = records.groupby("length")[["num_segments", "num_tokens"]].max()
    return table.join(sizes, on="length").sort_values("num_tokens").drop_duplicates("num_segments", keep="last")


def evaluate_stages(config: Config, tokenizer, builder: BabilongBuilder, folder: Path) -> pd.DataFrame | None:
    """Evaluate the best model of every stage but the last of the curriculum that made the model.

    At the lengths of the run up to `STAGE_TOKENS`, `STAGE_SAMPLES` samples each; what is done is read from disk.

    Returns: as `cross_table`; None if the stages' models are not kept, or there is one stage only.
    """
    stages = [(read_json(path)["num_segments"], path.parent / "best")
              for path in model_folder(config).parent.glob("checkpoints/*/stage.json")]  # fmt: skip
    parts = []
    for trained, best in sorted(stages)[:-1]:
        of_stage = _config_of_stage(config, best)
        if of_stage is None or not (best / "config.json").is_file():
            continue
        found = _by_segments(evaluate_lengths(of_stage, load_trained(of_stage)[0], tokenizer, builder, folder))
        parts.append(found.assign(name=f"stage of {THIS_RUN}", trained=trained, segment_size=config.segment_size))
    return pd.concat(parts, ignore_index=True)[CROSS] if parts else None


def _config_of_stage(config: Config, best: Path) -> Config | None:
    """Return what a stage's model is evaluated with; None if all lengths asked for are too long."""
    short = [length for length in lengths_asked(config) if (length.size or 0) <= STAGE_TOKENS]
    if not short:
        return None
    if config.max_length is None:
        lengths = {"test_segments": tuple(length.num_segments for length in short)}
        lengths["test_samples"] = min(config.test_samples, STAGE_SAMPLES)
    else:
        lengths = {"max_length": short[-1].name, "num_samples": min(short[0].num_samples, STAGE_SAMPLES)}
    return dataclasses.replace(config, checkpoint=str(best), **lengths)


def _other_runs(config: Config) -> list[pd.DataFrame]:
    """Return the tests of the newest finished runs on the same task; those of preset smoke only beside such a one."""
    own = model_folder(config).parent.resolve()
    paths = [path for path in (Path(config.outputs_dir).expanduser() / "runs").glob("*/result.json")
             if path.parent.resolve() != own]  # fmt: skip
    found = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        result = read_json(path)
        trained = result.get("config", {})
        if trained.get("task") == config.task and (trained["preset"] != "smoke" or config.preset == "smoke"):
            found.append(_tests(result, path.parent.name))
    return found[:NUM_RUNS]


def _tests(result: dict, name: str) -> pd.DataFrame:
    """Return the tests of a result.json as rows of `cross_table`."""
    config, tests = result["config"], pd.DataFrame(result["tests"])
    if "length" in tests:
        tests = tests[tests["length"] != "0k"].drop_duplicates("num_segments", keep="last")
    return tests.assign(name=name, trained=max(config["segments"]), segment_size=config["segment_size"])


def _references(task: str, reference: Path) -> list[pd.DataFrame]:
    """Return the accuracies of the reference models on a task: of result.json where it is there, else results.csv."""
    results = pd.read_csv(reference / "results.csv", keep_default_na=False)
    found = []
    for run, rows in results[(results["task"] == task) & (results["length"] != "0k")].groupby("run", sort=False):
        folder, name = reference / Path(run).name, f"reference:{Path(run).name}"
        if (folder / "result.json").is_file():
            found.append(_tests(read_json(folder / "result.json"), name))
            continue
        size = read_json(folder / "config.json")["segment_size"]
        trained = read_json(folder / "recipe.json")["trained_tokens"] // size
        about = {"name": name, "trained": trained, "segment_size": size, "num_segments": -(-rows["tokens"] // size)}
        found.append(rows.assign(**about, accuracy=rows["correct"] / rows["n"]).drop_duplicates("num_segments"))
    return found


def published_cross(task: str) -> pd.DataFrame:
    """Return the authors' RMT by trained and evaluated segments as a table like `cross_table`, without intervals."""
    table = published_accuracy(task)
    trained = table["variant"].str.extract(r"^trained to (\d+) segments; question last$")[0]
    table = table.assign(trained=trained).dropna(subset=["trained", "segments"])
    return table.assign(
        name="RMT", trained=table["trained"].astype(int), segment_size=PUBLISHED_SEGMENT,
        num_segments=table["segments"].astype(int), accuracy=table["accuracy"] / 100, low=math.nan, high=math.nan,
    )[CROSS]  # fmt: skip

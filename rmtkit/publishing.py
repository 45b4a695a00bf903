"""Reference models of finished runs: outputs/reference/NAME, written whole or not at all.

    python -m rmtkit reference --name qa1 --run outputs/runs/A,outputs/runs/B --evaluation outputs/evaluations/qa1-B

Several runs are a chain: each took its backbone from the one before. The first may be a reference model, which others
went on from; its own runs come first in the chain. The files are described in outputs/reference/README.md. What says
where something lay on the machine is left out of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rmtkit.config import PROJECT, Config, ConfigError
from rmtkit.formats import sha256
from rmtkit.lengths import LENGTHS
from rmtkit.reference import REFERENCE, checkpoint_folder, resolve_reference, verify_weights, weights_digest
from rmtkit.runs import read_json, read_rows, write_json

COLUMNS = ["task", "split", "index", "length", "num_tokens", "num_facts", "fact_depth", "target", "prediction",
           "is_correct", "rule"]  # fmt: skip
SIZES = ["length", "num_tokens", "num_characters", "num_fitting", "num_problems", "precision"]
READ = ["num_read", "seconds", "peak_resident_mb", "peak_cuda_mb", "device", "dtype", "is_compiled", "batch_size",
        "num_processes"]  # fmt: skip


def publish(name: str, *, runs: Sequence[str] = (), variant: str = "", note: str = "", evaluation: str | None = None,
            wanted: dict | None = None, reference: Path = REFERENCE) -> dict:  # fmt: skip
    """Make outputs/reference/`name` of runs, or add an evaluation to what is there.

    Args:    runs: folders of finished runs, in the order of the chain, the first or `reference:NAME` (also the same
             name, whose place the model then takes); none: the model stays;
             variant: what sets the model apart from the task's first one, such as "question at both ends";
             note: what the runs do not tell; without one, that of the reference model they went on from;
             evaluation: the folder that `rmtkit.experiment.evaluation_folder` named, with records of this model at
             lengths by name; of several for one length those with the most samples are taken;
             wanted: fields that its settings must have, to choose among several;  reference: the folder of them all.
    Returns: the folder, the weights' hash, and the lengths evaluated.
    Raises:  ConfigError if a run is not finished, the chain is none, or the records are of other weights; for a variant
             or a note without runs.
    """
    folder = reference / name
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(f"name is {name!r}; expected the name of a folder such as qa1 or qa1-seed1")
    if not runs and not (folder / "recipe.json").is_file():
        raise ConfigError(f"{folder} has no recipe.json; give run=FOLDER, a finished run")
    if not runs and (variant or note):
        raise ConfigError("variant and note are said of a model when it is made; give its run=FOLDER, too")
    with _replaced(folder, is_kept=not runs) as new:
        if runs:
            _copy_runs(runs, new, variant, note)
        if evaluation:
            _copy_evaluation(Path(evaluation).expanduser(), new, wanted or {})
    lengths = [length for length in LENGTHS if (folder / "evaluation" / f"{length}.csv").is_file()]
    return {"folder": str(folder), "sha256": read_json(folder / "recipe.json")["sha256"], "lengths": lengths}


@contextlib.contextmanager
def _replaced(folder: Path, *, is_kept: bool) -> Iterator[Path]:
    """Yield a folder, empty or a copy of what is there, that takes the place of `folder` when all went well."""
    new, old = (folder.with_name(f".{folder.name}.{what}.{os.getpid()}") for what in ("new", "old"))
    try:
        shutil.copytree(folder, new) if is_kept else new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------- the model and how it was made


@dataclass(frozen=True)
class Link:
    """A part of a chain: a model, the runs that made it, and their validations with the number of the run in it."""

    name: str
    model: Path
    runs: list[dict]
    metrics: list[dict]
    note: str = ""


def _copy_runs(names: Sequence[str], new: Path, variant: str, note: str) -> None:
    """Copy the model of the last run and describe how all of them made it."""
    is_reference = str(names[0]).startswith("reference:") and len(names) > 1
    chain = [_link_of_reference(names[0])] if is_reference else []
    chain += [_link_of_run(Path(name).expanduser()) for name in names[len(chain) :]]
    for before, link in itertools.pairwise(chain):
        backbone = Path(resolve_reference(link.runs[0]["config"]["backbone"]))
        if backbone.resolve() != before.model.resolve():
            raise ConfigError(
                f"{link.name} began with backbone {backbone}, not with the model of {before.name}; give the chain"
            )
    runs = [{**run, "config": without_paths(run["config"])} for link in chain for run in link.runs]
    if twice := [number for number, run in enumerate(runs) if run in runs[:number]]:
        raise ConfigError(f"run {twice[0] + 1} of the chain is in it before; {chain[0].name} has it already")
    for path in sorted(chain[-1].model.iterdir()):
        shutil.copyfile(path, new / path.name)
    of_model = read_json(new / "config.json")  # transformers notes there where the backbone was loaded from
    write_json(new / "config.json", {**of_model, "backbone_config": without_paths(of_model["backbone_config"])})
    _write_metrics(chain, new)
    note = note or chain[0].note
    recipe = {
        "made_by": "python -m rmtkit reference",
        **({"note": note} if note else {}),
        "task": runs[-1]["config"]["task"],
        "variant": variant,
        "seed": runs[-1]["config"]["seed"],
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "trained_tokens": max(run["trained_tokens"] for run in runs),
        "sha256": {path.name: sha256(path) for path in sorted(new.glob("*.safetensors"))},
        "runs": runs,
    }
    write_json(new / "recipe.json", recipe)


def _link_of_reference(name: str) -> Link:
    """Return a published model that runs went on from, as `_copy_runs` has left it."""
    folder = checkpoint_folder(name)
    verify_weights(folder)
    recipe = read_json(folder / "recipe.json")
    if not (runs := recipe.get("runs")):
        raise ConfigError(f"the recipe of {name} names no runs; give the first run that began with it as the first")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Link(name, folder, runs, [json.loads(line) for line in lines], recipe.get("note", ""))


def _link_of_run(run: Path) -> Link:
    if not (run / "result.json").is_file() or not (run / "model" / "config.json").is_file():
        raise ConfigError(f"{run} is no finished run: it has no result.json, or no model")
    result, path = read_json(run / "result.json"), run / "environment.json"
    config = result["config"]
    described = {
        **{name: result[name] for name in ("scoring_rule", "stages", "tests") if name in result},
        "config": config,
        "seconds": sum(stage.get("seconds", 0.0) for stage in result.get("stages", [])),
        "trained_tokens": max(config["segments"]) * config["segment_size"],
        "environment": read_json(path) if path.is_file() else None,
    }
    metrics = [{"run": 0, **row} for row in read_rows(run / "metrics.jsonl")]
    return Link(str(run), run / "model", [described], metrics)


def without_paths(config: dict) -> dict:
    """Return a configuration without places on this machine: in the project relative to it, elsewhere the last name."""
    return {name: _without_place(value) if isinstance(value, str) else value for name, value in config.items()}


def _without_place(text: str) -> str:
    path = Path(text)
    if not path.is_absolute():
        return text
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name


def _write_metrics(chain: list[Link], new: Path) -> None:
    """Write the validations of all runs, with the number of each, and their curve."""
    from rmtkit.plotting import plot_training

    rows, first = [], 0
    for link in chain:
        rows += [{**row, "run": first + row["run"]} for row in link.metrics]
        first += len(link.runs)
    (new / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = pd.DataFrame([row for row in rows if row.get("split", "validation") == "validation"])
    if len(table):
        table["stage"] = table.groupby(["run", "stage"]).ngroup()
        plot_training(table).savefig(new / "training.png", dpi=100)


# ---------------------------------------------------------------------- its evaluation


def _copy_evaluation(source: Path, new: Path, wanted: dict) -> None:
    """Copy the records of every length, compact, with the setting that they were made in."""
    found = _find_records(source, weights_digest(new), wanted)
    setting = without_paths(found[0][0]["setting"])
    folder = new / "evaluation"
    folder.mkdir(exist_ok=True)
    if (folder / "setting.json").is_file() and (there := _read_setting(folder, setting)) != setting:
        raise ConfigError(f"{new.name} has records of another setting: {_differences(there, setting)}; give run anew")
    write_json(folder / "setting.json", setting)
    lengths = {row["length"]: row for row in read_lengths(folder)}
    for about, path in found:  # those with more samples come later
        records = pd.read_csv(path, keep_default_na=False, na_values={"fact_depth": ["", "nan"]})
        records["fact_depth"] = records["fact_depth"].round(4)
        records[COLUMNS].to_csv(folder / f"{about['length']}.csv", index=False)
        lengths[about["length"]] = {**{name: about[name] for name in SIZES if name in about},
                                    "num_tokens": round(records["num_tokens"].mean()),
                                    **about.get("reading", {})}  # fmt: skip
    rows = [lengths[length] for length in LENGTHS if length in lengths]
    pd.DataFrame(rows, columns=[*SIZES, *READ]).convert_dtypes().to_csv(folder / "lengths.csv", index=False)


def _read_setting(folder: Path, setting: dict) -> dict:
    """Return the setting of records; a field that did not exist when they were made has its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(Config) if field.name in setting}
    return defaults | read_json(folder / "setting.json")


def _find_records(source: Path, weights: str, wanted: dict) -> list[tuple[dict, Path]]:
    """Return what is said about the records of these weights, and their files; those with most samples last."""
    paths = sorted((source / "test").glob("*.json"))
    found = [(about, path.with_suffix(".csv")) for path in paths if (about := read_json(path)).get("length")]
    mine = [(about, path) for about, path in found if about["weights"] == weights and path.is_file()]
    mine = [pair for pair in mine if all(str(pair[0]["setting"].get(k)) == str(v) for k, v in wanted.items())]
    if not mine:
        raise ConfigError(
            f"{source} has no records of this model at lengths by name{f' with {wanted}' if wanted else ''}; "
            "make them with python -m rmtkit evaluate --checkpoint FOLDER --max_length 1M"
        )
    first = mine[0][0]["setting"]
    for about, _ in mine:
        if about["setting"] != first:
            raise ConfigError(
                f"{source} has records of several settings ({_differences(first, about['setting'])}); "
                "say which, as --NAME=VALUE"
            )
    return sorted(mine, key=lambda pair: pair[0]["num_samples"])


def _differences(one: dict, other: dict) -> str:
    return "; ".join(f"{k}: {one.get(k)!r} or {v!r}" for k, v in other.items() if one.get(k) != v)


def read_lengths(evaluation: Path) -> list[dict]:
    """Return the rows of lengths.csv in a reference model's `evaluation`: `SIZES`, and of `READ` what was measured."""
    path = evaluation / "lengths.csv"
    rows = pd.read_csv(path).convert_dtypes().to_dict("records") if path.is_file() else []
    return [{name: value for name, value in row.items() if pd.notna(value)} for row in rows]

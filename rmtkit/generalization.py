"""Length generalisation of a trained model: the test split at growing lengths, kept on disk as it comes in.

Kuratov et al. 2024 (2402.10790), figure 9: accuracy by length, far beyond the lengths of training. With several
processes (`rmtkit.processes`) each answers its share of the samples; the records are those of one process.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from rmtkit.babi import Problem
from rmtkit.babilong import BabilongBuilder
from rmtkit.config import TEXT_FIELDS, Config, ConfigError, identity
from rmtkit.evaluation import accuracy_table
from rmtkit.evaluator import Evaluator
from rmtkit.experiment import model_folder, prompt_size
from rmtkit.lengths import LENGTHS, TOKENS, default_samples, lengths_between
from rmtkit.meters import together
from rmtkit.processes import from_main, gather, is_main
from rmtkit.progress import Display
from rmtkit.reference import weights_digest
from rmtkit.results import SOURCES, published_accuracy, published_series
from rmtkit.runs import environment, read_json, write_json

BY_LENGTH = ["task", "num_segments", "num_tokens"]
SHARES = ["accuracy", "low", "high"]
QUARTERS = ["0-25 %", "25-50 %", "50-75 %", "75-100 %"]  # of the sample, where its earliest supporting fact is
NUM_PROBLEMS = 1000  # problems behind a table, unless asked otherwise
NUM_MEASURED = 8  # prompts, of MEASURED_TOKENS at most, whose characters are counted
MEASURED_TOKENS = 2**14
READING = ["length", "num_segments", "num_tokens", "tokens_per_second", "peak_resident_mb", "peak_cuda_mb", "device",
           "dtype", "is_compiled", "batch_size", "num_read"]  # fmt: skip
OF_SAMPLES = (*TEXT_FIELDS, "layout", "question_position", "answer_size", "segment_size")  # what samples depend on


@dataclasses.dataclass(frozen=True)
class Length:
    """A length of the test: its name ("4k"; None if it was given in segments), segments, prompt and samples."""

    name: str | None
    num_segments: int  # 0: facts alone
    size: int | None  # tokens of the prompt; None: facts alone
    num_samples: int

    @property
    def label(self) -> str:
        """What the length is called in lines and file names."""
        return self.name or f"{self.num_segments} segments"


def lengths_asked(config: Config) -> list[Length]:
    """Return the lengths to test at: by name from `min_length` to `max_length`, without it those in `test_segments`."""
    if config.max_length is None:
        return [Length(None, n, prompt_size(config, n), config.test_samples) for n in config.test_segments]
    return [_named_length(config, name) for name in lengths_between(config.min_length, config.max_length)]


def _named_length(config: Config, name: str) -> Length:
    """Return a length by name: whole segments, or the part of a single one, with room for the answer at its end."""
    num_segments = -(-TOKENS[name] // config.segment_size)
    room = min(TOKENS[name], config.segment_size) if num_segments == 1 else num_segments * config.segment_size
    size = room - config.answer_size if num_segments else None
    return Length(name, num_segments, size, config.num_samples or default_samples(name))


def evaluate_lengths(config: Config, model, tokenizer, builder: BabilongBuilder, folder: Path) -> pd.DataFrame:
    """Evaluate the test split (or what `test_split` names) at every length of `lengths_asked`.

    A length that is done is kept as a CSV file under `folder`/test (or /validation) and not computed again; beside it a
    JSON file says what it is of, and how fast and in how much memory it was read. A length whose prompt holds the facts
    of no problem is left out, with a line that says so.

    Returns: the records of `rmtkit.evaluation.evaluate`, all lengths together; with the column `length` ("4k") in
             front where lengths were asked by name.
    """
    display, parts, lengths = Display(), [], _usable_lengths(config, builder)
    place, split = folder / config.test_split, config.test_split
    evaluator = Evaluator(config, model, tokenizer, builder, lengths=lengths, folder=place, display=display)
    weights = weights_digest(model_folder(config), config.memory_grid)
    sizes = functools.cache(lambda: describe_lengths(lengths, builder, split).set_index("length"))
    for length in lengths:
        path = _records_path(config, folder, length, weights)
        about = path.with_suffix(".json")
        if not from_main(path.is_file):
            rows = gather(evaluator.records(length, path.stem))
            readings = gather([evaluator.reading])
            if is_main():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(about, {**_about(config, length, weights, sizes), "reading": together(readings)})
                _write_records(_as_records(rows, length), path)
            evaluator.forget(path.stem)
        elif length.name and is_main() and not about.is_file():
            write_json(about, _about(config, length, weights, sizes))
        parts.append(from_main(lambda path=path: _read_records(path)))
    records = pd.concat(parts, ignore_index=True)
    display.show(summary(records), force=True)
    return records


def _usable_lengths(config: Config, builder: BabilongBuilder) -> list[Length]:
    """Return the lengths asked for; of those by name only the ones at which some problem's facts fit.

    Raises: ConfigError if that is none.
    """
    lengths, split = lengths_asked(config), config.test_split
    if config.max_length is None:
        return lengths
    counts = count_fitting(builder, [length.size for length in lengths], split)
    for length, fitting, total in zip(lengths, counts["num_fitting"], counts["num_problems"], strict=True):
        if fitting < total and is_main():
            print(
                f"{length.label}: of {total} {split} problems {fitting} fit; the others are left out", file=sys.stderr
            )
    usable = [length for length, fitting in zip(lengths, counts["num_fitting"], strict=True) if fitting]
    if not usable:
        raise ConfigError(f"no {split} problem of {config.task} fits {lengths[-1].label}; give a longer max_length")
    return usable


def _as_records(rows: list[dict], length: Length) -> pd.DataFrame:
    records = pd.DataFrame(rows).sort_values("index", ignore_index=True)
    if length.name:
        records.insert(0, "length", length.name)
    return records


def _write_records(records: pd.DataFrame, path: Path) -> None:
    records.to_csv(path.with_suffix(".partial"), index=False)
    path.with_suffix(".partial").rename(path)


def keep_records(config: Config, folder: Path, length: Length, records: pd.DataFrame, reading: dict) -> None:
    """Put records of a length, and how they were read, where `evaluate_lengths` looks for what is done."""
    path = _records_path(config, folder, length, weights_digest(model_folder(config), config.memory_grid))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), {"reading": reading})
    _write_records(records, path)


def _about(config: Config, length: Length, weights: str, sizes: Callable[[], pd.DataFrame]) -> dict:
    """Return what a length's records are of, for those who keep them: the model's weights, the setting, the sizes.

    Args: sizes: returns `describe_lengths` by length; asked for where lengths have names.
    """
    setting = {**{name: getattr(config, name) for name in OF_SAMPLES}, "scoring": config.scoring}
    about = {"length": length.name, "num_samples": length.num_samples, "precision": config.precision}
    about |= {"weights": weights, "setting": setting, "environment": environment()}
    if length.name:
        about |= sizes().loc[length.label].map(int).to_dict()
    return about


def _read_records(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={"fact_depth": ["", "nan"]})


def length_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by task and length, the rule in a column.

    Returns: task, length (where lengths have names), num_segments, num_tokens (where prompts differ, as facts alone do:
             their mean), rule, n, accuracy, low, high.
    """
    if "length" in records:
        records = records.assign(length=_by_name(records["length"]))
    by = ["task", "length" if "length" in records else "num_segments", "rule"]
    others = [name for name in BY_LENGTH if name not in by]
    sizes = records.groupby(by, observed=True)[others].mean().round().astype(int).reset_index()
    table = sizes.merge(accuracy_table(records, by), on=by)[[*by[:2], *others, "rule", "n", *SHARES]]
    return table.astype({"length": str}) if "length" in table else table


def _by_name(names: pd.Series) -> pd.Categorical:
    return pd.Categorical(names, [name for name in LENGTHS if name in set(names)], ordered=True)


def describe_lengths(lengths: list[Length], builder: BabilongBuilder, split: str = "test") -> pd.DataFrame:
    """Return what lengths are besides tokens, a row each.

    Returns: length (the label), num_characters of a prompt (by the mean characters per token of a few prompts),
             num_fitting of num_problems: how many problems' facts fit. The others cannot be asked at that length,
             so that the problems of short lengths are easier ones.
    """
    table = count_fitting(builder, [length.size for length in lengths], split)
    found = [
        _num_characters(builder, length.size, split) if fitting else 0
        for length, fitting in zip(lengths, table["num_fitting"], strict=True)
    ]
    table.insert(0, "length", [length.label for length in lengths])
    table.insert(1, "num_characters", found)
    return table


def write_tables(config: Config, records: pd.DataFrame, builder: BabilongBuilder, folder: Path) -> pd.DataFrame:
    """Write accuracy_by_length.csv and accuracy_by_depth.csv of records and return the former.

    Returns: of `length_table`, where lengths have names with the columns of `describe_lengths`.
    """
    table = length_table(records)
    if "length" in table:
        sizes = describe_lengths(lengths_asked(config), builder, config.test_split)
        table = table.merge(sizes, on="length", how="left")
    table.to_csv(folder / "accuracy_by_length.csv", index=False)
    depth_table(records).to_csv(folder / "accuracy_by_depth.csv", index=False)
    return table


def count_fitting(builder: BabilongBuilder, sizes: list[int | None], split: str = "test") -> pd.DataFrame:
    """Return how many problems of a split fit prompts of these tokens (None: any do): num_fitting, num_problems.

    Of recorded problems all are counted, of generated ones the first `NUM_PROBLEMS`.
    """
    problems = first_problems(builder.problems, split, builder.problems.num_problems(split) or NUM_PROBLEMS)
    needed = np.array([builder.num_fixed_tokens(problem) for problem in problems])
    fitting = [len(needed) if size is None else int((needed <= size).sum()) for size in sizes]
    return pd.DataFrame({"num_fitting": fitting, "num_problems": len(needed)})


def _num_characters(builder: BabilongBuilder, size: int | None, split: str) -> int:
    """Return the characters of a prompt, from the mean of a few prompts of that length or of `MEASURED_TOKENS`."""
    measured = None if size is None else min(size, MEASURED_TOKENS)
    prompts = [builder.sample(split, index, measured).prompt for index in range(NUM_MEASURED)]
    characters = sum(len(builder.tokenizer.decode(prompt.tolist())) for prompt in prompts)
    tokens = sum(len(prompt) for prompt in prompts)
    return round(characters / NUM_MEASURED if size is None else size * characters / tokens)


def summary(records: pd.DataFrame) -> str:
    """Return one line per length: tokens, segments, accuracy, interval, n and the scoring rule."""
    rows = length_table(records).itertuples()
    return "\n".join(
        f"{row.num_tokens:>10,} tokens {row.num_segments:>6} segments: {row.rule} {row.accuracy:.3f} "
        f"[{row.low:.3f}, {row.high:.3f}] n={row.n}" for row in rows
    )  # fmt: skip


def _records_path(config: Config, folder: Path, length: Length, weights: str) -> Path:
    """Name a file by everything that its numbers depend on; of a checkpoint that is its weights, not its name."""
    of_samples = {name: getattr(config, name) for name in OF_SAMPLES}
    model = [of_samples, weights] if config.checkpoint else identity(config)
    what = [model, dataclasses.asdict(length), config.precision, config.scoring]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=5).hexdigest()
    return folder / config.test_split / f"{length.label.replace(' ', '-')}-{digest}.csv"


def reading_table(config: Config, folder: Path) -> pd.DataFrame:
    """Return how fast and in how much memory `evaluate_lengths` read each length when it did.

    Returns: length (the label), num_segments, num_tokens (of a prompt; 0: facts alone), tokens_per_second (of all
             processes together, everything included), peak_resident_mb (of the largest process),
             peak_cuda_mb (what torch had allocated on a GPU), device, dtype, is_compiled, batch_size (prompts side by
             side), num_read (tokens). Lengths that were read before this was measured are missing.
    """
    weights, rows = weights_digest(model_folder(config), config.memory_grid), []
    for length in lengths_asked(config):
        path = _records_path(config, folder, length, weights).with_suffix(".json")
        reading = read_json(path).get("reading") if path.is_file() else None
        if reading and reading["num_read"]:  # 0: all answers were there already when it was gone on with
            speed = round(reading["num_read"] / max(reading["seconds"], 1e-3))
            size = {"length": length.label, "num_segments": length.num_segments, "num_tokens": length.size or 0}
            rows.append({**size, "tokens_per_second": speed, **reading})
    return pd.DataFrame(rows, columns=READING)


def depth_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by length (or number of segments) and `depth`, the quarter of the earliest supporting fact."""
    quarters = pd.cut(records["fact_depth"], [-0.001, 0.25, 0.5, 0.75, 1.0], labels=QUARTERS)
    if "length" not in records:
        return accuracy_table(records.assign(depth=quarters), ["num_segments", "depth"])
    return accuracy_table(records.assign(depth=quarters, length=_by_name(records["length"])), ["length", "depth"])


def plot_lengths(config: Config, records: pd.DataFrame, problems, folder: Path, *, has_published: bool = False):
    """Draw accuracy by length with what answers without reading get, and save it as accuracy_by_length.png.

    Args:    records: of `evaluate_lengths`;  folder: where the figure goes;
             problems: of the builder; without training problems there is no answer without reading to draw;
             has_published: draw published curves beside: at lengths by name `rmtkit.results.published_series`, in
             segments the authors' log of the task.
    Returns: the figure.
    """
    from rmtkit.plotting import plot_accuracy_by_length, plot_results

    table, trained = length_table(records), max(config.segments)
    floor = {}
    if problems.has_split("train"):  # a folder of recorded test problems is enough for the rest
        answers = baseline_records(problems, config.test_split)
        floor = accuracy_table(answers, "baseline").set_index("baseline")["accuracy"].to_dict()
    if "length" in table:
        sizes = dict.fromkeys(config.tasks, trained * config.segment_size)
        published = published_series() if has_published else None
        figure = plot_results(
            table.assign(name="this model"), published, trained=sizes, baselines=floor, caption=SOURCES * has_published
        )
    else:
        series = "task" if len(config.tasks) > 1 else None
        published = published_accuracy(config.task) if has_published and not series else None
        figure = plot_accuracy_by_length(
            table, series=series, trained_segments=trained, baselines=floor, published=published
        )
    figure.savefig(folder / "accuracy_by_length.png", dpi=120)
    return figure


# ---------------------------------------------------------------------- answers without reading


def first_problems(problems, split: str, num_problems: int = NUM_PROBLEMS) -> list[Problem]:
    """Return the first problems of a split, as many as there are at most."""
    available = problems.num_problems(split)
    return [problems.problem(split, i) for i in range(min(num_problems, available or num_problems))]


def baseline_records(problems, split: str = "test", *, num_problems: int = NUM_PROBLEMS) -> pd.DataFrame:
    """Answer the problems of a split without reading them: what a model has to beat.

    "majority answer" is the most frequent answer of a task in as many training problems; "last answer named" is the
    word among the task's answers (a place, in qa1) that the facts name last.

    Returns: a row per problem and baseline: task, baseline, prediction, target, is_correct.
    """
    answers: dict[str, Counter] = {}
    for problem in first_problems(problems, "train", num_problems):
        answers.setdefault(problem.task, Counter())[problem.questions[0].answer] += 1
    rows = []
    for problem in first_problems(problems, split, num_problems):
        target, known = problem.questions[0].answer, answers.get(problem.task, Counter())
        majority = max(known, key=known.get, default=None)
        predictions = {"majority answer": majority, "last answer named": _last_named(problem, set(known))}
        for name, prediction in predictions.items():
            row = {"task": problem.task, "baseline": name, "prediction": prediction, "target": target}
            rows.append({**row, "is_correct": prediction == target})
    return pd.DataFrame(rows)


def _last_named(problem: Problem, labels: set[str]) -> str | None:
    words = " ".join(problem.facts).replace(".", " ").split()
    return next((word for word in reversed(words) if word in labels), None)

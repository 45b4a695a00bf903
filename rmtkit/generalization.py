"""Length generalisation of a trained model: the test split at growing lengths, kept on disk as it comes in.

Kuratov et al. 2024 (2402.10790), figure 9: accuracy by length, far beyond the lengths of training. With several
processes (`rmtkit.processes`) each answers its share of the samples; the records are those of one process.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

from rmtkit.babi import Problem
from rmtkit.babilong import BabilongBuilder
from rmtkit.config import Config, identity
from rmtkit.evaluation import accuracy_table, evaluate
from rmtkit.experiment import autocast, prompt_size
from rmtkit.processes import from_main, gather, is_main, num_processes, share
from rmtkit.progress import Display

BY_LENGTH = ["task", "num_segments", "num_tokens"]
QUARTERS = ["0-25 %", "25-50 %", "50-75 %", "75-100 %"]  # of the sample, where its earliest supporting fact is
NUM_PROBLEMS = 1000  # problems behind a table, unless asked otherwise


def evaluate_lengths(config: Config, model, tokenizer, builder: BabilongBuilder, folder: Path) -> pd.DataFrame:
    """Evaluate `test_samples` of the test split at every length in `test_segments`.

    A length that is done is kept as a CSV file under `folder`/test and not computed again.

    Returns: the records of `rmtkit.evaluation.evaluate`, all lengths together.
    """
    display, parts = Display(), []
    for num_segments in config.test_segments:
        path = _records_path(config, folder, num_segments)
        if not from_main(path.is_file):
            rows = gather(_evaluate_length(config, model, tokenizer, builder, num_segments, display))
            if is_main():
                _write_records(pd.DataFrame(rows).sort_values("index", ignore_index=True), path)
        parts.append(from_main(lambda path=path: _read_records(path)))
    records = pd.concat(parts, ignore_index=True)
    display.show(summary(records), force=True)
    return records


def _write_records(records: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    records.to_csv(path.with_suffix(".partial"), index=False)
    path.with_suffix(".partial").rename(path)


def _read_records(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={"fact_depth": ["", "nan"]})


def summary(records: pd.DataFrame) -> str:
    """Return one line per length: tokens, segments, accuracy, interval, n and the scoring rule."""
    rows = accuracy_table(records, [*BY_LENGTH, "rule"]).itertuples()
    return "\n".join(
        f"{row.num_tokens:>9,} tokens {row.num_segments:>6} segments: {row.rule} {row.accuracy:.3f} "
        f"[{row.low:.3f}, {row.high:.3f}] n={row.n}" for row in rows
    )  # fmt: skip


def _records_path(config: Config, folder: Path, num_segments: int) -> Path:
    """Name a file by everything that its numbers depend on."""
    how = [config.precision, config.scoring, config.test_samples]
    what = [identity(config), config.checkpoint, num_segments, *how]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=5).hexdigest()
    return folder / "test" / f"{num_segments}-segments-{digest}.csv"


def _evaluate_length(config, model, tokenizer, builder, num_segments, display) -> list[dict]:
    """Return the records of this process's share of the samples of one length."""
    size = prompt_size(config, num_segments)
    fitting = builder.num_fitting("test", size)
    num_samples = config.test_samples if fitting is None else min(config.test_samples, fitting)
    samples = (builder.sample("test", index, size) for index in share(range(num_samples)))
    done, started = 0, time.monotonic()

    def report(num_tokens: int) -> None:
        nonlocal done
        done += num_tokens * num_processes()
        rate = done / (time.monotonic() - started)
        left = max(0.0, num_samples * (size or 0) - done) / rate
        display.show(f"{num_segments} segments: {done:,} tokens read, {rate:,.0f} tokens/s, {left:.0f} s left")

    with torch.inference_mode(), autocast(config.precision, model.device):
        records = evaluate(
            model, samples, tokenizer, batch_size=config.test_batch_size, rule=config.scoring, on_batch=report
        )
    return records.to_dict("records")


def depth_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by number of segments and `depth`, the quarter that the earliest supporting fact is in."""
    quarters = pd.cut(records["fact_depth"], [-0.001, 0.25, 0.5, 0.75, 1.0], labels=QUARTERS)
    return accuracy_table(records.assign(depth=quarters), ["num_segments", "depth"])


def plot_lengths(config: Config, records: pd.DataFrame, problems, folder: Path, *, published=None):
    """Draw accuracy by length with what answers without reading get, and save it as accuracy_by_length.png.

    Args:    records: of `evaluate_lengths`;  problems: of the builder;  folder: where the figure goes;
             published: rows of `rmtkit.experiment.published_accuracy` to show beside, or None.
    Returns: the figure.
    """
    from rmtkit.plotting import plot_accuracy_by_length

    floor = accuracy_table(baseline_records(problems), "baseline").set_index("baseline")["accuracy"]
    figure = plot_accuracy_by_length(
        accuracy_table(records, BY_LENGTH),
        series="task" if len(config.tasks) > 1 else None,
        trained_segments=max(config.segments),
        baselines=floor.to_dict(),
        published=published,
    )
    figure.savefig(folder / "accuracy_by_length.png", dpi=120)
    return figure


# ---------------------------------------------------------------------- answers without reading


def first_problems(problems, split: str, num_problems: int = NUM_PROBLEMS) -> list[Problem]:
    """Return the first problems of a split, as many as there are at most."""
    available = problems.num_problems(split)
    return [problems.problem(split, i) for i in range(min(num_problems, available or num_problems))]


def baseline_records(problems, *, num_problems: int = NUM_PROBLEMS) -> pd.DataFrame:
    """Answer test problems without reading them: what a model has to beat.

    "majority answer" is the most frequent answer of a task in as many training problems; "last answer named" is the
    word among the task's answers (a place, in qa1) that the facts name last.

    Returns: a row per problem and baseline: task, baseline, prediction, target, is_correct.
    """
    answers: dict[str, Counter] = {}
    for problem in first_problems(problems, "train", num_problems):
        answers.setdefault(problem.task, Counter())[problem.questions[0].answer] += 1
    rows = []
    for problem in first_problems(problems, "test", num_problems):
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

"""What a finished run came to, on one page: curves, tables, answers right and wrong, and how to train on.

Everything is read from the run folder; samples are built again from their index, nothing is answered again.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

import pandas as pd

from rmtkit.babilong import Sample
from rmtkit.config import Config
from rmtkit.continuation import continued, notebook_command, terminal_command
from rmtkit.evaluation import accuracy_table
from rmtkit.experiment import Experiment
from rmtkit.generalization import baseline_records, length_table, lengths_asked
from rmtkit.intervals import in_percent
from rmtkit.lens import render_sample
from rmtkit.live import training_png
from rmtkit.runs import Run

EXAMPLE_TOKENS = 240  # of background that an example shows
STYLE = "max-width:60em;"
TABLES = "<style>th, td {text-align: left; padding: 2px 14px 2px 0;}</style>"


def summarize(experiment: Experiment, records: pd.DataFrame, *, num_examples: int = 2) -> str:
    """Return one page of HTML about a finished run.

    Args: records: of `rmtkit.generalization.evaluate_lengths`;  num_examples: of right answers, and of wrong ones.
    """
    config, run = experiment.config, experiment.run
    image = base64.b64encode(training_png(run)).decode()
    parameters = continued(config, run)
    commands = html.escape(f"{notebook_command(parameters)}\n\n{terminal_command(parameters)}")
    return "".join(
        [
            f"<h3>{html.escape(config.task_name)}, preset {config.preset}, seed {config.seed}</h3>",
            f"<p>{html.escape(str(run.folder))}</p>",
            f'<p><img alt="learning curves" src="data:image/png;base64,{image}"></p>',
            _table("Stages of the curriculum (validation split)", stage_table(run)),
            _table("Test", shown_tests(records)),
            *(_examples(experiment, records, is_correct, num_examples) for is_correct in (True, False)),
            f"<h4>To train on from here, with {parameters['segments']} segments</h4>",
            f'<pre style="white-space:pre-wrap;{STYLE}">{commands}</pre>',
        ]
    )


def write_summary(run: Run, page: str) -> Path:
    """Write what `summarize` has made to summary.html in the run folder and return its path."""
    path, title = run.folder / "summary.html", html.escape(f"{run.config.task_name}, rmtkit")
    head = f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title>{TABLES}</head>'
    body = f'<body style="font-family:sans-serif;font-size:14px;margin:2em;">{page}</body></html>\n'
    path.with_suffix(".partial").write_text(head + body, encoding="utf-8")
    path.with_suffix(".partial").rename(path)
    return path


# ---------------------------------------------------------------------- tables


def stage_table(run: Run) -> pd.DataFrame:
    """Return what each stage of a finished run took and reached.

    Returns: a row per stage: stage (from 1), segments, updates, update kept, exact match there in % with its 95 %
             interval and n, minutes; where the run has a log, tokens read and tokens/s of training without validation.
    """
    metrics, log, rows = pd.DataFrame(run.metrics()), pd.DataFrame(run.training_log()), []
    for index, stage in enumerate(run.result()["stages"]):
        row = {"stage": index + 1, "segments": stage["num_segments"], "updates": stage["steps"]}
        row |= {"update kept": stage["best_step"]}
        kept = metrics[(metrics["stage"] == index) & (metrics["step"] == stage["best_step"])]
        for found in kept.itertuples():
            row |= {"exact match, %": in_percent(found.exact_match, found.low, found.high), "n": found.n}
        row["minutes"] = f"{stage['seconds'] / 60:.1f}"
        if len(log):
            laps = log[log["stage"] == index]
            tokens, seconds = int(laps["num_tokens"].sum()), laps["seconds"].sum()
            row |= {"tokens read": f"{tokens:,}", "tokens/s": f"{tokens / max(seconds, 1e-9):,.0f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def shown_tests(records: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by task and length for a reader: tokens, segments, accuracy in % with its interval, n, rule."""
    table = length_table(records)
    score = [in_percent(row.accuracy, row.low, row.high) for row in table.itertuples()]
    columns = {"task": table["task"], **({"length": table["length"]} if "length" in table else {})}
    tokens = table["num_tokens"].map("{:,}".format)
    columns |= {"tokens": tokens, "segments": table["num_segments"], "accuracy, %": score}
    return pd.DataFrame({**columns, "n": table["n"], "rule": table["rule"]})


def _table(title: str, table: pd.DataFrame) -> str:
    return f"<h4>{html.escape(title)}</h4>{table.to_html(index=False, border=0, justify='left')}"


# ---------------------------------------------------------------------- examples


def choose_examples(records: pd.DataFrame, is_correct: bool, number: int) -> pd.DataFrame:
    """Return a few records: of right answers the longest samples, of wrong ones the shortest."""
    rows = records[records["is_correct"] == is_correct]
    return rows.sort_values(["num_tokens", "index"], ascending=[not is_correct, True]).head(number)


def rebuild_sample(experiment: Experiment, record) -> Sample:
    """Return the test sample that a record (a row of the records) is about."""
    sizes = {(length.name or length.num_segments): length.size for length in lengths_asked(experiment.config)}
    named = getattr(record, "length", None) or record.num_segments
    return experiment.builder.sample(experiment.config.test_split, record.index_of_sample, sizes.get(named))


def _examples(experiment: Experiment, records: pd.DataFrame, is_correct: bool, number: int) -> str:
    what = "Right answers, at the longest lengths" if is_correct else "Wrong answers, at the shortest lengths"
    count, total = int((records["is_correct"] == is_correct).sum()), len(records)
    chosen = choose_examples(records, is_correct, number).rename(columns={"index": "index_of_sample"})
    pages = [
        render_sample(rebuild_sample(experiment, row), experiment.tokenizer, max_tokens=EXAMPLE_TOKENS,
                      segment_size=experiment.config.segment_size, prediction=row.prediction,
                      is_correct=is_correct)
        for row in chosen.itertuples()
    ]  # fmt: skip
    shown = [f'<div style="margin-bottom:2em;">{page}</div>' for page in pages]
    return f"<h4>{what} ({count:,} of {total:,})</h4>{''.join(shown)}"


# ---------------------------------------------------------------------- what we see


def findings(experiment: Experiment, records: pd.DataFrame) -> str:
    """Return what a finished run shows, as Markdown: sentences whose numbers are computed here."""
    config, run = experiment.config, experiment.run
    sentences = [_validation_sentence(run), *_test_sentences(config, records)]
    sentences.append(_floor_sentence(config, records, baseline_records(experiment.builder.problems, config.test_split)))
    log = pd.DataFrame(run.training_log())
    if len(log):
        tokens, seconds = int(log["num_tokens"].sum()), log["seconds"].sum()
        speed = f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"
        sentences.append(f"Training read {tokens:,} tokens (padding included) in {seconds / 60:.1f} minutes: {speed}.")
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _validation_sentence(run: Run) -> str:
    table = stage_table(run)
    first, last = table.iloc[0], table.iloc[-1]
    text = f"On the validation split the last stage ({last['segments']} segments) reached {last['exact match, %']} %"
    text += f" (n={last['n']}) after {last['update kept']} updates"
    before = f", the first ({first['segments']} segments) {first['exact match, %']} %" if len(table) > 1 else ""
    return f"{text}{before}."


def _test_sentences(config: Config, records: pd.DataFrame) -> list[str]:
    table, longest = accuracy_table(records, "num_segments"), max(config.segments)
    trained, beyond = (table[mask] for mask in (table["num_segments"] <= longest, table["num_segments"] > longest))
    found = []
    if len(trained):
        row = trained.iloc[-1]
        found.append(f"In the test, at {int(row.num_segments)} segments (trained: up to {longest}), {_scored(row)}.")
    if len(beyond):
        row = beyond.iloc[-1]
        times = f"{row.num_segments / longest:g} times the longest trained"
        found.append(f"At {int(row.num_segments)} segments, {times}, {_scored(row)}.")
    return found


def _scored(row) -> str:
    return f"{in_percent(row.accuracy, row.low, row.high)} % of n={int(row.n)} answers are right"


def _floor_sentence(config: Config, records: pd.DataFrame, floor: pd.DataFrame) -> str:
    """Compare each length with the better of two answers without reading."""
    floors = accuracy_table(floor, "baseline").sort_values("accuracy")
    best, table = floors.iloc[-1], accuracy_table(records, "num_segments")
    names = " and ".join(f"{100 * row.accuracy:.0f} % ({row.baseline})" for row in floors.itertuples())
    above = table[table["low"] > best.accuracy]
    text = f"Answers without reading get {names}, n={int(best.n):,}; the model's interval lies above both at"
    return f"{text} {len(above)} of {len(table)} tested lengths."

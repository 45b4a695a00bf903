"""Speed and memory, measured as ratios within one run: machines are shared and noisy.

Every benchmark prints what it measured and ends with one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmtkit.config import Config

if TYPE_CHECKING:
    from rmtkit.babi.fidelity import Report

LONG, LONGEST = 512 * 1024, 10_000_000  # tokens
STREAM_SIZES = (10_000, 1_000_000)  # tokens


def bench_data(config: Config) -> dict:
    """Compare assembling a sample of 512k tokens from the store with tokenising its text on the fly.

    The text is tokenised in the two ways people do: a call per sentence (the authors' code), and one batched call.
    """
    from rmtkit.experiment import open_builder, open_problems, open_tokenizer

    tokenizer = open_tokenizer(config)
    open_builder(config, tokenizer, open_problems(config))  # build the store first, if it is not there
    builder = open_builder(config, tokenizer, open_problems(config))
    longest = _seconds(lambda: builder.sample("test", 0, LONGEST))
    assembled = min(_seconds(lambda i=i: builder.sample("test", i, LONG)) for i in range(1, 6))
    tokens, starts = builder.background.passage("test", LONG, np.random.default_rng(0))
    sentences = tokenizer.batch_decode([piece.tolist() for piece in np.split(tokens, starts[1:])])
    batched = min(_seconds(lambda: tokenizer(sentences, add_special_tokens=False)) for _ in range(2))
    one_by_one = _seconds(lambda: [tokenizer(sentence, add_special_tokens=False) for sentence in sentences])
    print(f"sample of {LONG:,} tokens from the store: {assembled * 1e3:.2f} ms (best of 5)")
    print(
        f"  tokenised on the fly, one batched call: {batched * 1e3:,.0f} ms, {batched / assembled:,.0f} times as long"
    )
    print(
        f"  tokenised on the fly, sentence by sentence: {one_by_one * 1e3:,.0f} ms, {one_by_one / assembled:,.0f} times"
    )
    print(f"first sample of {LONGEST:,} tokens: {longest:.3f} s")
    return {
        "bench": "data", "background": config.background, "tokens": LONG, "assembled_s": assembled,
        "tokenised_batched_s": batched, "tokenised_one_by_one_s": one_by_one,
        "ratio_batched": batched / assembled, "ratio_one_by_one": one_by_one / assembled,
        "first_10m_s": longest,
    }  # fmt: skip


def bench_memory(config: Config) -> dict:
    """Compare the peak memory of streaming one sample of 1M tokens with that of 10k tokens, a fresh process each."""
    peaks = {}
    for size in STREAM_SIZES:
        command = [sys.executable, "-m", "rmtkit", "stream", f"--num_tokens={size}", f"--backbone={config.backbone}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[size] = json.loads(output.splitlines()[-1])
        print(f"{size:>9,} tokens: peak {peaks[size]['peak_mb']:.0f} MB, {peaks[size]['tokens_per_s']:,.0f} tokens/s")
    short, long = (peaks[size]["peak_mb"] for size in STREAM_SIZES)
    print(f"the long one takes {long / short:.3f} times the memory of the short one")
    return {
        "bench": "memory",
        "peak_mb": {str(size): peaks[size]["peak_mb"] for size in STREAM_SIZES},
        "ratio": long / short,
    }


def stream_once(config: Config, num_tokens: int) -> dict:
    """Answer one sample of `num_tokens` and return the peak memory of this process and the speed."""
    import resource

    import torch

    from rmtkit.evaluation import answer
    from rmtkit.experiment import autocast, build_model, open_builder, open_problems, open_tokenizer

    tokenizer = open_tokenizer(config)
    builder = open_builder(config, tokenizer, open_problems(config))
    model = build_model(config).eval()
    sample = builder.sample("test", 0, num_tokens)
    with torch.inference_mode(), autocast(config.precision, model.device):
        seconds = _seconds(lambda: answer(model, [sample], tokenizer))
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"num_tokens": num_tokens, "peak_mb": peak, "tokens_per_s": num_tokens / seconds}


def bench_babi(config: Config, *, num_stories: int = 2000, output: str | None = None) -> dict:
    """Compare generated stories of all bAbI tasks with the official files in `babi_path`.

    Args:   output: a CSV file, one row per task and distribution.
    Returns: with the failures by task under "failed"; empty if all have passed.
    Raises: ValueError without files to compare with.
    """
    from rmtkit.babi import TASKS
    from rmtkit.babi.fidelity import check_task

    if config.babi_path is None:
        raise ValueError("babi_path is not given; bench babi compares with the official files, give their folder")
    if num_stories < 1:
        raise ValueError(f"num_stories is {num_stories}, expected 1 or more")
    if output and not Path(output).parent.is_dir():
        raise ValueError(f"output is {output!r}, expected a file in a folder that exists")
    _print_babi_heading()
    reports = []
    for task in TASKS:
        reports.append(check_task(task, config.babi_path, num_stories=num_stories, seed=config.seed))
        _print_babi_row(reports[-1])
    if output:
        _write_babi_table(reports, Path(output))
    return {
        "bench": "babi", "num_stories": num_stories, "seed": config.seed,
        **_summarize_babi(reports),
        "questions_per_s": {report.task: round(report.questions_per_s) for report in reports},
        "notes": [report.note for report in reports if report.note],
        "failed": {report.task: report.failures for report in reports if report.failures},
    }  # fmt: skip


BENCHMARKS: dict[str, Callable[..., dict]] = {"data": bench_data, "memory": bench_memory, "babi": bench_babi}


def _print_babi_heading() -> None:
    from rmtkit.babi.fidelity import DISTRIBUTIONS

    print(
        "Generated stories to the official training file: total variation distance x 1000 / largest distance by chance."
        "\nIn brackets: generated samples of the size of the test file to the training file, the test file to it.\n"
    )
    print("task  stories    sets", *(f"{name:>17}" for name in DISTRIBUTIONS), "questions per CPU second", sep="  ")


def _print_babi_row(report: Report) -> None:
    """Print the row of a task and, below it, what has failed."""
    cells = [
        f"{1e3 * each.distance:>4.0f} /{1e3 * each.allowed:>3.0f} ({1e3 * each.small:.0f}, {1e3 * each.test:.0f})"
        for each in report.comparisons
    ]
    stories, sets = f"{report.num_generated}:{report.num_train}", "differ" if report.differences else "equal"
    verdict = "FAILED" if report.failures else "passed"
    row = [f"{report.task:4}", f"{stories:>10}", f"{sets:6}", *(f"{cell:>17}" for cell in cells)]
    print(*row, f"{report.questions_per_s:>9,.0f}", verdict, sep="  ", flush=True)
    for name, items in report.differences.items():
        print(f"      {name}: {', '.join(items)}")
    for each in report.comparisons:
        if not each.has_passed:
            print(f"      {each.distribution}: {each.largest}")
    if report.note:
        print(f"      {report.note}")


def _summarize_babi(reports: list[Report]) -> dict:
    """Print and return what all comparisons say together; those that nothing varies in say nothing."""
    from rmtkit.babi.fidelity import ROUNDING

    varying = [each for report in reports for each in report.comparisons if each.allowed > ROUNDING]
    num_nearer = sum(each.small <= each.test for each in varying)
    least_chance = min((each.chance for each in varying), default=1.0)
    print(
        f"\nOf {len(varying)} distributions that vary, generated samples are nearer to the training file than the test "
        f"file is in {num_nearer}.\nSmallest share of random splits that are as far apart: {least_chance:.4f}"
    )
    return {"num_varying": len(varying), "num_nearer_than_test": num_nearer, "least_chance": least_chance}


def _write_babi_table(reports: list[Report], path: Path) -> None:
    import pandas as pd

    rows = [
        {
            "task": report.task, "num_generated": report.num_generated, "num_train": report.num_train,
            "num_test": report.num_test, "questions_per_s": round(report.questions_per_s),
            **dataclasses.asdict(each), "has_passed": each.has_passed,
        }
        for report in reports
        for each in report.comparisons
    ]  # fmt: skip
    unfinished = path.with_suffix(".partial")
    pd.DataFrame(rows).to_csv(unfinished, index=False, float_format="%.5f")
    unfinished.replace(path)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

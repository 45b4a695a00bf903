"""Generated bAbI stories, against the official files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkit.config import Config

if TYPE_CHECKING:
    from rmtkit.babi.fidelity import Report


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

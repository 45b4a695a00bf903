"""What an evaluation at growing lengths says, in sentences: every number of them is of the tables given."""

from __future__ import annotations

import math

import pandas as pd

from rmtkit.config import Config
from rmtkit.generalization import QUARTERS, length_table
from rmtkit.intervals import wilson_interval

COUNTED = "Shares are exact match with 95 % Wilson intervals; differences have Newcombe's (1998, method 10)."


def length_findings(config: Config, records: pd.DataFrame, by_depth: pd.DataFrame, reading: pd.DataFrame) -> str:
    """Return what notebook 03 has found, a Markdown list: accuracy at and beyond the trained length, depth, memory.

    Args:   records: of `rmtkit.generalization.evaluate_lengths`;  by_depth: of `depth_table`;
            reading: of `reading_table`.
    Raises: ValueError if there are no records.
    """
    if records.empty:
        raise ValueError("there are no records; nothing was evaluated")
    table = length_table(records)
    table = table.assign(
        label=table["length"] if "length" in table else table["num_segments"].map("{:,} segments".format)
    )
    trained = max(config.segments)
    lines = [line for task, rows in table.groupby("task", sort=False) for line in _by_length(task, rows, trained)]
    lines += [_by_depth(by_depth, table, trained), _by_memory(reading), COUNTED]
    return "\n".join(f"- {line}" for line in lines)


def difference(first: pd.Series, second: pd.Series) -> tuple[float, float, float]:
    """Return the difference of two shares and its 95 % interval (Newcombe 1998, method 10: of the Wilson intervals).

    Args: first, second: with accuracy, low and high.
    Trap: for independent samples. Two lengths partly ask the same questions, for which the interval is rather too wide.
    """
    d = first["accuracy"] - second["accuracy"]
    below = math.hypot(first["accuracy"] - first["low"], second["high"] - second["accuracy"])
    above = math.hypot(first["high"] - first["accuracy"], second["accuracy"] - second["low"])
    return d, d - below, d + above


def _by_length(task: str, table: pd.DataFrame, trained: int) -> list[str]:
    """Return a sentence about the longest trained length and one about those beyond it."""
    table = table.sort_values("num_tokens")
    inside, beyond = table[table["num_segments"] <= trained], table[table["num_segments"] > trained]
    trained_to = f"{task}, trained on samples of up to {trained:,} segments"
    if inside.empty:
        return [f"{trained_to}: no length that was trained was tested.", *_at_longest(beyond, trained)]
    base = inside.iloc[-1]
    lines = [f"{trained_to}: at {_place(base)} {_share(base)}."]
    if beyond.empty:
        return [*lines, "Nothing longer was tested."]
    return [*lines, *_at_longest(beyond, trained), _first_below(base, beyond)]


def _at_longest(beyond: pd.DataFrame, trained: int) -> list[str]:
    longest = beyond.iloc[-1]
    times = _times(longest["num_segments"], trained)
    return [f"At the longest length tested, {_place(longest)}, {times} times the longest trained: {_share(longest)}."]


def _first_below(base: pd.Series, beyond: pd.DataFrame) -> str:
    """Return at which length accuracy is first below that of the longest trained one beyond chance, if anywhere."""
    found = [(row, difference(base, row)) for _, row in beyond.iterrows()]
    below = next(((row, each) for row, each in found if each[1] > 0), None)
    among = "" if len(found) == 1 else f" (of {len(found)} compared, which is not corrected for)"
    if below:
        where = f"The first length{among} that is below it beyond chance is {_place(below[0])}"
        return f"{where}: {_share(below[0])}, {_points(below[1])} less."
    number = len(found)
    nowhere = f"None of the {number} longer lengths is below it" if number > 1 else "The longer length is not below it"
    row, largest = max(found, key=lambda pair: pair[1][0])
    if largest[0] <= 0:
        return f"{nowhere}."
    return f"{nowhere} beyond chance; the largest loss is {_points(largest)}, at {_place(row)}."


def _by_depth(table: pd.DataFrame, by_length: pd.DataFrame, trained: int) -> str:
    """Return how facts of the first and the last quarter are answered, all lengths beyond the trained ones together."""
    names = "length" if "length" in table else "num_segments"
    beyond = by_length[by_length["num_segments"] > trained]
    number = beyond[names].nunique()
    where = "At all lengths together"
    if number:
        where = f"At the {number} lengths beyond the trained ones together" if number > 1 else "At the length beyond"
    rows = table[table[names].isin(beyond[names])] if number else table
    first, last = (_pooled(rows[rows["depth"] == quarter]) for quarter in (QUARTERS[0], QUARTERS[-1]))
    if first is None or last is None:
        return f"{where} no sample has its earliest supporting fact in the first, or in the last quarter."
    found = difference(last, first)
    verdict = "beyond chance" if found[1] > 0 or found[2] < 0 else "not beyond chance"
    return (
        f"{where}: with the earliest supporting fact in the first quarter of the sample {_share(first)}, "
        f"in the last quarter {_share(last)}. Last minus first: {_points(found)}, {verdict}."
    )


def _pooled(rows: pd.DataFrame) -> pd.Series | None:
    """Return accuracy, n and interval of several rows together; None of no samples."""
    n = int(rows["n"].sum())
    if not n:
        return None
    correct = round((rows["accuracy"] * rows["n"]).sum())
    low, high = wilson_interval(correct, n)
    return pd.Series({"accuracy": correct / n, "low": low, "high": high, "n": n})


def _by_memory(reading: pd.DataFrame) -> str:
    """Return how memory and speed change from the shortest to the longest length that was read in the same way."""
    ways = reading[reading["num_tokens"] > 0].groupby(["device", "dtype", "is_compiled"], sort=False)
    alike = max((rows.sort_values("num_tokens") for _, rows in ways), key=_spread, default=reading[:0])
    if len(alike) < 2:
        return "Memory and speed were not measured at two lengths that were read in the same way."
    name = "peak_cuda_mb" if alike["peak_cuda_mb"].notna().all() else "peak_resident_mb"
    short, long = alike.iloc[0], alike.iloc[-1]
    what = {"peak_cuda_mb": "memory allocated on the GPU", "peak_resident_mb": "resident memory of the process"}[name]
    return (
        f"Peak memory ({what}; {short['device']}, {short['dtype']}): {short[name]:,.1f} MB at {short['length']}, "
        f"{long[name]:,.1f} MB at {long['length']}: {long[name] / short[name]:.3f} times, for "
        f"{_times(long['num_tokens'], short['num_tokens'])} times the tokens; the largest of {len(alike)} lengths is "
        f"{alike[name].max() - alike[name].min():,.1f} MB above the smallest. Speed: "
        f"{short['tokens_per_second']:,.0f} and {long['tokens_per_second']:,.0f} tokens/s."
    )


def _times(large: float, small: float) -> str:
    """Write how many times as large: 1.5, 39, 4,883."""
    return f"{large / small:,.0f}" if large >= 10 * small else f"{large / small:.3g}"


def _spread(rows: pd.DataFrame) -> float:
    return rows["num_tokens"].max() / rows["num_tokens"].min()


def _place(row: pd.Series) -> str:
    """Write "4k (32 segments, 4,080 tokens)"."""
    segments = "" if "segments" in str(row["label"]) else f"{row['num_segments']:,} segments, "
    return f"{row['label']} ({segments}{row['num_tokens']:,} tokens)"


def _share(row: pd.Series) -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['accuracy']:.1f} % [{low:.1f}, {high:.1f}] of {row['n']:,.0f} answers are right"


def _points(found: tuple[float, float, float]) -> str:
    value, low, high = (100 * each for each in found)
    return f"{value:.1f} points [{low:.1f}, {high:.1f}]"

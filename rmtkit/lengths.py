"""The benchmark's lengths by name, in tokens of the model's own tokenizer.

4k is 4,096 tokens, 1M is 1,048,576, 10M is 10,000,000 and 0k the facts alone: with segments of 512 tokens 8, 2,048 and
19,532 segments, as Kuratov et al. 2024 count (2402.10790, the authors' log). The public sets (`rmtkit.public`) name
their lengths in thousands of GPT-2 tokens instead.
"""

from __future__ import annotations

import math
import re

TOKENS = {
    "0k": 0, **{f"{2**power}k": 2 ** (10 + power) for power in range(10)}, "1M": 2**20, "10M": 10_000_000
}  # fmt: skip
LENGTHS = tuple(TOKENS)
UNITS = {"": 1, "k": 2**10, "M": 2**20}
NUM_SAMPLES = {"128k": 500, "1M": 100, "10M": 20}  # of a length up to this one, unless asked otherwise


def lengths_between(shortest: str, longest: str) -> tuple[str, ...]:
    """Return the names of all lengths from one to another, both included. Raises: KeyError."""
    return tuple(name for name in LENGTHS if TOKENS[shortest] <= TOKENS[name] <= TOKENS[longest])


def default_samples(name: str) -> int:
    """Return how many samples a length is tested on unless asked otherwise."""
    return next(number for limit, number in NUM_SAMPLES.items() if TOKENS[name] <= TOKENS[limit])


def length_size(name: str) -> float:
    """Return what any length is sorted by, "2M" and "64" too: the tokens it names; other names stand last."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", str(name))
    return float(found[1]) * UNITS[found[2]] if found else math.inf

"""How sure a share of right answers is."""

from __future__ import annotations

import math


def wilson_interval(num_correct: int, num_samples: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927); z = 1.96 is 95 %.

    Raises: ValueError unless 0 <= num_correct <= num_samples and num_samples >= 1.
    """
    if not 0 <= num_correct <= num_samples or num_samples < 1:
        raise ValueError(f"{num_correct} correct of {num_samples}; expected 0 <= correct <= samples, 1 sample or more")
    share, z2 = num_correct / num_samples, z * z
    centre = (share + z2 / (2 * num_samples)) / (1 + z2 / num_samples)
    half = z / (1 + z2 / num_samples) * math.sqrt(share * (1 - share) / num_samples + z2 / (4 * num_samples**2))
    low = 0.0 if num_correct == 0 else centre - half  # which it is but for rounding
    high = 1.0 if num_correct == num_samples else centre + half
    return low, high


def in_percent(share: float, low: float, high: float) -> str:
    """Write a share 0..1 with its interval in per cent: "98.0 [95.1, 99.2]"."""
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

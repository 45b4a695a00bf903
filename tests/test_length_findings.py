"""What notebook 03 says it has found: the numbers of its tables, and nothing that they do not hold."""

import pandas as pd
import pytest

from rmtkit.config import resolve
from rmtkit.generalization import READING, depth_table
from rmtkit.intervals import wilson_interval
from rmtkit.length_findings import difference, length_findings

CONFIG = resolve({"segments": "2,16", "segment_size": 128})
SEGMENTS = {"0k": 1, "1k": 8, "2k": 16, "4k": 32, "8k": 64, "10M": 78125}
NOTHING_READ = pd.DataFrame(columns=READING)


def make_records(counts, depths=(0.1, 0.9), task="qa1"):
    """Return records with `correct` of `n` right at each length; right and wrong ones have the depths in turn."""
    rows = [
        {"task": task, "length": length, "num_segments": SEGMENTS[length], "num_tokens": 128 * SEGMENTS[length] - 16,
         "fact_depth": depths[i % len(depths)], "is_correct": i < correct, "rule": "exact_match"}
        for length, (correct, n) in counts.items() for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def findings(counts, reading=NOTHING_READ, config=CONFIG, **options):
    records = make_records(counts, **options)
    return length_findings(config, records, depth_table(records), reading).split("\n")


def share(correct, n):
    low, high = wilson_interval(correct, n)
    return pd.Series({"accuracy": correct / n, "low": low, "high": high, "n": n})


def make_reading(**columns):
    table = {"length": ["0k", "1k", "4k", "8k"], "num_tokens": [0, 1000, 4000, 8000], "device": "cpu",
             "peak_resident_mb": [400.0, 500.0, 520.0, 505.0], "dtype": "float32", "is_compiled": False,
             "tokens_per_second": [9, 5000, 6000, 7000], "peak_cuda_mb": None}  # fmt: skip
    return pd.DataFrame({**table, **columns})


@pytest.mark.parametrize(
    "first, second, low, high",
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((5, 56), (0, 29), -0.0381, 0.1926)],
)
def test_difference_has_the_interval_of_newcombe(first, second, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table II, method 10, examples (a), (b) and (d)."""
    d, *interval = difference(share(*first), share(*second))
    assert d == pytest.approx(first[0] / first[1] - second[0] / second[1])
    assert interval == pytest.approx([low, high], abs=2e-4)


def test_findings_name_the_longest_trained_length_and_the_longest_of_all():
    lines = findings({"0k": (10, 10), "2k": (98, 100), "4k": (96, 100), "8k": (19, 20)})
    assert lines[0] == (
        "- qa1, trained on samples of up to 16 segments: at 2k (16 segments, 2,032 tokens) "
        "98.0 % [93.0, 99.4] of 100 answers are right."
    )
    assert lines[1].startswith("- At the longest length tested, 8k (64 segments, 8,176 tokens), 4 times the longest")
    assert lines[1].endswith("trained: 95.0 % [76.4, 99.1] of 20 answers are right.")
    assert "4,883 times the longest trained" in findings({"2k": (9, 9), "10M": (9, 9)})[1]


def test_findings_say_where_accuracy_first_falls_beyond_chance():
    lines = findings({"2k": (98, 100), "4k": (95, 100), "8k": (60, 100)})
    assert (
        "The first length (of 2 compared, which is not corrected for) that is below it beyond chance is 8k" in lines[2]
    )
    assert "60.0 % [50.2, 69.1] of 100 answers are right, 38.0 points [27.7, 47.9] less." in lines[2]


def test_findings_say_that_no_length_falls_beyond_chance():
    lines = findings({"2k": (98, 100), "4k": (95, 100), "8k": (97, 100)})
    assert lines[2].startswith(
        "- None of the 2 longer lengths is below it beyond chance; the largest loss is 3.0 points"
    )
    assert lines[2].endswith(", at 4k (32 segments, 4,080 tokens).")
    one_longer = findings({"2k": (9, 9), "4k": (8, 9)})[2]
    assert one_longer.startswith("- The longer length is not below it beyond chance; the largest loss is 11.1 points")
    assert findings({"2k": (8, 9), "4k": (8, 9)})[2] == "- The longer length is not below it."
    assert findings({"2k": (8, 9), "4k": (8, 9), "8k": (9, 9)})[2] == "- None of the 2 longer lengths is below it."


def test_findings_of_what_was_not_tested_claim_nothing():
    assert findings({"0k": (10, 10), "2k": (98, 100)})[1] == "- Nothing longer was tested."
    only_longer = findings({"4k": (98, 100), "8k": (50, 100)})
    assert only_longer[0].endswith("no length that was trained was tested.")
    assert not any("beyond chance is" in line for line in only_longer)
    with pytest.raises(ValueError, match="nothing was evaluated"):
        length_findings(CONFIG, pd.DataFrame(), pd.DataFrame(), NOTHING_READ)


def test_findings_have_sentences_for_every_task():
    records = pd.concat([make_records({"2k": (9, 9), "4k": (9, 9)}, task=task) for task in ("qa1", "qa2")])
    text = length_findings(CONFIG, records, depth_table(records), NOTHING_READ)
    assert [text.count(f"{task}, trained on") for task in ("qa1", "qa2")] == [1, 1]


def test_findings_on_depth_pool_the_lengths_beyond_the_trained():
    counts = {"2k": (0, 50), "4k": (10, 20), "8k": (10, 20)}
    (line,) = [line for line in findings(counts) if "first quarter" in line]
    assert "At the 2 lengths beyond the trained ones together" in line
    assert line.count("50.0 % [29.9, 70.1] of 20 answers are right") == 2 and "0.0 points" in line
    assert line.endswith("not beyond chance.")


def test_findings_on_depth_say_which_quarter_is_better():
    records = make_records({"2k": (40, 40), "4k": (20, 40)})
    records["fact_depth"] = [0.9 if right else 0.1 for right in records["is_correct"]]
    text = length_findings(CONFIG, records, depth_table(records), NOTHING_READ)
    assert "At the length beyond" in text and "Last minus first: 100.0 points [77.2, 100.0], beyond chance." in text
    assert "no sample has its earliest supporting fact in the first" in "".join(
        findings({"2k": (9, 9), "4k": (9, 9)}, depths=(0.9,))
    )


def test_findings_compare_the_memory_of_lengths_that_were_read_alike():
    (line,) = [line for line in findings({"2k": (9, 9)}, make_reading()) if "Peak memory" in line]
    assert (
        "(resident memory of the process; cpu, float32): 500.0 MB at 1k, 505.0 MB at 8k: 1.010 times, for 8 times"
        in line
    )
    assert "the largest of 3 lengths is 20.0 MB above the smallest. Speed: 5,000 and 7,000 tokens/s." in line
    mixed = make_reading(is_compiled=[False, False, False, True])
    (line,) = [line for line in findings({"2k": (9, 9)}, mixed) if "Peak memory" in line]
    assert "500.0 MB at 1k, 520.0 MB at 4k: 1.040 times, for 4 times" in line


def test_findings_take_the_memory_of_the_gpu_where_it_was_measured():
    gpu = make_reading(peak_cuda_mb=[60.0, 70.0, 70.0, 70.0])
    (line,) = [line for line in findings({"2k": (9, 9)}, gpu) if "Peak memory" in line]
    assert "memory allocated on the GPU" in line and "70.0 MB at 1k, 70.0 MB at 8k: 1.000 times" in line


@pytest.mark.parametrize("number", [0, 2])
def test_findings_say_that_memory_was_not_measured(number):
    assert any("not measured at two lengths" in line for line in findings({"2k": (9, 9)}, make_reading()[:number]))


def test_findings_of_lengths_in_segments():
    records = make_records({"2k": (9, 9), "8k": (9, 9)}).drop(columns="length")
    text = length_findings(CONFIG, records, depth_table(records), NOTHING_READ)
    assert "at 16 segments (2,032 tokens) 100.0 %" in text and "64 segments (8,176 tokens), 4 times" in text

"""Benchmarks of training: both sides compute the same, memory is counted exactly, a run that differs is found."""

import dataclasses
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import rmtkit.bench.train
from rmtkit.bench.checkpointing import bench_checkpointing
from rmtkit.bench.measurement import MemoryGrowth, in_new_process, peak_allocated, peak_resident_mb
from rmtkit.bench.resume import bench_resume, differences, train_once
from rmtkit.bench.stream import bench_stream, largest_difference
from rmtkit.bench.train import TOLERANCE, Setting, bench_train, compare, largest_differences, make_batches
from rmtkit.cli import main
from rmtkit.config import resolve
from rmtkit.streaming import Reader, flops_per_segment

CPU = torch.device("cpu")
TINY = Setting(
    num_layers=2, width=64, max_segments=4, num_samples=8, num_heads=2, batch_size=2, segment_size=40,
    num_memory_tokens=16, vocab_size=100,
)  # fmt: skip


@pytest.fixture
def same_process(monkeypatch):
    """Measure in this process: starting one takes seconds. It may have been larger before, and so would not grow."""
    monkeypatch.setattr("rmtkit.bench.train.in_new_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(MemoryGrowth, "peak_mb", lambda growth: 2.0)


def test_in_new_process_runs_elsewhere_and_has_its_own_memory():
    assert in_new_process(os.getpid) != os.getpid()
    with_torch = peak_resident_mb()
    assert in_new_process(peak_resident_mb) < with_torch / 2


def growth_with_50_mb():
    growth = MemoryGrowth(CPU)
    torch.ones(12_500_000)
    return growth.peak_mb()


def test_memory_growth_is_that_of_the_work_alone():
    assert 45 < in_new_process(growth_with_50_mb) < 75


def test_peak_allocated_counts_what_is_there_at_the_same_time():
    def work():
        kept = torch.zeros(1000)
        for _ in range(3):
            torch.zeros(500)
        return kept

    assert peak_allocated(work, CPU) == 6000


def test_make_batches_have_the_same_samples_mixed_and_by_length():
    mixed, by_length = both = [make_batches(TINY, is_mixed=is_mixed) for is_mixed in (True, False)]
    samples = [sorted(row[row >= 0].tolist() for _, labels in batches for row in labels) for batches in both]
    assert samples[0] == samples[1] and len(samples[0]) == 8
    assert all(len(row) == TINY.num_labels for row in samples[0])
    assert all((labels[:, -1] != -100).all() for _, labels in by_length)  # nothing is padded
    assert not all((labels[:, -1] != -100).all() for _, labels in mixed)
    assert sorted(input_ids.shape[1] // TINY.segment_size for input_ids, _ in by_length) == [1, 2, 3, 4]


def test_straightforward_step_has_our_loss_and_gradients():
    found = largest_differences(TINY)
    assert max(found.values()) < TOLERANCE and found.keys() == {"loss", "gradients"}


def test_largest_differences_finds_a_wrong_step(monkeypatch):
    right = rmtkit.bench.train._loss
    monkeypatch.setattr(
        "rmtkit.bench.train._loss", lambda model, input_ids, labels: right(model, input_ids.flip(0), labels)
    )
    assert min(largest_differences(TINY).values()) > TOLERANCE


def test_compare_measures_every_side_and_its_ratio(same_process, capsys):
    result = compare(TINY)
    theirs, ours, checkpointed = result["sides"].values()
    assert theirs["segments"] > ours["segments"] == checkpointed["segments"] == 2.5
    speed = result["ratios"]["rmtkit"]["speed"]
    assert speed == pytest.approx(ours["samples_per_s"] / theirs["samples_per_s"])
    assert result["ratios"]["rmtkit"]["memory"] == 1.0
    assert f"rmtkit: {speed:.1f} times the samples per second" in capsys.readouterr().out


def test_bench_train_fails_when_the_sides_differ(same_process, monkeypatch):
    wrong = {"loss": 0.1, "gradients": 0.0}
    monkeypatch.setattr("rmtkit.bench.train.largest_differences", lambda setting: wrong)
    assert bench_train(resolve({}), size="narrow")["failed"] == {"narrow": wrong}


def test_compare_relates_training_to_a_large_product(same_process, monkeypatch, capsys):
    monkeypatch.setattr("rmtkit.bench.train.matmul_peak", lambda dtype, device, size: 1e15)
    result = compare(TINY)
    ours = result["sides"]["rmtkit"]
    flops = 3 * 2.5 * flops_per_segment(rmtkit.bench.train.make_model(TINY), 40) * ours["samples_per_s"]
    assert ours["flops"] == pytest.approx(flops) and result["share_of_peak"] == pytest.approx(flops / 1e15)
    assert "1,000,000 GFLOP/s" in capsys.readouterr().out


@pytest.fixture
def short_stream(monkeypatch):
    """The benchmark of streaming on few tokens, in this process; a product of matrices is not measured."""
    monkeypatch.setattr("rmtkit.bench.stream.in_new_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr("rmtkit.bench.stream.matmul_peak", lambda dtype, device, size: 1e12)
    for name, value in {"LENGTHS": (300, 600), "NUM_STRAIGHTFORWARD": 300, "BATCH_SIZE": 2}.items():
        monkeypatch.setattr(f"rmtkit.bench.stream.{name}", value)


def test_bench_stream_relates_both_sides_and_the_peak(short_stream, capsys):
    result = bench_stream(resolve({"compile": "never"}))
    theirs, ours = result["straightforward"], result["rmtkit"]["600"]
    assert result["ratio"] == ours["tokens_per_s"] / theirs["tokens_per_s"]
    assert result["share_of_peak"] == ours["flops"] / 1e12 and theirs["dtype"] == "float32"
    assert theirs["flops"] / theirs["tokens_per_s"] == pytest.approx(ours["flops"] / ours["tokens_per_s"])
    assert f"{result['ratio']:.1f} times the tokens/s" in capsys.readouterr().out


def test_bench_stream_takes_the_best_round_of_each_side(short_stream, monkeypatch):
    sides = [(9, 3), (20, 7), (60, 4), (10, 5), (40, 8), (80, 2)]  # tokens/s and peak: theirs, short, long, twice
    sides = iter([dict(tokens_per_s=speed, flops=speed, peak_mb=1, dtype="float32", peaks={"float32": 10 * peak})
                  for speed, peak in sides])  # fmt: skip
    monkeypatch.setattr("rmtkit.bench.stream.largest_difference", lambda config: 0.0)
    for name in ("straightforward", "reader"):
        monkeypatch.setattr(f"rmtkit.bench.stream.measure_{name}", lambda *_: next(sides))
    result = bench_stream(resolve({}))
    assert result["ratio"] == 8 and result["share_of_peak"] == 1.0 and result["peak_flops"] == {"float32": 80}
    assert result["rmtkit"]["300"]["tokens_per_s"] == 40


def test_bench_stream_fails_when_the_sides_differ(short_stream, monkeypatch):
    monkeypatch.setattr("rmtkit.bench.stream.largest_difference", lambda config: 0.1)
    assert bench_stream(resolve({}))["failed"] == {"difference": 0.1}


def test_largest_difference_finds_a_wrong_memory(monkeypatch):
    assert largest_difference(resolve({"segment_size": 128})) < TOLERANCE
    right = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, rows: right(self, rows).flip(0))
    assert largest_difference(resolve({"segment_size": 128})) > TOLERANCE


def test_checkpointing_keeps_little_more_than_the_memory_state_of_a_segment(capsys):
    setting = dataclasses.replace(TINY, batch_size=8)
    result = bench_checkpointing(resolve({}), setting=setting, lengths=(1, 2, 4, 8))
    states = result["memory_states_per_segment"]
    assert 1 <= states["checkpointed"] < 1.5 and states["plain"] > 50
    assert len(capsys.readouterr().out.splitlines()) == 8


@pytest.fixture
def finished_run(tmp_path):
    """A folder with what `differences` looks at."""
    folder = tmp_path / "whole"
    stage = folder / "checkpoints" / "stage-0-of-1-segments"
    for each in (folder / "model", stage):
        each.mkdir(parents=True)
    save_file({"memory": torch.arange(4.0), "head": torch.ones(2)}, folder / "model" / "model.safetensors")
    (folder / "metrics.jsonl").write_text('{"split": "validation", "stage": 0, "step": 4, "exact_match": 0.5}\n')
    (stage / "stage.json").write_text('{"best_step": 4, "seconds": 1.5}')
    return folder


def copy_of(folder):
    return shutil.copytree(folder, folder.with_name("other"))


def test_differences_of_equal_runs_are_none(finished_run):
    other = copy_of(finished_run)
    stage = other / "checkpoints" / "stage-0-of-1-segments" / "stage.json"
    stage.write_text('{"best_step": 4, "seconds": 9.0}')  # took longer
    with open(other / "metrics.jsonl", "a") as file:  # a validation that was repeated after a kill
        file.write('{"split": "validation", "stage": 0, "step": 4, "exact_match": 0.5}\n')
    assert differences(finished_run, other) == []


def test_differences_name_what_is_not_equal(finished_run):
    other = copy_of(finished_run)
    file = other / "model" / "model.safetensors"
    weights = load_file(file)
    weights["memory"][3] += 1e-6  # close, but not equal
    save_file(weights, file)
    (other / "metrics.jsonl").write_text('{"split": "validation", "stage": 0, "step": 4, "exact_match": 0.6}\n')
    (other / "checkpoints" / "stage-0-of-1-segments" / "stage.json").write_text('{"best_step": 2, "seconds": 1.5}')
    wanted = ["memory", "validations in metrics.jsonl", "checkpoints/stage-0-of-1-segments/stage.json"]
    assert differences(finished_run, other) == wanted


def test_bench_resume_spends_all_kills_and_compares_every_run(monkeypatch, capsys):
    asked = []

    def train(config, folder, kill_after=None):  # runs that take 10 s of work, 4 s of which a kill keeps
        asked.append((folder.name, kill_after))
        return 10.0 if kill_after is None or kill_after > 6 else None

    monkeypatch.setattr("rmtkit.bench.resume._train", train)
    monkeypatch.setattr("rmtkit.bench.resume.differences", lambda whole, other: ["memory"] * (other.name == "run-2"))
    result = bench_resume(resolve({}), num_kills=5)
    delays = [delay for name, delay in asked if name != "whole" and delay is not None]
    assert asked[0] == ("whole", None) and all(0 <= delay <= 10 for delay in delays)
    assert (result["kills"], result["is_equal"], result["failed"]) == (5, False, {"run 2": ["memory"]})
    assert sum(delay <= 6 for delay in delays) == 5 and asked[-1] == (f"run-{result['runs']}", None)
    assert sum(line.startswith("kill") for line in capsys.readouterr().out.splitlines()) == 5


def test_bench_resume_trains_what_it_was_told_to(monkeypatch, tmp_path):
    seen = []

    def prepare(config):
        seen.append(config)
        raise SystemExit

    given = {"memory_grid": "none", "memory_learning_rate": "none", "segments": "1,2", "run_dir": tmp_path / "run"}
    config = resolve({"preset": "smoke", **given})
    monkeypatch.setattr("rmtkit.experiment.prepare", prepare)
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(dataclasses.asdict(config))])
    with pytest.raises(SystemExit):
        train_once()
    assert seen == [config]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "--num_kills=0"], "num_kills is 0"),
        (["train", "--size=large"], "size is 'large'; allowed: narrow, small"),
        (["data", "--num_kills=3"], "num_kills: for bench resume only, not for bench data"),
        (["train", "--num_stories=3"], "num_stories: for bench babi only, not for bench train"),
        (["memory", "--num_tokens=10000"], "num_tokens is 10000, expected more than"),
    ],
)
def test_bench_refuses_options_before_it_starts(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_bench_ends_with_one_line_of_json(monkeypatch, capsys):
    monkeypatch.setitem(rmtkit.bench.BENCHMARKS, "train", lambda config, size: {"bench": "train", "failed": {size: 1}})
    assert main(["bench", "train", "--size=small"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == {"small": 1}

"""Peak memory and speed of a reading."""

from mmap import mmap

import numpy as np
import pytest
import torch

from rmtkit import meters
from rmtkit.meters import ReadingMeter, peak_resident_mb, together

CPU = torch.device("cpu")
MB = 80


def use_memory(then=None):
    """Have so much more memory for a moment: of the system itself, as malloc may have some that was freed before."""
    with mmap(-1, MB * 10**6) as memory:
        np.frombuffer(memory, np.uint8).fill(1)
        if then:
            then()


@pytest.fixture
def forgetting():
    if not meters.forget_peak():
        pytest.skip("the system cannot forget a peak")


def test_meter_sees_the_peak_of_its_own_time_only(forgetting):
    use_memory()
    before = ReadingMeter(CPU)
    used = before.reading(0)["peak_resident_mb"]
    use_memory()
    assert before.reading(0)["peak_resident_mb"] > used + 0.9 * MB
    assert ReadingMeter(CPU).reading(0)["peak_resident_mb"] < used + 0.1 * MB


def test_meter_keeps_the_most_it_saw_where_a_peak_cannot_be_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr("rmtkit.meters.CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    assert not meters.forget_peak()
    looking, blind = ReadingMeter(CPU), ReadingMeter(CPU)
    use_memory(then=looking.look)
    seen, unseen = (meter.reading(0)["peak_resident_mb"] for meter in (looking, blind))
    assert seen > unseen + 0.9 * MB and seen <= peak_resident_mb() + 0.1 * MB


def test_meter_says_what_was_read_and_where():
    reading = ReadingMeter(CPU).reading(7)
    assert reading["num_read"] == 7 and reading["device"] == "cpu" and reading["peak_cuda_mb"] is None
    assert 0 <= reading["seconds"] < 60


def test_meter_takes_what_torch_allocated_on_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", asked.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 12_300_000)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    gpu = torch.device("cuda")
    reading = ReadingMeter(gpu).reading(7)
    assert (reading["peak_cuda_mb"], reading["device"], asked) == (12.3, "a GPU", [gpu])


def test_readings_of_processes_together():
    one = {"num_read": 10, "seconds": 2.0, "peak_resident_mb": 500.0, "peak_cuda_mb": 7.0, "dtype": "float32"}
    two = {**one, "num_read": 30, "seconds": 3.0, "peak_resident_mb": 400.0, "peak_cuda_mb": 9.0}
    assert together([one, two]) == {
        "num_read": 40, "seconds": 3.0, "peak_resident_mb": 500.0, "peak_cuda_mb": 9.0, "dtype": "float32",
        "num_processes": 2,
    }  # fmt: skip
    assert together([{**one, "peak_cuda_mb": None}])["peak_cuda_mb"] is None

"""Clocks and memory meters of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from rmtkit.meters import peak_resident_mb


def seconds(work: Callable[[], object]) -> float:
    """Return how long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def matmul_peak(dtype, device, size: int, num_trials: int = 8) -> float:
    """Return the floating-point operations per second of a product of two square matrices, the best of some trials."""
    import torch

    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with torch.inference_mode():

        def multiply():
            (left @ right)[0, 0].item()  # waits for a GPU

        multiply()
        return 2 * size**3 / min(seconds(multiply) for _ in range(num_trials))


def in_new_process(function: Callable, *arguments):
    """Call a function of a module in a process of its own, whose memory nobody else has used; return its result."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class MemoryGrowth:
    """How much more memory a piece of work needed at its peak than there was in use when this was made.

    On a GPU what torch has allocated there, on a CPU the whole process; to be used in a process of its own.
    """

    def __init__(self, device):
        import psutil
        import torch

        self.cuda = torch.cuda if device.type == "cuda" else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        self.before = self.cuda.memory_allocated() / 1e6 if self.cuda else psutil.Process().memory_info().rss / 1e6

    def peak_mb(self) -> float:
        """Return the growth at its peak, in MB."""
        return (self.cuda.max_memory_allocated() / 1e6 if self.cuda else peak_resident_mb()) - self.before


def peak_allocated(work: Callable[[], object], device) -> int:
    """Return the bytes that torch has at most allocated on a device during a piece of work, beside those before it.

    Exact, and the same in every run: on a CPU it is added up from the profiler's record of every tensor.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = allocated = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()  # negative when a tensor is freed
        peak = max(peak, allocated)
    return peak

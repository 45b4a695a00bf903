"""How fast a process reads, and how much memory it needs at its peak."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
KB = 1024 / 1e6  # MB in what the system calls a kB


def peak_resident_mb() -> float:
    """Return the most memory that this process has had, in MB, since `forget_peak` or since its start.

    Trap: ru_maxrss of a process begins on Linux with the memory of the one that started it; VmHWM does not.
    """
    import resource

    if STATUS.is_file():
        return next(KB * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    unit = 1e-6 if sys.platform == "darwin" else KB  # bytes there
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> bool:
    """Let the peak of `peak_resident_mb` begin anew with what is resident now; return whether the system can do it."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")
        return True
    return False


class ReadingMeter:
    """Tokens a second and peak memory of a reading, from when this is made.

    Where the system cannot forget an earlier peak (only Linux can), the memory is the most that `look` has seen.
    """

    def __init__(self, device):
        import torch

        self.cuda = torch.cuda if device.type == "cuda" else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats(device)
        self.device, self.is_exact, self.largest_mb = device, forget_peak(), 0.0
        self.look()
        self.started = time.perf_counter()

    def look(self) -> None:
        """Take note of the memory in use now."""
        import psutil

        self.largest_mb = max(self.largest_mb, psutil.Process().memory_info().rss / 1e6)

    def reading(self, num_tokens: int) -> dict:
        """Return what a reading of so many tokens took up to now.

        Returns: num_read (tokens), seconds, peak_resident_mb (of the process), peak_cuda_mb (what torch had allocated
                 on the GPU; None without one), device.
        """
        self.look()
        return {
            "num_read": num_tokens,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_resident_mb": round(peak_resident_mb() if self.is_exact else self.largest_mb, 1),
            "peak_cuda_mb": round(self.cuda.max_memory_allocated(self.device) / 1e6, 1) if self.cuda else None,
            "device": self.cuda.get_device_name(self.device) if self.cuda else self.device.type,
        }


def together(readings: list[dict]) -> dict:
    """Return the reading of several processes at the same time: tokens summed, time and memory of the largest."""
    largest = {
        name: max(reading[name] for reading in readings)
        for name in ("seconds", "peak_resident_mb", "peak_cuda_mb")
        if readings[0][name] is not None
    }
    num_read = sum(reading["num_read"] for reading in readings)
    return {**readings[0], **largest, "num_read": num_read, "num_processes": len(readings)}

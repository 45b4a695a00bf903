"""Speed, memory and what must be exact, measured as ratios within one run: machines are shared and noisy.

Every benchmark prints what it measured and ends with one line of JSON; one that fails a check names it under "failed".
"""

from collections.abc import Callable

from .babi import bench_babi
from .checkpointing import bench_checkpointing
from .data import bench_data
from .memory import bench_memory, stream_once
from .resume import bench_resume
from .stream import bench_stream
from .train import bench_train

BENCHMARKS: dict[str, Callable[..., dict]] = {
    "babi": bench_babi,
    "checkpointing": bench_checkpointing,
    "data": bench_data,
    "memory": bench_memory,
    "resume": bench_resume,
    "stream": bench_stream,
    "train": bench_train,
}

__all__ = ["BENCHMARKS", "stream_once"]

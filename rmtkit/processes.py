"""One experiment on several processes: who this process is, and what the processes share.

Processes are started by `accelerate launch` or torchrun, which tell each its rank in the environment. All of them run
the same code; samples are dealt out, results come together in every process, and only the main process (rank 0) writes
files. The run folder and the data folder must be the same for all nodes.

With one process every function here does nothing, and torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice

from rmtkit.config import Config, ConfigError


def num_processes() -> int:
    """Return how many processes work together."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1


def is_launched() -> bool:
    """Whether a launcher has started this process, even if it is the only one."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)


def rank() -> int:
    """Return the number of this process among all, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def is_main() -> bool:
    """Whether this process writes the files and prints."""
    return rank() == 0


def local_device() -> str:
    """Return the name of this process's GPU, or "cpu" if it was launched to do without."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if is_launched() else "cuda"


def uses_fsdp() -> bool:
    """Whether accelerate was told to shard the model's parameters."""
    return is_launched() and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def micro_batch_size(config: Config, processes: int | None = None) -> int:
    """Return the samples that one process holds at once: `micro_batch_size`, or its share of the update if fewer.

    Args:   processes: how many; None: those that work together now.
    Raises: ConfigError if the processes cannot share the samples of an update evenly.
    """
    processes = processes or num_processes()
    size = min(config.micro_batch_size, max(1, config.batch_size // processes))
    if config.batch_size % (size * processes):
        raise ConfigError(
            f"batch_size {config.batch_size} is not a multiple of {processes} processes x micro_batch_size {size}; "
            "take another batch_size, or fewer processes (CUDA_VISIBLE_DEVICES says which GPUs are seen)"
        )
    return size


def check_processes(config: Config) -> None:
    """Compare a configuration with how this process was launched. Raises: ConfigError."""
    micro_batch_size(config)
    if not uses_fsdp():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("FSDP of version 1 is not supported; give accelerate launch --fsdp_version 2, or use DDP")
    if config.ema_decay:
        raise ConfigError("ema_decay needs whole weights, which FSDP cuts up; take ema_decay=0, or DDP")
    if config.optimizer == "muon":
        raise ConfigError("optimizer muon needs whole matrices, which FSDP cuts up; take optimizer=adamw, or DDP")


def share(samples):
    """Return every n-th of the samples (lazily), beginning with this process's rank."""
    return islice(samples, rank(), None, num_processes())


def gather(rows: list) -> list:
    """Return the rows of all processes, one after another; every process gets all of them."""
    if num_processes() == 1:
        return rows
    from accelerate.utils import gather_object

    _connect()
    return gather_object(rows)


def from_main(make: Callable[[], object]):
    """Call `make` in the main process and return its result in every process."""
    if num_processes() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    _connect()
    return broadcast_object_list([make() if is_main() else None])[0]


def wait_for_all() -> None:
    """Return when every process has come here."""
    if num_processes() > 1:
        _connect().wait_for_everyone()


def _connect():
    """Return accelerate's state, connected to the other processes; on CPUs it has to be told that they are meant."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=local_device() == "cpu" or not torch.cuda.is_available())

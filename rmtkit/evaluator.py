"""Answering the test samples of one length after another, as fast as the machine can and without losing any work.

A copy of the model in bfloat16 where the processor has it, once it has been seen to answer as well as float32; batches
built ahead; progress in tokens; batches that are done and the memory of the one being read kept on disk.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch

from rmtkit.babilong import BabilongBuilder
from rmtkit.config import Config, identity
from rmtkit.evaluation import batches, evaluate
from rmtkit.experiment import open_stories
from rmtkit.memory import RMTForCausalLM
from rmtkit.meters import ReadingMeter
from rmtkit.precision import evaluation_dtype
from rmtkit.processes import from_main, is_main, num_processes, rank, share
from rmtkit.progress import Display, ReadingProgress
from rmtkit.runs import read_json, write_json
from rmtkit.snapshots import Part, Snapshot
from rmtkit.streaming import FLOPS_TO_COMPILE, Reader, ahead, fast_copy, flops_per_segment

NUM_CHECKED = 64  # validation samples answered in both precisions
CHECKED_TOKENS = 4096  # tokens of their prompts at most
TOKENS_TO_CHECK = 2**20  # of all lengths together; below, an evaluation is done before the check pays
CHANCE = 0.05  # a loss less likely than this, were both precisions equally good, is no chance


class Evaluator:
    """Answers the test samples of any length with one model.

    Args: lengths: all that will be asked for, with the attributes label, size (tokens of a prompt, None: facts alone)
          and num_samples: what pays depends on them;
          folder: where records go; what is kept on the way lies there, too;  display: shows progress.
    """

    def __init__(self, config: Config, model, tokenizer, builder: BabilongBuilder, *, lengths: Sequence, folder: Path,
                 display: Display):  # fmt: skip
        self.config, self.model, self.tokenizer, self.builder = config, model, tokenizer, builder
        self.lengths, self.folder, self.display = lengths, folder, display
        self.reading: dict = {}

    def records(self, length, name: str) -> list[dict]:
        """Return the records of this process's share of the samples of one length; what is there is gone on with.

        `reading` is then what it took: of `rmtkit.meters.ReadingMeter.reading`, and how it was computed.

        Args: name: of the length's files, another one for whatever changes the records.
        """
        fitting = self.builder.num_fitting(self.config.test_split, length.size)
        num_samples = length.num_samples if fitting is None else min(length.num_samples, fitting)
        indices = list(share(range(num_samples)))
        batch_size = _even(len(indices), self.config.test_batch_size)
        is_compiled = self._pays_to_compile(length.size, num_samples) and self._reader.compile(batch_size)
        key = self._key(name, batch_size, is_compiled)
        part, snapshot = Part(self._path(name, ".jsonl"), key), Snapshot(self._path(name, ".safetensors"), key)
        part.restart(done := part.read())
        progress = ReadingProgress(self.display, length.label, num_samples * (length.size or 0))
        self._reader.snapshot, self._reader.on_tokens = snapshot, progress.add
        samples = (self.builder.sample(self.config.test_split, index, length.size) for index in indices)
        meter = ReadingMeter(self.model.device)
        for number, batch in enumerate(ahead(batches(samples, batch_size))):
            if number < len(done):
                progress.end_batch(sum(len(sample.prompt) for sample in batch), is_saved=True)
                continue
            found = evaluate(
                self._reader.model, batch, self.tokenizer, batch_size=batch_size, rule=self.config.scoring,
                on_batch=progress.end_batch, reader=self._reader,
            )  # fmt: skip
            done.append(found.to_dict("records"))
            part.append(done[-1])
            meter.look()
        how = {"dtype": key["dtype"].removeprefix("torch."), "is_compiled": is_compiled, "batch_size": batch_size}
        self.reading = {**meter.reading(progress.num_read), **how}
        return [record for batch in done for record in batch]

    def forget(self, name: str) -> None:
        """Remove what was kept on the way to a length's records."""
        for suffix in (".jsonl", ".safetensors"):
            self._path(name, suffix).unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}.part-{rank()}{suffix}"

    def _key(self, name: str, batch_size: int, is_compiled: bool) -> dict:
        """Return everything that the bits of a memory depend on, so that nothing else is gone on with."""
        model = self._reader.model
        return {
            "name": name, "weights": self._weights, "dtype": str(model.dtype), "batch_size": batch_size,
            "attention": model.backbone.config._attn_implementation, "is_compiled": is_compiled,
            "process": [rank(), num_processes()], "torch": torch.__version__,
        }  # fmt: skip

    @cached_property
    def _weights(self) -> str:
        """The digest of the weights, and of the grid that memory is rounded to."""
        digest = hashlib.blake2b(digest_size=8)
        for name, weight in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        if self.model.config.memory_grid:
            digest.update(f"memory_grid {self.model.config.memory_grid}".encode())
        return digest.hexdigest()

    # ------------------------------------------------------------------ how to compute

    @cached_property
    def _reader(self) -> Reader:
        """What reads, in the precision that was asked for or found to be as good."""
        return Reader(fast_copy(self.model, self._dtype()))

    def _pays_to_compile(self, size: int | None, num_samples: int) -> bool:
        if self.config.compile != "auto":
            return self.config.compile == "always"
        model = self._reader.model
        if size is None or model.device.type != "cpu" or not isinstance(model, RMTForCausalLM):
            return False
        num_segments = size // model.config.segment_size * num_samples / num_processes()
        return num_segments * flops_per_segment(model, model.config.segment_size) >= FLOPS_TO_COMPILE

    def _dtype(self) -> torch.dtype:
        """Return the data type to compute in; "auto" is checked once for all lengths, and the finding kept."""
        dtype = evaluation_dtype(self.config.precision, self.model.device)
        if self.config.precision != "auto" or dtype == torch.float32:
            return dtype
        if sum(length.num_samples * (length.size or 0) for length in self.lengths) < TOKENS_TO_CHECK:
            return torch.float32
        return dtype if from_main(lambda: self._finding(dtype))["is_as_good"] else torch.float32

    def _finding(self, dtype: torch.dtype) -> dict:
        """Return what `compare_precisions` finds, from the file if it is there."""
        sizes = [length.size for length in self.lengths if length.size and length.size <= CHECKED_TOKENS]
        size = max(sizes, default=CHECKED_TOKENS)
        what = [identity(self.config), self._weights, str(dtype), size, self.config.scoring]
        digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=5).hexdigest()
        path = self.folder / f"precision-{digest}.json"
        if not path.is_file():
            self.display.show(f"comparing the answers in {dtype} with those in float32", force=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self._compare(dtype, size))
        found = read_json(path)
        if not found["is_as_good"] and is_main():
            print(f"evaluating in float32: {found['sentence']}", file=sys.stderr, flush=True)
        return found

    def _compare(self, dtype: torch.dtype, size: int) -> dict:
        builder = copy.copy(self.builder)
        if not builder.problems.has_split("validation"):  # to test, test files are enough: generated stories, then
            builder.problems = open_stories(self.config)
        fitting = builder.num_fitting("validation", size)
        samples = [
            builder.sample("validation", index, size)
            for index in range(NUM_CHECKED if fitting is None else min(NUM_CHECKED, fitting))
        ]
        answered = partial(
            evaluate, samples=samples, tokenizer=self.tokenizer, batch_size=self.config.test_batch_size,
            rule=self.config.scoring,
        )  # fmt: skip
        exact, fast = (answered(fast_copy(self.model, each)) for each in (torch.float32, dtype))
        found = compare_precisions(exact, fast, str(dtype))
        return {**found, "num_tokens": size}


def compare_precisions(exact: pd.DataFrame, fast: pd.DataFrame, name: str) -> dict:
    """Compare the records of the same samples in float32 and in a faster precision.

    Worse is what loses more answers than it gains by more than chance allows: the sign test on the samples that only
    one of them answers right. Without any samples nothing is known to be as good.

    Returns: counts, the probability of such a loss by chance, is_as_good, and a sentence.
    """
    lost = int((exact["is_correct"] & ~fast["is_correct"]).sum()) if len(exact) else 0
    gained = int((fast["is_correct"] & ~exact["is_correct"]).sum()) if len(exact) else 0
    differing = lost + gained
    chance = sum(math.comb(differing, k) for k in range(lost, differing + 1)) / 2**differing
    correct = [int(records["is_correct"].sum()) if len(records) else 0 for records in (exact, fast)]
    num_same = int((exact["prediction"] == fast["prediction"]).sum()) if len(exact) else 0
    return {
        "precision": name, "num_samples": len(exact), "num_same_answers": num_same,
        "float32_correct": correct[0], "correct": correct[1], "lost": lost, "gained": gained, "chance": chance,
        "is_as_good": len(exact) > 0 and chance >= CHANCE,
        "sentence": f"of {len(exact)} validation samples {name} answers {correct[1]} right, float32 {correct[0]}",
    }  # fmt: skip


def _even(num_samples: int, batch_size: int) -> int:
    """Return the size of batches that are as many as with `batch_size`, but equally large within one or so."""
    num_batches = max(1, -(-num_samples // batch_size))
    return max(1, -(-num_samples // num_batches))

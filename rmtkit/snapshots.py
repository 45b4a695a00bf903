"""What is kept of an evaluation on the way, so that one that is killed goes on where it was.

Both files are bound to a key, any JSON that says what is computed: of another key they are as good as not there.

Axis letters: b batch, m memory tokens, d width.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

SECONDS = 60.0  # between two snapshots


class Snapshot:
    """The memory of the samples that are being read, and how far they are: one file, replaced as a whole.

    Args: path: of a .safetensors file;  key: what is computed;  seconds: between two writes.
    """

    def __init__(self, path: Path, key, *, seconds: float = SECONDS):
        self.path, self.key, self.seconds = path, key, seconds
        self._last = time.monotonic()

    def keep(self, what, state: torch.Tensor, position: int) -> None:
        """Write, if the last write is long enough ago, the memory (b, m, d) after `position` tokens of `what`."""
        if time.monotonic() - self._last >= self.seconds:
            self.write(what, state, position)

    def write(self, what, state: torch.Tensor, position: int) -> None:
        """Write the memory (b, m, d) after `position` tokens of `what` (JSON: which samples)."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        about = {"about": self._about(what), "position": str(position)}
        save_file({"memory": state.cpu().contiguous()}, partial, metadata=about)
        partial.replace(self.path)
        self._last = time.monotonic()

    def load(self, what) -> tuple[torch.Tensor | None, int]:
        """Return the memory (b, m, d) of `what` and the tokens that it has read; None and 0 if it is not there."""
        from safetensors import SafetensorError, safe_open

        self._last = time.monotonic()
        try:
            with safe_open(self.path, framework="pt") as file:
                found = file.metadata()
                if found.get("about") == self._about(what):
                    return file.get_tensor("memory"), int(found["position"])
        except (OSError, SafetensorError):  # not there, or not ours
            pass
        return None, 0

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _about(self, what) -> str:
        return json.dumps([self.key, what], sort_keys=True)


class Part:
    """Records of the batches that are done, appended as they come in: a line for the key, then one for each batch.

    Args: path: of a .jsonl file;  key: what is computed.
    """

    def __init__(self, path: Path, key):
        self.path, self.head = path, json.dumps(key, sort_keys=True)

    def read(self) -> list[list[dict]]:
        """Return the records of each batch that is done; a last line without an end is left out."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        head, *lines = text.split("\n")
        return [json.loads(line) for line in lines[:-1]] if head == self.head else []

    def restart(self, batches: list[list[dict]]) -> None:
        """Write a file with these batches in place of what is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in [self.head, *map(json.dumps, batches)]), encoding="utf-8")
        partial.replace(self.path)

    def append(self, records: list[dict]) -> None:
        """Add the records of a batch; they are on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(records) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

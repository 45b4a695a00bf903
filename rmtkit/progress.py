"""Progress that ends as one small static output: a display handle in a notebook, sparse lines elsewhere.

tqdm's widget bar stays at 0 % in a headless run and a text bar leaves hundreds of lines (papermill#617), so neither is
used. transformers' own notebook table is switched off in favour of this one.
"""

from __future__ import annotations

import html
import sys
import time
from datetime import timedelta

from transformers import TrainerCallback

from rmtkit.processes import is_main, num_processes


class Display:
    """One line of text that is replaced in place: HTML in a notebook, elsewhere a line on stderr now and then.

    Only the main process shows anything.

    Args: seconds: between two updates in a notebook; between two lines of text it is five times as long.
    """

    def __init__(self, seconds: float = 2.0):
        self._last_shown = 0.0
        self._handle = _new_handle()
        self.seconds = seconds if self._handle else 5 * seconds

    def show(self, text: str, *, force: bool = False) -> None:
        """Show the text, at most every `seconds` unless forced."""
        now = time.monotonic()
        if not is_main() or (not force and now - self._last_shown < self.seconds):
            return
        self._last_shown = now
        if self._handle is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._handle.update(_Line(text))


class _Line:
    """Text that a notebook shows as preformatted HTML, and a terminal as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


def _new_handle():
    """Return a display handle inside of an IPython kernel, None elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display(_Line("..."), display_id=True)


class ReadingProgress:
    """One line while samples are read: tokens so far, tokens/s, time left.

    Args: num_tokens: of all samples in all processes;  each process is taken to read as fast as this one.
    """

    def __init__(self, display: Display, label: str, num_tokens: int):
        self.display, self.label, self.num_tokens = display, label, num_tokens
        self._read = self._saved = self._in_batch = 0
        self._started = time.monotonic()

    def add(self, num_read: int, num_saved: int = 0) -> None:
        """Count tokens that this process has read, and those that it has from a run before."""
        self._read += num_read * num_processes()
        self._saved += num_saved * num_processes()
        self._in_batch += num_read + num_saved
        self.display.show(self.line(time.monotonic() - self._started))

    @property
    def num_read(self) -> int:
        """Tokens that this process has read, those from a run before not counted."""
        return self._read // num_processes()

    def end_batch(self, num_tokens: int, *, is_saved: bool = False) -> None:
        """Count what is missing to all tokens of a batch."""
        missing = num_tokens - self._in_batch
        self.add(0 if is_saved else missing, missing if is_saved else 0)
        self._in_batch = 0

    def line(self, seconds: float) -> str:
        """Return the line after so many seconds."""
        done, rate = self._read + self._saved, self._read / max(seconds, 1e-9)
        left = f"{timedelta(seconds=round(max(0, self.num_tokens - done) / rate))} left" if rate else "..."
        return f"{self.label}: {done:,} of {self.num_tokens:,} tokens read, {rate:,.0f} tokens/s, {left}"


class TrainingProgress(TrainerCallback):
    """Show stage, step, loss, validation accuracy and speed while a curriculum trains."""

    def __init__(self):
        self.display = Display()
        self.lines: list[str] = []
        self._started = time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        """Open a line for the stage."""
        self._loss, self._accuracy, self._first = "not yet", "not yet", (state.global_step, time.monotonic())
        self.lines.append("")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Take the loss, and the validation accuracy where there is one."""
        if logs and "loss" in logs:
            self._loss = f"{logs['loss']:.3f}"
        if logs and "eval_exact_match" in logs:
            low, high = logs["eval_low"], logs["eval_high"]
            self._accuracy = f"{logs['eval_exact_match']:.3f} [{low:.3f}, {high:.3f}] n={logs['eval_n']}"

    def on_step_end(self, args, state, control, **kwargs):
        """Refresh the line."""
        step, since = self._first
        rate = (state.global_step - step) / max(1e-9, time.monotonic() - since)
        self.lines[-1] = (
            f"{args.output_dir.rsplit('/', 1)[-1]}: step {state.global_step}/{state.max_steps}, loss {self._loss}, "
            f"validation exact match {self._accuracy}, {rate:.1f} steps/s, {time.monotonic() - self._started:.0f} s"
        )
        self.display.show("\n".join(self.lines) if self.display._handle else self.lines[-1])

    def on_train_end(self, args, state, control, **kwargs):
        """Show the last state of the stage."""
        self.display.show("\n".join(self.lines), force=True)

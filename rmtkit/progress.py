"""Progress that ends as one small static output: a display handle in a notebook, sparse lines elsewhere.

`live.py` shows how a training goes with them.

tqdm's widget bar stays at 0 % in a headless run and a text bar leaves hundreds of lines (papermill#617), so neither is
used. transformers' own notebook table is switched off in favour of this one.
"""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rmtkit.processes import is_main, num_processes


class Display:
    """One line of text that is replaced in place: HTML in a notebook, elsewhere a line on stderr now and then.

    Only the main process shows anything.

    Args: seconds: between two updates in a notebook; between two lines of text it is five times as long.
    """

    def __init__(self, seconds: float = 2.0):
        self._last_shown = 0.0
        self._handle = None
        self.is_in_place = _in_kernel()  # each text replaces the one before it
        self.seconds = seconds if self.is_in_place else 5 * seconds

    def show(self, text: str, *, force: bool = False) -> None:
        """Show the text, at most every `seconds` unless forced."""
        now = time.monotonic()
        if not is_main() or (not force and now - self._last_shown < self.seconds):
            return
        self._last_shown = now
        if self.is_in_place:
            self._handle = _show(_Line(text), self._handle)
        else:
            print(text, file=sys.stderr, flush=True)


class _Line:
    """Text that a notebook shows as preformatted HTML, and a terminal as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


class LiveImage:
    """An image that is replaced in place in a notebook; elsewhere there is none, and nothing is drawn.

    It is drawn every `seconds` at most, and so rarely that drawing takes a `share` of the time at most.
    """

    def __init__(self, seconds: float = 2.0, share: float = 0.05):
        self._handle = None
        self._next = 0.0
        self.seconds, self.share = seconds, share

    def show(self, draw: Callable[[], bytes], *, force: bool = False) -> None:
        """Show what `draw` returns, a PNG, if it is time or forced."""
        started = time.monotonic()
        if not (is_main() and _in_kernel()) or (not force and started < self._next):
            return
        from IPython.display import Image

        image = Image(data=draw(), format="png")
        now = time.monotonic()
        self._next = now + max(self.seconds, (now - started) / self.share)
        self._handle = _show(image, self._handle)


def _show(content, handle):
    """Show something in a notebook, in place of what the handle shows; return the handle."""
    from IPython.display import display

    if handle is None:
        return display(content, display_id=True)
    handle.update(content)
    return handle


def _in_kernel() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


class Pace:
    """What this process has read, in tokens with their padding, and the seconds that it took, pauses left out."""

    def __init__(self):
        self.num_tokens = 0
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let time pass that does not count."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - started

    def lap(self) -> dict[str, float]:
        """Return num_tokens, of all processes, and seconds since the lap before, and begin a new one."""
        now = time.perf_counter()
        found = {"num_tokens": self.num_tokens * num_processes(), "seconds": round(now - self._since, 4)}
        self.num_tokens, self._since = 0, now
        return found


class ReadingProgress:
    """One line while samples are read: tokens so far, tokens/s, time left.

    Args: num_tokens: of all samples in all processes, 0: not known;  each process is taken to read as fast as this one.
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
        if not self.num_tokens:
            return f"{self.label}: {done:,} tokens read, {rate:,.0f} tokens/s"
        left = f"{timedelta(seconds=round(max(0, self.num_tokens - done) / rate))} left" if rate else "..."
        return f"{self.label}: {done:,} of {self.num_tokens:,} tokens read, {rate:,.0f} tokens/s, {left}"

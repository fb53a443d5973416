"""Progress of an experiment on a text stream.

On a terminal one line is rewritten, cut to its width.  On a stream that is no terminal each epoch
writes one line.  Both tell the time left.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from numba.core import event

from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Observer
from fxsim.interrupts import held
from fxsim.train.loop import Epoch

REFRESH_SECONDS = 0.1
COMPILE_SECONDS = 30
"""Roughly what compiling all kernels of a run takes on two cores."""


def tested(epoch: Epoch) -> str:
    """The error on the test set, or the loss there where nothing is decided."""
    if epoch.test_error is None:
        return f"test loss {epoch.test_loss:.3g}"
    return f"test error {epoch.test_error:.2%}"


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> [duration(each) for each in (3.2, 200, 9000)]
        ['3 s', '3 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Pace:
    """Seconds an image of a training takes, with all that is between its steps.

    They count from the end of the first step: it compiles kernels.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def seconds_for(self, images: int, done: int) -> float | None:
        """What so many images will take, once `done` have been trained on; None at the first."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now, done
        since, before = self._first
        return images * (now - since) / (done - before) if done > before else None


class _Line:
    """One line of a terminal that is rewritten, and never longer than the terminal is wide."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self._drawn = -math.inf

    def show(self, text: str, last: bool) -> None:
        """Draw the line, if it was not drawn just now; the last one always."""
        now = time.perf_counter()
        if now - self._drawn >= REFRESH_SECONDS or last:
            self._drawn = now
            self._write(fitting(text, _columns(self.stream) - 1))

    def close(self) -> None:
        """Leave the line empty."""
        self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r{text}\x1b[K")
        self.stream.flush()


def fitting(text: str, columns: int) -> str:
    """The first parts of a text that fit so many columns; its parts are two spaces apart.

    Example:
        >>> fitting("FL   40%  epoch 1/3  loss 0.5000", 20)
        'FL   40%  epoch 1/3'
    """
    while len(text) > columns and "  " in text:
        text = text.rpartition("  ")[0]
    return text[:columns]


def _columns(stream: TextIO) -> int:
    """The width of the terminal; 80 where it does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Progress(Observer):
    """Writes what happens in an experiment to `stream`.

    Args:
        stream: the text stream.
        designs: how many trainings there will be.
        terminal: whether a line is rewritten; None to ask the stream.
    """

    def __init__(self, stream: TextIO, designs: int = 1, terminal: bool | None = None):
        self.stream = stream
        self.designs = designs
        self.started = 0
        self.terminal = stream.isatty() if terminal is None else terminal
        self._line: _Line | None = None

    def note(self, text: str) -> None:
        """Print one line of text."""
        self._print(text)

    def begin(self, design: str, settings: Settings) -> None:
        """A training of `design` begins."""
        self.started += 1
        self.design = f"{design} ({self.started}/{self.designs})" if self.designs > 1 else design
        self.epochs = settings.epochs
        self.batch = settings.batch
        self._pace = _Pace()
        self._text = ""
        self._error = ""
        self._left = ""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """One step of it is done."""
        self._text = f"epoch {epoch + 1}/{self.epochs}  loss {loss:.4f}"
        total = self.epochs * steps * self.batch
        done = (epoch * steps + step) * self.batch
        later = max(self.designs - self.started, 0) * total
        seconds = self._pace.seconds_for(total - done + later, done)
        self._left = f"  {duration(seconds)} left" if seconds else ""
        if self.terminal:
            self._line = self._line or _Line(self.stream)
            share = f"{self.design}  {done / total:4.0%}"
            self._line.show(f"{share}{self._left}  {self._text}{self._error}", done == total)

    def epoch(self, epoch: Epoch) -> None:
        """One epoch of it is done."""
        self._error = f"  {tested(epoch)}"
        if not self.terminal:
            speed = f"  {epoch.images_per_second:,.0f} images/s"
            self._print(f"{self.design}  {self._text}{self._error}{speed}{self._left}")

    def end(self, outcome: Outcome) -> None:
        """It is done."""
        last = outcome.epochs[-1]
        self._print(
            f"{self.design}  {tested(last)}, training loss "
            f"{last.train_loss:.4f}, {outcome.seconds:.1f} s"
        )

    def _print(self, text: str) -> None:
        """A line of its own; the next step draws the line that is rewritten anew."""
        self.close()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave no unfinished line on the stream."""
        if self._line is not None:
            self._line.close()
            self._line = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the first kernel that Numba has to compile is announced; at its end no
        unfinished line is left.
        """
        try:
            with event.install_listener("numba:compile", _Announcement(self)):
                yield
        finally:
            self.close()


class _Announcement(event.Listener):
    def __init__(self, progress: Progress):
        self.progress = progress
        self.announced = False

    def on_start(self, event) -> None:
        if not self.announced:
            self.announced = True
            self.progress.note(f"compiling kernels, once: about {COMPILE_SECONDS} s in all")

    def on_end(self, event) -> None:
        pass


@contextlib.contextmanager
def compilations_held() -> Iterator[None]:
    """While it lasts, a signal waits for the end of the kernel that is compiled.

    LLVM calls back into Python, where an exception is dropped or leaves half-made objects behind.
    """
    with event.install_listener("numba:compile", _Held()):
        yield


class _Held(event.Listener):
    """Signals are held from the start of the outermost compilation of the main thread to its
    end.
    """

    def __init__(self) -> None:
        self.running = 0
        self.block = contextlib.ExitStack()

    def on_start(self, event) -> None:
        if threading.current_thread() is threading.main_thread():
            self.running += 1
            if self.running == 1:
                self.block.enter_context(held("the kernel that is being compiled"))

    def on_end(self, event) -> None:
        if threading.current_thread() is threading.main_thread():
            self.running -= 1
            if not self.running:
                self.block.close()

"""Progress of an experiment on a text stream.

On a terminal tqdm draws a bar, where it is installed; without it one line is rewritten.  On a
stream that is no terminal each epoch writes one line.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Protocol, TextIO

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


class Bar(Protocol):
    """The progress of one training, as it is drawn; done and total count images."""

    def show(self, done: int, text: str) -> None:
        """`done` images have been trained on; `text`: epoch, loss and error."""

    def close(self) -> None:
        """Leave the line of the bar empty."""


class _Line:
    """One line that is rewritten, where tqdm is missing."""

    def __init__(self, stream: TextIO, title: str, total: int):
        self.stream = stream
        self.title = title
        self.total = total
        self._drawn = -math.inf

    def show(self, done: int, text: str) -> None:
        now = time.perf_counter()
        if now - self._drawn >= REFRESH_SECONDS or done == self.total:
            self._drawn = now
            self._write(f"{self.title}  {done / self.total:4.0%}  {text}")

    def close(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r{text}\x1b[K")
        self.stream.flush()


class _Tqdm:
    """tqdm's bar: share, images trained on, speed and time left."""

    def __init__(self, tqdm: type, stream: TextIO, title: str, total: int):
        self.bar = tqdm(
            total=total,
            desc=title,
            file=stream,
            unit=" images",
            mininterval=REFRESH_SECONDS,
            leave=False,
            dynamic_ncols=True,
        )
        self.started = False

    def show(self, done: int, text: str) -> None:
        if not self.started:  # speed counts from the first step's end: it compiles kernels
            self.started = True
            self.bar.initial = done
            self.bar.n = done
            self.bar.unpause()
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class _NoBar:
    """A stream that is no terminal shows finished epochs alone."""

    def show(self, done: int, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def _tqdm() -> type | None:
    """tqdm's bar without its thread; None where it is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None

    class Threadless(tqdm):
        monitor_interval = 0

    return Threadless


class Progress(Observer):
    """Writes what happens in an experiment to `stream`.

    Args:
        stream: the text stream.
        designs: how many trainings there will be.
        terminal: whether bars are drawn; None to ask the stream.
    """

    def __init__(self, stream: TextIO, designs: int = 1, terminal: bool | None = None):
        self.stream = stream
        self.designs = designs
        self.started = 0
        self.terminal = stream.isatty() if terminal is None else terminal
        self._bar: Bar | None = None

    def note(self, text: str) -> None:
        """Print one line of text."""
        self._print(text)

    def begin(self, design: str, settings: Settings) -> None:
        """A training of `design` begins."""
        self.started += 1
        self.design = f"{design} ({self.started}/{self.designs})" if self.designs > 1 else design
        self.epochs = settings.epochs
        self.batch = settings.batch
        self._text = ""
        self._error = ""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """One step of it is done."""
        self._text = f"epoch {epoch + 1}/{self.epochs}  loss {loss:.4f}"
        if self._bar is None:
            self._bar = self._new_bar(self.epochs * steps * self.batch)
        self._bar.show((epoch * steps + step) * self.batch, self._text + self._error)

    def epoch(self, epoch: Epoch) -> None:
        """One epoch of it is done."""
        self._error = f"  {tested(epoch)}"
        if not self.terminal:
            speed = f"  {epoch.images_per_second:,.0f} images/s"
            self._print(f"{self.design}  {self._text}{self._error}{speed}")

    def end(self, outcome: Outcome) -> None:
        """It is done."""
        last = outcome.epochs[-1]
        self._print(
            f"{self.design}  {tested(last)}, training loss "
            f"{last.train_loss:.4f}, {outcome.seconds:.1f} s"
        )

    def _new_bar(self, total: int) -> Bar:
        if not self.terminal:
            return _NoBar()
        tqdm = _tqdm()
        if tqdm is None:
            return _Line(self.stream, self.design, total)
        return _Tqdm(tqdm, self.stream, self.design, total)

    def _print(self, text: str) -> None:
        """A line of its own; the bar ends, and the next step draws another."""
        self.close()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave no bar on the stream."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the first kernel that Numba has to compile is announced; at its end no
        bar is left.
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

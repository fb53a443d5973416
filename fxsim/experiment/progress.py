"""Progress of an experiment on a text stream.

One line that is rewritten on a terminal, one per epoch elsewhere.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from typing import TextIO

from numba.core import event

from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Observer
from fxsim.train.loop import Epoch

REFRESH_SECONDS = 0.1
COMPILE_SECONDS = 30
"""Roughly what compiling all kernels of a run takes on two cores."""


class Progress(Observer):
    """Writes design, epoch, loss, speed and time left to `stream`; designs: how many trainings
    there will be.

    terminal: whether to rewrite the line; None to ask the stream.
    """

    def __init__(self, stream: TextIO, designs: int = 1, terminal: bool | None = None):
        self.stream = stream
        self.designs = designs
        self.started = 0
        self.terminal = stream.isatty() if terminal is None else terminal
        self._drawn = -math.inf
        self._compilations = _Compilations(self)

    def note(self, text: str) -> None:
        self._print(text)

    def begin(self, design: str, settings: Settings) -> None:
        self.started += 1
        self.design = f"{design} ({self.started}/{self.designs})" if self.designs > 1 else design
        self.epochs = settings.epochs
        self.batch = settings.batch
        self._clock = None
        self._error = ""
        self._line = self.design

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._compilations.raise_if_interrupted()
        done = epoch * steps + step
        now = time.perf_counter()
        if self._clock is None:
            self._clock = now, done  # the first step compiles kernels; speed counts from its end
        self._line = f"{self.design}  epoch {epoch + 1}/{self.epochs}  loss {loss:.4f}{self._speed(now, done, steps)}"
        if self.terminal and now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._draw(self._line + self._error)

    def epoch(self, epoch: Epoch) -> None:
        self._error = f"  test error {epoch.test_error:.2%}"
        (self._draw if self.terminal else self._print)(self._line + self._error)

    def end(self, outcome: Outcome) -> None:
        last = outcome.epochs[-1]
        self._print(
            f"{self.design}  test error {last.test_error:.2%}, training loss "
            f"{last.train_loss:.4f}, "
            f"{outcome.seconds:.1f} s"
        )

    def _speed(self, now: float, done: int, steps: int) -> str:
        start, first = self._clock
        if done == first:
            return ""
        seconds = (now - start) / (done - first)
        left = round(seconds * (self.epochs * steps - done))
        return f"  {self.batch / seconds:,.0f} images/s  {left // 60}:{left % 60:02d} left"

    def _draw(self, text: str) -> None:
        self.stream.write(f"\r{text}\x1b[K")
        self.stream.flush()

    def _print(self, text: str) -> None:
        self.stream.write(f"\r{text}\x1b[K\n" if self.terminal else f"{text}\n")
        self.stream.flush()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the first kernel that Numba has to compile is announced, and an interrupt
        waits for its end.

        LLVM calls back into Python, where an exception is dropped or leaves half-made objects
        behind: an interrupt that is lost so (kernels loaded from the cache are not announced) comes
        again at the next training step."""
        compilations = self._compilations
        handler = signal.getsignal(signal.SIGINT)
        if handler is signal.default_int_handler:  # else somebody else's, or ignored
            signal.signal(signal.SIGINT, compilations.interrupt)
        try:
            with event.install_listener("numba:compile", compilations):
                yield
        finally:
            signal.signal(signal.SIGINT, handler)


class _Compilations(event.Listener):
    def __init__(self, progress: Progress):
        self.progress = progress
        self.announced = False
        self.running = 0
        self.interrupted = False

    def on_start(self, event) -> None:
        self.running += 1
        if not self.announced:
            self.announced = True
            self.progress.note(f"compiling kernels, once: about {COMPILE_SECONDS} s in all")

    def on_end(self, event) -> None:
        self.running -= 1
        if not self.running:
            self.raise_if_interrupted()

    def interrupt(self, number, frame) -> None:
        self.interrupted = True
        if not self.running:
            raise KeyboardInterrupt

    def raise_if_interrupted(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

"""Signals that ask a program to end: where they have to wait, and what for."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOST_SECONDS = 0.05
"""An interrupt that was lost comes again after so many seconds."""

_waits: list[str] = []


def waits() -> list[str]:
    """What stands between a signal and the end of the program, in the order of time."""
    return _waits[::-1]


@contextlib.contextmanager
def before_end(what: str) -> Iterator[None]:
    """A block after whose interrupt `what` is still to be done; see `waits`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _waits.append(what)
    try:
        yield
    finally:
        _waits.remove(what)


@contextlib.contextmanager
def held(what: str) -> Iterator[None]:
    """A block that no signal of SIGNALS breaks: its handler is called at the end of the block.

    Handlers run in the main thread alone; in others the block is like any other.

    Args:
        what: names the block, as in 'this training step'; see `waits`.

    Example:
        >>> try:
        ...     with held("this block"):
        ...         signal.raise_signal(signal.SIGINT)
        ...         print("the block goes on")
        ... except KeyboardInterrupt:
        ...     print("and ends")
        the block goes on
        and ends
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {number: handler for number, handler in handlers.items() if callable(handler)}
    calls = []
    try:
        for number in heard:
            signal.signal(number, lambda *call: calls.append(call))
        with before_end(what):
            yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    for number, frame in calls[:1]:
        heard[signal.Signals(number)](number, frame)


class Interrupts:
    """While it lasts, the first of SIGNALS raises KeyboardInterrupt in the main thread, and those
    after it nothing more: what has to be written before the end is written whole.

    An interrupt that Python drops, since it met a callback of a weak reference, a finalizer or a
    callback of LLVM, comes again.  A signal that is ignored, or has a handler of somebody else's,
    is left alone; so are all outside the main thread.

    number: of the signal that came; None before.  resent: how many were lost and came again.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.resent = 0
        self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._strike)
        if self._before:
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._drop
        return self

    def __exit__(self, *_error: object) -> None:
        self._raised = True  # who comes now is told by `number` alone
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook

    def _strike(self, number: int, _frame: object) -> None:
        self.number = self.number or number
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _drop(self, dropped: Any) -> None:
        """What Python does with an exception that it drops."""
        if self.number is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
            self._hook(dropped)
            return
        self._raised = False
        self.resent += 1
        again = threading.Timer(LOST_SECONDS, _thread.interrupt_main, (self.number,))
        again.daemon = True
        again.start()

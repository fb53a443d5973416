"""What `fxsim` says and does as soon as a signal comes, whatever the main thread is at."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

from fxsim.interrupts import SIGNALS, Interrupts, waits

AGAIN_SECONDS = 0.2
"""A signal that comes again within so many seconds is the same one.

Who ends a whole group of processes, as timeout(1) does, may send it to each member twice.
"""


class Listener:
    """A thread that hears every signal of SIGNALS while it lasts.

    At the first it says what the end waits for; at the second it ends the process.  The main thread
    would hear neither before the end of what it has called, as of LLVM.
    """

    def __init__(self, interrupts: Interrupts):
        self._interrupts = interrupts
        self._first: float | None = None
        self._stream: int | None = None

    def __enter__(self) -> Listener:
        self._on = threading.current_thread() is threading.main_thread()
        if not self._on:
            return self
        with contextlib.suppress(OSError, ValueError):
            self._stream = sys.stderr.fileno()
        self._bell, self._ears = socket.socketpair()
        self._bell.setblocking(False)
        self._before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="fxsim signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._on:
            signal.set_wakeup_fd(self._before)
            self._bell.close()
            self._thread.join()
            self._ears.close()

    def _listen(self) -> None:
        resent = 0
        while numbers := self._ears.recv(64):
            for number in filter(SIGNALS.__contains__, numbers):
                if self._first is None:
                    self._first = time.monotonic()
                    self._say(number)
                elif resent < self._interrupts.resent:
                    resent += 1
                elif time.monotonic() - self._first >= AGAIN_SECONDS:
                    os._exit(128 + number)

    def _say(self, number: int) -> None:
        if self._stream is None:
            return
        steps = waits()
        way = f"waits for {', then '.join(steps)}" if steps else "ends"
        line = f"fxsim: {signal.Signals(number).name}: {way}; a second signal ends it at once\n"
        with contextlib.suppress(OSError):
            os.write(self._stream, (f"\n{line}" if os.isatty(self._stream) else line).encode())

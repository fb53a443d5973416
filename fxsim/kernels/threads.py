"""Threads that share a kernel.

Serial kernels, which release the GIL, under threads of our own compile in a third of the time of Numba's parallel ones, and
may themselves be called from several threads.  To wake a thread that sleeps takes longer than many a kernel: one that waits
for work, or for the end of another's, looks for it SPINS times before it sleeps.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels.jit import JIT_DISABLED, jit

GRAIN = 1 << 14
"""Elements of simple work below which a second thread costs more than it gives."""
PIECES = 4
"""Pieces of work per thread, so that one that is held up leaves its last ones to others."""
SPINS = 0 if JIT_DISABLED else 1 << 13
"""A fifth of a millisecond, about; the code between two kernels of a training step takes half of that."""

GIVEN, DONE = 0, 8
"""Places of a helper's counters, in cache lines of their own."""

_count = numba.config.NUMBA_NUM_THREADS
_helpers: list[Helper] = []
_lock = threading.Lock()


def thread_count() -> int:
    """Threads that `parallel_for` uses: NUMBA_NUM_THREADS, by default all that the processor has, or fewer."""
    return _count


def use_threads(count: int) -> None:
    """Let `parallel_for` use `count` threads from now on, or as many as NUMBA_NUM_THREADS allows."""
    global _count
    _count = min(count, numba.config.NUMBA_NUM_THREADS)


def parallel_for(kernel: Callable, count: int, grain: int, *arguments) -> None:
    """kernel(start, stop, *arguments) over the whole of range(count), in pieces shared among threads.

    grain: least indices per piece.  The kernel runs code compiled by `jit` (without the GIL), and its indices
    are independent of each other, so that the result depends on neither pieces nor threads.
    Where the helpers are at work for another thread, the calling one does all.
    """
    pieces = min(count // max(grain, 1), PIECES * _count)
    if _count == 1 or pieces < 2 or not _lock.acquire(blocking=False):
        kernel(0, count, *arguments)
        return
    try:
        _share(kernel, count, pieces, arguments)
    finally:
        _lock.release()


def _share(kernel: Callable, count: int, pieces: int, arguments: tuple) -> None:
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    ranges = iter(list(zip(bounds[:-1], bounds[1:])))

    def work():
        for start, stop in ranges:  # one iterator for all threads: next() on it is atomic
            kernel(start, stop, *arguments)

    needed = min(_count, pieces) - 1
    while len(_helpers) < needed:
        _helpers.append(Helper())
    try:
        for helper in _helpers[:needed]:
            helper.start(work)
        work()
    finally:
        for helper in _helpers[:needed]:
            helper.finish()


class Helper:
    """A thread that does what it is given, one work at a time.

    The counters of works given and done change under the GIL, as do the flags of those who sleep, so that no change is missed:
    who changes a counter looks at the flag afterwards, who sleeps sets the flag and then looks at the counter once more.
    """

    def __init__(self):
        self._counters, self._work, self._error = np.zeros(16, np.int64), None, None
        self._asleep = {GIVEN: False, DONE: False}
        self._wake = {GIVEN: SimpleQueue(), DONE: SimpleQueue()}
        threading.Thread(target=self._run, name="fxsim", daemon=True).start()

    def start(self, work: Callable[[], None]) -> None:
        self.finish()  # where an interrupt kept the last one from being waited for
        self._work = work
        self._advance(GIVEN)

    def finish(self) -> None:
        """Wait for the work's end, through interrupts, which are raised afterwards, as is an error of the work."""
        interrupt = None
        while self._counters[DONE] != self._counters[GIVEN]:
            try:
                self._wait(DONE, self._counters[GIVEN] - 1)
            except KeyboardInterrupt as caught:
                interrupt = caught
        error, self._error = self._error or interrupt, None
        if error:
            raise error

    def _run(self) -> None:
        while True:
            self._wait(GIVEN, self._counters[DONE])
            try:
                self._work()
            except BaseException as error:
                self._error = error
            self._work = None  # lets go of its arrays
            self._advance(DONE)

    def _advance(self, counter: int) -> None:
        self._counters[counter] += 1
        if self._asleep[counter]:
            self._wake[counter].put(None)

    def _wait(self, counter: int, known: int) -> None:
        """Until the counter is no longer `known`."""
        if SPINS:
            _spin(self._counters, counter, known, SPINS)
        while self._counters[counter] == known:
            self._asleep[counter] = True
            try:
                if self._counters[counter] == known:
                    self._wake[counter].get()
            finally:
                self._asleep[counter] = False


def _emit_look(context, builder, signature, args):
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    value = builder.load_atomic(builder.gep(data, [args[1]]), ordering="acquire", align=8)
    if llvmlite.binding.get_process_triple().startswith(("x86_64", "i386", "i686")):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
    return value


@intrinsic
def _look(typing_context, counters, counter):
    """counters[counter] as other threads have left it, and a short pause."""
    return types.int64(counters, types.int64), _emit_look


@jit
def _spin(counters, counter, known, spins):
    for _ in range(spins):
        if _look(counters, counter) != known:
            return


def _forget_helpers() -> None:
    """A forked child has the helpers' objects but not their threads."""
    global _helpers, _lock
    _helpers, _lock = [], threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)

"""Threads that share the work of kernels.

Serial kernels, which release the GIL, under threads of our own compile in a third of the time of
Numba's parallel ones, and may themselves be called from several threads.  A helper that has nothing
to do takes part in whatever work is there.  To wake one that sleeps takes longer than many a
kernel: it looks for news SPINS times first.

Everything that threads share changes by operations that the GIL makes atomic.  No work depends on
helpers: who posts it does what nobody else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
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

HELPER_PAUSES = 300
CALLER_PAUSES = 100
"""Between news and the wish for the GIL.

Who brings news lets go of it a little later, and to wait for it means to sleep.
"""
GRAIN = 1 << 16
"""Elements of simple work below which a second thread costs more than it gives."""
PIECES = 4
"""Pieces of work per thread, so that one that is held up leaves its last ones to others."""
SPINS = 0 if JIT_DISABLED else 1 << 13
"""A fifth of a millisecond, about.

The code between two kernels of a training step takes half of that.
"""

_count = numba.config.NUMBA_NUM_THREADS
_helpers: list[threading.Thread] = []
_works: list[Work] = []
_sleepers: list[SimpleQueue] = []
_news = np.zeros(1, np.int64)
_numbers = itertools.count(1)


def thread_count() -> int:
    """Threads that share work.

    NUMBA_NUM_THREADS, by default all that the processor has, or fewer.
    """
    return _count


def use_threads(count: int) -> None:
    """Let `count` threads share work from now on, or as many as NUMBA_NUM_THREADS allows."""
    global _count
    _count = min(count, numba.config.NUMBA_NUM_THREADS)


def parallel_for(kernel: Callable, count: int, grain: int, *arguments) -> None:
    """kernel(start, stop, *arguments) over the whole of range(count), in pieces shared among
    threads.

    grain: least indices per piece.  The kernel runs code compiled by `jit` (without the GIL), and
    its indices are independent of each other, so that the result depends on neither pieces nor
    threads."""
    pieces = min(count // max(grain, 1), PIECES * _count)
    if _count == 1 or pieces < 2:
        kernel(0, count, *arguments)
        return
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    Work(kernel, arguments, list(zip(bounds[:-1], bounds[1:]))).share()


class Work:
    """Pieces of a kernel's range, of which each thread that takes part takes one after another."""

    def __init__(self, kernel: Callable, arguments: tuple, ranges: list[tuple[int, int]]):
        self._kernel = kernel
        self._arguments = arguments
        self._ranges = iter(ranges)
        self.open = True
        self._inside = []
        self._error = None

    def share(self) -> None:
        """Do it, with all who come; raises what any of them met."""
        _works.append(self)
        _start_helpers()
        _announce()
        try:
            self._run()
        finally:
            self.open = False
            _works.remove(self)
            _wait(lambda: not self._inside)
        if self._error:
            raise self._error

    def join(self) -> None:
        """Take part for another.

        Who has closed it either sees this thread inside, or is seen to have closed it.
        """
        self._inside.append(None)
        try:
            if self.open:
                self._run()
        except BaseException as error:
            self._error = error
        finally:
            self._inside.pop()
            _announce()

    def _run(self) -> None:
        for start, stop in self._ranges:
            self._kernel(start, stop, *self._arguments)
        self.open = False


def _take_part() -> bool:
    """Do what there is to do for others; whether there was anything."""
    for work in tuple(_works):
        if work.open:
            work.join()
            return True
    return False


def _help(number: int) -> None:
    """What a helper does for ever."""
    while True:
        known = int(_news[0])
        if number >= _count or not _take_part():
            _wait_for_news(known, HELPER_PAUSES)


def _wait(condition: Callable[[], bool]) -> None:
    """Until the condition, of which there is news, is true.

    Through interrupts, which are raised afterwards.
    """
    interrupt = None
    while True:
        known = int(_news[0])
        if condition():
            break
        try:
            _wait_for_news(known, CALLER_PAUSES)
        except KeyboardInterrupt as caught:
            interrupt = caught
    if interrupt:
        raise interrupt


def _wait_for_news(known: int, pauses: int) -> None:
    if SPINS:
        _spin(_news, known, SPINS, pauses)
    if _news[0] == known:
        bell = SimpleQueue()
        _sleepers.append(bell)
        if _news[0] == known:  # else who changed it may not have seen the bell
            bell.get()


def _start_helpers() -> None:
    """Enough of them, kept off this thread's processor.

    Schedulers leave threads that wake each other on one for long.
    """
    global _processor
    missing = range(len(_helpers), _count - 1)
    for number in missing:
        _helpers.append(
            threading.Thread(target=_help, args=(number + 1,), name="fxsim", daemon=True)
        )
        _helpers[-1].start()
    processor = _own_processor()
    if processor != _processor or missing:
        _processor = processor
        others = set() if processor is None else os.sched_getaffinity(0) - {processor}
        for helper in _helpers if others else ():
            os.sched_setaffinity(helper.native_id, others)


def _find_processor() -> Callable[[], int | None]:
    """What tells the processor that the calling thread runs on.

    None where the system does not or knows no affinities.
    """
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.CDLL(None).sched_getcpu
    return lambda: None


_own_processor = _find_processor()
_processor = None


def _announce() -> None:
    """There is news: work, or an end of it."""
    _news[0] = next(_numbers)
    while _sleepers:
        try:
            _sleepers.pop().put(None)
        except IndexError:
            break


def _emit_look(context, builder, signature, args):
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    value = builder.load_atomic(data, ordering="acquire", align=8)
    if llvmlite.binding.get_process_triple().startswith(("x86_64", "i386", "i686")):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
        )
    return value


@intrinsic
def _look(typing_context, number):
    """number[0] as other threads have left it, and a short pause."""
    return types.int64(number), _emit_look


@jit
def _spin(number, known, spins, pauses):
    for _ in range(spins):
        if _look(number) != known:
            for _ in range(pauses):
                _look(number)
            return


def _forget() -> None:
    """A forked child has what threads shared but not the threads."""
    for shared in (_helpers, _works, _sleepers):
        shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

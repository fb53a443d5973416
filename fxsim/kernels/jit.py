"""The only place with Numba options and threads."""
from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba

JIT_DISABLED = bool(numba.config.DISABLE_JIT)
GRAIN = 1 << 14
"""Elements of simple work below which a second thread costs more than it gives."""

_threads = numba.config.NUMBA_NUM_THREADS
_pool: ThreadPoolExecutor | None = None


def jit(function=None, **options):
    """Compile with the project's options: cached, without the GIL, integer semantics of NumPy.

    Further options go to numba.njit.
    """
    compile_ = numba.njit(cache=True, nogil=True, error_model="numpy", **options)
    return compile_ if function is None else compile_(function)


def thread_count() -> int:
    """Threads that `parallel_for` uses: NUMBA_NUM_THREADS, by default all that the processor has, or fewer."""
    return _threads


def use_threads(count: int) -> None:
    """Let `parallel_for` use `count` threads from now on, or as many as NUMBA_NUM_THREADS allows."""
    global _threads
    _threads = min(count, numba.config.NUMBA_NUM_THREADS)


def parallel_for(kernel: Callable, count: int, grain: int, *arguments) -> None:
    """kernel(start, stop, *arguments) over the whole of range(count), in pieces shared among threads.

    grain: least indices per piece.  The kernel runs code compiled by `jit` (without the GIL), and its indices
    are independent of each other, so that the result depends on neither pieces nor threads.
    Serial kernels under a thread pool compile in a third of the time of Numba's parallel ones, and may
    themselves be called from several threads.
    """
    threads = thread_count()
    pieces = min(count // max(grain, 1), 4 * threads)
    if threads == 1 or pieces < 2:
        kernel(0, count, *arguments)
        return
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    ranges = iter(list(zip(bounds[:-1], bounds[1:])))

    def work():
        for start, stop in ranges:  # one iterator for all threads: next() on it is atomic
            kernel(start, stop, *arguments)

    helpers = [_executor().submit(work) for _ in range(min(threads, pieces) - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            helper.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, numba.config.NUMBA_NUM_THREADS - 1), thread_name_prefix="fxsim")
    return _pool


def _forget_pool() -> None:
    """A forked child has the pool's object but not its threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

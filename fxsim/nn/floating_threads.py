"""Runs one kernel on several threads, each with a part of its range.

The float kernels release the interpreter's lock and take the part as their last two arguments.  Unlike a parallel loop
of Numba's this adds nothing to their compilation, and it may be used from several threads at once.
"""
from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

from fxsim.kernels.jit import thread_count

_LEAST_WORK = 5_000_000
"""Multiply-adds, about 100 microseconds, below which handing work over is not worth its time."""


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="fxsim")


if hasattr(os, "register_at_fork"):  # a forked child has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run(kernel, arguments: tuple, count: int, work: int) -> None:
    """kernel(*arguments, first, last) for parts that cover range(count); returns when all are done.

    work: multiply-adds of the whole.  The number of threads is Numba's.
    """
    threads = min(thread_count(), count) if work >= _LEAST_WORK else 1
    cuts = [count * part // threads for part in range(threads + 1)]
    others = [_pool().submit(kernel, *arguments, *part) for part in zip(cuts[1:], cuts[2:])]
    kernel(*arguments, 0, cuts[1])
    for other in others:
        other.result()

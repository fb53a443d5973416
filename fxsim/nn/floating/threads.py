"""Runs a float kernel, whose last two arguments are its range, in parts on several threads."""

from __future__ import annotations

from fxsim.kernels.threads import parallel_for

_LEAST_WORK = 5_000_000
"""Multiply-adds, about 100 microseconds, below which handing a part over is not worth its time."""


def run(kernel, arguments: tuple, count: int, work: int) -> None:
    """kernel(*arguments, first, last) for parts that cover range(count); returns when all are done.

    work: multiply-adds of the whole.
    """
    grain = -(-count * _LEAST_WORK // max(work, 1))
    parallel_for(lambda first, last: kernel(*arguments, first, last), count, grain)

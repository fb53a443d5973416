"""Timing of peers that share a process, and the processor's clock."""
from __future__ import annotations

import time
from collections.abc import Callable

import numba
import numpy as np

PAUSE = 0.15
"""Seconds before each timing: the threads of OpenBLAS and OpenMP spin for as long after their last work."""


def best_seconds(works: dict[str, Callable], repeats: int, pause: float = PAUSE) -> dict[str, float]:
    """The least seconds of each work, all in turn; one round first to warm up."""
    best = dict.fromkeys(works, float("inf"))
    for round_ in range(repeats + 1):
        for name, work in works.items():
            time.sleep(pause)
            start = time.perf_counter()
            work()
            if round_:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


@numba.njit
def _chain(count, value):
    for i in range(count):
        value = (value + i) ^ i  # each waits for the one before: two cycles
    return value


def clock_hz(count: int = 10**7) -> float:
    """Cycles per second of one core, from a chain of additions and exclusive ors of one cycle each."""
    seed = np.int64(1)
    return 2 * count / best_seconds({"chain": lambda: _chain(count, seed)}, 10, pause=0.0)["chain"]

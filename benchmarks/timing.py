"""Timing of peers that share a process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

PAUSE = 0.15
"""Seconds before each timing.

The threads of OpenBLAS and OpenMP spin for as long after their last work.
"""


def best_seconds(
    works: dict[str, Callable], repeats: int, pause: float = PAUSE
) -> dict[str, float]:
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


def burst_seconds(
    works: dict[str, Callable], rounds: int, burst: int = 3, pause: float = PAUSE
) -> dict[str, float]:
    """Median seconds of each work, as in a loop of its own.

    All take turns with bursts, whose first call is not timed.
    """
    times = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            time.sleep(pause)
            work()
            for _ in range(burst):
                start = time.perf_counter()
                work()
                if round_:  # one round first to warm up
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}

"""Exact sums over all axes but the last, and extremes."""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import GRAIN, parallel_for

RUN = 1024
"""Elements of a run of `moments`, about: its buffers stay in the first-level cache."""
RUNS_PER_SUM = 256
"""Runs of a partial sum of `moments`; int32 holds the sum of as many int16 codes."""
ROWS = 256


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(2, O) int64: sums of x and of x * y over all axes but the last.

    Exact where the sum of |x y| and of |x| stays below 2**63.  A product of int16 codes fits int32.
    Channels being contiguous, a run of whole positions is taken at once, so that inner loops are
    long however few channels there are."""
    kind = np.int32 if x.dtype == y.dtype == np.int16 else np.int64
    run = x.shape[-1] * max(1, RUN // x.shape[-1])
    partial = np.zeros((-(-x.size // (run * RUNS_PER_SUM)), 2, run), np.int64)
    parallel_for(
        _moments, len(partial), 1, x.reshape(-1), y.reshape(-1), np.empty(run, kind), partial
    )
    return partial.sum(axis=0).reshape(2, -1, x.shape[-1]).sum(axis=1)


def sum_of_jobs(parts: np.ndarray, outputs: int) -> np.ndarray:
    """(2, O) int64 from the `moments` (jobs, 2 * padded outputs) int64 of a kernel's jobs."""
    return parts.sum(axis=0).reshape(2, -1)[:, :outputs]


@jit
def _moments(start, stop, x, y, like, partial):
    run = like.size
    kind = like.dtype.type
    for block in range(start, stop):
        sums = np.zeros_like(like)
        totals = partial[block, 0]
        products = partial[block, 1]
        first = block * RUNS_PER_SUM * run
        for at in range(first, min(first + RUNS_PER_SUM * run, x.size), run):
            left = x[at : at + run]
            right = y[at : at + run]
            for i in range(left.size):
                sums[i] = np.add(sums[i], kind(left[i]))
                products[i] += np.multiply(kind(left[i]), kind(right[i]))
        for i in range(run):
            totals[i] = sums[i]


def channel_sums(codes: np.ndarray) -> np.ndarray:
    """(O,) int64 sums of C-contiguous (..., O) codes of at most 32 bits."""
    rows = codes.reshape(-1, codes.shape[-1])
    partial = np.zeros((-(-len(rows) // ROWS), rows.shape[1]), np.int64)
    parallel_for(_channel_sums, len(partial), 1 + GRAIN // (ROWS * rows.shape[1]), rows, partial)
    return partial.sum(axis=0)


@jit
def _channel_sums(start, stop, rows, partial):
    for block in range(start, stop):
        total = partial[block]
        for row in rows[block * ROWS : (block + 1) * ROWS]:
            for o in range(total.size):
                total[o] += row[o]


@jit
def extremes(values):
    """(least, greatest) of a 1-D array that is not empty."""
    low = high = values[0]
    for value in values:
        low = min(low, value)
        high = max(high, value)
    return low, high

"""What batch norm does to whole tensors: sums per channel, and linear combinations per channel with an epilogue.

Tensors are C-contiguous (..., O) codes.  Channels being contiguous, a run of whole positions is taken at once, with the
channels' constants repeated along it, so that inner loops are long however few channels there are.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels.epilogue import Epilogue, requantize_sums
from fxsim.kernels.jit import jit, parallel_for

RUN = 1024
"""Elements of a run, about: its buffers stay in the first-level cache."""
RUNS_PER_BLOCK = 32
RUNS_PER_SUM = 256
"""Runs of a partial sum of `moments`; int32 holds the sum of as many int16 codes."""


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(2, O) int64: sums of x and of x * y over all axes but the last.

    Exact where the sum of |x y| and of |x| stays below 2**63.  A product of int16 codes fits int32.
    """
    kind = np.int32 if x.dtype == y.dtype == np.int16 else np.int64
    run = _run_length(x.shape[-1])
    partial = np.zeros((_blocks(x, run, RUNS_PER_SUM), 2, run), np.int64)
    parallel_for(_moments, len(partial), 1, x.reshape(-1), y.reshape(-1), np.empty(run, kind), partial)
    return partial.sum(axis=0).reshape(2, -1, x.shape[-1]).sum(axis=1)


def combine(x: np.ndarray, y: np.ndarray | None, first: np.ndarray, second: np.ndarray, constant: np.ndarray,
            epilogue: Epilogue, out: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """out = epilogue(first * x + second * y + constant), the three being one number for each channel.

    y: a tensor of x's shape, or None for 0.  mask: uint8, 1 where 0 < sum < epilogue.relu_bound, or None.
    Returns the counts (3,).  Everything is done in the integer type of first, second and constant, int32 or int64,
    which must hold every intermediate.
    """
    run = _run_length(x.shape[-1])
    repeated = (np.tile(each, run // x.shape[-1]) for each in (first, second, constant))
    counts = np.zeros((_blocks(x, run, RUNS_PER_BLOCK), 3), np.int64)
    parallel_for(_combine, len(counts), 1, x.reshape(-1), np.empty(0, x.dtype) if y is None else y.reshape(-1),
                 *repeated, epilogue, out.reshape(-1), np.empty(0, np.uint8) if mask is None else mask.reshape(-1), counts)
    return counts.sum(axis=0)


def _run_length(channels: int) -> int:
    return channels * max(1, RUN // channels)


def _blocks(x: np.ndarray, run: int, runs: int) -> int:
    return -(-x.size // (run * runs))


@jit
def _moments(start, stop, x, y, like, partial):
    run, kind = like.size, like.dtype.type
    for block in range(start, stop):
        sums, products = np.zeros_like(like), partial[block, 1]
        first = block * RUNS_PER_SUM * run
        for at in range(first, min(first + RUNS_PER_SUM * run, x.size), run):
            left, right = x[at:at + run], y[at:at + run]
            for i in range(left.size):
                sums[i] = np.add(sums[i], kind(left[i]))
                products[i] += np.multiply(kind(left[i]), kind(right[i]))
        partial[block, 0] = sums


@jit
def _combine(start, stop, x, y, first, second, constant, epilogue, out, mask, counts):
    run, kind = constant.size, constant.dtype.type
    sums, no_mask = np.empty(run, constant.dtype), np.empty(run, np.uint8)
    for block in range(start, stop):
        begin = block * RUNS_PER_BLOCK * run
        for at in range(begin, min(begin + RUNS_PER_BLOCK * run, x.size), run):
            left, right = x[at:at + run], y[at:at + run]
            if right.size:
                for i in range(left.size):
                    sums[i] = np.add(np.multiply(first[i], kind(left[i])), np.multiply(second[i], kind(right[i])))
            else:
                for i in range(left.size):
                    sums[i] = np.multiply(first[i], kind(left[i]))
            requantize_sums(sums[:left.size], constant, epilogue, out[at:at + run], mask[at:at + run] if mask.size else no_mask,
                            counts[block])

"""What batch norm does to whole tensors: sums per channel, and linear combinations per channel with an epilogue.

Tensors are C-contiguous (..., O) codes.  Channels being contiguous, a run of whole positions is taken at once, with the
channels' constants repeated along it, so that inner loops are long however few channels there are.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels.epilogue import Epilogue
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED, rounding_terms

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


def moments_fit_doubles(codes: np.ndarray) -> bool:
    """Whether codes are of int16 and float64 holds the sum of their squares, and all parts of it, exactly: n * 2**30 <= 2**53."""
    return codes.dtype == np.int16 and codes.size // codes.shape[-1] <= 2**23


def sum_of_jobs(parts: np.ndarray, outputs: int) -> np.ndarray:
    """(2, O) int64 from the `moments` (jobs, 2 * padded outputs) float64 of a kernel's jobs."""
    return parts.sum(axis=0).reshape(2, -1)[:, :outputs].astype(np.int64)


def combine(x: np.ndarray, y: np.ndarray | None, first: np.ndarray, second: np.ndarray, constant: np.ndarray,
            epilogue: Epilogue, out: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """out = epilogue(first * x + second * y + constant), the three being one number for each channel.

    y: a tensor of x's shape, or None for 0.  mask: uint8, 1 where 0 < sum < epilogue.relu_bound, or None.
    Returns the counts (3,).  Everything is done in the type of first, second and constant, which must hold every
    intermediate: int32, int64 or, where `holds_in_doubles`, float64.
    """
    run = _run_length(x.shape[-1])
    repeated = (np.tile(each, run // x.shape[-1]) for each in (first, second, constant))
    counts = np.zeros((_blocks(x, run, RUNS_PER_BLOCK), 3), np.int64)
    kernel = _combine_in_doubles if constant.dtype == np.float64 else _combine
    parallel_for(kernel, len(counts), 1, x.reshape(-1), np.empty(0, x.dtype) if y is None else y.reshape(-1), *repeated,
                 epilogue, out.reshape(-1), np.empty(0, np.uint8) if mask is None else mask.reshape(-1), counts)
    return counts.sum(axis=0)


def holds_in_doubles(bound: int, epilogue: Epilogue) -> bool:
    """Whether float64 carries sums of at most `bound` in magnitude, and what the epilogue makes of them, exactly.

    It holds integers up to 2**53.  Half a step added to a sum scaled to the new step is a multiple of 2**-shift, or of a
    half, and of at most (bound + 2**(shift-1)) * 2**-shift; truncation then rounds to nearest, ties away from zero, the
    one rounding that is done so, to a code that int32 must hold.
    """
    shift = epilogue.shift
    nearest_away = (epilogue.base, epilogue.neg, epilogue.odd, epilogue.jam) == rounding_terms("nearest_away", shift)
    plain = nearest_away and epilogue.floor < 0 and not epilogue.acc_shift
    return plain and 2 * bound + (1 << shift) <= 2**53 and (bound >> shift) + 1 < 2**31


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
def _requantize_sums(sums, bias, epilogue, codes, mask, counts):
    """Codes and ReLU mask of 1-D `sums`, in the integer type of `sums` and `bias`; adds to counts.

    NumPy's scalar functions keep int32 operands int32, so that the loop runs on 16 lanes.
    """
    kind = sums.dtype.type
    zero, one = kind(0), kind(1)
    acc_shift, relu_bound, floor = kind(epilogue.acc_shift), kind(epilogue.relu_bound), kind(epilogue.floor)
    shift, base, neg, odd = kind(epilogue.shift), kind(epilogue.base), kind(epilogue.neg), kind(epilogue.odd)
    jam, low, high = kind(epilogue.jam), kind(epilogue.low), kind(epilogue.high)
    below = above = flushed = zero
    for i in range(sums.size):
        value = np.add(np.left_shift(sums[i], acc_shift), bias[i])
        mask[i] = (value > zero) & (value < relu_bound)
        value = np.maximum(value, floor)
        last_bit = np.bitwise_and(np.right_shift(value, shift), one)
        carry = np.add(np.add(base, neg if value < zero else zero), odd if last_bit else zero)
        code = np.bitwise_or(np.right_shift(np.add(value, carry), shift), jam)
        below = np.add(below, kind(code < low))
        above = np.add(above, kind(code > high))
        flushed = np.add(flushed, kind((code == zero) & (value != zero)))
        codes[i] = np.minimum(np.maximum(code, low), high)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


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
            _requantize_sums(sums[:left.size], constant, epilogue, out[at:at + run], mask[at:at + run] if mask.size else no_mask,
                            counts[block])


@jit
def _combine_in_doubles(start, stop, x, y, first, second, constant, epilogue, out, mask, counts):
    """`_combine` without a ReLU: doubles multiply and round in fewer instructions than 64-bit integers."""
    run, scale = constant.size, 0.5**epilogue.shift
    low, high, zero, one = np.int32(epilogue.low), np.int32(epilogue.high), np.int32(0), np.int32(1)
    codes = np.empty(run, np.int32)
    for block in range(start, stop):
        begin = block * RUNS_PER_BLOCK * run
        for at in range(begin, min(begin + RUNS_PER_BLOCK * run, x.size), run):
            left, right, target = x[at:at + run], y[at:at + run], out[at:at + run]
            zeros = np.int64(0)
            if right.size:
                for i in range(left.size):
                    value = first[i] * left[i] + second[i] * right[i] + constant[i]
                    zeros += value == 0.0
                    codes[i] = _nearest_away(value * scale)
            else:
                for i in range(left.size):
                    value = first[i] * left[i] + constant[i]
                    zeros += value == 0.0
                    codes[i] = _nearest_away(value * scale)
            below = above = flushed = zero
            for i in range(left.size):
                code = codes[i]
                below = np.add(below, one if code < low else zero)
                above = np.add(above, one if code > high else zero)
                flushed = np.add(flushed, one if code == zero else zero)
                target[i] = min(max(code, low), high)
            counts[block, BELOW] += below
            counts[block, ABOVE] += above
            counts[block, FLUSHED] += flushed - zeros


@jit
def _nearest_away(value):
    return np.int32(value + np.copysign(0.5, value))

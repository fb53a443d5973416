"""Max and average pooling of codes over non-overlapping windows, and their backward passes.

Arrays are `(N, H, W, C)`; a remainder of rows or columns at the edge belongs to no window and gets
no gradient.
"""
from __future__ import annotations

import numba
import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.rounding import round_divide


@jit(parallel=True)
def max_pool(codes, size, out, winner):
    """out = the greatest code of each window; winner (uint8) = its row-major place, the first on a tie."""
    for n in numba.prange(codes.shape[0]):
        _max_pool_image(codes[n], size, out[n], winner[n])


@jit
def _max_pool_image(codes, size, out, winner):
    rows, columns, channels = out.shape
    for y in range(rows):
        for x in range(columns):
            for c in range(channels):
                out[y, x, c] = codes[y * size, x * size, c]
                winner[y, x, c] = 0
            for place in range(1, size * size):
                source = codes[y * size + place // size, x * size + place % size]
                for c in range(channels):
                    greater = source[c] > out[y, x, c]
                    out[y, x, c] = source[c] if greater else out[y, x, c]
                    winner[y, x, c] = place if greater else winner[y, x, c]


@jit(parallel=True)
def max_pool_backward(grads, winner, size, out):
    """out = each window's gradient at the place of its winner, 0 elsewhere."""
    for n in numba.prange(grads.shape[0]):
        _max_pool_backward_image(grads[n], winner[n], size, out[n])


@jit
def _max_pool_backward_image(grads, winner, size, out):
    rows, columns, channels = grads.shape
    if out.shape[0] != rows * size or out.shape[1] != columns * size:
        out[:] = 0
    for y in range(rows):
        for x in range(columns):
            for place in range(size * size):
                target = out[y * size + place // size, x * size + place % size]
                for c in range(channels):
                    target[c] = grads[y, x, c] if winner[y, x, c] == place else 0


@jit(parallel=True)
def average_pool(codes, size, out):
    """out = the exact sum of each window divided by size**2, nearest, ties away from zero."""
    rows, columns, channels = out.shape[1:]
    for n in numba.prange(codes.shape[0]):
        for y in range(rows):
            for x in range(columns):
                for c in range(channels):
                    total = np.int64(0)
                    for place in range(size * size):
                        total += codes[n, y * size + place // size, x * size + place % size, c]
                    out[n, y, x, c] = round_divide(total, size * size)


def average_pool_gradient_bits(size: int) -> int:
    """By how many bits the step of `average_pool_backward` is finer: ceil(log2(size**2))."""
    return (size * size - 1).bit_length()


@jit(parallel=True)
def average_pool_backward(grads, size, finer, out):
    """out = grads * 2**finer / size**2 over each window, nearest, ties away from zero.

    With finer = average_pool_gradient_bits(size) this is exact where size**2 is a power of two.
    """
    rows, columns, channels = grads.shape[1:]
    for n in numba.prange(grads.shape[0]):
        out[n] = 0
        for y in range(rows * size):
            for x in range(columns * size):
                for c in range(channels):
                    share = np.int64(grads[n, y // size, x // size, c]) << finer
                    out[n, y, x, c] = round_divide(share, size * size)


@jit(parallel=True)
def close_masked_windows(mask, size, winner):
    """Set winner to size**2, no place, where the mask (N, H, W, C) is 0 at the winner's place.

    Only winners get a gradient, so that afterwards `max_pool_backward` needs no mask.
    """
    rows, columns, channels = winner.shape[1:]
    for n in numba.prange(mask.shape[0]):
        for y in range(rows):
            for x in range(columns):
                for c in range(channels):
                    place = winner[n, y, x, c]
                    if mask[n, y * size + place // size, x * size + place % size, c] == 0:
                        winner[n, y, x, c] = size * size

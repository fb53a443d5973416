"""Max and average pooling of codes over non-overlapping windows, and their backward passes.

Arrays are C-contiguous `(N, H, W, C)`; a remainder of rows or columns at the edge belongs to no
window and gets no gradient.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.rounding import round_divide
from fxsim.kernels.threads import GRAIN, parallel_for


def _grain(images: np.ndarray) -> int:
    return 1 + GRAIN * len(images) // images.size


def max_pool(
    codes: np.ndarray, size: int, out: np.ndarray, winner: np.ndarray, mask: np.ndarray
) -> None:
    """out = the greatest code of each window; winner (uint8) = its row-major place, the first on a
    tie.

    mask: uint8 of the shape of codes; where it is 0 at the winner's place, winner is size**2, no
    place, so that `max_pool_backward` lets nothing pass there.
    """
    parallel_for(_max_pool, len(codes), _grain(codes), codes, size, out, winner, mask)


@jit
def _max_pool(start, stop, codes, size, out, winner, mask):
    for n in range(start, stop):
        for y in range(out.shape[1]):
            rows = slice(y * size, y * size + size)
            max_pool_row(codes[n, rows], size, out[n, y], winner[n, y], mask[n, rows])


@jit
def max_pool_row(codes, size, out, winner, mask):
    """`max_pool` of the rows of one row of windows.

    Codes and mask (size, W, C), out and winner (columns, C).
    """
    for x in range(len(out)):
        best = out[x]
        place_of_best = winner[x]
        for place in range(size * size):
            source = codes[place // size, x * size + place % size]
            open_ = mask[place // size, x * size + place % size]
            for c in range(best.size):
                greater = place == 0 or source[c] > best[c]
                best[c] = source[c] if greater else best[c]
                target = place if open_[c] else size * size
                place_of_best[c] = target if greater else place_of_best[c]


def max_pool_backward(grads: np.ndarray, winner: np.ndarray, size: int, out: np.ndarray) -> None:
    """out = each window's gradient at the place of its winner, 0 elsewhere."""
    parallel_for(_max_pool_backward, len(grads), _grain(out), grads, winner, size, out)


@jit
def _max_pool_backward(start, stop, grads, winner, size, out):
    rows, columns, channels = grads.shape[1:]
    if out.shape[1] != rows * size or out.shape[2] != columns * size:
        out[start:stop] = 0
    for n in range(start, stop):
        for y in range(rows):
            for x in range(columns):
                grad = grads[n, y, x]
                chosen = winner[n, y, x]
                for place in range(size * size):
                    target = out[n, y * size + place // size, x * size + place % size]
                    for c in range(channels):
                        target[c] = grad[c] if chosen[c] == place else 0


def average_pool(codes: np.ndarray, size: int, out: np.ndarray) -> None:
    """out = the exact sum of each window divided by size**2, nearest, ties away from zero."""
    parallel_for(_average_pool, len(codes), _grain(codes), codes, size, out)


@jit
def _average_pool(start, stop, codes, size, out):
    rows, columns, channels = out.shape[1:]
    for n in range(start, stop):
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


def average_pool_backward(grads: np.ndarray, size: int, finer: int, out: np.ndarray) -> None:
    """out = grads * 2**finer / size**2 over each window, nearest, ties away from zero.

    With finer = average_pool_gradient_bits(size) this is exact where size**2 is a power of two.
    """
    parallel_for(_average_pool_backward, len(grads), _grain(out), grads, size, finer, out)


@jit
def _average_pool_backward(start, stop, grads, size, finer, out):
    rows, columns, channels = grads.shape[1:]
    out[start:stop] = 0
    for n in range(start, stop):
        for y in range(rows * size):
            for x in range(columns * size):
                for c in range(channels):
                    share = np.int64(grads[n, y // size, x // size, c]) << finer
                    out[n, y, x, c] = round_divide(share, size * size)

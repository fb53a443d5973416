"""Max and average pooling of codes, and their backward passes.

Arrays are C-contiguous `(N, H, W, C)`; rows and columns that no window covers get no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.rounding import round_divide
from fxsim.kernels.threads import GRAIN, parallel_for


class Windows(NamedTuple):
    """Windows of rows x columns, `down` and `across` apart, the first of them `top` above the
    image and `left` of it.  Each has a place inside of the image.
    """

    rows: int
    columns: int
    down: int
    across: int
    top: int = 0
    left: int = 0

    @property
    def square(self) -> int:
        """The size of square windows that lie side by side, else 0."""
        alike = self.rows == self.columns == self.down == self.across
        return self.rows if alike and not self.top and not self.left else 0


def _grain(images: np.ndarray) -> int:
    return 1 + GRAIN * len(images) // images.size


def max_pool(
    codes: np.ndarray, windows: Windows, out: np.ndarray, winner: np.ndarray, mask: np.ndarray
) -> None:
    """out = the greatest code of each window; winner (uint8) = its row-major place, the first on a
    tie.  What lies outside of the image never wins.

    mask: uint8 of the shape of codes; where it is 0 at the winner's place, winner is the number of
    places, no place, so that `max_pool_backward` lets nothing pass there.
    """
    if windows.square:
        arguments = (codes, windows.square, out, winner, mask)
        parallel_for(_max_pool, len(codes), _grain(codes), *arguments)
        return
    parallel_for(_max_pool_windows, len(codes), _grain(codes), codes, windows, out, winner, mask)


@jit
def _max_pool_windows(start, stop, codes, windows, out, winner, mask):
    height, width = codes.shape[1:3]
    places = windows.rows * windows.columns
    for n in range(start, stop):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                first = True
                for place in range(places):
                    row = y * windows.down - windows.top + place // windows.columns
                    column = x * windows.across - windows.left + place % windows.columns
                    if 0 <= row < height and 0 <= column < width:
                        for c in range(out.shape[3]):
                            code = codes[n, row, column, c]
                            if first or code > out[n, y, x, c]:
                                out[n, y, x, c] = code
                                winner[n, y, x, c] = place if mask[n, row, column, c] else places
                        first = False


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


def max_pool_backward(
    grads: np.ndarray, winner: np.ndarray, windows: Windows, out: np.ndarray
) -> None:
    """out = each window's gradient at the place of its winner, 0 elsewhere.

    Where windows overlap the gradients are added; `out` has bits for `overlap` of them.
    """
    if windows.square:
        arguments = (grads, winner, windows.square, out)
        parallel_for(_max_pool_backward, len(grads), _grain(out), *arguments)
        return
    parallel_for(_max_pool_windows_backward, len(grads), _grain(out), grads, winner, windows, out)


@jit
def _max_pool_windows_backward(start, stop, grads, winner, windows, out):
    out[start:stop] = 0
    rows, columns, channels = grads.shape[1:]
    for n in range(start, stop):
        for y in range(rows):
            for x in range(columns):
                for c in range(channels):
                    place = np.int64(winner[n, y, x, c])
                    if place < windows.rows * windows.columns:
                        row = y * windows.down - windows.top + place // windows.columns
                        column = x * windows.across - windows.left + place % windows.columns
                        out[n, row, column, c] += grads[n, y, x, c]


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


def average_pool(codes: np.ndarray, windows: Windows, out: np.ndarray) -> None:
    """out = the exact sum of each window divided by its places, nearest, ties away from zero.

    Windows have no place outside of the image.
    """
    parallel_for(_average_pool, len(codes), _grain(codes), codes, windows, out)


@jit
def _average_pool(start, stop, codes, windows, out):
    rows, columns, channels = out.shape[1:]
    places = windows.rows * windows.columns
    for n in range(start, stop):
        for y in range(rows):
            for x in range(columns):
                for c in range(channels):
                    total = np.int64(0)
                    for place in range(places):
                        row = y * windows.down + place // windows.columns
                        column = x * windows.across + place % windows.columns
                        total += codes[n, row, column, c]
                    out[n, y, x, c] = round_divide(total, places)


def average_pool_gradient_bits(places: int) -> int:
    """By how many bits the step of `average_pool_backward` is finer: ceil(log2(places))."""
    return (places - 1).bit_length()


def average_pool_backward(grads: np.ndarray, windows: Windows, finer: int, out: np.ndarray) -> None:
    """out = grads * 2**finer / places over each window, nearest, ties away from zero.

    Where windows overlap their gradients are added before they are divided.  With finer =
    average_pool_gradient_bits(places) this is exact where the places are a power of two.
    """
    parallel_for(_average_pool_backward, len(grads), _grain(out), grads, windows, finer, out)


@jit
def _average_pool_backward(start, stop, grads, windows, finer, out):
    places = windows.rows * windows.columns
    total = np.empty(out.shape[1:], np.int64)
    for n in range(start, stop):
        spread_over_windows(grads[n], windows, total)
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                for c in range(out.shape[3]):
                    out[n, y, x, c] = round_divide(total[y, x, c] << finer, places)


@jit
def spread_over_windows(grads, windows, total):
    """total (H, W, C) int64 = the sum of the gradients (rows, columns, C) of the windows that cover
    an element.
    """
    total[:] = 0
    for y in range(grads.shape[0]):
        for x in range(grads.shape[1]):
            for place in range(windows.rows * windows.columns):
                row = y * windows.down + place // windows.columns
                column = x * windows.across + place % windows.columns
                for c in range(grads.shape[2]):
                    total[row, column, c] += grads[y, x, c]


def spread(grads: np.ndarray, windows: Windows, out: np.ndarray) -> None:
    """out (N, H, W, C) int64 = for each element the sum of the gradients of its windows."""
    parallel_for(_spread, len(grads), _grain(out), grads, windows, out)


@jit
def _spread(start, stop, grads, windows, out):
    for n in range(start, stop):
        spread_over_windows(grads[n], windows, out[n])

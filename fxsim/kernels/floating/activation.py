"""What follows a weighted operation, in floating point, in few passes over the tensors.

The pre-activation is `scale * operation + shift + branch`, scale and shift being those of batch
norm, or 1 and the bias.  It is computed again wherever it is needed, never stored.  Arrays are `(N,
H, W, C)`, per-channel ones `(C,)`; a branch or winner that a layer does not have is given as zeros
of shape `(1, 1, 1, C)`.  Sums are taken per image, in float64, so that they do not depend on how
the work is divided: a kernel does images `first .. last - 1`.

The loops index whole arrays: a slice per pixel would cost more, in reference counts, than the work
on its channels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.jit import jit


class Preactivation(NamedTuple):
    """scale * operation + shift + branch, and the range that the activation clips it to."""

    operation: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    branch: np.ndarray
    low: float
    high: float


class Pooling(NamedTuple):
    """Windows of `size` x `size`; with `maximum`, the place of each one's greatest value."""

    size: int
    maximum: bool
    winner: np.ndarray


@jit
def channel_sums(maps, sums, first, last):
    """sums[n, :, c] (float64) = sum and sum of squares of image n's channel c."""
    for n in range(first, last):
        sums[n] = 0
        for y in range(maps.shape[1]):
            for x in range(maps.shape[2]):
                for c in range(maps.shape[3]):
                    value = np.float64(maps[n, y, x, c])
                    sums[n, 0, c] += value
                    sums[n, 1, c] += value * value


@jit
def _value_at(maps, n, y, x, c):
    """An element of the maps, or the zero that stands for it."""
    return maps[min(n, maps.shape[0] - 1), min(y, maps.shape[1] - 1), min(x, maps.shape[2] - 1), c]


@jit
def _preactivation(operation, scale, shift, branch, n, y, x, c):
    return scale[c] * operation[n, y, x, c] + shift[c] + _value_at(branch, n, y, x, c)


@jit
def _clip(value, low, high):
    """The nearest of [low, high]; NaN stays NaN, so that a run that diverges shows it."""
    value = low if value < low else value
    return high if value > high else value


@jit
def activate(preactivation, pooling, out, first, last):
    """out = the `Preactivation` clipped to its range, then pooled over windows (`Pooling`).

    maximum: take each window's greatest value and set winner to its row-major place, the first on
    a tie; else take the mean, which for size 1 is the value itself.
    """
    operation, scale, shift, branch, low, high = preactivation
    size, maximum, winner = pooling
    for n in range(first, last):
        if maximum:
            _activate_maximum(operation, scale, shift, branch, low, high, size, n, out, winner)
        else:
            _activate_mean(operation, scale, shift, branch, low, high, size, n, out)


@jit
def _activate_maximum(operation, scale, shift, branch, low, high, size, n, out, winner):
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            for place in range(size * size):
                v = y * size + place // size
                u = x * size + place % size
                for c in range(out.shape[3]):
                    value = _clip(
                        _preactivation(operation, scale, shift, branch, n, v, u, c), low, high
                    )
                    greatest = place == 0 or value > out[n, y, x, c]
                    out[n, y, x, c] = value if greatest else out[n, y, x, c]
                    winner[n, y, x, c] = place if greatest else winner[n, y, x, c]


@jit
def _activate_mean(operation, scale, shift, branch, low, high, size, n, out):
    share = scale.dtype.type(1 / (size * size))
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            for place in range(size * size):
                v = y * size + place // size
                u = x * size + place % size
                for c in range(out.shape[3]):
                    value = share * _clip(
                        _preactivation(operation, scale, shift, branch, n, v, u, c), low, high
                    )
                    out[n, y, x, c] = out[n, y, x, c] + value if place else value


@jit
def _routing(size, maximum, gradient, y, x):
    """(row, column) of the window around a pixel, the pixel's place in it, and the pixel's share of
    its gradient.

    Without max pooling every place is 0, as is every stand-in for a winner.  A pixel beyond the
    last window has no share of any.
    """
    row = y // size
    column = x // size
    place = (y - row * size) * size + x - column * size if maximum else 0
    inside = row < gradient.shape[1] and column < gradient.shape[2]
    share = (1.0 if maximum else 1 / (size * size)) if inside else 0.0
    return min(row, gradient.shape[1] - 1), min(column, gradient.shape[2] - 1), place, share


@jit
def _passed(value, low, high, won, gradient):
    """The gradient where low < value < high and the value won its window, else 0."""
    return gradient if won & (value > low) & (value < high) else gradient * 0


@jit
def gradient_sums(preactivation, pooling, gradient, sums, first, last):
    """sums[n, :, c] (float64) = sums of the pre-activation's gradient, and of it times the
    operation.

    gradient: of the pooled output.
    """
    operation, scale, shift, branch, low, high = preactivation
    size, maximum, winner = pooling
    for n in range(first, last):
        sums[n] = 0
        for y in range(operation.shape[1]):
            for x in range(operation.shape[2]):
                row, column, place, share = _routing(size, maximum, gradient, y, x)
                place = winner.dtype.type(place)
                share = scale.dtype.type(share)
                for c in range(operation.shape[3]):
                    value = _preactivation(operation, scale, shift, branch, n, y, x, c)
                    won = _value_at(winner, n, row, column, c) == place
                    passed = np.float64(
                        _passed(value, low, high, won, share * gradient[n, row, column, c])
                    )
                    sums[n, 0, c] += passed
                    sums[n, 1, c] += passed * operation[n, y, x, c]


@jit
def activate_backward(
    preactivation, pooling, gradient, constant, slope, out, branch_gradient, first, last
):
    """out = scale * g + constant + slope * operation, g being the pre-activation's gradient.

    branch_gradient = g, unless it is the stand-in of a layer without branch.  See `gradient_sums`.
    """
    operation, scale, shift, branch, low, high = preactivation
    size, maximum, winner = pooling
    has_branch = branch_gradient.size == operation.size
    for n in range(first, last):
        for y in range(operation.shape[1]):
            for x in range(operation.shape[2]):
                row, column, place, share = _routing(size, maximum, gradient, y, x)
                place = winner.dtype.type(place)
                share = scale.dtype.type(share)
                for c in range(operation.shape[3]):
                    value = _preactivation(operation, scale, shift, branch, n, y, x, c)
                    won = _value_at(winner, n, row, column, c) == place
                    passed = _passed(value, low, high, won, share * gradient[n, row, column, c])
                    out[n, y, x, c] = (
                        scale[c] * passed + constant[c] + slope[c] * operation[n, y, x, c]
                    )
                    if has_branch:
                        branch_gradient[n, y, x, c] = passed

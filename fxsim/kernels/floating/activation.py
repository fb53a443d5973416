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
    """Windows of rows x columns, `down` and `across` apart, the first of them `top` above the image
    and `left` of it; with `maximum`, the place of each one's greatest value.
    """

    rows: int
    columns: int
    down: int
    across: int
    top: int
    left: int
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
    for n in range(first, last):
        if pooling.maximum:
            _activate_maximum(preactivation, pooling, n, out)
        else:
            _activate_mean(preactivation, pooling, n, out)


@jit
def _activate_maximum(preactivation, pooling, n, out):
    operation, scale, shift, branch, low, high = preactivation
    winner = pooling.winner
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            first = True
            for place in range(pooling.rows * pooling.columns):
                v = y * pooling.down - pooling.top + place // pooling.columns
                u = x * pooling.across - pooling.left + place % pooling.columns
                if 0 <= v < operation.shape[1] and 0 <= u < operation.shape[2]:
                    for c in range(out.shape[3]):
                        value = _clip(
                            _preactivation(operation, scale, shift, branch, n, v, u, c), low, high
                        )
                        greatest = first or value > out[n, y, x, c]
                        out[n, y, x, c] = value if greatest else out[n, y, x, c]
                        winner[n, y, x, c] = place if greatest else winner[n, y, x, c]
                    first = False


@jit
def _activate_mean(preactivation, pooling, n, out):
    operation, scale, shift, branch, low, high = preactivation
    share = scale.dtype.type(1 / (pooling.rows * pooling.columns))
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            for place in range(pooling.rows * pooling.columns):
                v = y * pooling.down + place // pooling.columns
                u = x * pooling.across + place % pooling.columns
                for c in range(out.shape[3]):
                    value = share * _clip(
                        _preactivation(operation, scale, shift, branch, n, v, u, c), low, high
                    )
                    out[n, y, x, c] = out[n, y, x, c] + value if place else value


@jit
def _first_window(position, size, step, before, count):
    """The first window of `count` along an axis that covers a position."""
    return min(max(0, (position + before - size + step) // step), count)


@jit
def _last_window(position, step, before, count):
    """The last window of `count` along an axis that may cover a position."""
    return min((position + before) // step, count - 1)


@jit
def _arriving(pooling, gradient, n, y, x, share, total):
    """total (C,) = the gradient that arrives at a pixel from all windows that cover it.

    share: of a mean; with max pooling a window gives all to its winner.
    """
    total[:] = 0
    top = _first_window(y, pooling.rows, pooling.down, pooling.top, gradient.shape[1])
    left = _first_window(x, pooling.columns, pooling.across, pooling.left, gradient.shape[2])
    for row in range(top, _last_window(y, pooling.down, pooling.top, gradient.shape[1]) + 1):
        for column in range(
            left, _last_window(x, pooling.across, pooling.left, gradient.shape[2]) + 1
        ):
            if pooling.maximum:
                place = (y + pooling.top - row * pooling.down) * pooling.columns
                place += x + pooling.left - column * pooling.across
                for c in range(total.size):
                    if pooling.winner[n, row, column, c] == place:
                        total[c] += gradient[n, row, column, c]
            else:
                for c in range(total.size):
                    total[c] += share * gradient[n, row, column, c]


@jit
def _passed(value, low, high, gradient):
    """The gradient where low < value < high, else 0."""
    return gradient if (value > low) & (value < high) else gradient * 0


@jit
def gradient_sums(preactivation, pooling, gradient, sums, first, last):
    """sums[n, :, c] (float64) = sums of the pre-activation's gradient, and of it times the
    operation.

    gradient: of the pooled output.
    """
    operation, scale, shift, branch, low, high = preactivation
    share = scale.dtype.type(1 / (pooling.rows * pooling.columns))
    arriving = np.empty(operation.shape[3], gradient.dtype)
    for n in range(first, last):
        sums[n] = 0
        for y in range(operation.shape[1]):
            for x in range(operation.shape[2]):
                _arriving(pooling, gradient, n, y, x, share, arriving)
                for c in range(operation.shape[3]):
                    value = _preactivation(operation, scale, shift, branch, n, y, x, c)
                    passed = np.float64(_passed(value, low, high, arriving[c]))
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
    share = scale.dtype.type(1 / (pooling.rows * pooling.columns))
    arriving = np.empty(operation.shape[3], gradient.dtype)
    has_branch = branch_gradient.size == operation.size
    for n in range(first, last):
        for y in range(operation.shape[1]):
            for x in range(operation.shape[2]):
                _arriving(pooling, gradient, n, y, x, share, arriving)
                for c in range(operation.shape[3]):
                    value = _preactivation(operation, scale, shift, branch, n, y, x, c)
                    passed = _passed(value, low, high, arriving[c])
                    out[n, y, x, c] = (
                        scale[c] * passed + constant[c] + slope[c] * operation[n, y, x, c]
                    )
                    if has_branch:
                        branch_gradient[n, y, x, c] = passed

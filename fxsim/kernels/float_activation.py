"""What follows a weighted operation, in floating point, in few passes over the tensors.

The pre-activation is `scale * operation + shift + branch`, scale and shift being those of batch norm, or 1 and the
bias.  It is computed again wherever it is needed, never stored.  Arrays are `(N, H, W, C)`, per-channel ones `(C,)`;
a branch or winner that a layer does not have is given as zeros of shape `(1, 1, 1, C)`.  Sums are taken per image, in
float64, so that they do not depend on the number of threads.
"""
from __future__ import annotations

import numba
import numpy as np

from fxsim.kernels.jit import jit


@jit
def _image(maps, n):
    """The maps of image n, or the zeros that stand for them."""
    return maps[min(np.int64(n), maps.shape[0] - 1)]


@jit
def _pixel(maps, y, x):
    """The channels at a pixel, or the zeros that stand for them."""
    return maps[min(y, maps.shape[0] - 1), min(x, maps.shape[1] - 1)]


@jit(parallel=True)
def channel_sums(maps, sums):
    """sums[n, :, c] (float64) = sum and sum of squares of image n's channel c."""
    for n in numba.prange(maps.shape[0]):
        sums[n] = 0
        for y in range(maps.shape[1]):
            for x in range(maps.shape[2]):
                _add_products(maps[n, y, x], maps[n, y, x], sums[n, 0], sums[n, 1])


@jit
def _add_products(values, factors, sums, product_sums):
    for c in range(values.size):
        value = np.float64(values[c])
        sums[c] += value
        product_sums[c] += value * np.float64(factors[c])


@jit(parallel=True)
def activate(operation, scale, shift, branch, low, high, size, maximum, out, winner):
    """out = the pre-activation clipped to [low, high], then pooled over `size` x `size` windows.

    maximum: take each window's greatest value and set winner (uint8) to its row-major place, the first on
    a tie; else take the mean, which for size 1 is the value itself.
    """
    for n in numba.prange(out.shape[0]):
        _activate_image(operation[n], scale, shift, _image(branch, n), low, high, size, maximum, out[n],
                        _image(winner, n))


@jit
def _activate_image(operation, scale, shift, branch, low, high, size, maximum, out, winner):
    share = scale.dtype.type(1 / (size * size))
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            target = out[y, x]
            target[:] = -np.inf if maximum else 0
            for place in range(size * size):
                v, u = y * size + place // size, x * size + place % size
                source, extra = operation[v, u], _pixel(branch, v, u)
                if maximum:
                    _keep_greatest(source, scale, shift, extra, low, high, place, target, winner[y, x])
                else:
                    _add_share(source, scale, shift, extra, low, high, share, target)


@jit
def _clip(value, low, high):
    """The nearest of [low, high]; NaN stays NaN, so that a run that diverges shows it."""
    value = low if value < low else value
    return high if value > high else value


@jit
def _keep_greatest(operation, scale, shift, extra, low, high, place, best, winner):
    for c in range(best.size):
        value = _clip(scale[c] * operation[c] + shift[c] + extra[c], low, high)
        greater = value > best[c]
        best[c] = value if greater else best[c]
        winner[c] = place if greater else winner[c]


@jit
def _add_share(operation, scale, shift, extra, low, high, share, total):
    for c in range(total.size):
        total[c] += share * _clip(scale[c] * operation[c] + shift[c] + extra[c], low, high)


@jit
def _pixel_gradient(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, y, x, out):
    """out `(C,)` = the gradient of one pre-activation: its share of the pooled one where low < value < high."""
    row, column = y // size, x // size
    if row >= gradient.shape[0] or column >= gradient.shape[1]:
        out[:] = 0
        return
    place = y % size * size + x % size if maximum else 0
    share = scale.dtype.type(1 if maximum else 1 / (size * size))
    source, extra = operation[y, x], _pixel(branch, y, x)
    pooled, first = gradient[row, column], _pixel(winner, row, column)
    for c in range(out.size):
        value = scale[c] * source[c] + shift[c] + extra[c]
        passes = (value > low) & (value < high) & (first[c] == place)
        out[c] = share * pooled[c] if passes else 0


@jit(parallel=True)
def gradient_sums(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, sums):
    """sums[n, :, c] (float64) = sums of the pre-activation's gradient, and of it times the operation.

    gradient: of the pooled output.  The other arguments are those of `activate`.
    """
    for n in numba.prange(operation.shape[0]):
        _gradient_sums_image(operation[n], scale, shift, _image(branch, n), low, high, gradient[n], _image(winner, n),
                             size, maximum, sums[n])


@jit
def _gradient_sums_image(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, sums):
    row = np.empty(operation.shape[2], operation.dtype)
    sums[:] = 0
    for y in range(operation.shape[0]):
        for x in range(operation.shape[1]):
            _pixel_gradient(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, y, x, row)
            _add_products(row, operation[y, x], sums[0], sums[1])


@jit(parallel=True)
def activate_backward(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, constant, slope,
                      out, branch_gradient):
    """out = scale * g + constant + slope * operation, g being the pre-activation's gradient.

    branch_gradient = g, unless it is the stand-in of a layer without branch.  See `gradient_sums`.
    """
    for n in numba.prange(operation.shape[0]):
        _backward_image(operation[n], scale, shift, _image(branch, n), low, high, gradient[n], _image(winner, n), size,
                        maximum, constant, slope, out[n], _image(branch_gradient, n))


@jit
def _backward_image(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, constant, slope,
                    out, branch_gradient):
    row = np.empty(operation.shape[2], operation.dtype)
    for y in range(operation.shape[0]):
        for x in range(operation.shape[1]):
            _pixel_gradient(operation, scale, shift, branch, low, high, gradient, winner, size, maximum, y, x, row)
            _combine(row, scale, constant, slope, operation[y, x], out[y, x])
            if branch_gradient.size == operation.size:
                for c in range(row.size):
                    branch_gradient[y, x, c] = row[c]


@jit
def _combine(gradient, scale, constant, slope, operation, out):
    for c in range(out.size):
        out[c] = scale[c] * gradient[c] + constant[c] + slope[c] * operation[c]

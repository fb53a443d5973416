"""Convolutions in floating point as implicit matrix products: no im2col matrix is ever written.

Arrays are channels last and C-contiguous.  A `Geometry` says how the P output positions of one image map to places
in that image after zero padding; a fully connected layer is a 1 x 1 convolution of a 1 x 1 image.  Each
element of a result is summed in an order that does not depend on the number of threads.
"""
from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from fxsim.kernels.float_tile import COLUMNS, ROWS, multiply_tile
from fxsim.kernels.jit import jit


class Geometry(NamedTuple):
    """Sizes of one convolution: the image without and with padding, the kernel, and the output positions."""

    height: int
    width: int
    channels: int
    filters: int
    kernel: int
    stride: int
    padding: int
    rows: int
    columns: int


@jit
def _image_size(g):
    """Elements of one padded image."""
    return (g.height + 2 * g.padding) * _line(g)


@jit
def _line(g):
    """Elements of one line of a padded image."""
    return (g.width + 2 * g.padding) * g.channels


@jit
def _whole_tiles(count):
    """The least multiple of ROWS that is at least `count`."""
    return (count + ROWS - 1) // ROWS * ROWS


@jit
def _window_offsets(g, images):
    """Where the window of each output position starts in padded images, flat.

    Filled up to whole tiles with the last offset: the tile reads that row again, and nobody reads its result.
    """
    count = images * g.rows * g.columns
    offsets = np.empty(_whole_tiles(count), np.int64)
    at = 0
    for n in range(images):
        for y in range(g.rows):
            for x in range(g.columns):
                offsets[at] = n * _image_size(g) + g.stride * (y * _line(g) + x * g.channels)
                at += 1
    offsets[count:] = offsets[count - 1]
    return offsets


@jit
def _weight_offsets(g):
    """Where each row (line, column, channel) of the weight matrix meets the first window; filled up alike."""
    run = g.kernel * g.channels
    offsets = np.empty(_whole_tiles(g.kernel * run), np.int64)
    for line in range(g.kernel):
        offsets[line * run:(line + 1) * run] = np.arange(run) + line * _line(g)
    offsets[g.kernel * run:] = offsets[g.kernel * run - 1]
    return offsets


@jit
def _loops(outer, outer_left, outer_right, middle, middle_left, middle_right, inner, inner_left, inner_right):
    """The loop table of multiply_tile, row by row."""
    return np.array([[outer, outer_left, outer_right], [middle, middle_left, middle_right],
                     [inner, inner_left, inner_right]])


@jit
def _padded(g, images):
    """The images, flat, with zeros around them."""
    if g.padding == 0:
        return images.reshape(-1)
    out = np.zeros(images.shape[0] * _image_size(g), images.dtype)
    for n in range(images.shape[0]):
        for y in range(g.height):
            start = n * _image_size(g) + (y + g.padding) * _line(g) + g.padding * g.channels
            out[start:start + g.width * g.channels] = images[n, y].reshape(-1)
    return out


@jit
def _crop(g, padded, images):
    """images = the padded images, flat, without what is around them."""
    for n in range(images.shape[0]):
        for y in range(g.height):
            start = n * _image_size(g) + (y + g.padding) * _line(g) + g.padding * g.channels
            images[n, y] = padded[start:start + g.width * g.channels].reshape(g.width, g.channels)


@jit
def _put(values, add, out):
    """out = values, or out += values; values beyond the end of `out` are dropped."""
    if add:
        for c in range(out.size):
            out[c] += values[c]
    else:
        for c in range(out.size):
            out[c] = values[c]


@jit(parallel=True)
def pack_columns(matrices, transpose, out):
    """out[(matrix, panel, k, column)] = matrices[matrix, k, panel * COLUMNS + column], 0 beyond the last column.

    matrices: `(S, K, M)`, or `(S, M, K)` with transpose; out: `(S, ceil(M / COLUMNS), K, COLUMNS)`.
    """
    for panel in numba.prange(out.shape[1]):
        for s in range(out.shape[0]):
            _pack_panel(matrices[s], transpose, panel * COLUMNS, out[s, panel])


@jit
def _pack_panel(matrix, transpose, first, out):
    width = min(COLUMNS, matrix.shape[0 if transpose else 1] - first)
    out[:, width:] = 0
    for k in range(out.shape[0]):
        for column in range(width):
            out[k, column] = matrix[first + column, k] if transpose else matrix[k, first + column]


@jit(parallel=True)
def conv_forward(path, g, images, weights, block, out):
    """out `(N, P, O)` = the convolution of images `(N, H, W, C)`.

    weights: the matrix `(KH KW C, O)` through pack_columns.  block: images that one thread takes at once.
    """
    for b in numba.prange((out.shape[0] + block - 1) // block):
        first = b * block
        _forward_block(path, g, images[first:first + block], weights, out[first:first + block].reshape(-1, g.filters))


@jit
def _forward_block(path, g, images, weights, out):
    run = g.kernel * g.channels
    loops = _loops(1, 0, 0, g.kernel, _line(g), run * COLUMNS, run, 1, COLUMNS)
    left, windows = _padded(g, images), _window_offsets(g, images.shape[0])
    tile = np.empty((ROWS, COLUMNS), out.dtype)
    for panel in range(weights.shape[1]):
        origin, column = panel * g.kernel * run * COLUMNS, panel * COLUMNS
        for row in range(0, out.shape[0], ROWS):
            multiply_tile(path, left, windows[row:], 0, weights, origin, loops, tile)
            for r in range(min(ROWS, out.shape[0] - row)):
                _put(tile[r], False, out[row + r, column:column + COLUMNS])


@jit(parallel=True)
def conv_input_gradient(path, g, gradient, weights, block, out):
    """out `(N, H, W, C)` = the gradient of the images from the gradient `(N, P, O)` of their convolution.

    For each line of the kernel the product with the line's transposed weights is added to the windows.
    weights: `(KH, KW C, O)` through pack_columns with transpose.  block: images that one thread takes at once.
    """
    for b in numba.prange((out.shape[0] + block - 1) // block):
        first = b * block
        part = gradient[first:first + block]
        _input_gradient_block(path, g, part.reshape(-1, g.filters), weights, out[first:first + block])


@jit
def _input_gradient_block(path, g, gradient, weights, out):
    total, loops = np.zeros(out.shape[0] * _image_size(g), out.dtype), _loops(1, 0, 0, 1, 0, 0, g.filters, 1, COLUMNS)
    windows, tile = _window_offsets(g, out.shape[0]), np.empty((ROWS, COLUMNS), out.dtype)
    count = gradient.shape[0]
    rows = np.minimum(np.arange(windows.size), count - 1) * g.filters
    for line in range(g.kernel):
        for panel in range(weights.shape[1]):
            origin, column = (line * weights.shape[1] + panel) * g.filters * COLUMNS, panel * COLUMNS
            width = min(COLUMNS, g.kernel * g.channels - column)
            for row in range(0, count, ROWS):
                multiply_tile(path, gradient, rows[row:], 0, weights, origin, loops, tile)
                for r in range(min(ROWS, count - row)):
                    at = windows[row + r] + line * _line(g) + column
                    _put(tile[r], True, total[at:at + width])
    _crop(g, total, out)


@jit(parallel=True)
def conv_weight_gradient(path, g, images, gradient, block, slices, out):
    """out `(KH KW C, O)` = the gradient of the weights, summed over images and positions.

    gradient: `(N, P, width)`, its last axis filled up to whole COLUMNS.  block: images whose sum is added at once.
    slices: parts of `out` that threads take; it does not change the result.
    """
    tasks = (out.shape[0] + ROWS - 1) // ROWS * (gradient.shape[2] // COLUMNS)
    for s in numba.prange(slices):
        _weight_gradient_slice(path, g, images, gradient, block, tasks * s // slices, tasks * (s + 1) // slices, out)


@jit
def _weight_gradient_slice(path, g, images, gradient, block, first_task, last_task, out):
    offsets, tile = _weight_offsets(g), np.empty((ROWS, COLUMNS), out.dtype)
    panels = gradient.shape[2] // COLUMNS
    for first in range(0, images.shape[0], block):
        left, right = _padded(g, images[first:first + block]), gradient[first:first + block]
        loops = _weight_gradient_loops(g, right.shape[0], gradient.shape[2])
        for task in range(first_task, last_task):
            row, column = task // panels * ROWS, task % panels * COLUMNS
            multiply_tile(path, left, offsets[row:], 0, right, column, loops, tile)
            for r in range(min(ROWS, out.shape[0] - row)):
                _put(tile[r], first > 0, out[row + r, column:column + COLUMNS])


@jit
def _weight_gradient_loops(g, images, width):
    """Images, rows and columns of positions; where there is one position the images are the inner loop."""
    if g.rows * g.columns == 1:
        return _loops(1, 0, 0, 1, 0, 0, images, _image_size(g), width)
    return _loops(images, _image_size(g), g.rows * g.columns * width, g.rows, g.stride * _line(g), g.columns * width,
                  g.columns, g.stride * g.channels, width)

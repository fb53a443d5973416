"""Convolutions in floating point as implicit matrix products: no im2col matrix is ever written.

Arrays are channels last and C-contiguous.  A `Geometry` says how the P output positions of one
image map to places in that image after zero padding; a fully connected layer is a 1 x 1 convolution
of a 1 x 1 image.  Each element of a result is summed in an order that does not depend on how the
work is divided: a kernel does the part `first .. last - 1` of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.floating.tile import COLUMNS, ROWS, multiply_tile
from fxsim.kernels.jit import jit


class Geometry(NamedTuple):
    """Sizes of one convolution.

    The image without padding, the kernel, its strides (down, across), the zeros around the image,
    and the output positions.
    """

    height: int
    width: int
    channels: int
    filters: int
    kernel_height: int
    kernel_width: int
    down: int
    across: int
    top: int
    bottom: int
    left: int
    right: int
    rows: int
    columns: int


@jit
def _image_size(g):
    """Elements of one padded image."""
    return (g.height + g.top + g.bottom) * _line(g)


@jit
def _line(g):
    """Elements of one line of a padded image."""
    return (g.width + g.left + g.right) * g.channels


@jit
def _filled_up(offsets, count):
    """The first `count` offsets, the last repeated up to whole tiles.

    A tile reads it again, nobody its result.
    """
    for k in range(count, offsets.size):
        offsets[k] = offsets[count - 1]
    return offsets


@jit
def _whole_tiles(count):
    """The least multiple of ROWS that is at least `count`."""
    return (count + ROWS - 1) // ROWS * ROWS


@jit
def _row_offsets(count, size):
    """Where each of `count` rows of `size` elements starts."""
    offsets = np.empty(_whole_tiles(count), np.int64)
    for k in range(count):
        offsets[k] = k * size
    return _filled_up(offsets, count)


@jit
def _window_offsets(g, images):
    """Where the window of each output position starts in padded images, flat."""
    count = images * g.rows * g.columns
    offsets = np.empty(_whole_tiles(count), np.int64)
    at = 0
    for n in range(images):
        for y in range(g.rows):
            for x in range(g.columns):
                offsets[at] = n * _image_size(g) + g.down * y * _line(g) + g.across * x * g.channels
                at += 1
    return _filled_up(offsets, count)


@jit
def _weight_offsets(g):
    """Where each row (line, column, channel) of the weight matrix meets the first window."""
    run = g.kernel_width * g.channels
    offsets = np.empty(_whole_tiles(g.kernel_height * run), np.int64)
    for line in range(g.kernel_height):
        for k in range(run):
            offsets[line * run + k] = line * _line(g) + k
    return _filled_up(offsets, g.kernel_height * run)


@jit
def _loops(outer, middle, inner):
    """The loop table of multiply_tile from a (count, left step, right step) for each loop."""
    return np.array((*outer, *middle, *inner))


@jit
def _padded(g, images, first, last):
    """Images first .. last - 1 of all, flat, with zeros around each."""
    size = g.height * g.width * g.channels
    run = g.width * g.channels
    if g.top + g.bottom + g.left + g.right == 0:
        return images[first * size : last * size]
    out = np.zeros((last - first) * _image_size(g), images.dtype)
    for n in range(last - first):
        for y in range(g.height):
            start = n * _image_size(g) + (y + g.top) * _line(g) + g.left * g.channels
            _put(images[(first + n) * size + y * run :], out[start : start + run])
    return out


@jit
def _crop(g, padded, images, first, last):
    """Images first .. last - 1 of all = the padded ones, flat, without what is around them."""
    size = g.height * g.width * g.channels
    run = g.width * g.channels
    for n in range(last - first):
        for y in range(g.height):
            start = n * _image_size(g) + (y + g.top) * _line(g) + g.left * g.channels
            at = (first + n) * size + y * run
            _put(padded[start:], images[at : at + run])


@jit
def _put(values, out):
    """out = values; values beyond the end of `out` are dropped."""
    for c in range(out.size):
        out[c] = values[c]


@jit
def _add(values, out):
    """out += values, alike."""
    for c in range(out.size):
        out[c] += values[c]


@jit
def conv_forward(g, images, weights, block, out, first, last):
    """out `(N P, O)` = the convolution of images `(N, H, W, C)`, flat; for images first .. last -
    1.

    weights: the matrix `(KH KW C, O)` in panels of COLUMNS columns, `(ceil(O / COLUMNS), KH KW C,
    COLUMNS)`, flat. block: images to take at once.
    """
    for start in range(first, last, block):
        _forward_block(g, images, weights, out, start, min(start + block, last))


@jit
def _forward_block(g, images, weights, out, first, last):
    run = g.kernel_width * g.channels
    loops = _loops((1, 0, 0), (g.kernel_height, _line(g), run * COLUMNS), (run, 1, COLUMNS))
    left = _padded(g, images, first, last)
    windows = _window_offsets(g, last - first)
    tile = np.empty((ROWS, COLUMNS), out.dtype)
    out = out[first * g.rows * g.columns : last * g.rows * g.columns]
    for column in range(0, g.filters, COLUMNS):
        origin = column * g.kernel_height * run
        for row in range(0, out.shape[0], ROWS):
            multiply_tile(left, windows[row:], weights, origin, loops, tile)
            for r in range(min(ROWS, out.shape[0] - row)):
                _put(tile[r], out[row + r, column : column + COLUMNS])


@jit
def conv_input_gradient(g, gradient, weights, block, out, first, last):
    """out `(N, H, W, C)` = the gradient of the images from that of their convolution `(N P, O)`,
    all flat.

    For each line of the kernel the product with the line's transposed weights is added to the
    windows. weights: transposed, `(KH, O, KW C)`, each line in panels as above.  block, first,
    last: as above."""
    for start in range(first, last, block):
        _input_gradient_block(g, gradient, weights, out, start, min(start + block, last))


@jit
def _input_gradient_block(g, gradient, weights, out, first, last):
    count = (last - first) * g.rows * g.columns
    run = g.kernel_width * g.channels
    left = gradient[first * g.rows * g.columns * g.filters :]
    rows = _row_offsets(count, g.filters)
    windows = _window_offsets(g, last - first)
    loops = _loops((1, 0, 0), (1, 0, 0), (g.filters, 1, COLUMNS))
    total = np.zeros((last - first) * _image_size(g), out.dtype)
    tile = np.empty((ROWS, COLUMNS), out.dtype)
    origin = 0
    for line in range(g.kernel_height):
        for column in range(0, run, COLUMNS):
            for row in range(0, count, ROWS):
                multiply_tile(left, rows[row:], weights, origin, loops, tile)
                for r in range(min(ROWS, count - row)):
                    at = windows[row + r] + line * _line(g) + column
                    _add(tile[r], total[at : at + min(COLUMNS, run - column)])
            origin += g.filters * COLUMNS
    _crop(g, total, out, first, last)


def weight_gradient_tiles(g, width):
    """Tiles of the weights' gradient, which conv_weight_gradient counts row by row."""
    return -(-g.kernel_height * g.kernel_width * g.channels // ROWS) * (width // COLUMNS)


@jit
def conv_weight_gradient(g, images, gradient, width, block, out, first, last):
    """out `(KH KW C, O)` = the gradient of the weights, summed over images and positions; its tiles
    first .. last - 1.

    images: `(N, H, W, C)`, flat.  gradient: `(N P, width)`, flat, each row filled up with zeros to
    a multiple of COLUMNS.  block: images whose sum is added at once.
    """
    offsets = _weight_offsets(g)
    tile = np.empty((ROWS, COLUMNS), out.dtype)
    count = gradient.size // (g.rows * g.columns * width)
    panels = width // COLUMNS
    for start in range(0, count, block):
        stop = min(start + block, count)
        left = _padded(g, images, start, stop)
        loops = _weight_gradient_loops(g, stop - start, width)
        origin = start * g.rows * g.columns * width
        for task in range(first, last):
            row = task // panels * ROWS
            column = task % panels * COLUMNS
            multiply_tile(left, offsets[row:], gradient, origin + column, loops, tile)
            for r in range(min(ROWS, out.shape[0] - row)):
                if start:
                    _add(tile[r], out[row + r, column : column + COLUMNS])
                else:
                    _put(tile[r], out[row + r, column : column + COLUMNS])


@jit
def _weight_gradient_loops(g, images, width):
    """Images, rows and columns of positions.

    Where there is one position the images are the inner loop.
    """
    if g.rows * g.columns == 1:
        return _loops((1, 0, 0), (1, 0, 0), (images, _image_size(g), width))
    return _loops(
        (images, _image_size(g), g.rows * g.columns * width),
        (g.rows, g.down * _line(g), g.columns * width),
        (g.columns, g.across * g.channels, width),
    )

"""Which taps of a convolution touch which positions, so that zero padding costs no products.

Along one axis, output position i reads `count[i]` taps from `tap[i]` on, `tap_step` apart, and
input positions from `source[i]` on, one apart.  Positions of both axes that agree in taps form a
class; within a class every output is the same three loops of `tile.py` at another offset."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from fxsim.kernels.products.tile import COLUMNS, ROWS


class Axis(NamedTuple):
    """Taps and input positions per output position.

    Arrays of int64, `tap_step` and the kernel's `taps`.
    """

    source: np.ndarray
    tap: np.ndarray
    count: np.ndarray
    tap_step: int
    taps: int


def forward_axis(sources: int, outputs: int, taps: int, stride: int, padding: int) -> Axis:
    """Output i reads inputs i * stride - padding + tap, those of `sources` that exist."""
    start = np.arange(outputs) * stride - padding
    tap = np.maximum(0, -start)
    return Axis(start + tap, tap, np.maximum(0, np.minimum(taps, sources - start) - tap), 1, taps)


def input_grad_axis(sources: int, outputs: int, taps: int, stride: int, padding: int) -> Axis:
    """Input position i (of `outputs`) gets gradient j (of `sources`) through tap i + padding -
    stride * j.

    Weights are packed flipped, so that the tap's place, taps - 1 - tap, ascends with j.
    """
    shifted = np.arange(outputs) + padding
    first = np.maximum(0, -((taps - 1 - shifted) // stride))
    last = np.minimum(sources - 1, shifted // stride)
    return Axis(
        first, taps - 1 - shifted + stride * first, np.maximum(0, last - first + 1), stride, taps
    )


class Geometry(NamedTuple):
    """Tables of a convolution for N images.

    read, write: offsets of each pixel of an image in input and output, sorted by class.
    loops (classes, 3, 3) and weights_at (classes,): the reduction of a class, and where its weights
    start. groups (G, 5): class, first pixel, pixels, first position and positions; position p of a
    class is pixel p % pixels of image p // pixels.
    """

    read: np.ndarray
    write: np.ndarray
    loops: np.ndarray
    weights_at: np.ndarray
    groups: np.ndarray


def _classes(axis: Axis) -> list[tuple[int, int, np.ndarray]]:
    """(first tap, count, output positions) of each kind of output position."""
    kinds = np.stack([axis.tap * (axis.count > 0), axis.count], axis=1)
    found, kind_of = np.unique(kinds, axis=0, return_inverse=True)
    return [
        (int(tap), int(count), np.flatnonzero(kind_of.reshape(-1) == k))
        for k, (tap, count) in enumerate(found)
    ]


def _class_loops(rows, columns, height, width, source_row, channels, words, terms):
    """The loops over `height` x `width` taps.

    Where the taps of a row follow each other they are one loop.
    """
    panel = terms * COLUMNS
    tap = words * panel
    row_loop = (height, source_row, rows.tap_step * columns.taps * tap)
    if columns.tap_step == 1 and channels == terms * words:
        return (1, 0, 0), row_loop, (width * words, terms, panel)
    return row_loop, (width, channels, columns.tap_step * tap), (words, terms, panel)


@functools.lru_cache(maxsize=256)
def geometry(
    axis,
    images: int,
    source_shape: tuple[int, int, int],
    out_shape: tuple[int, int, int],
    taps: tuple[int, int],
    strides: tuple[int, int],
    before: tuple[int, int],
    word: tuple[int, int],
    group_tiles: int,
) -> Geometry:
    """Tables for `axis` (forward_axis or input_grad_axis).

    Shapes are (H, W, C), `taps`, `strides` and `before` (padding at top and left) those of (rows,
    columns), `word` is (words per tap, terms).
    """
    height, width, channels = source_shape
    rows, columns = (
        axis(source_shape[k], out_shape[k], taps[k], strides[k], before[k]) for k in (0, 1)
    )
    read = []
    write = []
    loops = []
    weights_at = []
    groups = []
    pixels = 0
    for (tap_y, taps_high, ys), (tap_x, taps_wide, xs) in itertools.product(
        _classes(rows), _classes(columns)
    ):
        read.append(
            np.add.outer(rows.source[ys] * width, columns.source[xs]).reshape(-1) * channels
        )
        write.append(np.add.outer(ys * out_shape[1], xs).reshape(-1) * out_shape[2])
        count = images * len(read[-1])
        step = group_tiles * ROWS
        groups += [
            (len(loops), pixels, len(read[-1]), first, min(step, count - first))
            for first in range(0, count, step)
        ]
        loops.append(
            _class_loops(rows, columns, taps_high, taps_wide, width * channels, channels, *word)
        )
        weights_at.append((tap_y * taps[1] + tap_x) * word[0] * word[1] * COLUMNS)
        pixels += len(read[-1])
    return Geometry(
        np.concatenate(read), np.concatenate(write), *map(np.array, (loops, weights_at, groups))
    )

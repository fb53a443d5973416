"""Convolution as an implicit matrix product: forward, input gradient and weight gradient, exact.

Activations are (N, H, W, C), weights (KH, KW, C, O).  A convolution's row of taps is KW * C
consecutive codes of the padded input, so an output position is one row of the left operand, read in
place: KH runs of KW * C codes.  The input gradient is the same product on the dilated gradient with
flipped weights.  A weight gradient sums over images and positions: its left operand is the input, one
row per (tap, input channel), its right operand the output gradient, both with images 2i and 2i + 1
side by side.  Sums are exact whatever the path, the tiling and the number of threads.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import Epilogue, requantize_tile, store_tile
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.packing import blocks_of, pair_images, place
from fxsim.kernels.tile import COLUMNS, NEVER, PATHS, ROWS, TILE, multiply_tile, pairs_before_spill, widen

GROUP_TILES = 32
"""Most tiles of one job: with one block of weights they stay in a second-level cache of 1 MB."""
JOBS = 16
"""Least jobs of a product, where there are as many tiles, so that threads can share them."""
PANEL_BYTES = 2**18
"""Share of that cache for the right operand of a weight gradient."""
RAW = Epilogue(raw=True)
NO_MASK = np.empty(0, np.uint8)


class _Product(NamedTuple):
    """One product: tile path, loops of `tile.py`, and how its tiles are shared among jobs.

    A job is `group` tiles of rows by one of `blocks` column blocks.  rows, columns: valid size of the
    result.  fits_int32: the epilogue's arithmetic does.
    """

    path: int
    loops: np.ndarray
    spill_pairs: int
    rows: int
    columns: int
    group: int
    blocks: int
    fits_int32: bool

    @property
    def jobs(self) -> int:
        return blocks_of(self.rows, self.group * ROWS) * self.blocks


class _Positions(NamedTuple):
    """Output positions of a convolution; (image, row, column) steps through its input and output."""

    height: int
    width: int
    read: tuple[int, int, int]
    write: tuple[int, int, int]
    origin: int


def conv_forward(x: np.ndarray, packed: np.ndarray, stride: int, out: np.ndarray, *, spill_terms: int,
                 path: str, epilogue: Epilogue = RAW, bias: np.ndarray | None = None, out_border: int = 0,
                 mask: np.ndarray = NO_MASK, counts: np.ndarray | None = None) -> None:
    """out = epilogue(convolution of the padded input x with `packed` weights + bias), without further padding.

    x: (N, H, W, C) codes, already padded.  packed: `pack_forward_weights` of (KH, KW, C, O) weights (or
    `pack_input_grad_weights`).  out: C-contiguous (N, OH + 2b, OW + 2b, O) with a border b = out_border
    that is left as it is; raw sums need int32 or int64 by the bound of the sums.  bias: (O,) integers.
    mask: (N, OH, OW, O) uint8.  counts: (3,) int64, added to.  spill_terms: terms that int32 holds.
    """
    images, height, width, channels = x.shape
    _, taps, pairs, _, _ = packed.shape
    out_row = out.shape[2] * out.shape[3]
    out_height, out_width, outputs = out.shape[1] - 2 * out_border, out.shape[2] - 2 * out_border, out.shape[3]
    positions = _Positions(
        out_height, out_width, read=(height * width * channels, stride * width * channels, stride * channels),
        write=(out.shape[1] * out_row, out_row, outputs), origin=out_border * (out_row + outputs))
    loops = np.array([[1, 0, 0], [taps, width * channels, pairs * 2 * COLUMNS], [pairs, 2, 2 * COLUMNS]])
    bias = np.zeros(outputs, np.int64) if bias is None else bias.astype(np.int64)
    fits_int32 = _fits_int32(epilogue, 2 * taps * pairs, spill_terms, bias)
    product = _product(path, loops, spill_terms, images * out_height * out_width, outputs, fits_int32)
    job_counts = np.zeros((product.jobs, 3), np.int64)
    parallel_for(_forward, product.jobs, 1, _with_spare(x), packed.reshape(-1), positions, product, bias,
                 epilogue.in_int32() if fits_int32 else epilogue, out.reshape(-1), mask.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def conv_input_grad(grad: np.ndarray, packed: np.ndarray, stride: int, padding: int, out: np.ndarray,
                    **options) -> None:
    """out (N, H, W, C) = epilogue(gradient of the convolution's input); options of `conv_forward`.

    grad: (N, OH, OW, O) codes.  packed: `pack_input_grad_weights` of the (KH, KW, C, O) weights.
    """
    kernel = packed.shape[1]
    border = 2 * options.get("out_border", 0)
    height, width = out.shape[1] - border + kernel - 1, out.shape[2] - border + kernel - 1
    margin = kernel - 1 - padding
    conv_forward(place(grad, height, width, margin, margin, stride), packed, 1, out, **options)


def conv_weight_grad(x: np.ndarray, grad: np.ndarray, stride: int, padding: int, out: np.ndarray, *,
                     spill_terms: int, path: str, epilogue: Epilogue = RAW, counts: np.ndarray | None = None) -> None:
    """out (KH, KW, C, O) = epilogue(sum over images and positions of x times grad).

    x: (N, H, W, C) codes before padding.  grad: (N, OH, OW, O) codes.  out and the rest: as `conv_forward`.
    """
    left, right = pair_images(x, x.shape[3], padding)[0], pair_images(grad, COLUMNS)
    _, images, height, width, _, _ = right.shape
    kernel_height, kernel_width, channels, outputs = out.shape
    pixel, panel = 2 * channels, 2 * COLUMNS
    row, image_panel = left.shape[2] * pixel, height * width * panel
    rows = (np.arange(kernel_height)[:, None] * row + np.arange(kernel_width * channels) * 2).reshape(-1)
    chunk = min(images, max(1, PANEL_BYTES // (image_panel * grad.itemsize)))
    loops = np.array([[chunk, left.shape[1] * row, image_panel], [height, stride * row, width * panel],
                      [width, stride * pixel, panel]])
    order = np.argsort(loops[:, 0], kind="stable")  # the innermost loop should be long
    product = _product(path, loops[order], spill_terms, rows.size, outputs, fits_int32=False)
    job_counts = np.zeros((product.jobs, 3), np.int64)
    padded_rows = np.append(rows, np.repeat(rows[-1:], ROWS - 1))
    parallel_for(_weight_grad, product.jobs, 1, left.reshape(-1), right.reshape(-1), padded_rows, images,
                 int(np.argmin(order)), product, epilogue, out.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def _with_spare(x: np.ndarray) -> np.ndarray:
    """x flat; where a run of odd length reads one code past its end (times a zero weight), with a spare code."""
    flat = np.ascontiguousarray(x).reshape(-1)
    return flat if x.shape[3] % 2 == 0 else np.append(flat, flat[-1:])


def _fits_int32(epilogue: Epilogue, terms: int, spill_terms: int, bias: np.ndarray) -> bool:
    """Whether sums, bias and rounding stay in int32; |sum| <= terms * (2**31 - 1) / spill_terms."""
    bound = terms * (2**31 - 1) // spill_terms
    return terms <= spill_terms and epilogue.fits_int32(bound, int(np.abs(bias).max(initial=0)))


def _product(path: str, loops: np.ndarray, spill_terms: int, rows: int, columns: int, fits_int32: bool) -> _Product:
    spill_pairs = NEVER if 2 * np.prod(loops[:, 0]) <= spill_terms else pairs_before_spill(spill_terms)
    tiles, blocks = blocks_of(rows, ROWS), blocks_of(columns, COLUMNS)
    group = max(1, min(GROUP_TILES, tiles * blocks // JOBS))
    return _Product(PATHS[path], loops, spill_pairs, rows, columns, group, blocks, fits_int32)


@jit
def _offsets(first, size, positions, steps, origin, offsets):
    """offsets[i] = where position first + i lies, i < size; the last is repeated to the end."""
    image, pixel = divmod(first, positions.height * positions.width)
    y, x = divmod(pixel, positions.width)
    for i in range(offsets.size):
        offsets[i] = origin + image * steps[0] + y * steps[1] + x * steps[2]
        if i < size - 1:
            x += 1
            if x == positions.width:
                x, y = 0, y + 1
                if y == positions.height:
                    y, image = 0, image + 1


@jit
def _bias_tile(bias, first, columns):
    tile = np.zeros(TILE, np.int64)
    for row in range(ROWS):
        for o in range(columns):
            tile[row * COLUMNS + o] = bias[first + o]
    return tile


@jit
def _forward(start, stop, x, weights, positions, product, bias, epilogue, out, mask, counts):
    """Each job: a group of positions by one block of output channels."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    codes, tile_mask = np.empty(TILE, np.int32), np.empty(TILE, np.uint8)
    group = product.group * ROWS
    rows, places, mask_places = np.empty(group, np.int64), np.empty(group, np.int64), np.empty(group, np.int64)
    for job in range(start, stop):
        first, block = job // product.blocks * group, job % product.blocks
        size, column = min(group, product.rows - first), block * COLUMNS
        columns = min(COLUMNS, product.columns - column)
        _offsets(first, size, positions, positions.read, 0, rows)
        _offsets(first, size, positions, positions.write, positions.origin + column, places)
        for i in range(group):
            mask_places[i] = (first + i) * product.columns + column
        wide_bias = _bias_tile(bias, column, columns)
        narrow_bias = wide_bias.astype(np.int32)
        for at in range(0, size, ROWS):
            valid = min(ROWS, size - at)
            fits = multiply_tile(product.path, x, weights, rows, at, 0, block * product.loops[1, 0] * product.loops[1, 2],
                                 product.loops, product.spill_pairs, valid, columns, low, high, total)
            if fits and product.fits_int32:
                requantize_tile(low, narrow_bias, epilogue, valid, columns, codes, tile_mask, counts[job])
            else:
                widen(fits, low, total)
                if epilogue.raw:
                    store_tile(total, valid, columns, out, places, at)
                    continue
                requantize_tile(total, wide_bias, epilogue, valid, columns, codes, tile_mask, counts[job])
            store_tile(codes, valid, columns, out, places, at)
            if mask.size:
                store_tile(tile_mask, valid, columns, mask, mask_places, at)


@jit
def _weight_grad(start, stop, left, right, rows, images, image_loop, product, epilogue, out, counts):
    """Each job: a group of (tap, input channel) rows by one block of output channels; images in chunks."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    sums, no_bias = np.empty((product.group, TILE), np.int64), np.zeros(TILE, np.int64)
    codes, unused_mask = np.empty(TILE, np.int32), np.empty(TILE, np.uint8)
    loops = product.loops.copy()
    chunk, image_left, image_right = product.loops[image_loop]
    for job in range(start, stop):
        first, block = job // product.blocks * product.group * ROWS, job % product.blocks
        stop_row, columns = min(first + product.group * ROWS, product.rows), min(COLUMNS, product.columns - block * COLUMNS)
        sums[:] = 0
        for image in range(0, images, chunk):
            loops[image_loop, 0] = min(chunk, images - image)
            for row in range(first, stop_row, ROWS):
                fits = multiply_tile(product.path, left, right, rows, row, image * image_left,
                                     (block * images + image) * image_right, loops, product.spill_pairs,
                                     min(ROWS, stop_row - row), columns, low, high, total)
                widen(fits, low, total)
                part = sums[(row - first) // ROWS]
                for k in range(TILE):
                    part[k] += total[k]
        places = np.arange(first, first + product.group * ROWS) * product.columns + block * COLUMNS
        for row in range(first, stop_row, ROWS):
            part, valid = sums[(row - first) // ROWS], min(ROWS, stop_row - row)
            if epilogue.raw:
                store_tile(part, valid, columns, out, places, row - first)
                continue
            requantize_tile(part, no_bias, epilogue, valid, columns, codes, unused_mask, counts[job])
            store_tile(codes, valid, columns, out, places, row - first)

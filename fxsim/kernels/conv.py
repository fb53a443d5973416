"""Convolution as an implicit matrix product: forward, input gradient and weight gradient, exact.

Activations are (N, H, W, C), weights (KH, KW, C, O).  A convolution's row of taps is KW * C
consecutive codes of the padded input, so an output position is one row of the left operand, read in
place: KH runs of KW * C codes.  The input gradient is the same product on the dilated gradient with
flipped weights (see `taps.py`).  A weight gradient sums over images and positions: its left operand is the input, one
row per (tap, input channel), its right operand the output gradient, both with images 2i and 2i + 1
side by side.  Sums are exact whatever the path, the tiling and the number of threads.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import Epilogue, requantize_tile, store_tile
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.packing import blocks_of, pair_images, place
from fxsim.kernels.taps import forward_axis, geometry, input_grad_axis
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
    """How the tiles of a product are made: path, pairs between spills, valid columns and their blocks.

    fits_int32: the whole arithmetic of the epilogue does.
    """

    path: int
    spill_pairs: int
    columns: int
    blocks: int
    fits_int32: bool


def conv_forward(x: np.ndarray, packed: np.ndarray, stride: int, out: np.ndarray, *, padding: int = 0,
                 **options) -> None:
    """out (N, OH, OW, O) = epilogue(convolution of x with zero `padding` + bias).

    x: (N, H, W, C) codes.  packed: `pack_forward_weights` of the (KH, KW, C, O) weights.  out is
    C-contiguous.  Paths other than 'plain' take int16 operands.  Keywords:
    spill_terms: product terms that int32 provably holds.  path: a key of `tile.PATHS`.
    epilogue, bias: without an epilogue `out` gets the sums as they are and no bias, and must be int32 or
    int64 as they need; bias is (O,) integers.  mask: (N, OH, OW, O) uint8.  counts: (3,) int64, added to.
    """
    if padding and x.shape[3] % 2:  # rows of taps are packed as one, so that the border must be there
        height, width = x.shape[1] + 2 * padding, x.shape[2] + 2 * padding
        x, padding = place(x, height, width, padding, padding), 0
    _convolve(forward_axis, x, packed, stride, padding, out, **options)


def conv_input_grad(grad: np.ndarray, packed: np.ndarray, stride: int, padding: int, out: np.ndarray,
                    **options) -> None:
    """out (N, H, W, C) = epilogue(gradient of the convolution's input); keywords of `conv_forward`.

    grad: (N, OH, OW, O) codes.  packed: `pack_input_grad_weights` of the (KH, KW, C, O) weights.
    """
    _convolve(input_grad_axis, grad, packed, stride, padding, out, **options)


def _convolve(axis, source, packed, stride, padding, out, *, spill_terms, path, epilogue=RAW, bias=None, mask=NO_MASK,
              counts=None):
    blocks, *taps, pairs, _, _ = packed.shape
    images, outputs = len(out), out.shape[3]
    group = _group_tiles(out.size // outputs, blocks)
    tables = geometry(axis, images, source.shape[1:], out.shape[1:], tuple(taps), stride, padding, pairs, group)
    bias = np.zeros(outputs, np.int64) if bias is None else bias.astype(np.int64)
    terms = 2 * int(tables.loops[:, :, 0].prod(axis=1).max())
    fits_int32 = _fits_int32(epilogue, terms, spill_terms, bias)
    product = _Product(PATHS[path], _spill_pairs(terms, spill_terms), outputs, blocks, fits_int32)
    jobs = len(tables.groups) * blocks
    job_counts = np.zeros((jobs, 3), np.int64)
    parallel_for(_convolve_jobs, jobs, 1, _with_spare(source), source[0].size,
                 packed.reshape(blocks, -1), tables, product, bias,
                 epilogue.in_int32() if fits_int32 else epilogue, out.reshape(images, -1), mask.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


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
    terms = 2 * int(loops[:, 0].prod())
    product = _Product(PATHS[path], _spill_pairs(terms, spill_terms), outputs, len(right), fits_int32=False)
    group = _group_tiles(rows.size, len(right))
    jobs = blocks_of(rows.size, group * ROWS) * len(right)
    job_counts = np.zeros((jobs, 3), np.int64)
    parallel_for(_weight_grad_jobs, jobs, 1, left.reshape(-1), right.reshape(len(right), -1), rows, images,
                 loops[order], int(np.argmin(order)), group, product, epilogue, out.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def _with_spare(codes: np.ndarray) -> np.ndarray:
    """Flat codes; with odd channels the last pair reads one code past the end (times zero), hence a spare one."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    return flat if codes.shape[3] % 2 == 0 else np.append(flat, flat[-1:])


def _fits_int32(epilogue: Epilogue, terms: int, spill_terms: int, bias: np.ndarray) -> bool:
    """Whether sums, bias and rounding stay in int32; |sum| <= terms * (2**31 - 1) / spill_terms."""
    if terms > spill_terms:
        return False
    bound = terms * (2**31 - 1) // spill_terms
    return epilogue.fits_int32(bound, int(np.abs(bias).max(initial=0)))


def _spill_pairs(terms: int, spill_terms: int) -> int:
    return NEVER if terms <= spill_terms else pairs_before_spill(spill_terms)


def _group_tiles(rows: int, blocks: int) -> int:
    """Tiles per job."""
    return max(1, min(GROUP_TILES, blocks_of(rows, ROWS) * blocks // JOBS))


@jit
def _bias_tile(bias, first, columns):
    tile = np.zeros(TILE, np.int64)
    for row in range(ROWS):
        for o in range(columns):
            tile[row * COLUMNS + o] = bias[first + o]
    return tile


@jit
def _fill_offsets(tables, group, source_image, out_image, first_channel, rows, places):
    """Where each position of a group lies in the source and in the output; the last is repeated to the end."""
    _, first_pixel, pixels, first, size = tables.groups[group]
    image, pixel = divmod(first, pixels)
    for i in range(rows.size):
        rows[i] = image * source_image + tables.read[first_pixel + pixel]
        places[i] = image * out_image + tables.write[first_pixel + pixel] + first_channel
        if i < size - 1:
            pixel += 1
            if pixel == pixels:
                pixel, image = 0, image + 1


@jit
def _convolve_jobs(start, stop, source, source_image, weights, tables, product, bias, epilogue, out, mask, counts):
    """Each job: a group of positions by one block of output channels."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    codes, wide_codes, tile_mask = np.empty(TILE, np.int32), np.empty(TILE, np.int64), np.empty(TILE, np.uint8)
    flat_weights, flat_out = weights.reshape(-1), out.reshape(-1)
    for job in range(start, stop):
        group, block = divmod(job, product.blocks)
        kind, size, column = tables.groups[group, 0], tables.groups[group, 4], block * COLUMNS
        columns = min(COLUMNS, product.columns - column)
        rows, places = np.empty(size + ROWS, np.int64), np.empty(size + ROWS, np.int64)
        _fill_offsets(tables, group, source_image, out.shape[1], column, rows, places)
        wide_bias = _bias_tile(bias, column, columns)
        narrow_bias = wide_bias.astype(np.int32)
        weights_at = block * weights.shape[1] + tables.weights_at[kind]
        loops, job_counts = tables.loops[kind], counts[job]
        for at in range(0, size, ROWS):
            valid = min(ROWS, size - at)
            fits = multiply_tile(product.path, source, flat_weights, rows, at, 0, weights_at, loops,
                                 product.spill_pairs, valid, columns, low, high, total)
            if fits and product.fits_int32:
                requantize_tile(low, narrow_bias, epilogue, valid, columns, codes, tile_mask, job_counts)
                store_tile(codes, valid, columns, flat_out, places, at)
            else:
                widen(fits, low, total)
                if not epilogue.raw:
                    requantize_tile(total, wide_bias, epilogue, valid, columns, wide_codes, tile_mask, job_counts)
                store_tile(total if epilogue.raw else wide_codes, valid, columns, flat_out, places, at)
            if mask.size:
                store_tile(tile_mask, valid, columns, mask, places, at)


@jit
def _weight_grad_jobs(start, stop, left, right, rows, images, loops, image_loop, group, product, epilogue, out, counts):
    """Each job: a group of (tap, input channel) rows by one block of output channels; images in chunks."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    codes, no_mask, no_bias = np.empty(TILE, np.int64), np.empty(TILE, np.uint8), np.zeros(TILE, np.int64)
    sums, offsets = np.empty((group, TILE), np.int64), np.empty(group * ROWS, np.int64)
    chunk, image_left, image_right = loops[image_loop]
    loops, flat_right = loops.copy(), right.reshape(-1)
    for job in range(start, stop):
        first, block = job // product.blocks * group * ROWS, job % product.blocks
        size, columns = min(group * ROWS, rows.size - first), min(COLUMNS, product.columns - block * COLUMNS)
        for i in range(group * ROWS):
            offsets[i] = rows[first + min(i, size - 1)]
        sums[:] = 0
        for image in range(0, images, chunk):
            loops[image_loop, 0] = min(chunk, images - image)
            for at in range(0, size, ROWS):
                fits = multiply_tile(product.path, left, flat_right, offsets, at, image * image_left,
                                     block * right.shape[1] + image * image_right, loops, product.spill_pairs,
                                     min(ROWS, size - at), columns, low, high, total)
                widen(fits, low, total)
                part = sums[at // ROWS]
                for k in range(TILE):
                    part[k] += total[k]
        places = (first + np.arange(group * ROWS)) * product.columns + block * COLUMNS
        for at in range(0, size, ROWS):
            part, valid = sums[at // ROWS], min(ROWS, size - at)
            if not epilogue.raw:
                requantize_tile(part, no_bias, epilogue, valid, columns, codes, no_mask, counts[job])
            store_tile(part if epilogue.raw else codes, valid, columns, out, places, at)

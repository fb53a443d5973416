"""Convolution as an implicit matrix product: forward, input gradient and weight gradient, exact.

Activations are (N, H, W, C), weights (KH, KW, C, O).  A convolution's row of taps is KW * C
consecutive codes of the padded input, so an output position is one row of the left operand, read in
place: KH runs of KW * C codes.  The input gradient is the same product on the dilated gradient with
flipped weights (see `taps.py`).  A weight gradient sums over images and positions: its left operand is
the input, one row per (tap, input channel), its right operand the output gradient, both with images 2i
and 2i + 1 side by side.  Sums are exact whatever the path, the tiling and the number of threads.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels.epilogue import Epilogue, requantize_tile, store_tile
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.matmul import PANEL_BYTES, RAW, Product, group_tiles, multiply_chunks, spill_words, with_spare
from fxsim.kernels.packing import pair_images, place
from fxsim.kernels.taps import forward_axis, geometry, input_grad_axis
from fxsim.kernels.tile import COLUMNS, PATHS, ROWS, TILE, multiply_tile, widen, word_terms

NO_MASK = np.empty(0, np.uint8)


def conv_forward(x: np.ndarray, packed: np.ndarray, stride: int, out: np.ndarray, *, padding: int = 0,
                 **options) -> None:
    """out (N, OH, OW, O) = epilogue(convolution of x with zero `padding` + bias).

    x: (N, H, W, C) codes.  packed: `pack_forward_weights` of the (KH, KW, C, O) weights.  out is
    C-contiguous.  Paths other than 'plain' take int16 operands; 'vnni' also uint8 x with int8 weights.  Keywords:
    spill_terms: product terms that int32 provably holds.  path: a key of `tile.PATHS`.
    epilogue, bias: without an epilogue `out` gets the sums as they are and no bias, and must be int32 or
    int64 as they need; bias is (O,) integers.  mask: (N, OH, OW, O) uint8.  counts: (3,) int64, added to.
    """
    if padding and x.shape[3] % word_terms(x.dtype):  # rows of taps are packed as one, so that the border must be there
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
    blocks, *taps, words, _, terms = packed.shape
    images, outputs = len(out), out.shape[3]
    group = group_tiles(out.size // outputs, blocks)
    tables = geometry(axis, images, source.shape[1:], out.shape[1:], tuple(taps), stride, padding, (words, terms),
                      group)
    bias = np.zeros(outputs, np.int64) if bias is None else bias.astype(np.int64)
    depth = terms * int(tables.loops[:, :, 0].prod(axis=1).max())
    fits_int32 = _fits_int32(epilogue, depth, spill_terms, bias)
    product = Product(PATHS[path], spill_words(depth, spill_terms, terms), outputs, blocks, fits_int32)
    jobs = len(tables.groups) * blocks
    job_counts = np.zeros((jobs, 3), np.int64)
    parallel_for(_convolve_jobs, jobs, 1, with_spare(source, terms), source[0].size,
                 packed.reshape(blocks, -1), tables, product, bias,
                 epilogue.in_int32() if fits_int32 else epilogue, out.reshape(images, -1), mask.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def conv_weight_grad(x: np.ndarray, grad: np.ndarray, stride: int, padding: int, out: np.ndarray, *,
                     spill_terms: int, path: str, epilogue: Epilogue = RAW, counts: np.ndarray | None = None) -> None:
    """out (KH, KW, C, O) = epilogue(sum over images and positions of x times grad).

    x: (N, H, W, C) codes before padding.  grad: (N, OH, OW, O) codes, neither of one byte.  The rest: as `conv_forward`.
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
    depth = 2 * int(loops[:, 0].prod())
    product = Product(PATHS[path], spill_words(depth, spill_terms, 2), outputs, len(right), fits_int32=False)
    multiply_chunks(left.reshape(-1), right.reshape(len(right), -1), rows, images, loops[order], int(np.argmin(order)),
                    product, epilogue, out, counts)


def _fits_int32(epilogue: Epilogue, terms: int, spill_terms: int, bias: np.ndarray) -> bool:
    """Whether sums, bias and rounding stay in int32; |sum| <= terms * (2**31 - 1) / spill_terms."""
    if terms > spill_terms:
        return False
    bound = terms * (2**31 - 1) // max(spill_terms, 1)  # no terms, where every tap is padding, need no bound
    return epilogue.fits_int32(bound, int(np.abs(bias).max(initial=0)))


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
                                 product.spill_words, valid, columns, low, high, total)
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

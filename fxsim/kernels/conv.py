"""Convolution as an implicit matrix product: forward, input gradient and weight gradient, exact.

Activations are (N, H, W, C), weights (KH, KW, C, O).  A convolution's row of taps is KW * C
consecutive codes of the padded input, so an output position is one row of the left operand, read in
place: KH runs of KW * C codes.  The input gradient is the same product on the dilated gradient with
flipped weights.  A weight gradient sums over images and positions: its left operand is the input, one
row per (tap, input channel), its right operand the output gradient, both with images 2i and 2i + 1
side by side.  Sums are exact whatever the path, the tiling and the number of threads.
"""
from __future__ import annotations

import numba
import numpy as np

from fxsim.kernels.epilogue import Epilogue, finish_tile
from fxsim.kernels.jit import jit
from fxsim.kernels.packing import blocks_of, pair_images, place
from fxsim.kernels.tile import COLUMNS, NEVER, PATHS, ROWS, TILE, multiply_tile, pairs_before_spill

GROUP_TILES = 32
"""Tiles of one job: with one block of weights they stay in a second-level cache of 1 MB."""
PANEL_BYTES = 2**18
"""Share of that cache for the right operand of a weight gradient."""
RAW = Epilogue(raw=True)
NO_MASK = np.empty(0, np.uint8)


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
    x = _with_spare(x)
    out_height, out_width, outputs = out.shape[1] - 2 * out_border, out.shape[2] - 2 * out_border, out.shape[3]
    read = (height * width * channels, stride * width * channels, stride * channels)
    row = out.shape[2] * outputs
    write = (out.shape[1] * row, row, outputs)
    loops = np.array([[1, 0, 0], [taps, width * channels, pairs * 2 * COLUMNS], [pairs, 2, 2 * COLUMNS]])
    terms = taps * pairs * 2
    positions = images * out_height * out_width
    jobs, group = _job_count(positions, blocks_of(outputs, COLUMNS))
    bias = np.zeros(outputs, np.int64) if bias is None else bias.astype(np.int64)
    narrow, epilogue = _narrowed(epilogue, terms, spill_terms, bias)
    job_counts = np.zeros((jobs, 3), np.int64)
    _forward(PATHS[path], x, packed.reshape(-1), positions, (out_height, out_width), read, write,
             out_border * (row + outputs), loops, _spill_pairs(terms, spill_terms), group, outputs, bias, narrow,
             epilogue, out.reshape(-1), mask.reshape(-1), job_counts)
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
    taps_high, taps_wide, channels, outputs = out.shape
    row, column = left.shape[2] * channels * 2, channels * 2
    rows = (np.arange(taps_high)[:, None] * row + np.arange(taps_wide * channels) * 2).reshape(-1)
    rows = np.append(rows, np.repeat(rows[-1:], -rows.size % ROWS))
    _, images, height, width, _, _ = right.shape
    panel = width * height * COLUMNS * 2
    chunk = min(images, max(1, PANEL_BYTES // (panel * grad.itemsize)))
    loops = [[chunk, left.shape[1] * row, panel], [height, stride * row, width * COLUMNS * 2],
             [width, stride * column, COLUMNS * 2]]
    order = sorted(range(3), key=lambda loop: loops[loop][0])  # the innermost loop should be long
    tiles, column_blocks = rows.size // ROWS, len(right)
    group = max(1, min(GROUP_TILES, tiles * column_blocks // 8))
    job_counts = np.zeros((column_blocks * blocks_of(tiles, group), 3), np.int64)
    chunk_terms = 2 * chunk * height * width
    _weight_grad(PATHS[path], left.reshape(-1), right.reshape(-1), rows, taps_high * taps_wide * channels, images,
                 np.array(loops)[order], order.index(0), _spill_pairs(chunk_terms, spill_terms), group, outputs, epilogue,
                 out.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def _with_spare(x):
    """x flat; where a run of odd length reads one code past its end (times a zero weight), with a spare code."""
    x = np.ascontiguousarray(x)
    return x.reshape(-1) if x.shape[3] % 2 == 0 else np.append(x, x.dtype.type(0))


def _spill_pairs(terms, spill_terms):
    return NEVER if terms <= spill_terms else pairs_before_spill(spill_terms)


def _narrowed(epilogue, terms, spill_terms, bias):
    """Whether sums and epilogue fit int32 throughout, and the epilogue to use."""
    if terms > spill_terms:
        return False, epilogue
    bound = terms * ((2**31 - 1) // spill_terms)
    if not epilogue.fits_int32(bound, int(np.abs(bias).max(initial=0))):
        return epilogue.raw, epilogue
    return True, epilogue.in_int32()


def _job_count(positions, column_blocks):
    """Jobs and positions per job: fewer positions where there would be too few jobs to share."""
    group = GROUP_TILES * ROWS
    while group > 4 * ROWS and blocks_of(positions, group) * column_blocks < 8:
        group //= 2
    group = blocks_of(group, ROWS) * ROWS
    return blocks_of(positions, group) * column_blocks, group


@jit
def _offsets(first, size, shape, steps, origin, offsets):
    """offsets[i] = where position first + i lies by (image, row, column) steps; the last is repeated to the end."""
    height, width = shape
    image, y, x = first // (height * width), first // width % height, first % width
    for i in range(offsets.size):
        offsets[i] = origin + image * steps[0] + y * steps[1] + x * steps[2]
        if i < size - 1:
            x += 1
            if x == width:
                x, y = 0, y + 1
                if y == height:
                    y, image = 0, image + 1


@jit(parallel=True)
def _forward(path, x, weights, positions, shape, read, write, origin, loops, spill_pairs, group, outputs, bias,
             narrow, epilogue, out, mask, counts):
    blocks = -(-outputs // COLUMNS)
    for job in numba.prange(counts.shape[0]):
        _forward_job(path, x, weights, job // blocks * group, positions, shape, read, write, origin, loops,
                     spill_pairs, group, job % blocks, outputs, bias, narrow, epilogue, out, mask, counts[job])


@jit
def _forward_job(path, x, weights, first, positions, shape, read, write, origin, loops, spill_pairs, group, block,
                 outputs, bias, narrow, epilogue, out, mask, counts):
    """Positions first .. first + group of one block of COLUMNS output channels."""
    size, columns = min(group, positions - first), min(COLUMNS, outputs - block * COLUMNS)
    rows, places = np.empty(group, np.int64), np.empty(group, np.int64)
    _offsets(first, size, shape, read, 0, rows)
    _offsets(first, size, shape, write, origin + block * COLUMNS, places)
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    codes, tile_mask = np.empty(TILE, np.int32), np.empty(TILE, np.uint8)
    tile_bias = np.zeros(TILE, np.int64)
    for k in range(TILE):
        if k % COLUMNS < columns:
            tile_bias[k] = bias[block * COLUMNS + k % COLUMNS]
    narrow_bias = tile_bias.astype(np.int32)
    weights_at = block * loops[1, 0] * loops[1, 2]
    for tile in range(0, size, ROWS):
        valid = min(ROWS, size - tile)
        fits = multiply_tile(path, x, weights, rows, tile, 0, weights_at, loops, spill_pairs, valid, columns,
                             low, high, total)
        mask_at = (first + tile) * outputs + block * COLUMNS
        if fits and narrow:
            finish_tile(low, narrow_bias, epilogue, valid, columns, codes, tile_mask, counts, out, places, tile,
                        mask, mask_at, outputs)
        else:
            if fits:
                for k in range(TILE):
                    total[k] = low[k]
            finish_tile(total, tile_bias, epilogue, valid, columns, codes, tile_mask, counts, out, places, tile,
                        mask, mask_at, outputs)


@jit(parallel=True)
def _weight_grad(path, left, right, rows, valid_rows, images, loops, image_loop, spill_pairs, group, outputs, epilogue,
                 out, counts):
    blocks = -(-outputs // COLUMNS)
    for job in numba.prange(counts.shape[0]):
        _weight_grad_job(path, left, right, rows, valid_rows, images, loops, image_loop, spill_pairs, job // blocks * group, group,
                         job % blocks, outputs, epilogue, out, counts[job])


@jit
def _weight_grad_job(path, left, right, rows, valid_rows, images, loops, image_loop, spill_pairs, first, group, block, outputs,
                     epilogue, out, counts):
    """Tiles first .. first + group of one block of COLUMNS output channels, images in chunks that fit a cache."""
    tiles, columns = min(group, rows.size // ROWS - first), min(COLUMNS, outputs - block * COLUMNS)
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    sums = np.zeros((tiles, TILE), np.int64)
    chunk, loops = loops[image_loop, 0], loops.copy()
    for start in range(0, images, chunk):
        loops[image_loop, 0] = min(chunk, images - start)
        for tile in range(tiles):
            valid = min(ROWS, valid_rows - (first + tile) * ROWS)
            fits = multiply_tile(path, left, right, rows, (first + tile) * ROWS, start * loops[image_loop, 1],
                                 (block * images + start) * loops[image_loop, 2], loops, spill_pairs, valid, columns,
                                 low, high, total)
            part = sums[tile]
            for k in range(TILE):
                part[k] += low[k] if fits else total[k]
    codes, tile_mask = np.empty(TILE, np.int32), np.empty(TILE, np.uint8)
    places = np.arange(first * ROWS, (first + tiles) * ROWS) * outputs + block * COLUMNS
    for tile in range(tiles):
        valid = min(ROWS, valid_rows - (first + tile) * ROWS)
        finish_tile(sums[tile], np.zeros(TILE, np.int64), epilogue, valid, columns, codes, tile_mask, counts, out, places, tile * ROWS,
                    tile_mask[:0], 0, 0)

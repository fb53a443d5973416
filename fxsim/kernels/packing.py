"""Operands in the order in which the tiles of `tile.py` read them: pairs of terms, padded with zeros."""
from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import GRAIN, jit, parallel_for
from fxsim.kernels.tile import COLUMNS

PAIR = 2


def blocks_of(size: int, block: int) -> int:
    """Blocks of `block` that cover `size`."""
    return -(-size // block)


def _grain(packed: np.ndarray, jobs: int) -> int:
    """Least jobs per thread where `jobs` write all of `packed`."""
    return GRAIN * jobs // packed.size + 1


def pack_forward_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (O blocks, KH, KW, pairs of C, COLUMNS, 2), the right operand of a convolution.

    With odd C, a whole row of taps is packed as one: (O blocks, KH, 1, pairs of KW * C, COLUMNS, 2).
    """
    height, width, channels, outputs = codes.shape
    merged = (height, 1, width * channels) if channels % PAIR else (height, width, channels)
    starts = np.arange(height * width * channels, dtype=np.int64).reshape(merged) * outputs
    return _pack_rows(codes, starts, 1, outputs)


def pack_input_grad_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (C blocks, KH, KW, pairs of O, COLUMNS, 2), taps flipped, for an input gradient."""
    height, width, channels, outputs = codes.shape
    taps = np.arange(height * width, dtype=np.int64)[::-1].reshape(height, width, 1) * channels * outputs
    return _pack_rows(codes, taps + np.arange(outputs), outputs, channels)


def _pack_rows(codes, starts, step, columns):
    height, width, terms = starts.shape
    packed = np.empty((blocks_of(columns, COLUMNS), height, width, blocks_of(terms, PAIR), COLUMNS, PAIR), codes.dtype)
    jobs = packed.shape[0] * height * width
    parallel_for(_pack_weights, jobs, _grain(packed, jobs), np.ascontiguousarray(codes).reshape(-1),
                 starts.reshape(-1, terms), step, columns, packed.reshape(packed.shape[0], -1, *packed.shape[3:]))
    return packed


@jit
def _pack_weights(start, stop, codes, starts, step, columns, packed):
    """packed[block, tap, k // 2, o, k % 2] = codes[starts[tap, k] + (COLUMNS * block + o) * step], zeros beyond."""
    for job in range(start, stop):
        block, tap = job // packed.shape[1], job % packed.shape[1]
        _pack_tap(codes, starts[tap], step, block * COLUMNS, columns, packed[block, tap])


@jit
def _pack_tap(codes, starts, step, first, columns, packed):
    valid = min(COLUMNS, columns - first)
    if valid < COLUMNS or starts.size % PAIR:
        packed[:] = 0
    for k in range(starts.size):
        source, column = codes[starts[k] + first * step::step], packed[k // PAIR, :, k % PAIR]
        for o in range(valid):
            column[o] = source[o]


def place(codes: np.ndarray, height: int, width: int, top: int, left: int) -> np.ndarray:
    """(N, height, width, C) zeros with codes[n, y, x] at (top + y, left + x): zero padding as a copy."""
    images, rows, columns, channels = codes.shape
    placed = np.zeros((images, height, width, channels), codes.dtype)
    placed[:, top:top + rows, left:left + columns] = codes
    return placed


def pair_images(codes: np.ndarray, block: int, padding: int = 0) -> np.ndarray:
    """(C blocks, ceil(N / 2), H + 2 * padding, W + 2 * padding, block, 2): images 2i and 2i + 1 side by side.

    Zeros stand for the border, for channels beyond C and for the image beyond an odd N.
    """
    images, height, width, channels = codes.shape
    shape = (blocks_of(channels, block), blocks_of(images, PAIR), height + 2 * padding, width + 2 * padding)
    paired = np.empty((*shape, block, PAIR), codes.dtype)
    jobs = shape[0] * shape[1]
    parallel_for(_pair_images, jobs, _grain(paired, jobs), codes, padding, paired)
    return paired


@jit
def _pair_images(start, stop, codes, padding, paired):
    blocks, _, _, _, block, _ = paired.shape
    last = codes.shape[0] - 1
    for job in range(start, stop):
        part, pair = job % blocks, job // blocks
        first, valid = part * block, min(block, codes.shape[3] - part * block)
        target = paired[part, pair]
        if padding or valid < block:
            target[:] = 0
        single = 2 * pair == last
        _pair_two(codes[2 * pair], codes[min(2 * pair + 1, last)], first, valid, single, padding, target)


@jit
def _pair_two(even, odd, first, valid, single, padding, paired):
    height, width, _ = even.shape
    keep = even.dtype.type(not single)
    for y in range(height):
        for x in range(width):
            target = paired[y + padding, x + padding]
            one, two = even[y, x, first:first + valid], odd[y, x, first:first + valid]
            for c in range(valid):
                target[c, 0] = one[c]
                target[c, 1] = two[c] * keep

"""Operands in the order in which the tiles of `tile.py` read them: words of terms, padded with zeros."""
from __future__ import annotations

import numpy as np

from fxsim.kernels import memory
from fxsim.kernels.jit import jit
from fxsim.kernels.threads import GRAIN, parallel_for
from fxsim.kernels.tile import COLUMNS, word_terms

PAIR = 2


def blocks_of(size: int, block: int) -> int:
    """Blocks of `block` that cover `size`."""
    return -(-size // block)


def _grain(packed: np.ndarray, jobs: int) -> int:
    """Least jobs per thread where `jobs` write all of `packed`."""
    return GRAIN * jobs // packed.size + 1


def pack_forward_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (O blocks, KH, KW, words of C, COLUMNS, terms), a convolution's right operand.

    If C is no multiple of the terms of a word, a whole row of taps is packed as one:
    (O blocks, KH, 1, words of KW * C, COLUMNS, terms).
    """
    height, width, channels, outputs = codes.shape
    merged = (height, 1, width * channels) if channels % word_terms(codes.dtype) else (height, width, channels)
    starts = np.arange(height * width * channels, dtype=np.int64).reshape(merged) * outputs
    return _pack_rows(codes, starts, 1, outputs)


def pack_input_grad_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (C blocks, KH, KW, words of O, COLUMNS, terms), taps flipped, for an input gradient."""
    height, width, channels, outputs = codes.shape
    taps = np.arange(height * width, dtype=np.int64)[::-1].reshape(height, width, 1) * channels * outputs
    return _pack_rows(codes, taps + np.arange(outputs), outputs, channels)


def _pack_rows(codes, starts, step, columns):
    height, width, depth = starts.shape
    terms = word_terms(codes.dtype)
    shape = (blocks_of(columns, COLUMNS), height, width, blocks_of(depth, terms), COLUMNS, terms)
    packed = memory.empty(shape, codes.dtype)
    jobs = packed.shape[0] * height * width
    parallel_for(_pack_weights, jobs, _grain(packed, jobs), np.ascontiguousarray(codes).reshape(-1),
                 starts.reshape(-1, depth), step, columns, packed.reshape(packed.shape[0], -1, *packed.shape[3:]))
    return packed


@jit
def _pack_weights(start, stop, codes, starts, step, columns, packed):
    """packed[block, tap, word, o, t] = codes[starts[tap, word * terms + t] + (COLUMNS * block + o) * step]."""
    for job in range(start, stop):
        block, tap = job // packed.shape[1], job % packed.shape[1]
        _pack_tap(codes, starts[tap], step, block * COLUMNS, columns, packed[block, tap])


@jit
def _pack_tap(codes, starts, step, first, columns, packed):
    terms, valid = packed.shape[2], min(COLUMNS, columns - first)
    if valid < COLUMNS or starts.size % terms:
        packed[:] = 0
    whole = starts.size // terms if step == 1 else 0
    for word in range(whole):
        _interleave(codes, starts[word * terms:(word + 1) * terms] + first, valid, packed[word])
    for k in range(whole * terms, starts.size):
        source, column = codes[starts[k] + first * step::step], packed[k // terms, :, k % terms]
        for o in range(valid):
            column[o] = source[o]


@jit
def _interleave(codes, starts, valid, packed):
    """packed[o, t] = codes[starts[t] + o], in one run for all terms of the word."""
    one, two = codes[starts[0]:starts[0] + valid], codes[starts[1]:starts[1] + valid]
    if codes.itemsize > 1:
        for o in range(valid):
            packed[o, 0] = one[o]
            packed[o, 1] = two[o]
    else:
        three, four = codes[starts[2]:starts[2] + valid], codes[starts[3]:starts[3] + valid]
        for o in range(valid):
            packed[o, 0] = one[o]
            packed[o, 1] = two[o]
            packed[o, 2] = three[o]
            packed[o, 3] = four[o]


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
    paired = memory.empty((*shape, block, PAIR), codes.dtype)
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

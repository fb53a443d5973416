"""Weight gradients of 3x3 taps and stride 1 by Winograd's algorithm: exact, with 16 products instead of 36.

A word of terms is the same patch of images 2i and 2i + 1.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels import memory
from fxsim.kernels.gemm import Operand
from fxsim.kernels.jit import jit, parallel_for, thread_count
from fxsim.kernels.matmul import spill_words
from fxsim.kernels.packing import PAIR, blocks_of
from fxsim.kernels.tile import COLUMNS, PATHS, ROWS, TILE, multiply_tile, widen
from fxsim.kernels.winograd import Plane, locate_patch, patch_corner
from fxsim.kernels.winograd_transforms import (
    CHANNEL_STEP,
    CODE_GROWTH,
    POSITIONS,
    transform_gradient_pair,
    transform_input_pair,
    transform_weight_grad,
)

CHUNK = 128
"""Most words between two additions to the int64 sums; as many fit int32 without a spill at the usual widths."""
BLOCK = 128
"""Channels and outputs of a job."""
JOBS_PER_THREAD = 2
"""Least jobs of a thread; parts of the batch have sums of their own."""


def holds(codes: Operand, grads: Operand) -> bool:
    """Whether the transformed operands fit int16."""
    return CODE_GROWTH * max(codes.magnitude, grads.magnitude) <= 2**15


def winograd_weight_grad(x: np.ndarray, grad: np.ndarray, padding: int, *, spill_terms: int, path: str) -> np.ndarray:
    """(3, 3, C, O) int64 sums over images and positions of x times grad, as `conv.conv_weight_grad` makes them.

    x (N, H, W, C), grad (N, OH, OW, O): int16 codes that `holds` allows; C and O are multiples of CHANNEL_STEP.
    spill_terms: products of x and grad that int32 provably holds.  Paths: 'avx2' and 'vnni'.
    """
    images, height, width, outputs = grad.shape
    channels = x.shape[3]
    pairs = Plane.of(blocks_of(images, PAIR), height, width)
    blocks = blocks_of(channels, BLOCK) * blocks_of(outputs, BLOCK)
    parts = blocks_of(JOBS_PER_THREAD * thread_count(), blocks)
    sums = memory.empty((parts, POSITIONS, channels, outputs), np.int64)
    parallel_for(_weight_grad_jobs, parts * blocks, 1, np.ascontiguousarray(x), np.ascontiguousarray(grad), pairs, padding,
                 PATHS[path], spill_words(PAIR * CHUNK, spill_terms // CODE_GROWTH**2, PAIR), sums)
    return transform_weight_grad(sums)


@jit
def _weight_grad_jobs(start, stop, x, grad, pairs, padding, path, spill, sums):
    """Each job: a part of the words, by a block of channels and a block of outputs."""
    x_flat, grad_flat, parts, across = x.reshape(-1), grad.reshape(-1), len(sums), -(-grad.shape[3] // BLOCK)
    step = PAIR * (CHUNK * BLOCK + CHANNEL_STEP)
    left, right = np.empty(POSITIONS * step, x.dtype), np.empty(POSITIONS * step, grad.dtype)
    left_edge, right_edge = np.empty(PAIR * 16 * BLOCK, x.dtype), np.empty(PAIR * 4 * BLOCK, grad.dtype)
    words = pairs.images * pairs.rows * pairs.columns
    for job in range(start, stop):
        part, block = job % parts, job // parts
        channel, output = block // across * BLOCK, block % across * BLOCK
        channels, outputs = min(BLOCK, x.shape[3] - channel), min(BLOCK, grad.shape[3] - output)
        own_sums = sums[part, :, channel:channel + channels, output:output + outputs]
        own_sums[:] = 0
        start_word, last = words * part // parts, words * (part + 1) // parts
        chunks = (last - start_word + CHUNK - 1) // CHUNK
        for chunk in range(chunks):  # of equal size
            first = start_word + (last - start_word) * chunk // chunks
            count = start_word + (last - start_word) * (chunk + 1) // chunks - first
            for word in range(count):
                pair, y, left_x = patch_corner(first + word, pairs)
                inside, at, row, column, mate = locate_patch(x, PAIR * pair, PAIR, y - padding, left_x - padding, 4, channel,
                                                             channels, left_edge)
                transform_input_pair(x_flat, left_edge, inside, at, row, column, mate, left, PAIR * channels * word,
                                     4 * step, step, channels)
                inside, at, row, column, mate = locate_patch(grad, PAIR * pair, PAIR, y, left_x, 2, output, outputs, right_edge)
                transform_gradient_pair(grad_flat, right_edge, inside, at, row, column, mate, right, PAIR * outputs * word,
                                        4 * step, step, outputs)
            _add_products(path, left, right, step, count, spill, own_sums)


@jit
def _add_products(path, left, right, step, words, spill, sums):
    """sums (position, channel, output) += the products of `words` transformed patches."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    _, channels, outputs = sums.shape
    rows = np.minimum(np.arange(channels + ROWS), channels - 1) * PAIR
    loops = np.array([[1, 0, 0], [1, 0, 0], [words, PAIR * channels, PAIR * outputs]])
    for position in range(POSITIONS):
        for column in range(0, outputs, COLUMNS):
            for row in range(0, channels, ROWS):
                valid, columns = min(ROWS, channels - row), min(COLUMNS, outputs - column)
                fits = multiply_tile(path, left, right, rows, row, position * step, position * step + PAIR * column, loops,
                                     spill, valid, columns, low, high, total)
                widen(fits, low, total)
                for i in range(valid):
                    target, source = sums[position, row + i, column:column + columns], total[i * COLUMNS:(i + 1) * COLUMNS]
                    for o in range(columns):
                        target[o] += source[o]

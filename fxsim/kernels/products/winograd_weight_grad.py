"""Weight gradients of 3x3 taps and stride 1 by Winograd's algorithm: exact, with 16 products
instead of 36.

A word of terms is the same patch of images 2i and 2i + 1.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels import memory
from fxsim.kernels.jit import jit
from fxsim.kernels.memory import scratch
from fxsim.kernels.products.matmul import spill_words
from fxsim.kernels.products.packing import PAIR, blocks_of
from fxsim.kernels.products.paths import Operand
from fxsim.kernels.products.tile import COLUMNS, PATHS, ROWS, TILE, add_tile, spilling_tile
from fxsim.kernels.products.winograd import SMALL, Plane, locate_patch, next_corner, patch_corner
from fxsim.kernels.products.winograd_transforms import (
    CHANNEL_STEP,
    CODE_GROWTH,
    HALVES,
    POSITIONS,
    transform_gradient_pair,
    transform_input_pair,
    transform_weight_grad,
)
from fxsim.kernels.threads import parallel_for

BLOCK = COLUMNS
"""Channels and outputs of a job."""
CHUNK = 64
"""Most words that are transformed at once.

With the sums of a job they stay in a second-level cache of 1 MB.
"""
HALF = POSITIONS // 2
"""Positions of a job: those of the rows of `HALVES`, which need not all rows of a patch."""
LEAST_JOBS = 8
"""Least jobs, so that threads can share them; parts of the batch have sums of their own."""


def pays(size: tuple[int, int], products: float) -> bool:
    """Whether the transforms do, for a plane of gradients; products: see `winograd.choose`."""
    return SMALL.cost(*size) <= products


def holds(codes: Operand, grads: Operand) -> bool:
    """Whether the transformed operands fit int16."""
    return CODE_GROWTH * max(codes.magnitude, grads.magnitude) <= 2**15


def winograd_weight_grad(
    x: np.ndarray, grad: np.ndarray, padding: int, *, spill_terms: int, path: str
) -> np.ndarray:
    """(3, 3, C, O) int64 sums over images and positions of x times grad, as `conv.conv_weight_grad`
    makes them.

    x (N, H, W, C), grad (N, OH, OW, O): int16 codes that `holds` allows; C and O are multiples of
    CHANNEL_STEP. spill_terms: products of x and grad that int32 provably holds.  Paths: 'avx2' and
    'vnni'."""
    images, height, width, outputs = grad.shape
    channels = x.shape[3]
    pairs = Plane.of(blocks_of(images, PAIR), height, width)
    blocks = blocks_of(channels, BLOCK) * blocks_of(outputs, BLOCK)
    parts = blocks_of(LEAST_JOBS, 2 * blocks)
    sums = memory.empty((parts, POSITIONS, channels, outputs), np.int64)
    parallel_for(
        _weight_grad_jobs,
        parts * blocks * 2,
        1,
        np.ascontiguousarray(x),
        np.ascontiguousarray(grad),
        pairs,
        padding,
        PATHS[path],
        spill_words(PAIR * CHUNK, spill_terms // CODE_GROWTH**2, PAIR),
        sums,
    )
    return transform_weight_grad(sums)


@jit
def _weight_grad_jobs(start, stop, x, grad, pairs, padding, path, spill, sums):
    """Each job: a part of the words, by a block of channels and a block of outputs, for half of
    the positions.
    """
    x_flat = x.reshape(-1)
    grad_flat = grad.reshape(-1)
    flat_sums = sums.reshape(-1)
    across = -(-grad.shape[3] // BLOCK)
    step = PAIR * (CHUNK * BLOCK + CHANNEL_STEP)
    parts = len(sums)
    every_channel = x.shape[3]
    every_output = grad.shape[3]
    left = scratch(HALF * step, x.dtype)
    right = scratch(HALF * step, grad.dtype)
    left_edge = scratch(PAIR * 16 * BLOCK, x.dtype)
    right_edge = scratch(PAIR * 4 * BLOCK, grad.dtype)
    low = scratch(TILE, np.int32)
    high = scratch(TILE, np.int32)
    words = pairs.images * pairs.rows * pairs.columns
    for job in range(start, stop):
        half = job % 2
        part = job // 2 % parts
        block = job // 2 // parts
        channel = block // across * BLOCK
        output = block % across * BLOCK
        channels = min(BLOCK, every_channel - channel)
        outputs = min(BLOCK, every_output - output)
        rows = np.minimum(np.arange(channels + ROWS), channels - 1) * PAIR
        for i in range(2):
            row = HALVES[half][i]
            sums[
                part, 4 * row : 4 * row + 4, channel : channel + channels, output : output + outputs
            ] = 0
        start_word = words * part // parts
        last = words * (part + 1) // parts
        chunks = (last - start_word + CHUNK - 1) // CHUNK
        for chunk in range(chunks):  # of equal size
            first = start_word + (last - start_word) * chunk // chunks
            count = start_word + (last - start_word) * (chunk + 1) // chunks - first
            pair, y, x_left = patch_corner(first, pairs)
            for word in range(count):
                place = locate_patch(
                    x,
                    PAIR * pair,
                    PAIR,
                    y - padding,
                    x_left - padding,
                    4,
                    channel,
                    channels,
                    left_edge,
                )
                transform_input_pair(
                    half, x_flat, left_edge, place, left, PAIR * channels * word, step, channels
                )
                place = locate_patch(
                    grad, PAIR * pair, PAIR, y, x_left, 2, output, outputs, right_edge
                )
                transform_gradient_pair(
                    half, grad_flat, right_edge, place, right, PAIR * outputs * word, step, outputs
                )
                pair, y, x_left = next_corner(pair, y, x_left, pairs)
            loops = np.array([[1, 0, 0], [1, 0, 0], [count, PAIR * channels, PAIR * outputs]])
            for position in range(HALF):
                plane = part * POSITIONS + 4 * HALVES[half][position // 4] + position % 4
                for row in range(0, channels, ROWS):
                    spilling_tile(
                        path,
                        left,
                        right,
                        rows,
                        row,
                        position * step,
                        position * step,
                        loops,
                        low,
                        spill,
                        high,
                    )
                    add_tile(
                        low,
                        high,
                        min(ROWS, channels - row),
                        outputs,
                        flat_sums,
                        (plane * every_channel + channel + row) * every_output + output,
                        every_output,
                    )

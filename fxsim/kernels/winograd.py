"""Convolutions of 3x3 taps and stride 1 by Winograd's algorithm: exact, with 16 products instead of 36.

All arithmetic is modulo 2**32, in which sums, differences and products are exact; so is the result where
SUM_GROWTH times it fits int32, whatever the partial sums.  The transformed operands have to fit int16.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.conv import NO_MASK
from fxsim.kernels.epilogue import Epilogue, requantize_tile, store_tile
from fxsim.kernels.gemm import INT32_MAX, Operand
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.matmul import RAW
from fxsim.kernels.packing import blocks_of, pack_forward_weights
from fxsim.kernels.tile import COLUMNS, NEVER, PATHS, ROWS, TILE, multiply_tile
from fxsim.kernels.winograd_transforms import (
    CHANNEL_STEP,
    CODE_GROWTH,
    POSITIONS,
    SUM_GROWTH,
    WEIGHT_GROWTH,
    transform_input,
    transform_output,
    transform_weights,
)

GROUPS = 8
PATCHES = GROUPS * ROWS
"""Patches of a job: with their sums for a block of outputs they stay in a second-level cache."""
LEAST_SAVING = 1.4
"""Times as many products of the direct convolution, from which on the transforms pay."""


class Plane(NamedTuple):
    """A batch of images cut into `rows` x `columns` patches of 2 x 2 outputs; patch p of image i is its p'th."""

    images: int
    rows: int
    columns: int

    @classmethod
    def of(cls, images: int, height: int, width: int) -> Plane:
        return cls(images, blocks_of(height, 2), blocks_of(width, 2))

    @property
    def patches(self) -> int:
        return self.images * self.rows * self.columns


def saves(weight_shape: tuple[int, ...], stride: int, size: tuple[int, int], products: int) -> bool:
    """Whether patches over height x width outputs save enough of `products`, the direct convolution's of one channel."""
    *kernel, channels, outputs = weight_shape
    whole = channels % CHANNEL_STEP == outputs % CHANNEL_STEP == 0
    return kernel == [3, 3] and stride == 1 and whole and products >= LEAST_SAVING * POSITIONS * Plane.of(1, *size).patches


def rotated(weight: np.ndarray) -> np.ndarray:
    """The (3, 3, O, C) weights with which an input gradient is a convolution; its padding is 2 - padding."""
    return np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))


def holds(codes: Operand, weights: Operand, weight: np.ndarray, epilogue: Epilogue = RAW,
          bias: np.ndarray | None = None) -> bool:
    """Whether the arithmetic is exact for any `codes` and this (3, 3, C, O) weight."""
    if CODE_GROWTH * codes.magnitude > 2**15 or WEIGHT_GROWTH * weights.magnitude >= 2**15:
        return False
    bound = codes.magnitude * _largest_column(weight.reshape(-1, weight.shape[3]))
    bias_bound = 0 if bias is None else int(np.abs(bias).max(initial=0))
    return SUM_GROWTH * bound <= INT32_MAX and epilogue.fits_int32(bound, bias_bound)


@jit
def _largest_column(matrix):
    """The greatest sum of magnitudes of a column."""
    sums = np.zeros(matrix.shape[1], np.int64)
    for row in matrix:
        for column in range(sums.size):
            sums[column] += abs(np.int64(row[column]))
    return sums.max()


def conv_winograd(x: np.ndarray, weight: np.ndarray, padding: int, out: np.ndarray, *, path: str, epilogue: Epilogue = RAW,
                  bias: np.ndarray | None = None, mask: np.ndarray = NO_MASK, counts: np.ndarray | None = None) -> None:
    """`conv.conv_forward` of (3, 3, C, O) weights with stride 1, where they and the epilogue are such that it `holds`.

    C is a multiple of CHANNEL_STEP, OH and OW are even.  Paths: 'avx2' and 'vnni'.
    """
    images, height, width, outputs = out.shape
    packed = pack_forward_weights(transform_weights(weight))
    plane = Plane.of(images, height, width)
    jobs = blocks_of(plane.patches, PATCHES)
    bias = np.zeros(outputs, np.int32) if bias is None else bias.astype(np.int32)
    job_counts = np.zeros((jobs, 3), np.int64)
    parallel_for(_convolve_jobs, jobs, 1, np.ascontiguousarray(x), packed.reshape(len(packed), -1), plane, padding,
                 PATHS[path], bias, epilogue.in_int32(), out, mask.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


@jit
def patch_corner(patch, plane):
    """(image, y, x) of the first output of a patch."""
    image, place = divmod(patch, plane.rows * plane.columns)
    return image, place // plane.columns * 2, place % plane.columns * 2


@jit
def locate_patch(codes, image, mates, y, x, size, first, channels, edge):
    """(whether it is in place, offset, row step, column step, image step) of a patch, for the transforms.

    The patch: `size` x `size` pixels from (y, x) on, `channels` from `first` on, of `mates` images from `image` on.
    Where it reaches beyond the images it is copied to `edge`, with zeros around.
    """
    images, height, width, depth = codes.shape
    if y >= 0 and x >= 0 and y + size <= height and x + size <= width and image + mates <= images:
        return True, ((image * height + y) * width + x) * depth + first, width * depth, depth, height * width * depth
    edge[:] = 0
    for mate in range(min(mates, images - image)):
        for i in range(max(0, -y), min(size, height - y)):
            for j in range(max(0, -x), min(size, width - x)):
                source = codes[image + mate, y + i, x + j, first:first + channels]
                target = edge[((mate * size + i) * size + j) * channels:][:channels]
                for c in range(channels):
                    target[c] = source[c]
    return False, 0, size * channels, channels, size * size * channels


@jit
def _convolve_jobs(start, stop, x, weights, plane, padding, path, bias, epilogue, out, mask, counts):
    """Each job: the patches of PATCHES, by all blocks of output channels."""
    channels, flat, edge = x.shape[3], x.reshape(-1), np.empty(POSITIONS * x.shape[3], x.dtype)
    step = PATCHES * channels + CHANNEL_STEP  # no power of two, for the sake of the cache
    codes, rows = np.empty(POSITIONS * step, x.dtype), np.arange(PATCHES) * channels
    sums, places = np.empty((GROUPS, POSITIONS, TILE), np.int32), np.empty((4, PATCHES), np.int64)
    buffers = np.empty(4 * TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.uint8)
    loops = np.array([[1, 0, 0], [1, 0, 0], [channels // 2, 2, 2 * COLUMNS]])
    unused_high, unused_total, flat_weights = np.empty(0, np.int32), np.empty(0, np.int64), weights.reshape(-1)
    for job in range(start, stop):
        first = job * PATCHES
        size = min(PATCHES, plane.images * plane.rows * plane.columns - first)
        for patch in range(size):
            image, y, left = patch_corner(first + patch, plane)
            inside, at, row, column, mate = locate_patch(x, image, 1, y - padding, left - padding, 4, 0, channels, edge)
            transform_input(flat, edge, inside, at, row, column, mate, codes, patch * channels, 4 * step, step, channels)
            for k in range(4):
                places[k, patch] = ((image * out.shape[1] + y + k // 2) * out.shape[2] + left + k % 2) * out.shape[3]
        for block in range(len(weights)):
            for position in range(POSITIONS):
                for group in range((size + ROWS - 1) // ROWS):
                    multiply_tile(path, codes, flat_weights, rows, group * ROWS, position * step,
                                  block * weights.shape[1] + position * channels * COLUMNS, loops, NEVER, ROWS, COLUMNS,
                                  sums[group, position], unused_high, unused_total)
            _store_patches(sums.reshape(-1), size, places, block * COLUMNS, bias, epilogue, out, mask, counts[job], buffers)


@jit
def _store_patches(sums, size, places, first_output, bias, epilogue, out, mask, counts, buffers):
    """The outputs of `size` patches from the sums (group, position, tile) of a block of channels; advances `places`."""
    results, tile_bias, codes, tile_mask = buffers
    columns, flat = min(COLUMNS, bias.size - first_output), out.reshape(-1)
    for row in range(ROWS):
        for o in range(columns):
            tile_bias[row * COLUMNS + o] = bias[first_output + o]
    for first in range(0, size, ROWS):
        rows = min(ROWS, size - first)
        transform_output(sums, sums, True, first // ROWS * POSITIONS * TILE, 4 * TILE, TILE, 0,
                         results, 0, 2 * TILE, TILE, TILE)
        for k in range(4):
            requantize_tile(results[k * TILE:(k + 1) * TILE], tile_bias, epilogue, rows, columns, codes, tile_mask, counts)
            store_tile(codes, rows, columns, flat, places[k], first)
            if mask.size:
                store_tile(tile_mask, rows, columns, mask, places[k], first)
    places += COLUMNS

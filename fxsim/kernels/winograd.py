"""Convolutions of 3x3 taps and stride 1 by Winograd's algorithm: exact, with 16 products instead of 36.

All arithmetic is modulo 2**32, in which sums, differences and products are exact; so is the result where
SUM_GROWTH times it fits int32, whatever the partial sums.  The transformed operands have to fit int16.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.channelwise import moments as channel_moments
from fxsim.kernels.channelwise import sum_of_jobs
from fxsim.kernels.conv import NO_MASK
from fxsim.kernels.epilogue import RAW, Epilogue, padded_bias
from fxsim.kernels.gemm import INT32_MAX, Operand
from fxsim.kernels.jit import jit
from fxsim.kernels.packing import blocks_of, pack_forward_weights
from fxsim.kernels.threads import parallel_for
from fxsim.kernels.tile import COLUMNS, NEVER, PATHS, ROWS, TILE, register_tile
from fxsim.kernels.winograd_transforms import (
    CHANNEL_STEP,
    CODE_GROWTH,
    POSITIONS,
    SUM_GROWTH,
    WEIGHT_GROWTH,
    finish_patches,
    transform_input,
    transform_weights,
)

PATCHES = 8 * ROWS
"""Patches of a job: transformed, with the weights of a block of outputs, they stay in a second-level cache."""
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
                  bias: np.ndarray | None = None, mask: np.ndarray = NO_MASK, counts: np.ndarray | None = None,
                  moments: np.ndarray | None = None) -> None:
    """`conv.conv_forward` of (3, 3, C, O) weights with stride 1, where they and the epilogue are such that it `holds`.

    C is a multiple of CHANNEL_STEP, OH and OW are even.  Paths: 'avx2' and 'vnni'.
    """
    images, height, width, outputs = out.shape
    packed = pack_forward_weights(transform_weights(weight))
    plane = Plane.of(images, height, width)
    jobs = blocks_of(plane.patches, PATCHES)
    bias = padded_bias(bias, outputs).astype(np.int32)
    fused = moments is not None and out.dtype == np.int16
    job_counts, job_moments = np.zeros((jobs, 3), np.int64), np.zeros((jobs, 2 * bias.size if fused else 0), np.int64)
    parallel_for(_convolve_jobs, jobs, 1, np.ascontiguousarray(x), packed.reshape(len(packed), -1), plane, padding,
                 PATHS[path], bias, epilogue.in_int32(), out, mask.reshape(-1), job_counts, job_moments)
    if counts is not None:
        counts += job_counts.sum(axis=0)
    if moments is not None:
        moments[:] = sum_of_jobs(job_moments, outputs) if fused else channel_moments(out, out)


@jit
def patch_corner(patch, plane):
    """(image, y, x) of the first output of a patch."""
    image, place = divmod(patch, plane.rows * plane.columns)
    return image, place // plane.columns * 2, place % plane.columns * 2


@jit(inline="always")
def next_corner(image, y, x, plane):
    """The corner of the patch after the one at (image, y, x)."""
    x += 2
    if x == 2 * plane.columns:
        x, y = 0, y + 2
        if y == 2 * plane.rows:
            y, image = 0, image + 1
    return image, y, x


@jit(inline="always")
def locate_patch(codes, image, mates, y, x, size, first, channels, edge):
    """(whether it is in place, offset, row step, column step, image step) of a patch, for the transforms.

    The patch: `size` x `size` pixels from (y, x) on, `channels` from `first` on, of `mates` images from `image` on.
    Where it reaches beyond the images it is copied to `edge`, with zeros around.
    """
    images, height, width, depth = codes.shape
    inside = y >= 0 and x >= 0 and y + size <= height and x + size <= width and image + mates <= images
    at, row, column, mate = ((image * height + y) * width + x) * depth + first, width * depth, depth, height * width * depth
    if not inside:
        _copy_edge(codes, image, mates, y, x, size, first, channels, edge)
        at, row, column, mate = 0, size * channels, channels, size * size * channels
    return inside, at, row, column, mate


@jit
def _copy_edge(codes, image, mates, y, x, size, first, channels, edge):
    images, height, width, _ = codes.shape
    edge[:] = 0
    for mate in range(min(mates, images - image)):
        for i in range(max(0, -y), min(size, height - y)):
            for j in range(max(0, -x), min(size, width - x)):
                source = codes[image + mate, y + i, x + j, first:first + channels]
                target = edge[((mate * size + i) * size + j) * channels:][:channels]
                for c in range(channels):
                    target[c] = source[c]


@jit
def _convolve_jobs(start, stop, x, weights, plane, padding, path, bias, epilogue, out, mask, counts, moments):
    """Each job: the patches of PATCHES, by all blocks of output channels."""
    channels, flat, edge = x.shape[3], x.reshape(-1), np.empty(POSITIONS * x.shape[3], x.dtype)
    step = PATCHES * channels + CHANNEL_STEP  # no power of two, for the sake of the cache
    codes, rows, places = np.empty(POSITIONS * step, x.dtype), np.arange(PATCHES) * channels, np.empty(4 * PATCHES, np.int64)
    sums, flat_out = np.empty((POSITIONS, TILE), np.int32), out.reshape(-1)
    loops = np.array([[1, 0, 0], [1, 0, 0], [channels // 2, 2, 2 * COLUMNS]])
    unused, flat_weights = np.empty(0, np.int32), weights.reshape(-1)
    for job in range(start, stop):
        first, job_counts, job_moments = job * PATCHES, counts[job], moments[job]
        size = min(PATCHES, plane.images * plane.rows * plane.columns - first)
        image, y, left = patch_corner(first, plane)
        for patch in range(size):
            inside, at, row, column, _ = locate_patch(x, image, 1, y - padding, left - padding, 4, 0, channels, edge)
            transform_input(flat, edge, inside, at, row, column, codes, patch * channels, step, channels)
            for k in range(4):
                places[4 * patch + k] = ((image * out.shape[1] + y + k // 2) * out.shape[2] + left + k % 2) * out.shape[3]
            image, y, left = next_corner(image, y, left, plane)
        for block in range(len(weights)):
            columns = min(COLUMNS, out.shape[3] - block * COLUMNS)
            for patch in range(0, size, ROWS):
                for position in range(POSITIONS):
                    register_tile(path, codes, flat_weights, rows, patch, position * step,
                                  block * weights.shape[1] + position * channels * COLUMNS, loops, NEVER, sums[position],
                                  unused)
                finish_patches(sums, min(ROWS, size - patch), columns, bias, block * COLUMNS, epilogue, flat_out, mask, places,
                               patch, job_counts, job_moments)
            places += COLUMNS

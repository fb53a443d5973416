"""Convolutions of 3x3 taps and stride 1 by Winograd's algorithm: exact, with fewer products.

All arithmetic is modulo 2**32, in which sums, differences and products are exact; so is the result
where `sum_growth` times it fits int32, whatever the partial sums.  The transformed operands have to
fit int16."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.jit import jit
from fxsim.kernels.memory import scratch
from fxsim.kernels.products.conv import NO_MASK
from fxsim.kernels.products.finish import Outputs, largest_magnitude, outputs_of_job, padded_bias
from fxsim.kernels.products.matmul import grain
from fxsim.kernels.products.packing import blocks_of, pack_forward_weights
from fxsim.kernels.products.paths import INT32_MAX, Operand
from fxsim.kernels.products.tile import COLUMNS, PATHS, ROWS, TILE, Tile, register_tile
from fxsim.kernels.products.winograd_transforms import (
    CHANNEL_STEP,
    Place,
    finish_large_patches,
    finish_patches,
    transform_input,
    transform_large_input,
    transform_weights,
)
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.kernels.reductions import sum_of_jobs
from fxsim.kernels.threads import parallel_for

PATCHES = 4 * ROWS
"""Patches of a job.

Transformed, with the weights of a block of outputs, they stay in a second-level cache.
"""


class Algorithm(NamedTuple):
    """F(size x size, 3x3): patches of size x size outputs from (size + 2) x (size + 2) inputs.

    unsigned_growth: the coefficients of B^T d B of either sign add up to no more; signed_growth:
    all of them.  -2**15 fits int16, and 2**15 is not reached, for there is a positive one among
    them and the greatest signed code is smaller. weight_growth, sum_growth: by how much transformed
    weights, and sums that are not yet divided, are larger. least_saving: times as many products of
    the direct convolution, from which on the transforms pay."""

    size: int
    unsigned_growth: int
    signed_growth: int
    weight_growth: int
    sum_growth: int
    least_saving: float

    def cost(self, height: int, width: int) -> float:
        """In products of the direct convolution, of one channel of a plane of outputs."""
        patches = blocks_of(height, self.size) * blocks_of(width, self.size)
        return self.least_saving * patches * (self.size + 2) ** 2

    def holds(
        self, codes: Operand, weights: Weights, epilogue: Epilogue, bias: np.ndarray | None
    ) -> bool:
        """Whether the arithmetic is exact for any `codes`, the epilogue's included."""
        growth = self.signed_growth if codes.signed else self.unsigned_growth
        if (
            growth * codes.magnitude > 2**15 - (not codes.signed)
            or self.weight_growth * weights.largest >= 2**15
        ):
            return False
        bias_bound = 0 if bias is None else largest_magnitude(bias)

        def fits(column):
            bound = codes.magnitude * column
            return self.sum_growth * bound <= INT32_MAX and epilogue.fits_int32(bound, bias_bound)

        return fits(weights.terms * weights.largest) or fits(weights.column)


class Weights:
    """A (KH, KW, C, O) weight.

    terms: of the sum of an output.  largest: the greatest magnitude.
    """

    def __init__(self, weight: np.ndarray):
        self._matrix = weight.reshape(-1, weight.shape[3])
        self.terms = len(self._matrix)
        self.largest = max(int(weight.max()), -int(weight.min()))

    @cached_property
    def column(self) -> int:
        """The greatest sum of the magnitudes of an output's weights."""
        sums = np.zeros(
            self._matrix.shape[1], np.int32 if self.terms * self.largest <= INT32_MAX else np.int64
        )
        add_columns(self._matrix, sums)
        return int(sums.max())


LARGE = Algorithm(4, 68, 100, 49, 64, 1.5)
SMALL = Algorithm(2, 4, 4, 9, 4, 1.4)
"""B^T has rows of up to (-4, -4, 1, 1) for patches of 4 x 4.

Products of two of them add up to 68 and -32.
"""


class Plane(NamedTuple):
    """A batch of images cut into `rows` x `columns` patches of `size` x `size` outputs.

    Patch p of image i is its p'th.
    """

    images: int
    rows: int
    columns: int
    size: int = 2

    @classmethod
    def of(cls, images: int, height: int, width: int, size: int = 2) -> Plane:
        return cls(images, blocks_of(height, size), blocks_of(width, size), size)

    @property
    def patches(self) -> int:
        return self.images * self.rows * self.columns


def applies(weight_shape: tuple[int, ...], stride: int) -> bool:
    """Whether a convolution is of the kind."""
    *kernel, channels, outputs = weight_shape
    return (
        kernel == [3, 3] and stride == 1 and channels % CHANNEL_STEP == outputs % CHANNEL_STEP == 0
    )


def choose(
    size: tuple[int, int],
    products: float,
    codes: Operand,
    weight: np.ndarray,
    epilogue: Epilogue = RAW,
    bias: np.ndarray | None = None,
) -> Algorithm | None:
    """The algorithm that is exact and saves most for height x width outputs, if one pays.

    products: as many of int16 codes, for one channel, as cost what the direct convolution does.
    """
    weights = Weights(weight)
    exact = [
        algorithm
        for algorithm in paying(size, products)
        if algorithm.holds(codes, weights, epilogue, bias)
    ]
    return min(exact, key=lambda algorithm: algorithm.cost(*size), default=None)


def paying(size: tuple[int, int], products: float) -> list[Algorithm]:
    """Algorithms that cost less than `products` direct ones, for height x width outputs."""
    return [algorithm for algorithm in (LARGE, SMALL) if algorithm.cost(*size) <= products]


@jit
def add_columns(matrix, sums):
    """sums += the magnitudes of each column, in the type of `sums`."""
    kind = sums.dtype.type
    for row in matrix:
        for column in range(sums.size):
            sums[column] = np.add(sums[column], np.abs(kind(row[column])))


def conv_winograd(
    x: np.ndarray,
    weight: np.ndarray,
    padding: int,
    out: np.ndarray,
    *,
    algorithm: Algorithm,
    path: str,
    epilogue: Epilogue = RAW,
    bias: np.ndarray | None = None,
    mask: np.ndarray = NO_MASK,
    counts: np.ndarray | None = None,
    moments: np.ndarray | None = None,
) -> None:
    """`conv.conv_forward` of (3, 3, C, O) weights that it `applies` to, with stride 1, by an
    algorithm that `holds` for them.

    Paths: 'avx2' and 'vnni'.
    """
    images, height, width, outputs = out.shape
    packed = pack_forward_weights(transform_weights(weight, algorithm.size))
    plane = Plane.of(images, height, width, algorithm.size)
    jobs = blocks_of(plane.patches, PATCHES)
    bias = padded_bias(bias, outputs).astype(np.int32)
    fused = moments is not None and out.dtype == np.int16
    job_counts = np.zeros((jobs, 3), np.int64)
    job_moments = np.zeros((jobs, 2 * bias.size if fused else 0), np.int64)
    parallel_for(
        _convolve_jobs,
        jobs,
        grain(jobs, plane.patches * packed.size),
        np.ascontiguousarray(x),
        packed.reshape(len(packed), -1),
        plane,
        padding,
        PATHS[path],
        bias,
        epilogue.in_int32(),
        out.shape[1:],
        Outputs(out.reshape(-1), mask.reshape(-1), job_counts, job_moments),
    )
    if counts is not None:
        counts += job_counts.sum(axis=0)
    if moments is not None:
        moments[:] = sum_of_jobs(job_moments, outputs) if fused else channel_moments(out, out)


@jit
def patch_corner(patch, plane):
    """(image, y, x) of the first output of a patch."""
    image, place = divmod(patch, plane.rows * plane.columns)
    return image, place // plane.columns * plane.size, place % plane.columns * plane.size


@jit(inline="always")
def next_corner(image, y, x, plane):
    """The corner of the patch after the one at (image, y, x)."""
    x += plane.size
    if x == plane.size * plane.columns:
        x = 0
        y = y + plane.size
        if y == plane.size * plane.rows:
            y = 0
            image = image + 1
    return image, y, x


@jit(inline="always")
def locate_patch(codes, image, mates, y, x, size, first, channels, edge):
    """The `Place` of a patch, for the transforms.

    The patch: `size` x `size` pixels from (y, x) on, `channels` from `first` on, of `mates` images
    from `image` on. Where it reaches beyond the images it is copied to `edge`, with zeros around.
    """
    images, height, width, depth = codes.shape
    inside = (
        y >= 0 and x >= 0 and y + size <= height and x + size <= width and image + mates <= images
    )
    at = ((image * height + y) * width + x) * depth + first
    row = width * depth
    column = depth
    mate = height * width * depth
    if not inside:
        _copy_edge(codes, image, mates, y, x, size, first, channels, edge)
        at = 0
        row = size * channels
        column = channels
        mate = size * size * channels
    return Place(inside, at, row, column, mate)


@jit
def _copy_edge(codes, image, mates, y, x, size, first, channels, edge):
    images, height, width, _ = codes.shape
    edge[:] = 0
    for mate in range(min(mates, images - image)):
        for i in range(max(0, -y), min(size, height - y)):
            for j in range(max(0, -x), min(size, width - x)):
                source = codes[image + mate, y + i, x + j, first : first + channels]
                target = edge[((mate * size + i) * size + j) * channels :][:channels]
                for c in range(channels):
                    target[c] = source[c]


@jit
def _convolve_jobs(
    start, stop, x, weights, plane, padding, path, bias, epilogue, out_shape, outputs
):
    """Each job: the patches of PATCHES, by all blocks of output channels."""
    height, width, depth = out_shape
    channels = x.shape[3]
    flat = x.reshape(-1)
    side = plane.size + 2
    pixels = plane.size**2
    positions = side * side
    edge = scratch(side * side * x.shape[3], x.dtype)
    step = PATCHES * channels + CHANNEL_STEP  # no power of two, for the sake of the cache
    codes = scratch(positions * step, x.dtype)
    rows = np.arange(PATCHES) * channels
    places = scratch(PATCHES * pixels, np.int64)
    sums = scratch(positions * TILE, np.int32).reshape(positions, TILE)
    loops = np.array([[1, 0, 0], [1, 0, 0], [channels // 2, 2, 2 * COLUMNS]])
    flat_weights = weights.reshape(-1)
    for job in range(start, stop):
        first = job * PATCHES
        own = outputs_of_job(outputs, job)
        size = min(PATCHES, plane.images * plane.rows * plane.columns - first)
        image, y, left = patch_corner(first, plane)
        for patch in range(size):
            place = locate_patch(x, image, 1, y - padding, left - padding, side, 0, channels, edge)
            if plane.size == 2:
                transform_input(flat, edge, place, codes, patch * channels, step, channels)
            else:
                transform_large_input(flat, edge, place, codes, patch * channels, step, channels)
            for k in range(pixels):
                i = y + k // plane.size
                j = left + k % plane.size
                to = ((image * height + i) * width + j) * depth
                places[pixels * patch + k] = to if i < height and j < width else -depth
            image, y, left = next_corner(image, y, left, plane)
        for block in range(len(weights)):
            columns = min(COLUMNS, depth - block * COLUMNS)
            for patch in range(0, size, ROWS):
                for position in range(positions):
                    register_tile(
                        path,
                        codes,
                        flat_weights,
                        rows,
                        patch,
                        position * step,
                        block * weights.shape[1] + position * channels * COLUMNS,
                        loops,
                        sums[position],
                    )
                tile = Tile(min(ROWS, size - patch), columns, block * COLUMNS)
                if plane.size == 2:
                    finish_patches(sums, tile, bias, epilogue, own, places, patch)
                else:
                    finish_large_patches(sums, tile, bias, epilogue, own, places, patch)
            places += COLUMNS

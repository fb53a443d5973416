"""Winograd's transforms F(2x2, 3x3) and F(4x4, 3x3) in exact integers, in vector registers.

In one dimension two outputs y of three taps g over four inputs d take four products instead of six,
and so do the gradients g' of three taps from two output gradients y':

    y = A^T ((G g) * (B^T d))                          g' = G^T ((A y') * (B^T d))

    B^T d = d0 - d2, d1 + d2, d2 - d1, d1 - d3         2 G g = 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2
    A^T m = m0 + m1 + m2, m1 - m2 - m3                 A y = y0, y0 + y1, y0 - y1, -y1

A patch of 2 x 2 outputs applies each along rows and columns: 16 products instead of 36.  With 2 G
for G all is integer and the result is four times the sum, an exact division.

Four outputs over six inputs take six products instead of twelve, a patch of 4 x 4 takes 36 instead
of 144:

    B^T d = 4 d0 - 5 d2 + d4, (d4 - 4 d2) + (d3 - 4 d1), (d4 - 4 d2) - (d3 - 4 d1), (d4 - d2) + 2 (d3 - d1),
            (d4 - d2) - 2 (d3 - d1), 4 d1 - 5 d3 + d5
    G g   = g0 / 4, -(g0 + g1 + g2) / 6, -(g0 - g1 + g2) / 6, (g0 + 2 g1 + 4 g2) / 24, (g0 - 2 g1 + 4 g2) / 24, g2

and with m that lack the denominators, s = m1 + m2, d = m1 - m2, p = m3 + m4, q = m3 - m4,

    24 y0 = 6 m0 - 4 s + p        12 y1 = q - 2 d        6 y2 = p - s        6 y3 = 2 q - d + 6 m5

so that in two dimensions a sum comes out 9 * 2**k times too large, 1 <= k / 2 <= 3; modulo 2**32
the inverse of 9 takes away that factor and a shift the other.  Source: Lavin and Gray (CVPR 2016),
sections 4.1 to 4.3."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import llvm as vectors
from fxsim.kernels import memory
from fxsim.kernels.epilogue import emit_kinds
from fxsim.kernels.jit import jit
from fxsim.kernels.llvm import Value
from fxsim.kernels.products.finish import FinishTile
from fxsim.kernels.products.tile import COLUMNS, TILE
from fxsim.kernels.threads import GRAIN, parallel_for

POSITIONS = 16
"""Products of a patch of 2 x 2: position 4 * i + j of row i and column j."""
CODE_GROWTH = 4
"""By how much B^T d B or A y A^T of such a patch is larger than codes."""

_I64 = ir.IntType(64)
_NOT_FURTHER = _I64(0)


def _input(d):
    """B^T d, of four or six."""
    if len(d) == 4:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    even = d[4] - d[2] * 4
    odd = d[3] - d[1] * 4
    far = d[4] - d[2]
    twice = (d[3] - d[1]) * 2
    first = (d[0] - d[2]) * 4 + far
    last = d[5] - d[3] - twice * 2
    return [first, even + odd, even - odd, far + twice, far - twice, last]


def _output(m):
    """A^T m, of four; of six, 24, 12, 6 and 6 times as much."""
    if len(m) == 4:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
    s = m[1] + m[2]
    d = m[1] - m[2]
    p = m[3] + m[4]
    q = m[3] - m[4]
    first = m[0] * 6 - s * 4 + p
    last = q * 2 - d + m[5] * 6
    return [first, q - d * 2, p - s, last]


def _gradient(y):
    """A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _weights(g):
    """2 G g for a patch of 2 x 2."""
    outer = g[0] + g[2]
    return [g[0] * 2, outer + g[1], outer - g[1], g[2] * 2]


def _weights_large(g):
    """G g without its denominators for a patch of 4 x 4."""
    near = g[0] + g[2]
    twice = g[1] * 2
    far = g[0] + g[2] * 4
    return [g[0], near + g[1], near - g[1], far + twice, far - twice, g[2]]


def _small_result(i, j, value):
    return value >> 2


LARGE_SHIFTS = 3, 2, 1, 1
"""Powers of two in 24, 12, 6 and 6."""
INVERSE_OF_9 = pow(9, -1, 2**32)


def _large_result(i, j, value):
    return value * INVERSE_OF_9 >> LARGE_SHIFTS[i] + LARGE_SHIFTS[j]


def _both(transform, block):
    """A transform along columns, then along rows."""
    columns = [transform(column) for column in zip(*block)]
    return [transform(row) for row in zip(*columns)]


HALVES = ((1, 2), (0, 3))
"""Rows of positions, as a weight gradient takes them.

The first two need two rows of a patch's four.
"""


def _input_half(half, d):
    """The two rows of B^T d of a half."""
    return [_input(d)[row] for row in HALVES[half]]


def _gradient_half(half, y):
    """The two rows of A y of a half."""
    return [_gradient(y)[row] for row in HALVES[half]]


PATCHES_AHEAD = 2


class Place(NamedTuple):
    """Where a patch is: from source[at] on, or from edge[at] on where it is not `inside`.

    row, column: from one of its pixels to the next.  mate: how much further the same patch of the
    next image is.
    """

    inside: bool
    at: int
    row: int
    column: int
    mate: int


class _Patch:
    """Emits loads of runs of a patch, whose `Place` is an argument of the intrinsic, and stores of
    what becomes of them.
    """

    def __init__(self, builder, arguments, lanes):
        self.builder = builder
        self.arguments = arguments
        self.vector = ir.VectorType(arguments.element("source"), lanes)
        place = arguments.place
        inside = place.integer("inside", ir.IntType(8))
        self.source = builder.select(
            builder.icmp_signed("!=", inside, inside.type(0)),
            *map(arguments.data, ("source", "edge")),
        )  # Numba would count references
        self.at, self.row, self.column, self.mate = (
            place.integer(name, _I64) for name in ("at", "row", "column", "mate")
        )

    def _place(self, first, i, j, further):
        builder = self.builder
        steps = builder.add(builder.mul(_I64(i), self.row), builder.mul(_I64(j), self.column))
        return builder.add(builder.add(builder.add(self.at, first), steps), further)

    def load(self, first, i, j, further=_NOT_FURTHER):
        place = self._place(first, i, j, further)
        return Value(self.builder, vectors.load(self.builder, self.source, place, self.vector))

    def prefetch(self, first, size):
        """Ask for the columns that the patch PATCHES_AHEAD of this one does not share with the
        one before it.
        """
        for further, i, j in itertools.product((_NOT_FURTHER, self.mate), range(size), range(2)):
            vectors.prefetch(
                self.builder, self.source, self._place(first, i, 2 * PATCHES_AHEAD + j, further)
            )

    def store(self, target, value, start, position, step):
        place = self.builder.add(start, self.builder.mul(_I64(position), step))
        vectors.store(self.builder, value.ir, target, place)

    def runs(self):
        return cgutils.for_range_slice(
            self.builder, _I64(0), self.arguments.length, _I64(self.vector.count), inc=True
        )


CHANNEL_STEP = 32
"""Channels of which the transforms take a multiple."""


def _make_transform(transform, size):
    """The intrinsic `run(source, edge, place, target, to, step, length)` that transforms int16
    codes.

    The patch at `place` is `size` x `size` runs of `length` codes.  Position p of the result goes
    to target[to + p * step]."""

    def codegen(context, builder, signature, args):
        names = "source edge place target to step length"
        arguments = vectors.Arguments(context, builder, signature, args, names)
        patch = _Patch(builder, arguments, CHANNEL_STEP)
        target = arguments.data("target")
        with patch.runs() as (first, _):
            block = [[patch.load(first, i, j) for j in range(size)] for i in range(size)]
            for position, value in enumerate(itertools.chain(*_both(transform, block))):
                patch.store(
                    target, value, builder.add(arguments.to, first), position, arguments.step
                )
        return context.get_dummy_value()

    @intrinsic
    def run(typing_context, source, edge, place, target, to, step, length):
        return types.void(source, edge, place, target, *(types.int64,) * 3), codegen

    return run


transform_input = _make_transform(_input, 4)
transform_large_input = _make_transform(_input, 6)
"""B^T d B."""
transform_taps = _make_transform(_weights, 3)
transform_large_taps = _make_transform(_weights_large, 3)
"""G g G^T without denominators."""


def _interleaved(even, odd):
    return Value(even.builder, vectors.interleaved(even.builder, even.ir, odd.ir))


def _make_pair_transform(half_of, transform, size):
    """The intrinsic that makes one half of the positions of two patches, their terms side by side;
    see `_make_transform`.

    The second patch is the `mate` of the first.  Codes are int16.
    """

    def codegen(context, builder, signature, args):
        names = "half source edge place target to step length"
        arguments = vectors.Arguments(context, builder, signature, args, names)
        patch = _Patch(builder, arguments, 16)
        target = arguments.data("target")

        def emit(half):
            with patch.runs() as (first, _):
                rows = []
                patch.prefetch(first, size)
                for further in (_NOT_FURTHER, patch.mate):
                    block = [
                        [patch.load(first, i, j, further) for j in range(size)] for i in range(size)
                    ]
                    rows.append(list(zip(*(half_of(half, column) for column in zip(*block)))))
                start = builder.add(arguments.to, builder.mul(first, _I64(2)))
                for i, (even, odd) in enumerate(zip(*rows)):
                    row = [_interleaved(*pair) for pair in zip(even, odd)]
                    for j, value in enumerate(transform(row)):
                        patch.store(target, value, start, 4 * i + j, arguments.step)

        with builder.if_else(builder.icmp_signed("==", arguments.half, _I64(0))) as (one, other):
            with one:
                emit(0)
            with other:
                emit(1)
        return context.get_dummy_value()

    @intrinsic
    def run(typing_context, half, source, edge, place, target, to, step, length):
        steps = (types.int64,) * 3
        return types.void(types.int64, source, edge, place, target, *steps), codegen

    return run


transform_input_pair = _make_pair_transform(_input_half, _input, 4)
"""Half of B^T d B."""
transform_gradient_pair = _make_pair_transform(_gradient_half, _gradient, 2)
"""Half of A y A^T."""


_FINISH_PATCHES = "sums tile bias epilogue outputs places first"


def _make_finish_patches(size, result):
    """The intrinsic that makes the outputs from the int32 sums (position, TILE) of tile.rows
    patches, and finishes them.

    places: where the outputs of each patch go, row after row, or below 0 for those that are none;
    `first` is the first patch.  The rest: as for `finish.finish_tile`.
    """
    side = size + 2

    def codegen(context, builder, signature, args):
        arguments = vectors.Arguments(context, builder, signature, args, _FINISH_PATCHES)
        data = arguments.data("sums")
        places = arguments.data("places")

        def emit(kind):
            tile = FinishTile(builder, arguments, vectors.I32, kind)
            with tile.each_column() as column, cgutils.for_range(builder, tile.rows) as row:
                start = builder.add(builder.mul(row.index, _I64(COLUMNS)), column)
                block = [
                    [
                        tile.load(data, builder.add(start, _I64((side * i + j) * TILE)))
                        for j in range(side)
                    ]
                    for i in range(side)
                ]
                where = builder.mul(builder.add(arguments.first, row.index), _I64(size * size))
                outputs = _both(_output, block)
                for i, j in np.ndindex(size, size):
                    place = builder.load(
                        builder.gep(places, [builder.add(where, _I64(size * i + j))])
                    )
                    with builder.if_then(builder.icmp_signed(">=", place, _I64(0)), likely=True):
                        tile.finish(result(i, j, outputs[i][j]), builder.add(place, column))
            tile.add_counts()

        emit_kinds(builder, arguments, emit)
        return context.get_dummy_value()

    @intrinsic
    def finish_patches(typing_context, sums, tile, bias, epilogue, outputs, places, first):
        arguments = (sums, tile, bias, epilogue, outputs, places, types.int64)
        return types.void(*arguments), codegen

    return finish_patches


finish_patches = _make_finish_patches(2, _small_result)
finish_large_patches = _make_finish_patches(4, _large_result)


def transform_weights(codes: np.ndarray, size: int) -> np.ndarray:
    """(size + 2, size + 2, C, O) transformed int16 codes of (3, 3, C, O) ones.

    C * O is a multiple of CHANNEL_STEP.
    """
    _, _, channels, outputs = codes.shape
    transformed = memory.empty((size + 2, size + 2, channels, outputs), codes.dtype)
    length = channels * outputs
    parallel_for(
        _transform_weights,
        length // CHANNEL_STEP,
        GRAIN // CHANNEL_STEP,
        np.ascontiguousarray(codes).reshape(-1),
        transformed.reshape(-1),
        length,
        size,
    )
    return transformed


@jit
def _transform_weights(start, stop, codes, transformed, length, size):
    first = start * CHANNEL_STEP
    own = (stop - start) * CHANNEL_STEP
    taps = Place(True, first, 3 * length, length, 0)
    if size == 2:
        transform_taps(codes, codes, taps, transformed, first, length, own)
    else:
        transform_large_taps(codes, codes, taps, transformed, first, length, own)


def transform_weight_grad(parts: np.ndarray) -> np.ndarray:
    """(3, 3, C, O) int64 gradients G^T m G of int64 sums m, given as `parts` (P, POSITIONS, C,
    O) to be added; exact.
    """
    gradients = memory.empty((9, *parts.shape[2:]), np.int64)
    parallel_for(
        _transform_weight_grad,
        parts.shape[2],
        1 + GRAIN // (POSITIONS * parts.shape[3]),
        parts,
        gradients,
    )
    return gradients.reshape(3, 3, *parts.shape[2:])


@jit
def _transform_weight_grad(start, stop, parts, gradients):
    outputs = parts.shape[3]
    total = np.empty((POSITIONS, outputs), np.int64)
    columns = np.empty((12, outputs), np.int64)
    for channel in range(start, stop):
        total[:] = 0
        for part in range(len(parts)):
            for position in range(POSITIONS):
                source = parts[part, position, channel]
                target = total[position]
                for o in range(outputs):
                    target[o] += source[o]
        for i in range(4):
            _gradient_taps(
                total[4 * i],
                total[4 * i + 1],
                total[4 * i + 2],
                total[4 * i + 3],
                columns[i],
                columns[4 + i],
                columns[8 + i],
            )
        for j in range(3):
            _gradient_taps(
                columns[4 * j],
                columns[4 * j + 1],
                columns[4 * j + 2],
                columns[4 * j + 3],
                gradients[j, channel],
                gradients[3 + j, channel],
                gradients[6 + j, channel],
            )
        for tap in range(9):
            taps = gradients[tap, channel]
            for o in range(outputs):
                taps[o] >>= 2


@jit
def _gradient_taps(first, second, third, fourth, left, middle, right):
    """(2 G)^T m."""
    for o in range(first.size):
        both = second[o] + third[o]
        left[o] = 2 * first[o] + both
        middle[o] = second[o] - third[o]
        right[o] = both + 2 * fourth[o]

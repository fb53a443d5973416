"""Winograd's transforms F(2x2, 3x3) in exact integers, in vector registers.

In one dimension two outputs y of three taps g over four inputs d take four products instead of six, and
so do the gradients g' of three taps from two output gradients y':

    y = A^T ((G g) * (B^T d))                          g' = G^T ((A y') * (B^T d))

    B^T d = d0 - d2, d1 + d2, d2 - d1, d1 - d3         2 G g = 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2
    A^T m = m0 + m1 + m2, m1 - m2 - m3                 A y = y0, y0 + y1, y0 - y1, -y1

A patch of 2 x 2 outputs applies each along rows and columns: 16 products instead of 36.  With 2 G for G all
is integer and the result is four times the sum, an exact division.  Source: Lavin and Gray (CVPR 2016), section 4.1.
"""
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import memory
from fxsim.kernels.jit import GRAIN, jit, parallel_for

POSITIONS = 16
"""Products of a patch: position 4 * i + j of row i and column j."""
CODE_GROWTH, WEIGHT_GROWTH, SUM_GROWTH = 4, 9, 4
"""By how much B^T d B or A y A^T, 2 G g (2 G)^T, and the sums are larger than codes, weights and results."""

_I64 = ir.IntType(64)


def _input(builder, d):
    """B^T d."""
    return [builder.sub(d[0], d[2]), builder.add(d[1], d[2]), builder.sub(d[2], d[1]), builder.sub(d[1], d[3])]


def _output(builder, m):
    """A^T m."""
    return [builder.add(builder.add(m[0], m[1]), m[2]), builder.sub(builder.sub(m[1], m[2]), m[3])]


def _gradient(builder, y):
    """A y."""
    return [y[0], builder.add(y[0], y[1]), builder.sub(y[0], y[1]), builder.neg(y[1])]


def _both(transform, builder, block):
    """A transform along columns, then along rows."""
    columns = [transform(builder, column) for column in zip(*block)]
    return [transform(builder, row) for row in zip(*columns)]


def _single(builder, pointer, kind, _):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def _paired(builder, pointer, kind, mate):
    """int32 words of two int16 codes: one from `pointer` and one `mate` codes further."""
    words = ir.VectorType(ir.IntType(32), kind.count)
    even, odd = (builder.zext(_single(builder, place, kind, None), words)
                 for place in (pointer, builder.gep(pointer, [mate])))
    pairs = builder.or_(even, builder.shl(odd, ir.Constant(words, [16] * kind.count)))
    return builder.bitcast(pairs, ir.VectorType(kind.element, 2 * kind.count))


def _make_transform(transform, size, load, lanes, shift=0):
    """The intrinsic `run(source, edge, inside, at, row, column, mate, target, to, to_row, to_column, length)`.

    It takes `size` x `size` runs of `length` codes from source[at] on, or from edge[at] on where not `inside`,
    `row` and `column` apart, `lanes` codes at a time, and stores the transformed runs, shifted right, likewise.
    length: a multiple of `lanes`.  load and mate: `_single` or `_paired`.
    """

    def codegen(context, builder, signature, args):
        source, edge, target = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 1, 7))
        inside, at, row, column, mate = args[2:7]
        to, to_row, to_column, length = args[8:]
        source = builder.select(inside, source, edge)  # here, for Numba would count references to the array chosen
        kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)

        def run_at(data, start, i, j, row_step, column_step):
            steps = builder.add(builder.mul(_I64(i), row_step), builder.mul(_I64(j), column_step))
            return builder.gep(data, [builder.add(start, steps)])

        with cgutils.for_range_slice(builder, _I64(0), length, _I64(lanes), inc=True) as (first, _):
            start = builder.add(at, first)
            block = [[load(builder, run_at(source, start, i, j, row, column), kind, mate) for j in range(size)]
                     for i in range(size)]
            result = _both(transform, builder, block)
            vector = result[0][0].type
            start = builder.add(to, builder.mul(first, _I64(vector.count // lanes)))
            for i, j in np.ndindex(len(result), len(result)):
                value = builder.ashr(result[i][j], ir.Constant(vector, [shift] * vector.count))
                pointer = run_at(target, start, i, j, to_row, to_column)
                builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def run(typing_context, source, edge, inside, at, row, column, mate, target, to, to_row, to_column, length):
        steps = (types.int64,) * 4
        return types.void(source, edge, types.boolean, *steps, target, *steps), codegen

    return run


CHANNEL_STEP = 32
"""Channels of which the transforms of a convolution take a multiple."""
transform_input = _make_transform(_input, 4, _single, CHANNEL_STEP)
"""B^T d B of int16 codes."""
transform_output = _make_transform(_output, 4, _single, 16, shift=2)
"""A^T m A / 4 of int32 sums."""
transform_input_pair = _make_transform(_input, 4, _paired, 16)
"""A row of B^T d B of two patches side by side, as words of two int16 terms."""
transform_gradient_pair = _make_transform(_gradient, 2, _paired, 16)
"""A row of A y A^T of two patches side by side."""


def transform_weights(codes: np.ndarray) -> np.ndarray:
    """(3, 3, C, O) int16 codes as (4, 4, C, O) int16 codes 2 G g (2 G)^T; WEIGHT_GROWTH * |g| fits int16."""
    for axis in (0, 1):
        first, middle, last = (codes.take(tap, axis) for tap in range(3))
        outer = first + last
        codes = np.stack([2 * first, outer + middle, outer - middle, 2 * last], axis)
    return codes


def transform_weight_grad(parts: np.ndarray) -> np.ndarray:
    """(3, 3, C, O) int64 gradients G^T m G of int64 sums m, given as `parts` (P, POSITIONS, C, O) to be added; exact."""
    gradients = memory.empty((9, *parts.shape[2:]), np.int64)
    parallel_for(_transform_weight_grad, parts.shape[2], 1 + GRAIN // (POSITIONS * parts.shape[3]), parts, gradients)
    return gradients.reshape(3, 3, *parts.shape[2:])


@jit
def _transform_weight_grad(start, stop, parts, gradients):
    outputs = parts.shape[3]
    total, columns = np.empty((POSITIONS, outputs), np.int64), np.empty((12, outputs), np.int64)
    for channel in range(start, stop):
        total[:] = 0
        for part in range(len(parts)):
            for position in range(POSITIONS):
                source, target = parts[part, position, channel], total[position]
                for o in range(outputs):
                    target[o] += source[o]
        for i in range(4):
            _gradient_taps(total[4 * i], total[4 * i + 1], total[4 * i + 2], total[4 * i + 3],
                           columns[i], columns[4 + i], columns[8 + i])
        for j in range(3):
            _gradient_taps(columns[4 * j], columns[4 * j + 1], columns[4 * j + 2], columns[4 * j + 3],
                           gradients[j, channel], gradients[3 + j, channel], gradients[6 + j, channel])
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

"""What happens to a tile of exact sums before it is stored: bias, ReLU, rounding shift, clip, counts.

    value = (sum << acc_shift) + bias            mask = 0 < value < relu_bound
    value = max(value, floor)                    code = clip(round_shift(value, shift), low, high)

with the rounding of `rounding.py`, whose remainder form equals
`(value + base + neg * (value < 0) + odd * (floor & 1)) >> shift`.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fxsim.kernels.jit import JIT_DISABLED, jit
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED
from fxsim.kernels.tile import COLUMNS, ROWS, TILE

NO_FLOOR = -(2**62)


class Epilogue(NamedTuple):
    """Integers of one requantization; `floor` is 0 with a ReLU, else NO_FLOOR.  low <= 0 <= high.

    raw: store the sums as they are and ignore all else.
    """

    raw: bool = False
    acc_shift: int = 0
    relu_bound: int = 2**62
    floor: int = NO_FLOOR
    shift: int = 0
    base: int = 0
    neg: int = 0
    odd: int = 0
    jam: int = 0
    low: int = -(2**31)
    high: int = 2**31 - 1

    def fits_int32(self, sum_bound: int, bias_bound: int) -> bool:
        """Whether every intermediate of sums of at most `sum_bound` in magnitude fits int32."""
        value = (sum_bound << self.acc_shift) + bias_bound
        return self.shift < 31 and value + abs(self.base) + abs(self.neg) + 1 < 2**31

    def in_int32(self) -> Epilogue:
        """The same with bounds that int32 holds; equal in effect where `fits_int32`."""
        return self._replace(**{field: min(max(getattr(self, field), -(2**31)), 2**31 - 1)
                                for field in ("relu_bound", "floor", "low", "high")})


@jit
def requantize_sums(sums, bias, epilogue, codes, mask, counts):
    """Codes and ReLU mask of 1-D `sums`, in the integer type of `sums` and `bias`; adds to counts.

    NumPy's scalar functions keep int32 operands int32, so that the loop runs on 16 lanes.
    """
    kind = sums.dtype.type
    zero, one = kind(0), kind(1)
    acc_shift, relu_bound, floor = kind(epilogue.acc_shift), kind(epilogue.relu_bound), kind(epilogue.floor)
    shift, base, neg, odd = kind(epilogue.shift), kind(epilogue.base), kind(epilogue.neg), kind(epilogue.odd)
    jam, low, high = kind(epilogue.jam), kind(epilogue.low), kind(epilogue.high)
    below = above = flushed = zero
    for i in range(sums.size):
        value = np.add(np.left_shift(sums[i], acc_shift), bias[i])
        mask[i] = (value > zero) & (value < relu_bound)
        value = np.maximum(value, floor)
        last_bit = np.bitwise_and(np.right_shift(value, shift), one)
        carry = np.add(np.add(base, neg if value < zero else zero), odd if last_bit else zero)
        code = np.bitwise_or(np.right_shift(np.add(value, carry), shift), jam)
        below = np.add(below, kind(code < low))
        above = np.add(above, kind(code > high))
        flushed = np.add(flushed, kind((code == zero) & (value != zero)))
        codes[i] = np.minimum(np.maximum(code, low), high)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


@jit
def requantize_tile(sums, bias, epilogue, rows, columns, codes, mask, counts):
    """`requantize_sums` of the valid `rows` x `columns` of a tile: in one run if that is all of it."""
    whole = rows == ROWS and columns == COLUMNS
    size = TILE if whole else columns
    for row in range(1 if whole else rows):
        part = slice(row * COLUMNS, row * COLUMNS + size)
        requantize_sums(sums[part], bias[part], epilogue, codes[part], mask[part], counts)


def _emit_copy(context, builder, signature, args):
    source, target = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 2))
    kinds = [ir.VectorType(context.get_data_type(signature.args[k].dtype), COLUMNS) for k in (0, 2)]
    pointers = [builder.bitcast(builder.gep(data, [at]), kind.as_pointer())
                for data, at, kind in zip((source, target), (args[1], args[3]), kinds)]
    codes, (wide, narrow) = builder.load(pointers[0], align=1), (kind.element.width for kind in kinds)
    if wide != narrow:
        codes = (builder.trunc if wide > narrow else builder.sext)(codes, kinds[1])
    builder.store(codes, pointers[1], align=1)
    return context.get_dummy_value()


@intrinsic
def _copy_columns(typing_context, source, source_at, target, target_at):
    """target[target_at:][:COLUMNS] = source[source_at:][:COLUMNS], signed integers, in vector registers.

    LLVM unrolls a loop of that length into single moves, and one of unknown length into longer blocks.
    """
    return types.void(source, types.int64, target, types.int64), _emit_copy


@jit
def store_tile(tile, rows, columns, out, places, first):
    """out[places[first + row]:] = the valid columns of each valid row of a tile."""
    for row in range(rows):
        source, target = row * COLUMNS, places[first + row]
        if columns == COLUMNS and not JIT_DISABLED:
            _copy_columns(tile, source, out, target)
        else:
            for o in range(columns):
                out[target + o] = tile[source + o]

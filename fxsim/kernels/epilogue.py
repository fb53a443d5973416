"""What happens to a tile of exact sums before it is stored: bias, ReLU, rounding shift, clip, counts.

    value = (sum << acc_shift) + bias            mask = 0 < value < relu_bound
    value = max(value, floor)                    code = clip(round_shift(value, shift), low, high)

with the rounding of `rounding.py`, whose remainder form equals
`(value + base + neg * (value < 0) + odd * (floor & 1)) >> shift`.

Written in LLVM IR, in vector registers, for the sums of register tiles: in int32 where `fits_int32` allows, else in int64.
The sums of the plain path take the loops of `store_sums`.
"""
from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from fxsim.kernels import vectors
from fxsim.kernels.jit import OPTIONS, jit
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED
from fxsim.kernels.tile import COLUMNS, Plain
from fxsim.kernels.vectors import DOUBLE, I8, I32, I64, constant, splat

NO_FLOOR = -(2**63)


class Epilogue(NamedTuple):
    """Integers of one requantization; `floor` is 0 with a ReLU, else NO_FLOOR.  low <= 0 <= high."""

    acc_shift: int = 0
    relu_bound: int = 2**62
    floor: int = NO_FLOOR
    shift: int = 0
    base: int = 0
    neg: int = 0
    odd: int = 0
    jam: int = 0
    low: int = -(2**63)
    high: int = 2**63 - 1

    def fits_int32(self, sum_bound: int, bias_bound: int) -> bool:
        """Whether every intermediate of sums of at most `sum_bound` in magnitude fits int32."""
        value = (sum_bound << self.acc_shift) + bias_bound
        return self.shift < 31 and value + abs(self.base) + abs(self.neg) + abs(self.odd) < 2**31

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - an Epilogue is a value, and a training step uses the same ones again
    def in_int32(self) -> Epilogue:
        """The same with bounds that int32 holds; equal in effect where `fits_int32`."""
        return self._replace(**{field: min(max(getattr(self, field), -(2**31)), 2**31 - 1)
                                for field in ("relu_bound", "floor", "low", "high")})


RAW = Epilogue()
"""Sums stay as they are."""


def padded_bias(bias: np.ndarray | None, outputs: int) -> np.ndarray:
    """int64 biases, zeros where there is none, and zeros up to whole columns of a tile."""
    padded = np.zeros(-(-outputs // COLUMNS) * COLUMNS, np.int64)
    if bias is not None:
        padded[:outputs] = bias
    return padded


def largest_magnitude(bias: np.ndarray) -> int:
    """Of biases of any integer type, whose lowest code may have no opposite."""
    return max(int(bias.max(initial=0)), -int(bias.min(initial=0)))


@jit
def _requantize_tile(sums, bias, epilogue, rows, columns, codes, mask, counts):
    """Codes and ReLU mask of the valid `rows` x `columns` of a tile of int64 sums; adds to counts."""
    below = above = flushed = 0
    for row in range(rows):
        for i in range(row * COLUMNS, row * COLUMNS + columns):
            value = (sums[i] << epilogue.acc_shift) + bias[i - row * COLUMNS]
            mask[i] = (value > 0) & (value < epilogue.relu_bound)
            value = max(value, epilogue.floor)
            carry = epilogue.base + epilogue.neg * (value < 0) + epilogue.odd * ((value >> epilogue.shift) & 1)
            code = ((value + carry) >> epilogue.shift) | epilogue.jam
            below += code < epilogue.low
            above += code > epilogue.high
            flushed += (code == 0) & (value != 0)
            codes[i] = min(max(code, epilogue.low), epilogue.high)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


@jit
def _store_tile(tile, rows, columns, out, places, first):
    """out[places[first + row]:] = the valid columns of each valid row of a tile."""
    for row in range(rows):
        source, target = row * COLUMNS, places[first + row]
        for o in range(columns):
            out[target + o] = tile[source + o]


CLIPPED = -1
"""What `Finish` counts in place of ABOVE: all that was clipped."""


class Kind(NamedTuple):
    """What an epilogue needs.  simple: acc_shift, odd and jam are 0.  relu: floor is 0, so that no value is below it.

    A simple kind without relu has no floor at all.  A kind fits an epilogue only where all that the kind leaves out is absent.
    """

    simple: bool
    relu: bool


KINDS = Kind(simple=True, relu=True), Kind(simple=True, relu=False), Kind(simple=False, relu=False)
"""From the most special to the general one, which does for all."""
GENERAL = KINDS[-1:]


class Finish:
    """Emits what the module says for `lanes` outputs side by side, in integers of type `element`.

    Of the arguments of the intrinsic it takes an `epilogue` (for int32: `in_int32`), `out` and `mask` (flat; an empty mask
    is none) and `counts`, to which `add_counts` adds at the end.

    Counts are sums of min(number, 1) and of sign bits: comparisons, whose results live in registers of their own, would be
    what processors are slowest at.  `one` is opaque, for LLVM would make them comparisons.
    """

    def __init__(self, builder, arguments, element, kind: Kind):
        self.builder, self.arguments, self.kind = builder, arguments, kind
        self.lanes = vectors.REGISTER_BITS // element.width
        self.vector = ir.VectorType(element, self.lanes)
        self.zero = constant(self.vector, 0)
        self.one = splat(builder, vectors.opaque(builder, element(1)), self.vector)
        self.constants = {name: splat(builder, arguments.field("epilogue", name, element), self.vector)
                          for name in Epilogue._fields}
        self.inside_bound = builder.sub(self.constants["relu_bound"], self.one)
        self.pointers = {name: arguments.data(name) for name in ("out", "mask", "counts")}
        self.counts = {which: vectors.slot(builder, self.zero) for which in (BELOW, CLIPPED, FLUSHED)}
        self.masked = builder.icmp_signed(">", arguments.size("mask"), I64(0))
        self.left, self.valid = I64(self.lanes), None

    def finish(self, value, place):
        """Store the codes and the mask of a vector of values, whose first output goes to `place`, and count; returns codes."""
        builder, constants = self.builder, self.constants
        inside = builder.icmp_unsigned("<", builder.sub(value, self.one), self.inside_bound)  # 0 < value < relu_bound
        if self.kind != (True, False):
            value = self._larger(value, self.zero if self.kind.relu else constants["floor"])
        code = self._rounded(value)
        kept = code if self.kind.relu else self._larger(code, constants["low"])
        kept = builder.select(builder.icmp_signed("<", kept, constants["high"]), kept, constants["high"])
        self._count_all(value, code, kept)
        out = vectors.resized(builder, kept, self.arguments.element("out"))
        vectors.store_lanes(builder, out, self.left, self.pointers["out"], place)
        with builder.if_then(self.masked):
            mask = builder.zext(inside, ir.VectorType(I8, self.lanes))
            vectors.store_lanes(builder, mask, self.left, self.pointers["mask"], place)
        return kept

    def _rounded(self, value):
        builder, zero, constants = self.builder, self.zero, self.constants
        carried = builder.add(value, constants["base"])
        if not self.kind.relu:
            sign = builder.ashr(value, constant(self.vector, self.vector.element.width - 1))
            carried = builder.add(carried, builder.and_(sign, constants["neg"]))
        if self.kind.simple:
            return builder.ashr(carried, constants["shift"])
        last = builder.and_(builder.ashr(value, constants["shift"]), constant(self.vector, 1))
        odd = builder.select(builder.icmp_signed("!=", last, zero), constants["odd"], zero)
        return builder.or_(builder.ashr(builder.add(carried, odd), constants["shift"]), constants["jam"])

    def _larger(self, value, bound):
        return self.builder.select(self.builder.icmp_signed(">", value, bound), value, bound)

    def _count_all(self, value, code, kept):
        builder = self.builder
        beyond = builder.sub(code, kept)  # does not overflow, for low <= 0 <= high
        if self.valid is not None:
            beyond = builder.and_(beyond, self.valid)
        if not self.kind.relu:
            below = builder.ashr(beyond, constant(self.vector, self.vector.element.width - 1))
            self._add(BELOW, builder.neg(below))
        self._add(CLIPPED, self.at_most_one(beyond))
        self._add(FLUSHED, builder.and_(self.at_most_one(value), builder.not_(self.at_most_one(code))))

    def at_most_one(self, value):
        """1 in the lanes that are not 0."""
        return self.builder.select(self.builder.icmp_unsigned("<", value, self.one), value, self.one)

    def _add(self, which, ones):
        self.builder.store(self.builder.add(self.builder.load(self.counts[which]), ones), self.counts[which])

    def add_counts(self):
        """To be emitted last."""
        builder = self.builder
        sums = {which: vectors.sum_of_lanes(builder, builder.sext(builder.load(slot), ir.VectorType(I64, self.lanes)))
                for which, slot in self.counts.items()}
        sums[ABOVE] = builder.sub(sums.pop(CLIPPED), sums[BELOW])
        for which, count in sums.items():
            place = builder.gep(self.pointers["counts"], [I64(which)])
            builder.store(builder.add(builder.load(place), count), place)


def emit_kinds(builder, arguments, emit, kinds=KINDS) -> None:
    """emit(kind) for each kind of epilogue; the first that fits runs."""
    kind, *others = kinds
    if not others:
        emit(kind)
        return
    fields = [arguments.field("epilogue", name, I64) for name in ("acc_shift", "odd", "jam")]
    none = builder.icmp_signed("==", functools.reduce(builder.or_, fields), I64(0))
    floor = builder.icmp_signed("==" if kind.relu else "<", arguments.field("epilogue", "floor", I64), I64(0))
    with builder.if_else(builder.and_(none, floor)) as (fits, otherwise):
        with fits:
            emit(kind)
        with otherwise:
            emit_kinds(builder, arguments, emit, others)


class FinishTile(Finish):
    """Of a tile of sums: bias before, moments after.

    Further arguments: `rows` and `columns` (valid ones), `bias` (of that type, padded to whole tiles), the `first_output` of
    the tile, and the job's `moments` (2 * padded outputs int64, or empty: sums of the codes and of their squares, added to).
    A caller that asks for moments has codes of int16: int32 holds their sum, and float64 that of their squares, over a tile.
    """

    def __init__(self, builder, arguments, element, kind):
        super().__init__(builder, arguments, element, kind)
        self.pointers |= {name: arguments.data(name) for name in ("bias", "moments")}
        self.measured = builder.icmp_signed(">", arguments.size("moments"), I64(0))
        self.total = vectors.slot(builder, self.zero)
        self.squares = vectors.slot(builder, constant(ir.VectorType(DOUBLE, self.lanes), 0.0))

    @contextlib.contextmanager
    def each_column(self):
        """A loop over the columns, `lanes` at a time; yields the first of them."""
        builder, arguments = self.builder, self.arguments
        blocks = builder.sdiv(builder.add(arguments.columns, I64(self.lanes - 1)), I64(self.lanes))
        lanes = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        with cgutils.for_range(builder, blocks) as block:
            column = builder.mul(block.index, I64(self.lanes))
            self.left = builder.sub(arguments.columns, column)
            valid = builder.icmp_signed("<", lanes, splat(builder, self.left, ir.VectorType(I64, self.lanes)))
            self.valid = builder.sext(valid, self.vector)
            self.output = builder.add(arguments.first_output, column)
            self.bias = vectors.load(builder, self.pointers["bias"], self.output, self.vector)
            builder.store(self.zero, self.total)
            builder.store(constant(self.squares.type.pointee, 0.0), self.squares)
            yield column
            with builder.if_then(self.measured):
                self._add_moments()

    def finish(self, sums, place):
        builder = self.builder
        if not self.kind.simple:
            sums = builder.shl(sums, self.constants["acc_shift"])
        code = super().finish(builder.add(sums, self.bias), place)
        with builder.if_then(self.measured):
            self._measure(code)

    def _measure(self, code):
        """Contraction to a fused multiply-add changes nothing where product and sum are exact."""
        builder = self.builder
        real = builder.sitofp(code, self.squares.type.pointee)
        square = builder.fmul(real, real, flags=("contract",))
        builder.store(builder.add(builder.load(self.total), code), self.total)
        builder.store(builder.fadd(builder.load(self.squares), square, flags=("contract",)), self.squares)

    def _add_moments(self):
        builder, moments, wide = self.builder, self.pointers["moments"], ir.VectorType(I64, self.lanes)
        second = builder.add(self.output, builder.sdiv(self.arguments.size("moments"), I64(2)))
        for value, place in ((builder.sext(builder.load(self.total), wide), self.output),
                             (builder.fptosi(builder.load(self.squares), wide), second)):
            vectors.store(builder, builder.add(vectors.load(builder, moments, place, wide), value), moments, place)


_FINISH_TILE = "sums rows columns bias first_output epilogue out mask places first counts moments"


def _emit_finish_tile(context, builder, signature, args):
    arguments = vectors.Arguments(context, builder, signature, args, _FINISH_TILE)
    data, places = arguments.data("sums"), arguments.data("places")

    def emit(kind):
        tile = FinishTile(builder, arguments, arguments.element("sums"), kind)
        with tile.each_column() as column, cgutils.for_range(builder, arguments.rows) as row:
            sums = vectors.load(builder, data, builder.add(builder.mul(row.index, I64(COLUMNS)), column), tile.vector)
            place = builder.load(builder.gep(places, [builder.add(arguments.first, row.index)]))
            tile.finish(sums, builder.add(place, column))
        tile.add_counts()

    emit_kinds(builder, arguments, emit, KINDS if arguments.element("sums") == I32 else GENERAL)
    return context.get_dummy_value()


@intrinsic
def finish_tile(typing_context, sums, rows, columns, bias, first_output, epilogue, out, mask, places, first, counts, moments):
    """The valid `rows` x `columns` of a tile of sums, to places[first + row] of `out` and `mask`; see `FinishTile`."""
    arguments = (sums, types.int64, types.int64, bias, types.int64, epilogue, out, mask, places, types.int64, counts, moments)
    return types.void(*arguments), _emit_finish_tile


def store_sums(path, sums, rows, columns, bias, first_output, epilogue, codes, tile_mask, out, mask, places, first, counts,
               moments):
    """`finish_tile` of int64 sums, by any path; codes, tile_mask: room for TILE of each."""
    _requantize_tile(sums, bias[first_output:], epilogue, rows, columns, codes, tile_mask, counts)
    _store_tile(codes, rows, columns, out, places, first)
    if mask.size:
        _store_tile(tile_mask, rows, columns, mask, places, first)


@overload(store_sums, inline="always", jit_options=OPTIONS)
def _store_sums(path, sums, rows, columns, bias, first_output, epilogue, codes, tile_mask, out, mask, places, first, counts,
                moments):
    def in_registers(path, sums, rows, columns, bias, first_output, epilogue, codes, tile_mask, out, mask, places, first,
                     counts, moments):
        finish_tile(sums, rows, columns, bias, first_output, epilogue, out, mask, places, first, counts, moments)

    return store_sums if path.instance_class is Plain else in_registers

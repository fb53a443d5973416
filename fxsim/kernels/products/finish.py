"""A tile of exact sums on its way to memory: bias, epilogue, codes, mask, counts, moments."""

from __future__ import annotations

import contextlib

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from fxsim.kernels import llvm as vectors
from fxsim.kernels.epilogue import GENERAL, KINDS, Finish, emit_kinds
from fxsim.kernels.jit import OPTIONS, jit
from fxsim.kernels.llvm import DOUBLE, I32, I64, Value, constant, splat
from fxsim.kernels.products.tile import COLUMNS, Plain
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED


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
    """Codes and ReLU mask of the valid `rows` x `columns` of a tile of int64 sums.

    Adds to counts.
    """
    below = above = flushed = 0
    for row in range(rows):
        for i in range(row * COLUMNS, row * COLUMNS + columns):
            value = (sums[i] << epilogue.acc_shift) + bias[i - row * COLUMNS]
            mask[i] = (value > 0) & (value < epilogue.relu_bound)
            value = max(value, epilogue.floor)
            carry = (
                epilogue.base
                + epilogue.neg * (value < 0)
                + epilogue.odd * ((value >> epilogue.shift) & 1)
            )
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
        source = row * COLUMNS
        target = places[first + row]
        for o in range(columns):
            out[target + o] = tile[source + o]


class FinishTile(Finish):
    """Of a tile of sums: bias before, moments after.

    Further arguments: `rows` and `columns` (valid ones), `bias` (of that type, padded to whole
    tiles), the `first_output` of the tile, and the job's `moments` (2 * padded outputs int64, or
    empty: sums of the codes and of their squares, added to). A caller that asks for moments has
    codes of int16: int32 holds their sum, and float64 that of their squares, over a tile."""

    def __init__(self, builder, arguments, element, kind):
        super().__init__(builder, arguments, element, kind)
        self.pointers |= {name: arguments.data(name) for name in ("bias", "moments")}
        self.measured = builder.icmp_signed(">", arguments.size("moments"), I64(0))
        self.total = vectors.slot(builder, self.zero.ir)
        self.squares = vectors.slot(builder, constant(ir.VectorType(DOUBLE, self.lanes), 0.0))

    @contextlib.contextmanager
    def each_column(self):
        """A loop over the columns, `lanes` at a time; yields the first of them."""
        builder = self.builder
        arguments = self.arguments
        blocks = builder.sdiv(builder.add(arguments.columns, I64(self.lanes - 1)), I64(self.lanes))
        lanes = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        with cgutils.for_range(builder, blocks) as block:
            column = builder.mul(block.index, I64(self.lanes))
            self.left = builder.sub(arguments.columns, column)
            valid = builder.icmp_signed(
                "<", lanes, splat(builder, self.left, ir.VectorType(I64, self.lanes))
            )
            self.valid = Value(builder, builder.sext(valid, self.vector))
            self.output = builder.add(arguments.first_output, column)
            self.bias = self.load(self.pointers["bias"], self.output)
            builder.store(self.zero.ir, self.total)
            builder.store(constant(self.squares.type.pointee, 0.0), self.squares)
            yield column
            with builder.if_then(self.measured):
                self._add_moments()

    def finish(self, sums, place):
        if not self.kind.simple:
            sums = sums << self.constants["acc_shift"]
        code = super().finish(sums + self.bias, place)
        with self.builder.if_then(self.measured):
            self._measure(code.ir)

    def _measure(self, code):
        """Contraction to a fused multiply-add changes nothing where product and sum are exact."""
        builder = self.builder
        real = builder.sitofp(code, self.squares.type.pointee)
        square = builder.fmul(real, real, flags=("contract",))
        builder.store(builder.add(builder.load(self.total), code), self.total)
        builder.store(
            builder.fadd(builder.load(self.squares), square, flags=("contract",)), self.squares
        )

    def _add_moments(self):
        builder = self.builder
        moments = self.pointers["moments"]
        wide = ir.VectorType(I64, self.lanes)
        second = builder.add(self.output, builder.sdiv(self.arguments.size("moments"), I64(2)))
        for value, place in (
            (builder.sext(builder.load(self.total), wide), self.output),
            (builder.fptosi(builder.load(self.squares), wide), second),
        ):
            vectors.store(
                builder,
                builder.add(vectors.load(builder, moments, place, wide), value),
                moments,
                place,
            )


_FINISH_TILE = "sums rows columns bias first_output epilogue out mask places first counts moments"


def _emit_finish_tile(context, builder, signature, args):
    arguments = vectors.Arguments(context, builder, signature, args, _FINISH_TILE)
    data = arguments.data("sums")
    places = arguments.data("places")

    def emit(kind):
        tile = FinishTile(builder, arguments, arguments.element("sums"), kind)
        with tile.each_column() as column, cgutils.for_range(builder, arguments.rows) as row:
            sums = tile.load(data, builder.add(builder.mul(row.index, I64(COLUMNS)), column))
            place = builder.load(builder.gep(places, [builder.add(arguments.first, row.index)]))
            tile.finish(sums, builder.add(place, column))
        tile.add_counts()

    emit_kinds(builder, arguments, emit, KINDS if arguments.element("sums") == I32 else GENERAL)
    return context.get_dummy_value()


@intrinsic
def finish_tile(
    typing_context,
    sums,
    rows,
    columns,
    bias,
    first_output,
    epilogue,
    out,
    mask,
    places,
    first,
    counts,
    moments,
):
    """The valid `rows` x `columns` of a tile of sums, to places[first + row] of `out` and `mask`.

    See `FinishTile`.
    """
    arguments = (
        sums,
        types.int64,
        types.int64,
        bias,
        types.int64,
        epilogue,
        out,
        mask,
        places,
        types.int64,
        counts,
        moments,
    )
    return types.void(*arguments), _emit_finish_tile


def store_sums(
    path,
    sums,
    rows,
    columns,
    bias,
    first_output,
    epilogue,
    codes,
    tile_mask,
    out,
    mask,
    places,
    first,
    counts,
    moments,
):
    """`finish_tile` of int64 sums, by any path; codes, tile_mask: room for TILE of each."""
    _requantize_tile(sums, bias[first_output:], epilogue, rows, columns, codes, tile_mask, counts)
    _store_tile(codes, rows, columns, out, places, first)
    if mask.size:
        _store_tile(tile_mask, rows, columns, mask, places, first)


@overload(store_sums, inline="always", jit_options=OPTIONS)
def _store_sums(
    path,
    sums,
    rows,
    columns,
    bias,
    first_output,
    epilogue,
    codes,
    tile_mask,
    out,
    mask,
    places,
    first,
    counts,
    moments,
):
    def in_registers(
        path,
        sums,
        rows,
        columns,
        bias,
        first_output,
        epilogue,
        codes,
        tile_mask,
        out,
        mask,
        places,
        first,
        counts,
        moments,
    ):
        finish_tile(
            sums,
            rows,
            columns,
            bias,
            first_output,
            epilogue,
            out,
            mask,
            places,
            first,
            counts,
            moments,
        )

    return store_sums if path.instance_class is Plain else in_registers

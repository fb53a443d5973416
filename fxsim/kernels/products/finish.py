"""A tile of exact sums on its way to memory: bias, epilogue, codes, mask, counts, moments."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

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


class Outputs(NamedTuple):
    """Where the results of a product go.

    out, mask: flat codes and ReLU mask of all outputs; an empty mask is none.  counts: (3,) int64,
    added to.  moments: 2 * padded outputs int64, sums of the codes and of their squares, added to;
    or empty.  For the jobs of a product counts and moments have a row for each job.
    """

    out: np.ndarray
    mask: np.ndarray
    counts: np.ndarray
    moments: np.ndarray


@jit(inline="always")
def outputs_of_job(outputs, job):
    return Outputs(outputs.out, outputs.mask, outputs.counts[job], outputs.moments[job])


class Room(NamedTuple):
    """Memory for the int64 codes and the mask of a tile."""

    codes: np.ndarray
    mask: np.ndarray


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
def _requantize_tile(sums, tile, bias, epilogue, room, counts):
    """Codes and ReLU mask of the valid part of a tile of int64 sums, to `room`; adds to counts."""
    below = above = flushed = 0
    for row in range(tile.rows):
        for i in range(row * COLUMNS, row * COLUMNS + tile.columns):
            value = sums[i] << epilogue.acc_shift
            value += bias[tile.first_output + i - row * COLUMNS]
            room.mask[i] = (value > 0) & (value < epilogue.relu_bound)
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
            room.codes[i] = min(max(code, epilogue.low), epilogue.high)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


@jit
def _store_tile(results, tile, out, places, first):
    """out[places[first + row]:] = the valid columns of each valid row of a tile of results."""
    for row in range(tile.rows):
        source = row * COLUMNS
        target = places[first + row]
        for o in range(tile.columns):
            out[target + o] = results[source + o]


class FinishTile(Finish):
    """Of a tile of sums: bias before, moments after.

    Further arguments: the `tile`, the `bias` (of that type, padded to whole tiles) and `outputs`. A
    caller that asks for moments has codes of int16: int32 holds their sum, and float64 that of
    their squares, over a tile."""

    def __init__(self, builder, arguments, element, kind):
        super().__init__(builder, arguments, element, kind, arguments.outputs)
        self.tile = arguments.tile
        self.rows = self.tile.integer("rows", I64)
        self.pointers["bias"] = arguments.data("bias")
        self.pointers["moments"] = self.outputs.data("moments")
        self.measured = builder.icmp_signed(">", self.outputs.size("moments"), I64(0))
        self.total = vectors.slot(builder, self.zero.ir)
        self.squares = vectors.slot(builder, constant(ir.VectorType(DOUBLE, self.lanes), 0.0))

    @contextlib.contextmanager
    def each_column(self):
        """A loop over the columns, `lanes` at a time; yields the first of them."""
        builder = self.builder
        columns = self.tile.integer("columns", I64)
        blocks = builder.sdiv(builder.add(columns, I64(self.lanes - 1)), I64(self.lanes))
        lanes = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        with cgutils.for_range(builder, blocks) as block:
            column = builder.mul(block.index, I64(self.lanes))
            self.left = builder.sub(columns, column)
            valid = builder.icmp_signed(
                "<", lanes, splat(builder, self.left, ir.VectorType(I64, self.lanes))
            )
            self.valid = Value(builder, builder.sext(valid, self.vector))
            self.output = builder.add(self.tile.integer("first_output", I64), column)
            self.bias = self.load(self.pointers["bias"], self.output)
            builder.store(self.zero.ir, self.total)
            builder.store(constant(self.squares.type.pointee, 0.0), self.squares)
            yield column
            with builder.if_then(self.measured):
                self._add_moments()

    def finish(self, sums, place):
        if not self.kind.simple:
            sums = sums << self.constants["acc_shift"]
        code = super().finish((sums + self.bias) & self.valid, place)
        with self.builder.if_then(self.measured):
            self._measure((code & self.valid).ir)

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
        second = builder.add(self.output, builder.sdiv(self.outputs.size("moments"), I64(2)))
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


_FINISH_TILE = "sums tile bias epilogue outputs places first"


def _emit_finish_tile(context, builder, signature, args):
    arguments = vectors.Arguments(context, builder, signature, args, _FINISH_TILE)
    data = arguments.data("sums")
    places = arguments.data("places")

    def emit(kind):
        tile = FinishTile(builder, arguments, arguments.element("sums"), kind)
        with tile.each_column() as column, cgutils.for_range(builder, tile.rows) as row:
            sums = tile.load(data, builder.add(builder.mul(row.index, I64(COLUMNS)), column))
            place = builder.load(builder.gep(places, [builder.add(arguments.first, row.index)]))
            tile.finish(sums, builder.add(place, column))
        tile.add_counts()

    emit_kinds(builder, arguments, emit, KINDS if arguments.element("sums") == I32 else GENERAL)
    return context.get_dummy_value()


@intrinsic
def finish_tile(typing_context, sums, tile, bias, epilogue, outputs, places, first):
    """The valid part of a `Tile` of sums, to places[first + row] of `Outputs`.

    See `FinishTile`.
    """
    arguments = (sums, tile, bias, epilogue, outputs, places, types.int64)
    return types.void(*arguments), _emit_finish_tile


def store_sums(path, sums, tile, bias, epilogue, room, outputs, places, first):
    """`finish_tile` of int64 sums, by any path; room: a `Room`."""
    _requantize_tile(sums, tile, bias, epilogue, room, outputs.counts)
    _store_tile(room.codes, tile, outputs.out, places, first)
    if outputs.mask.size:
        _store_tile(room.mask, tile, outputs.mask, places, first)


@overload(store_sums, inline="always", jit_options=OPTIONS)
def _store_sums(path, sums, tile, bias, epilogue, room, outputs, places, first):
    def in_registers(path, sums, tile, bias, epilogue, room, outputs, places, first):
        finish_tile(sums, tile, bias, epilogue, outputs, places, first)

    return store_sums if path.instance_class is Plain else in_registers

"""Register tiles of exact integer products, written in LLVM IR, and the processor features they
need.

A tile is ROWS x COLUMNS dot products.  Terms of the reduction lie side by side in *words*: two of
int16, or four of bytes, the left ones unsigned, the right ones signed.  A word of the left operand
is broadcast to all lanes, the right operand holds the words of COLUMNS outputs next to each other,
and one instruction (`vpdpwssd`, `vpdpbusd` for bytes, or `vpmaddwd` and `vpaddd`) adds the products
of every lane to an int32 sum.

The reduction is three nested loops, given as `loops[3, 3]` int64: for the outer, middle and inner
loop its count, and what it adds to the offsets into the left and right operand.  Convolutions,
weight gradients and matrix products differ only in this table and in the row offsets.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from fxsim.kernels import emulation
from fxsim.kernels import llvm as vectors
from fxsim.kernels.jit import EMULATED, JIT_DISABLED, OPTIONS, jit, processor_features

ROWS = 6
COLUMNS = 64
TILE = ROWS * COLUMNS
CARRY_BITS = 16
"""A spill moves all but this many low bits of a sum from int32 to a second int32 word."""

NEVER = 2**62
"""`spill_words` where int32 holds the whole sum."""


class Tile(NamedTuple):
    """The valid part of a tile, and the output that its first column is."""

    rows: int
    columns: int
    first_output: int


class Halves(NamedTuple):
    """int32 words of the sums of a tile, low + (high << CARRY_BITS)."""

    low: np.ndarray
    high: np.ndarray


class Plain(NamedTuple):
    """Ordinary loops; the bits of a number are what a path is called by, for the compiler asks
    for a field.
    """

    bits: int = 64


class Avx2(NamedTuple):
    """`vpmaddwd` and `vpaddd`."""

    bits: int = 256


class Vnni(NamedTuple):
    """`vpdpwssd` and `vpdpbusd`."""

    bits: int = 512


PATHS = {"plain": Plain(), "avx2": Avx2(), "vnni": Vnni()}
"""A path is a type, so that a kernel is compiled for those alone that are taken."""
_FEATURES = {"plain": (), "avx2": ("avx2",), "vnni": ("avx512f", "avx512bw", "avx512vnni")}

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


@functools.lru_cache
def processor_has(path: str) -> bool:
    """Whether this processor can run `path`, or has it emulated; with NUMBA_DISABLE_JIT=1 only
    'plain' runs.
    """
    if path == "plain" or JIT_DISABLED:
        return path == "plain"
    return path in EMULATED or _has_features(path)


def _has_features(path: str) -> bool:
    return processor_features().issuperset(_FEATURES[path])


def best_path() -> str:
    """The fastest path of this processor: 'vnni', 'avx2' or 'plain'."""
    return next(path for path in ("vnni", "avx2", "plain") if processor_has(path))


def word_terms(dtype: np.dtype) -> int:
    """Terms per word of operands of this type: 4 of one byte, else 2."""
    return 4 if np.dtype(dtype).itemsize == 1 else 2


def words_before_spill(spill_terms: int, terms: int) -> int:
    """Words of `terms` between two spills, from `spill_terms`, the terms of at most P that int32
    holds.

    A spill leaves up to 2**CARRY_BITS - 1, so n terms are safe where n * P <= 2**31 -
    2**CARRY_BITS; with P <= (2**31 - 1) / spill_terms, `n = spill_terms - 1 - spill_terms / 2**15`
    is.  One pair of int16 codes always is unless both are -2**15, for then 2 * 2**15 * (2**15 - 1)
    = 2**31 - 2**CARRY_BITS."""
    return max(1, (spill_terms - 1 - (spill_terms >> 15)) // terms)


@contextlib.contextmanager
def _while_positive(builder, counter):
    """Repeat the body while the int64 at `counter` is above zero."""
    test, body, done = (
        builder.append_basic_block(f"while.{name}") for name in ("test", "body", "done")
    )
    builder.branch(test)
    builder.position_at_end(test)
    builder.cbranch(builder.icmp_signed(">", builder.load(counter), _I64(0)), body, done)
    builder.position_at_end(body)
    yield
    builder.branch(test)
    builder.position_at_end(done)


def _variable(builder, value):
    """A stack slot, later a register, that holds `value` from here on."""
    slot = cgutils.alloca_once(builder, value.type)
    builder.store(value, slot)
    return slot


def _advance(builder, slot, step):
    builder.store(builder.add(builder.load(slot), step), slot)


def _vnni_step(builder, total, left, right, terms):
    """total + left . right per lane; vpdpbusd and vpdpwssd wrap, and no sum comes near."""
    if not _has_features("vnni"):
        return emulation.dot_words(builder, total, left, right, terms, terms == 2, True)
    operands = ir.VectorType(ir.IntType(32 // terms), 16 * terms)
    name = "llvm.x86.avx512." + {2: "vpdpwssd", 4: "vpdpbusd"}[terms] + ".512"
    kind = ir.FunctionType(total.type, [total.type, operands, operands])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(
        function, [total, builder.bitcast(left, operands), builder.bitcast(right, operands)]
    )


def _avx2_step(builder, total, left, right, _):
    pairs = ir.VectorType(ir.IntType(16), 16)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(total.type, [pairs, pairs]), "llvm.x86.avx2.pmadd.wd"
    )
    products = builder.call(function, [builder.bitcast(left, pairs), builder.bitcast(right, pairs)])
    return builder.add(total, products)


class _Emitter:
    """Emits one tile: ROWS x `vectors` registers of `lanes` int32 sums, all kept in registers."""

    def __init__(self, builder, step, lanes, vectors, terms):
        self.builder = builder
        self.step = step
        self.lanes = lanes
        self.vectors = vectors
        self.terms = terms
        self.vector = ir.VectorType(_I32, lanes)
        zero = ir.Constant(self.vector, None)
        self.sums = [[_variable(builder, zero) for _ in range(vectors)] for _ in range(ROWS)]

    def broadcast(self, pointer):
        word = self.builder.load(self.builder.bitcast(pointer, _I32.as_pointer()), align=1)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, word, _I32(0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), None)
        )

    def vector_at(self, pointer, offset):
        return self.builder.bitcast(self.builder.gep(pointer, [offset]), self.vector.as_pointer())

    def add_word(self, left_rows, left_offset, right):
        """Add one word of terms to every sum."""
        builder = self.builder
        vector = self.lanes * self.terms
        columns = [
            builder.load(self.vector_at(right, _I64(vector * v)), align=1)
            for v in range(self.vectors)
        ]
        for row, pointer in enumerate(left_rows):
            left = self.broadcast(builder.gep(pointer, [left_offset]))
            for total, column in zip(self.sums[row], columns):
                builder.store(
                    self.step(builder, builder.load(total), left, column, self.terms), total
                )

    def _for_each_sum(self, tile, column):
        for row, totals in enumerate(self.sums):
            for v, total in enumerate(totals):
                offset = self.builder.add(column, _I64(row * COLUMNS + v * self.lanes))
                yield total, self.vector_at(tile, offset)

    def spill(self, high, column):
        """high += sum >> CARRY_BITS; sum &= 2**CARRY_BITS - 1."""
        builder = self.builder
        shift, mask = (
            ir.Constant(self.vector, [value] * self.lanes)
            for value in (CARRY_BITS, 2**CARRY_BITS - 1)
        )
        for total, pointer in self._for_each_sum(high, column):
            value = builder.load(total)
            builder.store(
                builder.add(builder.load(pointer, align=4), builder.ashr(value, shift)),
                pointer,
                align=4,
            )
            builder.store(builder.and_(value, mask), total)

    def store(self, low, column):
        for total, pointer in self._for_each_sum(low, column):
            self.builder.store(self.builder.load(total), pointer, align=4)


def _emit_reduction(builder, emitter, left_rows, right, table, spill):
    """The three loops; with a `spill`, the inner one is cut wherever one is due."""
    outer, middle, inner = table
    with cgutils.for_range(builder, outer[0]) as i, cgutils.for_range(builder, middle[0]) as j:
        left, right_at = (
            _variable(
                builder,
                builder.add(builder.mul(i.index, outer[k]), builder.mul(j.index, middle[k])),
            )
            for k in (1, 2)
        )

        def add_words(count):
            with cgutils.for_range(builder, count):
                emitter.add_word(
                    left_rows, builder.load(left), builder.gep(right, [builder.load(right_at)])
                )
                _advance(builder, left, inner[1])
                _advance(builder, right_at, inner[2])

        if spill:
            spill.cut(inner[0], add_words)
        else:
            add_words(inner[0])


class _Spill:
    """Emits a spill of an emitter's sums after each `words` words."""

    def __init__(self, builder, emitter, words, high, column):
        self.builder = builder
        self.emitter = emitter
        self.words = words
        self.high = high
        self.column = column
        self.remaining = _variable(builder, words)

    def cut(self, all_words, add_words):
        builder = self.builder
        pending = _variable(self.builder, all_words)
        with _while_positive(builder, pending):
            count = builder.load(pending)
            room = builder.load(self.remaining)
            count = builder.select(builder.icmp_signed("<", count, room), count, room)
            add_words(count)
            _advance(builder, pending, builder.neg(count))
            _advance(builder, self.remaining, builder.neg(count))
            with builder.if_then(
                builder.icmp_signed("==", builder.load(self.remaining), _I64(0)), likely=False
            ):
                builder.store(self.words, self.remaining)
                self.emitter.spill(self.high, self.column)


class _Registers(NamedTuple):
    """How a path fills its registers.

    Step of one word, lanes of int32, registers per row of sums.
    """

    step: Callable
    lanes: int
    vectors: int


REGISTERS = {Vnni: _Registers(_vnni_step, 16, 4), Avx2: _Registers(_avx2_step, 8, 2)}
"""Vnni: 24 zmm sums, 4 zmm columns, 1 broadcast; one `vpdpwssd` per cycle hides its latency of 4.
Avx2: 12 ymm sums, 2 ymm columns, 1 broadcast and 1 product fill the 16 registers."""
_TILE = "path a b rows first_row a_origin b_origin loops low"


def _emit_tile(names, context, builder, signature, args):
    path = signature.args[0].instance_class
    arguments = vectors.Arguments(context, builder, signature, args, names)
    terms = 32 // arguments.element("a").width
    if (
        not processor_has(path.__name__.lower())
        or path is Plain
        or terms not in (2, 4)
        or (path is Avx2 and terms == 4)
    ):
        return context.get_dummy_value()  # never called; the IR would not compile
    step, lanes, vectors_per_row = REGISTERS[path]
    a, b, rows, loops, low = (arguments.data(name) for name in ("a", "b", "rows", "loops", "low"))
    table = [
        [builder.load(builder.gep(loops, [_I64(3 * i + k)])) for k in range(3)] for i in range(3)
    ]
    left_rows = []
    for row in range(ROWS):
        offset = builder.load(builder.gep(rows, [builder.add(arguments.first_row, _I64(row))]))
        left_rows.append(builder.gep(a, [builder.add(offset, arguments.a_origin)]))
    with cgutils.for_range(builder, _I64(COLUMNS // (lanes * vectors_per_row))) as part:
        column = builder.mul(part.index, _I64(lanes * vectors_per_row))
        right = builder.gep(b, [builder.add(arguments.b_origin, builder.mul(column, _I64(terms)))])
        emitter = _Emitter(builder, step, lanes, vectors_per_row, terms)
        spill = None
        if "high" in names:
            spill = _Spill(builder, emitter, arguments.spill_words, arguments.data("high"), column)
        _emit_reduction(builder, emitter, left_rows, right, table, spill)
        emitter.store(low, column)
    return context.get_dummy_value()


@intrinsic
def register_tile(typing_context, path, a, b, rows, first_row, a_origin, b_origin, loops, low):
    """low = one tile by Vnni or Avx2, whose sums fit int32."""
    arguments = (path, a, b, rows, types.int64, types.int64, types.int64, loops, low)
    return types.void(*arguments), functools.partial(_emit_tile, _TILE)


@intrinsic
def _spilling_tile(
    typing_context, path, a, b, rows, first_row, a_origin, b_origin, loops, low, spill_words, high
):
    origins = (types.int64,) * 3
    arguments = (path, a, b, rows, *origins, loops, low, types.int64, high)
    return types.void(*arguments), functools.partial(_emit_tile, _TILE + " spill_words high")


@jit(inline="always")
def spilling_tile(path, a, b, rows, first_row, a_origin, b_origin, loops, low, spill_words, high):
    """low + (high << CARRY_BITS) = one tile by Vnni or Avx2."""
    high[:] = 0
    _spilling_tile(path, a, b, rows, first_row, a_origin, b_origin, loops, low, spill_words, high)


@jit
def plain_tile(a, b, rows, first_row, a_origin, b_origin, loops, valid_rows, valid_columns, total):
    """total[TILE] int64 += the same tile in ordinary loops, for operands of any integer type."""
    terms = 4 if a.itemsize == 1 else 2
    for row in range(valid_rows):
        start = rows[first_row + row] + a_origin
        sums = total[row * COLUMNS : row * COLUMNS + valid_columns]
        for i in range(loops[0, 0]):
            for j in range(loops[1, 0]):
                at = start + i * loops[0, 1] + j * loops[1, 1]
                column = b_origin + i * loops[0, 2] + j * loops[1, 2]
                for _ in range(loops[2, 0]):
                    for term in range(0, terms, 2):
                        first = np.int64(a[at + term])
                        second = np.int64(a[at + term + 1])
                        right = b[column + term : column + terms * valid_columns]
                        for o in range(valid_columns):
                            sums[o] += first * right[terms * o] + second * right[terms * o + 1]
                    at += loops[2, 1]
                    column += loops[2, 2]


def _emit_add_tile(context, builder, signature, args):
    arguments = vectors.Arguments(
        context, builder, signature, args, "low high rows columns target at step"
    )
    low, high, target = (arguments.data(name) for name in ("low", "high", "target"))
    narrow = ir.VectorType(_I32, 8)
    wide = ir.VectorType(_I64, narrow.count)
    with cgutils.for_range(builder, arguments.rows) as row:
        source = builder.mul(row.index, _I64(COLUMNS))
        place = builder.add(arguments.at, builder.mul(row.index, arguments.step))
        with cgutils.for_range_slice(
            builder, _I64(0), arguments.columns, _I64(narrow.count), inc=True
        ) as (column, _):
            source_at = builder.add(source, column)
            target_at = builder.add(place, column)
            parts = [
                builder.sext(vectors.load(builder, part, source_at, narrow), wide)
                for part in (low, high)
            ]
            total = builder.add(parts[0], builder.shl(parts[1], vectors.constant(wide, CARRY_BITS)))
            vectors.store(
                builder,
                builder.add(vectors.load(builder, target, target_at, wide), total),
                target,
                target_at,
            )
    return context.get_dummy_value()


@intrinsic
def add_tile(typing_context, low, high, rows, columns, target, at, step):
    """target[at + row * step + column] (int64) += low + (high << CARRY_BITS).

    Columns: a multiple of 8.
    """
    steps = (types.int64,) * 2
    return types.void(low, high, *steps, target, *steps), _emit_add_tile


MOST_WORDS = 2**16 - 1
"""Words whose sums `low` and `high` hold.

A word adds less than 2**31 to a sum, that is 2**15 to `high`.
"""


@jit
def _tile_in_pieces(
    path, a, b, rows, first_row, a_origin, b_origin, loops, spill_words, halves, total
):
    """total (int64) += a tile of more words than MOST_WORDS, each inner loop in pieces."""
    piece = np.array([[1, 0, 0], [1, 0, 0], [0, loops[2, 1], loops[2, 2]]])
    for i in range(loops[0, 0]):
        for j in range(loops[1, 0]):
            left = a_origin + i * loops[0, 1] + j * loops[1, 1]
            right = b_origin + i * loops[0, 2] + j * loops[1, 2]
            for word in range(0, loops[2, 0], MOST_WORDS):
                piece[2, 0] = min(MOST_WORDS, loops[2, 0] - word)
                spilling_tile(
                    path,
                    a,
                    b,
                    rows,
                    first_row,
                    left + word * loops[2, 1],
                    right + word * loops[2, 2],
                    piece,
                    halves.low,
                    spill_words,
                    halves.high,
                )
                add_tile(halves.low, halves.high, ROWS, COLUMNS, total, 0, COLUMNS)


def wide_tile(
    path, a, b, rows, first_row, a_origin, b_origin, loops, spill_words, tile, halves, total
):
    """total (int64) += one `Tile` by any path; halves: `Halves`, room for it."""
    plain_tile(a, b, rows, first_row, a_origin, b_origin, loops, tile.rows, tile.columns, total)


@overload(wide_tile, inline="always", jit_options=OPTIONS)
def _wide_tile(
    path, a, b, rows, first_row, a_origin, b_origin, loops, spill_words, tile, halves, total
):
    def by_registers(
        path, a, b, rows, first_row, a_origin, b_origin, loops, spill_words, tile, halves, total
    ):
        if loops[0, 0] * loops[1, 0] * loops[2, 0] <= MOST_WORDS:
            spilling_tile(
                path,
                a,
                b,
                rows,
                first_row,
                a_origin,
                b_origin,
                loops,
                halves.low,
                spill_words,
                halves.high,
            )
            add_tile(halves.low, halves.high, ROWS, COLUMNS, total, 0, COLUMNS)
        else:
            _tile_in_pieces(
                path, a, b, rows, first_row, a_origin, b_origin, loops, spill_words, halves, total
            )

    return wide_tile if path.instance_class is Plain else by_registers

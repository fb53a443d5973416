"""Tiles of products of bytes in the processor's matrix registers (AMX), written in LLVM IR.

Such a register has 16 rows of 64 bytes.  One instruction adds, for 16 x 16 outputs, 64 products of
bytes of either sign to int32 sums, which wrap.  A row of the left operand is 64 terms; a row of the
right one is a word of 4 terms of 16 outputs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import sys

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import emulation
from fxsim.kernels import llvm as vectors
from fxsim.kernels.jit import EMULATED, JIT_DISABLED, jit, processor_features
from fxsim.kernels.llvm import I8, I64
from fxsim.kernels.products.tile import COLUMNS

ROWS = 32
STEP = 64
"""Rows of a tile, of `tile.COLUMNS` outputs each, and terms that one instruction takes."""
SIDE = 16
LEFT_SIGNED = 2
RIGHT_SIGNED = 1
_SUMS = (0, 1, 2, 3)
_LEFT = (4, 5)
_RIGHT = (6, 7)
"""Numbers of the registers: 2 x 2 of sums, and what they are products of."""
_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XTILE_DATA = 18
"""Linux on x86-64 gives a process these registers when it asks for them."""


@functools.lru_cache
def processor_has_tiles() -> bool:
    """Whether the processor has these registers, and the system lets this process use them; or
    whether they are emulated.
    """
    return not JIT_DISABLED and (_system_gives_tiles() or "amx" in EMULATED)


def _emulates_tiles() -> bool:
    return "amx" in EMULATED and not _system_gives_tiles()


@functools.lru_cache
def _system_gives_tiles() -> bool:
    if (
        "amx-int8" not in processor_features()
        or sys.platform != "linux"
        or platform.machine() != "x86_64"
    ):
        return False
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILE_DATA) == 0
    return False


def _configuration() -> np.ndarray:
    """Palette 1: each register of 16 rows of 64 bytes."""
    whole = np.zeros(64, np.uint8)
    whole[0] = 1
    whole[16:32].view(np.uint16)[:] = STEP
    whole[48:56] = SIDE
    return whole


CONFIGURATION = _configuration()


def _call(builder, name: str, *arguments) -> None:
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments
    )


class _Tiles:
    """Emits instructions on the registers, which their numbers name."""

    def __init__(self, builder):
        self._builder = builder

    def zero(self, number: int) -> None:
        _call(self._builder, "tilezero", I8(number))

    def load(self, number: int, place, step) -> None:
        _call(self._builder, "tileloadd64", I8(number), place, step)

    def store(self, number: int, place, step) -> None:
        _call(self._builder, "tilestored64", I8(number), place, step)

    def multiply(self, total: int, left: int, right: int, left_signed: bool, right_signed: bool):
        name = f"tdpb{'us'[left_signed]}{'us'[right_signed]}d"
        _call(self._builder, name, I8(total), I8(left), I8(right))


@intrinsic
def configure(typing_context, configuration):
    """Make this thread's registers ready, as `CONFIGURATION` says."""

    def emit(context, builder, signature, args):
        arguments = vectors.Arguments(context, builder, signature, args, "configuration")
        if processor_has_tiles() and not _emulates_tiles():
            place = builder.bitcast(arguments.data("configuration"), I8.as_pointer())
            _call(builder, "ldtilecfg", place)
        return context.get_dummy_value()

    return types.void(configuration), emit


@intrinsic
def release(typing_context):
    """Give them up, so that the system need not save them."""

    def emit(context, builder, signature, args):
        if processor_has_tiles() and not _emulates_tiles():
            _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


_TILE = "left left_at left_step right right_at steps signs fresh sums sums_at sums_step"


def _emit_tile(context, builder, signature, args):
    if not processor_has_tiles():
        return context.get_dummy_value()  # never called; the IR would not compile
    arguments = vectors.Arguments(context, builder, signature, args, _TILE)
    tiles = (emulation.Tiles if _emulates_tiles() else _Tiles)(builder)
    left, right = (
        builder.bitcast(arguments.data(name), I8.as_pointer()) for name in ("left", "right")
    )
    left = builder.gep(left, [arguments.left_at])
    sums = builder.gep(arguments.data("sums"), [arguments.sums_at])
    lower = builder.mul(arguments.left_step, I64(SIDE))  # rows of the second register

    def each_sum(move, half):
        for number in _SUMS:
            row = number // 2 * SIDE
            column = number % 2 * SIDE
            place = builder.add(builder.mul(half, I64(2 * SIDE)), I64(column))
            place = builder.gep(
                sums, [builder.add(place, builder.mul(arguments.sums_step, I64(row)))]
            )
            move(
                number,
                builder.bitcast(place, I8.as_pointer()),
                builder.mul(arguments.sums_step, I64(4)),
            )

    def add_products(signs, half):
        with cgutils.for_range(builder, arguments.steps) as step:
            left_at = builder.gep(left, [builder.mul(step.index, I64(STEP))])
            right_at = builder.add(
                builder.mul(step.index, I64(STEP * COLUMNS)), builder.mul(half, I64(2 * SIDE * 4))
            )
            right_at = builder.gep(right, [builder.add(arguments.right_at, right_at)])

            def load_left(number):
                place = builder.gep(left_at, [lower]) if number else left_at
                tiles.load(_LEFT[number], place, arguments.left_step)

            def load_right(number):
                place = builder.gep(right_at, [I64(4 * SIDE * number)])
                tiles.load(_RIGHT[number], place, I64(4 * COLUMNS))

            def add(row, column):
                tiles.multiply(
                    _SUMS[2 * row + column],
                    _LEFT[row],
                    _RIGHT[column],
                    bool(signs & LEFT_SIGNED),
                    bool(signs & RIGHT_SIGNED),
                )

            load_left(0)
            load_right(0)
            add(0, 0)
            load_right(1)
            add(0, 1)
            load_left(1)
            add(1, 0)
            add(1, 1)

    with cgutils.for_range(builder, I64(COLUMNS // (2 * SIDE))) as half:
        with builder.if_else(builder.icmp_signed("!=", arguments.fresh, I64(0))) as (fresh, others):
            with fresh:
                for number in _SUMS:
                    tiles.zero(number)
            with others:
                each_sum(tiles.load, half.index)
        for signs in (0, RIGHT_SIGNED, LEFT_SIGNED, LEFT_SIGNED | RIGHT_SIGNED):
            with builder.if_then(builder.icmp_signed("==", arguments.signs, I64(signs))):
                add_products(signs, half.index)
        each_sum(tiles.store, half.index)
    return context.get_dummy_value()


@intrinsic
def add_byte_tile(
    typing_context,
    left,
    left_at,
    left_step,
    right,
    right_at,
    steps,
    signs,
    fresh,
    sums,
    sums_at,
    sums_step,
):
    """sums[sums_at + row * sums_step + column] (int32) += one tile of products of bytes, modulo
    2**32.

    left (flat): rows from left_at on, left_step apart, of steps * STEP terms.  right (flat): from
    right_at on, words of 4 terms of COLUMNS outputs.  signs: LEFT_SIGNED | RIGHT_SIGNED, where the
    bytes are.  fresh: whether what was in `sums` does not count.
    """
    arguments = (
        left,
        types.int64,
        types.int64,
        right,
        *(types.int64,) * 4,
        sums,
        types.int64,
        types.int64,
    )
    return types.void(*arguments), _emit_tile


@intrinsic
def _copy_runs(typing_context, source, at, shift, target, to, runs):
    """target[to + k] = low byte of source[at + k] >> shift, for runs of STEP codes."""

    def emit(context, builder, signature, args):
        arguments = vectors.Arguments(
            context, builder, signature, args, "source at shift target to runs"
        )
        element = arguments.element("source")
        vector = ir.VectorType(element, STEP)
        shift = vectors.splat(builder, builder.trunc(arguments.shift, element), vector)
        with cgutils.for_range(builder, arguments.runs) as run:
            first = builder.mul(run.index, I64(STEP))
            value = vectors.load(
                builder, arguments.data("source"), builder.add(arguments.at, first), vector
            )
            value = vectors.resized(builder, builder.lshr(value, shift), I8)
            vectors.store(
                builder, value, arguments.data("target"), builder.add(arguments.to, first)
            )
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, *(types.int64,) * 2), emit


@jit(inline="always")
def copy_part(source, at, shift, target, to, count):
    """target[to:to + count] = low bytes of source[at:at + count] >> shift.

    What follows there, up to STEP bytes, is lost.
    """
    runs = (count + STEP - 1) // STEP
    if at + runs * STEP > source.size:
        runs = count // STEP
        for k in range(runs * STEP, count):
            target[to + k] = source[at + k] >> shift
    _copy_runs(source, at, shift, target, to, runs)


def _emit_words(context, builder, signature, args):
    arguments = vectors.Arguments(context, builder, signature, args, "codes at row shift target to")
    element = arguments.element("codes")
    at = arguments.at
    vector = ir.VectorType(element, SIDE)
    shift = builder.trunc(arguments.shift, arguments.element("codes"))
    shift = vectors.splat(builder, shift, vector)
    terms = []
    for _ in range(4):
        codes = vectors.load(builder, arguments.data("codes"), at, vector)
        terms.append(vectors.resized(builder, builder.lshr(codes, shift), I8))
        at = builder.add(at, arguments.row)
    even, odd = (
        vectors.interleaved(builder, *pair) for pair in ((terms[0], terms[2]), (terms[1], terms[3]))
    )
    vectors.store(
        builder, vectors.interleaved(builder, even, odd), arguments.data("target"), arguments.to
    )
    return context.get_dummy_value()


@intrinsic
def pack_words(typing_context, codes, at, row, shift, target, to):
    """target[to + 4 * o + t] = low byte of codes[at + t * row + o] >> shift, for SIDE outputs o
    and 4 terms t.
    """
    return types.void(codes, *(types.int64,) * 3, target, types.int64), _emit_words

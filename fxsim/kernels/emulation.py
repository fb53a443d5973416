"""Instructions that this processor lacks, written out in LLVM IR for any processor.

`FXSIM_EMULATE=vnni,amx` makes the paths of VNNI and AMX run where the processor has neither, so that
their packing, tiling, spills, dispatch and epilogues can be tested on any machine.  Only the
instructions themselves are replaced: all other code is that of the native path.  What the processor
has is never emulated.  Emulated code is many times slower than every native path; it is for tests.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from fxsim.kernels import llvm as vectors
from fxsim.kernels.llvm import I32, I64

ROWS = 16
"""Rows of 64 bytes of a matrix register."""
_ROW = ir.VectorType(I32, 16)


def dot_words(builder, total, left, right, terms: int, left_signed: bool, right_signed: bool):
    """total + left . right in each lane of 32 bits, a word of `terms` numbers; modulo 2**32.

    `vpdpwssd` for 2 signed terms, `vpdpbusd` for 4 of which the left ones are unsigned, and a row
    of `tdpbssd`, `tdpbsud`, `tdpbusd` and `tdpbuud`.
    """
    for term in range(terms):
        one = _term(builder, left, term, terms, left_signed)
        other = _term(builder, right, term, terms, right_signed)
        total = builder.add(total, builder.mul(one, other))
    return total


def _term(builder, words, term: int, terms: int, signed: bool):
    """Number `term` of each word: shifted to the top of the word, and back down with its sign."""
    bits = 32 // terms
    top = vectors.constant(words.type, 32 - bits * (term + 1))
    down = vectors.constant(words.type, 32 - bits)
    shifted = builder.shl(words, top)
    return builder.ashr(shifted, down) if signed else builder.lshr(shifted, down)


class Tiles:
    """Emits instructions of AMX on eight registers that are memory on the stack.

    Each register has 16 rows of 64 bytes, as `amx.CONFIGURATION` says.
    """

    def __init__(self, builder):
        self.builder = builder
        register = ir.ArrayType(_ROW, ROWS)
        self._registers = [cgutils.alloca_once(builder, register) for _ in range(8)]

    def _row(self, number: int, row):
        return self.builder.gep(self._registers[number], [I64(0), row])

    def zero(self, number: int) -> None:
        """`tilezero`."""
        with cgutils.for_range(self.builder, I64(ROWS)) as row:
            self.builder.store(ir.Constant(_ROW, None), self._row(number, row.index))

    def load(self, number: int, place, step) -> None:
        """`tileloadd`: rows of 64 bytes, `step` bytes apart."""
        with cgutils.for_range(self.builder, I64(ROWS)) as row:
            at = self.builder.mul(row.index, step)
            value = vectors.load(self.builder, place, at, _ROW)
            self.builder.store(value, self._row(number, row.index))

    def store(self, number: int, place, step) -> None:
        """`tilestored`."""
        with cgutils.for_range(self.builder, I64(ROWS)) as row:
            at = self.builder.mul(row.index, step)
            value = self.builder.load(self._row(number, row.index))
            vectors.store(self.builder, value, place, at)

    def multiply(self, total: int, left: int, right: int, left_signed: bool, right_signed: bool):
        """`tdpb**d`: total[m, n] += the dot product of word k of row m of `left` and word n of row
        k of `right`, over all k.
        """
        builder = self.builder
        with cgutils.for_range(builder, I64(ROWS)) as row:
            place = self._row(total, row.index)
            sums = vectors.slot(builder, builder.load(place))
            words = builder.bitcast(self._row(left, row.index), I32.as_pointer())
            with cgutils.for_range(builder, I64(ROWS)) as k:
                word = builder.load(builder.gep(words, [k.index]))
                added = dot_words(
                    builder,
                    builder.load(sums),
                    vectors.splat(builder, word, _ROW),
                    builder.load(self._row(right, k.index)),
                    4,
                    left_signed,
                    right_signed,
                )
                builder.store(added, sums)
            builder.store(builder.load(sums), place)

"""A register tile of floating-point products, written in LLVM IR.

A tile is ROWS x COLUMNS dot products of float32 or float64: one value of each left row is broadcast
to all lanes and multiplied with COLUMNS values that the right operand holds next to each other, by
fused multiply-adds in ascending order of the terms, so that every processor that has them gets the
same bits.

The reduction is three nested loops, given as `loops[9]` int64: for the outer, middle and inner loop
its count, and what it adds to the offsets into the left and right operand.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels.jit import EMULATED, JIT_DISABLED, processor_features

ROWS = 12
COLUMNS = 32

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_FEATURES = {"avx512": ("avx512f",), "avx2": ("avx2", "fma")}
_REGISTERS = {"avx512": (64, 12, 2), "avx2": (32, 6, 2)}
"""Bytes of a register, and the rows and registers per row of the sums kept in registers at once: 24
sums of the 32 zmm registers, 12 of the 16 ymm registers, leave room for the columns and the
broadcast value."""


def processor_has(path: str) -> bool:
    """Whether this processor can run `path`, 'avx512' or 'avx2'; LLVM takes the vectors of an
    emulated one apart.

    With NUMBA_DISABLE_JIT=1 none runs.
    """
    if JIT_DISABLED:
        return False
    return path in EMULATED or processor_features().issuperset(_FEATURES[path])


def best_path() -> str | None:
    """The faster path of this processor; None where it has neither."""
    return next((path for path in _FEATURES if processor_has(path)), None)


class _Sums:
    """The part of a tile that is kept in registers: `rows` x `vectors` vectors of sums."""

    def __init__(self, builder, element, lanes, rows, vectors):
        self.builder = builder
        self.lanes = lanes
        self.vector = ir.VectorType(element, lanes)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{lanes}f{32 if isinstance(element, ir.FloatType) else 64}"
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)
        self.slots = [[self._zero() for _ in range(vectors)] for _ in range(rows)]

    def _zero(self):
        slot = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), slot)
        return slot

    def _vector_at(self, pointer, offset):
        return self.builder.bitcast(self.builder.gep(pointer, [offset]), self.vector.as_pointer())

    def _broadcast(self, pointer):
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.load(pointer), _I32(0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), None)
        )

    def add_term(self, left_rows, left_offset, right):
        """sums += left value of each row * the right operand's vectors."""
        builder = self.builder
        align = 4
        vectors = [
            builder.load(self._vector_at(right, _I64(self.lanes * v)), align=align)
            for v in range(len(self.slots[0]))
        ]
        for slots, pointer in zip(self.slots, left_rows):
            left = self._broadcast(builder.gep(pointer, [left_offset]))
            for slot, vector in zip(slots, vectors):
                builder.store(builder.call(self.fma, [left, vector, builder.load(slot)]), slot)

    def store(self, tile, row, column):
        for r, slots in enumerate(self.slots):
            for v, slot in enumerate(slots):
                offset = _I64((row + r) * COLUMNS + column + v * self.lanes)
                self.builder.store(self.builder.load(slot), self._vector_at(tile, offset), align=4)


def _emit_reduction(builder, sums, left_rows, right, loops):
    """The three loops around add_term."""
    table = [
        [builder.load(builder.gep(loops, [_I64(3 * i + k)])) for k in range(3)] for i in range(3)
    ]
    (outer, *outer_steps), (middle, *middle_steps), (inner, *inner_steps) = table
    with cgutils.for_range(builder, outer) as i, cgutils.for_range(builder, middle) as j:
        left_start, right_start = (
            builder.add(builder.mul(i.index, a), builder.mul(j.index, b))
            for a, b in zip(outer_steps, middle_steps)
        )
        with cgutils.for_range(builder, inner) as k:
            left, right_at = (
                builder.add(start, builder.mul(k.index, step))
                for start, step in zip((left_start, right_start), inner_steps)
            )
            sums.add_term(left_rows, left, builder.gep(right, [right_at]))


def _make_tile(path):
    """The intrinsic `tile(left, rows, right, right_origin, loops, out)`.

    out `(ROWS, COLUMNS)` = dot products of ROWS rows of `left` with COLUMNS columns of `right`.
    rows[ROWS]: where the rows start in `left`.  right_origin: where the columns start in `right`.
    left and right are flat, all offsets count elements.
    """
    register_bytes, rows_at_once, vectors = _REGISTERS[path]

    def codegen(context, builder, signature, args):
        if not processor_has(path):  # never called here; the IR would not compile
            return context.get_dummy_value()
        left, rows, right, loops, out = (
            context.make_array(signature.args[k])(context, builder, args[k]).data
            for k in (0, 1, 2, 4, 5)
        )
        right_origin = args[3]
        lanes = register_bytes // (signature.args[0].dtype.bitwidth // 8)
        element = context.get_value_type(signature.args[0].dtype)
        for row in range(0, ROWS, rows_at_once):
            starts = [builder.load(builder.gep(rows, [_I64(row + r)])) for r in range(rows_at_once)]
            left_rows = [builder.gep(left, [start]) for start in starts]
            for column in range(0, COLUMNS, lanes * vectors):
                sums = _Sums(builder, element, lanes, rows_at_once, vectors)
                _emit_reduction(
                    builder,
                    sums,
                    left_rows,
                    builder.gep(right, [builder.add(right_origin, _I64(column))]),
                    loops,
                )
                sums.store(out, row, column)
        return context.get_dummy_value()

    @intrinsic
    def tile(typing_context, left, rows, right, right_origin, loops, out):
        return types.void(left, rows, right, types.int64, loops, out), codegen

    return tile


tiles = {path: _make_tile(path) for path in _FEATURES}
multiply_tile = tiles[best_path() or "avx2"]
"""The tile of this processor; a kernel that is compiled for another one picks anew."""

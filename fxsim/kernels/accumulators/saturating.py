"""Matrix products whose accumulator saturates, term after term in ascending k.

Each product is first brought to the accumulator's step (a rounded right shift), then added:

    acc = clip(acc + addend, low, high) after every single addition; the order matters

Outputs are independent of each other, so that they advance side by side, in vector registers where
int16 or int32 holds addends and accumulator.  Where no partial sum can saturate, the exact product
has the same bits."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import llvm as vectors
from fxsim.kernels import memory
from fxsim.kernels.jit import JIT_DISABLED, jit
from fxsim.kernels.llvm import I64
from fxsim.kernels.products.matmul import gemm
from fxsim.kernels.products.paths import INT32_MAX, never_saturates
from fxsim.kernels.products.tile import best_path
from fxsim.kernels.rounding import MAX_SHIFT_INT32, Range, Rounding, round_shift
from fxsim.kernels.threads import parallel_for

NO_ROUNDING = Rounding(0, 0, 0, 0, 0)
INT16_MAX = 2**15 - 1
ROWS = 4
VECTORS = 2
"""Rows and vectors of columns that advance together.

Their sums and counts fill 16 of 32 registers.
"""


def accumulate_saturating(
    a: np.ndarray,
    b: np.ndarray,
    rounding: Rounding,
    bounds: Range,
    sums: np.ndarray,
    overflows: np.ndarray,
) -> None:
    """As `gemm_saturating` over all rows, by the fastest exact kernel.

    a (M, K), b (K, N): integer codes whose products fit 62 bits.  rounding: of an addend, by 0 to
    62 bits.  sums, overflows: (M, N) int64; sums start within `bounds`.
    """
    left, right = (int(np.abs(codes.astype(np.int64)).max(initial=0)) for codes in (a, b))
    product = left * right
    narrow = all(codes.dtype.kind == "i" and codes.dtype.itemsize <= 2 for codes in (a, b))
    start = max(int(sums.max(initial=0)), -int(sums.min(initial=0)))
    low = bounds.low + start
    high = bounds.high - start
    exact = narrow and rounding == NO_ROUNDING
    if exact and never_saturates(product, a.shape[1], low, high):
        products = np.empty_like(sums) if start else sums
        gemm(
            a.astype(np.int16),
            b.astype(np.int16),
            products,
            spill_terms=INT32_MAX // max(product, 1),
            path=best_path(),
        )
        if start:
            sums += products
        return
    dtype = _narrowest(product, a.shape[1], rounding, bounds)
    if dtype is None:
        parallel_for(gemm_saturating, len(a), 1, a, b, rounding, bounds, sums, overflows)
        return
    scalars = (bounds.low, bounds.high, *rounding)
    _accumulate_in_registers(a, b, np.array(scalars, dtype), sums, overflows)


def _narrowest(product: int, terms: int, rounding: Rounding, bounds: Range):
    """The type whose registers hold everything, or None; no product exceeds `product` in magnitude.

    int16, for products that are added whole: the addition itself saturates, and its count of at
    most `terms` fits. int32: with an addend of at most product + 1, rounded up or jammed, an
    addition does not overflow."""
    low, high = bounds[:2]
    if JIT_DISABLED:
        return None
    whole = rounding == NO_ROUNDING
    if whole and product <= INT16_MAX and max(-low - 1, high) <= INT16_MAX and terms <= INT16_MAX:
        return np.int16
    holds = (
        rounding.shift <= MAX_SHIFT_INT32
        and product <= INT32_MAX
        and max(-low, high) + product + 1 <= INT32_MAX
    )
    return np.int32 if holds and terms <= INT32_MAX else None


def _accumulate_in_registers(
    a: np.ndarray, b: np.ndarray, scalars: np.ndarray, sums: np.ndarray, overflows: np.ndarray
) -> None:
    """In the type of scalars, over whole strips of rows and columns."""
    dtype = scalars.dtype
    lanes = vectors.REGISTER_BITS // (8 * dtype.itemsize)
    rows = -(-len(a) // ROWS) * ROWS
    columns = -(-b.shape[1] // (VECTORS * lanes)) * VECTORS * lanes
    left = np.zeros((rows, a.shape[1]), dtype)
    right = np.zeros((a.shape[1], columns), dtype)
    left[: len(a)] = a
    right[:, : b.shape[1]] = b
    out, counts = memory.empty((2, rows, columns), np.int64)
    out[:] = 0
    inside = slice(len(a)), slice(b.shape[1])
    out[inside] = sums
    parallel_for(
        _accumulate_rows,
        rows // ROWS,
        1,
        left,
        right,
        scalars,
        VECTORS * lanes,
        out,
        counts,
    )
    sums[:] = out[inside]
    overflows += counts[inside]


@jit
def _accumulate_rows(start, stop, a, b, scalars, strip, out, overflows):
    terms, columns = b.shape
    flat_a = a.reshape(-1)
    flat_b = b.reshape(-1)
    flat_out = out.reshape(-1)
    flat_overflows = overflows.reshape(-1)
    for pair in range(start, stop):
        for column in range(0, columns, strip):
            accumulate_strip(
                flat_a,
                ROWS * pair * terms,
                flat_b,
                column,
                columns,
                terms,
                scalars,
                flat_out,
                flat_overflows,
                ROWS * pair * columns + column,
            )


class _Strip:
    """Emits the additions of one term to the sums of ROWS rows by VECTORS vectors, all kept in
    registers from their start to their end.
    """

    def __init__(self, builder, arguments, whole):
        self.builder = builder
        self.arguments = arguments
        self.whole = whole
        element = arguments.element("a")
        self.vector = ir.VectorType(element, vectors.REGISTER_BITS // element.width)
        scalars = arguments.data("scalars")
        self.scalars = {
            name: vectors.splat(builder, builder.load(builder.gep(scalars, [I64(k)])), self.vector)
            for k, name in enumerate(("low", "high", "shift", "base", "neg", "odd", "jam"))
        }
        self.zero = vectors.constant(self.vector, 0)
        self.one = vectors.splat(builder, vectors.opaque(builder, element(1)), self.vector)
        self.sums = [
            [vectors.slot(builder, self._start(row, v)) for v in range(VECTORS)]
            for row in range(ROWS)
        ]
        self.counts = [
            [vectors.slot(builder, self.zero) for _ in range(VECTORS)] for _ in range(ROWS)
        ]

    def _place(self, row, v):
        """The first sum of a vector, in the arrays of results."""
        builder = self.builder
        first = builder.add(self.arguments.out_at, builder.mul(I64(row), self.arguments.columns))
        return builder.add(first, I64(v * self.vector.count))

    def _start(self, row, v):
        wide = ir.VectorType(I64, self.vector.count)
        sums = self.arguments.data("out")
        return vectors.resized(
            self.builder,
            vectors.load(self.builder, sums, self._place(row, v), wide),
            self.vector.element,
        )

    def add_term(self, left, right):
        """left: a scalar for each row.  right: the vectors."""
        for row, value in enumerate(left):
            factor = vectors.splat(self.builder, value, self.vector)
            for v, column in enumerate(right):
                self._add(
                    self.sums[row][v],
                    self.counts[row][v],
                    self._addend(self.builder.mul(factor, column)),
                )

    def _addend(self, product):
        """round_shift of rounding.py; nothing where products are added whole."""
        if self.whole:
            return product
        builder = self.builder
        scalars = self.scalars
        floor = builder.ashr(product, scalars["shift"])
        rest = builder.sub(product, builder.shl(floor, scalars["shift"]))
        sign = builder.ashr(product, vectors.constant(self.vector, self.vector.element.width - 1))
        odd = builder.select(
            builder.icmp_signed(
                "!=", builder.and_(floor, vectors.constant(self.vector, 1)), self.zero
            ),
            scalars["odd"],
            self.zero,
        )
        carry = builder.add(
            builder.add(rest, scalars["base"]), builder.add(builder.and_(sign, scalars["neg"]), odd)
        )
        return builder.or_(
            builder.add(floor, builder.ashr(carry, scalars["shift"])), scalars["jam"]
        )

    def _add(self, sums, counts, addend):
        """Clip the sum and count it if that changed it.

        A sum that passes int16 differs from one modulo 2**16, too.
        """
        builder = self.builder
        before = self.builder.load(sums)
        total = kept = builder.add(before, addend)
        if self.vector.element.width == 16:
            kind = ir.FunctionType(self.vector, [self.vector, self.vector])
            add = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.sadd.sat.v{self.vector.count}i16"
            )
            kept = builder.call(add, [before, addend])
        kept = builder.select(
            builder.icmp_signed(">", kept, self.scalars["low"]), kept, self.scalars["low"]
        )
        kept = builder.select(
            builder.icmp_signed("<", kept, self.scalars["high"]), kept, self.scalars["high"]
        )
        changed = builder.xor(kept, total)
        changed = builder.select(
            builder.icmp_unsigned("<", changed, self.one), changed, self.one
        )  # 0 or 1
        builder.store(kept, sums)
        builder.store(builder.add(builder.load(counts), changed), counts)

    def store(self):
        builder = self.builder
        for slots, name in ((self.sums, "out"), (self.counts, "overflows")):
            target = self.arguments.data(name)
            for row in range(ROWS):
                for v in range(VECTORS):
                    vectors.store(
                        builder,
                        vectors.resized(builder, builder.load(slots[row][v]), I64),
                        target,
                        self._place(row, v),
                    )


def _emit_strip(context, builder, signature, args):
    names = "a a_at b b_at columns terms scalars out overflows out_at"
    arguments = vectors.Arguments(context, builder, signature, args, names)
    a, b, scalars = (arguments.data(name) for name in ("a", "b", "scalars"))

    def emit(whole):
        strip = _Strip(builder, arguments, whole)
        with cgutils.for_range(builder, arguments.terms) as term:
            left = [
                builder.load(
                    builder.gep(
                        a,
                        [
                            builder.add(
                                builder.add(arguments.a_at, term.index),
                                builder.mul(I64(row), arguments.terms),
                            )
                        ],
                    )
                )
                for row in range(ROWS)
            ]
            first = builder.add(arguments.b_at, builder.mul(term.index, arguments.columns))
            right = [
                vectors.load(
                    builder, b, builder.add(first, I64(v * strip.vector.count)), strip.vector
                )
                for v in range(VECTORS)
            ]
            strip.add_term(left, right)
        strip.store()

    shift, jam = (builder.load(builder.gep(scalars, [I64(k)])) for k in (2, 6))
    whole = builder.icmp_signed("==", builder.or_(shift, jam), shift.type(0))
    with builder.if_else(whole) as branches:
        for added_whole, branch in zip((True, False), branches):
            with branch:
                emit(added_whole)
    return context.get_dummy_value()


@intrinsic
def accumulate_strip(
    typing_context, a, a_at, b, b_at, columns, terms, scalars, out, overflows, out_at
):
    """Adds `terms` terms to ROWS x VECTORS * lanes sums, from out_at on, saturated after every
    addition; overflows become the additions that saturated.

    The rows of a start at a_at, `terms` apart; the terms of b at b_at, `columns` apart, as are the
    rows of the results. scalars: low, high, shift, base, neg, odd, jam.
    """
    arguments = (a, types.int64, b, *(types.int64,) * 3, scalars, out, overflows, types.int64)
    return types.void(*arguments), _emit_strip


@jit
def gemm_saturating(start, stop, a, b, rounding, bounds, sums, overflows):
    """Add rows start .. stop of a (M, K) times b (K, N) to sums (M, N) int64, saturated to
    `bounds` after every addition.

    Adds the additions that saturated to overflows (M, N) int64.  a, b: integer codes whose products
    fit 62 bits.  rounding: of an addend, by 0 to 62 bits.
    """
    low = bounds.low
    high = bounds.high
    for m in range(start, stop):
        for k in range(a.shape[1]):
            left = np.int64(a[m, k])
            for n in range(b.shape[1]):
                total = sums[m, n] + round_shift(left * b[k, n], rounding.base, rounding)
                kept = min(max(total, low), high)
                overflows[m, n] += kept != total
                sums[m, n] = kept

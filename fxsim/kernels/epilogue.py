"""What happens to a tile of exact sums before it is stored: bias, ReLU, rounding shift, clip,
counts.

    value = (sum << acc_shift) + bias            mask = 0 < value < relu_bound
    value = max(value, floor)                    code = clip(round_shift(value, shift), low, high)

with the rounding of `rounding.py`, whose remainder form equals
`(value + base + neg * (value < 0) + odd * (floor & 1)) >> shift`.

Written in LLVM IR, in vector registers, for the sums of register tiles: in int32 where `fits_int32`
allows, else in int64. The sums of the plain path take the loops of `store_sums`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from llvmlite import ir

from fxsim.kernels import llvm as vectors
from fxsim.kernels.llvm import I8, I64, Value, constant, splat
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED

NO_FLOOR = -(2**63)


class Epilogue(NamedTuple):
    """Integers of one requantization.

    `floor` is 0 with a ReLU, else NO_FLOOR.  low <= 0 <= high.  Values, and their sums with base,
    neg and odd, fit int64.
    """

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
        """The same with bounds that int32 holds; equal in effect where `fits_int32`.

        relu_bound: 2**31 at most, for every value is below that; modulo 2**32 it does for `Finish`.
        """
        return self._replace(
            relu_bound=min(self.relu_bound, 2**31),
            **{
                field: min(max(getattr(self, field), -(2**31)), 2**31 - 1)
                for field in ("floor", "low", "high")
            },
        )


RAW = Epilogue()
"""Sums stay as they are."""


CLIPPED = -1
"""What `Finish` counts in place of ABOVE: all that was clipped."""


class Kind(NamedTuple):
    """What an epilogue needs.  simple: acc_shift, odd and jam are 0.  relu: floor is 0, so that no
    value is below it.

    A simple kind without relu has no floor at all.  A kind fits an epilogue only where all that the
    kind leaves out is absent."""

    simple: bool
    relu: bool


KINDS = Kind(simple=True, relu=True), Kind(simple=True, relu=False), Kind(simple=False, relu=False)
"""From the most special to the general one, which does for all."""
GENERAL = KINDS[-1:]


class Finish:
    """Emits what the module says for `lanes` outputs side by side, in integers of type `element`.

    Of the arguments of the intrinsic it takes an `epilogue` (for int32: `in_int32`).  outputs: the
    Arguments with `out` and `mask` (flat; an empty mask is none) and `counts`, to which
    `add_counts` adds at the end; by default those of the intrinsic.

    Counts are sums of min(number, 1) and of sign bits: comparisons, whose results live in registers
    of their own, would be what processors are slowest at.  `one` is opaque, for LLVM would make
    them comparisons."""

    def __init__(self, builder, arguments, element, kind: Kind, outputs=None):
        self.builder = builder
        self.arguments = arguments
        self.outputs = outputs or arguments
        self.kind = kind
        self.lanes = vectors.REGISTER_BITS // element.width
        self.vector = ir.VectorType(element, self.lanes)
        self.zero = Value(builder, constant(self.vector, 0))
        one = vectors.opaque(builder, element(1))
        self.one = Value(builder, splat(builder, one, self.vector))
        epilogue = arguments.epilogue
        self.constants = {
            name: Value(builder, splat(builder, epilogue.integer(name, element), self.vector))
            for name in Epilogue._fields
        }
        self.inside_bound = self.constants["relu_bound"] - self.one
        self.pointers = {name: self.outputs.data(name) for name in ("out", "mask", "counts")}
        self.counts = {
            which: vectors.slot(builder, self.zero.ir) for which in (BELOW, CLIPPED, FLUSHED)
        }
        self.masked = builder.icmp_signed(">", self.outputs.size("mask"), I64(0))
        self.left = I64(self.lanes)
        self.valid = None

    def load(self, pointer, offset) -> Value:
        """`lanes` numbers from pointer[offset] on."""
        return Value(self.builder, vectors.load(self.builder, pointer, offset, self.vector))

    def finish(self, value, place):
        """Store the codes and the mask of a vector of values, whose first output goes to
        `place`, and count; returns codes.
        """
        builder = self.builder
        constants = self.constants
        inside = (value - self.one).below_unsigned(self.inside_bound)  # 0 < value < relu_bound
        if self.kind != (True, False):
            value = value.larger(self.zero if self.kind.relu else constants["floor"])
        code = self._rounded(value)
        kept = code if self.kind.relu else code.larger(constants["low"])
        kept = kept.smaller(constants["high"])
        self._count_all(value, code, kept)
        out = vectors.resized(builder, kept.ir, self.outputs.element("out"))
        vectors.store_lanes(builder, out, self.left, self.pointers["out"], place)
        with builder.if_then(self.masked):
            mask = builder.zext(inside.ir, ir.VectorType(I8, self.lanes))
            vectors.store_lanes(builder, mask, self.left, self.pointers["mask"], place)
        return kept

    def _sign(self, value):
        """-1 in the lanes below 0, else 0."""
        return value >> (self.vector.element.width - 1)

    def _rounded(self, value):
        constants = self.constants
        shift = constants["shift"]
        carried = value + constants["base"]
        if not self.kind.relu:
            carried = carried + (self._sign(value) & constants["neg"])
        if self.kind.simple:
            return carried >> shift
        is_odd = ((value >> shift) & 1).differs(self.zero)
        odd = is_odd.chosen(constants["odd"], self.zero)
        return ((carried + odd) >> shift) | constants["jam"]

    def _count_all(self, value, code, kept):
        beyond = code - kept  # does not overflow, for low <= 0 <= high
        if self.valid is not None:
            beyond = beyond & self.valid
        if not self.kind.relu:
            self._add(BELOW, -self._sign(beyond))
        self._add(CLIPPED, self.at_most_one(beyond))
        self._add(FLUSHED, self.at_most_one(value) & ~self.at_most_one(code))

    def at_most_one(self, value):
        """1 in the lanes that are not 0."""
        return value.below_unsigned(self.one).chosen(value, self.one)

    def _add(self, which, ones):
        total = Value(self.builder, self.builder.load(self.counts[which])) + ones
        self.builder.store(total.ir, self.counts[which])

    def add_counts(self):
        """To be emitted last."""
        builder = self.builder
        sums = {
            which: vectors.sum_of_lanes(
                builder, builder.sext(builder.load(slot), ir.VectorType(I64, self.lanes))
            )
            for which, slot in self.counts.items()
        }
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
    epilogue = arguments.epilogue
    fields = [epilogue.integer(name, I64) for name in ("acc_shift", "odd", "jam")]
    none = builder.icmp_signed("==", functools.reduce(builder.or_, fields), I64(0))
    floor = builder.icmp_signed("==" if kind.relu else "<", epilogue.integer("floor", I64), I64(0))
    with builder.if_else(builder.and_(none, floor)) as (fits, otherwise):
        with fits:
            emit(kind)
        with otherwise:
            emit_kinds(builder, arguments, emit, others)

"""Which exact path a product of codes may take, and the inequality that allows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

PATHS = (
    "int8_amx",
    "int16_amx",
    "int8_vnni",
    "int16_vnni",
    "int16_avx2",
    "split_vnni",
    "split_avx2",
    "plain",
)
"""Paths in order of preference: int8 and int16 are the greatest widths of operands; the `split`
ones add the int16 products of parts of wider operands; `plain` is NumPy-semantics Numba loops on
any processor."""
WHOLE_BITS = 15
PART_BITS = 12
"""Signed bits of an operand that is not split, and bits of the parts of one that is.

Int32 holds 16 of their products.
"""

BYTE_TERMS = INT32_MAX // (2 * 255**2) // 64 * 64
"""Terms of a sum of int32 of the products of two pairs of bytes, in whole registers of 64 terms."""


@dataclass(frozen=True)
class Operand:
    """Width and sign of the codes of one operand."""

    bits: int
    signed: bool = True

    @property
    def magnitude(self) -> int:
        """The greatest |code|."""
        return 2 ** (self.bits - 1) if self.signed else 2**self.bits - 1

    def fits(self, bits: int, signed: bool) -> bool:
        """Whether every code is one of a `bits` wide signed or unsigned integer."""
        if self.signed and not signed:
            return False
        return self.bits <= bits - (signed and not self.signed)

    @property
    def parts(self) -> list[Operand]:
        """What `split` makes of the codes, lowest bits first."""
        if self.fits(WHOLE_BITS, True):
            return [self]
        lower = -(-self.bits // PART_BITS) - 1
        return [Operand(PART_BITS, False)] * lower + [
            Operand(self.bits - lower * PART_BITS, self.signed)
        ]

    def split(self, codes: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """(int16 codes, shift) of each part: the codes are the sum of parts << shift."""
        if self.parts == [self]:
            return [(codes.astype(np.int16), 0)]
        lower = [
            (codes >> shift) & (2**PART_BITS - 1)
            for shift in range(0, self.bits - PART_BITS, PART_BITS)
        ]
        highest = PART_BITS * len(lower)
        parts = [(part, PART_BITS * k) for k, part in enumerate(lower)] + [
            (codes >> highest, highest)
        ]
        return [(part.astype(np.int16), shift) for part, shift in parts]


@dataclass(frozen=True)
class Plan:
    """An exact product: path, proof, and how many terms an int32 partial sum provably holds.

    accumulator_bits: signed width that holds every partial sum of all `terms` (what hardware must
    provide). spill_terms: terms that an int32 partial sum provably holds (0 where one product does
    not fit); after as many, partial sums go to int64.  On a split path: terms of any two parts."""

    path: str
    proof: str
    terms: int
    spill_terms: int
    accumulator_bits: int

    @property
    def split(self) -> bool:
        """Whether operands are taken apart."""
        return self.path.startswith("split")

    @property
    def fits_int32(self) -> bool:
        return self.terms <= self.spill_terms and not self.split


def accumulator_bits(a: Operand, b: Operand, terms: int) -> int:
    """Signed bits that hold every partial sum of `terms` products.

    2**(bits-1) - 1 >= terms max|a| max|b|.
    """
    return (terms * a.magnitude * b.magnitude).bit_length() + 1


def never_saturates(product: int, terms: int, low: int, high: int) -> bool:
    """Whether no partial sum of `terms` products of at most `product` in magnitude leaves [low,
    high].

    |sum| <= terms * product, so that clipping after every addition changes nothing: the exact product
    has the same bits.
    """
    return terms * product <= min(-low, high)


def allowed_paths(a: Operand, b: Operand, terms: int) -> dict[str, str]:
    """Path -> proof, for every path that is exact at these widths on any processor that has it."""
    product = a.magnitude * b.magnitude
    spill = INT32_MAX // product
    allowed = {}
    if max(a.bits, b.bits) <= 16 and terms * product <= INT64_MAX:
        if terms <= spill:
            proof = (
                f"modulo 2^32, and int32 holds all {terms} terms: "
                f"{terms} * {a.magnitude} * {b.magnitude} <= 2^31 - 1"
            )
        else:
            proof = (
                f"int32 holds {BYTE_TERMS} terms of two pairs of bytes: 2 * {BYTE_TERMS} * 255^2 "
                f"<= 2^31 - 1; int64 holds "
                f"all {terms} terms, modulo 2^64"
            )
        allowed = {
            path: proof
            for path, bits in (("int8_amx", 8), ("int16_amx", 16))
            if max(a.bits, b.bits) <= bits
        }
    for path, depth in (("int8_vnni", 4), ("int16_vnni", 2), ("int16_avx2", 2)):
        fits = (
            a.fits(8, False) and b.fits(8, True)
            if depth == 4
            else a.fits(16, True) and b.fits(16, True)
        )
        if fits and spill >= depth:
            allowed[path] = (
                f"{depth} products per step, int32 holds {spill} terms: {spill} * {a.magnitude} * "
                f"{b.magnitude} <= 2^31 - 1"
            )
    if max(a.bits, b.bits) <= 32 and terms * product <= INT64_MAX:
        left = len(a.parts)
        right = len(b.parts)
        spill = _spill_of_parts(a, b)
        for path in ("split_vnni", "split_avx2"):
            allowed[path] = (
                f"{left} by {right} parts of int16, int32 holds {spill} terms of any two: {spill} "
                f"* "
                f"{_largest(a)} * {_largest(b)} <= 2^31 - 1; int64 holds all {terms} terms, modulo "
                f"2^64"
            )
    if terms * product <= INT64_MAX:
        allowed["plain"] = (
            f"int64 holds all {terms} terms: {terms} * {a.magnitude} * {b.magnitude} <= 2^63 - 1"
        )
    return allowed


@lru_cache(maxsize=4096)
def plan(
    a: Operand, b: Operand, terms: int, available: tuple[str, ...] = PATHS, kernel: str = "auto"
) -> Plan:
    """The path for sums of `terms` products of a- and b-codes, with its proof.

    available: the paths that this processor has.  kernel: 'auto', or the path to force.
    Raises ValueError where the forced path, or every path, is ruled out by the widths.
    """
    if terms < 1:
        raise ValueError(f"terms must be at least 1, got {terms}")
    allowed = allowed_paths(a, b, terms)
    bits = accumulator_bits(a, b, terms)
    wanted = [path for path in PATHS if path in allowed and path in available]
    if kernel != "auto":
        wanted = [path for path in wanted if path == kernel]
    if not wanted:
        raise ValueError(_why_not(a, b, terms, bits, available, kernel, allowed))
    spill = (
        _spill_of_parts(a, b)
        if wanted[0].startswith("split")
        else INT32_MAX // (a.magnitude * b.magnitude)
    )
    return Plan(wanted[0], allowed[wanted[0]], terms, spill, bits)


def in_lanes(plan: Plan, a: Operand, b: Operand) -> Plan:
    """The plan of the same sums where each has a lane of a register, see `grouped.py`."""
    product = a.magnitude * b.magnitude
    spill = INT32_MAX // product
    bits = 32 if plan.terms <= spill else 64
    proof = (
        f"int{bits} holds all {plan.terms} terms: {plan.terms} * {a.magnitude} * {b.magnitude} <= "
        f"2^{bits - 1} - 1"
    )
    return replace(plan, proof=proof, spill_terms=spill)


def _largest(operand: Operand) -> int:
    return max(part.magnitude for part in operand.parts)


def _spill_of_parts(a: Operand, b: Operand) -> int:
    return INT32_MAX // (_largest(a) * _largest(b))


def _why_not(a, b, terms, bits, available, kernel, allowed) -> str:
    what = f"{terms} products of {a.bits}-bit {_sign(a)} by {b.bits}-bit {_sign(b)} codes"
    if kernel == "auto":
        return f"{what} need an accumulator of {bits} bits, at most 64 are exact here; lower the widths"
    if kernel not in PATHS:
        return f"kernel {kernel!r} is unknown; choose auto or one of {', '.join(PATHS)}"
    if kernel not in available:
        return f"kernel {kernel!r} is not on this processor, which has {', '.join(available)}; use kernel='auto'"
    return f"kernel {kernel!r} does not take {what} exactly; use kernel='auto' or one of {', '.join(allowed)}"


def _sign(operand: Operand) -> str:
    return "signed" if operand.signed else "unsigned"

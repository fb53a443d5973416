"""Rounding and overflow: the one place where bits are dropped.

A value with `shift` bits below the wanted step is split into its floor `q` and remainder `r`,
0 <= r < 2**shift.  Every mode then adds at most one to the floor:

    carry = (r + base + neg * (value < 0) + odd * (q & 1)) >> shift        code = (q + carry) | jam

and differs from the others only in the four integers of `rounding_terms`, with h = 2**(shift-1):

    mode            base        neg           odd   jam   hardware
    floor           0           0             0     0     >>>
    ceil            2h - 1      0             0     0
    zero            0           2h - 1        0     0     add sign-extended mask, >>>
    away            2h - 1      -(2h - 1)     0     0
    nearest_up      h           0             0     0     add half, >>>  (ties toward +infinity)
    nearest_down    h - 1       0             0     0     (ties toward -infinity)
    nearest_away    h           -1            0     0     (ties away from zero)
    nearest_zero    h - 1       1             0     0     (ties toward zero)
    nearest_even    h - 1       0             1     0     (convergent, IEEE 754's default)
    nearest_odd     h           0             -1    0
    jam             0           0             0     1     last bit forced to one (von Neumann), always
    stochastic      R           0             0     0     R uniform on 0 .. 2h - 1
    stochastic_equal  0 or 2h - 1  0          0     0     up or down with probability 1/2

The sum stays below 2**(shift+1) and r, base >= 0 cover neg and odd, so `shift` up to 62 cannot
overflow an int64 (up to 30 an int32), whatever the value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import parallel_for


class Rounding(NamedTuple):
    """A rounding by `shift` bits: the integers of the module's table."""

    shift: int
    base: int
    neg: int
    odd: int
    jam: int


class Range(NamedTuple):
    """The codes low .. high of `bits` bits, and the rule SATURATE, TO_ZERO or WRAP for others."""

    low: int
    high: int
    rule: int
    bits: int
    signed: int


ROUNDINGS = (
    "floor",
    "ceil",
    "zero",
    "away",
    "nearest_even",
    "nearest_odd",
    "nearest_away",
    "nearest_zero",
    "nearest_up",
    "nearest_down",
    "jam",
    "stochastic",
    "stochastic_equal",
)
STOCHASTIC = ("stochastic", "stochastic_equal")
OVERFLOWS = ("saturate", "saturate_symmetric", "saturate_zero", "wrap")
MAX_SHIFT = 62
MAX_SHIFT_INT32 = 30
BLOCK = 1 << 15

SATURATE = 0
TO_ZERO = 1
WRAP = 2
OVERFLOW_RULE = {
    "saturate": SATURATE,
    "saturate_symmetric": SATURATE,
    "saturate_zero": TO_ZERO,
    "wrap": WRAP,
}

BELOW = 0
ABOVE = 1
FLUSHED = 2
"""Positions in a `counts` array.

Values below and above the range, non-zero values that round to 0.
"""


def rounding_terms(rounding: str, shift: int) -> tuple[int, int, int, int]:
    """(base, neg, odd, jam) of a deterministic mode for `shift` dropped bits, 0 to 62."""
    full = 2**shift - 1
    half = 2**shift // 2
    if shift == 0:
        return 0, 0, 0, int(rounding == "jam")
    return {
        "floor": (0, 0, 0, 0),
        "ceil": (full, 0, 0, 0),
        "zero": (0, full, 0, 0),
        "away": (full, -full, 0, 0),
        "nearest_up": (half, 0, 0, 0),
        "nearest_down": (half - 1, 0, 0, 0),
        "nearest_away": (half, -1, 0, 0),
        "nearest_zero": (half - 1, 1, 0, 0),
        "nearest_even": (half - 1, 0, 1, 0),
        "nearest_odd": (half, 0, -1, 0),
        "jam": (0, 0, 0, 1),
    }[rounding]


def stochastic_base(words: np.ndarray, rounding: str, shift: int) -> np.ndarray:
    """The per-element `base` (int64) of a stochastic mode from uint32 random `words`.

    stochastic: the word's first `shift` bits are R (beyond 32 bits, R's low bits are zero, so that
    the fraction counts to 32 bits).  stochastic_equal: the word's first bit says up (1) or down
    (0)."""
    words = words.astype(np.int64)
    if rounding == "stochastic_equal":
        return (words >> 31) * (2**shift - 1)
    return words >> (32 - shift) if shift <= 32 else words << (shift - 32)


@jit
def round_shift(value, shift, base, neg, odd, jam):
    """`value` / 2**shift, rounded to an integer as the module's table says; 0 <= shift <= 62."""
    floor = value >> shift
    remainder = value - (floor << shift)
    return (floor + ((remainder + base + neg * (value < 0) + odd * (floor & 1)) >> shift)) | jam


@jit
def wrap_code(code, bits, signed):
    """`code` modulo 2**bits, as a signed or unsigned number of `bits` bits, at most 63."""
    low = code & ((np.int64(1) << bits) - 1)
    return low - (((low >> (bits - 1)) & signed) << bits)


@jit
def overflow_code(code, low, high, rule, bits, signed):
    """`code` brought into [low, high] by the overflow rule SATURATE, TO_ZERO or WRAP."""
    if rule == SATURATE:
        return min(max(code, low), high)
    if low <= code <= high:
        return code
    return wrap_code(code, bits, signed) if rule == WRAP else code * 0


@jit
def requantize_codes(
    values, bases, shift, base, neg, odd, jam, low, high, rule, bits, signed, out, counts
):
    """Round and bound 1-D `values` into `out`; adds what was below, above and flushed to `counts`.

    bases: int64 per-element bases of a stochastic mode, or an empty array.  0 <= shift <= 62.
    """
    below = above = flushed = 0
    for i in range(values.size):
        value = np.int64(values[i])
        code = round_shift(value, shift, bases[i] if bases.size else base, neg, odd, jam)
        below += code < low
        above += code > high
        flushed += (value != 0) & (code == 0)
        out[i] = overflow_code(code, low, high, rule, bits, signed)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


@jit
def _requantize_blocks(
    start,
    stop,
    values,
    bases,
    shift,
    base,
    neg,
    odd,
    jam,
    low,
    high,
    rule,
    bits,
    signed,
    out,
    counts,
):
    for block in range(start, stop):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        requantize_codes(
            values[part],
            bases[part],
            shift,
            base,
            neg,
            odd,
            jam,
            low,
            high,
            rule,
            bits,
            signed,
            out[part],
            counts[block],
        )


@jit
def _saturate_int32(values, shift, base, neg, odd, jam, low, high, out, counts):
    """requantize_codes by SATURATE with all arithmetic in int32, on 16 lanes; shift up to 30.

    NumPy's scalar functions keep int32 operands int32.
    """
    zero = np.int32(0)
    one = np.int32(1)
    shift = np.int32(shift)
    base = np.int32(base)
    neg = np.int32(neg)
    odd = np.int32(odd)
    jam = np.int32(jam)
    low = np.int32(low)
    high = np.int32(high)
    below = above = flushed = zero
    for i in range(values.size):
        value = values[i]
        floor = np.right_shift(value, shift)
        remainder = np.subtract(value, np.left_shift(floor, shift))
        carry = np.add(
            np.add(base, neg if value < zero else zero), odd if np.bitwise_and(floor, one) else zero
        )
        carry = np.right_shift(np.add(remainder, carry), shift)
        code = np.bitwise_or(np.add(floor, carry), jam)
        below = np.add(below, np.int32(code < low))
        above = np.add(above, np.int32(code > high))
        flushed = np.add(flushed, np.int32((code == zero) & (value != zero)))
        out[i] = np.minimum(np.maximum(code, low), high)
    counts[BELOW] += below
    counts[ABOVE] += above
    counts[FLUSHED] += flushed


@jit
def _saturate_blocks(start, stop, values, shift, base, neg, odd, jam, low, high, out, counts):
    for block in range(start, stop):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        _saturate_int32(
            values[part], shift, base, neg, odd, jam, low, high, out[part], counts[block]
        )


def requantize_array(values, bases, shift, terms, bounds, out) -> np.ndarray:
    """requantize_codes over blocks in parallel; returns the counts (below, above, flushed).

    A right shift of an int32 and the carry of a rounding stay int32, and no code is beyond its
    limits."""
    counts = np.zeros((-(-values.size // BLOCK), 3), np.int64)
    low, high, rule, _, _ = bounds
    if (
        values.dtype == np.int32
        and not bases.size
        and rule == SATURATE
        and shift <= MAX_SHIFT_INT32
    ):
        limits = max(low, -(2**31)), min(high, 2**31 - 1)
        parallel_for(_saturate_blocks, len(counts), 2, values, shift, *terms, *limits, out, counts)
    else:
        parallel_for(
            _requantize_blocks, len(counts), 2, values, bases, shift, *terms, *bounds, out, counts
        )
    return counts.sum(axis=0)


def code_range(bits: int, signed: bool, overflow: str) -> tuple[int, int]:
    """(lowest, highest) code of a format under an overflow mode."""
    high = 2 ** (bits - signed) - 1
    if not signed:
        return 0, high
    return (-high if overflow == "saturate_symmetric" else -high - 1), high


def align(values: np.ndarray, shift: int) -> tuple[np.ndarray, int]:
    """Values and shift with 0 <= shift <= 62 that requantize to the same codes of at most 32 bits.

    Above 62, the low bits are jammed into one sticky bit.  Below 0, the left shift is done here;
    what would pass 62 bits is far outside every 32-bit format and becomes a value that is outside
    too, with the same low 32 bits (so that wrapping is right).
    """
    if 0 <= shift <= MAX_SHIFT:
        return values, shift
    values = values.astype(np.int64)
    if shift > MAX_SHIFT:
        drop = min(shift - MAX_SHIFT, 63)
        kept = values >> drop
        return kept | (kept << drop != values), MAX_SHIFT
    left = min(-shift, 63)
    limit = 1 << max(62 - left, 0)
    outside = (values >= limit) | (values <= -limit)
    low_bits = (values << left) & 0xFFFFFFFF
    far = np.where(values < 0, -(1 << 40), 1 << 40)
    with_far = np.where(values == 0, 0, far + low_bits)
    return np.where(outside, with_far, values << left), 0


@jit
def round_divide(numerator, denominator):
    """numerator / denominator (above 0), nearest, ties away from zero.

    |numerator| + denominator < 2**62.
    """
    quotient = (2 * abs(numerator) + denominator) // (2 * denominator)
    return quotient if numerator >= 0 else -quotient

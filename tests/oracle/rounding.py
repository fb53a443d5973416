"""Formats, rounding by case distinction on exact fractions, overflow."""

from fractions import Fraction
from functools import cache
from math import floor

DETERMINISTIC = (
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
)
STOCHASTIC = ("stochastic", "stochastic_equal")
OVERFLOWS = ("saturate", "saturate_symmetric", "saturate_zero", "wrap")


def step(fmt):
    """The weight of the last bit, exactly."""
    bits, range_exp, signed = fmt
    return Fraction(2) ** (range_exp - bits + (1 if signed else 0))


def code_range(fmt):
    bits, _, signed = fmt
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@cache
def round_exact(x, mode, word=0):
    """The integer to which the Fraction `x` rounds; `word` is a 32-bit random word."""
    below = floor(x)
    fraction = x - below
    if mode == "jam":
        return below if below % 2 == 1 else below + 1
    if fraction == 0:
        return below
    if mode == "stochastic":
        return below + 1 if floor(fraction * 2**32) + word >= 2**32 else below
    if mode == "stochastic_equal":
        return below + 1 if word >= 2**31 else below
    if mode in ("floor", "ceil", "zero", "away"):
        up = {"floor": False, "ceil": True, "zero": x < 0, "away": x > 0}[mode]
        return below + 1 if up else below
    if fraction != Fraction(1, 2):
        return below if fraction < Fraction(1, 2) else below + 1
    return _tie(below, mode)


def round_by_dropped_bits(value, dropped):
    """value / 2**dropped by NITI's rule: the lower of the dropped bits stand for a random number.

    The dropped bits of the magnitude, the highest first, are cut in two; the lower part gets a 0
    where it is the shorter one.
    """
    magnitude = abs(value)
    digits = [magnitude >> place & 1 for place in reversed(range(dropped))]
    upper = digits[: (dropped + 1) // 2]
    lower = digits[(dropped + 1) // 2 :]
    if len(lower) < len(upper):
        lower.append(0)
    rounded = (magnitude >> dropped) + (1 if upper > lower else 0)
    return -rounded if value < 0 else rounded


def _tie(below, mode):
    """The neighbour that takes a value half-way between `below` and `below + 1`."""
    pair = (below, below + 1)
    if mode == "nearest_even":
        return next(code for code in pair if code % 2 == 0)
    if mode == "nearest_odd":
        return next(code for code in pair if code % 2 == 1)
    chosen = {
        "nearest_away": lambda: max(pair, key=abs),
        "nearest_zero": lambda: min(pair, key=abs),
        "nearest_up": lambda: max(pair),
        "nearest_down": lambda: min(pair),
    }[mode]
    return chosen()


def wrap(code, bits, signed):
    """The number congruent to `code` modulo 2**bits that has `bits` bits."""
    low = code % 2**bits
    return low - 2**bits if signed and low >= 2 ** (bits - 1) else low


@cache
def bound(code, fmt, overflow):
    """(code within the format, below, above)."""
    low, high = code_range(fmt)
    if overflow == "saturate_symmetric" and fmt[2]:
        low = -high
    below = code < low
    above = code > high
    if overflow == "wrap":
        return wrap(code, fmt[0], fmt[2]), below, above
    if not (below or above):
        return code, below, above
    if overflow == "saturate_zero":
        return 0, below, above
    return (low if below else high), below, above


@cache
def quantize(value, fmt, rounding="nearest_away", overflow="saturate", word=0, ceiling=None):
    """(code, below, above, flushed) of the Fraction `value` in format `fmt`.

    ceiling: the code of a ReLU's ceiling inside the format; `value` is not below 0 then.
    """
    rounded = round_exact(value / step(fmt), rounding, word)
    if ceiling is not None:
        greatest = round_exact(Fraction(ceiling), rounding)
        return min(rounded, greatest), False, rounded > greatest, value != 0 and rounded == 0
    code, below, above = bound(rounded, fmt, overflow)
    return code, below, above, value != 0 and rounded == 0


def quantize_all(
    values, fmt, rounding="nearest_away", overflow="saturate", words=None, ceiling=None
):
    """Codes of a flat list of Fractions, and (below, above, flushed) counted."""
    words = words or [0] * len(values)
    rows = [
        quantize(value, fmt, rounding, overflow, word, ceiling)
        for value, word in zip(values, words)
    ]
    return [row[0] for row in rows], tuple(sum(row[k] for row in rows) for k in (1, 2, 3))


def divide_nearest_away(numerator, denominator):
    return round_exact(Fraction(numerator, denominator), "nearest_away")


def sixteen_bits(value):
    """(mantissa, exponent) of the nearest number with a mantissa of 16 bits to the Fraction
    `value`, ties up.
    """
    exponent = 0
    while value >= 2**16:
        value = value / 2
        exponent = exponent + 1
    while value < 2**15:
        value = value * 2
        exponent = exponent - 1
    mantissa = round_exact(value, "nearest_up")
    return (2**15, exponent + 1) if mantissa == 2**16 else (mantissa, exponent)

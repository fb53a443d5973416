"""Softmax cross-entropy on logit codes, each constant from its definition in exact arithmetic."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cache

from oracle.rounding import bound, quantize, round_exact, step

LOG_BITS = 30
FRACTION_BITS = 24
DEFAULT = (8, 30, "linear")
"""A recipe of the exponential: index bits, fraction bits of the entries, interpolation."""


def _half_up(x):
    return round_exact(Fraction(x), "nearest_up")


@cache
def constants():
    """(log2(e) with 29 fraction bits, ln 2 with 24), rounded to nearest."""
    with localcontext() as context:
        context.prec = 60
        ln_2 = Decimal(2).ln()
        return tuple(
            int((value * 2**bits).to_integral_value(ROUND_HALF_EVEN))
            for value, bits in ((1 / ln_2, 29), (ln_2, 24))
        )


@cache
def table_entry(j, index_bits=8, entry_bits=30):
    """t = 2**entry_bits * 2**(-j/N) to nearest, N = 2**index_bits:
    (2t - 1)**N <= 2**((entry_bits + 1) N - j) < (2t + 1)**N.
    """
    count = 2**index_bits
    power = 2 ** ((entry_bits + 1) * count - j)
    low = 0
    high = 2 ** (entry_bits + 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**count <= power else (low, middle)
    return (low + 1) // 2


@cache
def exp2_negative(v, recipe=DEFAULT):
    """2**-v of v with 24 fraction bits: table, perhaps linear in the next bits, shift."""
    index_bits, entry_bits, interpolation = recipe
    whole, part = divmod(v, 2**FRACTION_BITS)
    if whole > entry_bits + 1:
        return 0
    rest_bits = FRACTION_BITS - index_bits
    index, rest = divmod(part, 2**rest_bits)
    mantissa = table_entry(index, index_bits, entry_bits)
    if interpolation == "linear":
        drop = mantissa - table_entry(index + 1, index_bits, entry_bits)
        mantissa -= _half_up(Fraction(drop * rest, 2**rest_bits))
    return _half_up(Fraction(mantissa, 2**whole))


def log2_fixed(value):
    """log2 of an integer with 24 fraction bits, by squaring a 30-bit mantissa in [1, 2),
    truncated each time.
    """
    whole = value.bit_length() - 1
    mantissa = value * 2**LOG_BITS // 2**whole
    result = whole
    for _ in range(FRACTION_BITS):
        mantissa = mantissa * mantissa // 2**LOG_BITS
        bit = int(mantissa >= 2 ** (LOG_BITS + 1))
        mantissa //= 2**bit
        result = 2 * result + bit
    return result


def exponents(logits, step_exp):
    """v_k of one row: (max z - z_k) log2(e), 24 fraction bits."""
    log2_e = constants()[0]
    scale = Fraction(2) ** (step_exp + FRACTION_BITS - 29)
    return [_half_up((max(logits) - z) * log2_e * scale) for z in logits]


def probabilities(logits, step_exp, recipe=DEFAULT):
    """(p_k with 16 fraction bits, the sum s) of one row."""
    e = [exp2_negative(v, recipe) for v in exponents(logits, step_exp)]
    total = sum(e)
    return [min(_half_up(Fraction(value * 2**16, total)), 2**16 - 1) for value in e], total


def loss(logits, label, step_exp, recipe=DEFAULT):
    """Cross-entropy of one row, 24 fraction bits."""
    _, total = probabilities(logits, step_exp, recipe)
    bits = log2_fixed(total) - recipe[1] * 2**FRACTION_BITS + exponents(logits, step_exp)[label]
    return _half_up(Fraction(bits * constants()[1], 2**24))


def exact_gradient(logits, label, step_exp, samples, recipe=DEFAULT):
    """(p - onehot) / samples for one row, as Fractions."""
    return [
        Fraction(p - (2**16 if k == label else 0), 2**16 * samples)
        for k, p in enumerate(probabilities(logits, step_exp, recipe)[0])
    ]


def gradient(
    logits,
    label,
    step_exp,
    samples,
    fmt,
    rounding="nearest_away",
    overflow="saturate",
    words=None,
    recipe=DEFAULT,
):
    """[(code, below, above, flushed)] of `exact_gradient`."""
    exact = exact_gradient(logits, label, step_exp, samples, recipe)
    return [
        quantized_quotient(value, fmt, rounding, overflow, word)
        for value, word in zip(exact, words or [None] * len(exact))
    ]


def quantized_quotient(exact, fmt, rounding="nearest_away", overflow="saturate", word=None):
    """(code, below, above, flushed) of an exact quotient.

    A stochastic mode sees it with 16 bits below the step, the last one sticky.
    """
    if word is None:
        return quantize(exact, fmt, rounding, overflow)
    guarded = exact / step(fmt) * 2**16
    kept = guarded.numerator // guarded.denominator
    kept += int(kept != guarded and kept % 2 == 0)
    rounded = round_exact(Fraction(kept, 2**16), rounding, word)
    return (*bound(rounded, fmt, overflow), exact != 0 and rounded == 0)


def wrong(logits, label):
    """Whether the first greatest logit is not at the label."""
    return logits.index(max(logits)) != label

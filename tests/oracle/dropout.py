"""Dropout: what stays, the scale of 1 / (1 - rate), and the way back."""

from fractions import Fraction

from oracle import philox
from oracle.rounding import bound, round_exact, sixteen_bits


def kept(rate, seed, number, layer, count):
    """Whether each element stays, in row-major order."""
    threshold = min(round(Fraction(rate) * 2**32), 2**32 - 1)
    return [word >= threshold for word in philox.words(seed, number, f"{layer}.dropout", 0, count)]


def scale(rate):
    return sixteen_bits(1 / (1 - Fraction(rate)))


def forward(codes, stays, rate, fmt):
    """(codes in the format, (below, above)) of flat codes."""
    mantissa, exponent = scale(rate)
    factor = mantissa * Fraction(2) ** exponent
    rows = [
        bound(round_exact(code * factor if stay else Fraction(0), "nearest_away"), fmt, "saturate")
        for code, stay in zip(codes, stays)
    ]
    return [row[0] for row in rows], tuple(sum(row[k] for row in rows) for k in (1, 2))


def backward(grads, stays, rate):
    """(codes, by how many bits their step is coarser) of flat gradient codes."""
    mantissa, exponent = scale(rate)
    share = Fraction(mantissa, 2**15)
    return [
        round_exact(grad * share if stay else Fraction(0), "nearest_away")
        for grad, stay in zip(grads, stays)
    ], exponent + 15

"""Activation functions on exact values: what is rounded, where it ends, and the derivative.

An activation is a dict: `kind` 'none', 'relu' (with `ceiling`, perhaps None) or 'clipped_relu'.
"""

from fractions import Fraction

from oracle.rounding import round_exact, step


def ceiling_code(activation, fmt):
    """The code of a ceiling below the range of the format, else None."""
    if activation.get("ceiling") is None:
        return None
    code = round_exact(Fraction(activation["ceiling"]) / step(fmt), "nearest_away")
    return code if code * step(fmt) < Fraction(2) ** fmt[1] else None


def value(z, activation):
    """What is rounded, of the exact Fraction z."""
    if activation["kind"] in ("relu", "clipped_relu"):
        return max(z, Fraction(0))
    return z


def derivative(z, activation, fmt):
    """The factor (a Fraction) of the gradient at z."""
    if activation["kind"] in ("relu", "clipped_relu"):
        code = ceiling_code(activation, fmt)
        ceiling = Fraction(2) ** fmt[1] if code is None else code * step(fmt)
        return Fraction(int(0 < z < ceiling))
    return Fraction(1)


def finer_bits(activation):
    """By how many bits the step of the gradient becomes finer."""
    return 0


def back(grads, factors, activation):
    """Codes of flat gradients before the activation, at the step finer by `finer_bits`."""
    scale = 2 ** finer_bits(activation)
    codes = [grad * factor * scale for grad, factor in zip(grads, factors)]
    assert all(code.denominator == 1 for code in codes)
    return [int(code) for code in codes]

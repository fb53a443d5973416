"""Velocities: v' = mu v + G + lambda W, exact and then quantized once."""

from fractions import Fraction

from oracle.rounding import quantize, sixteen_bits, step


def held(value):
    """The Fraction that the optimizer multiplies by: `value` with a mantissa of 16 bits."""
    if not value:
        return Fraction(0)
    mantissa, exponent = sixteen_bits(Fraction(value))
    return mantissa * Fraction(2) ** exponent


def velocity_format(bits, mu, decay, weight_fmt, grad_fmt):
    """The least range that holds (r_G + decay r_W) / (1 - mu)."""
    bound = (Fraction(2) ** grad_fmt[1] + decay * Fraction(2) ** weight_fmt[1]) / (1 - mu)
    range_exp = -200
    while Fraction(2) ** range_exp < bound:
        range_exp += 1
    return bits, range_exp, True


def advance(
    velocity, grad, weight, mu, decay, fmts, rounding="nearest_away", overflow="saturate", word=0
):
    """(v', below, above, flushed) of codes; fmts: of velocity, gradient and weight."""
    units = [step(fmt) for fmt in fmts]
    exact = mu * velocity * units[0] + grad * units[1] + decay * weight * units[2]
    return quantize(exact, fmts[0], rounding, overflow, word)

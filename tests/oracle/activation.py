"""Activation functions on exact values: what is rounded, where it ends, and the derivative.

An activation is a dict of the fields of fxsim.Activation.
"""

from fractions import Fraction
from math import floor

from oracle.rounding import code_range, quantize, round_exact, step


def ceiling_code(activation, fmt):
    """The code of a ceiling below the range of the format, else None."""
    if activation.get("ceiling") is None:
        return None
    code = round_exact(Fraction(activation["ceiling"]) / step(fmt), "nearest_away")
    return code if code * step(fmt) < Fraction(2) ** fmt[1] else None


def value(z, activation, fmt):
    """What is rounded, of the exact Fraction z."""
    kind = activation["kind"]
    if kind in ("relu", "clipped_relu"):
        return max(z, Fraction(0))
    if kind == "leaky_relu":
        return z if z > 0 else z * Fraction(2) ** activation["slope_exp"]
    return looked_up(z, activation, fmt) if kind == "table" else z


def derivative(z, activation, fmt, code):
    """The factor (a Fraction) of the gradient at z; code: of the rounded output."""
    kind = activation["kind"]
    if kind in ("relu", "clipped_relu"):
        own = ceiling_code(activation, fmt)
        ceiling = Fraction(2) ** fmt[1] if own is None else own * step(fmt)
        return Fraction(int(0 < z < ceiling))
    if kind == "leaky_relu":
        ceiling = Fraction(2) ** fmt[1]
        inside = (-ceiling if fmt[2] else 0) < value(z, activation, fmt) < ceiling
        slope = 1 if z > 0 else Fraction(2) ** activation["slope_exp"]
        return inside * Fraction(slope)
    if kind == "table":
        return slope_at(z, activation, code * step(fmt))
    return Fraction(1)


def finer_bits(activation):
    """By how many bits the step of the gradient becomes finer."""
    return -activation["slope_exp"] if activation["kind"] == "leaky_relu" else 0


def back(grads, factors, activation):
    """Exact gradients before the activation, in steps finer by `finer_bits`."""
    scale = 2 ** finer_bits(activation)
    return [grad * factor * scale for grad, factor in zip(grads, factors)]


def exponential(x):
    """exp of a Fraction, to far more digits than any format has."""
    halvings = 0
    while abs(x) > Fraction(1, 2):
        x = x / 2
        halvings += 1
    total = term = Fraction(1)
    for n in range(1, 60):
        term = shortened(term * x / n)
        total += term
    for _ in range(halvings):
        total = shortened(total * total)
    return total


def shortened(x, digits=2**400):
    return Fraction(floor(x * digits), digits)


def function(name, x):
    if name == "tanh":
        return 2 * function("sigmoid", 2 * x) - 1
    power = exponential(x)
    return power if name == "exp" else power / (1 + power)


def slope(name, x):
    y = function(name, x)
    return {"sigmoid": y - y * y, "tanh": 1 - y * y, "exp": y}[name]


def cell(z, activation):
    """(saturated index, rest in [0, 1]) of z, and the width of a cell."""
    bits = activation["index_bits"]
    width = Fraction(2) ** (activation["range_exp"] + 1 - bits)
    index = floor(z / width)
    low, high = code_range((bits, 0, True))
    if index < low:
        return low, Fraction(0), width
    if index > high:
        return high, Fraction(1), width
    return index, z / width - index, width


def looked_up(z, activation, fmt):
    index, rest, width = cell(z, activation)
    lowest, _ = code_range((activation["index_bits"], 0, True))

    def entry(i, shift):
        if activation["values"] is not None:
            exact = Fraction(activation["values"][i - lowest])
        else:
            exact = function(activation["function"], (i + shift) * width)
        return quantize(exact, fmt)[0] * step(fmt)

    if activation["interpolation"] == "none":
        return entry(index, Fraction(1, 2))
    left, right = entry(index, 0), entry(index + 1, 0)
    return left + rest * (right - left)


def slope_at(z, activation, y):
    name = activation["function"]
    if activation["derivative"] == "output":
        return {"sigmoid": y * (1 - y), "tanh": 1 - y * y, "exp": y}[name]
    index, _, width = cell(z, activation)
    if activation["slopes"] is not None:
        lowest, _ = code_range((activation["index_bits"], 0, True))
        slopes = [Fraction(each) for each in activation["slopes"]]
        largest = max(map(abs, slopes))
        range_exp = 0
        while largest >= Fraction(2) ** range_exp:
            range_exp += 1
        while 0 < largest < Fraction(2) ** (range_exp - 1):
            range_exp -= 1
        fmt = (16, range_exp, min(slopes) < 0)
        return quantize(slopes[index - lowest], fmt)[0] * step(fmt)
    range_exp = {"sigmoid": -2, "tanh": 0}.get(name)
    if range_exp is None:
        range_exp = 0
        while Fraction(2) ** range_exp < exponential(Fraction(2) ** activation["range_exp"]):
            range_exp += 1
    fmt = (16, range_exp, False)
    return quantize(slope(name, (index + Fraction(1, 2)) * width), fmt)[0] * step(fmt)

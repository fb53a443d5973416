"""The weight update with internal accumulator, on exact fractions."""

from oracle.rounding import bound, round_by_dropped_bits, round_exact, step


def rounded_update(grad, rate, unit, rounding, word):
    """rate * grad in steps of 1 / unit, rounded; unit: a Fraction, a power of two."""
    if rounding != "dropped_bits":
        return round_exact(rate * grad * unit, rounding, word)
    mantissa = rate.numerator
    while mantissa % 2 == 0:
        mantissa = mantissa // 2
    scale = rate / mantissa * unit
    if scale >= 1:
        return int(grad * mantissa * scale)
    return round_by_dropped_bits(grad * mantissa, scale.denominator.bit_length() - 1)


def update(
    weight,
    accumulator,
    grad,
    rate,
    weight_fmt,
    accumulator_fmt,
    grad_fmt,
    rounding="nearest_away",
    word=0,
):
    """(W', acc', events) of one weight; codes, with `rate` a Fraction.

    events: weight saturated, accumulator saturated, non-zero gradient gave no update, update left W
    as it was."""
    fine = step(accumulator_fmt)
    coarse = step(weight_fmt)
    u = rounded_update(grad, rate, step(grad_fmt) / fine, rounding, word) * fine
    t = weight * coarse + accumulator * fine - u
    rounded = round_exact(t / coarse, "nearest_up")
    new_weight = bound(rounded, weight_fmt, "saturate")[0]
    rest = (t - new_weight * coarse) / fine
    if rest.denominator != 1:
        raise ValueError("what is left must be a whole number of accumulator steps")
    new_accumulator = bound(int(rest), accumulator_fmt, "saturate")[0]
    events = (
        new_weight != rounded,
        new_accumulator != rest,
        grad != 0 and u == 0,
        u != 0 and new_weight == weight,
    )
    return new_weight, new_accumulator, events

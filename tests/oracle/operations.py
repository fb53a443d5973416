"""Single operations on nested lists of codes or exact values, and their one rounding."""

from fractions import Fraction

from oracle import activation, philox
from oracle.dropout import scale
from oracle.pooling import count, max_pool, output_shape, windows
from oracle.products import matmul, shape_of, zeros
from oracle.rounding import bound, quantize, round_exact, step


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def linear(x, weight, bias=None):
    """x (M, K) times weight (K, N), plus bias (N)."""
    return [
        [total + (bias[n] if bias else 0) for n, total in enumerate(row)]
        for row in matmul(x, weight)
    ]


def flat(array):
    """The numbers of nested lists, in row-major order."""
    return [value for part in array for value in flat(part)] if isinstance(array, list) else [array]


def at(array, index):
    """The number at an index of nested lists; an axis of one element takes any."""
    for place in index:
        array = array[place if len(array) > 1 else 0]
    return array


def indices(shape):
    if not shape:
        return [()]
    return [(place, *rest) for place in range(shape[0]) for rest in indices(shape[1:])]


def combined(function, x, y, shape):
    """Row-major list of function(x, y) over `shape`, to which both are broadcast."""
    values = []
    for index in indices(shape):
        own = index[len(index) - len(shape_of(x)) :]
        other = index[len(index) - len(shape_of(y)) :]
        values.append(function(at(x, own), at(y, other)))
    return values


def summed(x, axes):
    """Row-major list of the sums over `axes`."""
    shape = shape_of(x)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    totals = dict.fromkeys(indices([shape[axis] for axis in kept]), 0)
    for index in indices(shape):
        totals[tuple(index[axis] for axis in kept)] += at(x, index)
    return list(totals.values())


def relu(values, fmt, ceiling=None):
    """(values, masks): the gradient passes above 0 and below the ceiling.

    ceiling: a real number; None for the range of the format.
    """
    own = {"kind": "relu", "ceiling": ceiling}
    masks = [int(activation.derivative(value, own, fmt, None)) for value in values]
    return [activation.value(value, own, fmt) for value in values], masks


def max_pool_with_mask(codes, mask, size):
    """(greatest codes, places), nested; the place is their number where the mask is 0 there."""
    out, winner = max_pool(codes, size)
    for n, y, x, c, places in windows(shape_of(codes), size):
        i, j = places[winner[n][y][x][c]]
        if not mask[n][i][j][c]:
            winner[n][y][x][c] = count(size)
    return out, winner


def average_pool(codes, size):
    """The exact means of windows, nested."""
    out = zeros(*output_shape(shape_of(codes), size))
    for n, y, x, c, places in windows(shape_of(codes), size):
        out[n][y][x][c] = Fraction(sum(codes[n][i][j][c] for i, j in places), count(size))
    return out


def average_pool_grad(grads, size, shape):
    """The exact share of each element, nested; 0 where no window is."""
    out = zeros(*shape)
    for n, y, x, c, places in windows(shape, size):
        for i, j in places:
            out[n][i][j][c] += Fraction(grads[n][y][x][c], count(size))
    return out


def dropout(values, words, rate):
    """(exact scaled values, kept) of flat values."""
    mantissa, exponent = scale(rate)
    factor = mantissa * Fraction(2) ** exponent
    threshold = min(round(Fraction(rate) * 2**32), 2**32 - 1)
    kept = [int(word >= threshold) for word in words]
    return [value * factor * stays for value, stays in zip(values, kept)], kept


def update_alone(weight, grad, rate, weight_fmt, grad_fmt, rounding, word, overflow="saturate"):
    """(W', outside of its format, left as it was by a gradient that is not 0) without an accumulator."""
    exact = weight * step(weight_fmt) - rate * grad * step(grad_fmt)
    code, below, above, _ = quantize(exact, weight_fmt, rounding, overflow, word)
    return code, below or above, grad != 0 and code == weight


def quotient(exact, fmt, rounding, overflow, word):
    """`quantize` of an exact quotient.

    A stochastic rounding sees it with 16 bits below the step, the last one sticky.
    """
    if rounding not in ("stochastic", "stochastic_equal"):
        return quantize(exact, fmt, rounding, overflow)
    guarded = exact / step(fmt) * 2**16
    kept = guarded.numerator // guarded.denominator
    kept += int(kept != guarded and kept % 2 == 0)
    rounded = round_exact(Fraction(kept, 2**16), rounding, word)
    return (*bound(rounded, fmt, overflow), exact != 0 and rounded == 0)


def stream_words(seed, number, name, count):
    return philox.words(seed, number, name, 0, count)

"""Pooling over non-overlapping windows, with backward passes; the clipped ReLU's mask."""

from fractions import Fraction

from oracle.products import shape_of, zeros
from oracle.rounding import round_exact


def windows(shape, size):
    """(n, y, x, c, places) with the row-major input places (row, column) of each window."""
    batch, height, width, channels = shape
    for n in range(batch):
        for y in range(height // size):
            for x in range(width // size):
                places = [(y * size + i, x * size + j) for i in range(size) for j in range(size)]
                for c in range(channels):
                    yield n, y, x, c, places


def max_pool(codes, size):
    """(greatest codes, row-major place of each, the first on a tie)."""
    batch, height, width, channels = shape_of(codes)
    out = zeros(batch, height // size, width // size, channels)
    winner = zeros(batch, height // size, width // size, channels)
    for n, y, x, c, places in windows(shape_of(codes), size):
        values = [codes[n][i][j][c] for i, j in places]
        out[n][y][x][c] = max(values)
        winner[n][y][x][c] = values.index(max(values))
    return out, winner


def max_pool_backward(grads, winner, size, shape):
    out = zeros(*shape)
    for n, y, x, c, places in windows(shape, size):
        i, j = places[winner[n][y][x][c]]
        out[n][i][j][c] = grads[n][y][x][c]
    return out


def average_pool(codes, size):
    """Mean of each window, nearest, ties away from zero."""
    batch, height, width, channels = shape_of(codes)
    out = zeros(batch, height // size, width // size, channels)
    for n, y, x, c, places in windows(shape_of(codes), size):
        total = sum(codes[n][i][j][c] for i, j in places)
        out[n][y][x][c] = round_exact(Fraction(total, size * size), "nearest_away")
    return out


def finer_bits(size):
    """The least b with 2**b >= size**2."""
    bits = 0
    while 2**bits < size * size:
        bits += 1
    return bits


def average_pool_backward(grads, size, shape):
    """Each element's share of its window's gradient, at a step finer by `finer_bits(size)` bits."""
    out = zeros(*shape)
    scale = 2 ** finer_bits(size)
    for n, y, x, c, places in windows(shape, size):
        for i, j in places:
            out[n][i][j][c] = round_exact(
                Fraction(grads[n][y][x][c] * scale, size * size), "nearest_away"
            )
    return out


def relu_passes(z, fmt):
    """Whether the gradient passes: the exact value lies inside (0, r), r the range of `fmt`."""
    return 0 < z < Fraction(2) ** fmt[1]

"""Pooling over windows, with backward passes.

A window is a number, the size of square windows side by side, or (size, stride, padding): two
pairs and (top, bottom, left, right).
"""

from fractions import Fraction

from oracle.products import positions, shape_of, zeros
from oracle.rounding import round_exact


def geometry(window):
    """((rows, columns), stride, padding)."""
    return ((window, window), (window, window), (0,) * 4) if isinstance(window, int) else window


def count(window):
    """The places of a window."""
    (rows, columns), _, _ = geometry(window)
    return rows * columns


def overlap_bits(window):
    """The least b so that no element lies in more than 2**b windows."""
    (rows, columns), (down, across), _ = geometry(window)
    most = -(-rows // down) * -(-columns // across)
    bits = 0
    while 2**bits < most:
        bits += 1
    return bits


def output_shape(shape, window):
    size, stride, padding = geometry(window)
    return shape[0], *positions(shape, size, stride, padding), shape[3]


def windows(shape, window):
    """(n, y, x, c, places) with the row-major input places (row, column) of each window, None for
    those in the padding.
    """
    (rows, columns), (down, across), (top, _, left, _) = geometry(window)
    _, height, width, channels = shape
    batch, out_rows, out_columns, _ = output_shape(shape, window)
    for n in range(batch):
        for y in range(out_rows):
            for x in range(out_columns):
                places = [
                    (y * down - top + i, x * across - left + j)
                    for i in range(rows)
                    for j in range(columns)
                ]
                inside = [
                    place if 0 <= place[0] < height and 0 <= place[1] < width else None
                    for place in places
                ]
                for c in range(channels):
                    yield n, y, x, c, inside


def max_pool(codes, window):
    """(greatest codes, row-major place of each, the first on a tie)."""
    shape = output_shape(shape_of(codes), window)
    out = zeros(*shape)
    winner = zeros(*shape)
    for n, y, x, c, places in windows(shape_of(codes), window):
        values = {at: codes[n][place[0]][place[1]][c] for at, place in enumerate(places) if place}
        out[n][y][x][c] = max(values.values())
        winner[n][y][x][c] = min(at for at in values if values[at] == out[n][y][x][c])
    return out, winner


def max_pool_backward(grads, winner, window, shape):
    out = zeros(*shape)
    for n, y, x, c, places in windows(shape, window):
        i, j = places[winner[n][y][x][c]]
        out[n][i][j][c] += grads[n][y][x][c]
    return out


def average_pool(codes, window, rounding="nearest_away"):
    """Mean of each window, rounded."""
    out = zeros(*output_shape(shape_of(codes), window))
    for n, y, x, c, places in windows(shape_of(codes), window):
        total = sum(codes[n][i][j][c] for i, j in places)
        out[n][y][x][c] = round_exact(Fraction(total, count(window)), rounding)
    return out


def finer_bits(window):
    """The least b with 2**b >= the places of a window."""
    bits = 0
    while 2**bits < count(window):
        bits += 1
    return bits


def average_pool_backward(grads, window, shape, rounding="nearest_away"):
    """Each element's share of its windows' gradients, at a step finer by `finer_bits(window)`
    bits.
    """
    total = zeros(*shape)
    for n, y, x, c, places in windows(shape, window):
        for i, j in places:
            total[n][i][j][c] += grads[n][y][x][c]
    scale = Fraction(2 ** finer_bits(window), count(window))
    return [
        [
            [[round_exact(value * scale, rounding) for value in place] for place in row]
            for row in sample
        ]
        for sample in total
    ]

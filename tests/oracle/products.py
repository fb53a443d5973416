"""Matrix products, convolutions and their gradients, exact and with an ordered accumulator."""

from fractions import Fraction

from oracle.rounding import code_range, round_exact, wrap


def zeros(*shape):
    """Nested lists of zeros."""
    return [zeros(*shape[1:]) for _ in range(shape[0])] if shape else 0


def shape_of(array):
    return (len(array), *shape_of(array[0])) if isinstance(array, list) else ()


def matmul(a, b):
    return [
        [sum(a[m][k] * b[k][n] for k in range(len(b))) for n in range(len(b[0]))]
        for m in range(len(a))
    ]


def output_size(size, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride + 1


def taps(x_shape, w_shape, stride, padding):
    """(n, oy, ox, iy, ix, ky, kx) of every product of a convolution whose input is not padding."""
    batch, height, width, _ = x_shape
    rows, columns = w_shape[:2]
    for n in range(batch):
        for oy in range(output_size(height, rows, stride, padding)):
            for ox in range(output_size(width, columns, stride, padding)):
                for ky in range(rows):
                    for kx in range(columns):
                        iy = oy * stride + ky - padding
                        ix = ox * stride + kx - padding
                        if 0 <= iy < height and 0 <= ix < width:
                            yield n, oy, ox, iy, ix, ky, kx


def conv_forward(x, w, stride, padding):
    """Cross-correlation: y[n, oy, ox, o] = sum of x[n, iy, ix, c] w[ky, kx, c, o]."""
    batch, height, width, channels = shape_of(x)
    rows, columns, _, filters = shape_of(w)
    y = zeros(
        batch,
        output_size(height, rows, stride, padding),
        output_size(width, columns, stride, padding),
        filters,
    )
    for n, oy, ox, iy, ix, ky, kx in taps(shape_of(x), shape_of(w), stride, padding):
        for c in range(channels):
            for o in range(filters):
                y[n][oy][ox][o] += x[n][iy][ix][c] * w[ky][kx][c][o]
    return y


def conv_input_grad(g, w, x_shape, stride, padding):
    """Each product of the forward pass sends g w to its input."""
    dx = zeros(*x_shape)
    for n, oy, ox, iy, ix, ky, kx in taps(x_shape, shape_of(w), stride, padding):
        for c in range(x_shape[3]):
            for o in range(len(g[n][oy][ox])):
                dx[n][iy][ix][c] += g[n][oy][ox][o] * w[ky][kx][c][o]
    return dx


def conv_weight_grad(x, g, w_shape, stride, padding):
    """Each product of the forward pass sends x g to its weight."""
    dw = zeros(*w_shape)
    for n, oy, ox, iy, ix, ky, kx in taps(shape_of(x), w_shape, stride, padding):
        for c in range(w_shape[2]):
            for o in range(w_shape[3]):
                dw[ky][kx][c][o] += x[n][iy][ix][c] * g[n][oy][ox][o]
    return dw


def accumulate(products, bits, overflow, shift=0, rounding="floor"):
    """(sum, additions that overflowed) of `products` in a signed accumulator, bounded after every
    addition.

    Each product is first rounded to the accumulator's step, 2**shift products' steps.
    """
    low, high = code_range((bits, 0, True))
    total = overflows = 0
    for product in products:
        exact = total + round_exact(Fraction(product, 2**shift), rounding)
        if overflow == "wrap":
            total = wrap(exact, bits, True)
        else:
            total = low if exact < low else high if exact > high else exact
        overflows += total != exact
    return total, overflows


def ordered_terms(x, w, n, oy, ox, o, stride, padding):
    """Products of one output in the stated order.

    Input channel, kernel row, kernel column; padding is 0.
    """
    rows, columns, channels, _ = shape_of(w)
    height = len(x[n])
    width = len(x[n][0])
    terms = []
    for c in range(channels):
        for ky in range(rows):
            for kx in range(columns):
                iy = oy * stride + ky - padding
                ix = ox * stride + kx - padding
                inside = 0 <= iy < height and 0 <= ix < width
                terms.append(x[n][iy][ix][c] * w[ky][kx][c][o] if inside else 0)
    return terms

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
    """Positions along one axis.  padding: on both sides, or (before, after)."""
    before, after = (padding, padding) if isinstance(padding, int) else padding
    return (size + before + after - kernel) // stride + 1


def both(value):
    """(rows, columns) of a number or a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def sides(padding):
    """(top, bottom, left, right) of a number or of four."""
    return (padding,) * 4 if isinstance(padding, int) else tuple(padding)


def spans_of(kernel, dilation):
    """Rows and columns from the first tap to the last."""
    return [step * (taps - 1) + 1 for step, taps in zip(both(dilation), kernel)]


def around(padding, x_shape, w_shape, stride, dilation=1):
    """(top, bottom, left, right) of a padding in any of its forms.

    'same' by TensorFlow's formula: of the size modulo the stride.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        padding = (padding,) * 4 if isinstance(padding, int) else padding
        return padding if len(padding) == 4 else (padding[0],) * 2 + (padding[1],) * 2
    found = []
    for size, span, step in zip(x_shape[1:3], spans_of(w_shape[:2], dilation), both(stride)):
        total = max(span - (size % step or step), 0)
        found += [total // 2, total - total // 2]
    return tuple(found)


def positions(x_shape, w_shape, stride, padding, dilation=1):
    """Rows and columns of the output."""
    top, bottom, left, right = sides(padding)
    spans = spans_of(w_shape[:2], dilation)
    return [
        output_size(size, span, step, edge)
        for size, span, step, edge in zip(
            x_shape[1:], spans, both(stride), ((top, bottom), (left, right))
        )
    ]


def taps(x_shape, w_shape, stride, padding, dilation=1):
    """(n, oy, ox, iy, ix, ky, kx) of every product of a convolution whose input is not padding."""
    batch, height, width, _ = x_shape
    rows, columns = positions(x_shape, w_shape, stride, padding, dilation)
    for n in range(batch):
        for oy in range(rows):
            for ox in range(columns):
                for ky in range(w_shape[0]):
                    for kx in range(w_shape[1]):
                        iy, ix = read_at(oy, ox, ky, kx, stride, padding, dilation)
                        if 0 <= iy < height and 0 <= ix < width:
                            yield n, oy, ox, iy, ix, ky, kx


def read_at(oy, ox, ky, kx, stride, padding, dilation=1):
    """(row, column) of the image that output (oy, ox) reads through tap (ky, kx)."""
    top, _, left, _ = sides(padding)
    down, across = both(stride)
    row_step, column_step = both(dilation)
    return oy * down + ky * row_step - top, ox * across + kx * column_step - left


def channel_pairs(channels, filters, groups):
    """(channel of the image, channel of the weight, output) of every product at a tap."""
    for o in range(filters):
        for c in range(channels // groups):
            yield o // (filters // groups) * (channels // groups) + c, c, o


def conv_forward(x, w, stride, padding, dilation=1, groups=1):
    """Cross-correlation: y[n, oy, ox, o] = sum of x[n, iy, ix, c] w[ky, kx, c, o]."""
    filters = shape_of(w)[3]
    rows, columns = positions(shape_of(x), shape_of(w), stride, padding, dilation)
    y = zeros(len(x), rows, columns, filters)
    for n, oy, ox, iy, ix, ky, kx in taps(shape_of(x), shape_of(w), stride, padding, dilation):
        for read, c, o in channel_pairs(shape_of(x)[3], filters, groups):
            y[n][oy][ox][o] += x[n][iy][ix][read] * w[ky][kx][c][o]
    return y


def conv_input_grad(g, w, x_shape, stride, padding, dilation=1, groups=1):
    """Each product of the forward pass sends g w to its input."""
    dx = zeros(*x_shape)
    for n, oy, ox, iy, ix, ky, kx in taps(x_shape, shape_of(w), stride, padding, dilation):
        for read, c, o in channel_pairs(x_shape[3], shape_of(w)[3], groups):
            dx[n][iy][ix][read] += g[n][oy][ox][o] * w[ky][kx][c][o]
    return dx


def conv_weight_grad(x, g, w_shape, stride, padding, dilation=1, groups=1):
    """Each product of the forward pass sends x g to its weight."""
    dw = zeros(*w_shape)
    for n, oy, ox, iy, ix, ky, kx in taps(shape_of(x), w_shape, stride, padding, dilation):
        for read, c, o in channel_pairs(shape_of(x)[3], w_shape[3], groups):
            dw[ky][kx][c][o] += x[n][iy][ix][read] * g[n][oy][ox][o]
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

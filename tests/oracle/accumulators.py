"""Accumulators: the sums of a dot product's terms as hardware of limited width makes them.

An accumulator is a dict: `bits`, `overflow` (a mode of rounding.py), `when` ('each addition',
'each operation' or 'end'), `order` ('sequential', 'tree' or 'tiles' of `tile` terms), `rounding` and `drop` of the
terms, perhaps `bias` ('after' or 'first'), `lanes` and `axes` ('channel_first' or 'channel_last').
"""

from fractions import Fraction

from oracle.products import both, positions, read_at, shape_of, sides, zeros
from oracle.rounding import round_exact, wrap


def bounded(value, bits, overflow):
    """(value brought into `bits` signed bits, 1 where it was outside)."""
    low = -(2 ** (bits - 1))
    high = 2 ** (bits - 1) - 1
    if overflow == "saturate_symmetric":
        low = -high
    if low <= value <= high:
        return value, 0
    return {
        "saturate": min(max(value, low), high),
        "saturate_symmetric": min(max(value, low), high),
        "saturate_zero": 0,
        "wrap": wrap(value, bits, True),
    }[overflow], 1


class Adder:
    """Adds in the accumulator's width and counts its overflows."""

    def __init__(self, model, extra_bits=0):
        self.bits = model["bits"] + extra_bits
        self.overflow = model["overflow"]
        self.overflows = 0

    def __call__(self, *values):
        total, outside = bounded(sum(values), self.bits, self.overflow)
        self.overflows += outside
        return total


def tree_sum(values, add):
    """Each half of a power of two of values by itself, then both.

    A single value is added to nothing.
    """
    if len(values) == 1:
        return add(values[0])
    half = len(values) // 2
    return add(tree_sum(values[:half], add), tree_sum(values[half:], add))


def lane_sum(addends, model, add, start):
    """What one lane holds after its addends."""
    if model["order"] == "tree":
        width = 1
        while width < len(addends):
            width *= 2
        return tree_sum(addends + [0] * (width - len(addends)), add) if addends else 0
    size = model["tile"] if model["order"] == "tiles" else 1
    held = start
    for place in range(0, len(addends), size):
        part = sum(addends[place : place + size])
        held = add(held, add(part) if model["when"] == "each operation" else part)
    return held


def accumulate(terms, model, bias=None, shifts=(0, 0)):
    """(sum, overflows) of integer terms.

    The bias is the last addition, in a step to which the sum and the bias are shifted left by
    `shifts`; the adder is wider by as much.  Without one, nothing is added, in the same step.
    Where the bias comes first, lane 0 starts from it, in the accumulator's step.
    """
    addends = [round_exact(Fraction(term, 2 ** model["drop"]), model["rounding"]) for term in terms]
    first = bias is not None and model.get("bias") == "first"
    if first and shifts[0]:
        raise ValueError("the bias has a finer step than the accumulator")
    bias = (bias or 0) << shifts[1]
    add = Adder(model)
    last = Adder(model, shifts[0])
    if model["when"] == "end":
        return last((sum(addends) << shifts[0]) + bias), last.overflows
    lanes = [[] for _ in range(model.get("lanes", 1))]
    for k, addend in enumerate(addends):
        lanes[k % len(lanes)].append(addend)
    starts = [0] * len(lanes)
    if first:
        starts[0] = add(bias)
    sums = [lane_sum(own, model, add, start) for own, start in zip(lanes, starts)]
    total = sums[0]
    for more in sums[1:]:
        total = add(total, more)
    if not first:
        total = last(total << shifts[0], bias)
    return total, add.overflows + last.overflows


def ordered(channels, rows, columns, model):
    """(channel, kernel row, kernel column) of the terms of a convolution, in the model's order."""
    if model.get("axes") == "channel_last":
        return [(c, ky, kx) for ky in range(rows) for kx in range(columns) for c in range(channels)]
    return [(c, ky, kx) for c in range(channels) for ky in range(rows) for kx in range(columns)]


def code(array, *index):
    """The code at an index (n, y, x, c), 0 outside of the image."""
    n, y, x, c = index
    return array[n][y][x][c] if 0 <= y < len(array[n]) and 0 <= x < len(array[n][y]) else 0


def forward(x, w, stride, padding, model, bias=None, shifts=(0, 0), dilation=1, groups=1):
    """(sums (N, OH, OW, O), overflows), terms by input channel, kernel row, kernel column, or the
    channel last.
    """
    rows, columns, channels, filters = shape_of(w)

    def terms(n, oy, ox, o):
        first = o // (filters // groups) * channels
        for c, ky, kx in ordered(channels, rows, columns, model):
            place = read_at(oy, ox, ky, kx, stride, padding, dilation)
            yield code(x, n, *place, first + c) * w[ky][kx][c][o]

    return every(
        (len(x), *positions(shape_of(x), shape_of(w), stride, padding, dilation), filters),
        lambda *index: accumulate(list(terms(*index)), model, bias and bias[index[3]], shifts),
    )


def input_grad(g, w, x_shape, stride, padding, model, dilation=1, groups=1):
    """(sums (N, H, W, C), overflows), terms by output channel, kernel row, kernel column, or the
    channel last.

    A term is zero unless an output position of this tap reads the input.
    """
    rows, columns, channels, filters = shape_of(w)
    top, _, left, _ = sides(padding)
    row_step, column_step = both(dilation)

    def terms(n, iy, ix, c):
        first = c // channels * (filters // groups)
        for o, ky, kx in ordered(filters // groups, rows, columns, model):
            oy, off_y = divmod(iy + top - ky * row_step, both(stride)[0])
            ox, off_x = divmod(ix + left - kx * column_step, both(stride)[1])
            own = w[ky][kx][c % channels][first + o]
            yield 0 if off_y or off_x else code(g, n, oy, ox, first + o) * own

    return every(x_shape, lambda *index: accumulate(list(terms(*index)), model))


def weight_grad(x, g, w_shape, stride, padding, model, dilation=1, groups=1):
    """(sums (KH, KW, C, O), overflows), terms by image, row, column, whatever the axes."""
    batch, rows, columns, _ = shape_of(g)

    def terms(ky, kx, c, o):
        read = o // (w_shape[3] // groups) * w_shape[2] + c
        return [
            code(x, n, *read_at(oy, ox, ky, kx, stride, padding, dilation), read) * g[n][oy][ox][o]
            for n in range(batch)
            for oy in range(rows)
            for ox in range(columns)
        ]

    return every(w_shape, lambda *index: accumulate(terms(*index), model))


def every(shape, function):
    """(array of `shape` of function(index)[0], sum of function(index)[1])."""
    out = zeros(*shape)
    overflows = 0
    for a in range(shape[0]):
        for b in range(shape[1]):
            for c in range(shape[2]):
                for d in range(shape[3]):
                    out[a][b][c][d], met = function(a, b, c, d)
                    overflows += met
    return out, overflows

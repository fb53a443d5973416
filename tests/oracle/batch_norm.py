"""Batch norm of one channel on exact fractions, and of whole tensors channel by channel."""

from fractions import Fraction

from oracle.momentum import held
from oracle.rounding import bound, divide_nearest_away, quantize, round_exact, step

EPSILON = Fraction(1, 1024)
GUARD = 2**24
RUNNING = 2**16


def statistics(values):
    """(mean, variance), exact: the variance is the mean squared deviation."""
    mean = sum(values) / Fraction(len(values))
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


def inverse_root(variance, epsilon=EPSILON):
    """1 / sqrt(variance + epsilon) to 16 bits.

    The multiple m 2**e, 2**15 <= m <= 2**16, whose half-way marks enclose it.
    """
    square = 1 / (variance + epsilon)
    unit = Fraction(1)
    while (2**16 * unit) ** 2 <= square:
        unit *= 2
    while (2**15 * unit) ** 2 > square:
        unit /= 2
    # (low unit)**2 <= square < (high unit)**2
    low = 2**15
    high = 2**16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (middle * unit) ** 2 <= square else (low, middle)
    return (low if square < ((low + Fraction(1, 2)) * unit) ** 2 else high) * unit


def moved(running, code, rate=Fraction(1, 16)):
    """The running statistic, in units of 1 / RUNNING steps, after a batch whose statistic has
    this code.
    """
    return running + round_exact((code * RUNNING - running) * rate, "nearest_away")


def at_rest(running, fmt):
    """The code that inference takes."""
    return bound(divide_nearest_away(running, RUNNING), fmt, "saturate")[0]


def normalized(values, mean, root):
    """x-hat, exact."""
    return [(value - mean) * root for value in values]


def constants(grads, xs, gamma, root, grads_step, x_step, out_step, frozen=False):
    """(scale, slope, offset) of the gradient before batch norm, scale g + slope x + offset: exact
    values of rounded codes.

    grads, xs: exact values of one channel.
    """
    unit = out_step / GUARD
    scale = round_exact(gamma * root / (unit / grads_step), "nearest_away") * (unit / grads_step)
    if frozen:
        return scale, Fraction(0), Fraction(0)
    offset = -round_exact(scale * sum(grads) / len(grads) / unit, "nearest_away") * unit
    product = sum(g * x for g, x in zip(grads, xs))
    slope = -round_exact(scale * product / len(grads) / (unit / x_step), "nearest_away") * (
        unit / x_step
    )
    return scale, slope, offset


def channels(array):
    """Nested (N, H, W, O) to one flat list for each channel."""
    return [
        list(column)
        for column in zip(*(outputs for sample in array for row in sample for outputs in row))
    ]


def together(columns, shape):
    """The inverse of `channels`."""
    batch, height, width, _ = shape
    rows = iter(zip(*columns))
    return [[[list(next(rows)) for _ in range(width)] for _ in range(height)] for _ in range(batch)]


def forward(layer_name, z, own, parameters, run, norm):
    """(nested x-hat codes, inverse roots) from exact nested Z.

    In training, the statistics are those of the batch, and the running ones move, unless they are
    frozen.  norm: `epsilon`, `running_rate`, `frozen`.
    """
    epsilon = held(norm["epsilon"])
    shape = len(z), len(z[0]), len(z[0][0]), len(z[0][0][0])
    codes = run.quantize(z, layer_name, "preactivations", own["preactivations"])
    run.see("quantized_preactivations", layer_name, codes)
    unit = step(own["preactivations"])
    columns = [[code * unit for code in column] for column in channels(codes)]
    if run.training and not norm["frozen"]:
        rate = held(norm["running_rate"])
        found = of_batch(layer_name, columns, own, parameters, run, rate)
    else:
        found = {
            tensor: [at_rest(code, own[tensor]) for code in parameters[f"running_{tensor}"]]
            for tensor in ("mean", "variance")
        }
        for tensor, codes in found.items():
            run.see(tensor, layer_name, codes)
            run.see(f"running_{tensor}", layer_name, parameters[f"running_{tensor}"])
    roots = [inverse_root(code * step(own["variance"]), epsilon) for code in found["variance"]]
    unit_of_roots = root_unit(own["variance"], epsilon)
    run.see("inverse_roots", layer_name, [root / unit_of_roots for root in roots])
    rows = [
        normalized(column, mean * step(own["mean"]), root)
        for column, mean, root in zip(columns, found["mean"], roots)
    ]
    xs = run.quantize(together(rows, shape), layer_name, "normalized", own["normalized"])
    run.see("normalized", layer_name, xs)
    return xs, roots


def of_batch(layer_name, columns, own, parameters, run, rate):
    """Codes of the mean and the variance of each channel; the running statistics move."""
    exact = [statistics(column) for column in columns]
    found = {}
    for place, tensor in enumerate(("mean", "variance")):
        rows = [quantize(pair[place], own[tensor]) for pair in exact]
        found[tensor] = [row[0] for row in rows]
        run.counts[layer_name, tensor] = tuple(sum(row[k] for row in rows) for k in (1, 2, 3))
        running = f"running_{tensor}"
        parameters[running] = [
            moved(old, code, rate) for old, code in zip(parameters[running], found[tensor])
        ]
        run.see(tensor, layer_name, found[tensor])
        run.see(running, layer_name, parameters[running])
    return found


def root_unit(variance_fmt, epsilon=EPSILON):
    """The step of the mantissa of the smallest inverse root that the format allows."""
    bits, range_exp, signed = variance_fmt
    largest = (2 ** (bits - signed) - 1) * step(variance_fmt)
    unit = Fraction(1)
    square = 1 / (largest + epsilon)
    while (2**15 * unit) ** 2 >= square:
        unit /= 2
    while (2**15 * unit * 2) ** 2 < square:
        unit *= 2
    return unit


def backward(layer_name, grads, grads_step, xs, roots, own, parameters, run, frozen, trained=True):
    """(nested codes at the pre-activations, gradient codes of gamma and beta, if they are trained)
    from codes after the affine map.
    """
    shape = len(grads), len(grads[0]), len(grads[0][0]), len(grads[0][0][0])
    x_step = step(own["normalized"])
    out_step = step(own["preactivation_grads"])
    g_real = [[code * grads_step for code in column] for column in channels(grads)]
    x_real = [[code * x_step for code in column] for column in channels(xs)]
    found = {}
    if trained:
        products = [sum(g * x for g, x in zip(*pair)) for pair in zip(g_real, x_real)]
        totals = [sum(column) for column in g_real]
        for kind, sums in (("gamma", products), ("beta", totals)):
            tensor = f"{kind}_grads"
            found[kind] = run.quantize(sums, layer_name, tensor, own[tensor])
            run.see(tensor, layer_name, found[kind])
    rows = [
        constants(g, x, gamma * step(own["gamma"]), root, grads_step, x_step, out_step, frozen)
        for g, x, gamma, root in zip(g_real, x_real, parameters["gamma"], roots)
    ]
    unit = out_step / GUARD
    for place, (kind, own_unit) in enumerate(
        (("scales", unit / grads_step), ("slopes", unit / x_step), ("offsets", unit))
    ):
        run.see(f"normalization_{kind}", layer_name, [row[place] / own_unit for row in rows])
    columns = [
        [scale * a + slope * b + offset for a, b in zip(g, x)]
        for g, x, (scale, slope, offset) in zip(g_real, x_real, rows)
    ]
    codes = run.quantize(
        together(columns, shape), layer_name, "preactivation_grads", own["preactivation_grads"]
    )
    return codes, found

"""A whole training step of a sequential network, following the numerical contract line by line.

A network is a list of layers, each a dict: `name`; `kind` 'conv' (with `stride` and `padding`) or
'dense'; `activation`, as in activation.py; `pool` None or (kind, size); `dropout`, its rate;
perhaps `accumulators`, those of accumulators.py for some of its three products.  `formats` maps a
layer's name to its formats by tensor; `modes` maps (what, tensor) to a rounding or overflow mode.
The state maps a layer's name
to a dict of `weight`, `bias`
and their accumulators `weight_acc`, `bias_acc`.
"""

from fractions import Fraction
from functools import partial

from oracle import (
    accumulators,
    activation,
    dropout,
    lfsr,
    losses,
    momentum,
    philox,
    pooling,
    products,
    softmax,
)
from oracle.operations import update_alone
from oracle.rounding import quantize_all, step
from oracle.update import update


def flatten(array):
    return (
        [item for part in array for item in flatten(part)] if isinstance(array, list) else [array]
    )


def reshape(flat, shape):
    """Nested lists of `shape` from a flat list in row-major order."""
    if not shape:
        return flat[0]
    size = len(flat) // shape[0]
    return [reshape(flat[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


def map_nested(function, *arrays):
    if isinstance(arrays[0], list):
        return [map_nested(function, *parts) for parts in zip(*arrays)]
    return function(*arrays)


class Run:
    """One step: the modes, the random words, and a record of every tensor and count."""

    def __init__(self, modes, seed, number):
        self.modes = modes
        self.seed = seed
        self.number = number
        self.tensors = {}
        self.counts = {}
        self.stopped = {}
        self.overflows = {}
        self.training = True

    def mode(self, what, tensor):
        return self.modes.get(
            (what, tensor), {"rounding": "nearest_away", "overflow": "saturate"}[what]
        )

    def words(self, layer, tensor, count):
        """Words of a stochastic rounding in row-major order, else None."""
        if not self.mode("rounding", tensor).startswith("stochastic"):
            return None
        source = self.modes.get(("words", f"{layer}.{tensor}"), self.modes.get(("words", tensor)))
        if source is not None and source["kind"] == "lfsr":
            return lfsr.words(source, self.number, 0, count)
        if source is not None and source["kind"] == "memory":
            places = range(self.number * count, (self.number + 1) * count)
            memory = source["memory"]
            return [memory[place % len(memory)] << (32 - source["bits"]) for place in places]
        words = philox.words(self.seed, self.number, f"{layer}.{tensor}", 0, count)
        dropped = 32 - source["bits"] if source else 0
        return [word >> dropped << dropped for word in words]

    def quantize(self, values, layer, tensor, fmt, ceiling=None):
        """Nested Fractions to nested codes, counted as (layer, tensor)."""
        flat = flatten(values)
        modes = self.mode("rounding", tensor), self.mode("overflow", tensor)
        codes, self.counts[layer, tensor] = quantize_all(
            flat, fmt, *modes, self.words(layer, tensor, len(flat)), ceiling
        )
        return reshape(codes, products.shape_of(values))

    def see(self, tensor, layer, codes):
        self.tensors[tensor, layer] = codes


def as_conv(layer, source, weight):
    """(source, weight, stride, padding).

    A dense layer is a 1x1 convolution of its flattened input.
    """
    if layer["kind"] == "conv":
        return source, weight, layer["stride"], layer["padding"]
    return [[[flatten(sample)]] for sample in source], [[weight]], 1, 0


def further(layer):
    """Dilation and groups of a layer, for the functions of `products` and `accumulators`."""
    return {key: layer[key] for key in ("dilation", "groups") if key in layer}


def accumulated(layer, kind, product, run, sums_exact, sums_in):
    """(sums, their step) of products with this step.

    Of sums_exact(), or in the accumulator that the layer has for them.
    """
    model = layer.get("accumulators", {}).get(kind)
    if model is None:
        return sums_exact(), product
    drop = model["drop"] if model["step_exp"] is None else model["step_exp"] - exponent(product)
    sums, run.overflows[layer["name"], kind] = sums_in({**model, "drop": drop})
    return sums, product * 2**drop


def preactivations(layer, x, w, stride, padding, bias, product, bias_step, run):
    """(nested codes of Z, its step), the bias included; bias and its step may be None."""

    def exact():
        return products.conv_forward(x, w, stride, padding, **further(layer))

    def steps(total_step):
        if bias_step is None:
            return total_step, (0, 0)
        finest = min(total_step, bias_step)
        return finest, (exponent(total_step / finest), exponent(bias_step / finest))

    def in_accumulator(model):
        _, shifts = steps(product * 2 ** model["drop"])
        return accumulators.forward(x, w, stride, padding, model, bias, shifts, **further(layer))

    sums, total_step = accumulated(layer, "forward", product, run, exact, in_accumulator)
    finest, (left, bias_left) = steps(total_step)
    if bias is not None and "forward" not in layer.get("accumulators", {}):
        sums = [
            [
                [
                    [(total << left) + (b << bias_left) for total, b in zip(outputs, bias)]
                    for outputs in row
                ]
                for row in sample
            ]
            for sample in sums
        ]
    return sums, finest


def forward(layers, formats, logits_fmt, state, images, run):
    """(logits, records).

    The codes of the class scores, and what the backward pass needs of each layer.
    """
    records = []
    source = images
    for layer, following in zip(layers, [*layers[1:], None]):
        name = layer["name"]
        own = formats[layer["name"]]
        run.see("activations", name, source)
        run.see("weights", name, state[name]["weight"])
        bias_codes = state[name].get("bias")
        if bias_codes is not None:
            run.see("bias", name, bias_codes)
        x, w, stride, padding = as_conv(layer, source, state[name]["weight"])
        product = step(own["activations"]) * step(own["weights"])
        bias = None if bias_codes is None else step(own["bias"])
        z, finest = preactivations(layer, x, w, stride, padding, bias_codes, product, bias, run)
        run.see("preactivations", name, z)
        z = map_nested(lambda code, finest=finest: code * finest, z)
        owner, tensor, fmt = (
            (name, "logits", logits_fmt)
            if following is None
            else (following["name"], "activations", formats[following["name"]]["activations"])
        )
        codes, factors = activated(layer, z, (owner, tensor, fmt), run)
        winner = None
        full_shape = products.shape_of(codes)
        if layer["pool"] and layer["pool"][0] == "max":
            codes, winner = pooling.max_pool(codes, layer["pool"][1])
        elif layer["pool"]:
            codes = pooling.average_pool(codes, *layer["pool"][1:])
        if layer["dropout"]:
            codes = drop(layer, codes, fmt, run)
        records.append((layer, source, factors, winner, full_shape))
        source = codes
    logits = [flatten(sample) for sample in source]
    run.see("logits", layers[-1]["name"], source)
    return logits, records


def activated(layer, z, output, run):
    """(nested codes, nested derivatives) of exact nested values; output: owner, tensor, format."""
    owner, tensor, fmt = output
    own = layer["activation"]
    fmt = relu_format(layer, fmt)
    values = map_nested(lambda exact: activation.value(exact, own, fmt), z)
    codes = run.quantize(values, owner, tensor, fmt, activation.ceiling_code(own, fmt))
    factors = map_nested(lambda exact, code: activation.derivative(exact, own, fmt, code), z, codes)
    return codes, factors


def relu_format(layer, fmt):
    """Where dropout follows a clipped ReLU, the format's room above 2 is for its scale.

    The ReLU clips to 2 at the same step.
    """
    bits, range_exp, signed = fmt
    clipped = layer["activation"]["kind"] == "clipped_relu"
    room = max(range_exp - 1, 0) if clipped and layer["dropout"] else 0
    return bits - room, range_exp - room, signed


def drop(layer, codes, fmt, run):
    name = layer["name"]
    rate = layer["dropout"]
    flat = flatten(codes)
    dropped, clipped = dropout.forward(
        flat, dropout.kept(rate, run.seed, run.number, name, len(flat)), rate, fmt
    )
    run.counts[name, "dropout"] = (*clipped, 0)
    return reshape(dropped, products.shape_of(codes))


def targets_of(kind, logits, targets, logits_fmt):
    """Target codes of every image; a label becomes a row with a one."""
    if kind == "softmax_cross_entropy" or isinstance(targets[0], list):
        return targets
    return [losses.onehot(label, len(logits[0]), logits_fmt) for label in targets]


def loss_and_wrong(kind, logits, targets, logits_fmt, recipe=softmax.DEFAULT):
    """(sum of the losses of all images, in the loss's unit; images that err, None for tensors)."""
    unit = exponent(step(logits_fmt))
    wrong = None
    if not isinstance(targets[0], list):
        wrong = sum(softmax.wrong(row, label) for row, label in zip(logits, targets))
    if kind == "softmax_cross_entropy":
        return sum(softmax.loss(*each, unit, recipe) for each in zip(logits, targets)), wrong
    rows = targets_of(kind, logits, targets, logits_fmt)
    return sum(losses.loss(kind, *each, unit, recipe) for each in zip(logits, rows)), wrong


def loss_gradient(
    layers,
    formats,
    logits_fmt,
    logits,
    targets,
    run,
    kind="softmax_cross_entropy",
    recipe=softmax.DEFAULT,
):
    """G^A of the last layer, codes of the shape of its output."""
    name = layers[-1]["name"]
    words = run.words(name, "activation_grads", len(flatten(logits)))
    modes = run.mode("rounding", "activation_grads"), run.mode("overflow", "activation_grads")
    unit = exponent(step(logits_fmt))
    fmt = formats[name]["activation_grads"]
    cells = []
    targets = targets_of(kind, logits, targets, logits_fmt)
    for n, (row, target) in enumerate(zip(logits, targets)):
        own = words and words[n * len(row) : (n + 1) * len(row)]
        if kind == "softmax_cross_entropy":
            cells += softmax.gradient(row, target, unit, len(logits), fmt, *modes, own, recipe)
        else:
            cells += losses.gradient(kind, row, target, unit, len(logits), fmt, modes, own, recipe)
    run.counts[name, "activation_grads"] = tuple(sum(cell[k] for cell in cells) for k in (1, 2, 3))
    shape = products.shape_of(run.tensors["logits", name])
    return reshape([cell[0] for cell in cells], shape)


def exponent(unit):
    """e of a Fraction that is 2**e."""
    return unit.numerator.bit_length() - unit.denominator.bit_length()


def back_to_preactivations(layer, grads, formats, record, run):
    """(codes, by how many bits their step is finer) of the gradient at the pre-activations.

    record: (derivatives, winners, shape before pooling).
    """
    factors, winner, shape = record
    bits = formats["activation_grads"][0]
    finer = 0
    if layer["dropout"]:
        flat = flatten(grads)
        rate = layer["dropout"]
        flat, coarser = dropout.backward(
            flat, dropout.kept(rate, run.seed, run.number, layer["name"], len(flat)), rate
        )
        grads = reshape(flat, products.shape_of(grads))
        finer = -coarser
        bits += dropout.scale(rate)[0] != 2**15
    if layer["pool"] and layer["pool"][0] == "max":
        bits += pooling.overlap_bits(layer["pool"][1])
        grads = pooling.max_pool_backward(grads, winner, layer["pool"][1], shape)
    elif layer["pool"]:
        finer += pooling.finer_bits(layer["pool"][1])
        bits += 2 ** pooling.finer_bits(layer["pool"][1]) != pooling.count(layer["pool"][1])
        bits += pooling.overlap_bits(layer["pool"][1])
        grads = pooling.average_pool_backward(grads, layer["pool"][1], shape, *layer["pool"][2:])
    own = layer["activation"]
    exact = reshape(activation.back(flatten(grads), flatten(factors), own), shape)
    finer += activation.finer_bits(own)
    given = formats.get("relu_input_grads")
    if own["kind"] != "table" and given is None:
        return map_nested(int, exact), finer
    unit = step(formats["activation_grads"]) / Fraction(2) ** finer
    fmt = given or (bits, exponent(unit) + bits - 1, True)
    codes = run.quantize(
        map_nested(lambda code: code * unit, exact), layer["name"], "relu_input_grads", fmt
    )
    return codes, exponent(step(formats["activation_grads"]) / step(fmt))


def trained(layer):
    """The parameters of a layer that are trained."""
    return {"all": ("weight", "bias"), "bias": ("bias",), "none": ()}[layer.get("train", "all")]


def weight_gradient(layer, own, operands, unit, run):
    """Codes of the gradient of a layer's weights; unit: the step of the gradient at Z."""
    name = layer["name"]
    more = further(layer)
    sums, scale = accumulated(
        layer,
        "weight_grad",
        unit * step(own["activations"]),
        run,
        partial(products.conv_weight_grad, *operands, **more),
        partial(accumulators.weight_grad, *operands, **more),
    )
    values = map_nested(lambda total: total * scale, sums)
    codes = run.quantize(values, name, "weight_grads", own["weight_grads"])
    codes = codes if layer["kind"] == "conv" else codes[0][0]
    run.see("weight_grads", name, codes)
    return codes


def backward(formats, state, grads, records, run):
    """Layer -> kind -> gradient codes, of what is trained; it stops at the lowest such layer."""
    result = {}
    for position in reversed(range(len(records))):
        layer, source, factors, winner, shape = records[position]
        name = layer["name"]
        own = formats[layer["name"]]
        if not any(trained(record[0]) for record in records[: position + 1]):
            break
        run.see("activation_grads", name, grads)
        inner, finer = back_to_preactivations(layer, grads, own, (factors, winner, shape), run)
        run.see("preactivation_grads", name, inner)
        unit = step(own["activation_grads"]) / Fraction(2) ** finer
        x, w, stride, padding = as_conv(layer, source, state[name]["weight"])
        geometry = stride, padding
        more = further(layer)
        result[name] = {}
        if "weight" in trained(layer):
            operands = x, inner, products.shape_of(w), *geometry
            result[name]["weight"] = weight_gradient(layer, own, operands, unit, run)
        per_filter = list(zip(*(outputs for sample in inner for row in sample for outputs in row)))
        if "bias" in trained(layer) and "bias" in state[name]:
            sums = [sum(column) * unit for column in per_filter]
            result[name]["bias"] = run.quantize(sums, name, "bias_grads", own["bias_grads"])
            run.see("bias_grads", name, result[name]["bias"])
        if position and any(trained(record[0]) for record in records[:position]):
            below = records[position - 1][0]["name"]
            sums, scale = accumulated(
                layer,
                "input_grad",
                unit * step(own["weights"]),
                run,
                partial(
                    products.conv_input_grad, inner, w, products.shape_of(x), *geometry, **more
                ),
                partial(accumulators.input_grad, inner, w, products.shape_of(x), *geometry, **more),
            )
            sums = reshape(flatten(sums), products.shape_of(source))
            grads = run.quantize(
                map_nested(lambda total, scale=scale: total * scale, sums),
                below,
                "activation_grads",
                formats[below]["activation_grads"],
            )
    return result


def update_parameter(codes, accumulators, grads, rate, fmts, run, layer, tensor):
    """(codes, accumulators, events summed) of one parameter."""
    flat = [flatten(array) for array in (codes, accumulators, grads)]
    words = run.words(layer, tensor, len(flat[0])) or [0] * len(flat[0])
    rows = [
        update(*own, rate, *fmts, run.mode("rounding", tensor), word)
        for *own, word in zip(*flat, words)
    ]
    shape = products.shape_of(codes)
    events = [sum(row[2][k] for row in rows) for k in range(4)]
    return (
        reshape([row[0] for row in rows], shape),
        reshape([row[1] for row in rows], shape),
        events,
    )


def velocities(parameters, kind, grads, fmts, optimizer, run, layer, tensor):
    """(codes, format) of the velocities of one parameter; fmts: of parameter and gradient."""
    mu = momentum.held(optimizer["momentum"])
    decay = momentum.held(optimizer["weight_decay"] if kind == "weight" else 0)
    fmt = momentum.velocity_format(optimizer["velocity_bits"], mu, decay, *fmts)
    old = parameters.get(f"{kind}_velocity") or map_nested(lambda _: 0, grads)
    flat = [flatten(array) for array in (old, grads, parameters[kind])]
    words = run.words(layer, tensor, len(flat[0])) or [0] * len(flat[0])
    modes = run.mode("rounding", tensor), run.mode("overflow", tensor)
    rows = [
        momentum.advance(*own, mu, decay, (fmt, fmts[1], fmts[0]), *modes, word)
        for *own, word in zip(*flat, words)
    ]
    run.counts[layer, tensor] = tuple(sum(row[k] for row in rows) for k in (1, 2, 3))
    parameters[f"{kind}_velocity"] = reshape([row[0] for row in rows], products.shape_of(grads))
    run.see(tensor, layer, parameters[f"{kind}_velocity"])
    return parameters[f"{kind}_velocity"], fmt


def update_all(formats, state, grads, rate, run, optimizer=None):
    tensors = {"weight": "weights", "bias": "bias"}
    for name, own in grads.items():
        for kind, codes in own.items():
            update_kind(formats, state, codes, kind, tensors[kind], rate, run, name, optimizer)


def update_kind(formats, state, grads, kind, tensor, rate, run, name, optimizer):
    """One parameter of a layer, and what is seen and counted of it."""
    own = formats[name]
    parameters = state[name]
    prefix = "" if kind == "weight" else "bias_"
    grads_fmt = own[f"{kind}_grads"]
    if optimizer:
        grads, grads_fmt = velocities(
            parameters,
            kind,
            grads,
            (own[tensor], grads_fmt),
            optimizer,
            run,
            name,
            f"{prefix}velocities",
        )
    accumulator = own[f"{prefix}accumulators"]
    if accumulator is None:
        update_fmt = own.get(f"{prefix}updates")
        if update_fmt is not None:
            exact = map_nested(lambda code: rate * code * step(grads_fmt), grads)
            grads, grads_fmt, rate = (
                run.quantize(exact, name, f"{prefix}updates", update_fmt),
                update_fmt,
                1,
            )
            run.see(f"{prefix}updates", name, grads)
        fmts = own[tensor], grads_fmt
        update_without(parameters, kind, grads, rate, fmts, run, name, f"{prefix}accumulators")
        run.see(f"updated_{tensor}", name, parameters[kind])
        return
    parameters[kind], parameters[f"{kind}_acc"], events = update_parameter(
        parameters[kind],
        parameters[f"{kind}_acc"],
        grads,
        rate,
        (own[tensor], accumulator, grads_fmt),
        run,
        name,
        f"{prefix}accumulators",
    )
    if kind == "weight":
        run.counts[name, "weights"] = (0, events[0], 0)
        run.stopped[name] = events[3]
    run.counts[name, f"{prefix}accumulators"] = (0, events[1], events[2])
    run.see(f"updated_{tensor}", name, parameters[kind])
    run.see(f"{prefix}accumulators", name, parameters[f"{kind}_acc"])


def update_without(parameters, kind, grads, rate, fmts, run, name, tensor):
    """One parameter without an accumulator; `tensor` names its rounding and its words."""
    flat = [flatten(array) for array in (parameters[kind], grads)]
    words = run.words(name, tensor, len(flat[0])) or [0] * len(flat[0])
    rounding, overflow = run.mode("rounding", tensor), run.mode("overflow", tensor)
    rows = [
        update_alone(*own, rate, *fmts, rounding, word, overflow)
        for *own, word in zip(*flat, words)
    ]
    parameters[kind] = reshape([row[0] for row in rows], products.shape_of(grads))
    if kind == "weight":
        run.counts[name, "weights"] = (0, sum(row[1] for row in rows), 0)
        run.stopped[name] = sum(row[2] for row in rows)


def train_step(
    layers,
    formats,
    logits_fmt,
    state,
    images,
    targets,
    rate,
    modes=None,
    seed=0,
    number=0,
    optimizer=None,
    kind="softmax_cross_entropy",
    recipe=softmax.DEFAULT,
):
    """One SGD step; `state` is changed in place.  targets: labels, or a list of codes for each
    image.  kind: of the loss.  recipe: of its exponential.  optimizer: None, or `momentum`, `weight_decay`
    and `velocity_bits`.

    Returns (run, loss_sum, wrong): run.tensors[tensor, layer], run.counts[layer, tensor],
    run.stopped[layer]."""
    run = Run(modes or {}, seed, number)
    logits, records = forward(layers, formats, logits_fmt, state, images, run)
    loss_sum, wrong = loss_and_wrong(kind, logits, targets, logits_fmt, recipe)
    arriving = loss_gradient(layers, formats, logits_fmt, logits, targets, run, kind, recipe)
    grads = backward(formats, state, arriving, records, run)
    update_all(formats, state, grads, rate, run, optimizer)
    return run, loss_sum, wrong

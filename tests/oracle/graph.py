"""A whole training step of any network: batch norm, residual additions, outputs with several
readers.

As step.py, whose conventions these are.  A layer has besides: `source`, the name of the layer that
it reads, None for the pictures; `add`, the name of the layer whose output it adds, or None;
`batch_norm`, a dict of the fields of fxsim.BatchNorm, or None.  The state of a layer with batch norm
has gamma, beta, gamma_acc, beta_acc, running_mean and running_variance in place of the bias.
"""

from fractions import Fraction
from functools import partial

from oracle import accumulators, batch_norm, philox, pooling, products, softmax
from oracle.rounding import step
from oracle.step import (
    Run,
    accumulated,
    activated,
    as_conv,
    back_to_preactivations,
    drop,
    exponent,
    flatten,
    further,
    loss_gradient,
    map_nested,
    preactivations,
    reshape,
    trained,
    update_parameter,
    velocities,
)


def real(codes, unit):
    return map_nested(lambda code: code * unit, codes)


def output_of(name, layers, formats, logits_fmt):
    """(owner, tensor, format) of the output of a layer."""
    readers = [layer["name"] for layer in layers if layer["source"] == name]
    if name == layers[-1]["name"]:
        return name, "logits", logits_fmt
    if readers:
        return readers[0], "activations", formats[readers[0]]["activations"]
    return name, "branch", formats[name]["branch"]


def relu_input(layer, x, w, stride, padding, own, parameters, branch, run):
    """(exact nested values that the ReLU reads, x-hat codes, inverse roots).

    Branch: (codes, step), or None.
    """
    name = layer["name"]
    norm = layer["batch_norm"]
    addend = None if norm else step(own["bias"])
    bias = None if norm else parameters["bias"]
    z, unit = preactivations(
        layer,
        x,
        w,
        stride,
        padding,
        bias,
        step(own["activations"]) * step(own["weights"]),
        addend,
        run,
    )
    run.see("preactivations", name, z)
    value = real(z, unit)
    xs = None
    roots = None
    if norm:
        xs, roots = batch_norm.forward(name, value, own, parameters, run, norm)
        gamma = real(parameters["gamma"], step(own["gamma"]))
        beta = real(parameters["beta"], step(own["beta"]))
        x_step = step(own["normalized"])
        value = [
            [
                [[g * x * x_step + b for g, x, b in zip(gamma, outputs, beta)] for outputs in row]
                for row in sample
            ]
            for sample in xs
        ]
        unit = min(step(own["gamma"]) * x_step, step(own["beta"]))
    if branch:
        value = map_nested(lambda total, code: total + code * branch[1], value, branch[0])
        unit = min(unit, branch[1])
    if norm or branch:
        run.see("relu_inputs", name, map_nested(lambda total: total / unit, value))
    return value, xs, roots


def forward(layers, formats, logits_fmt, state, images, run):
    """(logits, records by name)."""
    outputs = {None: images}
    records = {}
    for layer in layers:
        name = layer["name"]
        own = formats[layer["name"]]
        parameters = state[layer["name"]]
        source = outputs[layer["source"]]
        run.see("activations", name, source)
        run.see("weights", name, parameters["weight"])
        for kind in ("gamma", "beta") if layer["batch_norm"] else ("bias",):
            run.see(kind, name, parameters[kind])
        x, w, stride, padding = as_conv(layer, source, parameters["weight"])
        branch = layer["add"] and (
            outputs[layer["add"]],
            step(output_of(layer["add"], layers, formats, logits_fmt)[2]),
        )
        value, xs, roots = relu_input(layer, x, w, stride, padding, own, parameters, branch, run)
        owner, tensor, fmt = output_of(name, layers, formats, logits_fmt)
        codes, factors = activated(layer, value, (owner, tensor, fmt), run)
        winner = None
        shape = products.shape_of(codes)
        if layer["pool"] and layer["pool"][0] == "max":
            codes, winner = pooling.max_pool(codes, layer["pool"][1])
        elif layer["pool"]:
            codes = pooling.average_pool(codes, *layer["pool"][1:])
        if layer["dropout"] and run.training:
            codes = drop(layer, codes, fmt, run)
        records[name] = layer, source, factors, winner, shape, xs, roots
        if tensor != "activations":
            run.see(tensor, name, codes)
        outputs[name] = codes
    return [flatten(sample) for sample in outputs[layers[-1]["name"]]], records


def reached(layers):
    """None and the layers at whose output the gradient is needed."""
    found = set()
    for layer in layers:
        if trained(layer) or layer["source"] in found or layer["add"] in found:
            found.add(layer["name"])
    return found


def backward(layers, formats, state, scores_grad, records, run):
    """Layer -> kind of parameter -> gradient codes, of what is trained."""
    arriving = {}
    result = {}
    wanted = reached(layers)
    for layer in reversed(layers):
        name = layer["name"]
        if name not in wanted:
            continue
        own = formats[layer["name"]]
        parameters = state[layer["name"]]
        _, source, factors, winner, shape, xs, roots = records[name]
        grads = scores_grad
        if layer is not layers[-1]:
            total = [sum(values) for values in zip(*arriving.pop(name))]
            shape_out = pooled_shape(layer, shape)
            grads = run.quantize(
                reshape(total, shape_out), name, "activation_grads", own["activation_grads"]
            )
        run.see("activation_grads", name, grads)
        inner, finer = back_to_preactivations(layer, grads, own, (factors, winner, shape), run)
        unit = step(own["activation_grads"]) / Fraction(2) ** finer
        if layer["add"] in wanted:
            arriving.setdefault(layer["add"], []).append([code * unit for code in flatten(inner)])
        found = {}
        if layer["batch_norm"]:
            run.see("relu_input_grads", name, inner)
            frozen = layer["batch_norm"]["frozen"]
            inner, found = batch_norm.backward(
                name, inner, unit, xs, roots, own, parameters, run, frozen, bool(trained(layer))
            )
            unit = step(own["preactivation_grads"])
        run.see("preactivation_grads", name, inner)
        x, w, stride, padding = as_conv(layer, source, parameters["weight"])
        geometry = products.shape_of(w), stride, padding
        more = further(layer)
        if "weight" in trained(layer):
            sums, scale = accumulated(
                layer,
                "weight_grad",
                unit * step(own["activations"]),
                run,
                partial(products.conv_weight_grad, x, inner, *geometry, **more),
                partial(accumulators.weight_grad, x, inner, *geometry, **more),
            )
            made = run.quantize(real(sums, scale), name, "weight_grads", own["weight_grads"])
            found["weight"] = made if layer["kind"] == "conv" else made[0][0]
            run.see("weight_grads", name, found["weight"])
        if not layer["batch_norm"] and "bias" in trained(layer):
            sums = [sum(column) * unit for column in batch_norm.channels(inner)]
            found["bias"] = run.quantize(sums, name, "bias_grads", own["bias_grads"])
            run.see("bias_grads", name, found["bias"])
        result[name] = found
        if layer["source"] in wanted:
            geometry = products.shape_of(x), stride, padding
            sums, scale = accumulated(
                layer,
                "input_grad",
                unit * step(own["weights"]),
                run,
                partial(products.conv_input_grad, inner, w, *geometry, **more),
                partial(accumulators.input_grad, inner, w, *geometry, **more),
            )
            arriving.setdefault(layer["source"], []).append(
                [total * scale for total in flatten(sums)]
            )
    return result


def pooled_shape(layer, shape):
    return pooling.output_shape(shape, layer["pool"][1]) if layer["pool"] else shape


def update_all(formats, state, grads, rate, run, optimizer):
    for name, parameters in state.items():
        own = formats[name]
        for kind in ("weight", "gamma", "beta") if "gamma" in parameters else ("weight", "bias"):
            if kind not in grads.get(name, ()):
                continue
            prefix, plural = ("", "weights") if kind == "weight" else (f"{kind}_", kind)
            fmt = own[plural]
            grads_fmt = own[f"{kind}_grads"]
            direction = grads[name][kind]
            if optimizer:
                direction, grads_fmt = velocities(
                    parameters,
                    kind,
                    direction,
                    (fmt, grads_fmt),
                    optimizer,
                    run,
                    name,
                    f"{prefix}velocities",
                )
            tensor = f"{prefix}accumulators"
            old = (parameters[kind], parameters[f"{kind}_acc"])
            parameters[kind], parameters[f"{kind}_acc"], events = update_parameter(
                *old, direction, rate, (fmt, own[tensor], grads_fmt), run, name, tensor
            )
            run.counts[name, tensor] = (0, events[1], events[2])
            if kind == "weight":
                run.counts[name, "weights"] = (0, events[0], 0)
                run.stopped[name] = events[3]
            run.see(f"updated_{plural}", name, parameters[kind])
            run.see(tensor, name, parameters[f"{kind}_acc"])


def train_step(
    layers,
    formats,
    logits_fmt,
    state,
    images,
    labels,
    rate,
    modes=None,
    seed=0,
    number=0,
    optimizer=None,
):
    """As step.train_step."""
    run = Run(modes or {}, seed, number)
    logits, records = forward(layers, formats, logits_fmt, state, images, run)
    unit = exponent(step(logits_fmt))
    losses = sum(softmax.loss(row, label, unit) for row, label in zip(logits, labels))
    wrong = sum(softmax.wrong(row, label) for row, label in zip(logits, labels))
    scores_grad = loss_gradient(layers, formats, logits_fmt, logits, labels, run)
    grads = backward(layers, formats, state, scores_grad, records, run)
    update_all(formats, state, grads, rate, run, optimizer)
    return run, losses, wrong


class Inference(Run):
    """Inference of images that stand one after the other in a data set, from place `first` on."""

    def __init__(self, modes, seed, first, images):
        super().__init__(modes, seed, 0)
        self.first = first
        self.images = images
        self.training = False

    def words(self, layer, tensor, count):
        """Words at the places that the elements have in the tensor of the whole data set."""
        if not self.mode("rounding", tensor).startswith("stochastic"):
            return None
        start = self.first * (count // self.images)
        return philox.words(self.seed, 0, f"{layer}.{tensor}", start, count)


def logits(layers, formats, logits_fmt, state, images, modes=None, seed=0, first=0):
    """Codes (N, classes) in inference: running statistics, no dropout."""
    run = Inference(modes or {}, seed, first, len(images))
    return forward(layers, formats, logits_fmt, state, images, run)[0]


def evaluate(layers, formats, logits_fmt, state, images, labels, modes=None, seed=0):
    """(sum of losses, images that err) of a data set."""
    rows = logits(layers, formats, logits_fmt, state, images, modes, seed)
    unit = exponent(step(logits_fmt))
    losses = sum(softmax.loss(row, label, unit) for row, label in zip(rows, labels))
    return losses, sum(softmax.wrong(row, label) for row, label in zip(rows, labels))

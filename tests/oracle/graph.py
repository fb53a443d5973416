"""A whole training step of any network: batch norm, residual additions, outputs with several
readers.

As step.py, whose conventions these are.  A layer has besides: `source`, the name of the layer that
it reads, None for the pictures; `add`, the name of the layer whose output it adds, or None;
`batch_norm`.  The state of a layer with batch norm has gamma, beta, gamma_acc, beta_acc,
running_mean and running_variance in place of the bias."""

from fractions import Fraction

from oracle import batch_norm, pooling, products, softmax
from oracle.rounding import quantize, step
from oracle.step import (
    Run,
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
        xs, roots = batch_norm.forward(name, value, own, parameters, run)
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
        records[name] = layer, source, factors, winner, products.shape_of(codes), xs, roots
        if layer["pool"] and layer["pool"][0] == "max":
            codes, winner = pooling.max_pool(codes, layer["pool"][1])
            records[name] = layer, source, factors, winner, records[name][4], xs, roots
        elif layer["pool"]:
            codes = pooling.average_pool(codes, *layer["pool"][1:])
        if layer["dropout"]:
            codes = drop(layer, codes, fmt, run)
        if tensor != "activations":
            run.see(tensor, name, codes)
        outputs[name] = codes
    return [flatten(sample) for sample in outputs[layers[-1]["name"]]], records


def backward(layers, formats, state, scores_grad, records, run):
    """Layer -> kind of parameter -> gradient codes."""
    arriving = {}
    result = {}
    for layer in reversed(layers):
        name = layer["name"]
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
        inner, finer = back_to_preactivations(
            layer, grads, own["activation_grads"][0], (factors, winner, shape), run
        )
        unit = step(own["activation_grads"]) / Fraction(2) ** finer
        if layer["add"]:
            arriving.setdefault(layer["add"], []).append([code * unit for code in flatten(inner)])
        found = {}
        if layer["batch_norm"]:
            run.see("relu_input_grads", name, inner)
            inner, found["gamma"], found["beta"] = batch_norm.backward(
                name, inner, unit, xs, roots, own, parameters, run
            )
            unit = step(own["preactivation_grads"])
        run.see("preactivation_grads", name, inner)
        x, w, stride, padding = as_conv(layer, source, parameters["weight"])
        sums = products.conv_weight_grad(
            x, inner, products.shape_of(w), stride, padding, **further(layer)
        )
        weight_grads = run.quantize(
            real(sums, unit * step(own["activations"])), name, "weight_grads", own["weight_grads"]
        )
        found["weight"] = weight_grads if layer["kind"] == "conv" else weight_grads[0][0]
        run.see("weight_grads", name, found["weight"])
        if not layer["batch_norm"]:
            sums = [sum(column) * unit for column in batch_norm.channels(inner)]
            found["bias"] = run.quantize(sums, name, "bias_grads", own["bias_grads"])
            run.see("bias_grads", name, found["bias"])
        result[name] = found
        if layer["source"] is not None:
            sums = products.conv_input_grad(
                inner, w, products.shape_of(x), stride, padding, **further(layer)
            )
            scale = unit * step(own["weights"])
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


def logits(layers, formats, logits_fmt, state, images):
    """Codes (N, classes) in inference: running statistics, no dropout; with the default modes."""
    outputs = {None: images}
    for layer in layers:
        branch = layer["add"] and real(
            outputs[layer["add"]], step(output_of(layer["add"], layers, formats, logits_fmt)[2])
        )
        value = affine_at_rest(
            layer, outputs[layer["source"]], formats[layer["name"]], state[layer["name"]], branch
        )
        _, tensor, fmt = output_of(layer["name"], layers, formats, logits_fmt)
        codes, _ = activated(layer, value, (layer["name"], tensor, fmt), Run({}, 0, 0))
        if layer["pool"] and layer["pool"][0] == "max":
            codes = pooling.max_pool(codes, layer["pool"][1])[0]
        elif layer["pool"]:
            codes = pooling.average_pool(codes, *layer["pool"][1:])
        outputs[layer["name"]] = codes
    return [flatten(sample) for sample in outputs[layers[-1]["name"]]]


def affine_at_rest(layer, source, own, parameters, branch):
    """Exact nested values that the ReLU reads."""
    x, w, stride, padding = as_conv(layer, source, parameters["weight"])
    value = real(
        products.conv_forward(x, w, stride, padding, **further(layer)),
        step(own["activations"]) * step(own["weights"]),
    )
    columns = [
        at_rest(column, o, own, parameters)
        if layer["batch_norm"]
        else [total + parameters["bias"][o] * step(own["bias"]) for total in column]
        for o, column in enumerate(batch_norm.channels(value))
    ]
    value = batch_norm.together(columns, products.shape_of(value))
    return map_nested(lambda total, other: total + other, value, branch) if branch else value


def at_rest(column, o, own, parameters):
    """Batch norm of one channel by its running statistics, exact after x-hat."""
    y_step = step(own["preactivations"])
    x_step = step(own["normalized"])
    ys = [quantize(total, own["preactivations"])[0] * y_step for total in column]
    mean, variance = (
        batch_norm.at_rest(parameters[f"running_{which}"][o], own[which]) * step(own[which])
        for which in ("mean", "variance")
    )
    xs = batch_norm.normalized(ys, mean, batch_norm.inverse_root(variance))
    gamma = parameters["gamma"][o] * step(own["gamma"])
    beta = parameters["beta"][o] * step(own["beta"])
    return [quantize(x, own["normalized"])[0] * x_step * gamma + beta for x in xs]

"""What tests share: a whole training step of any network equals the twin, tensor for tensor."""

import dataclasses
from fractions import Fraction

import numpy as np
from oracle import graph as oracle
from oracle import rounding as rounding_oracle
from oracle.step import map_nested

from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.layer_precision import BatchNormPrecision, LayerPrecision, accumulator_format
from fxsim.nn.optimizer import PLAIN_SGD
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.tensors import quantized_tensors
from support.bits import assert_same_codes
from support.fixed_step_cases import pool_of

NARROW = BatchNormPrecision(
    mean=Format(9, 1),
    variance=Format(7, 1, signed=False),
    normalized=Format(7, 2),
    gamma=Format(6, 1),
    gamma_grads=Format(8, 0),
    gamma_accumulators=Format(9, -5),
    beta=Format(7, 1),
    beta_grads=Format(7, -1),
    beta_accumulators=Format(8, -6),
    preactivation_grads=Format(9, 0),
)
WIDE = BatchNormPrecision(
    mean=Format(24, 3),
    variance=Format(26, 4),
    normalized=Format(20, 3),
    gamma=Format(20, 1),
    gamma_grads=Format(24, 0),
    gamma_accumulators=Format(24, -19),
    beta=Format(22, 1),
    beta_grads=Format(20, 0),
    beta_accumulators=Format(20, -21),
    preactivation_grads=Format(20, 1),
)
PREACTIVATIONS = Format(10, 2)
SATURATING = dataclasses.replace(
    NARROW,
    mean=Format(5, -3),
    variance=Format(5, -4, signed=False),
    normalized=Format(6, 0),
    preactivation_grads=Format(3, -3),
)


def precision(
    norm=None,
    weights=8,
    activations=6,
    activation_grads=8,
    preactivations=PREACTIVATIONS,
    branch=None,
    relu_input_grads=None,
):
    w = Format(weights, 0)
    b = Format(9, 0)
    return LayerPrecision(
        weights=w,
        activations=Format(activations, 1, False),
        activation_grads=Format(activation_grads, -1),
        weight_grads=Format(11, 0),
        accumulators=accumulator_format(w, w.step_exp - 8),
        bias=b,
        bias_grads=Format(10, 1),
        bias_accumulators=accumulator_format(b, b.step_exp - 5),
        preactivations=preactivations,
        branch=branch,
        relu_input_grads=relu_input_grads,
        batch_norm=norm,
    )


FUNCTIONS = ("leaky_relu", "table")


def assignment(network, rounding=None, overflow=None, **widths):
    """Formats and modes as given, without those of tensors that the network has not."""
    names = ("norm", "branch", "relu_input_grads")
    common = {name: value for name, value in widths.items() if name not in names}
    read = {source for _, source in network.edges()}
    added = {layer.add for layer in network.layers}
    layers = {
        layer.name: precision(
            norm=widths.get("norm") if layer.batch_norm else None,
            branch=widths.get("branch") if layer.name in added - read else None,
            relu_input_grads=widths.get("relu_input_grads")
            if layer.activation.kind in FUNCTIONS
            else None,
            **common,
        )
        for layer in network.layers
    }
    for layer, source in network.edges():
        if source and network.layer(source).activation.kind in FUNCTIONS:
            own = layers[layer.name]
            signed = network.layer(source).activation.signed
            format = Format(own.activations.bits + signed, 1, signed)
            layers[layer.name] = dataclasses.replace(own, activations=format)
    tensors = quantized_tensors(network, layers)
    modes = (
        {tensor: mode for tensor, mode in (given or {}).items() if tensor in tensors}
        for given in (rounding, overflow)
    )
    return PrecisionAssignment(network.name, layers, Format(12, 3), *modes)


def tuple_of(format):
    return format.bits, format.range_exp, format.signed


def describe(network):
    return [
        {
            "name": layer.name,
            "kind": type(layer).__name__.lower(),
            "activation": dataclasses.asdict(layer.activation),
            "dropout": layer.dropout,
            "pool": pool_of(layer, network.shape(layer.name).pool),
            "source": source,
            "add": layer.add,
            "batch_norm": layer.norm and dataclasses.asdict(layer.norm),
            "stride": getattr(layer, "stride", None),
            "padding": network.shape(layer.name).window.padding,
            "train": layer.train,
        }
        for layer, source in network.edges()
    ]


def real_parameters(network, seed):
    random = np.random.default_rng(seed)
    real = {}
    for layer in network.layers:
        shape = network.shape(layer.name)
        real[layer.name] = {"weight": random.normal(0, 1.5 / shape.dot_length**0.5, shape.weight)}
        channels = shape.weight[-1:]
        others = (
            {"gamma": (0.3, 1.9), "beta": (-1, 1), "running_mean": (-1, 1), "running_var": (0, 2)}
            if layer.batch_norm
            else {"bias": (-0.3, 0.3)}
        )
        real[layer.name] |= {name: random.uniform(*ends, channels) for name, ends in others.items()}
    return real


def start(fixed, real):
    """(formats, state) of the twin."""
    formats = {}
    state = {}
    for name, row in fixed.assignment.layers.items():
        formats[name] = {tensor: tuple_of(format) for tensor, format in row.given().items()}
        normed = fixed.layers[name].norm is not None
        if normed:
            formats[name]["preactivation_grads"] = tuple_of(fixed.layers[name].pre_format)
        own = {"weight": "weights"} | (
            {"gamma": "gamma", "beta": "beta"} if normed else {"bias": "bias"}
        )
        state[name] = {
            kind: quantized(real[name][kind], formats[name][tensor]) for kind, tensor in own.items()
        }
        state[name] |= {f"{kind}_acc": map_nested(lambda _: 0, state[name][kind]) for kind in own}
        if normed:
            for statistic, kind in (("mean", "running_mean"), ("variance", "running_var")):
                codes = quantized(real[name][kind], formats[name][statistic])
                state[name][f"running_{statistic}"] = [code * 2**16 for code in codes]
    return formats, state


def quantized(values, fmt):
    return map_nested(
        lambda value: rounding_oracle.quantize(Fraction(value), fmt)[0], values.tolist()
    )


def check_steps(
    network, assigned, steps=2, batch=3, rate=0.4, seed=0, kernel="auto", optimizer=PLAIN_SGD
):
    """Every tensor, count, loss and error of the first steps, and inference after them.

    Returns the network and the counts.
    """
    real = real_parameters(network, seed)
    fixed = FixedNetwork(network, assigned, real, kernel, seed, optimizer)
    formats, state = start(fixed, real)
    twin = describe(network), formats, tuple_of(assigned.logits), state
    modes = {("rounding", tensor): mode for tensor, mode in assigned.rounding.items()}
    modes |= {("overflow", tensor): mode for tensor, mode in assigned.overflow.items()}
    learning_rate = LearningRate.of(rate)
    random = np.random.default_rng(seed + 1)
    for number in range(steps):
        images = random.integers(0, fixed.input_format.max_code + 1, (batch, *network.input_shape))
        labels = random.integers(0, network.classes, batch)
        seen = {}
        result = fixed.train_step(
            images,
            labels,
            learning_rate,
            number,
            lambda tensor, layer, value, seen=seen: seen.update(
                {(tensor, layer): value.codes.copy()}
            ),
        )
        run, loss_sum, wrong = oracle.train_step(
            *twin,
            images.tolist(),
            labels.tolist(),
            learning_rate.exact,
            modes,
            seed,
            number,
            dataclasses.asdict(optimizer) if optimizer else None,
        )
        assert set(seen) == set(run.tensors)
        for (tensor, layer), wanted in run.tensors.items():
            assert_same_codes(seen[tensor, layer], wanted, what=f"step {number}, {layer}, {tensor}")
        assert {
            key: (c.below, c.above, c.flushed) for key, c in result.counts.items()
        } == run.counts
        assert (result.loss_sum, result.wrong, result.stopped) == (loss_sum, wrong, run.stopped)
    if not modes:
        assert_same_codes(
            fixed.logits(images), oracle.logits(*twin, images.tolist()), what="logits at rest"
        )
    return fixed, result.counts

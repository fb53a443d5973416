"""A network that has every tensor of precision.MODES, in formats that round and clip all of them."""

import dataclasses

from fxsim.activation import Activation
from fxsim.formats import Format
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import BatchNormPrecision, LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool

LEAKY = Activation("leaky_relu", slope_exp=-2)
NETWORK = Network(
    "modes",
    (6, 6, 2),
    (
        Conv(name="stem", filters=3, padding=1),
        Conv(name="skip", filters=3, kernel=1, relu=False),
        Conv(name="leaky", filters=3, kernel=1, activation=LEAKY, input="stem"),
        Conv(
            name="norm",
            filters=3,
            padding=1,
            batch_norm=True,
            relu=False,
            input="stem",
            add="leaky",
        ),
        Conv(name="sum", filters=3, padding=1, add="skip"),
        Conv(name="pool", filters=3, padding=1, pool=Pool("average", 3)),
        Dense(name="wide", units=64, batch_norm=True),
        Dense(name="scores", units=3, relu=False),
    ),
)
PARAMETERS = initial_parameters(NETWORK, 1)
WEIGHTS = Format(5, 0)
AFFINE = Format(4, 1)


def precision(layer):
    norm = BatchNormPrecision(
        mean=Format(13, 3),
        variance=Format(4, 4, False),  # 0 in most channels: an inverse root of 32 leaves ties
        normalized=Format(3, 0),
        gamma=AFFINE,
        gamma_grads=Format(5, -6),
        gamma_accumulators=accumulator_format(AFFINE, -10),
        beta=AFFINE,
        beta_grads=Format(5, -4),
        beta_accumulators=accumulator_format(AFFINE, -8),
    )
    return LayerPrecision(
        weights=WEIGHTS,
        activations=Format(2, 0) if layer == "sum" else Format(4, 0, False),
        activation_grads=Format(7, -4),
        weight_grads=Format(5, -2),
        accumulators=accumulator_format(WEIGHTS, -6),
        bias=WEIGHTS,
        bias_grads=Format(5, -4),
        bias_accumulators=accumulator_format(WEIGHTS, -8),
        preactivations=Format(6, 0),
        branch=Format(4, -2) if layer in ("skip", "leaky") else None,
        relu_input_grads=Format(5, -6) if layer == "leaky" else None,
        batch_norm=norm if NETWORK.layer(layer).batch_norm else None,
    )


def without_accumulators(row, layer, updates):
    if not updates:
        return row.without_accumulators()
    bias_updates = None if layer.batch_norm else Format(2, -5)
    alone = row.without_accumulators()
    return dataclasses.replace(alone, updates=Format(3, -2), bias_updates=bias_updates)


def assignment(held=True, updates=True, **modes):
    """held: with accumulators; updates: without them rate times gradient has a format of its own."""
    layers = {name: precision(name) for name in NETWORK.names}
    if not held:
        layers = {
            layer.name: without_accumulators(layers[layer.name], layer, updates)
            for layer in NETWORK.layers
        }
    return dataclasses.replace(
        PrecisionAssignment(NETWORK.name, layers, logits=Format(5, 0)), **modes
    )

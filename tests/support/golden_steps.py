"""Small networks, and one training step of each with all its tensors."""

import numpy as np

from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.capture import capture, parameter_codes
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool

NETWORKS = {
    "max pool": Network(
        "max-pool",
        (6, 6, 2),
        (
            Conv(name="c1", filters=3, padding=1, pool=Pool("max", 2)),
            Conv(name="c2", filters=5, kernel=2),
            Dense(name="d", units=3, relu=False),
        ),
    ),
    "average pool": Network(
        "average-pool",
        (7, 6, 1),
        (
            Conv(name="c1", filters=3, stride=2, padding=2, pool=Pool("average", 3)),
            Dense(name="d1", units=5),
            Dense(name="d2", units=4, relu=False),
        ),
    ),
    "no relu": Network(
        "no-relu",
        (5, 7, 2),
        (
            Conv(name="c1", filters=2, kernel=1, pool=Pool("average", 2)),
            Conv(name="c2", filters=3, kernel=2, padding=1, relu=False, pool=Pool("max", 2)),
            Dense(name="d", units=3, relu=False),
        ),
    ),
}


def precision(weight_grads=(12, 0), activations=6):
    weights = Format(7, 0)
    bias = Format(9, 0)
    return LayerPrecision(
        weights=weights,
        activations=Format(activations, 1, False),
        activation_grads=Format(8, -1),
        weight_grads=Format(*weight_grads),
        accumulators=accumulator_format(weights, -14),
        bias=bias,
        bias_grads=Format(9, 1),
        bias_accumulators=accumulator_format(bias, -13),
    )


def golden_step(
    name="max pool",
    rounding=None,
    overflow=None,
    batch=3,
    layers=None,
    seed=5,
    earlier=False,
    accumulator=None,
    words=None,
    **widths,
):
    """The second step of a short run, so that the accumulators hold something.

    earlier: with the parameters of the first step.  widths: as for `precision`.
    """
    network = NETWORKS[name]
    formats = {layer: precision(**widths) for layer in network.names}
    assignment = PrecisionAssignment(
        network.name,
        formats,
        Format(12, 3),
        rounding or {},
        overflow or {},
        accumulator=accumulator or {},
        words=words or {},
    )
    random = np.random.default_rng(seed)
    parameters = {
        layer: {
            "weight": random.normal(
                0, 1.5 / network.shape(layer).dot_length ** 0.5, network.shape(layer).weight
            ),
            "bias": random.uniform(-0.3, 0.3, network.shape(layer).weight[-1]),
        }
        for layer in network.names
    }
    fixed = FixedNetwork(network, assignment, parameters, seed=seed)
    images = random.integers(0, fixed.input_format.max_code + 1, (batch, *network.input_shape))
    labels = random.integers(0, network.classes, batch)
    first = parameter_codes(fixed)
    fixed.train_step(images, labels, LearningRate.of(0.3), 2)
    return capture(
        fixed, images, labels, LearningRate.of(0.3), 3, layers, first if earlier else None
    )

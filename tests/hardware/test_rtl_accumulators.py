"""Training steps with sequential accumulators.

RTL units give their codes and count their overflows.
"""

import copy

import numpy as np
import pytest
from rtl.harness import ICARUS, read_codes
from rtl.layers import StepUnits
from support.bits import assert_same_codes

from fxsim import (
    ROUNDINGS,
    Conv,
    Dense,
    FixedNetwork,
    Format,
    LayerPrecision,
    LearningRate,
    Network,
    PrecisionAssignment,
)
from fxsim.accumulator import parse_accumulators
from fxsim.golden.capture import capture
from fxsim.golden.export import Vectors, decode, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import accumulator_format

NETWORK = Network(
    "rtl",
    (6, 5, 2),
    (
        Conv(name="c1", filters=3, padding=1),
        Conv(name="c2", filters=4, stride=2, padding=1),
        Dense(name="d", units=3, relu=False),
    ),
)
MODELS = {
    "saturating": ["forward=10 bits", "input_grad=9 bits", "weight_grad=9 bits"],
    "wrapping, rounded": [
        "forward=8 bits, wrap, nearest_even 2",
        "input_grad=7 bits, wrap, zero 1",
        "weight_grad=5 bits, wrap, ceil 2",
    ],
    "saturating, rounded": [
        "forward=8 bits, nearest_away 2",
        "input_grad=8 bits, jam 1",
        "weight_grad=8 bits, away 1",
    ],
}
MADE = {
    "forward": ("c2", "preactivations"),
    "input_grad": ("c1", "activation_grads"),
    "weight_grad": ("c2", "weight_grads"),
}
"""Kind of product -> the tensor that is made of the sums of c2."""


def assignment(texts):
    """Products of the forward pass in steps of 2^-8, bias in 2^-6.

    No accumulator here ends below the bias.
    """
    weights = Format(6, 0)
    bias = Format(7, 0)
    layer = LayerPrecision(
        weights=weights,
        activations=Format(4, 1, False),
        activation_grads=Format(7, -1),
        weight_grads=Format(8, 0),
        bias=bias,
        bias_grads=Format(9, 1),
        accumulators=accumulator_format(weights, -12),
        bias_accumulators=accumulator_format(bias, -12),
    )
    return PrecisionAssignment(
        "rtl",
        dict.fromkeys(NETWORK.names, layer),
        Format(9, 2),
        accumulator=parse_accumulators(texts),
    )


@pytest.fixture(scope="module", params=MODELS)
def step(request, tmp_path_factory):
    """(StepResult, Vectors) of one step."""
    network = FixedNetwork(
        NETWORK, assignment(MODELS[request.param]), initial_parameters(NETWORK, 1)
    )
    random = np.random.default_rng(2)
    images = random.integers(0, 16, (3, *NETWORK.input_shape))
    labels = random.integers(0, 3, 3)
    result = copy.deepcopy(network).train_step(images, labels, LearningRate.of(0.25), 0)
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(capture(network, images, labels, LearningRate.of(0.25), 0), folder, ["mem"])
    return result, Vectors(folder)


@pytest.mark.parametrize("kind", MADE)
def test_a_unit_gives_the_codes_and_overflows_of_a_step(tmp_path, step, kind):
    result, vectors = step
    entry = vectors.manifest.entry(".".join(MADE[kind]))
    model = entry.accumulator.model
    parameters = {
        "ACC_WRAP": model.overflow == "wrap",
        "PRODUCT_ROUNDING": ROUNDINGS.index(model.rounding),
        "PRODUCT_SHIFT": model.drop,
    }
    if kind != "forward":
        operands = (
            {"input_grad": "weights", "weight_grad": "activations"}[kind],
            "preactivation_grads",
        )
        product_exp = sum(
            vectors.manifest.entry(f"c2.{tensor}").format.step_exp for tensor in operands
        )
        parameters["SHIFT"] = entry.format.step_exp - product_exp - model.drop
    names = getattr(StepUnits(vectors, tmp_path, ICARUS), kind)("c2", **parameters)
    assert entry.name in names
    for name in names:
        got = decode(
            "mem", (tmp_path / f"{name}.mem").read_bytes(), vectors.manifest.entry(name), name
        )
        assert_same_codes(got, vectors.codes(name), what=name)
    counted = read_codes(next(tmp_path.glob("icarus_*/overflows")), 32, False, entry.shape)
    met = result.overflows["c2", kind]
    assert (counted.size, int(counted.sum())) == (met.sums, met.overflows)
    assert met.overflows

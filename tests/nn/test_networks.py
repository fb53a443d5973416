"""The built-in networks have the sizes that their sources state."""

import math

import pytest

from fxsim.nn.networks import BUILDERS, build
from fxsim.nn.spec import from_dict, to_dict

PARAMETERS = {"lenet5": 61_706, "jet-mlp": 4_389}
"""Weights and biases, as published."""

WEIGHTS_AND_MACS = {
    "resnet8": (77_360, 12_501_632),
    "kws-dscnn": (22_016, 2_656_768),
    "vww-mobilenet": (208_112, 7_489_664),
}
"""Of MLPerf Tiny's models: weights of their convolutions and dense layers, and MACs."""

MLPERF_PARAMETERS = {"resnet8": 78_666, "kws-dscnn": 24_908, "vww-mobilenet": 221_794}
"""As the reference models count them: with a bias beside batch norm, and four numbers a channel of
batch norm.
"""


def totals(network):
    shapes = [network.shape(name) for name in network.names]
    return sum(shape.weights for shape in shapes), sum(shape.macs for shape in shapes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_as_published(name):
    network = build(name)
    biases = sum(network.shape(layer.name).weight[-1] for layer in network.layers if layer.has_bias)
    assert totals(network)[0] + biases == PARAMETERS[name]


@pytest.mark.parametrize("name", WEIGHTS_AND_MACS)
def test_weights_and_macs_as_published(name):
    assert totals(build(name)) == WEIGHTS_AND_MACS[name]


@pytest.mark.parametrize("name", MLPERF_PARAMETERS)
def test_parameters_of_the_reference_models(name):
    network = build(name)
    total = 0
    for layer in network.layers:
        shape = network.shape(layer.name)
        total += shape.weights + shape.weight[-1] * (5 if layer.batch_norm else 1)
    assert total == MLPERF_PARAMETERS[name]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_network_is_read_back_from_its_table(name):
    network = build(name, 0.5)
    assert from_dict(to_dict(network)) == network
    assert all(math.prod(network.shape(layer).output) > 0 for layer in network.names)


def test_the_positions_of_a_network_of_signals():
    network = build("ecg-convnet")
    assert network.shape("stem").output == (1, 183, 32)
    assert network.shape("b5_conv2").output == (1, 2, 32)
    signal = from_dict({**to_dict(network), "input_shape": [187, 1]})
    assert signal == network

"""Activation functions in float: values by definition, gradients by central differences, gains."""

import numpy as np
import pytest

from fxsim.activation import Activation
from fxsim.analysis.jacobian import square_jacobian
from fxsim.analysis.measure import largest_magnitudes
from fxsim.nn.floating.binarized import BinarizedNetwork
from fxsim.nn.floating.losses import cross_entropy
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network, Pool

LEAKY = Activation("leaky_relu", slope_exp=-2)
VALUES = Activation("table", index_bits=1, range_exp=0, values=(-3.0, 5.0), slopes=(0.25, 0.5))
FUNCTIONS = {
    "none": (Activation("none"), lambda z: z),
    "relu": (Activation("relu"), lambda z: max(z, 0.0)),
    "a ceiling": (Activation("relu", ceiling=1.5), lambda z: min(max(z, 0.0), 1.5)),
    "clipped": (Activation("clipped_relu"), lambda z: min(max(z, 0.0), 2.0)),
    "leaky": (LEAKY, lambda z: z if z > 0 else z / 4),
    "sigmoid": (Activation("table", function="sigmoid"), lambda z: 1 / (1 + np.exp(-z))),
    "tanh": (Activation("table", function="tanh"), np.tanh),
    "exp": (Activation("table", function="exp"), np.exp),
    "values": (VALUES, lambda z: np.interp(z, (-0.5, 0.5), (-3.0, 5.0))),
}
NETWORK = Network(
    "functions",
    (8, 8, 1),
    (
        Conv(name="stem", filters=3, padding=1, activation=LEAKY, pool=Pool("max", 2)),
        Conv(
            name="norm",
            filters=3,
            padding=1,
            batch_norm=True,
            activation=Activation("table", function="tanh"),
        ),
        Conv(
            name="sum",
            filters=3,
            padding=1,
            add="stem",
            activation=Activation("table", function="sigmoid"),
            pool=Pool("average", 2),
            dropout=0.25,
        ),
        Dense(name="exp", units=4, activation=Activation("table", function="exp")),
        Dense(name="open", units=5, activation="relu"),
        Dense(name="scores", units=3, relu=False),
    ),
)


def float_network(network=NETWORK, cls=FloatNetwork):
    random = np.random.default_rng(2)
    parameters = initial_parameters(network, 4)
    for own in parameters.values():
        for name in own.keys() - {"weight"}:
            own[name] += random.uniform(0.05, 0.2, own[name].shape)
    return cls(network, parameters, np.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_is_that_of_the_definition(name):
    activation, function = FUNCTIONS[name]
    layers = (Dense(name="a", units=1, activation=activation), Dense(name="b", units=2, relu=False))
    parameters = {
        "a": {"weight": np.full((1, 1), 0.5), "bias": np.zeros(1)},
        "b": {"weight": np.ones((1, 2)), "bias": np.zeros(2)},
    }
    net = FloatNetwork(Network("one", (1, 1, 1), layers), parameters, np.float64)
    images = np.array([-9.0, -3.0, -0.5, 0.0, 0.5, 2.0, 3.0, 4.0, 9.0]).reshape(-1, 1, 1, 1)
    output = net.forward_tape(images).layers["a"].output.reshape(-1)
    np.testing.assert_allclose(output, [function(z / 2) for z in images.flat], rtol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_agree_with_central_differences(training):
    net = float_network()
    random = np.random.default_rng(5)
    images = random.uniform(0, 1, (4, 8, 8, 1))
    labels = random.integers(0, 3, 4)

    def loss():
        tape = net.forward_tape(images, training=training, step=3)
        return cross_entropy(tape.logits, labels)[0]

    tape = net.forward_tape(images, training=training, step=3)
    gradients = net.backward(tape, cross_entropy(tape.logits, labels)[1])
    for layer, own in gradients.items():
        for name, gradient in own.items():
            parameter = net.parameters[layer][name]
            for index in map(tuple, np.argwhere(np.ones(parameter.shape))[:6]):
                kept = parameter[index]
                parameter[index] = kept + 1e-6
                above = loss()
                parameter[index] = kept - 1e-6
                below = loss()
                parameter[index] = kept
                wanted = (above - below) / 2e-6
                assert gradient[index] == pytest.approx(wanted, rel=1e-4, abs=1e-8), (layer, name)


def test_the_derivative_of_a_table_of_values_is_that_of_its_slopes():
    layers = (Dense(name="a", units=1, activation=VALUES), Dense(name="b", units=2, relu=False))
    net = float_network(Network("one", (1, 1, 1), layers))
    tape = net.forward_tape(np.full((1, 1, 1, 1), 100.0))
    ones = np.ones((1, 1, 1, 1))
    sign = net.parameters["a"]["weight"].item() > 0
    operation = net.activation_gradients(tape, "a", ones).operation.item()
    assert operation == pytest.approx(VALUES.slopes[sign])


@pytest.mark.parametrize("name", ["stem", "norm", "sum", "exp"])
def test_the_square_jacobian_goes_through_the_derivative(name):
    """Its product with ones is the squared gradient of every element of G^A, one by one."""
    net = float_network()
    tape = net.forward_tape(np.random.default_rng(1).uniform(0, 1, (2, 8, 8, 1)))
    output = tape.layers[name].output
    total = 0.0
    for place in range(output.size):
        seed = np.zeros(output.size)
        seed[place] = 1.0
        local = net.activation_gradients(tape, name, seed.reshape(output.shape))
        total += float((net.weight_gradient(tape, name, local.operation) ** 2).sum())
    jacobian = square_jacobian(net, tape, name)
    found = float(jacobian.multiply(np.ones(jacobian.weights)).sum())
    assert found == pytest.approx(total, rel=1e-9)


def test_largest_magnitudes_are_those_of_the_outputs():
    net = float_network()
    images = np.random.default_rng(1).uniform(0, 1, (3, 8, 8, 1))
    found = largest_magnitudes(net, images, images, 2)["activations_max"]
    tape = net.forward_tape(images)
    for row, name in enumerate(NETWORK.names):
        assert found[row] >= float(np.abs(tape.layers[name].output).max()) > 0
    assert found[NETWORK.names.index("sum")] <= 1


def test_a_binarized_network_takes_the_sign_in_place_of_every_function():
    net = float_network(cls=BinarizedNetwork)
    tape = net.forward_tape(np.random.default_rng(1).uniform(0, 1, (2, 8, 8, 1)))
    for name in NETWORK.names[:-1]:
        assert set(np.unique(tape.layers[name].output)) <= {-1.0, 1.0}

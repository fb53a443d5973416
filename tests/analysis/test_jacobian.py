"""lambda_max against a dense SVD of the square-Jacobian, built by definition one gradient
element at a time.
"""

from __future__ import annotations

import numpy as np
import pytest

from fxsim.analysis.jacobian import (
    lambda_max,
    largest_singular_values,
    preactivation_square_jacobian,
    square_jacobian,
)
from fxsim.errors import InputError
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network, Pool

NETWORK = Network(
    "jacobians",
    (9, 9, 2),
    (
        Conv(name="strided", filters=3, stride=2, padding=1),
        Conv(name="max_pooled", filters=4, pool=Pool("max", 2), padding=1),
        Conv(name="averaged", filters=3, pool=Pool("average", 2), padding=1, batch_norm=True),
        Conv(name="normed", filters=4, kernel=1, batch_norm=True),
        Dense(name="dense", units=5),
        Dense(name="one_unit", units=1),
        Dense(name="scores", units=3, relu=False),
    ),
)


def executor(dtype=np.float64) -> FloatNetwork:
    rng = np.random.default_rng(11)
    parameters = initial_parameters(NETWORK, seed=2)
    for own in parameters.values():
        for name, value in own.items():
            if name != "weight":
                own[name] = value + rng.uniform(0.1, 0.9, value.shape)
    return FloatNetwork(NETWORK, parameters, dtype)


IMAGES = np.random.default_rng(12).random((3, 9, 9, 2))


@pytest.fixture(autouse=True)
def one_thread():
    """Arrays this small gain nothing from threads, and thousands of passes would wait for them
    on a busy machine.
    """
    threads = thread_count()
    use_threads(1)
    yield
    use_threads(threads)


def dense_square_jacobian(network: FloatNetwork, tape, name: str) -> np.ndarray:
    """(|G^W|, |G^A|): the layer's weight gradient for each unit gradient of its output, squared."""
    output = np.zeros_like(tape.layers[name].output)
    columns = []
    for index in np.ndindex(output.shape):
        output[index] = 1.0
        operation = network.activation_gradients(tape, name, output).operation
        columns.append(network.weight_gradient(tape, name, operation).ravel())
        output[index] = 0.0
    return np.array(columns).T ** 2


@pytest.mark.parametrize("name", NETWORK.names)
def test_lambda_max_equals_the_dense_svd(name):
    network = executor()
    tape = network.forward_tape(IMAGES)
    wanted = np.linalg.svd(dense_square_jacobian(network, tape, name), compute_uv=False)[0]
    assert wanted > 0
    assert lambda_max(network, tape, name) == pytest.approx(wanted, rel=5e-5)
    assert lambda_max(network, tape, name, tolerance=1e-9) == pytest.approx(wanted, rel=1e-8)


def test_the_jacobian_of_the_gradient_at_the_pre_activations_equals_the_dense_one():
    network = executor()
    tape = network.forward_tape(IMAGES)
    found = largest_singular_values(network, IMAGES)["preactivation_lambda_max"]
    assert [value > 0 for value in found] == [layer.norm is not None for layer in NETWORK.layers]
    for row, layer in enumerate(NETWORK.layers):
        if not layer.batch_norm:
            continue
        operation = np.zeros_like(tape.layers[layer.name].operation).reshape(
            len(IMAGES), -1, layer.filters
        )
        columns = []
        for index in np.ndindex(operation.shape):
            operation[index] = 1.0
            columns.append(network.weight_gradient(tape, layer.name, operation).ravel())
            operation[index] = 0.0
        dense = np.array(columns).T ** 2
        assert found[row] == pytest.approx(np.linalg.norm(dense, 2), rel=5e-5)
        gains = preactivation_square_jacobian(tape, layer.name).noise_gains()
        np.testing.assert_allclose(gains.ravel(), dense.sum(axis=1), rtol=1e-10)


def test_average_pooling_that_drops_an_edge():
    network = Network(
        "edge",
        (5, 5, 1),
        (
            Conv(name="conv", filters=2, padding=1, pool=Pool("average", 2)),
            Dense(name="fc", units=2, relu=False),
        ),
    )
    float_network = FloatNetwork(network, initial_parameters(network, 1), np.float64)
    tape = float_network.forward_tape(IMAGES[:, :5, :5, :1])
    wanted = np.linalg.norm(dense_square_jacobian(float_network, tape, "conv"), 2)
    assert lambda_max(float_network, tape, "conv", tolerance=1e-9) == pytest.approx(
        wanted, rel=1e-8
    )


@pytest.mark.parametrize(
    "pool",
    [
        None,
        Pool("max", 2),
        Pool("max", 3, stride=1, padding=1),
        Pool("max", (3, 2), stride=2),
        Pool("average", (2, 3)),
        Pool("average", (3, 2), stride=(2, 1)),
        Pool("average", "global"),
    ],
)
def test_groups_dilation_and_overlapping_windows(pool):
    conv = Conv(name="conv", filters=4, kernel=2, dilation=(2, 1), groups=2, pool=pool)
    network = Network("groups", (6, 7, 2), (conv, Dense(name="fc", units=2, relu=False)))
    float_network = FloatNetwork(network, initial_parameters(network, 1), np.float64)
    tape = float_network.forward_tape(IMAGES[:, :6, :7])
    dense = dense_square_jacobian(float_network, tape, "conv")
    assert lambda_max(float_network, tape, "conv", tolerance=1e-9) == pytest.approx(
        np.linalg.norm(dense, 2), rel=1e-8
    )
    gains = square_jacobian(float_network, tape, "conv").noise_gains()
    np.testing.assert_allclose(gains.ravel(), dense.sum(axis=1), rtol=1e-10, atol=1e-12)


def test_float32_is_close_and_repeats_itself():
    found = largest_singular_values(executor(np.float32), IMAGES)
    wanted = largest_singular_values(executor(), IMAGES)
    again = largest_singular_values(executor(np.float32), IMAGES)
    for name in ("lambda_max", "preactivation_lambda_max"):
        assert found[name] == pytest.approx(wanted[name], rel=2e-4)
        assert (found[name] == again[name]).all()


def test_a_jacobian_of_equal_blocks_of_low_rank():
    """The last layer's blocks are equal, and have as many rows as there are images."""
    network = executor()
    jacobian = square_jacobian(network, network.forward_tape(IMAGES), "scores")
    blocks = jacobian.noise_gains()
    assert (blocks == blocks[:, :1]).all()
    assert jacobian.weights[0] == 1
    tape = network.forward_tape(IMAGES)
    assert lambda_max(network, tape, "scores", 1e-12) == pytest.approx(
        np.linalg.norm(dense_square_jacobian(network, tape, "scores"), 2), rel=1e-11
    )


def test_dropout_raises_lambda_max_by_the_mean_over_its_masks():
    dropped = Network(
        "jacobians",
        NETWORK.input_shape,
        (Conv(name="conv", filters=3, dropout=0.75), Dense(name="scores", units=3, relu=False)),
    )
    whole = Network(
        "jacobians",
        NETWORK.input_shape,
        (Conv(name="conv", filters=3), Dense(name="scores", units=3, relu=False)),
    )
    parameters = initial_parameters(whole, 1)
    found, reference = (
        largest_singular_values(FloatNetwork(network, parameters, np.float64), IMAGES)["lambda_max"]
        for network in (dropped, whole)
    )
    # Masks are 1 / keep with probability keep: the mean of their squares is 1 / keep.
    assert found[0] == pytest.approx(4 * reference[0])
    assert found[1] == pytest.approx(reference[1])


def test_a_dead_layer_is_named():
    network = executor()
    network.parameters["dense"]["bias"][:] = -50.0
    with pytest.raises(InputError, match="'dense' lets no gradient through"):
        largest_singular_values(network, IMAGES)

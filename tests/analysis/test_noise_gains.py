"""Noise gains against central differences in float64, tensor by tensor."""

from __future__ import annotations

import numpy as np
import pytest

from fxsim.analysis.noise_gains import noise_gains
from fxsim.errors import InputError
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.nn.floating import network as floating
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network, Pool

PLAIN = Network(
    "plain",
    (6, 6, 1),
    (
        Conv(name="conv1", filters=3, padding=1, pool=Pool("max", 2), dropout=0.5),
        Conv(name="conv2", filters=4, kernel=2, stride=1, batch_norm=True),
        Dense(name="fc1", units=7),
        Dense(name="fc2", units=3, relu=False),
    ),
)

RESIDUAL = Network(
    "residual",
    (4, 4, 2),
    (
        Conv(name="stem", filters=3, padding=1),
        Conv(name="shortcut", filters=3, stride=2, padding=1, relu=False, input="stem"),
        Conv(name="conv1", filters=3, stride=2, padding=1, input="stem"),
        Conv(name="conv2", filters=3, padding=1, add="shortcut"),
        Conv(name="conv3", filters=3, padding=1, add="conv2", pool=Pool("average", 2)),
        Dense(name="fc", units=4, relu=False),
    ),
)

GROUPED = Network(
    "grouped",
    (5, 6, 2),
    (
        Conv(name="many_positions", filters=4, kernel=2, dilation=2, groups=2),
        Conv(name="one_position", filters=6, kernel=(3, 4), groups=2),
        Dense(name="fc", units=3, relu=False),
    ),
)

H = 1e-6


@pytest.fixture(autouse=True)
def one_thread():
    """Arrays this small gain nothing from threads, and thousands of passes would wait for them
    on a busy machine.
    """
    threads = thread_count()
    use_threads(1)
    yield
    use_threads(threads)


def float_network(network: Network, dtype=np.float64) -> FloatNetwork:
    rng = np.random.default_rng(5)
    parameters = initial_parameters(network, seed=3)
    for own in parameters.values():
        for name, value in own.items():
            if name != "weight":
                own[name] = value + rng.uniform(0.05, 0.2, value.shape)
    return FloatNetwork(network, parameters, dtype)


def images_for(network: Network, count: int) -> np.ndarray:
    return np.random.default_rng(7).random((count, *network.input_shape))


def gain_by_differences(perturbed_scores, shape: tuple, scores: np.ndarray) -> float:
    """E_T from central differences.

    Perturbed_scores takes what is added to the tensor of every image.
    """
    decisions = scores.argmax(axis=1)[:, None]
    squares = np.zeros_like(scores)
    for index in np.ndindex(shape):
        change = np.zeros(shape)
        change[index] = H
        slopes = (perturbed_scores(change) - perturbed_scores(-change)) / (2 * H)
        squares += (slopes - np.take_along_axis(slopes, decisions, axis=1)) ** 2
    distances = scores - np.take_along_axis(scores, decisions, axis=1)
    distances[distances == 0] = np.inf  # the decision itself
    return float(np.sum(squares / (24 * distances**2))) / len(scores)


def weight_gain(executor: FloatNetwork, name: str, images: np.ndarray) -> float:
    weight = executor.parameters[name]["weight"]
    original = weight.copy()

    def perturbed_scores(change):
        weight[...] = original + change
        scores = executor.logits(images)
        weight[...] = original
        return scores

    return gain_by_differences(perturbed_scores, weight.shape, executor.logits(images))


def activation_gain(
    executor: FloatNetwork, source: str | None, images: np.ndarray, monkeypatch
) -> float:
    """Changes the output of layer `source`, for all that read it, or the images."""
    scores = executor.logits(images)
    if source is None:
        return gain_by_differences(
            lambda change: executor.logits(images + change), images.shape[1:], scores
        )
    activate = floating.activate

    def perturbed_scores(change):
        def changed(tape, *rest):
            activate(tape, *rest)
            if tape.layer.name == source:
                tape.output = tape.output + change

        with monkeypatch.context() as patch:
            patch.setattr(floating, "activate", changed)
            return executor.logits(images)

    return gain_by_differences(perturbed_scores, executor.network.shape(source).output, scores)


@pytest.mark.parametrize("network", [PLAIN, RESIDUAL, GROUPED], ids=lambda network: network.name)
def test_gains_agree_with_central_differences(network, monkeypatch):
    executor = float_network(network)
    images = images_for(network, 2)
    weights, activations = noise_gains(executor, images)
    for row, (layer, source) in enumerate(network.edges()):
        assert weights[row] == pytest.approx(weight_gain(executor, layer.name, images), rel=1e-4), (
            layer.name
        )
        wanted = activation_gain(executor, source, images, monkeypatch)
        assert activations[row] == pytest.approx(wanted, rel=1e-4), layer.name


def test_readers_of_one_tensor_share_its_gain():
    _, activations = noise_gains(float_network(RESIDUAL), images_for(RESIDUAL, 3))
    shortcut, conv1 = (RESIDUAL.names.index(name) for name in ("shortcut", "conv1"))
    assert activations[shortcut] == activations[conv1]
    assert len(set(activations)) == len(activations) - 1


def test_gains_do_not_depend_on_the_batch_nor_much_on_the_precision():
    images = images_for(PLAIN, 7)
    reference = np.array(noise_gains(float_network(PLAIN), images))
    assert np.array(noise_gains(float_network(PLAIN), images, batch=3)) == pytest.approx(
        reference, rel=1e-12
    )
    assert np.array(noise_gains(float_network(PLAIN, np.float32), images)) == pytest.approx(
        reference, rel=1e-3
    )


def test_a_tie_is_left_out():
    executor = float_network(PLAIN)
    images = images_for(PLAIN, 1)
    last = executor.parameters["fc2"]
    last["weight"][:, 1] = last["weight"][:, 0]
    last["bias"][1] = last["bias"][0]
    last["bias"][:2] += 3.0  # classes 0 and 1 win with exactly the same score
    decision, second, third = np.argsort(-executor.logits(images)[0], kind="stable")
    assert {decision, second} == {0, 1} and third == 2
    weights, activations = noise_gains(executor, images)
    assert np.all(np.isfinite(weights)) and np.all(weights > 0) and np.all(np.isfinite(activations))


def test_no_images_are_refused():
    with pytest.raises(InputError, match="images must be at least one"):
        noise_gains(float_network(PLAIN), images_for(PLAIN, 0))

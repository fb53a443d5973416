"""The designs that fixed point is compared with.

What their products read, what their gradients are, what they cost.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from fxsim.analysis.complexity import assignment_complexity, design_complexity
from fxsim.datasets import load
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.fixed.parameters import TrainedParameter
from fxsim.nn.fixed.stochastic import StochasticNetwork, drawn, wide_accumulators
from fxsim.nn.floating.binarized import BinarizedNetwork
from fxsim.nn.floating.losses import cross_entropy
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.floating.terngrad import TernGradNetwork, ternarized
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.networks import BUILDERS, build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.rng import Stream, tensor_stream
from fxsim.tensor import Tensor
from fxsim.train import designs
from fxsim.train.loop import TrainingPlan, train
from fxsim.train.schedule import Schedule

SMALL = Network(
    "small",
    (6, 6, 2),
    (
        Conv(name="conv1", filters=4, batch_norm=True, pool=Pool("max", 2)),
        Conv(name="conv2", filters=4, kernel=1, pool=Pool("average", 2)),
        Dense(name="fc1", units=6, dropout=0.5),
        Dense(name="fc2", units=3, relu=False),
    ),
)
RNG = np.random.default_rng(7)
IMAGES = RNG.random((8, 6, 6, 2))
LABELS = RNG.integers(0, 3, 8)
FORMATS = LayerPrecision(
    weights=Format(6, 0),
    activations=Format(6, 1, signed=False),
    activation_grads=Format(12, -3),
    weight_grads=Format(12, -1),
    accumulators=Format(14, -6),
)


def assignment(network: Network) -> PrecisionAssignment:
    return PrecisionAssignment(network.name, dict.fromkeys(network.names, FORMATS))


def seen(network: FloatNetwork, **options) -> dict[tuple[str, str], np.ndarray]:
    """Every tensor that a forward and a backward pass show, by (tensor, layer)."""
    found = {}
    network.loss_and_grads(
        IMAGES,
        LABELS,
        step=0,
        probe=lambda *key_value: found.update({key_value[:2]: key_value[2].copy()}),
        **options,
    )
    return found


def test_binarized_weights_are_signs_over_the_root_of_their_terms():
    network = BinarizedNetwork(SMALL, initial_parameters(SMALL, 0), np.float64)
    for name, terms in (("conv1", 18), ("conv2", 4), ("fc1", 4), ("fc2", 6)):
        weight = network.parameters[name]["weight"]
        weight.flat[0] = -0.0
        expected = np.where(weight >= 0, 1, -1) / np.sqrt(terms)
        assert np.abs(weight).max() not in np.abs(expected)  # the weights themselves stay real
        np.testing.assert_allclose(network.weight(name), expected, rtol=1e-15)


def test_binarized_activations_are_signs_wherever_a_layer_reads_them():
    network = BinarizedNetwork(SMALL, initial_parameters(SMALL, 0), np.float64)
    found = seen(network)
    np.testing.assert_array_equal(found["activations", "conv1"], IMAGES)
    for layer in ("conv2", "fc1"):
        assert set(np.unique(found["activations", layer])) == {-1.0, 1.0}
    assert set(np.unique(found["activations", "fc2"])) == {-2.0, 0.0, 2.0}  # dropout with its scale


def test_the_sign_is_that_of_the_greatest_or_the_mean_of_a_pooled_window():
    network = BinarizedNetwork(SMALL, initial_parameters(SMALL, 0), np.float64)
    found = seen(network)
    windows = found["preactivations", "conv1"].reshape(8, 2, 2, 2, 2, 4)
    np.testing.assert_array_equal(found["activations", "conv2"], np.sign(windows.max(axis=(2, 4))))
    means = np.clip(found["preactivations", "conv2"], -1, 1).mean(axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(found["activations", "fc1"], np.where(means >= 0, 1, -1))


def test_straight_through_gradients_are_those_at_the_signs_where_the_preactivation_is_within_one():
    network = Network(
        "dense", (1, 1, 5), (Dense(name="fc1", units=40), Dense(name="fc2", units=3, relu=False))
    )
    binarized = BinarizedNetwork(network, initial_parameters(network, 1), np.float64)
    images = 3 * RNG.random((8, 1, 1, 5))
    _, gradients = binarized.loss_and_grads(images, LABELS, step=0)
    first, second = (
        np.where(binarized.parameters[name]["weight"] >= 0, 1, -1) / np.sqrt(terms)
        for name, terms in (("fc1", 5), ("fc2", 40))
    )
    preactivations = images.reshape(8, 5) @ first
    signs = np.where(preactivations >= 0, 1.0, -1.0)
    arriving = cross_entropy(signs @ second, LABELS)[1]
    inside = np.abs(preactivations) < 1
    assert 0.1 < inside.mean() < 0.9
    below = arriving @ second.T * inside
    for got, wanted in (
        (gradients["fc2"]["weight"], signs.T @ arriving),
        (gradients["fc2"]["bias"], arriving.sum(0)),
        (gradients["fc1"]["weight"], images.reshape(8, 5).T @ below),
        (gradients["fc1"]["bias"], below.sum(0)),
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15)


def test_a_network_that_binarizes_nothing_is_the_float_network():
    """The hooks of FloatNetwork alone change nothing."""

    class Plain(BinarizedNetwork):
        activation_range = FloatNetwork.activation_range
        weight = FloatNetwork.weight
        _activate = FloatNetwork._activate

    parameters = initial_parameters(SMALL, 0)
    got, wanted = (seen(kind(SMALL, parameters)) for kind in (Plain, FloatNetwork))
    assert got.keys() == wanted.keys()
    for key, array in got.items():
        np.testing.assert_array_equal(array, wanted[key])


def test_terngrad_has_three_values_and_is_unbiased():
    gradient = RNG.standard_normal((20, 5))
    gradient[0, 0] = 0.0
    scale = np.abs(gradient).max()
    draws = 4000
    ternary = np.stack(
        [ternarized(gradient, Stream(3, step, "fc.weight_grads")) for step in range(draws)]
    )
    assert set(np.unique(ternary)) == {-scale, 0.0, scale}
    deviations = np.sqrt(np.abs(gradient) * (scale - np.abs(gradient)) / draws)
    assert (np.abs(ternary.mean(axis=0) - gradient) <= 4.5 * deviations + 1e-12).all()
    np.testing.assert_array_equal(ternary[0], ternarized(gradient, Stream(3, 0, "fc.weight_grads")))
    assert (ternary[0] != ternary[1]).any()


def test_terngrad_of_zeros_is_zeros():
    assert not ternarized(np.zeros((2, 2)), Stream(0, 0, "fc.weight_grads")).any()


def test_a_terngrad_network_differs_from_the_float_network_in_weight_gradients_alone():
    parameters = initial_parameters(SMALL, 0)
    loss, gradients = FloatNetwork(SMALL, parameters, seed=5).loss_and_grads(IMAGES, LABELS, step=2)
    ternary_loss, ternary = TernGradNetwork(SMALL, parameters, seed=5).loss_and_grads(
        IMAGES, LABELS, step=2
    )
    assert ternary_loss == loss
    for layer, own in ternary.items():
        for name, gradient in own.items():
            wanted = gradients[layer][name]
            if name == "weight":
                wanted = ternarized(wanted, tensor_stream(5, 2, layer, "weight_grads"))
            np.testing.assert_array_equal(gradient, wanted)


def parameter_of(codes, accumulators, format, below) -> TrainedParameter:
    """A parameter that holds these codes."""
    return TrainedParameter(Tensor(codes, format), Tensor(accumulators, below))


def draw(parameter: TrainedParameter, *stream) -> np.ndarray:
    return drawn(parameter, Stream(*stream)).codes


def running(parameter: TrainedParameter) -> np.ndarray:
    return (
        parameter.codes * parameter.format.step
        + parameter.accumulators * parameter.accumulator_format.step
    )


def test_drawn_weights_neighbour_the_running_weight_and_average_to_it():
    format = Format(5, 0)
    below = Format(16, -5)
    codes = RNG.integers(-15, 15, (6, 7)).astype(np.int16)
    accumulators = RNG.integers(-(2**15), 2**15, (6, 7)).astype(np.int16)
    accumulators[0] = 0
    parameter = parameter_of(codes, accumulators, format, below)
    draws = np.stack([draw(parameter, 1, step, "fc.weights") for step in range(3000)])
    wanted = running(parameter) / format.step
    np.testing.assert_array_equal(draws[:, 0], np.broadcast_to(codes[0], draws[:, 0].shape))
    assert (np.abs(draws - wanted) < 1).all()
    fraction = wanted - np.floor(wanted)
    deviations = np.sqrt(fraction * (1 - fraction) / len(draws))
    assert (np.abs(draws.mean(axis=0) - wanted) <= 4.5 * deviations + 1e-12).all()
    np.testing.assert_array_equal(draws[5], draw(parameter, 1, 5, "fc.weights"))
    np.testing.assert_array_equal(parameter.codes, codes)


def test_drawn_weights_stay_in_their_range():
    parameter = parameter_of([15, -16], [2**15 - 1, -(2**15)], Format(5, 0), Format(16, -5))
    draws = [draw(parameter, 0, step, "fc.weights").tolist() for step in range(20)]
    assert {draw[0] for draw in draws} == {15}
    assert {draw[1] for draw in draws} == {-16}


DENSE = Network(
    "dense", (1, 1, 4), (Dense(name="fc1", units=5), Dense(name="fc2", units=3, relu=False))
)


def stochastic_step(network: FixedNetwork, step: int) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    images = (IMAGES[:, :1, :2].reshape(8, 1, 1, 4) * 63).astype(np.int16)
    network.train_step(
        images,
        LABELS,
        LearningRate.of(0.25),
        step,
        lambda tensor, layer, value: found.update({(tensor, layer): value.codes.copy()}),
    )
    return found


def test_a_stochastic_step_reads_drawn_weights_and_moves_the_running_ones():
    network = StochasticNetwork(
        DENSE, wide_accumulators(assignment(DENSE)), initial_parameters(DENSE, 0), seed=9
    )
    stochastic_step(network, 0)  # from here on the accumulators hold something
    before = {name: copy.deepcopy(dict(own)) for name, own in network.parameters.items()}
    found = stochastic_step(network, 1)
    for name in DENSE.names:
        parameter = before[name]["weight"]
        np.testing.assert_array_equal(
            found["weights", name], draw(parameter, 9, 1, f"{name}.weights")
        )
        step = 0.25 * found["weight_grads", name] * FORMATS.weight_grads.step
        np.testing.assert_array_equal(
            running(network.parameters[name]["weight"]), running(parameter) - step
        )
    assert any(
        (found["weights", name] != before[name]["weight"].codes).any() for name in DENSE.names
    )


def test_stochastic_training_is_reproducible_and_hangs_on_the_seed():
    prints = []
    for seed in (1, 1, 2):
        network = StochasticNetwork(
            DENSE, wide_accumulators(assignment(DENSE)), initial_parameters(DENSE, 0), seed=seed
        )
        for step in range(3):
            stochastic_step(network, step)
        prints.append(network.fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_inference_of_a_stochastic_network_is_that_of_a_fixed_one():
    formats = wide_accumulators(assignment(DENSE))
    stochastic, fixed = (
        kind(DENSE, formats, initial_parameters(DENSE, 0))
        for kind in (StochasticNetwork, FixedNetwork)
    )
    stochastic_step(stochastic, 0)
    fixed.load_state(stochastic.state())
    codes = (IMAGES[:, :1, :2].reshape(8, 1, 1, 4) * 63).astype(np.int16)
    np.testing.assert_array_equal(stochastic.logits(codes), fixed.logits(codes))


@pytest.mark.parametrize("train", ["none", "bias"])
def test_a_stochastic_step_reads_frozen_weights_as_they_are(train):
    layers = (dataclasses.replace(DENSE.layers[0], train=train), *DENSE.layers[1:])
    partly = dataclasses.replace(DENSE, layers=layers)
    network = StochasticNetwork(
        partly, wide_accumulators(assignment(partly)), initial_parameters(partly, 0)
    )
    first, last = partly.names[0], partly.names[-1]
    weights = network.parameters[first]["weight"].codes.copy()
    stochastic_step(network, 0)
    found = stochastic_step(network, 1)
    np.testing.assert_array_equal(found["weights", first], weights)
    assert (found["weights", last] != network.parameters[last]["weight"].codes).any()


def test_every_design_trains_better_than_chance():
    dataset = load("digits")
    dataset = dataclasses.replace(
        dataset, test_images=dataset.test_images[:100], test_labels=dataset.test_labels[:100]
    )
    network = build("digits-convnet", 0.5)
    common = network, initial_parameters(network, 0), dataset.pixel_max, 0
    for design in designs.DESIGNS:
        learner = (
            designs.fixed_learner(design, *common, assignment(network))
            if design in designs.FIXED
            else designs.float_learner(design, *common)
        )
        epochs = train(learner, TrainingPlan(dataset, Schedule(2, 0.1), 32, 0))
        assert epochs[-1].train_loss < epochs[0].train_loss, design
        assert epochs[-1].train_loss < np.log(10), design


@pytest.mark.parametrize("name", BUILDERS)
def test_every_design_has_costs_for_every_network(name):
    network = build(name)
    for design in designs.DESIGNS:
        if design in designs.FIXED:
            assert designs.costs(design, network, assignment(network)) == assignment_complexity(
                network, assignment(network), design
            )
        else:
            assert designs.costs(design, network) == design_complexity(network, design)


def test_the_costs_of_sq_are_those_of_what_it_trains_with():
    network = build("digits-convnet")
    given = designs.formats("SQ", assignment(network))
    assert {layer.accumulators.bits for layer in given.layers.values()} == {32}
    assert designs.costs("SQ", network, given) == designs.costs("SQ", network, assignment(network))
    assert designs.formats("FX", assignment(network)) == assignment(network)


@pytest.mark.parametrize(
    ("design", "given", "message"),
    [
        ("FX", None, "design 'FX' needs a precision assignment; give --assignment"),
        ("SQ", None, "design 'SQ' needs a precision assignment; give --assignment"),
        ("BN", assignment(SMALL), "'BN' is not in fixed point"),
        ("FK", None, "design 'FK' is unknown"),
    ],
)
def test_costs_that_cannot_be(design, given, message):
    with pytest.raises(InputError, match=message):
        designs.costs(design, SMALL, given)

"""Noise gains at the outputs, B_min from a bound on their error, and that error as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fxsim.analysis import criteria, output_error
from fxsim.analysis.assign import Rules, assign, feedforward_bits
from fxsim.analysis.feedforward import COSTS, MismatchBound, feedforward_gains
from fxsim.analysis.measure import measure
from fxsim.analysis.output_error import measured_output_error, output_gains, output_loss
from fxsim.analysis.statistics import OF_BATCH_NORM, PER_LAYER, GradientStatistics, Statistics
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network

SMALL = Network(
    "small",
    (3, 3, 1),
    (
        Conv(name="conv", filters=2, padding=1),
        Dense(name="code", units=4),
        Dense(name="out", units=9, relu=False),
    ),
    "mse",
    "tensors",
)
CONV = Network(
    "conv",
    (3, 3, 1),
    (Conv(name="inner", filters=2, padding=1), Conv(name="out", filters=1, padding=1, relu=False)),
    "mse",
    "tensors",
)
H = 1e-5


def float_network(network=SMALL, dtype=np.float64):
    return FloatNetwork(network, initial_parameters(network, 4), dtype)


def images_for(network=SMALL, count=5):
    return np.random.default_rng(2).uniform(0.1, 0.9, (count, *network.input_shape))


def by_differences(outputs, array):
    """Sum of squared derivatives of all outputs (N, M) by each element of an array, per image."""
    total = 0.0
    for place in np.ndindex(array.shape):
        ends = []
        for shift in (H, -2 * H):
            array[place] += shift
            ends.append(outputs())
        array[place] += H
        total += ((ends[0] - ends[1]) / (2 * H)) ** 2
    return total.sum(axis=1).mean() / (12 * total.shape[1])


@pytest.mark.parametrize("network", [SMALL, CONV], ids=lambda network: network.name)
def test_gains_agree_with_central_differences(network):
    net = float_network(network)
    images = images_for(network)
    weights, activations = output_gains(net, images, batch=2)
    for row, name in enumerate(network.names):
        wanted = by_differences(lambda: net.logits(images), net.parameters[name]["weight"])
        assert weights[row] == pytest.approx(wanted, rel=1e-5), name
    wanted = by_differences(lambda: net.logits(images + change), change := np.zeros_like(images[0]))
    assert activations[0] == pytest.approx(wanted, rel=1e-5)


def test_random_signs_estimate_the_gains_of_many_outputs(monkeypatch):
    net = float_network()
    images = images_for(count=200)
    exact = np.array(output_gains(net, images))
    monkeypatch.setattr(output_error, "MOST_SEEDS", 8)
    estimate = np.array(output_gains(net, images))
    assert not np.array_equal(estimate, exact)
    assert estimate == pytest.approx(exact, rel=0.15)
    assert np.array_equal(output_gains(net, images), estimate)


def test_no_images_are_refused():
    with pytest.raises(InputError, match="images must be at least one"):
        output_gains(float_network(), images_for(count=0))


@pytest.fixture(scope="module")
def trained():
    """(network, statistics) after some steps."""
    net = float_network()
    images = images_for(count=64)
    gradients = GradientStatistics(SMALL)
    for step in range(60):
        net.train_step(images[step % 2 :: 2], images[step % 2 :: 2], 0.5, step, gradients.observe)
    return net, measure(net, gradients, images, [(images[:32], images[:32])], gamma_min=0.5)


def test_b_min_is_the_least_that_meets_a_share_of_the_loss(trained):
    net, statistics = trained
    loss = net.evaluate(images_for(count=64), images_for(count=64)).loss
    assert statistics.output_loss == loss
    for target in (0.3, 0.01, 0.0001):
        made = assign(SMALL, statistics, Rules(target))
        reason = made.reasons["code", "weights"]
        assert reason.criterion == "EFQN, MSE"
        min_bits = int(reason.statistic["min_bits"])
        bound = reason.statistic["output_error"]
        assert bound <= target * loss < 4.01 * bound
        gains = feedforward_gains(SMALL, statistics)
        assert min_bits == criteria.smallest_min_bits(gains, target * loss)
        assert made.layers == assign(SMALL, statistics, Rules(min_bits=min_bits)).layers


@pytest.mark.parametrize("minimize", COSTS)
def test_the_least_cost_keeps_the_error_within_the_target(trained, minimize):
    _, statistics = trained
    made = assign(SMALL, statistics, Rules(0.01, minimize=minimize))
    assert made.reasons["code", "weights"].criterion == f"EFQN, MSE, least {minimize}"
    assert 0 < expected_error(statistics, made) <= 0.01 * statistics.output_loss
    assert made.layers != assign(SMALL, statistics, Rules(0.01)).layers


def test_the_bound_on_decisions_is_refused(trained):
    with pytest.raises(InputError, match="bound 'paper' .* 'small' decides nothing: .*; leave"):
        assign(SMALL, trained[1], Rules(bound="paper"))


def expected_error(statistics, assignment):
    return MismatchBound.of("tight", SMALL, statistics).at(feedforward_bits(SMALL, assignment))


def test_gains_and_loss_are_those_of_images_that_are_held_out(trained):
    net, _ = trained
    images = images_for(count=8)
    unseen = np.random.default_rng(9).uniform(0, 1, (6, 3, 3, 1))
    gradients = GradientStatistics(SMALL)
    net.train_step(images, images, 0.0, 0, gradients.observe)
    found = measure(net, gradients, images, [(images, images)], 0.5, held_out=(unseen, unseen))
    assert found.output_loss == output_loss(net, unseen, unseen)
    assert np.array_equal(found.weights_gain, output_gains(net, unseen)[0])
    assert found.decisions is None


def test_the_error_is_what_the_gains_expect(trained):
    net, statistics = trained
    made = assign(SMALL, statistics, Rules(0.01))
    pixels = np.random.default_rng(3).integers(0, 256, (400, 3, 3, 1)).astype(np.uint8)
    measured = measured_output_error(net, made, pixels, 255)
    assert 0.2 < measured / expected_error(statistics, made) < 2
    coarse = assign(SMALL, statistics, Rules(min_bits=3))
    assert measured_output_error(net, coarse, pixels, 255) > 10 * measured


def test_without_rounding_there_is_no_error():
    """Codes and weights that are on every grid give float's outputs."""
    net = float_network(CONV)
    for own in net.parameters.values():
        own["weight"] = np.round(own["weight"] * 4) / 4
    layers = {
        name: dataclasses.replace(
            row, weights=Format(8, 0), activations=Format(12, 1, False), accumulators=Format(16, -8)
        )
        for name, row in assign_bits_of(CONV).layers.items()
    }
    made = dataclasses.replace(
        assign_bits_of(CONV), layers=layers, logits=Format(20, 3), reasons={}
    )
    assert measured_output_error(net, made, np.full((3, 3, 3, 1), 64, np.uint8), 128) == 0


def assign_bits_of(network):
    """8 bits, by statistics that are 1 throughout."""
    fields = {name: np.ones(len(network.names)) for name in PER_LAYER if name not in OF_BATCH_NORM}
    fields |= dict.fromkeys(("logits_max", "gamma_min", "output_loss"), 1.0) | {"batch_size": 1}
    statistics = Statistics(network.name, network.names, **fields)
    return assign(network, statistics, Rules(min_bits=8))


@pytest.mark.parametrize(
    ("loss", "scale"), [("mse", 1), ("half_mse", 2 / 9), ("sigmoid_cross_entropy", 1 / 9)]
)
def test_the_loss_is_one_of_an_output(loss, scale):
    net = float_network(dataclasses.replace(SMALL, loss=loss))
    images = images_for()
    assert output_loss(net, images, images) == pytest.approx(
        scale * net.evaluate(images, images).loss
    )


def test_statistics_keep_the_loss_of_the_outputs(trained, tmp_path):
    _, statistics = trained
    statistics.save(tmp_path / "s.npz")
    assert Statistics.load(tmp_path / "s.npz", SMALL).output_loss == statistics.output_loss
    without = dataclasses.replace(statistics, output_loss=0.0)
    with pytest.raises(InputError, match="output_loss must be finite and above 0, got 0"):
        assign(SMALL, without)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="output_loss must be finite and above 0"):
            dataclasses.replace(statistics, output_loss=wrong)

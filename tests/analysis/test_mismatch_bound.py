"""The tight bound on p_m against the noise model itself, and the bits that keep it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsim.analysis import criteria, feedforward
from fxsim.analysis.assign import Rules, assign, feedforward_bits
from fxsim.analysis.complexity import assignment_complexity
from fxsim.analysis.decisions import Decisions
from fxsim.analysis.feedforward import MismatchBound
from fxsim.analysis.measure import measure
from fxsim.analysis.noise_gains import measure_decisions
from fxsim.analysis.statistics import GradientStatistics, Statistics
from fxsim.errors import InputError
from fxsim.files import read_arrays, write_arrays
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network, Pool

NETWORK = Network(
    "bounded",
    (8, 8, 1),
    (
        Conv(name="conv1", filters=4, padding=1, pool=Pool("max", 2)),
        Conv(name="conv2", filters=4, padding=1, dropout=0.5),
        Dense(name="fc1", units=12),
        Dense(name="fc2", units=5, relu=False),
    ),
)
seeds = st.integers(0, 2**32)


def draw_decisions(seed: int, tensors: int = 3, images: int = 30, rivals: int = 4) -> Decisions:
    rng = np.random.default_rng(seed)
    squares = rng.lognormal(0, 2, (tensors, images, rivals))
    return Decisions(np.sort(rng.exponential(2.0, (images, rivals))), squares)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_not_below_what_the_noise_does(seed):
    """Uniform noise on every element of tensors that move the scores of a random linear map."""
    rng = np.random.default_rng(seed)
    tensors, elements, images, rivals = 3, 1 + seed, 15, 4
    slopes = rng.standard_normal((tensors, elements, images, rivals))
    decisions = Decisions(np.abs(rng.standard_normal((images, rivals))), (slopes**2).sum(axis=1))
    bits = rng.integers(2, 5, tensors)
    draws = 20_000
    noise = np.ldexp(rng.uniform(-0.5, 0.5, (draws, elements, tensors)), 1 - bits)
    moved = np.einsum("det,tenm->dnm", noise, slopes)
    changed = (moved > decisions.distances).any(axis=2).mean()
    error = np.sqrt(changed * (1 - changed) / (draws * images))
    bound = decisions.bounds(bits)["tight"]
    assert changed > 0
    assert bound >= changed - 4 * error
    assert bound <= 8 * changed


@given(seeds)
def test_it_is_never_above_the_papers_nor_above_1_and_falls_with_every_bit(seed):
    decisions = draw_decisions(seed)
    for bits in np.random.default_rng(seed).integers(1, 12, (5, 3)):
        found = decisions.bounds(bits)
        assert 0 <= found["tight"] <= min(1.0, found["paper"] * (1 + 1e-6))
        for tensor in range(3):
            more = bits.copy()
            more[tensor] += 1
            assert decisions.bounds(more)["tight"] <= found["tight"]


@given(seeds)
def test_it_is_the_papers_where_the_margins_are_between_one_and_two_deviations(seed):
    rng = np.random.default_rng(seed)
    squares = rng.uniform(0.5, 1, (3, 20, 1))
    bits = rng.integers(1, 6, 3)
    deviations = np.sqrt(np.einsum("t,tnm->nm", np.ldexp(1.0, 1 - bits) ** 2 / 12, squares))
    decisions = Decisions(deviations * rng.uniform(1.01, 2.0, (20, 1)), squares)
    found = decisions.bounds(bits)
    assert found["tight"] == pytest.approx(found["paper"], rel=1e-5)


def test_each_of_the_three_terms_by_hand():
    squares = np.full((1, 1, 1), 12.0)  # with a step of 1 the noise has the deviation 1
    for margin, wanted in ((0.5, 0.5), (1.5, 0.5 / 1.5**2), (4.0, np.exp(-8.0))):
        assert criteria.tight_mismatch_bound([[margin]], squares, [1]) == pytest.approx(wanted)
    two = criteria.tight_mismatch_bound([[0.5, 4.0]], np.full((1, 1, 2), 12.0), [1])
    assert two == pytest.approx(0.5 + np.exp(-8.0))
    three = criteria.tight_mismatch_bound([[0.5, 0.5, 0.5]], np.full((1, 1, 3), 12.0), [1])
    assert three == 1.0


def test_a_tie_and_a_tensor_without_influence_are_left_out():
    decisions = Decisions(np.array([[0.0, 1.0]]), np.array([[[3.0, 0.0]]]))
    assert criteria.tight_mismatch_bound(decisions.distances, decisions.squares, [1]) == 0.0
    assert decisions.image_gains().tolist() == [[0.0]]


def test_typical_gains_are_geometric_means_over_images_that_every_tensor_moves():
    gains = np.array([[1.0, 4.0, 100.0], [2.0, 8.0, 0.0]])
    decisions = Decisions(np.ones((3, 1)), 24 * gains[:, :, None])
    assert decisions.image_gains() == pytest.approx(gains)
    assert decisions.typical_gains() == pytest.approx([2.0, 4.0])
    assert decisions.mean_gains() == pytest.approx([35.0, 10 / 3])


@pytest.mark.parametrize(
    ("distances", "squares", "told"),
    [
        (np.ones((2, 3)), np.ones((4, 2, 2)), r"\(N, M - 1\) and squares \(tensors, N, M - 1\)"),
        (np.ones(3), np.ones((4, 3)), "got"),
        (np.ones((0, 3)), np.ones((4, 0, 3)), "got"),
        (-np.ones((2, 3)), np.ones((4, 2, 3)), "distances of decisions must be finite"),
        (np.ones((2, 3)), np.full((4, 2, 3), np.nan), "squares of decisions must be finite"),
        (np.array([["a"]]), np.ones((4, 1, 1)), "distances of decisions must be reals"),
    ],
)
def test_decisions_that_do_not_do_are_refused(distances, squares, told):
    with pytest.raises(InputError, match=told):
        Decisions(distances, squares)


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    """Of a network after a few steps on random images with labels that can be learnt."""
    rng = np.random.default_rng(1)
    images = rng.random((96, 8, 8, 1))
    labels = (5 * images[:, :4, :4, 0].mean(axis=(1, 2))).astype(np.int64) % 5
    network = FloatNetwork(NETWORK, initial_parameters(NETWORK, 2), seed=1)
    observer = GradientStatistics(NETWORK)
    for step in range(8):
        part = slice(16 * (step % 6), 16 * (step % 6) + 16)
        network.train_step(images[part], labels[part], 0.1, step=step, probe=observer.probe(step))
    view = FloatNetwork(NETWORK, network.parameters, np.float64)
    return measure(view, observer, images, [(images[:16], labels[:16])], gamma_min=0.1)


def test_the_statistics_hold_the_decisions(statistics, tmp_path):
    decisions = statistics.decisions
    assert decisions.distances.shape == (96, 4) and decisions.squares.shape == (8, 96, 4)
    decisions.check_network(NETWORK)
    statistics.save(tmp_path / "statistics.npz")
    read = Statistics.load(tmp_path / "statistics.npz", NETWORK).decisions
    assert np.array_equal(read.squares, decisions.squares)
    arrays = read_arrays(tmp_path / "statistics.npz")
    write_arrays(tmp_path / "bad.npz", arrays | {"decision_squares": np.ones((8, 96, 3))})
    with pytest.raises(InputError, match="bad.npz: distances of decisions must be"):
        Statistics.load(tmp_path / "bad.npz")


def test_decisions_of_another_network_are_refused(statistics):
    other = dataclasses.replace(statistics, decisions=draw_decisions(0))
    with pytest.raises(InputError, match="decisions are of 3 tensors and 5 classes"):
        assign(NETWORK, other)


def test_decisions_stand_in_the_order_of_the_margins(statistics):
    network = FloatNetwork(NETWORK, initial_parameters(NETWORK, 2), np.float64)
    images = np.random.default_rng(3).random((7, 8, 8, 1))
    scores = np.sort(network.logits(images), axis=1)[:, ::-1]
    found = measure_decisions(network, images)
    assert found.distances == pytest.approx(scores[:, :1] - scores[:, 1:], rel=1e-5)


@pytest.mark.parametrize("target", [0.3, 0.05, 0.01, 1e-4])
def test_efqns_bits_less_what_the_tight_bound_can_spare(target, statistics):
    found = assign(NETWORK, statistics, Rules(target))
    bits = feedforward_bits(NETWORK, found)
    reason = found.reasons["fc2", "weights"]
    bound = MismatchBound.of("tight", NETWORK, statistics)
    assert bound.at(bits) == reason.statistic["mismatch_bound"] <= target
    assert bound.at(bits, reason.margin) == pytest.approx(target, rel=1e-6)
    whole = criteria.equal_quantization_noise(bound.gains, int(reason.statistic["min_bits"]))
    assert ((whole - bits == 0) | (whole - bits == 1)).all()
    assert bound.at(whole - 1) > target or whole.min() == 1
    kept = whole == bits
    for tensor in np.flatnonzero(kept & (bits > 1)):
        fewer = bits.copy()
        fewer[tensor] -= 1
        assert bound.at(fewer) > target


@pytest.mark.parametrize("minimize", feedforward.COSTS)
def test_bits_that_cost_least_keep_the_bound_and_none_can_be_taken(minimize, statistics):
    target = 0.01
    found = assign(NETWORK, statistics, Rules(target, minimize=minimize))
    bits = feedforward_bits(NETWORK, found)
    bound = MismatchBound.of("tight", NETWORK, statistics)
    assert bound.at(bits) <= target
    for tensor in np.flatnonzero(bits > 1):
        fewer = bits.copy()
        fewer[tensor] -= 1
        assert bound.at(fewer) > target
    grads = {name: layer.activation_grads.bits for name, layer in found.layers.items()}
    cost = feedforward.cost_of_bits(NETWORK, statistics, minimize, grads)
    equal = feedforward_bits(NETWORK, assign(NETWORK, statistics, Rules(target)))
    assert cost(bits) <= cost(equal)
    assert found.reasons["fc2", "weights"].criterion == f"EFQN, least {minimize}"
    if minimize == "macs":
        assert cost(bits) == assignment_complexity(NETWORK, found).total.training_macs


def test_what_the_rules_refuse(statistics):
    with pytest.raises(InputError, match="bound 'loose' is unknown; choose from tight, paper"):
        Rules(bound="loose")
    with pytest.raises(InputError, match="minimize 'bits' is unknown"):
        Rules(minimize="bits")
    with pytest.raises(InputError, match="min_bits and minimize are both given"):
        Rules(minimize="macs", min_bits=3)
    with pytest.raises(TypeError, match="rules must be a fxsim.Rules, got 0.01"):
        assign(NETWORK, statistics, 0.01)
    with pytest.raises(TypeError, match="decisions must be a fxsim.Decisions, got 3"):
        dataclasses.replace(statistics, decisions=3)
    without = dataclasses.replace(statistics, decisions=None)
    with pytest.raises(InputError, match="bound 'tight' needs the decisions of single images"):
        assign(NETWORK, without)
    assert assign(NETWORK, without, Rules(bound="paper")).layers

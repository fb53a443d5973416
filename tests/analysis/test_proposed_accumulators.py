"""Accumulators from weights and statistics: the certificate, the probability, what is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsim import Accumulator, Format, InputError, Tensor, ops
from fxsim.accumulator import Overflows
from fxsim.analysis import accumulators, criteria
from fxsim.analysis.decisions import Decisions
from fxsim.analysis.fixed_run import accumulator_overflows
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.precision import PrecisionAssignment, Proposal, Reason
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.ops.products import Geometry
from fxsim.windows import Window

PROPERTY = settings(derandomize=True, deadline=None)
SIGNED, UNSIGNED = Format(4, 0), Format(3, 0, False)
WEIGHTS = Format(5, 0)


def certified(weights, operand, start=0):
    """certified_bits of one sum with these codes."""
    positive = sum(code for code in weights if code > 0)
    negative = -sum(code for code in weights if code < 0)
    return criteria.certified_bits(positive, negative, operand.min_code, operand.max_code, start)


def worst(weights, operand):
    """The inputs with the greatest and with the least sum."""
    ends = operand.min_code, operand.max_code
    codes = [[ends[code > 0] for code in weights], [ends[code <= 0] for code in weights]]
    return np.array(codes)


def overflows(inputs, weights, operand, model):
    x = Tensor(np.array(inputs), operand)
    weight = Tensor(np.array(weights).reshape(-1, 1), WEIGHTS)
    exact = ops.matmul(x, weight, accumulator=model)
    exact.tensor()
    return exact.overflows.overflows


@PROPERTY
@given(st.data(), st.sampled_from([SIGNED, UNSIGNED]), st.sampled_from(["sequential", "tree"]))
def test_no_input_overflows_a_certified_accumulator(data, operand, order):
    weights = data.draw(st.lists(st.integers(WEIGHTS.min_code, WEIGHTS.max_code), min_size=1))
    codes = st.integers(operand.min_code, operand.max_code)
    row = st.lists(codes, min_size=len(weights), max_size=len(weights))
    inputs = [*data.draw(st.lists(row, min_size=1, max_size=4)), *worst(weights, operand)]
    bits = max(certified(weights, operand), 2)
    assert overflows(inputs, weights, operand, Accumulator(bits, order=order)) == 0


@PROPERTY
@given(
    st.lists(st.integers(WEIGHTS.min_code, WEIGHTS.max_code), min_size=1),
    st.sampled_from([SIGNED, UNSIGNED]),
)
def test_the_worst_input_overflows_one_bit_less(weights, operand):
    bits = certified(weights, operand)
    if bits > 2:
        narrower = Accumulator(bits - 1)
        assert overflows(worst(weights, operand), weights, operand, narrower) > 0


def test_a_certificate_has_room_for_what_is_added_beside():
    assert criteria.certified_bits(1, 0, 0, 7) == 4
    assert criteria.certified_bits(1, 0, 0, 7, start=1) == 5
    assert criteria.certified_bits(0, 8, 0, 1) == 4  # -8 fits 4 bits, 8 does not


@pytest.mark.parametrize("wrong", [(-1, 0, 0, 1), (1, 0, 1, 2), (1, 0, -1, -1), (1, -1, 0, 1)])
def test_a_certificate_refuses_what_has_no_zero(wrong):
    with pytest.raises(InputError, match="must be at least 0"):
        criteria.certified_bits(*wrong)


TERMS = {
    "uniform": (lambda rng, shape: rng.uniform(-1, 1, shape), 3**-0.5),
    "signs": (lambda rng, shape: rng.choice([-1.0, 1.0], shape), 1.0),
    "sparse": (lambda rng, shape: rng.choice([-1.0, 0.0, 0.0, 1.0], shape), 2**-0.5),
}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("deviations", [1.5, 2.0, 3.0])
def test_the_probability_is_bounded_and_not_by_far(terms, deviations):
    draw, sigma = TERMS[terms]
    runs, count = 20_000, 400
    paths = np.abs(np.cumsum(draw(np.random.default_rng(1), (runs, count)), axis=1)).max(axis=1)
    limit = deviations * sigma * count**0.5
    bound = criteria.overflow_bound(limit, count, sigma)
    share = np.mean(paths > limit)
    error = (bound / runs) ** 0.5
    assert share <= bound + 3 * error
    assert share >= bound / 2 - 3 * error


@PROPERTY
@given(st.integers(1, 10**6), st.floats(1e-9, 1e9), st.floats(1e-12, 0.5))
def test_the_range_is_the_least_that_meets_the_target(terms, sigma, target):
    exponent = criteria.overflow_range_exp(terms, sigma, target)
    assert criteria.overflow_bound(2.0**exponent, terms, sigma) <= target * (1 + 1e-6)
    assert criteria.overflow_bound(2.0 ** (exponent - 1), terms, sigma) > target * (1 - 1e-6)


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0])
def test_a_target_that_is_no_probability_is_refused(target):
    with pytest.raises(InputError, match="target must lie between 0 and 1"):
        criteria.overflow_range_exp(16, 0.25, target)


GROUPED = Geometry(6, 6, 4, 6, Window((2, 3)), groups=2)


def test_terms_have_the_order_of_the_accumulator():
    forward = accumulators._forward_order(GROUPED)
    back = accumulators._input_grad_order(GROUPED)
    rows, columns, channels, outputs = GROUPED.weight
    for row, column, channel, output in np.ndindex(GROUPED.weight):
        place = (channel * rows + row) * columns + column
        assert forward[row, column, channel, 0] == place
        place = (output % (outputs // 2) * rows + row) * columns + column
        assert back[row, column, 0, output] == place


def test_sums_of_weights_are_those_of_one_output_and_one_input():
    weight = np.zeros((1, 1, 2, 4))  # two groups of two channels and two outputs
    weight[0, 0, :, 0] = 0.5, 0.25
    weight[0, 0, :, 1] = -0.5, 0.125
    weight[0, 0, :, 3] = -0.125, -0.75
    assert accumulators._weight_sums(weight, groups=2) == {
        "weights_positive_sum": 0.75,
        "weights_negative_sum": 0.875,
        "weights_output_sum": 0.875,
        "weights_input_sum": 1.0,  # channel 0 of the first group, read by outputs 0 and 1
        "weights_input_square": 0.5625,  # channel 1 of the second group
    }


SMALL = Network(
    "small",
    (1, 1, 6),
    (Dense(name="hidden", units=5), Dense(name="scores", units=3, relu=False)),
)


def measured(sigma_max=1e-9):
    """(network, images, labels, its sum statistics): one batch, all prefixes."""
    rng = np.random.default_rng(0)
    network = FloatNetwork(SMALL, initial_parameters(SMALL, 3), np.float64)
    images, labels = rng.uniform(0, 1, (4, 1, 1, 6)), np.array([0, 1, 2, 1])
    sigmas = {
        f"{name}_sigma_max": np.full(2, sigma_max) for name in ("activation_grads", "weight_grads")
    }
    found = accumulators.sum_statistics([network], [(images, labels)], sigmas)
    return network, images, labels, found


def test_the_deviation_is_that_of_the_largest_prefix():
    network, images, _, found = measured()
    terms = images.reshape(4, 6, 1) * network.weight("hidden")
    prefixes = np.concatenate([np.cumsum(terms, axis=1), np.zeros((4, 1, 5))], axis=1)
    prefixes[:, -1] = prefixes[:, -2] + network.parameters["hidden"]["bias"]
    squares = prefixes**2
    by_image, by_output = squares.mean(axis=2).max(axis=0), squares.mean(axis=0).max(axis=1)
    largest = (by_image * by_output / squares.mean(axis=(0, 2))).max() ** 0.5
    assert found["forward_terms_sigma"][0] * 6**0.5 == pytest.approx(largest)
    assert found["input_grad_terms_sigma"][0] == 0.0


def test_gradients_are_taken_as_large_as_they_were_along_the_training():
    network, images, labels, found = measured()
    grads = {}
    network.loss_and_grads(
        images,
        labels,
        step=0,
        probe=lambda tensor, layer, array: grads.update({(layer, tensor): array.copy()}),
    )
    own = np.sqrt(np.mean(grads["scores", "weight_grads"] ** 2))
    larger = measured(4 * own)[3]
    ratio = larger["weight_grad_terms_sigma"][1] / found["weight_grad_terms_sigma"][1]
    assert ratio == pytest.approx(4.0)


PRECISION = LayerPrecision(
    weights=Format(8, 0),
    activations=Format(6, 1, False),
    activation_grads=Format(8, -2),
    weight_grads=Format(8, 0),
    accumulators=Format(10, -8),
)
PROPOSED = {
    "hidden.forward": Proposal(Accumulator(14), Reason("OC", {"overflow_bound": 0.0}, 1.5)),
    "scores.input_grad": Proposal(Accumulator(12), Reason("OP", {"overflow_bound": 1e-6}, 1.5)),
}
ASSIGNMENT = PrecisionAssignment(
    "small", {"hidden": PRECISION, "scores": PRECISION}, proposed=PROPOSED
)


def test_proposals_change_nothing_until_they_are_taken():
    assert ASSIGNMENT.accumulators_of("hidden") == {}
    assert ASSIGNMENT.formats_to_dict() == dataclasses.replace(ASSIGNMENT, proposed={}).to_dict()
    taken = ASSIGNMENT.with_accumulators(["assigned", "scores.input_grad=20 bits"])
    assert taken.accumulators_of("hidden") == {"forward": Accumulator(14)}
    assert taken.accumulators_of("scores") == {"input_grad": Accumulator(20)}


def test_assigned_is_refused_where_nothing_is_proposed():
    with pytest.raises(InputError, match="proposes none; make it anew"):
        dataclasses.replace(ASSIGNMENT, proposed={}).with_accumulators(["assigned"])


def test_a_file_holds_the_proposals():
    assert PrecisionAssignment.from_dict(ASSIGNMENT.to_dict()) == ASSIGNMENT


@pytest.mark.parametrize(
    "change, text",
    [
        ({"scores.forwards": ASSIGNMENT.to_dict()["proposed"]["hidden.forward"]}, "forwards"),
        ({"hidden.forward": {"accumulator": {"bits": 14}}}, "'reason'"),
        ({"hidden.forward": 3}, "hidden.forward"),
        ({"forward": ASSIGNMENT.to_dict()["proposed"]["hidden.forward"]}, "for one layer"),
    ],
)
def test_a_file_with_wrong_proposals_is_refused(change, text):
    with pytest.raises(InputError, match=text):
        PrecisionAssignment.from_dict(ASSIGNMENT.to_dict() | {"proposed": change})


@pytest.mark.parametrize(
    "only, bits", [(None, (16, 14)), ("feedforward", (16, 13)), ("activation_grads", (14, 13))]
)
def test_perturbed_formats_keep_the_ranges_of_accumulators(only, bits):
    """A bit more in both factors of a product makes its step four times finer."""
    perturbed = ASSIGNMENT.perturbed(1, only)
    assert tuple(each.accumulator.bits for each in perturbed.proposed.values()) == bits


def test_overflows_that_were_counted_meet_the_bound_or_not():
    taken = ASSIGNMENT.with_accumulators(["assigned"])
    met = {"hidden.forward": Overflows(10**6, 0), "scores.input_grad": Overflows(10**6, 1)}
    assert [finding.passed for finding in accumulator_overflows(taken, met)] == [True, True]
    met = {"hidden.forward": Overflows(10**6, 1), "scores.input_grad": Overflows(10**6, 20)}
    assert [finding.passed for finding in accumulator_overflows(taken, met)] == [False, False]
    other = taken.with_accumulators(["hidden.forward=20 bits"])
    assert [finding.layer for finding in accumulator_overflows(other, met)] == ["scores"]


@pytest.mark.parametrize("rounding", ["floor", "nearest_even"])
def test_dropped_bits_have_the_stated_noise(rounding):
    rng = np.random.default_rng(0)
    runs, terms, drop = 4000, 30, 3
    x = rng.integers(-128, 128, (runs, terms))
    weights = rng.integers(1, 256, (terms, 1)) | 1  # odd: the last bits of products are uniform
    product = Tensor(x, Format(8, 7)), Tensor(weights, Format(9, 8))
    model = Accumulator(40, drop=drop, rounding=rounding)
    held, exact = (ops.matmul(*product, accumulator=each).tensor().real for each in (model, None))
    errors = held - exact
    bias, variance = criteria.dropped_bits_noise(terms, 1.0, drop, rounding)
    deviation = variance**0.5
    assert abs(errors.mean() - bias) <= 4 * deviation / runs**0.5
    assert errors.var() == pytest.approx(variance, rel=0.15)


def test_bits_may_be_dropped_as_long_as_the_bound_meets_the_target():
    rng = np.random.default_rng(0)
    decisions = Decisions(
        rng.uniform(1.0, 2.0, (20, 2)),
        rng.uniform(0.5, 1, (4, 20, 2)),
        rng.uniform(0.5, 1, (2, 20, 2)),
    )
    bits = np.full(4, 9)
    terms, step_exp = np.array([6, 5]), -7 - 5  # products in PRECISION's formats

    def bound(drops):
        noise = np.where(drops, 1 - step_exp - drops, 500)
        squares = [decisions.squares, decisions.operations * terms[:, None, None]]
        return criteria.tight_mismatch_bound(
            decisions.distances, np.concatenate(squares), np.concatenate([bits, noise])
        )

    found = accumulators.droppable_bits(SMALL, decisions, bits, ASSIGNMENT, 0.01)
    drops = np.array([found["hidden"], found["scores"]])
    assert drops.min() > 0
    assert bound(drops) <= 0.01 < bound(drops + 1)
    none = accumulators.droppable_bits(SMALL, decisions, np.full(4, 1), ASSIGNMENT, 0.01)
    assert none == {"hidden": 0, "scores": 0}


CONVOLUTIONS = Network(
    "convolutions",
    (8, 8, 1),
    (
        Conv(name="first", filters=4, padding=1, batch_norm=True),
        Conv(name="second", filters=4, padding=1, groups=2, input="first"),
        Dense(name="scores", units=3, relu=False),
    ),
)


def test_every_product_has_its_sums_measured():
    rng = np.random.default_rng(0)
    network = FloatNetwork(CONVOLUTIONS, initial_parameters(CONVOLUTIONS, 3), np.float64)
    batches = [(rng.uniform(0, 1, (5, 8, 8, 1)), np.array([0, 1, 2, 1, 0]))]
    sigmas = {
        f"{name}_sigma_max": np.full(3, 1e-9) for name in ("activation_grads", "weight_grads")
    }
    before = {key: array.copy() for key, array in network.state().items()}
    found = accumulators.sum_statistics([network, network], batches, sigmas)
    assert all(np.array_equal(before[key], array) for key, array in network.state().items())
    assert found["input_grad_terms_sigma"][0] == 0.0
    for name, values in found.items():
        assert (values[1:] > 0).all(), name

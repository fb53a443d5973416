"""The criteria on numbers worked out by hand, and the inequalities that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsim.analysis import criteria
from fxsim.errors import InputError

PROPERTY = settings(max_examples=200, derandomize=True, deadline=None)
positive = st.floats(1e-12, 1e12)
counts = st.integers(1, 10**9)


def test_efqn_gives_the_least_gain_min_bits_and_half_a_bit_per_factor_of_two():
    bits = criteria.equal_quantization_noise([[1.0, 4.0], [16.0, 64.0]], 5)
    assert bits.tolist() == [[5, 6], [7, 8]]


def test_efqn_rounds_halves_up():
    # log2 sqrt(2) = 1/2
    just_below = 2.0 * (1 - 1e-12)
    tie = 2.0
    assert criteria.equal_quantization_noise([1.0, just_below, tie], 3).tolist() == [3, 3, 4]


def test_mismatch_bound_by_hand():
    assert criteria.mismatch_bound([1.0, 8.0], [2, 3]) == 0.25 + 8 / 16


def test_smallest_min_bits_by_hand():
    # Equal gains of 1/2: the bound is 4**-(B - 1), and 4**-3 = 1/64 is the first of at most 2 %.
    assert criteria.smallest_min_bits([0.5, 0.5], 0.02) == 4
    assert criteria.smallest_min_bits([0.5, 0.5], 1 / 64) == 4
    assert criteria.smallest_min_bits([0.5, 0.5], 0.0156) == 5
    assert criteria.smallest_min_bits([1e-6], 0.01) == 1


@PROPERTY
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.floats(1e-4, 0.5))
def test_smallest_min_bits_meets_the_target_and_one_bit_less_does_not(gains, target):
    def bound(min_bits):
        return criteria.mismatch_bound(gains, criteria.equal_quantization_noise(gains, min_bits))

    least = criteria.smallest_min_bits(gains, target)
    assert bound(least) <= target * (1 + 1e-12)
    assert least == 1 or bound(least - 1) > target * (1 - 1e-12)


@PROPERTY
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.integers(1, 8))
def test_efqn_contributions_to_the_bound_are_equal_within_rounding(gains, min_bits):
    bits = criteria.equal_quantization_noise(gains, min_bits)
    contributions = 4.0 ** (1 - bits) * np.array(gains)
    least = 4.0 ** (1 - min_bits) * min(gains)
    assert np.all(contributions <= 2 * least * (1 + 1e-9))
    assert np.all(contributions >= least / 2 * (1 - 1e-9))


@pytest.mark.parametrize(
    "sigma, factor, exponent",
    [
        (0.125, 2, -2),
        (0.126, 2, -1),
        (0.25, 4, 0),
        (3.0, 1, 2),
        (1e-6, 8, -16),
    ],
)
def test_gc_by_hand(sigma, factor, exponent):
    assert criteria.clipping_range_exp(sigma, factor) == exponent


@PROPERTY
@given(positive, st.sampled_from([2, 4, 8]))
def test_gc_range_is_wide_enough_and_half_of_it_is_not(sigma, factor):
    r = 2.0 ** criteria.clipping_range_exp(sigma, factor)
    assert r >= factor * sigma > r / 2


@pytest.mark.parametrize("sigma, exponent", [(1.0, -3), (1.01, -2), (0.99, -3), (2.0**-10, -13)])
def test_rqb_by_hand_is_strict(sigma, exponent):
    assert criteria.bias_step_exp(sigma) == exponent


@PROPERTY
@given(positive)
def test_rqb_step_is_below_a_quarter_of_sigma_and_twice_of_it_is_not(sigma):
    step = 2.0 ** criteria.bias_step_exp(sigma)
    assert step < sigma / 4 <= 2 * step


def test_bqn_by_hand():
    # 2**-10 / sqrt(16) * (16 / 1)**(1/4) = 2**-11, and strictly below it 2**-12.
    assert criteria.reflected_noise_step_exp(2.0**-10, 16.0, 16, 1) == -12
    assert criteria.reflected_noise_step_exp(2.0**-10, 15.9, 16, 1) == -11
    assert criteria.reflected_noise_step_exp(2.0**-10, 15.9, 16, 1, fourth_root=False) == -12


@PROPERTY
@given(positive, positive, counts, counts, st.booleans())
def test_bqn_step_is_below_its_bound_and_twice_of_it_is_not(
    step, lambda_max, weights, activations, fourth_root
):
    found = 2.0 ** criteria.reflected_noise_step_exp(
        step, lambda_max, weights, activations, fourth_root
    )
    # Fourth powers, so that the check does not share the criterion's roots.
    ratio = weights / activations if fourth_root else 1.0
    bound = step**4 / lambda_max**2 * ratio
    assert found**4 < bound * (1 + 1e-9)
    assert (2 * found) ** 4 >= bound * (1 - 1e-9)


def test_bqn_keeps_the_reflected_noise_norm_below_the_weight_gradients_own():
    square_jacobian = np.random.default_rng(1).random((6, 20)) ** 2
    step = 2.0**-7
    lambda_max = np.linalg.norm(square_jacobian, 2)
    found = 2.0 ** criteria.reflected_noise_step_exp(step, lambda_max, 6, 20)
    reflected = square_jacobian @ np.full(20, found**2 / 12)
    assert np.linalg.norm(reflected) < np.linalg.norm(np.full(6, step**2 / 12))


@PROPERTY
@given(positive, positive)
def test_as_step_is_at_most_the_smallest_update_and_twice_of_it_is_not(gamma, step):
    found = 2.0 ** criteria.accumulator_step_exp(gamma, step)
    assert found <= gamma * step < 2 * found


def test_as_admits_equality():
    assert criteria.accumulator_step_exp(0.25, 2.0**-10) == -12


def test_gradient_bits():
    assert criteria.gradient_bits(-4, -11) == 8
    assert criteria.gradient_bits(-4, -3) == 1
    assert criteria.gradient_bits([0, 1], -3).tolist() == [4, 5]


def test_criteria_broadcast_and_give_python_numbers_for_numbers():
    assert criteria.clipping_range_exp([1.0, 2.0], [[1.0], [2.0]]).tolist() == [[0, 1], [1, 2]]
    assert criteria.bias_step_exp(np.array([1.0, 8.0])).tolist() == [-3, 0]
    assert type(criteria.bias_step_exp(np.float32(1.0))) is int
    assert type(criteria.gradient_bits(1, 0)) is int
    assert type(criteria.reflected_noise(1.0, 12.0)) is float


def test_quantization_bias_is_of_the_first_levels_open_interval():
    # In (1/2, 3/2) lie magnitudes 0.6 and 1.0, whose mean is 0.8: the level 1 is 25 % above it.
    assert criteria.relative_quantization_bias([0.5, -0.6, 1.0, 1.5, 7.0], 1.0) == pytest.approx(
        0.25
    )
    assert criteria.relative_quantization_bias([0.0, 9.0], 1.0) == 0.0


def test_rqb_keeps_the_bias_of_a_gaussian_below_one_percent_and_gc_its_clipping_below_five():
    values = np.random.default_rng(2).standard_normal(2_000_000) * 0.037
    step = 2.0 ** criteria.bias_step_exp(0.037)
    r = 2.0 ** criteria.clipping_range_exp(0.037, 2)
    assert criteria.relative_quantization_bias(values, step) < criteria.LARGEST_QUANTIZATION_BIAS
    assert np.mean(np.abs(values) >= r) < criteria.LARGEST_CLIPPING_RATE
    assert (
        criteria.relative_quantization_bias(values, 16 * step) > criteria.LARGEST_QUANTIZATION_BIAS
    )


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_the_bias_of_magnitudes_that_lie_as_a_power_is_the_same_at_every_step(power):
    """Why no step meets RQB at the end of a training: about power / 12, far above 1 %."""
    uniform = (np.arange(1_000_000) + 0.5) / 1_000_000
    values = uniform ** (1 / (1 - power))  # of density (1 - power) v^-power on (0, 1)
    for step in 2.0 ** np.arange(-2, -9, -1):
        found = criteria.relative_quantization_bias(values, step)
        assert found == pytest.approx(power / 12, rel=0.2)
        assert found > 2 * criteria.LARGEST_QUANTIZATION_BIAS


def test_at_the_step_of_gf_at_most_one_percent_is_flushed_and_at_twice_the_step_more():
    rng = np.random.default_rng(4)
    for scale in (1.0, 3e-5):
        values = scale * rng.standard_normal((40, 30)) ** 5
        flushable = criteria.flushable_magnitude(values)
        step = 2.0 ** criteria.flushing_step_exp(flushable)
        assert flushable in np.abs(values)
        assert criteria.flushed_share(values, step) <= criteria.LARGEST_FLUSHED_SHARE
        assert criteria.flushed_share(values, 2 * step) > criteria.LARGEST_FLUSHED_SHARE


def test_what_may_be_flushed_by_hand():
    assert criteria.flushable_magnitude([0.0, -2.0, 0.0]) == 2.0
    assert criteria.flushable_magnitude([1.0, 99.0]) == 99.0  # 1 % itself is allowed
    assert criteria.flushable_magnitude([1.0, 98.9]) == 1.0
    assert criteria.flushable_magnitude([0.0, 0.0]) == math.inf
    assert criteria.flushing_step_exp([0.5, 0.75, 1.0]).tolist() == [0, 0, 1]
    # Half a step itself is rounded away from 0.
    assert criteria.flushed_share([1.0, -0.5, 0.25, 0.25], 1.0) == 0.25
    assert criteria.flushed_share([0.0], 1.0) == 0.0


def test_reflected_noise_is_the_uniform_variance_times_the_gain():
    assert criteria.reflected_noise(0.5, 6.0) == 0.125
    assert criteria.reflected_noise([0.5, 1.0], 12.0).tolist() == [0.25, 1.0]


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "call, name",
    [
        (lambda x: criteria.equal_quantization_noise([1.0, x], 4), "gains"),
        (lambda x: criteria.mismatch_bound([1.0, x], 4), "gains"),
        (lambda x: criteria.smallest_min_bits([1.0], x), "target"),
        (lambda x: criteria.clipping_range_exp(x, 2), "sigma_max"),
        (lambda x: criteria.clipping_range_exp(1.0, x), "factor"),
        (lambda x: criteria.bias_step_exp([1.0, x]), "sigma_min"),
        (lambda x: criteria.reflected_noise_step_exp(1.0, x, 1, 1), "lambda_max"),
        (lambda x: criteria.reflected_noise_step_exp(x, 1.0, 1, 1), "weight_grad_step"),
        (lambda x: criteria.reflected_noise_step_exp(1.0, 1.0, 1, x), "activation_grad_count"),
        (lambda x: criteria.accumulator_step_exp(x, 1.0), "gamma_min"),
        (lambda x: criteria.flushing_step_exp(x), "flushable"),
        (lambda x: criteria.flushed_share([1.0], x), "step"),
        (lambda x: criteria.relative_quantization_bias([1.0], x), "step"),
        (lambda x: criteria.reflected_noise(1.0, x), "gain"),
    ],
)
def test_what_is_not_finite_and_positive_is_refused_by_name(call, name, wrong):
    with pytest.raises(InputError, match=name):
        call(wrong)


def test_other_refusals():
    with pytest.raises(InputError, match="min_bits"):
        criteria.equal_quantization_noise([1.0], 0)
    with pytest.raises(InputError, match="gains"):
        criteria.equal_quantization_noise([], 4)
    with pytest.raises(InputError, match="values"):
        criteria.flushed_share([1.0, math.nan], 1.0)

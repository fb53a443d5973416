"""Softmax cross-entropy and its gradient in integers: constants, table, rows, losses, gradients."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import rounding as rounding_oracle
from oracle import softmax as oracle
from support.bits import assert_same_codes

from fxsim.formats import Format
from fxsim.kernels.elementwise import softmax as kernel
from fxsim.ops.loss import MAX_LOGIT_RANGE_EXP
from fxsim.quantizer import Quantizer

DEFAULT = kernel.powers(8, 30, True)


def cross_entropy(logits, labels, step_exp):
    losses = np.empty(len(logits), np.int64)
    shift = kernel.softmax_scale_shift(step_exp)
    wrong = kernel.softmax_cross_entropy(logits, labels, shift, DEFAULT, losses)
    return losses, wrong


def gradient(
    logits, labels, step_exp, samples, fmt, mode="nearest_away", overflow="saturate", words=None
):
    """(codes, counts) of (p - onehot) / samples, quantized to the signed format `fmt`."""
    errors = np.empty(logits.shape, np.int64)
    shift = kernel.softmax_scale_shift(step_exp)
    kernel.softmax_error(logits, labels, shift, DEFAULT, errors)
    seen = []
    words = None if words is None else np.array(words, np.uint32)
    quantizer = Quantizer(Format(*fmt), mode, overflow, words, seen.append)
    codes = quantizer.quotients(errors, -kernel.PROBABILITY_BITS, samples)
    return codes, [seen[0].below, seen[0].above, seen[0].flushed]


def check_losses(logits, labels, step_exp):
    losses, wrong = cross_entropy(logits, labels, step_exp)
    rows = logits.tolist()
    wanted = [oracle.loss(row, label, step_exp) for row, label in zip(rows, labels.tolist())]
    assert_same_codes(losses, wanted, what="losses")
    assert wrong == sum(oracle.wrong(row, label) for row, label in zip(rows, labels.tolist()))


def check_gradient(
    logits, labels, step_exp, samples, fmt, mode="nearest_away", overflow="saturate", words=None
):
    got, counts = gradient(logits, labels, step_exp, samples, fmt, mode, overflow, words)
    rows = [
        oracle.gradient(row, label, step_exp, samples, fmt, mode, overflow, words and words[n])
        for n, (row, label) in enumerate(zip(logits.tolist(), labels.tolist()))
    ]
    assert_same_codes(
        got, [[cell[0] for cell in row] for row in rows], what=f"gradient {fmt} {mode} {overflow}"
    )
    cells = [cell for row in rows for cell in row]
    assert counts == [sum(cell[k] for cell in cells) for k in (1, 2, 3)]


def test_constants_are_the_nearest():
    assert oracle.constants() == (kernel.LOG2_E, kernel.LN_2)


def test_every_table_entry_is_the_nearest():
    assert_same_codes(DEFAULT.table, [oracle.table_entry(j) for j in range(257)])


def test_exp2_negative_over_the_table_and_at_every_change_of_shift():
    places = [
        index << 16 | rest for index in range(256) for rest in (0, 1, 2**15 - 1, 2**15, 2**16 - 1)
    ]
    wholes = [whole << 24 | part for whole in range(34) for part in (0, 1, 2**16, 2**23, 2**24 - 1)]
    for value in (*places, *wholes, 2**40, 2**62):
        assert kernel.exp2_negative(value, DEFAULT) == oracle.exp2_negative(value), value


def test_exp2_negative_is_monotone_and_within_two_units_of_the_exact_power():
    values = np.linspace(0, 33 * 2**24, 5001).astype(np.int64)
    powers = [kernel.exp2_negative(int(value), DEFAULT) for value in values]
    assert all(a >= b for a, b in zip(powers, powers[1:]))
    worst = max(
        abs(power - 2.0**30 * 2.0 ** (-int(value) / 2**24)) for value, power in zip(values, powers)
    )
    assert (
        worst < 2**30 * (math.log(2) / 256) ** 2 / 8 + 1.5
    )  # chord of 2**-v over 1/256, and three roundings


RECIPES = [
    (index_bits, entry_bits, interpolation)
    for index_bits in (1, 3, 8, 10)
    for entry_bits in (1, 8, 16, 30)
    for interpolation in ("linear", "none")
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_of_the_exponential(recipe):
    index_bits, entry_bits, interpolation = recipe
    own = kernel.powers(index_bits, entry_bits, interpolation == "linear")
    places = range(0, 2**index_bits + 1, 1 if index_bits < 9 else 37)
    wanted = [oracle.table_entry(j, index_bits, entry_bits) for j in places]
    assert_same_codes(own.table[:: places.step], wanted)
    rest = 24 - index_bits
    parts = [place << rest | more for place in places[:-1] for more in (0, 1, (1 << rest) - 1)]
    wholes = [whole << 24 | part for whole in range(34) for part in (0, 1, 2**23, 2**24 - 1)]
    for value in (*parts, *wholes, 2**40, 2**62):
        assert kernel.exp2_negative(value, own) == oracle.exp2_negative(value, recipe), value


def test_the_widest_table_is_within_half_a_unit():
    table = kernel.powers(16, 30, True).table
    exact = 2.0**30 * 2.0 ** (-np.arange(2**16 + 1) / 2**16)
    assert np.abs(table - exact).max() < 0.5 + 1e-6


def test_log2_at_powers_of_two_and_neighbours():
    for value in {*range(1, 300), *(2**i + d for i in range(8, 62) for d in (-1, 0, 1))}:
        assert kernel.log2_fixed(value) == oracle.log2_fixed(value), value


@given(st.integers(1, 2**62))
def test_log2_of_random_integers(value):
    got = kernel.log2_fixed(value)
    assert got == oracle.log2_fixed(value)
    assert -(2.0**-22) < got / 2**24 - math.log2(value) <= 1e-12


@pytest.mark.parametrize("step_exp", [-4, -1, 0])
def test_every_pair_of_6_bit_logits(step_exp):
    logits = np.array(list(itertools.product(range(-32, 32), repeat=2)), np.int16)
    for label in (0, 1):
        labels = np.full(len(logits), label)
        check_losses(logits, labels, step_exp)
        check_gradient(logits, labels, step_exp, 4, (8, -2, True))


@pytest.mark.parametrize("mode", rounding_oracle.DETERMINISTIC)
def test_every_triple_of_3_bit_logits_in_every_rounding_and_overflow(mode):
    logits = np.array(list(itertools.product(range(-4, 4), repeat=3)), np.int16)[::3]
    labels = np.arange(len(logits)) % 3
    for samples, fmt in ((1, (4, 0, True)), (3, (3, -3, True)), (7, (6, -2, True))):
        for overflow in rounding_oracle.OVERFLOWS:
            check_gradient(logits, labels, -1, samples, fmt, mode, overflow)


@pytest.mark.parametrize(
    "bits, step_exp, kind",
    [
        (16, -11, np.int16),
        (16, -2, np.int16),
        (32, -18, np.int32),
        (32, -50, np.int32),
        (10, 5, np.int16),
    ],
)
def test_extreme_logits(bits, step_exp, kind):
    low = -(2 ** (bits - 1))
    high = 2 ** (bits - 1) - 1
    logits = np.array(
        list(itertools.product([low, low + 1, -1, 0, 1, high - 1, high], repeat=3)), kind
    )
    labels = np.arange(len(logits)) % 3
    check_losses(logits, labels, step_exp)
    check_gradient(logits, labels, step_exp, 5, (14, -3, True))


def test_the_widest_logits_that_the_executor_takes_do_not_overflow_the_loss():
    logits = np.array([[-(2**31), 2**31 - 1]], np.int32)
    check_losses(logits, np.array([0]), MAX_LOGIT_RANGE_EXP - 31)


def test_equal_logits_are_a_uniform_distribution():
    for classes in range(1, 40):
        logits = np.full((1, classes), 123, np.int16)
        losses, wrong = cross_entropy(logits, np.array([0]), -11)
        assert wrong == 0
        assert losses[0] / 2**24 == pytest.approx(math.log(classes), abs=2**-20)


@st.composite
def batches(draw):
    """(logits, labels, step_exp) of up to 4 rows of up to 12 classes."""
    bits = draw(st.integers(2, 32))
    step_exp = draw(st.integers(-50, min(5, 14 - bits)))
    rows = draw(st.integers(1, 4))
    classes = draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.integers(1, bits))
    logits = random.integers(-(2 ** (spread - 1)), 2 ** (spread - 1), (rows, classes)).astype(
        np.int32
    )
    return logits, random.integers(0, classes, rows), step_exp


@given(batches())
def test_random_losses(batch):
    check_losses(*batch)


@given(
    batches(),
    st.integers(1, 300),
    st.integers(1, 16),
    st.integers(-12, 1),
    st.sampled_from(rounding_oracle.DETERMINISTIC),
    st.sampled_from(rounding_oracle.OVERFLOWS),
)
def test_random_gradients(batch, samples, bits, range_exp, mode, overflow):
    check_gradient(*batch, samples, (bits, range_exp, True), mode, overflow)


@given(batches(), st.integers(1, 300), st.sampled_from(rounding_oracle.STOCHASTIC), st.data())
def test_stochastic_gradients_given_the_words(batch, samples, mode, data):
    rows, classes = batch[0].shape
    word = st.integers(0, 2**32 - 1)
    words = data.draw(
        st.lists(st.lists(word, min_size=classes, max_size=classes), min_size=rows, max_size=rows)
    )
    check_gradient(*batch, samples, (8, -3, True), mode, "saturate", words)


@pytest.mark.parametrize("step_exp", [1, 0, -8, -16, -30, -44])
def test_gradients_at_the_coarsest_and_finest_steps(step_exp):
    logits = np.array([[0, 0, 0], [900, -900, 0], [-32768, 32767, 5]], np.int16)
    for samples in (1, 3, 128, 10_000):
        check_gradient(logits, np.array([0, 1, 2]), -8, samples, (16, step_exp + 15, True))


@given(batches())
def test_losses_and_gradients_are_near_the_real_ones(batch):
    logits, labels, step_exp = batch
    real = np.ldexp(logits.astype(np.float64), step_exp)
    real -= real.max(1, keepdims=True)
    p = np.exp(real) / np.exp(real).sum(1, keepdims=True)
    losses, _ = cross_entropy(logits, labels, step_exp)
    # each d log2(e) is off by the constant's 2**-30 relative; the rest by a few units of 2**-24 and
    # the chord's 2**-20
    wanted = np.log(np.exp(real).sum(1)) - real[np.arange(len(labels)), labels]
    assert np.abs(losses / 2**24 - wanted).max() <= 2.0**-19 + np.abs(real).max() * 2.0**-28
    codes, _ = gradient(logits, labels, step_exp, 1, (20, 1, True))
    onehot = np.arange(logits.shape[1]) == labels[:, None]
    assert np.abs(np.ldexp(codes.astype(float), -18) - (p - onehot)).max() < 2.0**-15


def test_a_table_read_one_entry_too_far_is_caught(monkeypatch):
    table = np.append(DEFAULT.table[1:], DEFAULT.table[-1])
    monkeypatch.setitem(globals(), "DEFAULT", DEFAULT._replace(table=table))
    for test in (
        test_every_table_entry_is_the_nearest,
        lambda: test_every_pair_of_6_bit_logits(-4),
    ):
        with pytest.raises(AssertionError, match="differ, first at"):
            test()


def test_a_batch_one_too_large_is_caught():
    logits = np.array([[3, 1, -4]], np.int16)
    got, _ = gradient(logits, np.array([0]), -1, 5, (8, -2, True))
    wanted = [cell[0] for cell in oracle.gradient(logits[0].tolist(), 0, -1, 4, (8, -2, True))]
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_codes(got[0], wanted)

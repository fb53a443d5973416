"""The weight update with internal accumulator."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import rounding as rounding_oracle
from oracle import update as oracle
from support.bits import assert_same_codes

from fxsim.kernels import rounding
from fxsim.kernels.elementwise import update as kernel

EVENTS = (
    kernel.WEIGHT_CLIPPED,
    kernel.ACCUMULATOR_CLIPPED,
    kernel.UPDATE_FLUSHED,
    kernel.UPDATE_STOPPED,
)


def run(
    weights,
    accumulators,
    grads,
    weight_bits,
    below,
    mantissa,
    exponent,
    mode="nearest_away",
    words=None,
):
    """(weights, accumulators, counts) after a step of mantissa * 2**exponent accumulator steps
    per gradient code.
    """
    shift = max(-exponent, 0)
    bases = np.empty(0, np.int64)
    if words is not None:
        bases = rounding.stochastic_base(np.array(words, np.uint32), mode, shift)
    weights = np.array(weights, np.int32)
    accumulators = np.array(accumulators, np.int32)
    held = kernel.Held(
        below,
        *rounding.code_range(weight_bits, True, "saturate"),
        *rounding.code_range(below, True, "saturate"),
    )
    counts = kernel.update(
        weights,
        accumulators,
        np.array(grads, np.int32),
        bases,
        kernel.Scale(mantissa, max(exponent, 0)),
        rounding.Rounding.of(mode, shift),
        held,
    )
    return weights, accumulators, counts


def check(
    weights,
    accumulators,
    grads,
    weight_bits,
    below,
    mantissa,
    exponent,
    mode="nearest_away",
    words=None,
):
    """Weights in [-1, 1), an accumulator of `below` bits and range D_W / 2, gradients at step
    2**-20.
    """
    weight_fmt = (weight_bits, 0, True)
    accumulator_fmt = (below, -weight_bits, True)
    grad_fmt = (32, 11, True)
    rate = (
        mantissa
        * Fraction(2) ** exponent
        * rounding_oracle.step(accumulator_fmt)
        / rounding_oracle.step(grad_fmt)
    )
    rows = [
        oracle.update(*codes, rate, weight_fmt, accumulator_fmt, grad_fmt, mode, word)
        for *codes, word in zip(weights, accumulators, grads, words or itertools.repeat(0))
    ]
    got = run(weights, accumulators, grads, weight_bits, below, mantissa, exponent, mode, words)
    inputs = [f"W {w} acc {a} G {g}" for w, a, g in zip(weights, accumulators, grads)]
    what = f"W {weight_bits} bits, acc {below} bits, rate {mantissa} * 2**{exponent}, {mode}"
    assert_same_codes(got[0], [row[0] for row in rows], inputs, f"weights, {what}")
    assert_same_codes(got[1], [row[1] for row in rows], inputs, f"accumulators, {what}")
    assert [got[2][event] for event in EVENTS] == [
        sum(row[2][k] for row in rows) for k in range(4)
    ], what


def every_code(*widths):
    columns = itertools.product(*(range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in widths))
    return [list(column) for column in zip(*columns)]


@pytest.mark.parametrize("mode", rounding_oracle.DETERMINISTIC)
def test_every_code_of_3_bit_weights_accumulators_and_gradients(mode):
    for mantissa, exponent in ((1, 0), (3, -1), (5, -3), (1, 2), (7, 1)):
        check(*every_code(3, 3, 3), 3, 3, mantissa, exponent, mode)


@pytest.mark.parametrize("weight_bits, below", [(1, 1), (1, 4), (4, 1), (2, 5), (5, 2)])
def test_every_code_of_narrow_and_uneven_formats(weight_bits, below):
    for mantissa, exponent in ((1, 0), (3, -2), (5, 1)):
        check(*every_code(weight_bits, below, 4), weight_bits, below, mantissa, exponent)


def edges(bits):
    return sorted(
        {
            code
            for i in range(bits)
            for d in (-1, 0, 1)
            for s in (-1, 1)
            if -(2 ** (bits - 1)) <= (code := s * 2**i + d) < 2 ** (bits - 1)
        }
    )


@pytest.mark.parametrize(
    "weight_bits, below, exponent",
    [(16, 16, -10), (30, 32, -4), (32, 30, 0), (8, 24, -30), (16, 32, 9)],
)
def test_extremes_powers_of_two_and_neighbours(weight_bits, below, exponent):
    columns = list(itertools.product(edges(weight_bits)[::7], edges(below)[::8], edges(32)[::9]))
    check(*map(list, zip(*columns)), weight_bits, below, 2**16 - 1, exponent)


@given(
    st.integers(1, 32),
    st.integers(1, 30),
    st.integers(2**15, 2**16 - 1),
    st.integers(-62, 10),
    st.integers(0, 2**32 - 1),
    st.sampled_from((*rounding_oracle.DETERMINISTIC, *rounding_oracle.STOCHASTIC)),
)
def test_random_updates(weight_bits, below, mantissa, exponent, seed, mode):
    random = np.random.default_rng(seed)
    weights, accumulators = (
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 8).tolist()
        for bits in (weight_bits, below)
    )
    grads = (random.integers(-(2**31), 2**31, 8) >> random.integers(0, 32)).tolist()
    words = random.integers(0, 2**32, 8).tolist() if mode in rounding_oracle.STOCHASTIC else None
    check(weights, accumulators, grads, weight_bits, below, mantissa, exponent, mode, words)


@given(st.integers(2, 16), st.integers(2, 16), st.integers(-20, 0), st.integers(0, 2**32 - 1))
def test_the_running_weight_is_kept_exactly_where_nothing_clips(weight_bits, below, exponent, seed):
    """W * 2**below + acc falls by the rounded update, to the last bit."""
    random = np.random.default_rng(seed)
    weights, accumulators = (
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 50) for bits in (weight_bits, below)
    )
    grads = random.integers(-100, 100, 50)
    after, rest, counts = run(weights, accumulators, grads, weight_bits, below, 40_000, exponent)
    u = [
        rounding_oracle.round_exact(int(g) * 40_000 * Fraction(2) ** exponent, "nearest_away")
        for g in grads
    ]
    before = weights * 2**below + accumulators
    kept = [
        int(t) - step == int(w) * 2**below + int(a) for t, step, w, a in zip(before, u, after, rest)
    ]
    clipped = counts[kernel.WEIGHT_CLIPPED] + counts[kernel.ACCUMULATOR_CLIPPED]
    assert sum(kept) >= 50 - clipped
    assert clipped or all(kept)


@pytest.mark.parametrize(
    "size", [0, 1, kernel.BLOCK - 1, kernel.BLOCK, kernel.BLOCK + 1, 5 * kernel.BLOCK + 3]
)
def test_blocks_and_threads_do_not_matter(size):
    random = np.random.default_rng(3)
    weights, accumulators, grads = (random.integers(-128, 128, size) for _ in range(3))
    whole = run(weights, accumulators, grads, 8, 8, 33_000, -12)
    parts = [
        run(
            weights[i : i + 1000],
            accumulators[i : i + 1000],
            grads[i : i + 1000],
            8,
            8,
            33_000,
            -12,
        )
        for i in range(0, size, 1000)
    ]
    for k in (0, 1):
        assert np.array_equal(whole[k], np.concatenate([part[k] for part in parts] or [whole[k]]))
    assert whole[2].tolist() == sum((part[2] for part in parts), np.zeros(4, np.int64)).tolist()


def test_a_rate_twice_too_high_is_caught():
    codes = every_code(3, 3, 3)
    got = run(*codes, 3, 3, 1, 1)[1]
    wanted = [
        oracle.update(*row, Fraction(1, 32), (3, 0, True), (3, -3, True), (3, 2, True))[1]
        for row in zip(*codes)
    ]
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_codes(got, wanted)


def test_an_accumulator_one_bit_too_narrow_is_caught(monkeypatch):
    right = rounding.code_range
    monkeypatch.setattr(
        rounding, "code_range", lambda bits, *rest: right(bits - (bits == 4), *rest)
    )
    with pytest.raises(AssertionError, match="differ, first at"):
        check(*every_code(3, 4, 3), 3, 4, 3, 0)


def test_an_update_added_where_it_is_to_be_subtracted_is_caught():
    weights, accumulators, grads = every_code(3, 3, 3)
    with pytest.raises(AssertionError, match="differ, first at"):
        rows = [
            oracle.update(w, a, g, Fraction(1, 32), (3, 0, True), (3, -3, True), (3, 2, True))
            for w, a, g in zip(weights, accumulators, grads)
        ]
        assert_same_codes(
            run(weights, accumulators, [-g for g in grads], 3, 3, 1, 0)[1], [row[1] for row in rows]
        )

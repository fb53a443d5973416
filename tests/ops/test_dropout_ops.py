"""Dropout and its gradient as operations equal the twin, with every kind of random words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import operations as oracle
from support.bits import assert_same_codes
from support.operations_cases import (
    EVERY_MODE,
    Rounded,
    check_exact,
    check_rounded,
    reals,
    roundeds,
    tensor_of,
)

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.rng import Stream
from fxsim.tensor import Tensor

RATES = st.one_of(st.sampled_from((0, 0.0, 0.5, 0.75, 0.9999, 1 / 3)), st.floats(0, 0.9999))
FORMATS = st.builds(Format, st.integers(1, 32), st.integers(-4, 4), st.booleans())


def words_of(kept, seed):
    """A Rounded that brings random words of any kind for dropout."""
    return Rounded(1, True, 0, "stochastic", source=kept, seed=seed)


def check_dropout(x, rate, source, seed, rounded):
    drawn = words_of(source, seed)
    given_words = drawn.quantizer(Format(1, 0), x.shape).words
    values, stays = oracle.dropout(reals(x), drawn.words(x.size), rate)
    _, kept = ops.dropout(x, rate, given_words)
    assert_same_codes(kept.codes.reshape(-1), stays, what=f"kept, rate {rate}, {source}")
    assert kept.format == ops.MASK and kept.shape == x.shape

    def compute():
        return ops.dropout(x, rate, given_words)[0]

    check_exact(compute(), values, f"rate {rate}")
    check_rounded(compute, values, rounded, f"rate {rate}")

    def gradient():
        return ops.dropout_grad(x, kept, rate)

    check_exact(gradient(), values, f"gradient, rate {rate}")
    check_rounded(gradient, values, rounded, f"gradient, rate {rate}")


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_every_5_bit_code_in_every_mode(rounded, rate):
    check_dropout(Tensor(range(-16, 16), Format(5, 0)), rate, "function", 2**31, rounded)


@given(
    FORMATS,
    st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple),
    RATES,
    st.sampled_from(("stream", "array", "longer array", "function")),
    st.integers(0, 2**32 - 1),
    roundeds(shifts=(-4, 40)),
)
def test_random_tensors(format, shape, rate, source, seed, rounded):
    check_dropout(tensor_of(seed, format, shape), rate, source, seed, rounded)


def test_the_words_decide_at_the_threshold():
    words = np.array([2**30 - 1, 2**30, 0, 2**32 - 1])
    _, kept = ops.dropout(Tensor([1, 1, 1, 1], Format(4, 3)), 0.25, words)
    assert kept.codes.tolist() == [0, 1, 0, 1]


def test_the_default_rounding_is_counted_as_any_other():
    """It has a kernel of its own; `roundeds` rarely draws it."""
    x = tensor_of(1, Format(8, 0), (50,))
    for shift in (1, 8, 15, 16, 17, 40, 62):
        for bits in (4, 8):
            check_dropout(x, 0.3, "stream", 7, Rounded(bits, True, shift))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 0.99991, float("nan"), float("inf"), "0.5", True])
def test_rates_outside_of_the_range_are_refused(rate):
    x = Tensor([1, 2], Format(4, 3))
    with pytest.raises((InputError, TypeError), match=r"rate must be .*0\.9999, got"):
        ops.dropout(x, rate, Stream(0, 0, "d"))
    with pytest.raises((InputError, TypeError), match=r"rate must be .*0\.9999, got"):
        ops.dropout_grad(x, Tensor([1, 0], ops.MASK), rate)


def test_what_does_not_fit_is_refused():
    x = Tensor([1, 2], Format(4, 3))
    for words, message in (
        (np.array([1]), "random words must be 2, one for each element, got 1; pass more"),
        (np.array([[1, 2]]), r"random words must have shape \(2,\) or \(2,\), got \(1, 2\)"),
        (np.array([-1, 2]), r"random words must be in \[0, 4294967295\]"),
        (lambda positions: positions[:1], "random words must be 2"),
    ):
        with pytest.raises(InputError, match=message):
            ops.dropout(x, 0.5, words)
    for words in (None, [1, 2], 3, np.array([0.5, 0.5])):
        with pytest.raises(TypeError, match="words must"):
            ops.dropout(x, 0.5, words)
    with pytest.raises(InputError, match="kept must be in u1 .*; take the one of dropout"):
        ops.dropout_grad(x, x, 0.5)

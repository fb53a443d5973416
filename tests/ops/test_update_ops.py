"""The SGD update of a parameter, with and without an accumulator, equals the twin."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import operations as oracle
from oracle import rounding as rounding_oracle
from oracle import update as update_oracle
from support.bits import assert_same_codes
from support.operations_cases import Rounded, codes_of, tuple_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.ops.update import UpdateTally
from fxsim.rng import Stream
from fxsim.tensor import Tensor

SOURCES = ("stream", "array", "longer array", "function")


def words_for(rounding, source, seed, shape):
    """(what sgd_update takes, the words as a list)."""
    drawn = Rounded(1, True, 0, rounding, source=source, seed=seed)
    return drawn.quantizer(Format(1, 0), shape).words, drawn.words(int(np.prod(shape)))


def exact_rate(rate):
    mantissa, exponent = rounding_oracle.sixteen_bits(Fraction(rate))
    return mantissa * Fraction(2) ** exponent


def check_held(value, accumulator, grad, rate, rounding="nearest_away", source="stream", seed=0):
    """A parameter with an accumulator."""
    words, listed = words_for(rounding, source, seed, value.shape)
    formats = [tuple_of(tensor.format) for tensor in (value, accumulator, grad)]
    rows = [
        update_oracle.update(*codes, exact_rate(rate), *formats, rounding, word)
        for *codes, word in zip(
            *(tensor.codes.reshape(-1).tolist() for tensor in (value, accumulator, grad)), listed
        )
    ]
    before = value.codes.copy(), accumulator.codes.copy()
    parameter = ops.Parameter(value, accumulator)
    after, tally = ops.sgd_update(parameter, grad, rate, rounding=rounding, words=words)
    what = f"{value.format} {accumulator.format} {grad.format} rate {rate} {rounding}"
    assert_same_codes(after.value.codes.reshape(-1), [row[0] for row in rows], what=what)
    assert_same_codes(after.accumulator.codes.reshape(-1), [row[1] for row in rows], what=what)
    assert (after.value.format, after.accumulator.format) == (value.format, accumulator.format)
    assert after.value.shape == value.shape
    assert tally == UpdateTally(*(sum(row[2][k] for row in rows) for k in range(4))), what
    assert np.array_equal(value.codes, before[0]) and np.array_equal(accumulator.codes, before[1])


def check_alone(
    value, grad, rate, rounding="nearest_away", source="stream", seed=0, overflow="saturate"
):
    """A parameter without one."""
    words, listed = words_for(rounding, source, seed, value.shape)
    rows = [
        oracle.update_alone(
            *codes,
            exact_rate(rate),
            tuple_of(value.format),
            tuple_of(grad.format),
            rounding,
            word,
            overflow,
        )
        for *codes, word in zip(
            *(tensor.codes.reshape(-1).tolist() for tensor in (value, grad)), listed
        )
    ]
    options = {"rounding": rounding, "overflow": overflow, "words": words}
    after, tally = ops.sgd_update(ops.Parameter(value), grad, rate, **options)
    what = f"{value.format} {grad.format} rate {rate} {rounding} {overflow}"
    assert_same_codes(after.value.codes.reshape(-1), [row[0] for row in rows], what=what)
    assert after.accumulator is None and after.value.format == value.format
    assert after.value.shape == value.shape
    assert tally == UpdateTally(sum(row[1] for row in rows), 0, 0, sum(row[2] for row in rows)), (
        what
    )


def every_code(*formats):
    """A Tensor of each format; together they hold every combination of codes."""
    columns = zip(
        *itertools.product(*(range(format.min_code, format.max_code + 1) for format in formats))
    )
    return [Tensor(list(column), format) for column, format in zip(columns, formats)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_code_of_small_formats_in_every_rounding(rounding):
    value, accumulator, grad = every_code(Format(3, 0), Format(3, -3), Format(3, 0))
    for place, rate in enumerate((1.0, 0.375, 2.5, 0.01)):
        check_held(value, accumulator, grad, rate, rounding, SOURCES[place], place)
    value, grad = every_code(Format(4, 0), Format(4, 1))
    for place, rate in enumerate((1.0, 0.375, 2.5, 0.01)):
        check_alone(value, grad, rate, rounding, SOURCES[place], place, OVERFLOWS[place])


SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
RATES = st.floats(2.0**-12, 2.0**4)


@given(
    SHAPES,
    st.integers(1, 30),
    st.integers(1, 30),
    st.builds(Format, st.integers(1, 24), st.integers(-6, 2), st.booleans()),
    st.booleans(),
    RATES,
    st.sampled_from(ROUNDINGS),
    st.sampled_from(SOURCES),
    SEEDS,
)
def test_random_updates_with_an_accumulator(
    shape, bits, below, grad_format, signed, rate, rounding, source, seed
):
    value_format = Format(bits, 0, signed)
    formats = value_format, Format(below, value_format.step_exp - 1), grad_format
    tensors = [Tensor(codes_of(seed + k, f, shape), f) for k, f in enumerate(formats)]
    check_held(*tensors, rate, rounding, source, seed)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits, signed", [(1, True), (30, True), (29, False)])
def test_updates_of_any_size(rounding, bits, signed):
    """The shift passes 62 in either direction; the update saturates, or is lost but for its sign."""
    value_format = Format(bits, 0, signed)
    held_format = Format(32, value_format.step_exp - 1)
    for grad_format in (Format(3, 0), Format(32, 0, False)):
        columns = [
            (format.min_code, -1 if format.signed else 1, format.max_code)
            for format in (value_format, held_format, grad_format)
        ]
        rows = list(itertools.product(*columns))
        formats = value_format, held_format, grad_format
        tensors = [
            Tensor([min(max(row[k], f.min_code), f.max_code) for row in rows], f)
            for k, f in enumerate(formats)
        ]
        bottom = grad_format.step_exp - held_format.step_exp
        for place, exponent in enumerate((-300, -79, -78, -63, 14, 29, 46, 62, 300)):
            rate = LearningRate(2**15 + 1, min(exponent - bottom, 1000))
            check_held(*tensors, rate.real, rounding, SOURCES[place % 4], place)


@given(
    SHAPES,
    st.builds(Format, st.integers(1, 30), st.integers(-2, 2), st.booleans()),
    st.builds(Format, st.integers(1, 24), st.integers(-6, 2), st.booleans()),
    RATES,
    st.sampled_from(ROUNDINGS),
    st.sampled_from(OVERFLOWS),
    st.sampled_from(SOURCES),
    SEEDS,
)
def test_random_updates_without_one(
    shape, value_format, grad_format, rate, rounding, overflow, source, seed
):
    value = Tensor(codes_of(seed, value_format, shape), value_format)
    grad = Tensor(codes_of(seed + 1, grad_format, shape), grad_format)
    try:
        check_alone(value, grad, rate, rounding, source, seed, overflow)
    except InputError as error:
        assert "at most 62 are exact here" in str(error)


def test_a_rate_may_be_a_learning_rate_or_a_number():
    value = Tensor([3, -2], Format(4, 0))
    grad = Tensor([10, -10], Format(8, 0))
    one = ops.sgd_update(ops.Parameter(value), grad, 0.3)
    other = ops.sgd_update(ops.Parameter(value), grad, LearningRate.of(0.3))
    assert one[0].value.equals(other[0].value) and one[1] == other[1]


def test_no_elements_are_no_work():
    empty = Tensor(np.zeros((0, 3), int), Format(4, 0))
    rest = Tensor(np.zeros((0, 3), int), Format(8, -4))
    for parameter in (ops.Parameter(empty), ops.Parameter(empty, rest)):
        after, tally = ops.sgd_update(parameter, empty, 0.5)
        assert after.value.shape == (0, 3)
        assert tally == UpdateTally(0, 0, 0, 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, g: ops.sgd_update(p, g[:1], 0.5), r"grad must have shape \(2,\), got \(1,\)"),
        (
            lambda p, g: ops.sgd_update(p, g, 0.5, overflow="wrap"),
            "overflow must be saturate where there is an accumulator, got 'wrap'; leave it out",
        ),
        (lambda p, g: ops.sgd_update(p, g, -0.5), "learning rate must be a finite number above 0"),
        (lambda p, g: ops.sgd_update(p, g, float("nan")), "learning rate must be a finite number"),
        (lambda p, g: ops.sgd_update(ops.Parameter(p.value), g, 2.0**-70), "at most 62 are exact"),
        (lambda p, g: ops.sgd_update(p, g, 0.5, rounding="nearest"), "rounding 'nearest' is unkn"),
        (lambda p, g: ops.sgd_update(p, g, 0.5, rounding="stochastic"), "needs random words"),
        (
            lambda p, g: ops.sgd_update(p, g, 0.5, words=Stream(0, 0, "w")),
            "rounding 'nearest_away' uses no random words",
        ),
        (
            lambda p, g: ops.sgd_update(
                p, g, 0.5, rounding="stochastic", words=np.array([1], np.uint32)
            ),
            "random words must be 2, one for each element, got 1",
        ),
        (lambda p, g: ops.Parameter(p.value, g), r"must be signed with range_exp -4 \(half the"),
        (lambda p, g: ops.Parameter(p.value, p.accumulator[:1]), "accumulator must have shape"),
        (
            lambda p, g: ops.Parameter(Tensor([0], Format(32, 0)), Tensor([0], Format(32, -32))),
            "together at most 62",
        ),
        (
            lambda p, g: ops.Parameter(
                Tensor([0], Format(32, 0, False)), Tensor([0], Format(30, -33))
            ),
            r"33 \+ 30 bits with a sign; together at most 62",
        ),
        (
            lambda p, g: LearningRate(2**16, 0),
            r"mantissa must be 2\*\*15 to 2\*\*16 - 1, got 65536",
        ),
        (lambda p, g: LearningRate(3, 0), r"mantissa must be 2\*\*15 to 2\*\*16 - 1, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    parameter = ops.Parameter(Tensor([3, -2], Format(4, 0)), Tensor([0, 0], Format(8, -4)))
    with pytest.raises(InputError, match=message):
        call(parameter, Tensor([10, -10], Format(8, 0)))


def test_types_are_refused():
    value = Tensor([3, -2], Format(4, 0))
    with pytest.raises(TypeError, match=r"parameter must be an ops\.Parameter, got Tensor"):
        ops.sgd_update(value, value, 0.5)
    with pytest.raises(TypeError, match=r"value must be a fxsim\.Tensor, got list"):
        ops.Parameter([3, -2])
    with pytest.raises(TypeError, match="mantissa must be an integer"):
        LearningRate(40000.0, 0)
    with pytest.raises(TypeError, match="exponent must be an integer"):
        LearningRate(40000, True)

"""Leaky ReLU and tables equal the twin: every code where there are few, random ones else."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import activation as oracle
from oracle import rounding
from support.bits import assert_same_codes
from support.operations_cases import EVERY_MODE, reals, roundeds, tensor_of, tuple_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.lookup import entries_of
from fxsim.quantizer import Counts
from fxsim.tensor import Tensor, requantize

EVERY = [Tensor(range(-32, 32), Format(6, 1)), Tensor(range(64), Format(6, 1, False))]


def leaky(slope_exp):
    return {"kind": "leaky_relu", "slope_exp": slope_exp}


def table(**fields):
    common = {"function": None, "values": None, "slopes": None, "derivative": "output"}
    return {"kind": "table", "interpolation": "none", **common, **fields}


def check_leaky(x, slope_exp, rounded):
    format = rounded.format(x.format.step_exp + slope_exp)
    fmt = tuple_of(format)
    words = rounded.words(x.size)
    values = [oracle.value(z, leaky(slope_exp), fmt) for z in reals(x)]
    codes, counts = rounding.quantize_all(values, fmt, rounded.rounding, rounded.overflow, words)
    seen = []
    got, mask = ops.leaky_relu(x, rounded.quantizer(format, x.shape, seen.append), slope_exp)
    assert_same_codes(got.codes.reshape(-1), codes, values, rounded)
    assert seen == [Counts(x.size, *counts)]
    factors = [oracle.derivative(z, leaky(slope_exp), fmt, None) for z in reals(x)]
    grads = tensor_of(7, Format(6, 2), x.shape)
    exact = ops.leaky_relu_grad(grads, mask, slope_exp).tensor()
    assert reals(exact) == [grad * factor for grad, factor in zip(reals(grads), factors)]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
@pytest.mark.parametrize("slope_exp", [-1, -3])
def test_leaky_relu_of_every_6_bit_code_in_every_mode(rounded, slope_exp):
    for x in EVERY:
        check_leaky(x, slope_exp, rounded)


@given(
    st.builds(Format, st.integers(1, 40), st.integers(-6, 6), st.booleans()),
    st.integers(-16, -1),
    st.integers(0, 2**32 - 1),
    roundeds(),
)
def test_leaky_relu_of_random_tensors(format, slope_exp, seed, rounded):
    check_leaky(tensor_of(seed, format, (3, 5)), slope_exp, rounded)


def test_leaky_relu_of_an_exact_result_is_that_of_all_its_bits():
    x, w = tensor_of(1, Format(6, 1), (4, 5)), tensor_of(2, Format(5, 0), (5, 3))
    one = ops.leaky_relu(ops.matmul(x, w), Format(6, 2), -2)
    other = ops.leaky_relu(ops.matmul(x, w).tensor(), Format(6, 2), -2)
    assert all(a.equals(b) for a, b in zip(one, other))


@pytest.mark.parametrize("x", EVERY, ids=("signed", "unsigned"))
@pytest.mark.parametrize("index_bits", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("range_exp", [-3, 0, 1, 3])
def test_the_index_of_every_6_bit_code(x, index_bits, range_exp):
    own = table(index_bits=index_bits, range_exp=range_exp)
    wanted = [oracle.cell(z, own)[0] for z in reals(x)]
    assert_same_codes(ops.table_index(x, index_bits, range_exp).codes, wanted)


@pytest.mark.parametrize("interpolation", ["none", "linear"])
@pytest.mark.parametrize("index_bits", [1, 3, 5, 8])
@pytest.mark.parametrize("range_exp", [-2, 0, 2])
def test_lookup_of_every_6_bit_code(interpolation, index_bits, range_exp):
    random = np.random.default_rng(index_bits)
    count = 2**index_bits + (interpolation == "linear")
    fmt = Format(7, 1)
    entries = Tensor(random.integers(-64, 64, count), fmt)
    own = table(
        index_bits=index_bits,
        range_exp=range_exp,
        interpolation=interpolation,
        values=entries.real.tolist(),
    )
    for x in EVERY:
        exact = ops.lookup(x, entries, range_exp, interpolation)
        wanted = [oracle.looked_up(z, own, tuple_of(fmt)) for z in reals(x)]
        assert reals(exact.tensor()) == wanted
        assert exact.to(Format(5, 0)).equals(requantize(exact.tensor(), Format(5, 0)))


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "exp"])
@pytest.mark.parametrize("interpolation", ["none", "linear"])
@pytest.mark.parametrize(
    "index_bits, range_exp, format",
    [(4, 3, Format(8, 0, False)), (6, 1, Format(16, 2)), (3, 4, Format(31, 1))],
)
def test_tables_of_functions_are_rounded_from_exact_values(
    function, interpolation, index_bits, range_exp, format
):
    width = Fraction(2) ** (range_exp + 1 - index_bits)
    half = 2 ** (index_bits - 1)
    last = half + (interpolation == "linear")
    shift = 0 if interpolation == "linear" else Fraction(1, 2)
    places = [(i + shift) * width for i in range(-half, last)]
    for name, twin in ((function, oracle.function), (f"{function}'", oracle.slope)):
        got = ops.function_table(name, index_bits, range_exp, format, interpolation)
        wanted = [rounding.quantize(twin(function, x), tuple_of(format))[0] for x in places]
        assert_same_codes(got.codes, wanted, what=name)


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "exp"])
@pytest.mark.parametrize("format", [Format(6, 0, False), Format(6, 1), Format(5, 0)])
def test_derivatives_from_every_output(function, format):
    y = Tensor(range(format.min_code, format.max_code + 1), format)
    own = {**table(function=function)}
    wanted = [oracle.slope_at(None, own, value) for value in reals(y)]
    assert reals(ops.output_derivative(y, function).tensor()) == wanted


def test_values_become_entries_to_nearest_and_saturate():
    got = entries_of([0.3, -0.3, 0.125, -0.125, 9.0, -9.0, 0.0], Format(3, 0))
    assert got.codes.tolist() == [1, -1, 1, -1, 3, -4, 0]


X = Tensor([1], Format(4, 3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.leaky_relu(X, X.format, 0), "slope_exp must be -16 to -1, got 0"),
        (lambda: ops.leaky_relu(X, X.format, -17), "slope_exp must be -16 to -1, got -17"),
        (
            lambda: ops.leaky_relu(Tensor([1], Format(60, 3)), X.format, -3),
            "sums of 60 bits needs 63 bits, at most 62",
        ),
        (lambda: ops.leaky_relu_grad(X, X, -3), "mask must be in u2 .* take the one of leaky_relu"),
        (lambda: ops.table_index(X, 17, 0), "index_bits must be 1 to 16, got 17"),
        (
            lambda: ops.lookup(X, Tensor([1, 2, 3], X.format), 0),
            r"table must have 2\^n entries for n of 1 to 16, got 3",
        ),
        (
            lambda: ops.lookup(X, Tensor([1, 2], X.format), 0, "linear"),
            r"table must have 2\^n \+ 1 entries for n of 1 to 16, got 2",
        ),
        (
            lambda: ops.lookup(X, Tensor([1, 2], X.format), 0, "linaer"),
            "interpolation 'linaer' is unknown; did you mean 'linear'",
        ),
        (
            lambda: ops.lookup(
                Tensor([1], Format(60, 0)), Tensor([1, 2, 3], X.format), 3, "linear"
            ),
            "needs .* bits, at most 62 are exact here",
        ),
        (lambda: ops.function_table("sigmoyd", 4, 0, X.format), "did you mean 'sigmoid'"),
        (lambda: ops.relu(X, Format(4, 2), 5), r"ceiling 5 is outside the range 2\^2 of s4"),
        (lambda: ops.relu(X, Format(4, 2), 0.1), "ceiling 0.1 must be above half the step of s4"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1

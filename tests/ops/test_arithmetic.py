"""Exact arithmetic on tensors equals the twin, in every rounding and overflow mode."""

import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import operations as oracle
from support.operations_cases import (
    EVERY_MODE,
    check_exact,
    check_rounded,
    nested,
    reals,
    roundeds,
    tensor_of,
)

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.tensor import Tensor

BINARY = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul}
SMALL = [Format(3, 0), Format(3, 2, False), Format(2, -3)]


def every_pair(x, y):
    """Tensors of all pairs of codes of two formats."""
    pairs = [
        (a, b) for a in range(x.min_code, x.max_code + 1) for b in range(y.min_code, y.max_code + 1)
    ]
    return Tensor([a for a, _ in pairs], x), Tensor([b for _, b in pairs], y)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("x_format", SMALL, ids=str)
@pytest.mark.parametrize("y_format", SMALL, ids=str)
def test_every_pair_of_small_codes(name, x_format, y_format):
    x, y = every_pair(x_format, y_format)
    values = [BINARY[name](a, b) for a, b in zip(reals(x), reals(y))]
    check_exact(getattr(ops, name)(x, y), values, name)
    for rounded in EVERY_MODE[:: 1 if name == "add" else 7]:
        check_rounded(lambda: getattr(ops, name)(x, y), values, rounded, name)


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_code_negated_in_every_mode(rounded):
    x = Tensor(range(-16, 16), Format(5, 0))
    values = [-value for value in reals(x)]
    check_exact(-x, values)
    check_rounded(lambda: -x, values, rounded, "negative")


FORMATS = st.builds(Format, st.integers(1, 24), st.integers(-6, 6), st.booleans())
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def broadcast_pairs(draw):
    """Two tensors whose shapes broadcast, and the shape that they broadcast to."""
    shape = draw(SHAPES)
    own, other = (
        tuple(draw(st.sampled_from((1, size))) for size in shape)[
            draw(st.integers(0, len(shape))) :
        ]
        if draw(st.booleans())
        else shape
        for _ in range(2)
    )
    formats = draw(st.tuples(FORMATS, FORMATS))
    x, y = (tensor_of(draw(SEEDS), f, s) for f, s in zip(formats, (own, other)))
    return x, y, np.broadcast_shapes(own, other)


def values_of(tensor):
    return nested(reals(tensor), tensor.shape)


@given(broadcast_pairs(), st.sampled_from(sorted(BINARY)), roundeds())
def test_random_pairs_that_broadcast(case, name, rounded):
    x, y, shape = case
    values = oracle.combined(BINARY[name], values_of(x), values_of(y), shape)
    exact = getattr(ops, name)(x, y)
    assert exact.shape == shape
    check_exact(exact, values, name)
    check_rounded(lambda: getattr(ops, name)(x, y), values, rounded, name)


@given(FORMATS, SHAPES, SEEDS, st.data(), roundeds())
def test_random_sums_over_axes(format, shape, seed, data, rounded):
    x = tensor_of(seed, format, shape)
    axes = data.draw(st.sets(st.sampled_from(range(len(shape))))) if shape else set()
    given_axes = [axis - len(shape) * data.draw(st.booleans()) for axis in axes]
    values = oracle.summed(values_of(x), axes)
    exact = ops.sum(x, given_axes)
    assert exact.shape == tuple(shape[axis] for axis in range(len(shape)) if axis not in axes)
    check_exact(exact, values)
    check_rounded(lambda: ops.sum(x, given_axes), values, rounded, f"sum over {axes}")
    if len(axes) == 1:
        check_exact(ops.sum(x, *given_axes), values)
    if len(axes) == len(shape):
        check_exact(ops.sum(x), values)


@given(
    st.lists(st.tuples(st.sampled_from("+-*"), FORMATS, SEEDS), min_size=1, max_size=4),
    st.sampled_from([(), (3,), (2, 3)]),
    roundeds(),
)
def test_expressions_of_several_operators(terms, shape, rounded):
    """An Exact is an operand as a Tensor is, on either side."""
    first = tensor_of(1, Format(9, 1), shape)

    def compute():
        total = first
        for sign, format, seed in terms:
            other = tensor_of(seed, Format(min(format.bits, 8), format.range_exp), shape)
            if sign == "*":
                total = other * Tensor(1, Format(2, 1)) + total
            elif sign == "+":
                total = other + total
            else:
                total = total - other
        return total

    values = reals(first)
    for sign, format, seed in terms:
        other = reals(tensor_of(seed, Format(min(format.bits, 8), format.range_exp), shape))
        values = [
            value - more if sign == "-" else value + more for value, more in zip(values, other)
        ]
    check_exact(compute(), values)
    check_rounded(compute, values, rounded)


def test_operators_are_the_operations():
    x = Tensor([[3, -4], [5, 6]], Format(4, 3))
    y = Tensor([[1, 2], [-8, 7]], Format(4, 1))
    exact = x + y
    for got, wanted in (
        (x + y, ops.add(x, y)),
        (x - y, ops.subtract(x, y)),
        (x * y, ops.multiply(x, y)),
        (-x, ops.negative(x)),
        (x @ y, ops.matmul(x, y)),
        (x + exact, ops.add(x, exact)),
        (x - exact, ops.subtract(x, exact)),
        (x * exact, ops.multiply(x, exact)),
        (exact + x, ops.add(exact, x)),
        (exact - x, ops.subtract(exact, x)),
        (exact * x, ops.multiply(exact, x)),
        (exact + exact, ops.add(exact, exact)),
        (-exact, ops.negative(exact)),
    ):
        assert got.tensor().equals(wanted.tensor())


@pytest.mark.parametrize("format", [Format(32, 3), Format(32, 3, False), Format(31, -8)], ids=str)
def test_the_ends_of_the_widest_formats(format):
    x = Tensor([format.min_code, format.max_code, 0, 1], format)
    a = reals(x)
    check_exact(x + x, [2 * value for value in a])
    check_exact(x - x, [0] * 4)
    check_exact(-x, [-value for value in a])
    check_exact(ops.sum(x), [sum(a)])
    if format.bits < 32:
        check_exact(x * x, [value * value for value in a])
    else:
        with pytest.raises(InputError, match="at most 62 are exact here"):
            ops.multiply(x, x)


@pytest.mark.parametrize("far", [28, 29, 30, 31, 60, 200])
def test_steps_that_are_far_from_each_other(far):
    """At 62 bits the sum is exact, beyond it is refused, in one line."""
    coarse = Tensor([7, -8], Format(4, 3 + far))
    fine = Tensor([-(2**31), 2**31 - 1], Format(32, 31))
    if far <= 57:
        wanted = [a + b for a, b in zip(reals(coarse), reals(fine))]
        check_exact(coarse + fine, wanted)
    else:
        with pytest.raises(InputError, match="at most 62 are exact here"):
            ops.add(coarse, fine)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_no_elements_are_an_empty_result(shape):
    x = Tensor(np.zeros(shape, np.int8), Format(4, 3))
    for exact in (x + x, x - x, x * x, -x):
        assert exact.to(Format(3, 3)).shape == exact.tensor().shape == shape
        assert exact.relu(Format(3, 3))[1].shape == shape
    assert ops.sum(x).tensor().codes.tolist() == 0
    assert ops.sum(x, axis=0).to(Format(3, 3)).shape == shape[1:]


def test_a_sum_of_many_elements_has_room_for_all_of_them():
    x = Tensor(np.full((300, 400), -128), Format(8, 0))
    total = ops.sum(x)
    assert total.tensor().real == -300 * 400
    assert total.format == Format(25, 17)
    assert total.to(Format(8, 17)).codes == total.to(Format(8, 17)).codes.item() == -117


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: ops.add(x, Tensor([1, 2, 3], Format(4, 3))),
            r"x of shape \(2, 2\) and y of shape \(3,\) do not broadcast; reshape one of them",
        ),
        (lambda x: ops.sum(x, 2), "axis 2 is none of a tensor with 2 axes"),
        (lambda x: ops.sum(x, (0, -2)), r"axis \(0, -2\) names an axis twice"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Tensor([[1, 2], [3, 4]], Format(4, 3)))


def test_numbers_and_arrays_are_no_operands():
    x = Tensor([1, 2], Format(4, 3))
    for other in (3, 0.5, [1, 2], np.array([1, 2]), None):
        for apply in (operator.add, operator.sub, operator.mul, operator.matmul):
            with pytest.raises(TypeError):
                apply(x, other)
            with pytest.raises(TypeError):
                apply(other, x)
            with pytest.raises(TypeError):
                apply(x + x, other)
    for axis in (True, "0", 0.0, [None]):
        with pytest.raises(TypeError, match="axis must"):
            ops.sum(x, axis)


def test_a_sum_that_is_not_exact_is_caught():
    """One code moved by one: the comparison with the twin sees it."""
    x = Tensor([1, 2, 3], Format(4, 3))
    wanted = [2 * value for value in reals(x)]
    with pytest.raises(AssertionError, match="differ, first at"):
        check_exact(x + x, [*wanted[:2], wanted[2] + Fraction(1)])

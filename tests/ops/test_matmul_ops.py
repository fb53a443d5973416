"""Dot products, matrix products and dense layers equal the twin, with and without an accumulator."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import accumulators as accumulator_oracle
from oracle import operations as oracle
from oracle import rounding as rounding_oracle
from support.conv_cases import by_every_path
from support.operations_cases import (
    EVERY_MODE,
    accumulators,
    check_exact,
    check_rounded,
    reals,
    roundeds,
    tensor_of,
    tuple_of,
)

from fxsim import ops
from fxsim.accumulator import Accumulator, Overflows
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.tensor import Tensor

FORMATS = st.builds(Format, st.integers(1, 18), st.integers(-4, 4), st.booleans())
SEEDS = st.integers(0, 2**32 - 1)


def unit_of(*formats):
    """The step of the products of codes of two formats."""
    left, right = (rounding_oracle.step(tuple_of(format)) for format in formats)
    return left * right


def wanted_linear(x, weight, bias=None):
    """Exact flat values of x (M, K) times weight (K, N) plus bias."""
    unit = unit_of(x.format, weight.format)
    sums = oracle.linear(x.codes.tolist(), weight.codes.tolist())
    shift = reals(bias) if bias is not None else [0] * weight.shape[1]
    return [total * unit + more for row in sums for total, more in zip(row, shift)]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_dot_product_of_two_pairs_of_2_bit_codes_in_every_mode(rounded):
    pairs = np.array([(a, b) for a in range(-2, 2) for b in range(-2, 2)])
    x = Tensor(pairs, Format(2, 0))
    weight = Tensor(pairs.T, Format(2, 1))
    values = wanted_linear(x, weight)
    check_exact(x @ weight, values)
    check_rounded(lambda: x @ weight, values, rounded, "matmul")


@st.composite
def layers(draw):
    """(x, weight, bias or None) of a dense layer."""
    m, k, n = (draw(st.integers(1, most)) for most in (4, 9, 4))
    x_format, weight_format, bias_format = (draw(FORMATS) for _ in range(3))
    x = tensor_of(draw(SEEDS), x_format, (m, k))
    weight = tensor_of(draw(SEEDS), weight_format, (k, n))
    return x, weight, tensor_of(draw(SEEDS), bias_format, (n,)) if draw(st.booleans()) else None


def needs_more_than_62_bits(compute):
    """Whether it is refused for that reason."""
    try:
        compute()
    except InputError as error:
        assert "at most 62 are exact here" in str(error)
        return True
    return False


@given(layers(), roundeds())
def test_random_dense_layers(layer, rounded):
    values = wanted_linear(*layer)
    if needs_more_than_62_bits(lambda: ops.linear(*layer)):
        return
    for path, exact in by_every_path(lambda path: ops.linear(*layer).by(path)):
        check_exact(exact, values, path)
    check_rounded(lambda: ops.linear(*layer), values, rounded)


@given(layers(), roundeds())
@settings(max_examples=60)
def test_the_forms_of_a_product_are_one_product(layer, rounded):
    x, weight, bias = layer
    if needs_more_than_62_bits(lambda: ops.linear(*layer)):
        return
    whole = ops.linear(x, weight, bias).tensor()
    plain = ops.matmul(x, weight).tensor()
    assert (x @ weight).tensor().equals(plain)
    deep = x.reshape(1, len(x), 1, -1)
    assert ops.linear(deep, weight, bias).tensor().equals(whole.reshape(1, len(x), 1, -1))
    assert ops.matmul(x[0], weight).tensor().equals(plain[0])
    column = weight[:, 0]
    one = None if bias is None else bias[:1]
    dot = ops.dot(x[0], column, one)
    assert dot.shape == ()
    values = wanted_linear(x[:1], column.reshape(-1, 1), one)
    check_exact(dot, values)
    check_rounded(lambda: ops.dot(x[0], column, one), values, rounded, "dot")
    if bias is not None:
        assert ops.dot(x[0], column, bias[0]).tensor().equals(dot.tensor())
    assert ops.matmul(x[0], column).tensor().equals(ops.dot(x[0], column).tensor())


@given(layers(), accumulators(), roundeds(shifts=(-3, 16)))
def test_random_dense_layers_with_an_accumulator(layer, model, rounded):
    x, weight, bias = layer
    product_unit = unit_of(x.format, weight.format) * 2**model.drop
    bias_unit = product_unit if bias is None else rounding_oracle.step(tuple_of(bias.format))
    unit = min(product_unit, bias_unit)
    shifts = [exact_log2(step / unit) for step in (product_unit, bias_unit)]

    def compute():
        return ops.linear(x, weight, bias, accumulator=model)

    rows = []
    for row in x.codes.tolist():
        for n, column in enumerate(zip(*weight.codes.tolist())):
            terms = [a * b for a, b in zip(row, column)]
            added = None if bias is None else int(bias.codes[n])
            rows.append(
                accumulator_oracle.accumulate(terms, dataclasses.asdict(model), added, shifts)
            )
    values = [total * unit for total, _ in rows]
    if needs_more_than_62_bits(compute):
        return
    exact = compute()
    check_exact(exact, values, str(model))
    assert exact.overflows == Overflows(len(rows), sum(met for _, met in rows)), str(model)
    check_rounded(compute, values, rounded, str(model))


def exact_log2(ratio):
    assert ratio.denominator == 1
    return int(ratio).bit_length() - 1


@pytest.mark.parametrize("order", ["sequential", "tree", "tiles of 2"])
@pytest.mark.parametrize("overflow", ["saturate", "wrap", "saturate_zero", "saturate_symmetric"])
def test_every_sum_of_three_products_in_a_narrow_accumulator(order, overflow):
    """4-bit sums of every triple of 2-bit codes times 3, -2 and 1."""
    model = Accumulator.parse(f"4 bits, {overflow}, {order}")
    codes = np.array([(a, b, c) for a in range(-2, 2) for b in range(-2, 2) for c in range(-2, 2)])
    weight = [3, -2, 2]
    exact = ops.linear(
        Tensor(codes, Format(2, 1)), Tensor([[w] for w in weight], Format(3, 2)), accumulator=model
    )
    rows = [
        accumulator_oracle.accumulate(
            [a * w for a, w in zip(row, weight)], dataclasses.asdict(model)
        )
        for row in codes.tolist()
    ]
    check_exact(exact, [total for total, _ in rows])
    assert exact.overflows == Overflows(len(rows), sum(met for _, met in rows))
    assert exact.overflows.overflows > 0
    assert exact.format.bits == 4


def test_an_accumulator_by_its_step_rounds_to_it():
    a = Tensor([3, 5, 7], Format(4, 0))
    model = Accumulator.of(Format(12, 6), rounding="nearest_even")
    exact = ops.dot(a, a, accumulator=model)
    terms = [rounding_oracle.round_exact(Fraction(v * v, 2), "nearest_even") for v in (3, 5, 7)]
    assert exact.format == Format(12, 6)
    assert exact.tensor().codes == sum(terms)


def test_products_of_wide_codes_that_int64_does_not_hold_are_refused():
    wide = Tensor(np.full(3, -(2**31)), Format(32, 0))
    with pytest.raises(InputError, match="64 are exact here; lower the widths"):
        ops.dot(wide, wide)
    seventeen = Tensor(np.full(3, -(2**16)), Format(17, 0))
    assert ops.dot(wide, seventeen).tensor().codes == 3 * 2**47


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda a, w: ops.dot(a[0], w[:, 0]), r"a and b must have one shape \(K,\), got \(3,\)"),
        (lambda a, w: ops.dot(a, w), r"a must have axes \(K\), got shape \(2, 3\)"),
        (lambda a, w: ops.matmul(a, w), r"b must have shape \(3, O\) for inputs \(2, 3\)"),
        (
            lambda a, w: ops.linear(a, a),
            r"weight must have shape \(3, O\) .* pass weight.transpose\(\)",
        ),
        (lambda a, w: ops.linear(a, a.transpose(), a[0]), r"bias must have shape \(2,\), got"),
        (
            lambda a, w: ops.linear(a, a.transpose(), a[0][:1]),
            "give each output a bias of its own",
        ),
        (lambda a, w: ops.matmul(a, a[0]), r"b must have axes \(I, O\), got shape \(3,\)"),
        (lambda a, w: ops.linear(a[:0], a.transpose()), "must have shape"),
        (lambda a, w: ops.linear(a, a.transpose()).by("int4"), "'int4' is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    a = Tensor([[1, 2, 3], [4, 5, 6]], Format(4, 3))
    w = Tensor([[1, 2], [3, 4], [5, 6], [7, -8]], Format(4, 3))
    with pytest.raises(InputError, match=message):
        call(a, w)


def test_an_accumulator_is_no_number():
    a = Tensor([1, 2], Format(4, 3))
    with pytest.raises(TypeError, match="accumulator must be a fxsim.Accumulator, got 24"):
        ops.dot(a, a, accumulator=24)


def test_the_plan_of_a_product_proves_it():
    plan = ops.plan(Format(8, 0, False), Format(8, 0), 576)
    assert plan.accumulator_bits == 26
    assert plan.terms == 576
    with pytest.raises(TypeError, match="terms must be an integer"):
        ops.plan(Format(8, 0), Format(8, 0), 5.0)
    with pytest.raises(TypeError, match=r"x must be a fxsim\.Format"):
        ops.plan(8, Format(8, 0), 5)
    with pytest.raises(InputError, match="terms must be 1 to 2"):
        ops.plan(Format(8, 0), Format(8, 0), 0)

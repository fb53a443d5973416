"""The ReLU of Tensors and exact results, its ceiling, its mask and its gradient, equal the twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import operations as oracle
from support.bits import assert_same_codes
from support.operations_cases import (
    EVERY_MODE,
    check_rounded,
    reals,
    roundeds,
    tensor_of,
    tuple_of,
)

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.exact import Sums
from fxsim.tensor import Tensor

FORMATS = st.builds(Format, st.integers(1, 40), st.integers(-6, 6), st.booleans())


def check_relu(x, rounded):
    check_rounded(lambda: Sums(x.codes.astype(np.int64), x.format), reals(x), rounded)
    format = rounded.format(x.format.step_exp)
    exact = Sums(x.codes.astype(np.int64), x.format)
    wanted = exact.relu(rounded.quantizer(format, x.shape))
    got = ops.relu(x, rounded.quantizer(format, x.shape))
    again = ops.relu(exact, rounded.quantizer(format, x.shape))
    assert all(a.equals(b) and a.equals(c) for a, b, c in zip(got, wanted, again))


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_6_bit_code_in_every_mode(rounded):
    check_relu(Tensor(range(-32, 32), Format(6, 1)), rounded)
    check_relu(Tensor(range(64), Format(6, 1, False)), rounded)


@given(
    FORMATS,
    st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
    roundeds(),
)
def test_random_tensors(format, shape, seed, rounded):
    check_relu(tensor_of(seed, format, shape), rounded)


@pytest.mark.parametrize("range_exp", [-3, 0, 2, 5])
@pytest.mark.parametrize("signed", [True, False])
def test_the_ceiling_is_the_range_of_the_format(range_exp, signed):
    """Masks are 1 strictly between 0 and the range, whatever the rounding does to the code."""
    x = Tensor(range(-(2**11), 2**11), Format(12, 4))
    format = Format(5, range_exp, signed)
    _, mask = oracle.relu(reals(x), tuple_of(format))
    for rounding in ("floor", "ceil", "jam"):
        assert_same_codes(ops.relu(x, format)[1].codes, mask, what=rounding)
    assert sum(mask) == min(max(2 ** (range_exp + 7) - 1, 0), 2**11 - 1)


@given(
    st.builds(Format, st.integers(1, 32), st.integers(-6, 6), st.booleans()),
    st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_random_gradients(format, shape, seed):
    grad = tensor_of(seed, format, shape)
    mask = tensor_of(seed + 1, ops.MASK, shape)
    got = ops.relu_grad(grad, mask)
    wanted = [int(g) * int(m) for g, m in zip(grad.codes.flat, mask.codes.flat)]
    assert got.format == format and got.shape == shape
    assert_same_codes(got.codes.reshape(-1), wanted)


def test_what_does_not_fit_is_refused():
    grad = Tensor([1, 2], Format(4, 3))
    with pytest.raises(InputError, match=r"mask must have shape \(2,\), got \(1,\)"):
        ops.relu_grad(grad, Tensor([1], ops.MASK))
    with pytest.raises(InputError, match="mask must be in u1 .*, got s4 .*; take the one of relu"):
        ops.relu_grad(grad, grad)
    with pytest.raises(TypeError, match=r"x must be a fxsim\.Tensor, got ndarray"):
        ops.relu(np.array([1]), Format(4, 3))
    with pytest.raises(TypeError, match=r"quantizer must be a fxsim\.Format or fxsim\.Quantizer"):
        ops.relu(grad, 8)

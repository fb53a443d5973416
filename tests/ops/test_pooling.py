"""Max and average pooling and their gradients equal the twin, in every rounding and overflow."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import operations as oracle
from oracle import pooling as pooling_oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes
from support.operations_cases import EVERY_MODE, check_quotient, roundeds, tensor_of, tuple_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.tensor import Tensor

FORMATS = st.builds(Format, st.integers(1, 32), st.integers(-4, 4), st.booleans())
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def images(draw):
    """(images, size of a window that fits them)."""
    shape = [draw(st.integers(1, most)) for most in (3, 7, 7, 4)]
    size = draw(st.integers(1, min(shape[1:3])))
    return tensor_of(draw(SEEDS), draw(FORMATS), shape), size


def pooled_shape(x, size):
    return len(x), x.shape[1] // size, x.shape[2] // size, x.shape[3]


def averages(x, size):
    unit = rounding_oracle.step(tuple_of(x.format))
    return [value * unit for value in oracle.flat(oracle.average_pool(x.codes.tolist(), size))]


def average_grads(grad, size, shape):
    unit = rounding_oracle.step(tuple_of(grad.format))
    spread = oracle.average_pool_grad(grad.codes.tolist(), size, shape)
    return [value * unit for value in oracle.flat(spread)]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_window_of_2_bit_codes_in_every_mode(rounded):
    codes = np.array(list(itertools.product(range(-2, 2), repeat=4)))
    x = Tensor(codes.reshape(-1, 2, 2, 1), Format(2, 0))
    check_quotient(lambda: ops.avg_pool2d(x, 2), averages(x, 2), rounded, x.format.step_exp - 2)
    wide = Tensor(codes[::16].reshape(1, 4, 4, 4)[:, :3, :3], Format(2, 0))
    check_quotient(
        lambda: ops.avg_pool2d(wide, 3), averages(wide, 3), rounded, wide.format.step_exp - 3
    )
    grad = Tensor(np.arange(-8, 8).reshape(1, 4, 4, 1), Format(4, 0))
    shape = (1, 13, 12, 1)
    check_quotient(
        lambda: ops.avg_pool2d_grad(grad, 3, shape),
        average_grads(grad, 3, shape),
        rounded,
        grad.format.step_exp - 4,
    )


@given(images(), roundeds(shifts=(-12, 12)))
def test_random_averages(case, rounded):
    x, size = case
    check_quotient(
        lambda: ops.avg_pool2d(x, size), averages(x, size), rounded, x.format.step_exp - 2
    )


@given(images(), SEEDS, FORMATS, roundeds(shifts=(-12, 12)))
def test_random_gradients_of_averages(case, seed, format, rounded):
    x, size = case
    grad = tensor_of(seed, format, pooled_shape(x, size))
    check_quotient(
        lambda: ops.avg_pool2d_grad(grad, size, x.shape),
        average_grads(grad, size, x.shape),
        rounded,
        format.step_exp - 2,
    )


@given(images(), SEEDS, FORMATS)
def test_random_max_pooling_and_its_gradient(case, seed, format):
    x, size = case
    codes, winner = ops.max_pool2d(x, size)
    wanted, places = pooling_oracle.max_pool(x.codes.tolist(), size)
    assert_same_codes(codes.codes, wanted, what="codes")
    assert_same_codes(winner.codes, places, what="winner")
    assert codes.format == x.format and winner.format == ops.WINNER
    grad = tensor_of(seed, format, codes.shape)
    got = ops.max_pool2d_grad(grad, winner, size, x.shape)
    wanted = pooling_oracle.max_pool_backward(grad.codes.tolist(), places, size, x.shape)
    assert_same_codes(got.codes, wanted, what="gradient")
    assert got.format == format


def test_where_nothing_passes_the_gradient_is_0():
    x = Tensor([[[[-3], [-1]], [[-4], [-2]]]], Format(4, 0))
    exact = x + x
    codes, winner = exact.relu_max_pool(Format(4, 0, False), 2)
    assert (codes.codes.item(), winner.codes.item()) == (0, 4)
    grad = Tensor([[[[5]]]], Format(4, 3))
    assert not ops.max_pool2d_grad(grad, winner, 2, (1, 2, 2, 1)).codes.any()


@pytest.mark.parametrize("code", [5, 17, 255])
def test_a_winner_that_is_no_place_of_the_window_is_refused(code):
    winner = Tensor([[[[code]]]], ops.WINNER)
    grad = Tensor([[[[5]]]], Format(4, 3))
    with pytest.raises(InputError, match=rf"winner must be in \[0, 4\], got \[{code}, {code}\]"):
        ops.max_pool2d_grad(grad, winner, 2, (1, 2, 2, 1))


def test_the_largest_windows():
    x = tensor_of(3, Format(32, 0), (1, 31, 33, 1))
    assert_same_codes(
        ops.max_pool2d(x, 15)[1].codes, pooling_oracle.max_pool(x.codes.tolist(), 15)[1]
    )
    with pytest.raises(InputError, match="size must have at most 255 places, got 16"):
        ops.max_pool2d(x, 16)
    big = Tensor(np.full((1, 600, 600, 1), -(2**31)), Format(32, 0))
    assert ops.avg_pool2d(big, 600).to(Format(32, 0)).codes.item() == -(2**31)


@given(images(), roundeds(shifts=(-300, 300), bits=(1, 32)))
def test_averages_in_steps_that_are_far_away(case, rounded):
    """Where 62 bits do not hold a division, Python's integers do it."""
    x, size = case
    step_exp = x.format.step_exp
    check_quotient(lambda: ops.avg_pool2d(x, size), averages(x, size), rounded, step_exp)
    for shift in (-13, -14, -15, 47, 59, 60, 61, 62, 63):
        check_quotient(
            lambda: ops.avg_pool2d(x, size),
            averages(x, size),
            rounded._replace(shift=shift),
            step_exp,
        )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, g: ops.max_pool2d(x[0], 2), r"x must have axes \(N, H, W, C\)"),
        (lambda x, g: ops.avg_pool2d(x, 5), "a size that spans 5 x 5 does not fit images of 4 x 6"),
        (lambda x, g: ops.avg_pool2d(x, 0), "size must be an integer of at least 1"),
        (
            lambda x, g: ops.avg_pool2d_grad(g, 2, (1, 4, 4, 2)),
            r"grad must have shape \(1, 2, 2, 2\), got \(1, 2, 3, 2\)",
        ),
        (
            lambda x, g: ops.max_pool2d_grad(g, g, 2, x.shape),
            "winner must be in u8 .*; take max_pool2d's",
        ),
        (lambda x, g: ops.max_pool2d_grad(g, g[..., :1], 2, x.shape), "winner must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    x = Tensor(np.zeros((1, 4, 6, 2), int), Format(4, 3))
    g = Tensor(np.ones((1, 2, 3, 2), int), Format(4, 3))
    with pytest.raises(InputError, match=message):
        call(x, g)
    for size in (2.0, True, "2", None):
        with pytest.raises(TypeError, match="size must be an integer"):
            ops.avg_pool2d(x, size)

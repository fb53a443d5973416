"""Max and average pooling, forward and backward, and the closed mask."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import pooling as oracle
from support.bits import assert_same_codes

from fxsim.kernels.elementwise import pool as kernel
from fxsim.kernels.elementwise.relu_mask import gate
from fxsim.kernels.reductions import channel_sums


def square(size):
    return kernel.Windows(size, size, size, size)


def max_pool(codes, size, mask=None):
    n, height, width, channels = codes.shape
    out = np.empty((n, height // size, width // size, channels), codes.dtype)
    winner = np.empty(out.shape, np.uint8)
    mask = np.ones(codes.shape, np.uint8) if mask is None else mask
    kernel.max_pool(codes, square(size), out, winner, mask)
    return out, winner


def average_pool(codes, size):
    n, height, width, channels = codes.shape
    out = np.empty((n, height // size, width // size, channels), codes.dtype)
    kernel.average_pool(codes, square(size), out)
    return out


def check_max_pool(codes, size, grads, mask):
    """Forward, winners and backward equal the twin's.

    A gradient passes where the mask is 1 at the winner.
    """
    wanted, places = oracle.max_pool(codes.tolist(), size)
    out, winner = max_pool(codes, size)
    assert_same_codes(out, wanted, what="greatest codes")
    assert_same_codes(winner, places, what="winners")
    passed = np.array(oracle.max_pool_backward(grads.tolist(), places, size, codes.shape)) * mask
    out, winner = max_pool(codes, size, mask)
    back = np.full(codes.shape, 77, grads.dtype)
    kernel.max_pool_backward(grads, winner, square(size), back)
    assert_same_codes(out, wanted, what="greatest codes under a mask")
    assert_same_codes(back, passed, what="gradients")


def check_average_pool(codes, size, grads):
    assert_same_codes(
        average_pool(codes, size), oracle.average_pool(codes.tolist(), size), what="means"
    )
    back = np.full(codes.shape, 77, np.int64)
    finer = kernel.average_pool_gradient_bits(size * size)
    kernel.average_pool_backward(grads, square(size), finer, back)
    assert_same_codes(
        back, oracle.average_pool_backward(grads.tolist(), size, codes.shape), what="shares"
    )


def every_window(bits):
    """(1, 2, 2, 2**(4 bits)) int16: every 2x2 window of signed codes, one per channel."""
    codes = range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    return (
        np.array(list(itertools.product(codes, repeat=4)), np.int16).T.reshape(1, 2, 2, -1).copy()
    )


def test_every_2x2_window_of_3_bit_codes():
    codes = every_window(3)
    grads = np.arange(1, codes.shape[-1] + 1, dtype=np.int16).reshape(1, 1, 1, -1)
    check_max_pool(codes, 2, grads, np.ones(codes.shape, np.uint8))
    check_average_pool(codes, 2, grads)


def test_every_mask_of_every_2x2_window_of_2_bit_codes():
    codes = every_window(2)
    grads = np.arange(1, codes.shape[-1] + 1, dtype=np.int16).reshape(1, 1, 1, -1)
    for open_ in itertools.product((0, 1), repeat=4):
        mask = np.ascontiguousarray(
            np.broadcast_to(np.array(open_, np.uint8).reshape(1, 2, 2, 1), codes.shape)
        )
        check_max_pool(codes, 2, grads, mask)


@pytest.mark.parametrize("size", range(1, 16))
def test_every_6_bit_gradient_is_shared_among_its_window(size):
    grads = np.arange(-32, 32, dtype=np.int16).reshape(1, 1, 1, -1)
    check_average_pool(np.zeros((1, size, size, 64), np.int16), size, grads)


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_extreme_codes(kind):
    limits = np.iinfo(kind)
    values = [limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max]
    codes = np.array(list(itertools.product(values, repeat=4)), kind).T.reshape(1, 2, 2, -1).copy()
    grads = np.resize(np.array(values, kind), (1, 1, 1, codes.shape[-1]))
    check_max_pool(codes, 2, grads, np.ones(codes.shape, np.uint8))
    check_average_pool(codes, 2, grads)


@pytest.mark.parametrize("size", [7, 14, 15])
def test_the_last_place_of_a_large_window_can_win_and_be_closed(size):
    codes = np.zeros((1, size, size, 1), np.int16)
    codes[0, -1, -1, 0] = 1
    grads = np.full((1, 1, 1, 1), 5, np.int16)
    for last in (0, 1):
        mask = np.ones(codes.shape, np.uint8)
        mask[0, -1, -1, 0] = last
        check_max_pool(codes, size, grads, mask)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 5))


@given(shapes, st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_random_shapes(shape, size, bits, seed):
    """Few bits give many ties; a remainder at the edge gets no gradient."""
    size = min(size, shape[1], shape[2])
    random = np.random.default_rng(seed)
    low = -(2 ** (bits - 1))
    high = 2 ** (bits - 1)
    codes = random.integers(low, high, shape).astype(np.int16)
    grads = random.integers(
        low, high, (shape[0], shape[1] // size, shape[2] // size, shape[3])
    ).astype(np.int16)
    check_max_pool(codes, size, grads, random.integers(0, 2, shape).astype(np.uint8))
    check_average_pool(codes, size, grads)


@given(shapes, st.integers(0, 2**32 - 1))
def test_a_closed_mask_lets_nothing_pass(shape, seed):
    random = np.random.default_rng(seed)
    grads = random.integers(-(2**15), 2**15, shape).astype(np.int16)
    mask = random.integers(0, 2, shape).astype(np.uint8)
    out = np.full(shape, 77, np.int16)
    gate(grads, mask, out)
    wanted = [
        grad if open_ else 0
        for grad, open_ in zip(grads.reshape(-1).tolist(), mask.reshape(-1).tolist())
    ]
    assert_same_codes(out.reshape(-1), wanted)


@given(shapes, st.integers(0, 2**32 - 1))
def test_channel_sums_are_exact(shape, seed):
    codes = (
        np.random.default_rng(seed).integers(-(2**15), 2**15, (1100, *shape[1:])).astype(np.int16)
    )
    rows = codes.reshape(-1, shape[-1]).tolist()
    assert channel_sums(codes).tolist() == [sum(column) for column in zip(*rows)]


def test_a_large_batch_is_pooled_in_parallel_to_the_same_codes():
    codes = np.random.default_rng(1).integers(-99, 99, (64, 32, 32, 3)).astype(np.int16)
    windows = (
        codes.reshape(64, 16, 2, 16, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(64, 16, 16, 3, 4)
    )
    out, winner = max_pool(codes, 2)
    assert np.array_equal(out, windows.max(-1))
    assert np.array_equal(winner, windows.argmax(-1))


def test_a_last_winner_in_place_of_the_first_is_caught():
    codes = every_window(2)
    winner = max_pool(codes, 2)[1]
    windows = codes.reshape(4, -1)
    last = 3 - windows[::-1].argmax(0)
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_codes(last.reshape(winner.shape), oracle.max_pool(codes.tolist(), 2)[1])


def test_a_truncated_mean_is_caught():
    codes = every_window(2)
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_codes(
            codes.sum((1, 2), keepdims=True) >> 2, oracle.average_pool(codes.tolist(), 2)
        )

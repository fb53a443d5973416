"""Convolution forward, input gradient and weight gradient.

Every path equals the twin, and the three are adjoint.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import products as oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes
from support.conv_cases import conv_layer, extremes, paths, products, random_codes, unit

from fxsim.formats import Format
from fxsim.kernels.products.paths import INT32_MAX, Operand
from fxsim.nn.fixed.products import BYTES, forward_paths
from fxsim.nn.spec import Conv, Dense
from fxsim.requantizer import Requantizer


def check_conv(x, w, g, stride, padding, x_format, w_format, g_format):
    """Exact sums of all three products, by every path, equal the twin's."""
    x_list = x.tolist()
    w_list = w.tolist()
    g_list = g.tolist()
    forward = oracle.conv_forward(x_list, w_list, stride, padding)
    input_grad = oracle.conv_input_grad(g_list, w_list, x.shape, stride, padding)
    weight_grad = oracle.conv_weight_grad(x_list, g_list, w.shape, stride, padding)
    x, w, g = (
        codes.astype(format.storage)
        for codes, format in ((x, x_format), (w, w_format), (g, g_format))
    )
    no_bias = np.zeros(w.shape[3], np.int16)
    for path, run in paths(
        conv_layer(w, stride, padding), x.shape[1:], x_format, w_format, g_format
    ):
        what = f"{path}, x {x.shape} w {w.shape} stride {stride} padding {padding}"
        assert_same_codes(run.forward_exact(x, w, no_bias), forward, what=f"forward, {what}")
        assert_same_codes(
            run.input_grad_exact(g, w, x.shape), input_grad, what=f"input gradient, {what}"
        )
        assert_same_codes(run.weight_grad_exact(x, g), weight_grad, what=f"weight gradient, {what}")


def every_tuple(format, length):
    """(codes ** length, length): every tuple of codes."""
    return np.array(
        list(itertools.product(range(format.min_code, format.max_code + 1), repeat=length))
    )


@pytest.mark.parametrize("x_format", [unit(4), unit(4, False)])
def test_every_pair_of_4_bit_codes(x_format):
    """A 1x1 kernel: one column per code of x, one filter per code of w."""
    x = every_tuple(x_format, 1).reshape(1, 1, -1, 1)
    w = every_tuple(unit(4), 1).reshape(1, 1, 1, -1)
    g = np.resize(every_tuple(unit(4), 1), (1, 1, 16, 16))
    check_conv(x, w, g, 1, 0, x_format, unit(4), unit(4))


def test_every_sum_of_two_products_of_2_bit_codes():
    """Two input channels, a column per pair of x codes, a filter per pair of w codes.

    And three by the gradients.
    """
    pairs = every_tuple(unit(2), 2)
    x = pairs.reshape(1, 1, 16, 2)
    w = pairs.T.reshape(1, 1, 2, 16)
    g = np.resize(every_tuple(unit(2), 3), (1, 1, 16, 16))
    check_conv(x, w, g, 1, 0, unit(2), unit(2), unit(2))


WIDTHS = [
    (unit(15, False), unit(16)),
    (unit(16), unit(15)),
    (unit(14, False), unit(14)),
    (unit(8, False), unit(14)),
    (unit(16), unit(16)),
    (unit(8), unit(8)),
    (unit(20), unit(18)),
    (unit(1, False), unit(1)),
]


@pytest.mark.parametrize("a, b", WIDTHS, ids=str)
def test_extremes_on_both_sides_of_the_spill_bound(a, b):
    """Forward, input gradient and weight gradient of as many terms as int32 holds, one less,
    one and two more.
    """
    most = INT32_MAX // (Operand(a.bits, a.signed).magnitude * Operand(b.bits, b.signed).magnitude)
    bounds = [most - 1, most, most + 1, most + 2, 3 * most + 2]
    for terms in sorted({terms for terms in bounds if 1 <= terms <= 2**11} | {5}):
        for left, right in itertools.product(("high", "low", "alternate"), repeat=2):
            check_dense(extremes(a, (3, terms), left), extremes(b, (2, terms), right).T, a, b)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
def test_a_dot_product_of_131071_extreme_8_bit_codes_fills_int32(extra):
    terms = INT32_MAX // 2**14 + extra
    x = np.full((1, terms), -128, np.int16)
    w = np.full((terms, 1), -128, np.int16)
    for path, run in paths(Dense(name="d", units=1), (1, 1, terms), unit(8), unit(8), unit(8)):
        assert (
            run.forward_exact(x.reshape(1, 1, 1, -1), w, np.zeros(1, np.int16)).item()
            == terms * 2**14
        ), path


def check_dense(a, b, a_format, b_format):
    """a (M, K) times b (K, N): as a forward product, an input gradient and a weight gradient."""
    wanted = oracle.matmul(a.tolist(), b.tolist())
    a = a.astype(a_format.storage)
    b = np.ascontiguousarray(b.astype(b_format.storage))
    (m, k) = a.shape
    n = b.shape[1]
    no_bias = np.zeros(n, np.int16)
    for path, run in paths(Dense(name="d", units=n), (1, 1, k), a_format, b_format, b_format):
        got = run.forward_exact(a.reshape(m, 1, 1, k), b, no_bias)
        assert_same_codes(got.reshape(m, n), wanted, what=f"forward, {path}, {k} terms")
    if b_format.signed:
        transposed = np.ascontiguousarray(b.T)
        for path, run in paths(Dense(name="d", units=k), (1, 1, n), b_format, b_format, a_format):
            got = run.input_grad_exact(a.reshape(m, 1, 1, k), transposed, (m, 1, 1, n))
            assert_same_codes(got.reshape(m, n), wanted, what=f"input gradient, {path}, {k} terms")
    source = np.ascontiguousarray(a.T).reshape(k, 1, 1, m)
    grad = b.reshape(k, 1, 1, n)
    for path, run in paths(Dense(name="d", units=n), (1, 1, m), a_format, unit(2), b_format):
        got = run.weight_grad_exact(source, grad)
        assert_same_codes(got, wanted, what=f"weight gradient, {path}, {k} terms")


@st.composite
def convolutions(draw):
    """(x, w, g, stride, padding, formats) of a random convolution, codes rich in extremes."""
    kernel = draw(st.integers(1, 4))
    stride = draw(st.integers(1, 3))
    padding = draw(st.integers(0, 2))
    least = max(1, kernel - 2 * padding)
    height, width = (draw(st.integers(least, least + 5)) for _ in range(2))
    batch = draw(st.integers(1, 3))
    channels = draw(st.integers(1, 5))
    filters = draw(st.integers(1, 5))
    least_bits, most_bits = draw(
        st.sampled_from([(1, 15), (1, 9), (18, 20)])
    )  # kept in int16, and in int32
    signed = draw(st.booleans())
    widths = draw(st.tuples(*[st.integers(least_bits, most_bits)] * 3))
    formats = unit(widths[0], signed), unit(widths[1]), unit(widths[2])
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = (oracle.output_size(size, kernel, stride, padding) for size in (height, width))
    shapes = (
        (batch, height, width, channels),
        (kernel, kernel, channels, filters),
        (batch, rows, columns, filters),
    )
    arrays = [random_codes(random, format, shape) for format, shape in zip(formats, shapes)]
    return (*arrays, stride, padding, *formats)


@given(convolutions())
def test_random_convolutions(case):
    check_conv(*case)


@given(convolutions())
def test_the_three_products_are_adjoint(case):
    """<conv(x, w), g> == <x, input_grad(g, w)> == <w, weight_grad(x, g)>, exactly."""
    x, w, g, stride, padding, *formats = case
    x, w, g = (codes.astype(format.storage) for codes, format in zip((x, w, g), formats))
    run = products(conv_layer(w, stride, padding), x.shape[1:], *formats)

    def inner(a, b):
        return sum(int(p) * int(q) for p, q in zip(a.reshape(-1), b.reshape(-1)))

    forward = inner(run.forward_exact(x, w, np.zeros(w.shape[3], np.int16)), g)
    assert (
        forward
        == inner(x, run.input_grad_exact(g, w, x.shape))
        == inner(w, run.weight_grad_exact(x, g))
    )


@pytest.mark.parametrize(
    "channels, filters", [(1, 63), (1, 64), (1, 65), (2, 130), (63, 1), (64, 2), (65, 1)]
)
def test_both_sides_of_a_tile(channels, filters):
    random = np.random.default_rng(channels * 1000 + filters)
    formats = unit(9, False), unit(11), unit(10)
    shapes = (3, 4, 3, channels), (2, 2, channels, filters), (3, 3, 2, filters)
    check_conv(
        *(random_codes(random, format, shape) for format, shape in zip(formats, shapes)),
        1,
        0,
        *formats,
    )


def wanted_output(z, target, rounding, overflow, relu, step_exp=0):
    """(codes, mask, counts) of exact sums `z` (flat list, at 2**step_exp) after ReLU, rounding
    and overflow.
    """
    step = rounding_oracle.Fraction(2) ** step_exp
    mask = [int(0 < value * step < 2) for value in z]
    values = [(max(value, 0) if relu else value) * step for value in z]
    codes, counts = rounding_oracle.quantize_all(values, target, rounding, overflow)
    return codes, mask, list(counts)


@pytest.mark.skipif(BYTES not in forward_paths(), reason="this processor has no int8 path")
@pytest.mark.parametrize("relu", [True, False])
def test_forward_products_of_bytes_have_the_codes_of_the_plain_path(relu):
    """Unsigned by signed 8-bit codes at their extremes and at random.

    Odd channels, padding, stride.
    """
    random = np.random.default_rng(8)
    x = random.integers(0, 256, (3, 7, 6, 5)).astype(np.int16)
    w = random.integers(-128, 128, (3, 3, 5, 9)).astype(np.int16)
    x[0] = 255
    w[..., 0] = -128
    layer = Conv(name="c", filters=9, kernel=3, stride=2, padding=1, relu=relu)
    bias = np.arange(9, dtype=np.int16)
    results = []
    for path in ("auto", "plain"):
        run = products(layer, x.shape[1:], Format(8, 8, False), unit(8), unit(8), path)
        requantizer = Requantizer(run.sum_format.step_exp, Format(12, run.sum_format.step_exp + 16))
        results.append((run.forward(x, w, bias, requantizer), run.forward_exact(x, w, bias)))
        assert run.forward_plan.path == (BYTES if path == "auto" else "plain")
        assert run.weight_grad_plan(3).path != BYTES
    (byte, byte_sums), (plain, plain_sums) = results
    assert_same_codes(byte_sums, plain_sums)
    for got, wanted in zip(byte, plain):
        assert np.array_equal(got, wanted) if got is not None else wanted is None


@pytest.mark.parametrize("rounding", rounding_oracle.DETERMINISTIC)
@pytest.mark.parametrize("relu", [True, False])
def test_fused_rounding_of_every_product_of_4_bit_codes(rounding, relu):
    """The kernel's own rounding, clip, mask and counts, in int32 and, with wide operands, in
    int64.
    """
    x = every_tuple(unit(4), 1).reshape(1, 1, 16, 1)
    w = every_tuple(unit(4), 1).reshape(1, 1, 1, 16)
    for scale, width in ((1, 4), (2**14, 18)):
        layer = Conv(name="c", filters=16, kernel=1, relu=relu)
        x_format = Format(width, width - 1 - 4)
        w_format = unit(width)
        run = products(layer, (1, 16, 1), x_format, w_format, w_format)
        codes = (x * scale).astype(x_format.storage)
        w = w.astype(w_format.storage)
        z = oracle.conv_forward(codes.tolist(), w.tolist(), 1, 0)
        z = [value for column in z[0][0] for value in column]
        step_exp = run.sum_format.step_exp
        for bits, signed, shift in ((3, True, 0), (4, True, 2), (4, False, 1), (8, True, 5)):
            for overflow in rounding_oracle.OVERFLOWS:
                target = (bits, step_exp + shift + (scale.bit_length() - 1) + bits - signed, signed)
                check_fused(run, codes, w, z, target, rounding, overflow, relu, step_exp)


def check_fused(run, x, w, z, target, rounding, overflow, relu, step_exp):
    requantizer = Requantizer(step_exp, Format(*target), rounding, overflow)
    got, mask, counts = run.forward(x, w, np.zeros(w.shape[-1], np.int16), requantizer)
    codes, wanted_mask, wanted_counts = wanted_output(z, target, rounding, overflow, relu, step_exp)
    what = f"{target} {rounding} {overflow} relu {relu}"
    assert_same_codes(got.reshape(-1), codes, z, f"codes, {what}")
    assert counts.tolist() == wanted_counts, what
    if relu:
        assert_same_codes(mask.reshape(-1), wanted_mask, z, f"mask, {what}")
    else:
        assert mask is None


@pytest.mark.parametrize("bits, signed", [(31, True), (32, True), (31, False), (32, False)])
def test_fused_outputs_as_wide_as_tensors_can_be(bits, signed):
    """Sums at both ends of 32-bit formats, through the kernel's epilogue."""
    w = np.array([-(2**15), -1, 0, 1, 2**15 - 1, 2**14], np.int32).reshape(1, 1, 1, -1)
    x = np.array([-(2**19), -1, 0, 1, 2**19 - 1, 2**17, 2**16 - 1]).reshape(1, 1, -1, 1)
    layer = Conv(name="c", filters=w.shape[-1], kernel=1, relu=False)
    run = products(layer, (1, x.shape[2], 1), unit(20), unit(17), unit(17))
    z = [int(a) * int(b) for a in x.reshape(-1) for b in w.reshape(-1)]
    for rounding in ("nearest_away", "floor", "jam"):
        for shift in (0, 1, 4):
            target = (bits, shift + bits - signed, signed)
            check_fused(run, x.astype(np.int32), w, z, target, rounding, "saturate", False, 0)


@pytest.mark.parametrize("relu", [True, False])
def test_the_mask_is_open_strictly_between_0_and_2(relu):
    """Z at 0, one step above, one below 2, at 2, and the negatives: both ends are excluded."""
    layer = Conv(name="c", filters=1, kernel=1, relu=relu)
    run = products(layer, (1, 9, 1), Format(12, 4), Format(2, 0), unit(4))
    step_exp = run.sum_format.step_exp
    two = 2 ** (1 - step_exp)
    z = [-two, -1, 0, 1, two // 2, two - 1, two, two + 1, 3 * two]
    x = np.array(z, np.int16).reshape(1, 1, -1, 1)
    w = np.ones((1, 1, 1, 1), np.int16)
    for rounding in ("nearest_away", "ceil", "floor"):
        check_fused(run, x, w, z, (4, 1, False), rounding, "saturate", relu, step_exp)
    mask = run.forward(x, w, np.zeros(1, np.int16), Requantizer(step_exp, Format(4, 1, False)))[1]
    assert (None if mask is None else mask.reshape(-1).tolist()) == (
        [0, 0, 0, 1, 1, 1, 0, 0, 0] if relu else None
    )


def test_a_dropped_term_a_flipped_kernel_and_a_shifted_input_are_caught():
    random = np.random.default_rng(0)
    x = random.integers(-8, 8, (2, 5, 5, 2))
    w = random.integers(-8, 8, (3, 3, 2, 3))
    dropped = w.copy()
    dropped[2, 2, 1] = 0
    wanted = oracle.conv_forward(x.tolist(), w.tolist(), 1, 1)
    run = products(conv_layer(w, 1, 1), (5, 5, 2), unit(4), unit(4), unit(4))
    for wrong_x, wrong_w in ((x, dropped), (x, w[::-1, ::-1]), (np.roll(x, 1, axis=2), w)):
        wrong_w = np.ascontiguousarray(wrong_w.astype(np.int16))
        got = run.forward_exact(wrong_x.astype(np.int16), wrong_w, np.zeros(3, np.int16))
        with pytest.raises(AssertionError, match="differ, first at"):
            assert_same_codes(got, wanted)

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
from support.conv_cases import by_every_path, extremes, random_codes, sums_of, tensors, unit

from fxsim import ops
from fxsim.formats import Format
from fxsim.kernels.products.paths import INT32_MAX, Operand
from fxsim.ops.paths import BYTES, forward_paths
from fxsim.quantizer import Counts, Quantizer
from fxsim.tensor import Tensor


def check_conv(x, w, g, stride, padding, *formats):
    """Exact sums of all three products, by every path, equal the twin's."""
    x_list = x.tolist()
    w_list = w.tolist()
    g_list = g.tolist()
    wanted = {
        "forward": oracle.conv_forward(x_list, w_list, stride, padding),
        "input gradient": oracle.conv_input_grad(g_list, w_list, x.shape, stride, padding),
        "weight gradient": oracle.conv_weight_grad(x_list, g_list, w.shape, stride, padding),
    }
    given = tensors((x, w, g), formats)
    for path, found in by_every_path(
        lambda path: sums_of(*given, path, stride=stride, padding=padding)
    ):
        what = f"{path}, x {x.shape} w {w.shape} stride {stride} padding {padding}"
        for got, (kind, sums) in zip(found, wanted.items()):
            assert_same_codes(got.codes, sums, what=f"{kind}, {what}")


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
    a = Tensor(np.full(terms, -128), unit(8))
    for path, sums in by_every_path(lambda path: ops.dot(a, a).by(path).tensor()):
        assert sums.codes.item() == terms * 2**14, path


def check_dense(a, b, a_format, b_format):
    """a (M, K) times b (K, N): as a dense layer, an input gradient and a weight gradient."""
    wanted = oracle.matmul(a.tolist(), b.tolist())
    m, k = a.shape
    n = b.shape[1]
    a, b = tensors((a, b), (a_format, b_format))
    products = {
        "dense": lambda path: ops.linear(a, b).by(path),
        "input gradient": lambda path: ops.conv2d_input_grad(
            a.reshape(m, 1, 1, k), b.transpose().reshape(1, 1, n, k), (m, 1, 1, n)
        ).by(path),
        "weight gradient": lambda path: ops.conv2d_weight_grad(
            a.transpose().reshape(k, 1, 1, m), b.reshape(k, 1, 1, n), (1, 1, m, n)
        ).by(path),
    }
    for kind, product in products.items():
        for path, sums in by_every_path(lambda path, run=product: run(path).tensor()):
            assert_same_codes(sums.codes.reshape(m, n), wanted, what=f"{kind}, {path}, {k} terms")


@st.composite
def convolutions(draw):
    """(x, w, g, stride, padding, formats) of a random convolution, codes rich in extremes."""
    kernel = draw(st.integers(1, 4))
    stride = draw(st.integers(1, 3))
    padding = draw(st.integers(0, min(2, kernel - 1)))
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
    x, w, g = tensors((x, w, g), formats)

    def inner(a, b):
        return sum(int(p) * int(q) for p, q in zip(a.codes.flat, b.codes.flat))

    forward, input_grad, weight_grad = sums_of(x, w, g, stride=stride, padding=padding)
    assert inner(forward, g) == inner(x, input_grad) == inner(w, weight_grad)


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
    ceiling = rounding_oracle.Fraction(2) ** target[1]
    mask = [int(0 < value * step < ceiling) for value in z]
    values = [(max(value, 0) if relu else value) * step for value in z]
    codes, counts = rounding_oracle.quantize_all(values, target, rounding, overflow)
    return codes, mask, counts


@pytest.mark.skipif(BYTES not in forward_paths(), reason="this processor has no int8 path")
@pytest.mark.parametrize("relu", [True, False])
def test_forward_products_of_bytes_have_the_codes_of_the_plain_path(relu):
    """Unsigned by signed 8-bit codes at their extremes and at random.

    Odd channels, padding, stride.
    """
    random = np.random.default_rng(8)
    x = random.integers(0, 256, (3, 7, 6, 5))
    w = random.integers(-128, 128, (3, 3, 5, 9))
    x[0] = 255
    w[..., 0] = -128
    x, w = tensors((x, w), (unit(8, False), unit(8)))
    bias = Tensor(np.arange(9), unit(16))
    results = []
    for path in ("auto", "plain"):
        exact = ops.conv2d(x, w, bias, stride=2, padding=1).by(path)
        assert exact.product.plan.path == (BYTES if path == "auto" else "plain")
        seen = []
        quantizer = Quantizer(Format(12, 16), counted=seen.append)
        codes = exact.relu(quantizer) if relu else [exact.to(quantizer)]
        results.append((exact.tensor(), codes, seen))
    (byte_sums, byte, byte_counts), (plain_sums, plain, plain_counts) = results
    assert byte_sums.equals(plain_sums)
    assert all(got.equals(wanted) for got, wanted in zip(byte, plain))
    assert byte_counts == plain_counts


@pytest.mark.parametrize("rounding", rounding_oracle.DETERMINISTIC)
@pytest.mark.parametrize("relu", [True, False])
def test_fused_rounding_of_every_product_of_4_bit_codes(rounding, relu):
    """The kernel's own rounding, clip, mask and counts, in int32 and, with wide operands, in
    int64.
    """
    x = every_tuple(unit(4), 1).reshape(1, 1, 16, 1)
    w = every_tuple(unit(4), 1).reshape(1, 1, 1, 16)
    for scale, width in ((1, 4), (2**14, 18)):
        given = tensors((x * scale, w), (Format(width, width - 1 - 4), unit(width)))
        z = oracle.conv_forward((x * scale).tolist(), w.tolist(), 1, 0)
        z = [value for column in z[0][0] for value in column]
        step_exp = ops.conv2d(*given).format.step_exp
        for bits, signed, shift in ((3, True, 0), (4, True, 2), (4, False, 1), (8, True, 5)):
            for overflow in rounding_oracle.OVERFLOWS:
                target = (bits, step_exp + shift + (scale.bit_length() - 1) + bits - signed, signed)
                check_fused(*given, z, target, rounding, overflow, relu)


def check_fused(x, w, z, target, rounding, overflow, relu):
    exact = ops.conv2d(x, w)
    seen = []
    quantizer = Quantizer(Format(*target), rounding, overflow, counted=seen.append)
    found = exact.relu(quantizer) if relu else (exact.to(quantizer),)
    step_exp = exact.format.step_exp
    codes, mask, counts = wanted_output(z, target, rounding, overflow, relu, step_exp)
    what = f"{target} {rounding} {overflow} relu {relu}"
    assert_same_codes(found[0].codes.reshape(-1), codes, z, f"codes, {what}")
    assert seen == [Counts(len(z), *counts)], what
    if relu:
        assert_same_codes(found[1].codes.reshape(-1), mask, z, f"mask, {what}")


@pytest.mark.parametrize("bits, signed", [(31, True), (32, True), (31, False), (32, False)])
def test_fused_outputs_as_wide_as_tensors_can_be(bits, signed):
    """Sums at both ends of 32-bit formats, through the kernel's epilogue."""
    w = np.array([-(2**15), -1, 0, 1, 2**15 - 1, 2**14]).reshape(1, 1, 1, -1)
    x = np.array([-(2**19), -1, 0, 1, 2**19 - 1, 2**17, 2**16 - 1]).reshape(1, 1, -1, 1)
    z = [int(a) * int(b) for a in x.reshape(-1) for b in w.reshape(-1)]
    given = tensors((x, w), (unit(20), unit(17)))
    for rounding in ("nearest_away", "floor", "jam"):
        for shift in (0, 1, 4):
            target = (bits, shift + bits - signed, signed)
            check_fused(*given, z, target, rounding, "saturate", False)


@pytest.mark.parametrize("range_exp", [1, 0, -2])
def test_the_mask_is_open_strictly_between_0_and_the_range_of_the_format(range_exp):
    """Sums at 0, one step above, one below the ceiling, at it, and the negatives: both ends are
    excluded, in every rounding.
    """
    x_format = Format(12, 4)
    step_exp = x_format.step_exp - 1
    top = 2 ** (range_exp - step_exp)
    z = [-top, -1, 0, 1, top // 2, top - 1, top, top + 1, 3 * top]
    x = Tensor(np.array(z).reshape(1, 1, -1, 1), x_format)
    w = Tensor(np.ones((1, 1, 1, 1), int), Format(2, 0))
    for rounding in ("nearest_away", "ceil", "floor"):
        check_fused(x, w, z, (4, range_exp, False), rounding, "saturate", True)
    _, mask = ops.conv2d(x, w).relu(Format(4, range_exp, False))
    assert mask.codes.ravel().tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_a_dropped_term_a_flipped_kernel_and_a_shifted_input_are_caught():
    random = np.random.default_rng(0)
    x = random.integers(-8, 8, (2, 5, 5, 2))
    w = random.integers(-8, 8, (3, 3, 2, 3))
    dropped = w.copy()
    dropped[2, 2, 1] = 0
    wanted = oracle.conv_forward(x.tolist(), w.tolist(), 1, 1)
    for wrong in ((x, dropped), (x, w[::-1, ::-1]), (np.roll(x, 1, axis=2), w)):
        got = ops.conv2d(*tensors(wrong, (unit(4), unit(4))), padding=1).tensor()
        with pytest.raises(AssertionError, match="differ, first at"):
            assert_same_codes(got.codes, wanted)

"""A product of a layer gives the same codes, mask, counts and moments on every path.

Large enough that 'auto' takes Winograd's algorithm; with and without ReLU, signed and unsigned
outputs, every rounding and overflow mode.
"""

from fractions import Fraction

import numpy as np
import pytest
from oracle import rounding as oracle
from support.bits import assert_same_codes
from support.conv_cases import conv_layer, paths, products, random_codes, unit
from support.conv_paths_cases import (
    forward_reference,
    input_grad_reference,
    weight_grad_reference,
)

from fxsim.formats import Format
from fxsim.kernels.products import winograd
from fxsim.nn.fixed.products import WINOGRAD_PATHS, forward_paths
from fxsim.nn.spec import Conv
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream

CHANNELS = 32
SIZE = 4
FORMATS = unit(6, False), unit(7), unit(6)
HAS_WINOGRAD = set(WINOGRAD_PATHS) & set(forward_paths())


@pytest.fixture
def used(monkeypatch):
    """The sizes of the patches of the products that took Winograd's algorithm."""
    sizes = []
    run = winograd.conv_winograd

    def watched(*args, **kwargs):
        sizes.append(kwargs["algorithm"].size)
        run(*args, **kwargs)

    monkeypatch.setattr(winograd, "conv_winograd", watched)
    return sizes


def operands(seed):
    """Codes of x, w and g, and biases; the last image is all ends."""
    rng = np.random.default_rng(seed)
    shapes = (2, SIZE, SIZE, CHANNELS), (3, 3, CHANNELS, CHANNELS), (2, SIZE, SIZE, CHANNELS)
    codes = [
        random_codes(rng, format, shape).astype(np.int16) for format, shape in zip(FORMATS, shapes)
    ]
    codes[0][-1] = FORMATS[0].max_code
    return *codes, rng.integers(-3000, 3000, CHANNELS).astype(np.int16)


def expected(sums, target, rounding, overflow, stream):
    """(codes, counts) of exact sums in steps of 1."""
    words = None if stream is None else stream.words(sums.shape).reshape(-1).tolist()
    values = [Fraction(int(value)) for value in sums.reshape(-1)]
    return oracle.quantize_all(values, target, rounding, overflow, words)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("rounding", [*oracle.DETERMINISTIC, *oracle.STOCHASTIC])
def test_forward(used, rounding, relu, signed):
    x, w, _, bias = operands(1)
    z = forward_reference(x, w, 1, 1) + bias
    assert (z < 0).any() and (z > 0).any()
    behind_relu = np.maximum(z, 0) if relu else z
    bits = 7
    target = (bits, 11 if signed else 12, signed)
    layer = Conv(name="c", filters=CHANNELS, padding=1, relu=relu)
    stream = Stream(3, 4, "c") if rounding in oracle.STOCHASTIC else None
    for path, run in paths(layer, x.shape[1:], *FORMATS):
        assert run.sum_format.step_exp == 0
        for overflow in oracle.OVERFLOWS:
            codes, counts = expected(behind_relu, target, rounding, overflow, stream)
            moments = np.zeros((2, CHANNELS), np.int64)
            requantizer = Requantizer(0, Format(*target), rounding, overflow)
            got, mask, got_counts = run.forward(x, w, bias, requantizer, stream, moments)
            what = f"{path}, {rounding}, {overflow}"
            assert_same_codes(got.reshape(-1), codes, z.reshape(-1), what)
            assert got_counts.tolist() == list(counts), what
            flat = np.reshape(codes, (-1, CHANNELS))
            assert moments.tolist() == [flat.sum(axis=0).tolist(), (flat**2).sum(axis=0).tolist()]
            assert (mask is not None) == relu
            if relu:
                assert mask.tolist() == ((z > 0) & (z < 2)).astype(int).tolist(), what
    assert used or not HAS_WINOGRAD


@pytest.mark.parametrize("rounding", [*oracle.DETERMINISTIC, *oracle.STOCHASTIC])
def test_gradients(used, rounding):
    x, w, g, _ = operands(2)
    back = input_grad_reference(x.shape, w, g, 1, 1)
    weights = weight_grad_reference(x, g, 3, 1, 1)
    stream = Stream(5, 6, "c") if rounding in oracle.STOCHASTIC else None
    for path, run in paths(conv_layer(w, 1, 1), x.shape[1:], *FORMATS, samples=2):
        for overflow in oracle.OVERFLOWS:
            requantizer = Requantizer(0, Format(7, 10), rounding, overflow)
            for what, sums, (got, counts) in (
                ("input gradient", back, run.input_grad(g, w, x.shape, requantizer, stream)),
                ("weight gradient", weights, run.weight_grad(x, g, requantizer, stream)),
            ):
                codes, wanted = expected(sums, (7, 10, True), rounding, overflow, stream)
                what = f"{what}, {path}, {rounding}, {overflow}"
                assert_same_codes(got.reshape(-1), codes, sums.reshape(-1), what)
                assert counts.tolist() == list(wanted), what
    assert used or not HAS_WINOGRAD


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
def test_gradients_whose_rounding_would_pass_int64(rounding):
    """3 * 2**30 * 2**31 is 3 * 2**61, and half a step of 2**62 more is 2**63."""
    layer = Conv(name="c", filters=3, kernel=1, relu=False)
    narrow = unit(2)
    wide = unit(32)
    g_format = unit(31)
    grad = np.full((1, 1, 1, 3), g_format.min_code, np.int32)
    weight = np.full((1, 1, 1, 3), wide.min_code, np.int32)
    requantizer = Requantizer(0, Format(16, 15 + 62), rounding)
    wanted = oracle.round_exact(Fraction(3, 2), rounding)
    run = products(layer, (1, 1, 1), narrow, wide, g_format)
    got, counts = run.input_grad(grad, weight, (1, 1, 1, 1), requantizer)
    assert (got.item(), counts.tolist()) == (wanted, [0, 0, 0])
    source = np.full((3, 1, 1, 1), wide.min_code, np.int32)
    grads = np.full((3, 1, 1, 3), g_format.min_code, np.int32)
    run = products(layer, (1, 1, 1), wide, narrow, g_format)
    got, counts = run.weight_grad(source, grads, requantizer)
    assert (got.reshape(-1).tolist(), counts.tolist()) == ([wanted] * 3, [0, 0, 0])


@pytest.mark.parametrize("step_exp", [-20, -29, -30, -31, -35])
def test_a_relu_of_sums_in_steps_so_fine_that_all_are_inside(step_exp):
    """2**(1 - the step's exponent) passes int32, and int64."""
    format = Format(4, step_exp + 3)
    layer = Conv(name="c", filters=2, kernel=1)
    x = np.array([3, -2], np.int16).reshape(1, 1, 1, 2)
    w = np.array([[3, -3], [2, 1]], np.int16).reshape(1, 1, 2, 2)
    bias = np.zeros(2, np.int16)
    bias_format = Format(8, 2 * step_exp + 7)
    for path, run in paths(layer, (1, 1, 2), format, format, format, bias=bias_format):
        exp = run.sum_format.step_exp
        requantizer = Requantizer(exp, Format(8, exp + 7))
        codes, mask, _ = run.forward(x, w, bias, requantizer)
        assert exp == 2 * step_exp
        assert (codes.tolist(), mask.tolist()) == ([[[[5, 0]]]], [[[[1, 0]]]]), path

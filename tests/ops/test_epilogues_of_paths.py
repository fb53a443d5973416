"""A product of a layer gives the same codes, mask, counts and moments on every path.

Large enough that 'auto' takes Winograd's algorithm; with and without ReLU, signed and unsigned
outputs, every rounding and overflow mode.
"""

from fractions import Fraction

import numpy as np
import pytest
from oracle import rounding as oracle
from support.bits import assert_same_codes
from support.conv_cases import by_every_path, random_codes, unit
from support.conv_paths_cases import (
    forward_reference,
    input_grad_reference,
    weight_grad_reference,
)

from fxsim import Quantizer, Tensor, ops
from fxsim.formats import Format
from fxsim.kernels.products import winograd
from fxsim.ops.paths import WINOGRAD_PATHS, forward_paths
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


def counted(target, rounding, overflow, stream):
    """A Quantizer, and the list that gets its counts."""
    seen = []
    return Quantizer(target, rounding, overflow, stream, seen.append), seen


def tally(seen):
    (counts,) = seen
    return [counts.below, counts.above, counts.flushed]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("rounding", [*oracle.DETERMINISTIC, *oracle.STOCHASTIC])
def test_forward(used, rounding, relu, signed):
    x, w, _, bias = operands(1)
    z = forward_reference(x, w, 1, 1) + bias
    assert (z < 0).any() and (z > 0).any()
    behind_relu = np.maximum(z, 0) if relu else z
    target = Format(7, 11 if signed else 12, signed)
    plain = (target.bits, target.range_exp, target.signed)
    stream = Stream(3, 4, "c") if rounding in oracle.STOCHASTIC else None
    tensors = (Tensor(x, FORMATS[0]), Tensor(w, FORMATS[1]), Tensor(bias, Format(16, 15)))
    for path, exact in by_every_path(lambda path: ops.conv2d(*tensors, padding=1).by(path)):
        assert exact.format.step_exp == 0
        for overflow in oracle.OVERFLOWS:
            codes, counts = expected(behind_relu, plain, rounding, overflow, stream)
            moments = np.zeros((2, CHANNELS), np.int64)
            quantizer, seen = counted(target, rounding, overflow, stream)
            got, mask = exact.rounded_with_moments(quantizer, relu, moments)
            what = f"{path}, {rounding}, {overflow}"
            assert_same_codes(got.reshape(-1), codes, z.reshape(-1), what)
            assert tally(seen) == list(counts), what
            flat = np.reshape(codes, (-1, CHANNELS))
            assert moments.tolist() == [flat.sum(axis=0).tolist(), (flat**2).sum(axis=0).tolist()]
            assert (mask is not None) == relu
            if relu:
                inside = (z > 0) & (z < 2**target.range_exp)
                assert mask.tolist() == inside.astype(int).tolist(), what
    assert used or not HAS_WINOGRAD


@pytest.mark.parametrize("rounding", [*oracle.DETERMINISTIC, *oracle.STOCHASTIC])
def test_gradients(used, rounding):
    x, w, g, _ = operands(2)
    stream = Stream(5, 6, "c") if rounding in oracle.STOCHASTIC else None
    xs, ws, gs = (Tensor(codes, format) for codes, format in zip((x, w, g), FORMATS))

    def gradients(path):
        return {
            "input gradient": ops.conv2d_input_grad(gs, ws, x.shape, padding=1).by(path),
            "weight gradient": ops.conv2d_weight_grad(xs, gs, w.shape, padding=1).by(path),
        }

    sums = {
        "input gradient": input_grad_reference(x.shape, w, g, 1, 1),
        "weight gradient": weight_grad_reference(x, g, 3, 1, 1),
    }
    for path, exact in by_every_path(gradients):
        for overflow in oracle.OVERFLOWS:
            for kind, exact_sums in sums.items():
                codes, wanted = expected(exact_sums, (7, 10, True), rounding, overflow, stream)
                quantizer, seen = counted(Format(7, 10), rounding, overflow, stream)
                got = exact[kind].to(quantizer)
                what = f"{kind}, {path}, {rounding}, {overflow}"
                assert_same_codes(got.codes.reshape(-1), codes, exact_sums.reshape(-1), what)
                assert tally(seen) == list(wanted), what
    assert used or not HAS_WINOGRAD


@pytest.mark.parametrize("step_exp", [-20, -29, -30, -31, -35])
def test_a_relu_of_sums_in_steps_so_fine_that_all_are_inside(step_exp):
    """The ceiling, in steps of the sums, passes int32, and int64."""
    narrow = Format(4, step_exp + 3)
    x = Tensor(np.array([3, -2]).reshape(1, 1, 1, 2), narrow)
    w = Tensor(np.array([[3, -3], [2, 1]]).reshape(1, 1, 2, 2), narrow)
    target = Format(32, 1)
    for path, exact in by_every_path(lambda path: ops.conv2d(x, w).by(path)):
        assert exact.format.step_exp == 2 * step_exp
        codes, mask = exact.relu(target)
        wanted = np.rint(np.ldexp([5.0, 0.0], 2 * step_exp + 30)).astype(int).tolist()
        assert (codes.codes.reshape(-1).tolist(), mask.codes.reshape(-1).tolist()) == (
            wanted,
            [1, 0],
        ), path


def test_sums_whose_rounding_would_pass_int64_are_refused():
    """3 * 2**30 * 2**31 is 3 * 2**61, and half a step of 2**62 more is 2**63."""
    grad = Tensor(np.full((1, 1, 1, 3), -(2**30)), unit(31))
    weight = Tensor(np.full((1, 1, 1, 3), -(2**31)), unit(32))
    with pytest.raises(ValueError, match="at most 62 are exact here"):
        ops.conv2d_input_grad(grad, weight, (1, 1, 1, 1))

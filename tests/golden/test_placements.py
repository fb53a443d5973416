"""The explanation of mismatches finds padding on the wrong side, an ignored dilation, permuted groups."""

import numpy as np
import pytest
from oracle import operations, products
from support.grouped_cases import geometry_of

from fxsim import ops
from fxsim.formats import Format
from fxsim.golden.explain.placements import DILATION, GROUP_ORDERS, INTERLEAVED, PADDING
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor
from fxsim.testing import explain
from fxsim.windows import Window

BYTE = Format(8, 7)
KINDS = ("forward", "input_grad", "weight_grad")


def codes(seed, *shape):
    return Tensor(np.random.default_rng(seed).integers(-128, 128, shape), BYTE)


def case(groups=1, dilation=1, padding=1):
    """(x, w, g, window) of 6 channels."""
    window = Window.of("", (9, 8), (3, 2), 2, padding, dilation)
    x = codes(1, 2, 9, 8, 6)
    w = codes(2, 3, 2, 6 // groups, 12)
    return x, w, codes(3, 2, *window.positions((9, 8)), 12), window


def exact_of(kind, x, w, g, **where):
    """What should come out."""
    if kind == "forward":
        return ops.conv2d(x, w, **where)
    if kind == "input_grad":
        return ops.conv2d_input_grad(g, w, x.shape, **where)
    return ops.conv2d_weight_grad(x, g, w.shape, **where)


def twin(kind, x, w, g, stride, padding, dilation, groups):
    """Flat sums by the twin, of lists."""
    x, w, g = (
        tensor if isinstance(tensor, list) else tensor.codes.tolist() for tensor in (x, w, g)
    )
    where = stride, padding, dilation, groups
    if kind == "forward":
        return products.conv_forward(x, w, *where)
    if kind == "input_grad":
        return products.conv_input_grad(g, w, products.shape_of(x), *where)
    return products.conv_weight_grad(x, g, products.shape_of(w), *where)


def found(exact, sums):
    """The explanation of a device that has these sums, rounded half away from 0."""
    quantizer = Quantizer(Format(14, exact.format.range_exp - 2))
    planted = Tensor(np.reshape(operations.flat(sums), exact.shape), exact.format)
    return explain(planted_codes(planted, quantizer), exact, quantizer)


def planted_codes(planted, quantizer):
    return (planted + Tensor(np.zeros((1,) * planted.ndim, int), planted.format)).to(quantizer)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_wrong_side(kind):
    x, w, g, window = case(padding=(0, 1, 1, 0))
    exact = exact_of(kind, x, w, g, **geometry_of(window, 1))
    sums = twin(kind, x, w, g, window.stride, (1, 0, 0, 1), 1, 1)
    assert found(exact, sums) == [PADDING]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dilation_ignored(kind):
    """Taps side by side; the positions are the stated ones."""
    x, w, g, window = case(dilation=2)
    exact = exact_of(kind, x, w, g, **geometry_of(window, 1))
    top, _, left, _ = window.padding
    rows, columns = window.positions((9, 8))
    read = (rows - 1) * 2 + 3 - top, (columns - 1) * 2 + 2 - left
    assert read[0] <= 9 and read[1] <= 8
    cropped = x.codes[:, : read[0], : read[1]].tolist()
    sums = np.array(twin(kind, cropped, w, g, 2, (top, 0, left, 0), 1, 1))
    if kind == "input_grad":
        sums = np.pad(sums, ((0, 0), (0, 9 - read[0]), (0, 8 - read[1]), (0, 0)))
    assert found(exact, sums.tolist()) == [DILATION]


@pytest.mark.parametrize("text", GROUP_ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [3, 6])
def test_permuted_groups(kind, text, groups):
    x, w, g, window = case(groups)
    exact = exact_of(kind, x, w, g, **geometry_of(window, groups))
    operand = g if kind == "input_grad" else x
    size = operand.shape[3] // groups
    order = {
        "groups permuted: from the last to the first": [
            group * size + k for group in reversed(range(groups)) for k in range(size)
        ],
        "groups permuted: each reads the one after its own": [
            (group + 1) % groups * size + k for group in range(groups) for k in range(size)
        ],
        "groups permuted: each reads the one before its own": [
            (group - 1) % groups * size + k for group in range(groups) for k in range(size)
        ],
        INTERLEAVED: [k * groups + group for group in range(groups) for k in range(size)],
    }[text]
    permuted = operand.codes[..., order].tolist()
    arrays = (x, w, permuted) if kind == "input_grad" else (permuted, w, g)
    sums = twin(kind, *arrays, window.stride, window.padding, 1, groups)
    unchanged = order == list(range(operand.shape[3]))
    assert (text in found(exact, sums)) is not unchanged

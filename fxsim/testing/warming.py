"""Kernels are compiled where strategies are built, so that no test waits for them.

Numba compiles a kernel for each combination of integer types; that takes seconds, and Hypothesis
gives an example 200 ms.  Each function does its work once in a process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fxsim import ops
from fxsim.accumulator import Accumulator
from fxsim.formats import Format
from fxsim.ops.exact import Exact
from fxsim.quantizer import Quantizer
from fxsim.rng import Stream
from fxsim.tensor import Tensor, requantize

ANY = (Format(8, 0), Format(16, 0), Format(16, 0, False), Format(32, 0))
"""Of each integer type that tensors of up to 32 bits have in kernels."""

PAIRS = (
    (Format(8, 0, False), Format(8, 0)),
    (Format(8, 0), Format(8, 0)),
    (Format(12, 0), Format(12, 0)),
)
"""Formats of operands that take different instruction paths."""

ACCUMULATORS = (
    "6",
    "20, floor 1",
    "40",
    "6, tree, 2 lanes",
    "40, tree, floor 1",
    "6, wrap, bias first",
    "40, tiles of 2, floor 1",
    "6, saturate at the end, floor 1",
    "17, 3 lanes",
    "18, 3 lanes",
    "25, 3 lanes",
)
"""Of each kernel that an accumulator has; the last three overflow only where lanes are added."""

GEOMETRIES = ((4, 1, 0), (4, 2, 0), (4, 1, 1), (6, 1, 1), (6, 1, 2))
"""(side, stride, padding) of images under 3x3 kernels: direct and by Winograd's algorithm."""

GROUPS = ((1, 2, 2), (2, 1, 1), (5, 1, 1), (5, 2, 2))
"""(groups, dilation, channels of a group) of rectangular kernels: few groups, and many."""


def targets(step_exp: int) -> list[Quantizer]:
    """Quantizers of each integer type and kernel, for values with step 2**step_exp.

    A finer step than that of the values takes another kernel than a coarser one.
    """
    return [
        Quantizer(Format(bits, step_exp + coarser + bits - 1), overflow=overflow)
        for bits in (8, 20)
        for overflow in ("saturate", "wrap")
        for coarser in (2, -2)
    ]


@cache
def warm_requantize(format: Format | None = None) -> None:
    """Compile what `requantize` needs for tensors of a format, or of any."""
    for each in ANY if format is None else (format,):
        tensor = Tensor([0], each)
        for quantizer in targets(each.step_exp):
            requantize(tensor, quantizer)


@cache
def warm_words() -> None:
    """Compile what random words need."""
    Stream(0, 0, "warm").words((1,))


@cache
def warm_products(x: Format | None = None, weight: Format | None = None) -> None:
    """Compile what products of operands of these formats need, or of any of at most 15 bits."""
    for x_format, weight_format in PAIRS:
        left = lent((3, 5), x or x_format)
        right = lent((5, 2), weight or weight_format)
        bias = lent((2,), right.format)
        _warm(ops.matmul, left, right)
        for text in ACCUMULATORS:
            _warm(ops.linear, left, right, bias, accumulator=Accumulator.parse(text))


@cache
def warm_convolutions(x: Format | None = None, weight: Format | None = None) -> None:
    """Compile what convolutions and their gradients need, as `warm_products`."""
    warm_products(x, weight)
    channel_last = Accumulator(6, axes="channel_last")
    for x_format, weight_format in PAIRS:
        image = lent((1, 4, 4, 2), x or x_format)
        kernel = lent((3, 3, 2, 3), weight or weight_format)
        bias = lent((3,), kernel.format)
        _warm(ops.conv2d, image, kernel, accumulator=channel_last)
        for side, stride, padding in GEOMETRIES:
            image = lent((1, side, side, 2), image.format)
            convolution = ops.conv2d(image, kernel, stride=stride, padding=padding)
            grad = lent(convolution.shape, kernel.format)
            options = {"stride": stride, "padding": padding}
            _warm(ops.conv2d, image, kernel, bias, **options)
            _warm(ops.conv2d_input_grad, grad, kernel, image.shape, **options)
            _warm(ops.conv2d_weight_grad, image, grad, kernel.shape, **options)
        for groups, dilation, depth in GROUPS:
            image = lent((1, 4, 4, depth * groups), image.format)
            own = lent((2, 1, depth, 2 * groups), kernel.format)
            place: dict[str, Any] = {"stride": (1, 2), "dilation": dilation, "groups": groups}
            grad = lent(ops.conv2d(image, own, **place).shape, kernel.format)
            _warm(ops.conv2d, image, own, lent((2 * groups,), kernel.format), **place)
            _warm(ops.conv2d_input_grad, grad, own, image.shape, **place)
            _warm(ops.conv2d_weight_grad, image, grad, own.shape, **place)
        # An input gradient packs pairs of outputs at once where their number is even, and a kernel
        # with one channel and one output is contiguous turned round, unlike others.
        for channels, outputs in ((2, 2), (1, 1)):
            small = lent((2, 2, channels, outputs), kernel.format)
            grad = lent((1, 1, 1, outputs), kernel.format)
            _warm(ops.conv2d_input_grad, grad, small, (1, 2, 2, channels))


def lent(shape: tuple[int, ...], format: Format) -> Tensor:
    """The greatest code everywhere, in the type that kernels take."""
    return Tensor._of(np.full(shape, format.max_code, format.storage), format)


def _warm(operation: Callable[..., Exact], *operands: Any, **options: Any) -> None:
    exact = operation(*operands, **options)
    quantizers = targets(exact.format.step_exp)
    exact.relu(quantizers[0])
    for quantizer in quantizers:
        exact.to(quantizer)
        requantize(exact.tensor(), quantizer)

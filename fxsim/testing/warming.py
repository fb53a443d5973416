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

TARGETS = tuple(
    Quantizer(Format(bits, 0), overflow=overflow)
    for bits in (8, 32)
    for overflow in ("saturate", "wrap")
)
"""Of each integer type and kernel that a quantization has."""

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
)
"""Of each kernel that an accumulator has."""


@cache
def warm_requantize(format: Format | None = None) -> None:
    """Compile what `requantize` needs for tensors of a format, or of any."""
    for each in ANY if format is None else (format,):
        tensor = Tensor([0], each)
        for quantizer in TARGETS:
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
        _warm(ops.conv2d, image, kernel, bias)
        _warm(ops.conv2d, image, kernel, accumulator=channel_last)
        for stride, side in ((1, 2), (2, 1)):
            grad = lent((1, side, side, 3), kernel.format)
            _warm(ops.conv2d_input_grad, grad, kernel, image.shape, stride=stride)
            _warm(ops.conv2d_weight_grad, image, grad, kernel.shape, stride=stride)


def lent(shape: tuple[int, ...], format: Format) -> Tensor:
    """The greatest code everywhere, in the type that kernels take."""
    return Tensor._of(np.full(shape, format.max_code, format.storage), format)


def _warm(operation: Callable[..., Exact], *operands: Any, **options: Any) -> None:
    exact = operation(*operands, **options)
    exact.relu(TARGETS[0])
    for quantizer in TARGETS:
        exact.to(quantizer)
        requantize(exact.tensor(), quantizer)

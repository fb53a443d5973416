"""Dot products, matrix products and dense layers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fxsim.accumulator import Accumulator, Overflows
from fxsim.errors import InputError
from fxsim.fields import instance
from fxsim.formats import Format
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import Exact
from fxsim.ops.products import Forward, Geometry, ProductSum
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor, shape_after


@lru_cache(maxsize=1024)
def forward(
    x: Format,
    weight: Format,
    geometry: Geometry,
    accumulator: Accumulator | None,
    bias: Format | None,
) -> Forward:
    """The one Forward product of these, which a caller asks for again and again."""
    return Forward(x, weight, geometry, accumulator=accumulator, bias=bias)


def dot(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    accumulator: Accumulator | None = None,
) -> Exact:
    """The dot product of two vectors, of shape ().

    Args:
        a, b: (K,) codes.
        bias: () or (1,) codes that are added.
        accumulator: how the sum is held; None for exactly.

    Raises:
        InputError: for other shapes, or widths that no path takes exactly.

    Example:
        A MAC unit whose accumulator has 12 bits and saturates at each addition:

        >>> from fxsim import Accumulator, Format, Tensor, ops
        >>> a = Tensor([100, 100, -100], Format(8, 0))
        >>> ops.dot(a, a).tensor().codes.item()
        30000
        >>> narrow = ops.dot(a, a, accumulator=Accumulator(12))
        >>> narrow.tensor().codes.item(), narrow.overflows
        (2047, Overflows(sums=1, overflows=3))
    """
    tensor_of("a", a, "K")
    tensor_of("b", b, "K")
    if a.shape != b.shape:
        raise InputError(f"a and b must have one shape (K,), got {a.shape} and {b.shape}")
    if bias is not None:
        bias = tensor_of("bias", bias).reshape(-1)
        of_shape("bias", bias, (1,))
    return linear(a, b.reshape(-1, 1), bias, accumulator=accumulator).reshape()


def matmul(a: Tensor, b: Tensor, *, accumulator: Accumulator | None = None) -> Exact:
    """The matrix product of a (..., K) and b (K, N); also `a @ b`.

    Two vectors give their dot product.  Args and errors are those of `linear`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> a = Tensor([[1, 2], [3, 4]], Format(4, 3))
        >>> ops.matmul(a, a).to(Format(8, 7)).codes
        array([[ 7, 10],
               [15, 22]], dtype=int8)
    """
    tensor_of("a", a)
    tensor_of("b", b)
    if a.ndim == b.ndim == 1:
        return dot(a, b, accumulator=accumulator)
    return _linear("b", a, b, None, accumulator)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    accumulator: Accumulator | None = None,
) -> Exact:
    """A dense layer: x @ weight + bias.

    Args:
        x: (..., I) codes.
        weight: (I, O) codes; PyTorch's Linear has (O, I), transposed.
        bias: (O,) codes, or None.
        accumulator: how each sum is held; None for exactly.

    Returns:
        Exact sums (..., O) at the finer of the steps of products and bias.

    Raises:
        InputError: for shapes that do not fit, or widths that no path takes exactly.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([[1, 2, 3]], Format(4, 3))
        >>> weight = Tensor([[1, -1], [0, 2], [3, 1]], Format(4, 3))
        >>> ops.linear(x, weight, Tensor([1, 0], Format(4, 3))).tensor().real
        array([[11.,  6.]])
    """
    tensor_of("x", x)
    tensor_of("weight", weight)
    return _linear("weight", x, weight, bias, accumulator)


def _linear(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    accumulator: Accumulator | None,
) -> Exact:
    if not x.ndim or not x.size:
        raise InputError(f"the left operand must have shape (..., I), got {x.shape}")
    tensor_of(name, weight, "I, O")
    inputs, outputs = weight.shape
    if x.shape[-1] != inputs:
        turned = x.shape[-1] == outputs
        hint = "; PyTorch's layout is (O, I), pass weight.transpose()" if turned else ""
        raise InputError(
            f"{name} must have shape ({x.shape[-1]}, O) for inputs {x.shape}, got {weight.shape}"
            f"{hint}"
        )
    check_bias(bias, outputs)
    check_accumulator(
        "linear" if name == "weight" else "matmul", accumulator, bias is not None, False
    )
    geometry = Geometry(1, 1, inputs, outputs)
    product = forward(
        x.format,
        weight.format,
        geometry,
        accumulator,
        bias.format if bias is not None else None,
    )
    sums = product(
        x.operand.reshape(-1, 1, 1, inputs),
        weight.operand.reshape(1, 1, inputs, outputs),
        bias.operand if bias is not None else None,
    )
    return Shaped(sums, (*x.shape[:-1], outputs))


def check_bias(bias: Tensor | None, outputs: int) -> None:
    """TypeError or InputError unless there is no bias, or one of each output."""
    if bias is not None:
        hint = "; give each output a bias of its own"
        of_shape("bias", tensor_of("bias", bias), (outputs,), hint)


def check_accumulator(
    operation: str, accumulator: Accumulator | None, has_bias: bool, has_channels: bool
) -> None:
    """TypeError or InputError unless the operation honours every field of the accumulator."""
    if accumulator is None:
        return
    instance("accumulator", accumulator, Accumulator)
    accumulator.check_used(operation, has_bias=has_bias, has_channels=has_channels)


def product_of(exact: Exact) -> ProductSum | None:
    """The products and sums behind an exact result, None where it is no product."""
    while isinstance(exact, Shaped):
        exact = exact.whole
    return exact if isinstance(exact, ProductSum) else None


class Shaped(Exact):
    """An exact result in another shape, still rounded by the kernel that computes it."""

    def __init__(self, exact: Exact, shape: tuple[int, ...]):
        self.whole = exact
        self.shape = shape
        self.format = exact.format

    @property
    def overflows(self) -> Overflows | None:  # type: ignore[override]  # read-only here
        """What the accumulator met, once the result is computed."""
        return self.whole.overflows

    def sums(self) -> np.ndarray:
        """The int64 codes in `format`; see Exact.sums."""
        return self.whole.sums().reshape(self.shape)

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, mask or None); see Exact.rounded."""
        codes, mask = self.whole.rounded(quantizer.laid_flat(self.shape), relu)
        return codes.reshape(self.shape), None if mask is None else mask.reshape(self.shape)

    def by(self, path: str) -> Exact:
        """The same result by another instruction path; see Exact.by."""
        return Shaped(self.whole.by(path), self.shape)

    def reshape(self, *shape: Any) -> Exact:
        """The same values in another shape, row-major."""
        return Shaped(self.whole, shape_after(self.shape, shape))

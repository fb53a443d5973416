"""Exact arithmetic on tensors, in formats that grow with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.formats import Format
from fxsim.kernels.reductions import channel_sums
from fxsim.ops.exact import Exact, Sums, holding, magnitude
from fxsim.ops.summation import addition
from fxsim.tensor import Tensor

INT32_BITS = 32


def add(x: Tensor | Exact, y: Tensor | Exact) -> Exact:
    """x + y, exact, at the finer of their steps; also `x + y`.

    Args:
        x, y: of one shape, or of shapes that NumPy broadcasts.

    Raises:
        InputError: for shapes that do not broadcast, or a sum of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> total = ops.add(Tensor([1, 2], Format(4, 3)), Tensor([1, 1], Format(4, 1)))
        >>> total.tensor().real
        array([1.25, 2.25])
    """
    return _combined(x, y, 1)


def subtract(x: Tensor | Exact, y: Tensor | Exact) -> Exact:
    """x - y, exact, at the finer of their steps; also `x - y`.  See `add`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> ops.subtract(Tensor([1, 2], Format(4, 3)), Tensor([7, 7], Format(4, 3))).tensor().codes
        array([-6, -5], dtype=int8)
    """
    return _combined(x, y, -1)


def negative(x: Tensor | Exact) -> Exact:
    """-x, exact: one bit wider, since the lowest code has no opposite; also `-x`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> ops.negative(Tensor([-8, 7], Format(4, 0))).tensor().codes
        array([ 8, -7], dtype=int8)
    """
    format, codes = _operand("x", x)
    return Sums(-codes.astype(np.int64), holding(magnitude(format), format.step_exp))


def multiply(x: Tensor | Exact, y: Tensor | Exact) -> Exact:
    """x * y, element by element, exact; also `x * y`.

    Args:
        x, y: of one shape, or of shapes that NumPy broadcasts.

    Raises:
        InputError: for shapes that do not broadcast, or products of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> product = ops.multiply(Tensor([100, -128], Format(8, 0)), Tensor([100], Format(8, 0)))
        >>> product.tensor().codes
        array([ 10000, -12800], dtype=int16)
    """
    x_format, x_codes = _operand("x", x)
    y_format, y_codes = _operand("y", y)
    _broadcast_shape(x_codes, y_codes)
    bound = magnitude(x_format) * magnitude(y_format)
    format = holding(bound, x_format.step_exp + y_format.step_exp)
    return Sums(x_codes.astype(np.int64) * y_codes, format)


def sum(x: Tensor | Exact, axis: int | Sequence[int] | None = None) -> Exact:  # noqa: A001 - as in NumPy
    """The exact sum over axes, all of them by default.

    Raises:
        InputError: for an axis that x does not have, or a sum of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> ops.sum(Tensor([[100, 100], [100, -128]], Format(8, 0)), axis=0).tensor().codes
        array([200, -28], dtype=int16)
    """
    format, codes = _operand("x", x)
    axes = _axes(axis, codes.ndim)
    terms = math.prod(codes.shape[each] for each in axes)
    wide = holding(max(terms, 1) * magnitude(format), format.step_exp)
    channels_kept = codes.ndim > 1 and axes == tuple(range(codes.ndim - 1))
    if channels_kept and codes.size and format.storage.itemsize * 8 <= INT32_BITS:
        return Sums(channel_sums(np.ascontiguousarray(codes)), wide)
    return Sums(np.asarray(codes.sum(axis=axes, dtype=np.int64)), wide)


def _combined(x: Tensor | Exact, y: Tensor | Exact, sign: int) -> Exact:
    x_format, x_codes = _operand("x", x)
    y_format, y_codes = _operand("y", y)
    shape = _broadcast_shape(x_codes, y_codes)
    channels = shape[-1] if shape else 1
    form = addition(x_format, y_format, channels, sign)
    dtype = np.result_type(x_codes, y_codes)
    left = np.asarray(np.broadcast_to(x_codes, shape), dtype, order="C")
    right = np.asarray(np.broadcast_to(y_codes, shape), dtype, order="C")
    if not shape:
        return form.of(left.reshape(1), right.reshape(1)).reshape()
    return form.of(left, right)


def _operand(name: str, value: Tensor | Exact) -> tuple[Format, np.ndarray]:
    if isinstance(value, Tensor):
        return value.format, value.operand
    if isinstance(value, Exact):
        return value.format, value.sums()
    raise TypeError(
        f"{name} must be a fxsim.Tensor or an exact result, got {type(value).__name__}; "
        "make one with fxsim.Tensor(codes, format) or fxsim.quantize"
    )


def _broadcast_shape(x: np.ndarray, y: np.ndarray) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise InputError(
            f"x of shape {x.shape} and y of shape {y.shape} do not broadcast; reshape one of them"
        ) from None


def _axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    for each in given:
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)):
            raise TypeError(f"axis must be an integer or a tuple of them, got {shown(axis)}")
        if not -ndim <= each < ndim:
            raise InputError(f"axis {shown(each)} is none of a tensor with {ndim} axes")
    axes = tuple(sorted(int(each) % ndim for each in given))
    if len(set(axes)) != len(axes):
        raise InputError(f"axis {shown(axis)} names an axis twice")
    return axes

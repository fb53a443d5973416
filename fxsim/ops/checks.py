"""The door of the operations: what a caller's Tensors must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.formats import MAX_TENSOR_BITS
from fxsim.tensor import Tensor


def tensor_of(name: str, value: Any, axes: str = "", most_bits: int = MAX_TENSOR_BITS) -> Tensor:
    """`value`, a Tensor with these axes ('N, H, W, C'); any where none are named."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a fxsim.Tensor, got {type(value).__name__}; "
            "make one with fxsim.Tensor(codes, format) or fxsim.quantize"
        )
    if axes and value.ndim != axes.count(",") + 1:
        raise InputError(f"{name} must have axes ({axes}), got shape {value.shape}")
    if axes and not value.size:
        raise InputError(f"{name} must have at least one element, got shape {value.shape}")
    if value.format.bits > most_bits:
        raise InputError(
            f"{name} has {value.format.bits} bits, at most {most_bits} are taken; "
            "requantize it first"
        )
    return value


def of_shape(name: str, value: Tensor, shape: tuple[int, ...], hint: str = "") -> Tensor:
    """`value`, if it has that shape."""
    if value.shape != tuple(shape):
        raise InputError(f"{name} must have shape {tuple(shape)}, got {value.shape}{hint}")
    return value


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int of at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"{least} to {most}"
        raise InputError(f"{name} must be {bound}, got {shown(value)}")
    return int(value)


def shape_of(name: str, value: Any, axes: str) -> tuple[int, ...]:
    """A whole shape with these axes."""
    try:
        sizes = tuple(value)
    except TypeError:
        sizes = ()
    if len(sizes) != axes.count(",") + 1:
        raise InputError(f"{name} must be a shape ({axes}), got {shown(value)}")
    return tuple(whole(f"{name}: a size", size, 1) for size in sizes)

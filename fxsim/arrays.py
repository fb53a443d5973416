"""The door for arrays: what a caller's array must be before any kernel sees it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fxsim.errors import InputError, shown

MAX_ELEMENTS = 2**31 - 1
"""A caller may not ask for larger arrays."""


def integer_array(argument: str, values: Any, way_out: str = "") -> np.ndarray:
    """`values` as a C-contiguous integer array in the machine's byte order.

    Args:
        argument: the argument's name, for messages.
        values: an integer array, a number, or nested lists of Python integers.
        way_out: what to do about values that are no integers, for the message.

    Raises:
        TypeError: for a dtype that is no integer, a masked array, or a ragged list.
        InputError: for Python integers that no 64-bit integer holds.
    """
    array = _array(argument, values)
    if array.dtype == object and _all_integers(array):
        return _narrow(argument, array)
    if array.dtype.kind not in "iu" and not (array.size == 0 and array.dtype.kind == "f"):
        hint = f"; {way_out}" if way_out else ""
        raise TypeError(f"{argument} must hold integers, got dtype {array.dtype}{hint}")
    native = array.dtype.newbyteorder("=") if array.dtype.kind in "iu" else np.dtype(np.int64)
    return np.asarray(array, native, order="C")


def real_array(argument: str, values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """`values` as a C-contiguous array of finite float64, or of integers where they are integers.

    Raises:
        TypeError: for a dtype that is no real number of at most 64 bits.
        InputError: for NaN or infinity, or another shape than `shape`.
    """
    array = _array(argument, values)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{argument} must hold real numbers of at most 64 bits, got dtype {array.dtype}"
        )
    if shape is not None and array.shape != shape:
        raise InputError(f"{argument} must have shape {shape}, got {array.shape}")
    check_finite(argument, array)
    native = array.dtype.newbyteorder("=") if array.dtype.kind in "iu" else np.dtype(np.float64)
    return np.asarray(array, native, order="C")


def check_finite(argument: str, values: np.ndarray) -> None:
    """InputError that counts the NaNs and infinities, and gives the index of the first."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))
    index = tuple(int(i) for i in bad[0])
    raise InputError(
        f"{argument} must be finite: {len(bad)} of {math.prod(values.shape)} are NaN or infinite, "
        f"the first at index {index}; replace them before quantizing"
    )


def frozen(array: np.ndarray) -> np.ndarray:
    """`array`, if nobody can write into its memory; else a read-only copy."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not owner.flags.writeable:
        owner = owner.base
    kept: np.ndarray = array
    if owner is None or isinstance(owner, bytes):
        return kept
    copied: np.ndarray = array.copy()
    copied.setflags(write=False)
    return copied


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape that a tuple of sizes, or one size, stands for."""
    if not isinstance(shape, (int, np.integer, tuple, list)):
        raise TypeError(f"shape must be a tuple of integers, got {shown(shape)}")
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
            raise InputError(f"shape must hold integers of at least 0, got {shown(shape)}")
    return check_elements(tuple(int(size) for size in sizes))


def check_elements(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape`, if arrays of it have at most MAX_ELEMENTS elements."""
    if math.prod(shape) > MAX_ELEMENTS:
        raise InputError(
            f"an array of shape {shown(shape)} has more than 2**31 - 1 elements; make a smaller one"
        )
    return shape


def check_range(argument: str, array: np.ndarray, low: int, high: int, way_out: str) -> None:
    """InputError unless every element of an integer array is in [low, high]."""
    if not array.size:
        return
    least = int(array.min())
    greatest = int(array.max())
    if least < low or greatest > high:
        raise InputError(
            f"{argument} must be in [{low}, {high}], got [{least}, {greatest}]; {way_out}"
        )


def _array(argument: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{argument} must be a plain array, got a masked one; fill it first")
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    if not isinstance(values, (list, tuple, range, int, float, np.generic)):
        raise TypeError(
            f"{argument} must be an array or nested lists of numbers, got {type(values).__name__}"
        )
    try:
        array = np.asarray(values)
        if array.dtype.kind in "iub":
            return array
        exact = np.array(values, object)
    except (ValueError, OverflowError):
        raise TypeError(
            f"{argument} must be an array or nested lists of numbers, all rows of one length"
        ) from None
    return exact if _some_integers(exact) else array


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _all_integers(array: np.ndarray) -> bool:
    return array.size > 0 and all(map(_is_integer, array.reshape(-1)))


def _some_integers(array: np.ndarray) -> bool:
    return any(map(_is_integer, array.reshape(-1)))


def _narrow(argument: str, array: np.ndarray) -> np.ndarray:
    least = min(array.reshape(-1))
    greatest = max(array.reshape(-1))
    if least < -(2**63) or greatest >= 2**64 or (least < 0 and greatest >= 2**63):
        raise InputError(
            f"{argument} must fit 64-bit integers, got [{shown(least)}, {shown(greatest)}]; "
            "divide by a power of two first"
        )
    return array.astype(np.uint64 if greatest >= 2**63 else np.int64)

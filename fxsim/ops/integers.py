"""Arithmetic on (O,) arrays of integers of any size: in int64 where what the operands hold allows
it, else in Python's.

Arrays of Python integers have dtype object; results are the same in either.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fxsim.kernels.reductions import extremes

ROOM = 62
"""Bits of the magnitudes that int64 takes, with one to spare for an addition."""


def integers(values: np.ndarray | Iterable[int]) -> np.ndarray:
    """An array of Python integers, which do not overflow."""
    return np.array(values, object)


def largest(values: np.ndarray) -> int:
    """The greatest magnitude."""
    if not values.size:
        return 0
    if values.dtype == object:
        return int(max(map(abs, values.reshape(-1))))
    low, high = extremes(values)
    return max(int(high), -int(low))


def bits(values: np.ndarray | int) -> int:
    """Of the greatest magnitude of an array or number."""
    return (abs(values) if isinstance(values, int) else largest(values)).bit_length()


def times(values: np.ndarray, factors: np.ndarray | int) -> np.ndarray:
    """values * factors, which are an array or a Python integer."""
    if bits(values) + bits(factors) > ROOM:
        return integers(values) * (factors if isinstance(factors, int) else integers(factors))
    product: np.ndarray = _in_int64(values) * factors
    return product


def divided(numerators: np.ndarray, denominator: int, exp: int = 0) -> np.ndarray:
    """numerators * 2**exp / denominator, rounded to nearest, ties away from zero."""
    denominator <<= max(-exp, 0)
    fit = max(bits(numerators) + max(exp, 0), denominator.bit_length()) < ROOM - 1
    numerators = _in_int64(numerators) if fit else integers(numerators)
    doubled: np.ndarray = 2 * (np.abs(numerators) << max(exp, 0))
    magnitudes = (doubled + denominator) // (2 * denominator)
    return np.where(numerators < 0, -magnitudes, magnitudes)


def _in_int64(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64, copy=False)

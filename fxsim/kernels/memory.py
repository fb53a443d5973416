"""Large arrays in memory that earlier ones have left.

The system zeroes every page that it hands out anew, and a training step that asks for all of its tensors again spends a
tenth of its time on that.
"""
from __future__ import annotations

import math
import weakref

import numpy as np

LEAST = 1 << 20
"""Bytes of an array, from which on its memory is kept."""
MOST = 1 << 29
"""Bytes of memory that wait to be used again, at most."""

_free: dict[int, list[memoryview]] = {}
_lent: dict[int, _Loan] = {}


class _Loan(weakref.ref):
    """An array and the memory that it has."""

    __slots__ = ("memory",)


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """`np.empty(shape, dtype)`.

    Its memory is lent again once the array and all its views are gone.  Every change of the lists is atomic, so that
    threads may allocate, and arrays end, at any time.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    size = _size_class(size)
    try:
        memory = _free[size].pop()
    except (KeyError, IndexError):
        memory = memoryview(np.empty(size, np.uint8))
    flat = np.frombuffer(memory, dtype, math.prod(shape))  # of a memoryview, not of an array: the base of all its views
    loan = _Loan(flat, _take_back)
    loan.memory = memory
    _lent[id(loan)] = loan
    return flat.reshape(shape)


def _size_class(size: int) -> int:
    """size, rounded up to one of four classes in each octave."""
    step = 1 << size.bit_length() - 3
    return -(-size // step) * step


def _take_back(loan: _Loan) -> None:
    del _lent[id(loan)]
    if kept_bytes() + loan.memory.nbytes <= MOST:
        _free.setdefault(loan.memory.nbytes, []).append(loan.memory)


def kept_bytes() -> int:
    """Bytes that no array uses now."""
    return sum(size * len(memories) for size, memories in list(_free.items()))

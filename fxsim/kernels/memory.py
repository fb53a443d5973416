"""Arrays that start with a cache line, the large ones in memory that earlier ones have left.

The system zeroes every page that it hands out anew, and a training step that asks for all of its
tensors again spends a tenth of its time on that.
"""

from __future__ import annotations

import math
import weakref

import numpy as np

from fxsim.kernels.jit import jit

LEAST = 1 << 20
"""Bytes of an array, from which on its memory is kept."""
LINE = 64
"""Bytes of a cache line: a vector register that lies across two takes twice the time."""
MOST = 1 << 29
"""Bytes of memory that wait to be used again, at most."""

_free: dict[int, list[memoryview]] = {}
_lent: dict[int, _Loan] = {}


class _Loan(weakref.ref):
    """An array and the memory that it has."""

    __slots__ = ("memory",)


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """`np.empty(shape, dtype)`, from the start of a cache line on.

    Its memory is lent again once the array and all its views are gone.  Every change of the lists
    is atomic, so that threads may allocate, and arrays end, at any time.
    """
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < LEAST:
        return _from_line(np.empty(size + LINE, np.uint8), count, dtype).reshape(shape)
    size = _size_class(size)
    try:
        memory = _free[size].pop()
    except (KeyError, IndexError):
        memory = memoryview(np.empty(size + LINE, np.uint8))
    flat = _from_line(
        memory, count, dtype
    )  # of a memoryview, not of an array: the base of all its views
    loan = _Loan(flat, _take_back)
    loan.memory = memory
    _lent[id(loan)] = loan
    return flat.reshape(shape)


def _from_line(memory, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` elements from the first cache line of `memory` on, whose last LINE bytes are for
    that.
    """
    address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return np.frombuffer(memory, dtype, count, -address % LINE)


@jit
def scratch(count, dtype):
    """`empty` for the flat scratch arrays of a kernel."""
    whole = np.empty(count + LINE, dtype)
    first = -np.int64(whole.ctypes.data) % LINE // whole.itemsize
    return whole[first : first + count]


def _size_class(size: int) -> int:
    """size, rounded up to one of four classes in each octave."""
    step = 1 << size.bit_length() - 3
    return -(-size // step) * step


def _take_back(loan: _Loan) -> None:
    del _lent[id(loan)]
    size = loan.memory.nbytes - LINE
    if kept_bytes() + size <= MOST:
        _free.setdefault(size, []).append(loan.memory)


def kept_bytes() -> int:
    """Bytes that no array uses now."""
    return sum(size * len(memories) for size, memories in list(_free.items()))

"""Inverse square roots of integers, correctly rounded."""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit

MAX_VALUE_BITS = 29
"""Of a value, for which all here fits int64.

2 * places + 2 is at most 62 for mantissas of 16 bits.
"""


@jit
def inverse_roots(values, mantissa_bits, places):
    """2**places / sqrt(values), rounded to `mantissa_bits` (at most 16) significant bits, for
    values (int64) above 0.

    places: mantissa_bits - 1 + half the bits of the greatest value, rounded up.  With k of the
    value's own in its place, 2**(k + 1) / sqrt(value) is between integers 2 m and 2 m + 2 where its
    floor, the integer root of 2**(2k + 2) / value, is 2 m or 2 m + 1: half of it, rounded up, is
    the nearest; a tie cannot be, for 1 / sqrt(value) has no last bit."""
    roots = np.empty(values.size, np.int64)
    for i in range(values.size):
        bits = 0
        while values[i] >> bits:
            bits += 1
        own_places = mantissa_bits - 1 + (bits + 1) // 2
        mantissa = (_integer_root((np.int64(1) << 2 * own_places + 2) // values[i]) + 1) >> 1
        roots[i] = mantissa << (places - own_places)
    return roots


@jit
def _integer_root(square):
    """floor(sqrt(square)) by Newton's iteration from above."""
    root = np.int64(1)
    while root * root < square:
        root *= 2
    while root * root > square:
        root = (root + square // root) // 2
    return root

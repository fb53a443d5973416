"""Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy
as 1, 2, 3" (SC 2011): four 32-bit words from a 128-bit counter and a 64-bit key, no state."""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit

_MASK = 0xFFFFFFFF


@jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """The four words of one counter block; every argument and result is an int64 in [0, 2**32)."""
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


@jit
def _multiply(a, b):
    """High and low 32 bits of a 32 x 32 bit product, by 16-bit halves.

    No int64 sum passes 2**50.
    """
    low = a * (b & 0xFFFF)
    high = a * (b >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


@jit
def fill_words(key_low, key_high, step, name_id, start, out):
    """out[i] (uint32) = word (start + i) of the stream: lane (start + i) % 4 of block (start + i)
    // 4.

    The counter is (block low, block high, step, name_id); the key is the seed's two halves.
    """
    for i in range(out.size):
        position = start + i
        if i == 0 or position % 4 == 0:
            block = position // 4
            words = philox4x32(block & _MASK, block >> 32, step, name_id, key_low, key_high)
        lane = position % 4
        out[i] = np.uint32(words[lane])

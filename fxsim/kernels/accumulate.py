"""Matrix products whose accumulator has a width of its own, term after term in ascending k.

Each product is first brought to the accumulator's step (a rounded right shift), then added:

    saturating  acc = clip(acc + addend, low, high) after every single addition; the order matters
    wrapping    acc = (acc + addend) modulo 2**bits; order-free

Outputs are independent of each other, so the inner loop runs across them.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.rounding import round_shift, wrap_code


@jit
def gemm_saturating(start, stop, a, b, shift, base, neg, odd, jam, low, high, out, overflows):
    """Rows start .. stop of out (M, N) int64 = a (M, K) times b (K, N), saturated to [low, high] after every addition.

    overflows (M, N) int64 counts the additions that saturated.  a, b: integer codes whose products
    fit 62 bits.  shift 0 to 62, base .. jam: rounding of the addend.
    """
    for m in range(start, stop):
        out[m] = 0
        overflows[m] = 0
        for k in range(a.shape[1]):
            left = np.int64(a[m, k])
            for n in range(b.shape[1]):
                total = out[m, n] + round_shift(left * b[k, n], shift, base, neg, odd, jam)
                kept = min(max(total, low), high)
                overflows[m, n] += kept != total
                out[m, n] = kept


@jit
def gemm_wrapping(start, stop, a, b, shift, base, neg, odd, jam, bits, out, overflows):
    """As gemm_saturating, modulo 2**bits (at most 62) as signed numbers; counts additions that wrapped."""
    for m in range(start, stop):
        out[m] = 0
        overflows[m] = 0
        for k in range(a.shape[1]):
            left = np.int64(a[m, k])
            for n in range(b.shape[1]):
                total = out[m, n] + round_shift(left * b[k, n], shift, base, neg, odd, jam)
                kept = wrap_code(total, bits, 1)
                overflows[m, n] += kept != total
                out[m, n] = kept

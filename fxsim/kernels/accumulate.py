"""Matrix products whose accumulator has a width of its own, term after term in ascending k.

Each product is first brought to the accumulator's step (a rounded right shift), then added:

    saturating  acc = clip(acc + addend, low, high) after every single addition; the order matters
    wrapping    acc = (acc + addend) modulo 2**bits; order-free

Outputs are independent of each other, so the inner loop runs across them.  Where no partial sum can
saturate, the exact product has the same bits; where addends and accumulator fit int32, 16 outputs
advance at once.
"""
from __future__ import annotations

import numpy as np

from fxsim.kernels.gemm import INT32_MAX, never_saturates
from fxsim.kernels.jit import jit
from fxsim.kernels.matmul import gemm
from fxsim.kernels.rounding import MAX_SHIFT_INT32, round_shift, wrap_code
from fxsim.kernels.threads import parallel_for
from fxsim.kernels.tile import best_path

NO_ROUNDING = (0, 0, 0, 0)
STRIP = 1024
"""Outputs of a row that advance together; their sums stay in the first-level cache."""


def accumulate_saturating(a: np.ndarray, b: np.ndarray, shift: int, terms: tuple[int, int, int, int], low: int,
                          high: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums, saturated additions), both (M, N) int64, as `gemm_saturating` makes them, by the fastest exact kernel.

    a (M, K), b (K, N): integer codes whose products fit 62 bits.  terms: (base, neg, odd, jam) of the
    addend's rounding by `shift` bits, 0 to 62.
    """
    out, overflows = np.empty((len(a), b.shape[1]), np.int64), np.zeros((len(a), b.shape[1]), np.int64)
    left, right = (int(np.abs(codes.astype(np.int64)).max(initial=0)) for codes in (a, b))
    product, narrow = left * right, all(codes.dtype.kind == "i" and codes.dtype.itemsize <= 2 for codes in (a, b))
    if narrow and shift == 0 and tuple(terms) == NO_ROUNDING and never_saturates(product, a.shape[1], low, high):
        gemm(a.astype(np.int16), b.astype(np.int16), out, spill_terms=INT32_MAX // max(product, 1), path=best_path())
    elif shift <= MAX_SHIFT_INT32 and product <= INT32_MAX and max(-low, high) + product + 1 <= INT32_MAX:
        jams = _pad(np.full(a.shape[1], terms[3]), 0)
        parallel_for(_saturating_int32, len(a), 1, _pad(a, 1), _pad(b, 0), shift, *terms[:3], jams, low, high, out,
                     overflows)
    else:
        parallel_for(gemm_saturating, len(a), 1, a, b, shift, *terms, low, high, out, overflows)
    return out, overflows


def _pad(codes: np.ndarray, axis: int) -> np.ndarray:
    """As int32, with zeros up to a multiple of 4 terms: zero addends (their jam is zero, too) change no sum."""
    widths = [(0, 0)] * codes.ndim
    widths[axis] = 0, -codes.shape[axis] % 4
    return np.pad(codes.astype(np.int32), widths)


@jit
def _saturating_int32(start, stop, a, b, shift, base, neg, odd, jams, low, high, out, overflows):
    """gemm_saturating in int32; the caller proves that |product| + 1 and limit + |addend| fit."""
    columns = b.shape[1]
    sums, counts = np.empty(STRIP, np.int32), np.empty(STRIP, np.int32)
    for m in range(start, stop):
        for first in range(0, columns, STRIP):
            size = min(STRIP, columns - first)
            sums[:], counts[:] = 0, 0
            for k in range(0, a.shape[1], 4):
                _add_four(a, b, m, k, first, size, shift, base, neg, odd, jams, low, high, sums, counts)
            out[m, first:first + size] = sums[:size]
            overflows[m, first:first + size] = counts[:size]


@jit
def _add_four(a, b, m, k, first, size, shift, base, neg, odd, jams, low, high, sums, counts):
    """The additions of terms k .. k + 3 to row m's sums from `first` on, which stay in registers meanwhile."""
    shift, base, neg, odd = np.int32(shift), np.int32(base), np.int32(neg), np.int32(odd)
    low, high = np.int32(low), np.int32(high)
    one, two, three, four = a[m, k], a[m, k + 1], a[m, k + 2], a[m, k + 3]
    jam_1, jam_2, jam_3, jam_4 = jams[k], jams[k + 1], jams[k + 2], jams[k + 3]
    row_1, row_2 = b[k, first:first + size], b[k + 1, first:first + size]
    row_3, row_4 = b[k + 2, first:first + size], b[k + 3, first:first + size]
    for n in range(size):
        total, count = sums[n], counts[n]
        total, count = _add(total, count, np.multiply(one, row_1[n]), shift, base, neg, odd, jam_1, low, high)
        total, count = _add(total, count, np.multiply(two, row_2[n]), shift, base, neg, odd, jam_2, low, high)
        total, count = _add(total, count, np.multiply(three, row_3[n]), shift, base, neg, odd, jam_3, low, high)
        total, count = _add(total, count, np.multiply(four, row_4[n]), shift, base, neg, odd, jam_4, low, high)
        sums[n], counts[n] = total, count


@jit
def _add(total, count, addend, shift, base, neg, odd, jam, low, high):
    """(clip(total + round_shift(addend), low, high), count of clips); NumPy's scalar functions keep int32 int32."""
    if shift:
        floor = np.right_shift(addend, shift)
        remainder = np.subtract(addend, np.left_shift(floor, shift))
        sign = neg if addend < np.int32(0) else np.int32(0)
        carry = np.add(np.add(base, sign), odd if np.bitwise_and(floor, np.int32(1)) else np.int32(0))
        addend = np.add(floor, np.right_shift(np.add(remainder, carry), shift))
    total = np.add(total, np.bitwise_or(addend, jam))
    kept = np.minimum(np.maximum(total, low), high)
    return kept, np.add(count, np.int32(kept != total))


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

"""Matrix products summed tile by tile, or by a tree of adders, with an overflow after every adder.

A term is first brought to the accumulator's step (a rounded right shift), an addend from then on:

    tiles   sum = bound(sum + exact sum of the next `tile` addends); one addend to a tile is the sequential order,
            in which every addend may be bounded by itself, too
    tree    addends are bounded, then neighbours added in pairs, level after level, each sum bounded

As in saturating.py the inner loops run across outputs.  Each kernel is written once, for int32 and
int64: its arrays, its Rounding and its Range are all of one of them, and NumPy's scalar functions
keep them so.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.products.paths import INT32_MAX
from fxsim.kernels.rounding import MAX_SHIFT_INT32, SATURATE, WRAP, Range, Rounding
from fxsim.kernels.threads import parallel_for

STRIP = 512
"""Outputs of a row that advance together.

The tree's levels of them stay in the first two levels of cache.
"""
LEVELS = 64


def accumulate_tiles(
    a: np.ndarray,
    b: np.ndarray,
    tile: int,
    rounding: Rounding,
    bounds: Range,
    sums: np.ndarray,
    overflows: np.ndarray,
    bounds_terms: bool = False,
) -> None:
    """Add tiles of `tile` terms to sums, in ascending k, and the additions that overflow to
    overflows.

    a (M, K), b (K, N): integer codes.  sums, overflows: (M, N) int64; sums start within `bounds`.
    rounding: of an addend, by 0 to 62 bits.  bounds_terms: whether what a tile adds up to, a single
    addend, is bounded and counted before it is added.  The caller proves that a tile's sum and an
    addition to it fit int64.
    """
    tile = min(tile, max(1, a.shape[1]))
    limit = _largest(a, b) * tile + _magnitude(bounds)
    _run(_tiles, a, b, rounding, bounds, limit, (tile, bounds_terms), sums, overflows)


def accumulate_tree(
    a: np.ndarray,
    b: np.ndarray,
    rounding: Rounding,
    bounds: Range,
    sums: np.ndarray,
    overflows: np.ndarray,
) -> None:
    """As accumulate_tiles, by a tree over the K addends, with zeros up to a power of two.

    A tree starts from nothing: what sums held is lost.
    """
    limit = max(_largest(a, b), 2 * _magnitude(bounds))
    spare = -a.shape[1] % 4
    left = np.pad(a, ((0, 0), (0, spare)))
    right = np.pad(b, ((0, spare), (0, 0)))
    _run(_tree, left, right, rounding, bounds, limit, a.shape[1], sums, overflows)


def add_sums(sums: np.ndarray, more: np.ndarray, bounds: Range, overflows: np.ndarray) -> None:
    """sums = bound(sums + more), all (M, N) int64; adds 1 to overflows where that changed it."""
    parallel_for(_add_rows, len(sums), 16, sums, more, bounds, overflows)


def _largest(a: np.ndarray, b: np.ndarray) -> int:
    """No addend is larger: |product| + 1, the one by rounding up or by a jam."""
    left, right = (int(np.abs(codes.astype(np.int64)).max(initial=0)) for codes in (a, b))
    return left * right + 1


def _magnitude(bounds: Range) -> int:
    return max(-bounds.low, bounds.high)


def _run(kernel, a, b, rounding, bounds, limit, option, sums, overflows) -> None:
    """In int32 where nothing exceeds `limit`, the addends' magnitude among it, else in int64."""
    narrow = limit <= INT32_MAX and rounding.shift <= MAX_SHIFT_INT32
    dtype = np.dtype(np.int32 if narrow else np.int64)
    parallel_for(
        kernel,
        len(a),
        1,
        np.ascontiguousarray(a, dtype),
        np.ascontiguousarray(b, dtype),
        option,
        Rounding(*map(dtype.type, rounding)),
        Range(*map(dtype.type, bounds)),
        sums,
        overflows,
    )


@jit
def _add_rows(start, stop, sums, more, bounds, overflows):
    for m in range(start, stop):
        _add_bounded(sums[m], more[m], sums.shape[1], bounds, overflows[m])


@jit
def _tiles(start, stop, a, b, terms, rounding, bounds, out, overflows):
    """Rows start .. stop of out and overflows, which hold what they start from.

    terms: of a tile, and whether they are bounded by themselves.
    """
    tile, bounds_terms = terms
    sums = np.empty(STRIP, a.dtype)
    parts = np.empty(STRIP, a.dtype)
    counts = np.empty(STRIP, a.dtype)
    for m in range(start, stop):
        for first in range(0, b.shape[1], STRIP):
            size = min(STRIP, b.shape[1] - first)
            for n in range(size):
                sums[n] = out[m, first + n]
            counts[:] = 0
            for k in range(0, a.shape[1], tile):
                parts[:size] = 0
                for term in range(k, min(k + tile, a.shape[1])):
                    _add_addends(a[m, term], b[term, first : first + size], rounding, parts)
                if bounds_terms:
                    _bound(parts, size, bounds, counts)
                _add_bounded(sums, parts, size, bounds, counts)
            out[m, first : first + size] = sums[:size]
            overflows[m, first : first + size] += counts[:size]


@jit
def _tree(start, stop, a, b, terms, rounding, bounds, out, overflows):
    """Rows start .. stop of out and overflows; K is the next multiple of 4 of `terms`.

    Subtrees of 4 terms are numbered as they come.  held[level] waits for its right neighbour, a
    subtree as large, which is there when bit `level` of the number goes from 1 to 0.  Zeros that
    fill up the tree change no sum: at the end a neighbour that is missing is left out.
    """
    held = np.empty((LEVELS, STRIP), a.dtype)
    counts = np.empty(STRIP, a.dtype)
    fours = a.shape[1] // 4
    for m in range(start, stop):
        for first in range(0, b.shape[1], STRIP):
            size = min(STRIP, b.shape[1] - first)
            counts[:] = 0
            for four in range(fours):
                sums = held[LEVELS - 1]
                _add_four(a, b, m, 4 * four, first, size, terms, rounding, bounds, sums, counts)
                level = 0
                while four >> level & 1:
                    _add_bounded(sums, held[level], size, bounds, counts)
                    level += 1
                held[level, :size] = sums[:size]
            total = -1
            for level in range(LEVELS - 1):
                if fours >> level & 1:
                    if total >= 0:
                        _add_bounded(held[level], held[total], size, bounds, counts)
                    total = level
            out[m, first : first + size] = held[total, :size]
            overflows[m, first : first + size] += counts[:size]


@jit
def _add_four(a, b, m, k, first, size, terms, rounding, bounds, sums, counts):
    """sums = the subtree of terms k .. k + 3; seven bounds, those of the leaves among them."""
    shift, base, neg, odd, jam = rounding
    one = a[m, k]
    two = a[m, k + 1]
    three = a[m, k + 2]
    four = a[m, k + 3]
    jam_2 = _jam_of(k + 1, terms, jam)
    jam_3 = _jam_of(k + 2, terms, jam)
    jam_4 = _jam_of(k + 3, terms, jam)
    row_1 = b[k, first : first + size]
    row_2 = b[k + 1, first : first + size]
    row_3 = b[k + 2, first : first + size]
    row_4 = b[k + 3, first : first + size]
    for n in range(size):
        leaf_1 = _addend(np.multiply(one, row_1[n]), shift, base, neg, odd, jam)
        leaf_2 = _addend(np.multiply(two, row_2[n]), shift, base, neg, odd, jam_2)
        leaf_3 = _addend(np.multiply(three, row_3[n]), shift, base, neg, odd, jam_3)
        leaf_4 = _addend(np.multiply(four, row_4[n]), shift, base, neg, odd, jam_4)
        sum_1, count_1 = _add_two(leaf_1, leaf_2, bounds)
        sum_2, count_2 = _add_two(leaf_3, leaf_4, bounds)
        total = np.add(sum_1, sum_2)
        kept = _bounded(total, bounds)
        sums[n] = kept
        counts[n] = np.add(counts[n], np.add(np.add(count_1, count_2), _differ(kept, total)))


@jit
def _jam_of(k, terms, jam):
    """What fills up the tree is not jammed."""
    return jam if k < terms else type(jam)(0)


@jit
def _add_two(left, right, bounds):
    """(sum, overflows) of two leaves."""
    kept_left = _bounded(left, bounds)
    kept_right = _bounded(right, bounds)
    total = np.add(kept_left, kept_right)
    kept = _bounded(total, bounds)
    return kept, np.add(
        np.add(_differ(kept_left, left), _differ(kept_right, right)), _differ(kept, total)
    )


@jit
def _add_addends(left, row, rounding, parts):
    """parts += the addends of `left` times each code of `row`."""
    shift, base, neg, odd, jam = rounding
    for n in range(row.size):
        parts[n] = np.add(parts[n], _addend(np.multiply(left, row[n]), shift, base, neg, odd, jam))


@jit
def _bound(parts, size, bounds, counts):
    """parts = bound(parts); counts what was outside."""
    for n in range(size):
        kept = _bounded(parts[n], bounds)
        counts[n] = np.add(counts[n], _differ(kept, parts[n]))
        parts[n] = kept


@jit
def _add_bounded(sums, parts, size, bounds, counts):
    """sums = bound(sums + parts); counts what was outside."""
    for n in range(size):
        total = np.add(sums[n], parts[n])
        kept = _bounded(total, bounds)
        counts[n] = np.add(counts[n], _differ(kept, total))
        sums[n] = kept


@jit
def _addend(product, shift, base, neg, odd, jam):
    """round_shift of rounding.py, in the type of its arguments."""
    if shift:
        one = type(shift)(1)
        floor = np.right_shift(product, shift)
        remainder = np.subtract(product, np.left_shift(floor, shift))
        carry = np.add(
            np.multiply(neg, type(shift)(product < 0)), np.multiply(odd, np.bitwise_and(floor, one))
        )
        carry = np.add(np.add(remainder, base), carry)
        product = np.add(floor, np.right_shift(carry, shift))
    return np.bitwise_or(product, jam)


@jit
def _bounded(total, bounds):
    """overflow_code of rounding.py, in the type of its arguments."""
    low, high, rule, _, _ = bounds
    if rule == SATURATE:
        return np.minimum(np.maximum(total, low), high)
    if rule == WRAP:  # the low bits, of which the first is the sign
        sign = np.negative(low)
        kept = np.bitwise_and(total, np.subtract(high, low))
        return np.subtract(np.bitwise_xor(kept, sign), sign)
    return np.multiply(total, type(total)((total >= low) & (total <= high)))


@jit
def _differ(kept, total):
    return type(total)(kept != total)

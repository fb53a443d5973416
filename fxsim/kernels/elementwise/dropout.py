"""Dropout: codes that stay are multiplied by a constant, the others become 0."""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import parallel_for

BLOCK = 1 << 14


def scale_kept(codes, kept, mantissa: int, shift: int, bounds: tuple[int, int], out) -> np.ndarray:
    """out = codes * mantissa / 2**shift, nearest, ties away from zero, saturated to `bounds` (low,
    high); 0 where not kept.

    kept: bool.  All of one size and C-contiguous; codes of at most 33 bits, mantissa of 16, 1 <=
    shift <= 62.  `out` may be `codes`.  Returns the counts (2,) of codes that were below and above
    the bounds."""
    counts = np.zeros((-(-codes.size // BLOCK), 2), np.int64)
    parallel_for(
        _scale_kept,
        len(counts),
        1,
        codes.reshape(-1),
        kept.reshape(-1),
        mantissa,
        shift,
        *bounds,
        out.reshape(-1),
        counts,
    )
    return counts.sum(axis=0)


@jit
def _scale_kept(start, stop, codes, kept, mantissa, shift, low, high, out, counts):
    half = np.int64(1) << shift - 1
    for block in range(start, stop):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        arriving = codes[part]
        stays = kept[part]
        scaled = out[part]
        below = above = 0
        for i in range(arriving.size):
            product = np.int64(arriving[i]) * mantissa * stays[i]
            code = product + half - (product < 0) >> shift
            below += code < low
            above += code > high
            scaled[i] = min(max(code, low), high)
        counts[block, 0] = below
        counts[block, 1] = above

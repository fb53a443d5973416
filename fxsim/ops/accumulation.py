"""Products of a layer under an Accumulator: as matrix products whose terms have the stated order,
block after block.

A convolution becomes `left (M, K) times right (K, N)`, one row to an output position (of a weight
gradient: to a weight of each filter), with every term that hardware would add, padding's zeros
among them:

    product      rows                            terms k                                      columns
    forward      (picture, row, column)          (input channel, kernel row, kernel column)   output channel
    input_grad   (picture, row, column)          (output channel, kernel row, kernel column)  input channel
    weight_grad  (kernel row, kernel column, input channel)   (picture, row, column)          output channel
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fxsim.accumulator import Accumulator
from fxsim.kernels.accumulators.adders import accumulate_tiles, accumulate_tree
from fxsim.kernels.accumulators.saturating import accumulate_saturating
from fxsim.kernels.accumulators.windows import gather_rows
from fxsim.kernels.rounding import (
    OVERFLOW_RULE,
    SATURATE,
    Range,
    Rounding,
    requantize_array,
    rounding_terms,
)

BLOCK_CODES = 2**22
"""Codes of the left operand that are gathered at a time."""
TURNED_ROWS = 512
"""Rows of a block whose product is made the other way round, right.T times left.T: where the
outputs of a row are few, the kernels' inner loops would be short.  The operands of so many stay in
a second-level cache."""
FAR = 2**62
"""No exact sum reaches it: sums that may need more than 62 bits are refused."""


class Lowered(NamedTuple):
    """windows: the left operand as a view of six axes, three of its M rows and three of their K
    terms; right: codes (K, N).
    """

    windows: np.ndarray
    right: np.ndarray

    @property
    def rows(self) -> int:
        return math.prod(self.windows.shape[:3])


def accumulate(
    left: np.ndarray, right: np.ndarray, model: Accumulator
) -> tuple[np.ndarray, np.ndarray]:
    """(sums, overflows), both (M, N) int64, of left (M, K) times right (K, N); terms in ascending
    k.

    Where the model overflows at the end, the sums are not bounded yet: see `bounded`.
    """
    addend = model.drop, rounding_terms(model.rounding, model.drop)
    low, high = model.range()
    if model.at_end:
        return accumulate_tiles(left, right, left.shape[1], *addend, (-FAR, FAR, SATURATE, 63))
    rule = OVERFLOW_RULE[model.overflow]
    if model.order == "tree":
        return accumulate_tree(left, right, *addend, (low, high, rule, model.bits))
    if model.order == "sequential" and rule == SATURATE:
        return accumulate_saturating(left, right, *addend, low, high)
    return accumulate_tiles(left, right, model.tile or 1, *addend, (low, high, rule, model.bits))


def bounded(sums: np.ndarray, model: Accumulator, extra_bits: int = 0) -> tuple[np.ndarray, int]:
    """(sums after the model's overflow, how many were outside), in an adder of so many bits
    more.
    """
    out = np.empty_like(sums)
    (low, high) = model.range(extra_bits)
    bounds = Range(low, high, OVERFLOW_RULE[model.overflow], model.bits + extra_bits, 1)
    counts = requantize_array(
        sums.reshape(-1), np.empty(0, np.int64), Rounding(), bounds, out.reshape(-1)
    )
    return out, int(counts[0] + counts[1])


def accumulate_blocks(lowered: Lowered, model: Accumulator) -> tuple[np.ndarray, int]:
    """(sums (M, N) int64, overflows) of a lowered product; as `accumulate`, in bounded memory."""
    rows = lowered.rows
    (terms, columns) = lowered.right.shape
    out = np.empty((rows, columns), np.int64)
    overflows = 0
    block = max(1, BLOCK_CODES // terms)
    turned = min(block, rows, TURNED_ROWS) > columns
    block = min(block, TURNED_ROWS) if turned else block
    right = np.ascontiguousarray(lowered.right.T if turned else lowered.right)
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        left = gather_rows(lowered.windows, start, stop)
        if turned:
            sums, counts = accumulate(right, np.ascontiguousarray(left.T), model)
            sums = sums.T
        else:
            sums, counts = accumulate(left, right, model)
        out[start:stop] = sums
        overflows += int(counts.sum())
    return out, overflows


def largest_sum(left: np.ndarray, right: np.ndarray) -> int:
    """No sum of any of the terms of left (M, K) times right (K, N) is larger: max|left| times the
    largest column of |right|.

    left may have any shape.  A bound for every order, and with every overflow rule (cf. the l1
    bound of Colbert et al., A2Q, ICCV 2023).
    """
    columns = np.maximum(right, 0).sum(axis=0, dtype=np.int64) - np.minimum(right, 0).sum(
        axis=0, dtype=np.int64
    )
    return magnitude(left) * int(columns.max())


def magnitude(codes: np.ndarray) -> int:
    """The greatest |code|."""
    return max(int(codes.max()), -int(codes.min()))


def lower_forward(source: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> Lowered:
    """Of source (N, H, W, C) and weight (KH, KW, C, O)."""
    windows = _windows(_padded(source, padding), len(weight), stride)
    return Lowered(windows, weight.transpose(2, 0, 1, 3).reshape(-1, weight.shape[3]))


def lower_input_grad(
    grad: np.ndarray, weight: np.ndarray, shape: tuple[int, ...], stride: int, padding: int
) -> Lowered:
    """Of grad (N, OH, OW, O) and weight (KH, KW, C, O), at an input of `shape` (N, H, W, C).

    Where the stride leaves an input without an output of this tap, the term is zero.
    """
    samples, height, width, channels = shape
    margin = len(weight) - 1
    (_, rows, columns, outputs) = grad.shape
    spread = np.zeros(
        (samples, margin + height + 2 * padding, margin + width + 2 * padding, outputs), grad.dtype
    )
    spread[
        :, margin : margin + rows * stride : stride, margin : margin + columns * stride : stride
    ] = grad
    windows = _windows(spread, len(weight), 1)[
        :, padding : padding + height, padding : padding + width
    ]
    return Lowered(windows[..., ::-1, ::-1], weight.transpose(3, 0, 1, 2).reshape(-1, channels))


def lower_weight_grad(
    source: np.ndarray, grad: np.ndarray, kernel: int, stride: int, padding: int
) -> Lowered:
    """Of source (N, H, W, C) and grad (N, OH, OW, O)."""
    windows = _windows(_padded(source, padding), kernel, stride).transpose(4, 5, 3, 0, 1, 2)
    return Lowered(windows, grad.reshape(-1, grad.shape[3]))


def _padded(source: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(source, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _windows(padded: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """A view (N, OH, OW, C, KH, KW)."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return windows[:, ::stride, ::stride]

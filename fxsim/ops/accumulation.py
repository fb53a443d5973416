"""Products under an Accumulator: as matrix products whose terms have the stated order, block after
block.

An operation is lowered to `left (M, K) times right (K, N)`, one row to an output position (of a
weight gradient: to a weight of each filter), with every term that hardware would add, padding's
zeros among them.  `accumulated_sums` then does all that the Accumulator says:

    product      rows                            terms k                                      columns
    matmul       row                             column                                       column
    forward      (image, row, column)            (input channel, kernel row, kernel column)   output channel
    input_grad   (image, row, column)            (output channel, kernel row, kernel column)  input channel
    weight_grad  (kernel row, kernel column, input channel)   (image, row, column)            output channel

With axes 'channel_last' the terms of forward and input_grad are (kernel row, kernel column, channel).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fxsim.accumulator import MAX_BITS, Accumulator
from fxsim.errors import InputError
from fxsim.kernels.accumulators.adders import accumulate_tiles, accumulate_tree, add_sums
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
from fxsim.windows import Pair, Window

BLOCK_CODES = 2**22
"""Codes of the left operand that are gathered at a time."""
TURNED_ROWS = 512
"""Rows of a block whose product is computed the other way round, right.T times left.T: where the
outputs of a row are few, the kernels' inner loops would be short.  The operands of so many stay in
a second-level cache."""
FAR = 2**62
"""No exact sum reaches it: sums that may need more than 62 bits are refused."""


class Lowered(NamedTuple):
    """An operation as a matrix product.

    windows: the left operand as a view of six axes, three of its M rows and three of their K
    terms.  right: codes of four axes, the three of the terms, then the N outputs.  has_channels:
    whether the terms' axes are a channel, a kernel row and a kernel column.  product: no product
    of two codes is larger in magnitude.
    """

    windows: np.ndarray
    right: np.ndarray
    has_channels: bool
    product: int

    @property
    def rows(self) -> int:
        """M."""
        return math.prod(self.windows.shape[:3])

    @property
    def terms(self) -> int:
        """K."""
        return math.prod(self.windows.shape[3:])

    def ordered(self, axes: str) -> tuple[np.ndarray, np.ndarray]:
        """(windows, right (K, N)) with the terms' axes in the order of an Accumulator."""
        windows = self.windows
        right = self.right
        if self.has_channels and axes == "channel_last":
            windows = windows.transpose(0, 1, 2, 4, 5, 3)
            right = right.transpose(1, 2, 0, 3)
        return windows, right.reshape(-1, right.shape[3])


class Bias(NamedTuple):
    """The bias of a sum, and how the two come to one step.

    codes: (N,) integers, or None where there is no bias.  sum_shift, shift: left shifts that bring
    the accumulator's sums and the bias to their common step.
    """

    codes: np.ndarray | None = None
    sum_shift: int = 0
    shift: int = 0

    def of_group(self, group: int, groups: int) -> Bias:
        """The bias of the outputs of one of so many groups."""
        if self.codes is None or groups == 1:
            return self
        size = len(self.codes) // groups
        return self._replace(codes=self.codes[group * size : (group + 1) * size])

    @property
    def largest(self) -> int:
        """The greatest magnitude of a bias, at the common step."""
        return 0 if self.codes is None else magnitude(self.codes) << self.shift

    @property
    def aligned(self) -> np.ndarray | None:
        """Codes int64 at the common step; the caller proves that they fit."""
        return None if self.codes is None else self.codes.astype(np.int64) << self.shift


def bias_shifts(model: Accumulator, sum_exp: int, bias_exp: int) -> tuple[int, int]:
    """(sum_shift, shift) of a Bias.

    Args:
        model: The accumulator.
        sum_exp: Exponent of the accumulator's step.
        bias_exp: Exponent of the bias's step.

    Raises:
        InputError: The accumulator starts from the bias, and the bias's step is finer than its own.

    Example:
        >>> bias_shifts(Accumulator(24), -12, -15)
        (3, 0)
        >>> bias_shifts(Accumulator(24, bias="first"), -12, -10)
        (0, 2)
    """
    if model.bias == "first" and bias_exp < sum_exp:
        raise InputError(
            f"accumulator bias 'first' needs a bias with at least the accumulator's step "
            f"2^{sum_exp}, got 2^{bias_exp}; make the bias's step coarser, drop fewer bits, or use "
            f"bias 'after'"
        )
    step_exp = min(sum_exp, bias_exp)
    return sum_exp - step_exp, bias_exp - step_exp


def accumulated_sums(
    lowered: Lowered, model: Accumulator, bias: Bias | None = None
) -> tuple[np.ndarray, int]:
    """The sums of an operation as an accumulator leaves them.

    Args:
        lowered: The operation, from a `lower_...` function.
        model: The accumulator, with its step as `drop` (`Accumulator.resolved`).
        bias: The bias of each output; it starts the sum, or is added last, as the model says.

    Returns:
        (sums (M, N) int64, overflows).  Sums have the accumulator's step, or that of the bias
        where it is finer: 2**bias.sum_shift steps make one of the accumulator's.  overflows counts
        all additions of all sums whose result was out of range.

    Raises:
        InputError: The accumulator starts from a bias with a finer step, or a value on the way may
            pass 2**62.

    Example:
        >>> import numpy as np
        >>> lowered = lower_matmul(np.array([[7, 7, -7]]), np.array([[1], [1], [1]]))
        >>> accumulated_sums(lowered, Accumulator(4), Bias(np.array([3])))
        (array([[3]]), 1)
        >>> accumulated_sums(lowered, Accumulator(4, bias="first"), Bias(np.array([3])))
        (array([[0]]), 2)
    """
    bias = bias or Bias()
    if model.step_exp is not None:
        raise InputError(
            f"the accumulator's step must be given as bits to drop, got {model}; resolve it first"
        )
    check_widths(lowered.product, lowered.terms, model, bias)
    start = None
    if model.bias == "first" and bias.codes is not None and not model.at_end:
        start = bias.aligned
        bias = Bias()
    sums, overflows = _block_sums(lowered, model, start)
    sums, more = finished_sums(sums, model, bias)
    return sums, overflows + more


def finished_sums(
    sums: np.ndarray, model: Accumulator, bias: Bias | None = None
) -> tuple[np.ndarray, int]:
    """(sums of products after the bias and the overflow that come last, overflows of these).

    sums (..., N) int64 of products, at the accumulator's step.  They may be exact sums of an
    accumulator that overflows at the end.  The bias is added whatever the model says of its place,
    so that a bias that has started the sums is left out here.
    """
    bias = bias or Bias()
    _check_largest((magnitude(sums) << bias.sum_shift) + bias.largest, model)
    if bias.sum_shift:
        sums = sums << bias.sum_shift
    aligned = bias.aligned
    if aligned is not None:
        sums = sums + aligned
    return bounded(sums, model, bias.sum_shift)


def check_widths(product: int, terms: int, model: Accumulator, bias: Bias) -> None:
    """InputError unless int64 holds every value on the way, and a first bias has no finer step.

    product: no product of two codes is larger in magnitude.
    """
    if bias.codes is not None and model.bias == "first" and bias.sum_shift:
        raise InputError(
            f"accumulator bias 'first' needs a bias with at least the accumulator's step, got one "
            f"{bias.sum_shift} bits finer; make the bias's step coarser, drop fewer bits, or use "
            f"bias 'after'"
        )
    addend = product if model.adds_products_whole else (product >> model.drop) + 1
    if model.at_end:
        _check_largest((addend * terms << bias.sum_shift) + bias.largest, model)
        return
    held = -model.range()[0]
    _check_largest(product, model)
    _check_largest(addend * min(max(model.tile, 1), terms) + held, model)
    _check_largest((held << bias.sum_shift) + bias.largest, model)


def _check_largest(largest: int, model: Accumulator) -> None:
    if largest > FAR:
        raise InputError(
            f"sums must stay within 2^62 before they overflow, got up to "
            f"2^{(largest - 1).bit_length()} with {model}; lower the widths of the operands, of "
            f"the bias or of the accumulator"
        )


def accumulate(
    left: np.ndarray, right: np.ndarray, model: Accumulator, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(sums, overflows), both (M, N) int64, of left (M, K) times right (K, N), in ascending k.

    start: what lane 0 starts from, at the accumulator's step, broadcast to (M, N); its overflow
    counts.  The model's bias and axes are for the caller, who lays start and terms out.  Where the
    model overflows at the end, the sums are not bounded yet: see `bounded`.
    """
    shape = len(left), right.shape[1]
    sums = np.zeros(shape, np.int64)
    overflows = np.zeros(shape, np.int64)
    bounds = _bounds(model)
    if start is not None:
        wide = np.array(np.broadcast_to(start, shape), np.int64, order="C")
        add_sums(sums, wide, bounds, overflows)
    lanes = 1 if model.at_end else min(model.lanes, len(right))
    for lane in range(lanes):
        own_left = np.ascontiguousarray(left[:, lane::lanes])
        own_right = np.ascontiguousarray(right[lane::lanes])
        grown = sums if lane == 0 else np.zeros(shape, np.int64)
        _grow(own_left, own_right, model, grown, overflows)
        if lane > 0:
            add_sums(sums, grown, bounds, overflows)
    return sums, overflows


def _bounds(model: Accumulator) -> Range:
    """The range after an addition: all exact sums where the overflow acts at the end."""
    if model.at_end:
        return Range(-FAR, FAR, SATURATE, MAX_BITS + 1, 1)
    return Range(*model.range(), OVERFLOW_RULE[model.overflow], model.bits, 1)


def _grow(
    left: np.ndarray,
    right: np.ndarray,
    model: Accumulator,
    sums: np.ndarray,
    overflows: np.ndarray,
) -> None:
    """Let one lane grow from sums by the terms of left times right; adds to overflows."""
    rounding = Rounding(model.drop, *rounding_terms(model.rounding, model.drop))
    bounds = _bounds(model)
    results = rounding, bounds, sums, overflows
    if model.at_end:
        accumulate_tiles(left, right, len(right), *results)
    elif model.order == "tree":
        accumulate_tree(left, right, *results)
    elif model.order == "sequential" and bounds.rule == SATURATE and not model.bounds_terms:
        accumulate_saturating(left, right, *results)
    else:
        accumulate_tiles(left, right, model.tile or 1, *results, model.bounds_terms)


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


def _block_sums(
    lowered: Lowered, model: Accumulator, start: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """(sums (M, N) int64, overflows) of a lowered product; as `accumulate`, in bounded memory.

    start: (N,), or None.
    """
    windows, right = lowered.ordered(model.axes)
    rows = lowered.rows
    terms, columns = right.shape
    out = np.empty((rows, columns), np.int64)
    overflows = 0
    block = max(1, BLOCK_CODES // terms)
    turned = min(block, rows, TURNED_ROWS) > columns
    block = min(block, TURNED_ROWS) if turned else block
    right = np.ascontiguousarray(right.T if turned else right)
    if turned and start is not None:
        start = start[:, None]
    for first in range(0, rows, block):
        last = min(first + block, rows)
        left = gather_rows(windows, first, last)
        if turned:
            sums, counts = accumulate(right, np.ascontiguousarray(left.T), model, start)
            sums = sums.T
        else:
            sums, counts = accumulate(left, right, model, start)
        out[first:last] = sums
        overflows += int(counts.sum())
    return out, overflows


def never_overflows(
    left: np.ndarray, right: np.ndarray, model: Accumulator, bias: Bias | None = None
) -> bool:
    """Whether the exact sums with the bias are what the accumulator comes to, without an overflow.

    A proof for the codes at hand, in every order, with any lanes, with the bias at either end: each
    value on the way is a sum of some of the terms, with or without the bias.  left: any shape.
    right: its last axis is that of the outputs; the other axes are the terms of each.
    """
    if not model.adds_products_whole:
        return False
    bias = bias or Bias()
    products = largest_sum(left, right.reshape(-1, right.shape[-1]))
    return (products << bias.sum_shift) + bias.largest <= model.range(bias.sum_shift)[1]


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


def lower_matmul(left: np.ndarray, right: np.ndarray) -> Lowered:
    """Of left (M, K) and right (K, N)."""
    windows = left.reshape(len(left), 1, 1, 1, 1, left.shape[1])
    return Lowered(windows, right[None, None], False, _product(left, right))


def lower_forward(source: np.ndarray, weight: np.ndarray, window: Window) -> Lowered:
    """Of source (N, H, W, C) and weight (KH, KW, C, O)."""
    windows = _windows(_padded(source, window), window, window.stride)
    return Lowered(windows, weight.transpose(2, 0, 1, 3), True, _product(source, weight))


def lower_input_grad(
    grad: np.ndarray, weight: np.ndarray, shape: tuple[int, ...], window: Window
) -> Lowered:
    """Of grad (N, OH, OW, O) and weight (KH, KW, C, O), at an input of `shape` (N, H, W).

    Where the stride leaves an input without an output of this tap, the term is zero.
    """
    samples, height, width = shape
    (_, rows, columns, outputs) = grad.shape
    top, bottom, left, right = window.padding
    above, before = (span - 1 for span in window.span)
    down, across = window.stride
    spread = np.zeros(
        (samples, above + top + height + bottom, before + left + width + right, outputs),
        grad.dtype,
    )
    spread[:, above : above + rows * down : down, before : before + columns * across : across] = (
        grad
    )
    windows = _windows(spread, window, (1, 1))[:, top : top + height, left : left + width]
    right_codes = weight.transpose(3, 0, 1, 2)
    return Lowered(windows[..., ::-1, ::-1], right_codes, True, _product(grad, weight))


def lower_weight_grad(source: np.ndarray, grad: np.ndarray, window: Window) -> Lowered:
    """Of source (N, H, W, C) and grad (N, OH, OW, O)."""
    windows = _windows(_padded(source, window), window, window.stride)
    _, rows, columns, _ = grad.shape
    read = windows[:, :rows, :columns].transpose(4, 5, 3, 0, 1, 2)
    return Lowered(read, grad, False, _product(source, grad))


def _product(left: np.ndarray, right: np.ndarray) -> int:
    """No product of two of their codes is larger in magnitude."""
    return magnitude(left) * magnitude(right)


def _padded(source: np.ndarray, window: Window) -> np.ndarray:
    return np.pad(source, ((0, 0), *window.edges, (0, 0)))


def _windows(padded: np.ndarray, window: Window, stride: Pair) -> np.ndarray:
    """A view (N, OH, OW, C, KH, KW)."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, window.span, axis=(1, 2))
    down, across = window.dilation
    return windows[:, :: stride[0], :: stride[1], :, ::down, ::across]

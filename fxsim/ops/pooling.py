"""Max and average pooling, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxsim.arrays import check_range
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import pool as kernel
from fxsim.ops.checks import of_shape, shape_of, tensor_of
from fxsim.ops.exact import (
    MAX_PLACES,
    WINNER,
    Quotient,
    kernel_windows,
    max_pooled,
    pool_window,
)
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor
from fxsim.windows import PaddingLike, PairLike, Window

MOST = 2**30
"""Places of the largest window of an average: their number and 32 bits of a code still fit 62 bits."""


def max_pool2d(
    x: Tensor, size: PairLike, stride: PairLike | None = None, padding: PaddingLike = 0
) -> tuple[Tensor, Tensor]:
    """The greatest code of each window; what no window covers is dropped.

    Args:
        x: (N, H, W, C) codes.
        size: of a window, as a number or (rows, columns), with at most 255 places.
        stride: from a window to the next, as a number or (rows, columns); None for `size`.
        padding: around the images, as for `conv2d`.  What lies there never wins.

    Returns:
        (codes, winner), both (N, OH, OW, C), OH = (H + top + bottom - rows) // stride + 1.  The
        winner is the place of the first greatest code in its window, row-major.

    Raises:
        TypeError: for a size that is no integer.
        InputError: for windows that do not fit.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [7]], [[7], [4]]]], Format(4, 3))
        >>> codes, winner = ops.max_pool2d(image, 2)
        >>> codes.codes.item(), winner.codes.item()
        (7, 1)
        >>> ops.max_pool2d(image, 2, stride=1, padding=1)[0].codes[0, :, :, 0].tolist()
        [[1, 7, 7], [7, 7, 7], [7, 7, 4]]
    """
    tensor_of("x", x, "N, H, W, C")
    window = pool_window(x.shape, size, stride, padding)
    codes, winner = max_pooled(x.operand, None, window)
    return Tensor._of(codes, x.format), Tensor._of(winner, WINNER)


def max_pool2d_grad(
    grad: Tensor,
    winner: Tensor,
    size: PairLike,
    input_shape: Sequence[int],
    stride: PairLike | None = None,
    padding: PaddingLike = 0,
) -> Tensor:
    """The gradient of max pooling: each window's gradient at the place of its winner, else 0.

    Args:
        grad: (N, OH, OW, C) gradient at the output.
        winner: of the forward call (`max_pool2d`, `Exact.relu_max_pool`).
        size, stride, padding: of the forward call.
        input_shape: (N, H, W, C) of the forward call's x.

    Returns:
        Codes of input_shape.  Where windows overlap their gradients are added, exactly: the format
        has the range that the sums need.

    Raises:
        TypeError: for a size that is no integer.
        InputError: for shapes that do not fit, or a winner that is no place of its window or
            outside of the image.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [7]], [[7], [4]]]], Format(4, 3))
        >>> _, winner = ops.max_pool2d(image, 2)
        >>> grad = Tensor([[[[5]]]], Format(4, 3))
        >>> ops.max_pool2d_grad(grad, winner, 2, (1, 2, 2, 1)).codes.ravel().tolist()
        [0, 5, 0, 0]
    """
    window = _grad_window(grad, size, input_shape, stride, padding, MAX_PLACES)
    shape = shape_of("input_shape", input_shape, "N, H, W, C")
    of_shape("winner", tensor_of("winner", winner), grad.shape)
    if winner.format != WINNER:
        raise InputError(f"winner must be in {WINNER}, got {winner.format}; take max_pool2d's")
    check_range("winner", winner.codes, 0, window.taps, "take the one of the forward call")
    _check_inside(winner.codes, window, shape)
    codes = before_max_pool(grad.operand, winner.codes, window, shape, grad.format)
    return Tensor._of(codes, max_grad_format(grad.format, window))


def avg_pool2d(x: Tensor, size: PairLike, stride: PairLike | None = None) -> Quotient:
    """The exact average of each window, to be rounded by `to`.

    Args:
        x: (N, H, W, C) codes.
        size: of a window, as a number or (rows, columns); (H, W) averages whole images.
        stride: from a window to the next, as a number or (rows, columns); None for `size`.

    Raises:
        TypeError: for a size that is no integer.
        InputError: for windows that do not fit.

    Example:
        >>> from fxsim import Format, Quantizer, Tensor, ops
        >>> image = Tensor([[[[1], [2]], [[3], [4]]]], Format(4, 3))
        >>> average = ops.avg_pool2d(image, 2)
        >>> average.to(image.format).codes.item()
        3
        >>> average.to(Quantizer(image.format, "floor")).codes.item()
        2
    """
    tensor_of("x", x, "N, H, W, C")
    window = pool_window(x.shape, size, stride, 0, MOST)
    return _averages(x.operand, x.format, window)


def avg_pool2d_grad(
    grad: Tensor,
    size: PairLike,
    input_shape: Sequence[int],
    stride: PairLike | None = None,
) -> Quotient:
    """The exact gradient of average pooling, to be rounded by `to`.

    Args:
        grad: (N, OH, OW, C) gradient at the output.
        size, stride: of the forward call.
        input_shape: (N, H, W, C) of the forward call's x.

    Returns:
        For each element of x the sum of the gradients of its windows, over the places of a window.

    Raises:
        TypeError: for a size that is no integer.
        InputError: for shapes that do not fit.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> grad = Tensor([[[[6]]]], Format(4, 3))
        >>> ops.avg_pool2d_grad(grad, 2, (1, 2, 2, 1)).to(Format(6, 3)).real.ravel()
        array([1.5, 1.5, 1.5, 1.5])
    """
    window = _grad_window(grad, size, input_shape, stride, 0, MOST)
    shape = shape_of("input_shape", input_shape, "N, H, W, C")
    return _average_grads(grad.operand, grad.format, window, shape)


def max_grad_format(format: Format, window: Window) -> Format:
    """The format of the gradient before a max pooling, wider where windows overlap."""
    grown = (window.overlap - 1).bit_length()
    return Format(format.bits + grown, format.range_exp + grown, format.signed)


def average_grad_format(format: Format, window: Window) -> Format:
    """The format that a training step gives the gradient before an average pooling.

    Its step is finer by ceil(log2(places)) bits, so that nothing is lost where the number of places
    is a power of two; its range is the least that holds every quotient.
    """
    finer = kernel.average_pool_gradient_bits(window.taps)
    grown = 2**finer != window.taps  # 2**finer / places lies in [1, 2)
    more = grown + (window.overlap - 1).bit_length()
    return Format(format.bits + more, format.range_exp - finer + more)


def average_pooled(
    codes: np.ndarray, window: Window, format: Format, rounding: str = "nearest_away"
) -> np.ndarray:
    """Codes of the averages of windows, rounded to the codes' step."""
    if rounding != "nearest_away":
        return _averages(codes, format, window).to(Quantizer(format, rounding)).operand
    images, height, width, channels = codes.shape
    rows, columns = window.positions((height, width))
    out = memory.empty((images, rows, columns, channels), codes.dtype)
    kernel.average_pool(codes, kernel_windows(window), out)
    return out


def before_max_pool(
    grads: np.ndarray,
    winner: np.ndarray,
    window: Window,
    shape: tuple[int, ...],
    format: Format,
) -> np.ndarray:
    """Gradient codes of `shape` before a max pooling, in max_grad_format(format, window)."""
    out = memory.empty(shape, max_grad_format(format, window).storage)
    kernel.max_pool_backward(grads, winner, kernel_windows(window), out)
    return out


def before_average_pool(
    grads: np.ndarray,
    window: Window,
    shape: tuple[int, ...],
    format: Format,
    rounding: str = "nearest_away",
) -> np.ndarray:
    """Gradient codes of `shape` before an average pooling, rounded to average_grad_format(format,
    window).
    """
    wanted = average_grad_format(format, window)
    if rounding != "nearest_away":
        exact = _average_grads(grads, format, window, shape)
        return exact.to(Quantizer(wanted, rounding)).operand
    out = memory.empty(shape, wanted.storage)
    finer = kernel.average_pool_gradient_bits(window.taps)
    kernel.average_pool_backward(grads, kernel_windows(window), finer, out)
    return out


def _averages(codes: np.ndarray, format: Format, window: Window) -> Quotient:
    windows = np.lib.stride_tricks.sliding_window_view(codes, window.size, axis=(1, 2))
    down, across = window.stride
    sums = windows[:, ::down, ::across].sum(axis=(4, 5), dtype=np.int64)
    return Quotient(sums, format.step_exp, window.taps)


def _average_grads(
    grads: np.ndarray, format: Format, window: Window, shape: tuple[int, ...]
) -> Quotient:
    out = memory.empty(shape, np.int64)
    kernel.spread(grads, kernel_windows(window), out)
    return Quotient(out, format.step_exp, window.taps)


def _grad_window(
    grad: Tensor,
    size: PairLike,
    input_shape: Sequence[int],
    stride: PairLike | None,
    padding: PaddingLike,
    most: int,
) -> Window:
    """The windows of a forward call, if `grad` has the shape of its output."""
    tensor_of("grad", grad, "N, H, W, C")
    shape = shape_of("input_shape", input_shape, "N, H, W, C")
    window = pool_window(shape, size, stride, padding, most)
    images, height, width, channels = shape
    of_shape("grad", grad, (images, *window.positions((height, width)), channels))
    return window


def _check_inside(winner: np.ndarray, window: Window, shape: tuple[int, ...]) -> None:
    """InputError for a winner outside of its image."""
    if not any(window.padding):
        return
    _, height, width, _ = shape
    rows, columns = np.indices(winner.shape[1:3])
    row, column = np.divmod(winner.astype(np.int64), window.size[1])
    y = (rows * window.stride[0] - window.before[0])[None, :, :, None] + row
    x = (columns * window.stride[1] - window.before[1])[None, :, :, None] + column
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    if (outside & (winner < window.taps)).any():
        raise InputError(
            "winner must be a place inside of the image, got one in the padding; take the one of "
            "the forward call"
        )

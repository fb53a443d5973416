"""Max and average pooling over non-overlapping windows, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxsim.arrays import check_range
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import pool as kernel
from fxsim.ops.checks import of_shape, shape_of, tensor_of
from fxsim.ops.exact import WINNER, Quotient, check_windows, max_pooled
from fxsim.tensor import Tensor

MOST = 2**15
"""Greatest size of an average window: its square and 32 bits of a code still fit 62 bits."""


def max_pool2d(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The greatest code of each size x size window; a remainder at the edge is dropped.

    Args:
        x: (N, H, W, C) codes.
        size: of a window, at most 15.

    Returns:
        (codes, winner), both (N, H // size, W // size, C).  The winner is the place of the first
        greatest code in its window, row-major.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [7]], [[7], [4]]]], Format(4, 3))
        >>> codes, winner = ops.max_pool2d(image, 2)
        >>> codes.codes.item(), winner.codes.item()
        (7, 1)
    """
    tensor_of("x", x, "N, H, W, C")
    size = check_windows(x.shape, size)
    codes, winner = max_pooled(x.operand, None, size)
    return Tensor._of(codes, x.format), Tensor._of(winner, WINNER)


def max_pool2d_grad(grad: Tensor, winner: Tensor, size: int, input_shape: Sequence[int]) -> Tensor:
    """The gradient of max pooling: each window's gradient at the place of its winner, else 0.

    Args:
        grad: (N, H // size, W // size, C) gradient at the output.
        winner: of the forward call (`max_pool2d`, `Exact.relu_max_pool`).
        size: of a window.
        input_shape: (N, H, W, C) of the forward call's x.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [7]], [[7], [4]]]], Format(4, 3))
        >>> _, winner = ops.max_pool2d(image, 2)
        >>> grad = Tensor([[[[5]]]], Format(4, 3))
        >>> ops.max_pool2d_grad(grad, winner, 2, (1, 2, 2, 1)).codes.ravel().tolist()
        [0, 5, 0, 0]
    """
    shape, size = _pooled_grad_shape(grad, size, input_shape, 15)
    of_shape("winner", tensor_of("winner", winner), grad.shape)
    if winner.format != WINNER:
        raise InputError(f"winner must be in {WINNER}, got {winner.format}; take max_pool2d's")
    check_range("winner", winner.codes, 0, size * size, "take the one of the forward call")
    return Tensor._of(before_max_pool(grad.operand, winner.codes, size, shape), grad.format)


def avg_pool2d(x: Tensor, size: int) -> Quotient:
    """The exact average of each size x size window, to be rounded by `to`.

    Args:
        x: (N, H, W, C) codes.
        size: of a window; a remainder at the edge is dropped.

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
    size = check_windows(x.shape, size, MOST)
    images, height, width, channels = x.shape
    rows = height // size
    columns = width // size
    kept = x.operand[:, : rows * size, : columns * size]
    windows = kept.reshape(images, rows, size, columns, size, channels)
    return Quotient(windows.sum(axis=(2, 4), dtype=np.int64), x.format.step_exp, size * size)


def avg_pool2d_grad(grad: Tensor, size: int, input_shape: Sequence[int]) -> Quotient:
    """The exact gradient of average pooling, grad / size**2 over each window, to be rounded.

    Args:
        grad: (N, H // size, W // size, C) gradient at the output.
        size: of a window.
        input_shape: (N, H, W, C) of the forward call's x.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> grad = Tensor([[[[6]]]], Format(4, 3))
        >>> ops.avg_pool2d_grad(grad, 2, (1, 2, 2, 1)).to(Format(6, 3)).real.ravel()
        array([1.5, 1.5, 1.5, 1.5])
    """
    shape, size = _pooled_grad_shape(grad, size, input_shape, MOST)
    spread = np.zeros(shape, np.int64)
    wide = grad.operand.astype(np.int64).repeat(size, axis=1).repeat(size, axis=2)
    spread[:, : wide.shape[1], : wide.shape[2]] = wide
    return Quotient(spread, grad.format.step_exp, size * size)


def average_grad_format(format: Format, size: int) -> Format:
    """The format that a training step gives the gradient before an average pooling.

    Its step is finer by ceil(log2(size**2)) bits, so that nothing is lost where size is a power of
    two; its range is the least that holds every quotient.
    """
    finer = kernel.average_pool_gradient_bits(size)
    grown = 2**finer != size**2  # 2**finer / size**2 lies in [1, 2)
    return Format(format.bits + grown, format.range_exp - finer + grown)


def average_pooled(codes: np.ndarray, size: int) -> np.ndarray:
    """Averages of size x size windows, rounded to the codes' step, nearest, ties away from zero."""
    images, height, width, channels = codes.shape
    out = memory.empty((images, height // size, width // size, channels), codes.dtype)
    kernel.average_pool(codes, size, out)
    return out


def before_max_pool(
    grads: np.ndarray, winner: np.ndarray, size: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Gradient codes of `shape` before a max pooling."""
    out = memory.empty(shape, grads.dtype)
    kernel.max_pool_backward(grads, winner, size, out)
    return out


def before_average_pool(
    grads: np.ndarray, size: int, shape: tuple[int, ...], format: Format
) -> np.ndarray:
    """Gradient codes of `shape` before an average pooling, in average_grad_format(format, size).

    They are rounded to the nearest, ties away from zero.
    """
    out = memory.empty(shape, average_grad_format(format, size).storage)
    kernel.average_pool_backward(grads, size, kernel.average_pool_gradient_bits(size), out)
    return out


def _pooled_grad_shape(
    grad: Tensor, size: int, input_shape: Sequence[int], most: int
) -> tuple[tuple[int, ...], int]:
    tensor_of("grad", grad, "N, H, W, C")
    shape = shape_of("input_shape", input_shape, "N, H, W, C")
    size = check_windows(shape, size, most)
    images, height, width, channels = shape
    of_shape("grad", grad, (images, height // size, width // size, channels))
    return shape, size

"""The convolution and its two gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from fxsim.accumulator import Accumulator
from fxsim.arrays import check_elements
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.checks import of_shape, shape_of, tensor_of, whole
from fxsim.ops.exact import Exact
from fxsim.ops.matmul import check_accumulator, check_bias, forward
from fxsim.ops.paths import check_path
from fxsim.ops.products import Geometry, InputGrad, WeightGrad
from fxsim.tensor import Tensor


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    accumulator: Accumulator | None = None,
    path: str = "auto",
) -> Exact:
    """The convolution (cross-correlation) of images with square kernels.

    Args:
        x: (N, H, W, C) codes.
        weight: (K, K, C, O) codes; PyTorch has (O, C, K, K).
        bias: (O,) codes, or None.
        stride: of the kernel, in both directions.
        padding: zeros around the images, on all four sides.
        accumulator: how each sum is held; None for exactly.
        path: 'auto', or the instruction path to force (see `plan`).

    Returns:
        Exact sums (N, OH, OW, O), OH = (H + 2 padding - K) // stride + 1.

    Raises:
        InputError: for shapes that do not fit, or widths that no path takes exactly.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [2]], [[3], [4]]]], Format(4, 3))
        >>> kernel = Tensor([[[[1]], [[0]]], [[[0]], [[-1]]]], Format(4, 3))
        >>> ops.conv2d(image, kernel).tensor().real.ravel()
        array([-3.])
        >>> image.shape, ops.conv2d(image, kernel, padding=1).shape
        ((1, 2, 2, 1), (1, 3, 3, 1))
    """
    tensor_of("x", x, "N, H, W, C")
    geometry = geometry_of(x.shape, _weight_shape(weight), stride, padding)
    check_elements((len(x), *geometry.output))
    check_bias(bias, geometry.outputs)
    check_path("path", path)
    check_accumulator("conv2d", accumulator, bias is not None, True)
    product = forward(
        x.format,
        weight.format,
        geometry,
        path,
        accumulator,
        bias.format if bias is not None else None,
    )
    return product(x.operand, weight.operand, None if bias is None else bias.operand)


def conv2d_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_shape: Sequence[int],
    *,
    stride: int = 1,
    padding: int = 0,
    accumulator: Accumulator | None = None,
    path: str = "auto",
) -> Exact:
    """The gradient of `conv2d` at its input.

    Args:
        grad: (N, OH, OW, O) gradient at the output.
        weight: (K, K, C, O) codes of the forward call.
        input_shape: (N, H, W, C) of the forward call's x.
        stride, padding, accumulator, path: as for `conv2d`.

    Returns:
        Exact sums (N, H, W, C).

    Raises:
        InputError: for shapes that do not fit, or widths that no path takes exactly.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> kernel = Tensor([[[[1]], [[2]]], [[[3]], [[4]]]], Format(4, 3))
        >>> grad = Tensor([[[[1]]]], Format(4, 3))
        >>> ops.conv2d_input_grad(grad, kernel, (1, 2, 2, 1)).tensor().codes.ravel().tolist()
        [1, 2, 3, 4]
    """
    tensor_of("grad", grad, "N, OH, OW, O")
    shape = shape_of("input_shape", input_shape, "N, H, W, C")
    geometry = geometry_of(shape, _weight_shape(weight), stride, padding)
    of_shape("grad", grad, (shape[0], *geometry.output))
    check_path("path", path)
    check_accumulator("conv2d_input_grad", accumulator, False, True)
    product = input_grad(grad.format, weight.format, geometry, path, accumulator)
    return product(grad.operand, weight.operand)


def conv2d_weight_grad(
    x: Tensor,
    grad: Tensor,
    weight_shape: Sequence[int],
    *,
    stride: int = 1,
    padding: int = 0,
    accumulator: Accumulator | None = None,
    path: str = "auto",
) -> Exact:
    """The gradient of `conv2d` at its weight, summed over images and positions.

    Args:
        x: (N, H, W, C) codes of the forward call.
        grad: (N, OH, OW, O) gradient at the output.
        weight_shape: (K, K, C, O) of the forward call's weight.
        stride, padding, accumulator, path: as for `conv2d`.

    Returns:
        Exact sums (K, K, C, O).

    Raises:
        InputError: for shapes that do not fit, or widths that no path takes exactly.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [2]], [[3], [4]]]], Format(4, 3))
        >>> grad = Tensor([[[[2]]]], Format(4, 3))
        >>> ops.conv2d_weight_grad(image, grad, (2, 2, 1, 1)).tensor().codes.ravel().tolist()
        [2, 4, 6, 8]
    """
    tensor_of("x", x, "N, H, W, C")
    tensor_of("grad", grad, "N, OH, OW, O")
    shape = shape_of("weight_shape", weight_shape, "K, K, C, O")
    geometry = geometry_of(x.shape, shape, stride, padding)
    of_shape("grad", grad, (len(x), *geometry.output))
    check_path("path", path)
    check_accumulator("conv2d_weight_grad", accumulator, False, False)
    product = weight_grad(x.format, grad.format, geometry, path, accumulator)
    return product(x.operand, grad.operand)


@lru_cache(maxsize=1024)
def input_grad(
    grad: Format, weight: Format, geometry: Geometry, path: str, accumulator: Accumulator | None
) -> InputGrad:
    """The one InputGrad product of these."""
    return InputGrad(grad, weight, geometry, path, accumulator)


@lru_cache(maxsize=1024)
def weight_grad(
    x: Format, grad: Format, geometry: Geometry, path: str, accumulator: Accumulator | None
) -> WeightGrad:
    """The one WeightGrad product of these."""
    return WeightGrad(x, grad, geometry, path, accumulator)


def geometry_of(
    input_shape: Sequence[int], weight_shape: Sequence[int], stride: int, padding: int
) -> Geometry:
    """The Geometry of a (N, H, W, C) input and a (K, K, C, O) weight.

    Raises:
        InputError: where they do not fit.
    """
    _, height, width, channels = input_shape
    rows, columns, depth, outputs = weight_shape
    stride = whole("stride", stride, 1)
    padding = whole("padding", padding, 0)
    if rows != columns or depth != channels:
        pytorch = columns == channels and depth == outputs
        hint = "; PyTorch's layout is (O, C, K, K), pass weight.transpose(2, 3, 1, 0)"
        raise InputError(
            f"weight must have shape (K, K, {channels}, O) for images of {channels} channels, got "
            f"{tuple(weight_shape)}{hint if pytorch else ''}"
        )
    if min(height, width) + 2 * padding < rows:
        raise InputError(
            f"a {rows}x{rows} kernel does not fit images of {height}x{width} with padding {padding}"
        )
    return Geometry(height, width, channels, outputs, rows, columns, stride, padding)


def _weight_shape(weight: Tensor) -> tuple[int, ...]:
    return tensor_of("weight", weight, "K, K, C, O").shape

"""The convolution and its two gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from fxsim.accumulator import Accumulator
from fxsim.arrays import check_elements
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.checks import of_shape, shape_of, tensor_of
from fxsim.ops.exact import Exact
from fxsim.ops.matmul import check_accumulator, check_bias, forward
from fxsim.ops.products import Geometry, InputGrad, WeightGrad
from fxsim.tensor import Tensor
from fxsim.windows import PaddingLike, PairLike, Window, check_groups


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PairLike = 1,
    padding: PaddingLike = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    accumulator: Accumulator | None = None,
) -> Exact:
    """The convolution (cross-correlation) of images.

    Args:
        x: (N, H, W, C) codes.
        weight: (KH, KW, C / groups, O) codes; PyTorch has (O, C / groups, KH, KW).
        bias: (O,) codes, or None.
        stride: from a position to the next, as a number or (rows, columns).
        padding: zeros around the images: a number, (rows, columns), (top, bottom, left, right),
            'valid' for none, or 'same' for ceil(H / stride) x ceil(W / stride) positions, where
            bottom and right have one zero more if their number is odd, as in TensorFlow.
        dilation: from a tap of the kernel to the next, as a number or (rows, columns).
        groups: channels and outputs fall into so many groups; an output reads the channels of its
            own group alone.  `groups = C` is a depthwise convolution.
        accumulator: how each sum is held; None for exactly.

    Returns:
        Exact sums (N, OH, OW, O), OH = (H + top + bottom - dilation (KH - 1) - 1) // stride + 1.

    Raises:
        TypeError: for a size that is no integer.
        InputError: for shapes that do not fit, or widths that no path takes exactly.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> image = Tensor([[[[1], [2]], [[3], [4]]]], Format(4, 3))
        >>> kernel = Tensor([[[[1]], [[0]]], [[[0]], [[-1]]]], Format(4, 3))
        >>> ops.conv2d(image, kernel).tensor().real.ravel()
        array([-3.])
        >>> image.shape, ops.conv2d(image, kernel, padding=1).shape
        ((1, 2, 2, 1), (1, 3, 3, 1))
        >>> ops.conv2d(image, kernel, padding="same").shape
        (1, 2, 2, 1)
    """
    tensor_of("x", x, "N, H, W, C")
    where = Placement(stride, padding, dilation, groups)
    geometry = where.over(x.shape, _weight_shape(weight))
    check_elements((len(x), *geometry.output))
    check_bias(bias, geometry.outputs)
    check_accumulator("conv2d", accumulator, bias is not None, True)
    bias_format = bias.format if bias is not None else None
    product = forward(x.format, weight.format, geometry, accumulator, bias_format)
    return product(x.operand, weight.operand, None if bias is None else bias.operand)


def conv2d_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_shape: Sequence[int],
    *,
    stride: PairLike = 1,
    padding: PaddingLike = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    accumulator: Accumulator | None = None,
) -> Exact:
    """The gradient of `conv2d` at its input.

    Args:
        grad: (N, OH, OW, O) gradient at the output.
        weight: (KH, KW, C / groups, O) codes of the forward call.
        input_shape: (N, H, W, C) of the forward call's x.
        stride, padding, dilation, groups, accumulator: as for `conv2d`.

    Returns:
        Exact sums (N, H, W, C).

    Raises:
        TypeError: for a size that is no integer.
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
    where = Placement(stride, padding, dilation, groups)
    geometry = where.over(shape, _weight_shape(weight))
    of_shape("grad", grad, (shape[0], *geometry.output))
    check_accumulator("conv2d_input_grad", accumulator, False, True)
    product = input_grad(grad.format, weight.format, geometry, accumulator)
    return product(grad.operand, weight.operand)


def conv2d_weight_grad(
    x: Tensor,
    grad: Tensor,
    weight_shape: Sequence[int],
    *,
    stride: PairLike = 1,
    padding: PaddingLike = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    accumulator: Accumulator | None = None,
) -> Exact:
    """The gradient of `conv2d` at its weight, summed over images and positions.

    Args:
        x: (N, H, W, C) codes of the forward call.
        grad: (N, OH, OW, O) gradient at the output.
        weight_shape: (KH, KW, C / groups, O) of the forward call's weight.
        stride, padding, dilation, groups, accumulator: as for `conv2d`.

    Returns:
        Exact sums (KH, KW, C / groups, O).

    Raises:
        TypeError: for a size that is no integer.
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
    shape = shape_of("weight_shape", weight_shape, "KH, KW, C, O")
    where = Placement(stride, padding, dilation, groups)
    geometry = where.over(x.shape, shape)
    of_shape("grad", grad, (len(x), *geometry.output))
    check_accumulator("conv2d_weight_grad", accumulator, False, False)
    product = weight_grad(x.format, grad.format, geometry, accumulator)
    return product(x.operand, grad.operand)


@lru_cache(maxsize=1024)
def input_grad(
    grad: Format, weight: Format, geometry: Geometry, accumulator: Accumulator | None
) -> InputGrad:
    """The one InputGrad product of these."""
    return InputGrad(grad, weight, geometry, accumulator=accumulator)


@lru_cache(maxsize=1024)
def weight_grad(
    x: Format, grad: Format, geometry: Geometry, accumulator: Accumulator | None
) -> WeightGrad:
    """The one WeightGrad product of these."""
    return WeightGrad(x, grad, geometry, accumulator=accumulator)


class Placement(NamedTuple):
    """Where kernels are laid on images; see `conv2d`."""

    stride: PairLike
    padding: PaddingLike
    dilation: PairLike
    groups: int

    def over(self, input_shape: Sequence[int], weight_shape: Sequence[int]) -> Geometry:
        """The Geometry of a (N, H, W, C) input and a (KH, KW, C / groups, O) weight.

        Raises:
            InputError: where they do not fit.
        """
        _, height, width, channels = input_shape
        rows, columns, depth, outputs = weight_shape
        groups = check_groups("", self.groups, channels, outputs)
        if depth != channels // groups:
            pytorch = columns == channels // groups
            hint = (
                "; PyTorch's layout is (O, C, KH, KW), pass weight.transpose(2, 3, 1, 0)"
                if pytorch
                else ""
            )
            raise InputError(
                f"weight must have shape (KH, KW, {channels // groups}, O) for images of "
                f"{channels} channels in groups of {channels // groups}, got "
                f"{tuple(weight_shape)}{hint}"
            )
        window = Window.of(
            "", (height, width), (rows, columns), self.stride, self.padding, self.dilation
        )
        return Geometry(height, width, channels, outputs, window, groups)


def _weight_shape(weight: Tensor) -> tuple[int, ...]:
    return tensor_of("weight", weight, "KH, KW, C, O").shape

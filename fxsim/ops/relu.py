"""The ReLU and the straight-through estimator of its gradient."""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise.relu_mask import gate
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import MASK, Exact, exact_of
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor


def relu(
    x: Tensor | Exact, quantizer: Format | Quantizer, ceiling: float | None = None
) -> tuple[Tensor, Tensor]:
    """(codes, mask) of the ReLU of a Tensor or an exact result; see `Exact.relu`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> codes, mask = ops.relu(Tensor([-3, 0, 5, 127], Format(8, 2)), Format(4, 0, False))
        >>> codes.real, mask.codes
        (array([0.    , 0.    , 0.1875, 0.9375]), array([0, 0, 1, 0], dtype=uint8))
    """
    return exact_of("x", x).relu(quantizer, ceiling)


def relu_grad(grad: Tensor, mask: Tensor) -> Tensor:
    """The gradient of the ReLU: grad where the mask is 1, else 0; in grad's format.

    Args:
        grad: gradient at the output, of any shape.
        mask: of the forward call, of the same shape.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> _, mask = ops.relu(Tensor([-3, 5], Format(8, 2)), Format(4, 0, False))
        >>> ops.relu_grad(Tensor([7, 7], Format(4, 3)), mask).codes
        array([0, 7], dtype=int8)
    """
    tensor_of("grad", grad)
    of_shape("mask", tensor_of("mask", mask), grad.shape)
    if mask.format != MASK:
        raise InputError(f"mask must be in {MASK}, got {mask.format}; take the one of relu")
    return Tensor._of(gated(grad.operand, mask.codes), grad.format)


def gated(grads: np.ndarray, mask: np.ndarray, reuse: bool = False) -> np.ndarray:
    """Gradient codes where the mask (uint8) is 1, else 0.

    reuse: whether the memory of `grads` may become that of the result.
    """
    out = grads if reuse else memory.empty(grads.shape, grads.dtype)
    gate(grads, mask, out)
    return out

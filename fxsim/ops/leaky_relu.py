"""The leaky ReLU with a power of two for its slope, and its gradient."""

from __future__ import annotations

import numpy as np

from fxsim.activation import LEAST_SLOPE_EXP
from fxsim.errors import InputError, shown
from fxsim.fields import integer
from fxsim.formats import Format
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import MAX_SUM_BITS, Exact, Sums, exact_of, relu_bound
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor

SLOPES = Format(2, 2, signed=False)
"""Format of a leaky ReLU's mask: 0 where nothing passes, 1 where the slope does, 2 where all does."""


def leaky_relu(
    x: Tensor | Exact, quantizer: Format | Quantizer, slope_exp: int
) -> tuple[Tensor, Tensor]:
    """(codes, mask): x where x > 0, else x * 2**slope_exp; exact, then rounded once.

    The mask (format `SLOPES`) is 0 where the exact result does not lie strictly inside the range of
    the format (above 0, if that is unsigned), else 2 where x > 0, else 1.

    Args:
        x: Tensor or exact result.
        quantizer: of the codes.
        slope_exp: -16 to -1.

    Raises:
        InputError: a slope outside its range, or an exact result of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> codes, mask = ops.leaky_relu(Tensor([-8, 0, 5, 127], Format(8, 7)), Format(8, 6), -2)
        >>> codes.real, mask.codes
        (array([-2. ,  0. ,  5. , 63.5]), array([1, 1, 2, 0], dtype=uint8))
    """
    chosen = Quantizer.of(quantizer)
    leaky, positive = leaked(exact_of("x", x), slope_exp)
    mask = slopes_of(leaky, positive, chosen)
    return leaky.to(chosen), Tensor._of(mask, SLOPES)


def leaky_relu_grad(grad: Tensor, mask: Tensor, slope_exp: int) -> Exact:
    """The exact gradient of the leaky ReLU, at a step finer by -slope_exp bits.

    Args:
        grad: gradient at the output, of any shape.
        mask: of the forward call, of the same shape.
        slope_exp: of the forward call.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> mask = Tensor([0, 1, 2], ops.SLOPES)
        >>> ops.leaky_relu_grad(Tensor([4, 4, 4], Format(4, 3)), mask, -2).tensor().real
        array([0., 1., 4.])
    """
    tensor_of("grad", grad)
    of_shape("mask", tensor_of("mask", mask), grad.shape)
    if mask.format != SLOPES:
        raise InputError(f"mask must be in {SLOPES}, got {mask.format}; take the one of leaky_relu")
    format = sloped_format(grad.format, _checked(slope_exp))
    return Sums(sloped(grad.operand.astype(np.int64), mask.codes, slope_exp), format)


def leaked(exact: Exact, slope_exp: int) -> tuple[Sums, np.ndarray]:
    """(the exact leaky ReLU, where its argument is above 0)."""
    bits = -_checked(slope_exp)
    if exact.format.bits + bits > MAX_SUM_BITS:
        raise InputError(
            f"a leaky ReLU of slope 2^{slope_exp} on sums of {exact.format.bits} bits needs "
            f"{exact.format.bits + bits} bits, at most {MAX_SUM_BITS} are exact here; lower the "
            f"widths"
        )
    sums = exact.sums()
    positive: np.ndarray = sums > 0
    return Sums(np.where(positive, sums << bits, sums), sloped_format(exact.format, slope_exp)), (
        positive
    )


def slopes_of(leaky: Sums, positive: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """The mask (uint8) of the forward pass."""
    bound = relu_bound(leaky.format.step_exp, quantizer)
    lowest = -bound if quantizer.format.signed else 0
    sums = leaky.sums()
    passes = (sums > lowest) & (sums < bound)
    return passes * (1 + positive).astype(np.uint8)


def sloped(grads: np.ndarray, mask: np.ndarray, slope_exp: int) -> np.ndarray:
    """Gradient codes before the leaky ReLU, in `sloped_format`, of the storage of `grads`."""
    factors = np.array([0, 1, 1 << -slope_exp], grads.dtype)
    out: np.ndarray = grads * factors[mask]
    return out


def sloped_format(format: Format, slope_exp: int) -> Format:
    """The format that holds a leaky ReLU's exact result, and its exact gradient."""
    return Format(format.bits - slope_exp, format.range_exp, format.signed)


def _checked(slope_exp: int) -> int:
    if not LEAST_SLOPE_EXP <= integer("slope_exp", slope_exp) <= -1:
        raise InputError(f"slope_exp must be {LEAST_SLOPE_EXP} to -1, got {shown(slope_exp)}")
    return slope_exp

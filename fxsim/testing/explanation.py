"""Which change of semantics gives the codes of a device, for one operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsim.arrays import integer_array
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.golden.explain.operation import explain_operation
from fxsim.golden.explain.search import Explanation
from fxsim.ops.exact import Exact, Sums
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor


def explain(got: Any, exact: Exact | Tensor, quantizer: Format | Quantizer) -> list[str]:
    """The single changes of semantics that give all codes of a device.

    Tried, one at a time: every other rounding and overflow, two roundings, a narrower range, 1 or 2
    bits too many or too few dropped; elements, bytes or bits in another order.  Where `exact` is a
    product (fxsim.ops.dot, matmul, linear, conv2d and its gradients), also: narrower accumulators
    that wrap, saturate after every addition or at the end; the bias first; other orders of the
    terms, lanes, tiles, an adder tree; products truncated; operands with the wrong sign, or without
    their first or last bits; no bias; kernels flipped, weights transposed; padding on the other side,
    dilation ignored, groups permuted.

    Args:
        got: the codes of the device, a Tensor or integers, in exact's shape.
        exact: the exact result, or a Tensor that is only requantized.
        quantizer: what the device should have done with it.

    Returns:
        What each change is, in words; empty where none of them gives every code, and where `got` is
        what `exact.to(quantizer)` gives.

    Raises:
        TypeError: for other types.
        InputError: for another shape or format.

    Example:
        >>> from fxsim import Accumulator, Format, Tensor, ops
        >>> from fxsim.testing import explain
        >>> a = Tensor([[100, 90, -80], [-128, 17, 33]], Format(8, 0))
        >>> b = Tensor([[120, 3], [110, -5], [127, 99]], Format(8, 0))
        >>> device = ops.matmul(a, b, accumulator=Accumulator(14)).to(Format(8, 1))
        >>> for change in explain(device, ops.matmul(a, b), Format(8, 1)):
        ...     print(change)
        accumulator 3 bits narrower (14 instead of 17), it saturates after every addition
    """
    return list(explanation(got, exact, quantizer).changes)


def explanation(got: Any, exact: Exact | Tensor, quantizer: Format | Quantizer) -> Explanation:
    """As `explain`, with the number of changes that were tried."""
    chosen = Quantizer.of(quantizer)
    result = exact_of(exact)
    if isinstance(got, Tensor) and got.format != chosen.format:
        raise InputError(f"got must be in the quantizer's {chosen.format}, got {got.format}")
    codes = integer_array("got", got.codes if isinstance(got, Tensor) else got)
    if codes.shape != result.shape:
        raise InputError(f"got must have shape {result.shape}, that of exact, got {codes.shape}")
    return explain_operation(result, chosen, codes)


def exact_of(value: Exact | Tensor) -> Exact:
    """`value`, or the exact result that a Tensor is."""
    if isinstance(value, Tensor):
        return Sums(np.asarray(value.codes, np.int64), value.format)
    if not isinstance(value, Exact):
        raise TypeError(
            f"exact must be an exact result of fxsim.ops or a fxsim.Tensor, got "
            f"{type(value).__name__}"
        )
    return value

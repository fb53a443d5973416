"""The SGD update of a parameter, with and without an accumulator below its step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fxsim.errors import InputError, choice, shown
from fxsim.factors import MANTISSA_BITS, Factor, LearningRate, OddFactor
from fxsim.formats import OVERFLOWS, Format
from fxsim.kernels.elementwise import update as kernel
from fxsim.kernels.rounding import MAX_SHIFT, Rounding, align
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import Exact, Sums, holding, magnitude
from fxsim.ops.summation import ChannelSum
from fxsim.quantizer import Counts, Quantizer, Words
from fxsim.tensor import Tensor
from fxsim.words import DroppedBits

UPDATE_BITS = 62
"""A parameter and its accumulator are one exact integer; their widths together stay within this."""

FAR_UPDATE = 2**UPDATE_BITS + 2
"""An update above 2**UPDATE_BITS saturates every parameter and its accumulator, and may so become
this one: parameter and accumulator are below 2**(UPDATE_BITS - 1) together, and their difference
from it fits int64.  It is even: the last bit that `jam` forces leaves it above."""


@dataclass(frozen=True)
class Parameter:
    """A trained parameter: its codes, and the accumulator that holds what lies below their step.

    Args:
        value: the codes.
        accumulator: codes whose range is half of value's step; None where there is no accumulator.

    Raises:
        InputError: for an accumulator of another shape or range, or more than 62 bits in all.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> weight = ops.Parameter(Tensor([3, -2], Format(4, 0)), Tensor([0, 0], Format(8, -4)))
        >>> weight.real
        array([ 0.375, -0.25 ])
    """

    value: Tensor
    accumulator: Tensor | None = None

    def __post_init__(self) -> None:
        tensor_of("value", self.value)
        if self.accumulator is None:
            return
        of_shape("accumulator", tensor_of("accumulator", self.accumulator), self.value.shape)
        check_accumulator("the parameter", self.value.format, self.accumulator.format)

    @property
    def real(self) -> np.ndarray:
        """float64 values, those of the accumulator included."""
        return self.value.real + (0 if self.accumulator is None else self.accumulator.real)


@dataclass(frozen=True)
class UpdateTally:
    """What one update did.

    Elements whose code or accumulator saturated, gradients whose update rounded to 0, and updates
    that left the code as it was.
    """

    weights_clipped: int
    accumulators_clipped: int
    flushed: int
    stopped: int


def check_accumulator(name: str, parameter: Format, accumulator: Format) -> None:
    """InputError unless an accumulator of that format lies below the step of the parameter."""
    if not accumulator.signed or accumulator.range_exp != parameter.step_exp - 1:
        raise InputError(
            f"the accumulator of {name} must be signed with range_exp {parameter.step_exp - 1} "
            f"(half the step of {parameter}), got {accumulator}; use "
            f"fxsim.nn.layer_precision.accumulator_format"
        )
    bits = parameter.bits + (not parameter.signed)
    if bits + accumulator.bits > UPDATE_BITS:
        raise InputError(
            f"{name} and its accumulator have {bits} + {accumulator.bits} bits with a sign; "
            f"together at most {UPDATE_BITS}"
        )


def sgd_update(
    parameter: Parameter,
    grad: Tensor,
    rate: LearningRate | float,
    *,
    rounding: str = "nearest_away",
    overflow: str = "saturate",
    words: Words | None = None,
) -> tuple[Parameter, UpdateTally]:
    """One SGD step: parameter - rate * grad.

    With an accumulator: rate * grad is rounded to the accumulator's step; parameter and accumulator
    take it as one exact number; the parameter is rounded to the nearest of it, ties up, and the
    accumulator keeps the rest.  Both saturate.

    Without an accumulator: parameter - rate * grad is exact, and is quantized once to the
    parameter's format.

    Args:
        parameter: codes, perhaps with an accumulator.
        grad: gradient of the same shape.
        rate: the learning rate; a float stands for the nearest with a mantissa of 16 bits.
        rounding: one of fxsim.ROUNDINGS.
        overflow: one of fxsim.OVERFLOWS, of a parameter without an accumulator.
        words: random words of a stochastic rounding.

    Returns:
        (the new parameter, what the update did).

    Raises:
        InputError: for another shape; without an accumulator, for steps that are too far from each
            other; with one, for an overflow other than saturate.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> weight = ops.Parameter(Tensor([3, -2], Format(4, 0)), Tensor([0, 0], Format(8, -4)))
        >>> grad = Tensor([10, -10], Format(8, 0))
        >>> weight, tally = ops.sgd_update(weight, grad, 0.25)
        >>> weight.value.codes, weight.accumulator.codes
        (array([ 3, -2], dtype=int8), array([-40,  40], dtype=int8))
        >>> weight, tally = ops.sgd_update(weight, grad, 0.5)
        >>> weight.value.codes, tally.stopped
        (array([ 3, -2], dtype=int8), 2)
    """
    if not isinstance(parameter, Parameter):
        raise TypeError(f"parameter must be an ops.Parameter, got {type(parameter).__name__}")
    of_shape("grad", tensor_of("grad", grad), parameter.value.shape)
    rate = rate if isinstance(rate, LearningRate) else LearningRate.of(rate)
    choice("overflow", overflow, OVERFLOWS)
    value = parameter.value
    if parameter.accumulator is None:
        quantizer = Quantizer(value.format, rounding, overflow, words)
        codes, tally = update_alone(value, grad, rate, quantizer)
        return Parameter(codes), tally
    if overflow != "saturate":
        raise InputError(
            f"overflow must be saturate where there is an accumulator, got {shown(overflow)}; leave "
            f"it out, or the accumulator"
        )
    accumulator = parameter.accumulator
    codes = value.operand.copy()
    rest = accumulator.operand.copy()
    quantizer = Quantizer(accumulator.format, rounding, words=words)
    tally = update_in_place(codes, rest, grad, rate, value.format, quantizer)
    updated = Parameter(Tensor._of(codes, value.format), Tensor._of(rest, accumulator.format))
    return updated, tally


def difference(value: Tensor, grad: Tensor, rate: LearningRate) -> Exact:
    """value - rate * grad, exact."""
    factor = rate.odd
    scaled_exp = grad.format.step_exp + factor.exponent
    step_exp = min(value.format.step_exp, scaled_exp)
    channels = value.shape[-1] if value.ndim else 1
    first = np.full(channels, 1 << (value.format.step_exp - step_exp), object)
    second = np.full(channels, -factor.mantissa << (scaled_exp - step_exp), object)
    zero = np.full(channels, 0, object)
    form = ChannelSum(first, second, zero, step_exp, value.format, grad.format)
    if not value.ndim:
        return form.of(value.operand.reshape(1), grad.operand.reshape(1)).reshape()
    return form.of(value.operand, grad.operand)


def scaled(grad: Tensor, rate: LearningRate) -> Exact:
    """rate * grad, exact."""
    factor = rate.odd
    format = holding(
        factor.mantissa * magnitude(grad.format), grad.format.step_exp + factor.exponent
    )
    return Sums(grad.operand.astype(np.int64) * factor.mantissa, format)


def update_alone(
    value: Tensor, grad: Tensor, rate: LearningRate, quantizer: Quantizer
) -> tuple[Tensor, UpdateTally]:
    """One SGD step of a parameter without an accumulator; the quantizer is of its own format."""
    seen: list[Counts] = []
    counted = replace(quantizer, counted=seen.append)
    codes = difference(value, grad, rate).to(counted)
    stopped = int(np.count_nonzero((codes.codes == value.codes) & (grad.codes != 0)))
    return codes, UpdateTally(seen[0].clipped, 0, 0, stopped)


def update_shift(grad: Format, rate: Factor | OddFactor, accumulator: Format) -> int:
    """Bits to drop of gradient codes times the rate's mantissa; below 0, bits to add."""
    return accumulator.step_exp - grad.step_exp - rate.exponent


def scaled_grads(
    grad: Tensor, rate: LearningRate, accumulator: Format
) -> tuple[np.ndarray, kernel.Scale, int]:
    """(integers, their scale, bits to drop, 0 to 62): together the update before its rounding.

    Where the kernel's int64 does not hold the product, the scale is 1: of a shift above 62 the lost
    bits are one sticky bit, and what passes 2**UPDATE_BITS becomes FAR_UPDATE.
    """
    factor = rate.odd
    shift = update_shift(grad.format, factor, accumulator)
    bits = grad.format.bits + MANTISSA_BITS + max(-shift, 0)
    if shift <= MAX_SHIFT and bits <= UPDATE_BITS:
        return grad.operand, kernel.Scale(factor.mantissa, max(-shift, 0)), max(shift, 0)
    products = grad.operand.astype(np.int64) * factor.mantissa
    if shift > 0:
        products, shift = align(products, shift)
        return products, kernel.Scale(1, 0), shift
    left = min(-shift, UPDATE_BITS + 1)
    outside = np.abs(products) > 2**UPDATE_BITS >> left
    far = np.where(products < 0, -FAR_UPDATE, FAR_UPDATE)
    return np.where(outside, far, products << left), kernel.Scale(1, 0), 0


def update_in_place(
    codes: np.ndarray,
    accumulators: np.ndarray,
    grad: Tensor,
    rate: LearningRate,
    format: Format,
    quantizer: Quantizer,
) -> UpdateTally:
    """One SGD step on arrays of storage types.

    quantizer: rounds the update to the accumulator's format; its overflow is saturation.
    """
    accumulator = quantizer.format
    grads, scale, shift = scaled_grads(grad, rate, accumulator)
    held = kernel.Held(
        accumulator.bits,
        format.min_code,
        format.max_code,
        accumulator.min_code,
        accumulator.max_code,
    )
    counts = kernel.update(
        codes.reshape(-1),
        accumulators.reshape(-1),
        grads.reshape(-1),
        quantizer.bases(_exact_updates(grads, scale, quantizer), shift),
        scale,
        Rounding.of(quantizer.rounding, shift),
        held,
    )
    return UpdateTally(*(int(count) for count in counts))


def _exact_updates(grads: np.ndarray, scale: kernel.Scale, quantizer: Quantizer) -> np.ndarray:
    """The integers that the kernel rounds; as they come where only their shape counts."""
    if not isinstance(quantizer.words, DroppedBits):
        return grads
    return grads.astype(np.int64) * scale.mantissa << scale.left


def velocity_sums(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], multipliers: tuple[int, int, int]
) -> np.ndarray:
    """int64 sums of velocities, gradients and parameters, each times its multiplier.

    The caller bounds the sum of the magnitudes below 2**62.
    """
    sums = np.empty(arrays[0].shape, np.int64)
    kernel.velocity_sums(*arrays, multipliers, sums)
    return sums

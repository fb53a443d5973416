"""Rounding and overflow of whole arrays, with the random words given rather than drawn."""
from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import rounding as kernel
from fxsim.nn.codes import MANTISSA_BITS, LearningRate
from fxsim.requantizer import Requantizer

_UNBOUNDED = (-(2**62), 2**62, kernel.SATURATE, 63, 1)


def quantized(values: np.ndarray, step_exp: int, format: Format, rounding: str, overflow: str,
              words: np.ndarray | None = None) -> np.ndarray:
    """Codes (int64) in `format` of integers with step 2**step_exp.

    words: uint32 of the shape of values, for the stochastic roundings.
    """
    requantizer = Requantizer(step_exp, format, rounding, overflow)
    values, shift = kernel.align(values, requantizer.shift)
    return _requantize(values, shift, requantizer, requantizer.bounds(), words)


def update_shifts(grads: Format, accumulators: Format, rate: LearningRate) -> tuple[int, int]:
    """(left, right) shift from gradient codes times the learning rate's mantissa to accumulator steps."""
    shift = accumulators.step_exp - grads.step_exp - rate.exponent
    left, right = max(-shift, 0), max(shift, 0)
    if right > kernel.MAX_SHIFT or grads.bits + MANTISSA_BITS + left > kernel.MAX_SHIFT:
        raise InputError(f"updates of {grads} times learning rate {rate.real:g} do not fit 62 bits above {accumulators}")
    return left, right


def updates(grads: np.ndarray, format: Format, accumulators: Format, rate: LearningRate, rounding: str,
            words: np.ndarray | None = None) -> np.ndarray:
    """u = round(rate * grads) in accumulator steps (int64), as kernels/update.py defines it."""
    left, right = update_shifts(format, accumulators, rate)
    scaled = grads.astype(np.int64) * rate.mantissa << left
    requantizer = Requantizer(accumulators.step_exp - right, accumulators, rounding)
    return _requantize(scaled, right, requantizer, _UNBOUNDED, words)


def update_format(grads: Format, accumulators: Format, rate: LearningRate) -> Format:
    """The format that holds every update of gradients of format `grads`: step of the accumulators, exact width."""
    left, right = update_shifts(grads, accumulators, rate)
    most = -(-(2 ** (grads.bits - grads.signed) * rate.mantissa << left) >> right)
    bits = most.bit_length() + 1
    return Format(bits, accumulators.step_exp + bits - 1)


def _requantize(values, shift, requantizer: Requantizer, bounds, words) -> np.ndarray:
    bases = np.empty(0, np.int64)
    if requantizer.stochastic:
        bases = kernel.stochastic_base(words, requantizer.rounding, shift).reshape(-1)
    out = np.empty(values.shape, np.int64)
    kernel.requantize_array(np.ascontiguousarray(values).reshape(-1), bases, shift, requantizer.terms(shift), bounds,
                            out.reshape(-1))
    return out

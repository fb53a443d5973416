"""Rounding and overflow of whole arrays, with the random words given rather than drawn."""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.factors import MANTISSA_BITS, LearningRate
from fxsim.formats import Format
from fxsim.kernels import rounding as kernel
from fxsim.requantizer import Requantizer


def quantized(
    values: np.ndarray,
    step_exp: int,
    format: Format,
    rounding: str,
    overflow: str,
    words: np.ndarray | None = None,
) -> np.ndarray:
    """Codes (int64) in `format` of integers with step 2**step_exp.

    words: uint32 of the shape of values, for the stochastic roundings.
    """
    requantizer = Requantizer(step_exp, format, rounding, overflow)
    values, shift = kernel.align(values, requantizer.shift)
    return _requantize(values, shift, rounding, requantizer.bounds(), words)


def rounded(
    values: np.ndarray, shift: int, rounding: str, words: np.ndarray | None = None
) -> np.ndarray:
    """values / 2**shift (int64), 0 <= shift <= 62, without any bounds."""
    return _requantize(values, shift, rounding, (-(2**62), 2**62, kernel.SATURATE, 63, 1), words)


def narrowed(format: Format, bits: int) -> Format:
    """The format with `bits` fewer bits at the upper end: the same step, a smaller range."""
    return Format(format.bits - bits, format.range_exp - bits, format.signed)


def bounded(codes: np.ndarray, format: Format, overflow: str) -> np.ndarray:
    """Codes (int64) brought into a format of at most 32 bits."""
    return quantized(codes, format.step_exp, format, "floor", overflow)


def update_shifts(grads: Format, accumulators: Format, rate: LearningRate) -> tuple[int, int]:
    """(left, right) shift from gradient codes times the learning rate's mantissa to accumulator
    steps.
    """
    shift = accumulators.step_exp - grads.step_exp - rate.exponent
    left = max(-shift, 0)
    right = max(shift, 0)
    if right > kernel.MAX_SHIFT or grads.bits + MANTISSA_BITS + left > kernel.MAX_SHIFT:
        raise InputError(
            f"updates of {grads} at learning rate {rate.real:g} do not fit 62 bits above "
            f"{accumulators}; "
            "change the accumulators' format"
        )
    return left, right


def updates(
    grads: np.ndarray,
    format: Format,
    accumulators: Format,
    rate: LearningRate,
    rounding: str,
    words: np.ndarray | None = None,
) -> np.ndarray:
    """u = round(rate * grads) in accumulator steps (int64), as kernels/update.py defines it."""
    left, right = update_shifts(format, accumulators, rate)
    return rounded(grads.astype(np.int64) * rate.mantissa << left, right, rounding, words)


def update_format(grads: Format, accumulators: Format, rate: LearningRate) -> Format:
    """The format that holds every update of gradients of format `grads`.

    Step of the accumulators, exact width.
    """
    left, right = update_shifts(grads, accumulators, rate)
    most = -(-(2 ** (grads.bits - grads.signed) * rate.mantissa << left) >> right)
    bits = most.bit_length() + 1
    return Format(bits, accumulators.step_exp + bits - 1)


def _requantize(values, shift: int, rounding: str, bounds, words) -> np.ndarray:
    bases = np.empty(0, np.int64)
    terms = (0, 0, 0, 0)
    if rounding in kernel.STOCHASTIC:
        bases = kernel.stochastic_base(words, rounding, shift).reshape(-1)
    else:
        terms = kernel.rounding_terms(rounding, shift)
    out = np.empty(values.shape, np.int64)
    kernel.requantize_array(
        np.ascontiguousarray(values).reshape(-1), bases, shift, terms, bounds, out.reshape(-1)
    )
    return out

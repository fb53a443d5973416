"""Rounding and overflow of whole arrays, with the random words given rather than drawn."""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import STOCHASTIC, Format
from fxsim.ops.update import UPDATE_BITS, scaled_grads, update_shift
from fxsim.quantizer import Quantizer, shifted
from fxsim.tensor import Tensor
from fxsim.words import DroppedBits


def quantized(
    values: np.ndarray,
    step_exp: int,
    format: Format,
    rounding: str,
    overflow: str,
    words: np.ndarray | DroppedBits | None = None,
) -> np.ndarray:
    """Codes (int64) in `format` of integers with step 2**step_exp.

    words: as for `quantizer_of`, of the shape of values.
    """
    quantizer = quantizer_of(format, rounding, overflow, words)
    return quantizer.quantized(values, step_exp).astype(np.int64)


def quantizer_of(
    format: Format, rounding: str, overflow: str, words: np.ndarray | DroppedBits | None
) -> Quantizer:
    """The Quantizer of these modes.

    words: for the stochastic roundings: uint32, or the dropped bits, which make one rounding of
    both.
    """
    if rounding not in STOCHASTIC:
        return Quantizer(format, rounding, overflow)
    chosen = "stochastic" if isinstance(words, DroppedBits) else rounding
    return Quantizer(format, chosen, overflow, words)


def rounded(
    values: np.ndarray, shift: int, rounding: str, words: np.ndarray | DroppedBits | None = None
) -> np.ndarray:
    """values / 2**shift (int64), 0 <= shift <= 62, without any bounds."""
    return shifted(values, shift, rounding, words)


def narrowed(format: Format, bits: int) -> Format:
    """The format with `bits` fewer bits at the upper end: the same step, a smaller range."""
    return Format(format.bits - bits, format.range_exp - bits, format.signed)


def bounded(codes: np.ndarray, format: Format, overflow: str) -> np.ndarray:
    """Codes (int64) brought into a format: of at most 32 bits, or of any width where they wrap."""
    if overflow == "wrap":
        mask = 2**format.bits - 1  # int64 itself wraps, which leaves the lower bits right
        return ((codes - format.min_code) & mask) + format.min_code
    return quantized(codes, format.step_exp, format, "floor", overflow)


def updates(
    grads: np.ndarray,
    format: Format,
    accumulators: Format,
    rate: LearningRate,
    rounding: str,
    words: np.ndarray | DroppedBits | None = None,
) -> np.ndarray:
    """u = round(rate * grads) in accumulator steps (int64), as fxsim.ops.sgd_update defines it.

    Raises:
        InputError: where u may need more than 62 bits.
    """
    update_format(format, accumulators, rate)
    wide = Format(format.bits + 1, format.range_exp + 1)  # codes that were misread have a bit more
    values, scale, shift = scaled_grads(Tensor(grads, wide), rate, accumulators)
    values = values.astype(np.int64) * scale.mantissa << scale.left
    return rounded(values, shift, rounding, words)


def update_format(grads: Format, accumulators: Format, rate: LearningRate) -> Format:
    """The format that holds every update of gradients of format `grads`.

    Step of the accumulators, exact width.

    Raises:
        InputError: for more than 62 bits.
    """
    shift = update_shift(grads, rate, accumulators)
    product = 2 ** (grads.bits - grads.signed) * rate.mantissa
    most = -(-(product << max(-shift, 0)) >> max(shift, 0))
    bits = most.bit_length() + 1
    if bits > UPDATE_BITS:
        raise InputError(
            f"updates of gradients in {grads} need {bits} bits at the step of {accumulators}, at "
            f"most {UPDATE_BITS} are exported; choose a smaller learning rate"
        )
    return Format(bits, accumulators.step_exp + bits - 1)

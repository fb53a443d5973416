"""Parameter: codes with the accumulator that keeps what lies below their step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxsim.errors import InputError
from fxsim.factors import MANTISSA_BITS, LearningRate
from fxsim.formats import Format
from fxsim.kernels.elementwise import update as kernel
from fxsim.kernels.rounding import MAX_SHIFT
from fxsim.nn.optimizer import Velocity
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream
from fxsim.tensor import quantize


@dataclass(frozen=True)
class UpdateTally:
    """Elements whose code or accumulator saturated, gradients whose update rounded to 0, updates
    that left the code as it was."""

    weights_clipped: int
    accumulators_clipped: int
    flushed: int
    stopped: int


@dataclass
class Parameter:
    """Weights or biases in training.

    `codes` in `format`, `accumulators` below its step, `velocity` where there is one.
    """

    codes: np.ndarray
    accumulators: np.ndarray
    format: Format
    accumulator_format: Format
    velocity: Velocity | None = None

    @classmethod
    def quantized(cls, real: np.ndarray, format: Format, accumulator_format: Format) -> Parameter:
        """`real` rounded to nearest, saturated; the accumulators hold 0."""
        codes = quantize(real, format).codes.astype(format.storage)
        return cls(
            codes, np.zeros(codes.shape, accumulator_format.storage), format, accumulator_format
        )

    @property
    def running(self) -> np.ndarray:
        """int64 codes, at the accumulators' step, of the running parameter.

        Codes and accumulators as one number.
        """
        return (self.codes.astype(np.int64) << self.accumulator_format.bits) + self.accumulators

    def update(
        self,
        grads: np.ndarray,
        grads_step_exp: int,
        learning_rate: LearningRate,
        rounding: str,
        stream: Stream | None,
    ) -> UpdateTally:
        """One SGD step in place.

        The running parameter minus learning_rate * grads (kernels/update.py).
        """
        step_exp = grads_step_exp + learning_rate.exponent
        requantizer = Requantizer(step_exp, self.accumulator_format, rounding)
        left = max(-requantizer.shift, 0)
        shift = max(requantizer.shift, 0)
        if shift > MAX_SHIFT or 8 * grads.itemsize + MANTISSA_BITS + left > MAX_SHIFT:
            raise InputError(
                f"learning rate {learning_rate.real:g} times a gradient step of 2^{grads_step_exp} "
                f"is too far "
                f"from the accumulator's step 2^{self.accumulator_format.step_exp}; change its "
                f"format"
            )
        counts = kernel.update(
            self.codes.reshape(-1),
            self.accumulators.reshape(-1),
            grads.reshape(-1),
            requantizer.bases(stream, grads.shape, shift).reshape(-1),
            learning_rate.mantissa,
            left,
            shift,
            requantizer.terms(shift),
            self.accumulator_format.bits,
            (self.format.min_code, self.format.max_code),
            (self.accumulator_format.min_code, self.accumulator_format.max_code),
        )
        return UpdateTally(*(int(n) for n in counts))

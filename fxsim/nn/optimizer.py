"""Momentum and weight decay.

Where either is on, every parameter has a velocity, which takes the gradient's place in the update:

    v' = mu v + G + lambda W        W' = W - gamma v'

as in I. Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML
2013), in the form that frameworks use.  Weight decay is of weights alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.factors import Factor
from fxsim.fields import check_fields
from fxsim.formats import Format
from fxsim.ops.update import velocity_sums
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor

MAX_MOMENTUM = 0.9999
MAX_SUM_BITS = 62


@dataclass(frozen=True)
class Optimizer:
    """mu, lambda and the width of velocities; 0 and 0 for plain SGD, which has no velocities.

    Both executors take the nearest mu and lambda that a 16-bit mantissa holds.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a value outside its range.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity_bits: int = 24

    def __post_init__(self) -> None:
        check_fields(self, "")
        if not 0 <= self.momentum <= MAX_MOMENTUM:
            raise InputError(f"momentum must be 0 to {MAX_MOMENTUM}, got {self.momentum}")
        if not 0 <= self.weight_decay < 1:
            raise InputError(f"weight_decay must be from 0 to below 1, got {self.weight_decay}")
        if not 2 <= self.velocity_bits <= 32:
            raise InputError(f"velocity_bits must be 2 to 32, got {shown(self.velocity_bits)}")

    def __bool__(self) -> bool:
        return bool(self.momentum or self.weight_decay)

    @property
    def mu(self) -> Fraction:
        """The momentum, with a mantissa of 16 bits."""
        return _factor(self.momentum)

    def decay(self, kind: str) -> Fraction:
        """lambda for parameters of that kind: 0 for all but 'weight'."""
        return _factor(self.weight_decay) if kind == "weight" else Fraction(0)

    def velocity_format(self, kind: str, parameter: Format, grads: Format) -> Format:
        """velocity_bits over the least range that holds all velocities.

        (r_G + lambda r_W) / (1 - mu).
        """
        largest = _range(grads) + self.decay(kind) * _range(parameter)
        return Format(self.velocity_bits, _ceil_log2(largest / (1 - self.mu)))


PLAIN_SGD = Optimizer()


def velocity_tensor(kind: str) -> str:
    """The name of the velocities of 'weight', 'bias', 'gamma' or 'beta', one of
    precision.VELOCITIES.
    """
    return "velocities" if kind == "weight" else f"{kind}_velocities"


def _factor(value: float) -> Fraction:
    return Factor.nearest(value).exact if value else Fraction(0)


def _range(format: Format) -> Fraction:
    return Fraction(2) ** format.range_exp


def _ceil_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent + (Fraction(2) ** exponent < value)


@dataclass
class Velocity:
    """Velocities `codes` in `format`.

    multipliers: of velocity, gradient and parameter codes in their exact sum, whose step is
    2**step_exp.
    """

    codes: np.ndarray
    format: Format
    multipliers: tuple[int, int, int]
    step_exp: int

    @classmethod
    def zeros(
        cls,
        shape: tuple[int, ...],
        optimizer: Optimizer,
        kind: str,
        parameter: Format,
        grads: Format,
    ) -> Velocity:
        """Velocities 0 of parameters of a kind ('weight', 'bias', ...) with their formats.

        Raises InputError where the exact sum does not fit 62 bits.
        """
        format = optimizer.velocity_format(kind, parameter, grads)
        steps = (
            optimizer.mu * _step(format),
            _step(grads),
            optimizer.decay(kind) * _step(parameter),
        )
        finest = max(*(step.denominator for step in steps), _step(format).denominator)
        kept, added, decayed = (int(step * finest) for step in steps)
        multipliers = (kept, added, decayed)
        largest = sum(
            multiplier << own.bits - 1
            for multiplier, own in zip(multipliers, (format, grads, parameter))
        )
        if largest >= 2**MAX_SUM_BITS:
            raise InputError(
                f"{kind}: velocity, gradient and decay add up to {largest.bit_length() + 1} bits, "
                f"at most "
                f"{MAX_SUM_BITS} are exact; choose fewer velocity_bits, or 0 instead of small "
                f"constants"
            )
        return cls(np.zeros(shape, format.storage), format, multipliers, 1 - finest.bit_length())

    def advance(self, grads: Tensor, parameter: Tensor, quantizer: Quantizer) -> None:
        """v' = mu v + G + lambda W in place, exact and then quantized once."""
        sums = velocity_sums((self.codes, grads.operand, parameter.operand), self.multipliers)
        quantizer.quantized(sums, self.step_exp, self.codes)


def _step(format: Format) -> Fraction:
    return Fraction(2) ** format.step_exp

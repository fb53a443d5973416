"""Positive real constants as a 16-bit mantissa and a power of two.

Learning rates, momentum, scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fxsim.errors import InputError, shown

MANTISSA_BITS = 16


class OddFactor(NamedTuple):
    """A positive constant mantissa * 2**exponent with an odd mantissa."""

    mantissa: int
    exponent: int


@dataclass(frozen=True)
class Factor:
    """A positive constant mantissa * 2**exponent; the mantissa is 2**15 to 2**16 - 1."""

    mantissa: int
    exponent: int

    def __post_init__(self) -> None:
        for name in ("mantissa", "exponent"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {shown(value)}")
        if not 2 ** (MANTISSA_BITS - 1) <= self.mantissa < 2**MANTISSA_BITS:
            raise InputError(
                f"mantissa must be {2 ** (MANTISSA_BITS - 1)} to {2**MANTISSA_BITS - 1}, got "
                f"{shown(self.mantissa)}; LearningRate.of gives the nearest to a number"
            )

    @classmethod
    def nearest(cls, value: float | Fraction) -> Factor:
        """The nearest factor (ties up) to a real value above 0, exactly."""
        exact = Fraction(value)
        exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - MANTISSA_BITS
        if exact >= Fraction(2) ** (exponent + MANTISSA_BITS):
            exponent += 1
        mantissa = math.floor(exact / Fraction(2) ** exponent + Fraction(1, 2))
        return (
            cls(mantissa >> 1, exponent + 1)
            if mantissa == 2**MANTISSA_BITS
            else cls(mantissa, exponent)
        )

    @property
    def odd(self) -> OddFactor:
        """The same constant with the least mantissa."""
        zeros = (self.mantissa & -self.mantissa).bit_length() - 1
        return OddFactor(self.mantissa >> zeros, self.exponent + zeros)

    @property
    def exact(self) -> Fraction:
        return self.mantissa * Fraction(2) ** self.exponent

    @property
    def real(self) -> float:
        return math.ldexp(self.mantissa, self.exponent)


class LearningRate(Factor):
    """gamma of the update."""

    @classmethod
    def of(cls, value: float) -> LearningRate:
        """The nearest learning rate (ties up) to a real value above 0."""
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"learning rate must be a number, got {type(value).__name__}")
        if not 0 < value < math.inf:
            raise InputError(f"learning rate must be a finite number above 0, got {shown(value)}")
        return cls.nearest(Fraction(value.item() if isinstance(value, np.generic) else value))

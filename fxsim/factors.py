"""Positive real constants as a 16-bit mantissa and a power of two.

Learning rates, momentum, scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple, TypeVar

from fxsim.errors import InputError, shown
from fxsim.fields import check_fields, number

Self = TypeVar("Self", bound="Factor")

MANTISSA_BITS = 16
MIN_EXPONENT = -1100
MAX_EXPONENT = 1008
"""Between these exponents lie all factors that come from a float."""


class OddFactor(NamedTuple):
    """A positive constant mantissa * 2**exponent with an odd mantissa."""

    mantissa: int
    exponent: int


@dataclass(frozen=True)
class Factor:
    """A positive constant mantissa * 2**exponent, the mantissa of exactly 16 bits.

    Args:
        mantissa: 2**15 to 2**16 - 1; the kernels' proofs that no sum overflows rest on it.
        exponent: MIN_EXPONENT to MAX_EXPONENT.

    Raises:
        InputError: a mantissa or an exponent outside these ranges.
        TypeError: one that is no integer.
    """

    mantissa: int
    exponent: int

    _NOUN: ClassVar[str] = "factor"

    def __post_init__(self) -> None:
        check_fields(self)
        name = type(self).__name__
        if not 2 ** (MANTISSA_BITS - 1) <= self.mantissa < 2**MANTISSA_BITS:
            raise InputError(
                f"{name} mantissa must be 2**{MANTISSA_BITS - 1} to 2**{MANTISSA_BITS} - 1, got "
                f"{shown(self.mantissa)}; use {name}.nearest for any value"
            )
        if not MIN_EXPONENT <= self.exponent <= MAX_EXPONENT:
            raise InputError(
                f"{name} exponent must be {MIN_EXPONENT} to {MAX_EXPONENT}, got "
                f"{shown(self.exponent)}"
            )

    @classmethod
    def nearest(cls: type[Self], value: float | Fraction) -> Self:
        """The nearest factor (ties up) to a real value above 0, exactly."""
        if not isinstance(value, Fraction):
            value = number(cls._NOUN, value)
        if value <= 0:
            raise InputError(f"{cls._NOUN} must be a finite number above 0, got {shown(value)}")
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
        """The exact value."""
        return self.mantissa * Fraction(2) ** self.exponent

    @property
    def real(self) -> float:
        """The value as a float: exact within the range of floats."""
        return math.ldexp(self.mantissa, self.exponent)


class LearningRate(Factor):
    """gamma of the update.

    Example:
        >>> LearningRate.of(0.5)
        LearningRate(mantissa=32768, exponent=-16)
        >>> LearningRate.of(0.1).real
        0.10000038146972656
    """

    _NOUN: ClassVar[str] = "learning rate"

    @classmethod
    def of(cls, value: float) -> LearningRate:
        """The nearest learning rate (ties up) to a real value above 0."""
        return cls.nearest(value)

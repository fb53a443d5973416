"""Integer arrays as the executor holds them, and constants as integers."""
from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.rng import Stream

MANTISSA_BITS = 16


@lru_cache(maxsize=4096)
def storage(format: Format) -> np.dtype:
    """The signed integer type that the kernels keep codes of `format` in: int16 where they fit."""
    bits = format.bits + (not format.signed)
    return np.dtype(next(f"int{width}" for width in (16, 32, 64) if bits <= width))


@dataclass(frozen=True)
class Factor:
    """A positive constant mantissa * 2**exponent, the mantissa of exactly 16 bits (2**15 .. 2**16 - 1)."""

    mantissa: int
    exponent: int

    @classmethod
    def nearest(cls, value: float | Fraction) -> Factor:
        """The nearest factor (ties up) to a real value above 0, exactly."""
        exact = Fraction(value)
        exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - MANTISSA_BITS
        if exact >= Fraction(2) ** (exponent + MANTISSA_BITS):
            exponent += 1
        mantissa = math.floor(exact / Fraction(2) ** exponent + Fraction(1, 2))
        return cls(mantissa >> 1, exponent + 1) if mantissa == 2**MANTISSA_BITS else cls(mantissa, exponent)

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
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise InputError(f"learning rate must be a finite number above 0, got {value!r}")
        return cls.nearest(value)


def pixel_codes(pixel_max: int, format: Format) -> np.ndarray:
    """Codes of p / pixel_max for p = 0 .. pixel_max: nearest, ties away from zero, saturated.

    Integer arithmetic throughout; index it with an array of pixels.
    """
    step = Fraction(2) ** format.step_exp
    nearest = (math.floor(Fraction(p, pixel_max) / step + Fraction(1, 2)) for p in range(pixel_max + 1))
    return np.array([min(code, format.max_code) for code in nearest], storage(format))


def tensor_stream(seed: int, step: int, layer: str, tensor: str) -> Stream:
    """The random words of one tensor of one layer at one step."""
    return Stream(seed, step, f"{layer}.{tensor}")

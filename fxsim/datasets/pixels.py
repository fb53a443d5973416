"""Pixels as codes of the first layer's activations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from fxsim.formats import Format


def pixel_codes(pixel_max: int, format: Format) -> np.ndarray:
    """Codes of p / pixel_max for p = 0 .. pixel_max: nearest, ties away from zero, saturated.

    Integer arithmetic throughout; index it with an array of pixels.
    """
    scale = Fraction(2) ** -format.step_exp / pixel_max
    above = 2 * scale.numerator
    below = 2 * scale.denominator
    nearest = ((above * p + scale.denominator) // below for p in range(pixel_max + 1))
    return np.array([min(code, format.max_code) for code in nearest], format.storage)

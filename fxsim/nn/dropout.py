"""What both executors agree on about dropout: which elements stay, and by what they are scaled.

In training an element stays with the probability 1 - rate and is then scaled by 1 / (1 - rate), so
that inference needs no scale.  Source: N. Srivastava et al., "Dropout" (JMLR 2014), section 10,
scaled in training."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from fxsim.factors import MANTISSA_BITS, Factor
from fxsim.nn.spec import Layer
from fxsim.rng import tensor_stream


def kept(layer: Layer, shape: tuple[int, ...], step: int, seed: int) -> np.ndarray:
    """True where the word of Stream(seed, step, "<layer>.dropout") is at least round(rate *
    2**32), at most 2**32 - 1.
    """
    threshold = min(round(Fraction(layer.dropout) * 2**32), 2**32 - 1)
    return tensor_stream(seed, step, layer.name, "dropout").words(shape) >= np.uint32(threshold)


def scale(layer: Layer) -> Factor:
    """1 / (1 - rate) as the integer executor multiplies by it."""
    return Factor.nearest(1 / (1 - Fraction(layer.dropout)))


def scale_bits(layer: Layer) -> tuple[int, int]:
    """log2 of the scale, rounded down and up; (0, 0) without dropout."""
    if not layer.dropout:
        return 0, 0
    factor = scale(layer)
    whole = factor.exponent + MANTISSA_BITS - 1
    return whole, whole + (factor.mantissa != 2 ** (MANTISSA_BITS - 1))

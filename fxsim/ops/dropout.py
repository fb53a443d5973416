"""Dropout: which elements stay, and by what they are scaled.

In training an element stays with the probability 1 - rate and is then scaled by 1 / (1 - rate), so
that inference needs no scale.  Source: N. Srivastava et al., "Dropout" (JMLR 2014), section 10,
scaled in training.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.factors import MANTISSA_BITS, Factor
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise.dropout import scale_kept
from fxsim.kernels.rounding import MAX_SHIFT
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import MASK, Exact, holding, magnitude
from fxsim.quantizer import Quantizer, Words, check_words, words_at
from fxsim.tensor import Tensor

MAX_RATE = 0.9999
"""Up to here the scale is below 2**15: a mantissa of 16 bits shifted to the right."""


def kept(rate: float, words: np.ndarray) -> np.ndarray:
    """True where a word is at least round(rate * 2**32), at most 2**32 - 1."""
    threshold = min(round(Fraction(rate) * 2**32), 2**32 - 1)
    stays: np.ndarray = words >= np.uint32(threshold)
    return stays


@lru_cache(maxsize=256)
def scale(rate: float) -> Factor:
    """1 / (1 - rate), the nearest with a mantissa of 16 bits."""
    return Factor.nearest(1 / (1 - Fraction(rate)))


def scale_bits(rate: float) -> tuple[int, int]:
    """log2 of the scale, rounded down and up; (0, 0) without dropout."""
    if not rate:
        return 0, 0
    factor = scale(rate)
    down = factor.exponent + MANTISSA_BITS - 1
    return down, down + (factor.mantissa != 2 ** (MANTISSA_BITS - 1))


def grad_format(format: Format, rate: float) -> Format:
    """The format that a training step gives a gradient before dropout.

    Its range holds the scaled gradient, its step is coarser by the scale's power of two.
    """
    down, up = scale_bits(rate)
    return Format(format.bits + up - down, format.range_exp + up)


def dropout(x: Tensor, rate: float, words: Words) -> tuple[Exact, Tensor]:
    """(scaled x, kept): x / (1 - rate) where an element stays, else 0; exact, to be rounded.

    Args:
        x: codes of any shape.
        rate: share of the elements that become 0, from 0 to 0.9999.
        words: random words of 32 bits (see fxsim.Quantizer); an element stays where its word is at
            least rate * 2**32.

    Returns:
        The exact result, whose scale is the nearest with a mantissa of 16 bits, and `kept` (format
        `MASK`), for `dropout_grad`.

    Example:
        >>> import numpy as np
        >>> from fxsim import Format, Tensor, ops
        >>> words = np.array([0, 2**31, 2**32 - 1])
        >>> exact, kept = ops.dropout(Tensor([3, 3, -3], Format(4, 3)), 0.5, words)
        >>> exact.to(Format(4, 3)).codes, kept.codes
        (array([ 0,  6, -6], dtype=int8), array([0, 1, 1], dtype=uint8))
    """
    tensor_of("x", x)
    _check_rate(rate)
    check_words(words)
    stays = kept(rate, words_at(words, x.shape)).astype(np.uint8)
    return Scaled(x, stays, rate), Tensor._of(stays, MASK)


def dropout_grad(grad: Tensor, kept: Tensor, rate: float) -> Exact:
    """The gradient of dropout: grad / (1 - rate) where an element was kept, else 0; exact.

    Args:
        grad: gradient at the output.
        kept: of the forward call.
        rate: of the forward call.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> kept = Tensor([0, 1], ops.MASK)
        >>> ops.dropout_grad(Tensor([3, 3], Format(4, 3)), kept, 0.5).to(Format(5, 4)).codes
        array([0, 6], dtype=int8)
    """
    tensor_of("grad", grad)
    _check_rate(rate)
    of_shape("kept", tensor_of("kept", kept), grad.shape)
    if kept.format != MASK:
        raise InputError(f"kept must be in {MASK}, got {kept.format}; take the one of dropout")
    return Scaled(grad, kept.codes, rate)


def before_dropout(grads: np.ndarray, stays: np.ndarray, rate: float, format: Format) -> np.ndarray:
    """Gradient codes before dropout, from codes of `format` after it, in `grad_format`.

    stays: uint8, 1 where an element was kept.  Nothing is clipped: the format holds all.
    """
    wide = grad_format(format, rate)
    out = memory.empty(grads.shape, wide.storage)
    bounds = (wide.min_code, wide.max_code)
    scale_kept(grads, stays.view(np.bool_), scale(rate).mantissa, MANTISSA_BITS - 1, bounds, out)
    return out


def _check_rate(rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= MAX_RATE:
        raise InputError(f"rate must be 0 to {MAX_RATE}, got {shown(rate)}")


class Scaled(Exact):
    """Codes times the scale of dropout where they stay, else 0."""

    def __init__(self, x: Tensor, stays: np.ndarray, rate: float):
        self._codes = x.operand
        self._stays = stays
        self._factor = scale(rate)
        step_exp = x.format.step_exp + self._factor.exponent
        self.format = holding(magnitude(x.format) * self._factor.mantissa, step_exp)
        self.shape = x.shape

    def sums(self) -> np.ndarray:
        """The int64 codes: those that stay, times the mantissa of the scale."""
        scaled: np.ndarray = self._codes.astype(np.int64) * self._factor.mantissa * self._stays
        return scaled

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, mask or None); see Exact.rounded."""
        shift = quantizer.format.step_exp - self.format.step_exp
        modes = (quantizer.rounding, quantizer.overflow)
        if relu or modes != ("nearest_away", "saturate") or not 1 <= shift <= MAX_SHIFT:
            return super().rounded(quantizer, relu)
        bounds = (quantizer.format.min_code, quantizer.format.max_code)
        out = memory.empty(self.shape, quantizer.format.storage)
        stays = self._stays.view(np.bool_)
        clipped = scale_kept(self._codes, stays, self._factor.mantissa, shift, bounds, out)
        below, above = clipped
        zeros = np.count_nonzero((out == 0) & (self._codes != 0) & (self._stays != 0))
        saturated = below * (bounds[0] == 0) + above * (bounds[1] == 0)
        quantizer.tell(out.size, np.array([below, above, zeros - saturated]))
        return out, None

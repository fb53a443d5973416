"""Every choice that a tensor's computation has: the manifest's own, and others."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fxsim.activation import Activation
from fxsim.formats import Format
from fxsim.golden.arithmetic import bounded
from fxsim.golden.explain.dots import Summing
from fxsim.lfsr import LfsrWords

AS_STATED = "as stated"


@dataclass(frozen=True)
class Misread:
    """The codes of an operand taken for codes of another width or sign, or without their last
    bits.
    """

    tensor: str
    bits: int
    signed: bool
    dropped: int = 0

    def of(self, codes: np.ndarray) -> np.ndarray:
        kept = codes.astype(np.int64) >> self.dropped << self.dropped
        return bounded(kept, Format(self.bits, self.bits, self.signed), "wrap")


@dataclass(frozen=True)
class Index:
    """How a device comes to the index of a table.

    offset: what it adds to the index.  shift: bits by which too many (or, negative, too few) are
    dropped.  nearest: whether it rounds to the nearest index, ties up, instead of the floor.
    """

    offset: int = 0
    shift: int = 0
    nearest: bool = False


@dataclass(frozen=True)
class Semantics:
    """Every choice that recipes know how to make; the stated one is the default of a recipe.

    rounding, overflow: of the quantization.  narrower: bits by which its range is smaller.  shift:
    bits by which too many (or, negative, too few) are dropped.  guard_bits, guard_rounding: a
    rounding before it, to so many bits below the step (0: none).  summing: of the products.
    misread: an operand.  weights: key of WEIGHT_VIEWS.  placement: key of
    fxsim.golden.explain.placements.PLACEMENTS.  weights_from, bias_from: the tensors that
    are taken for the parameters.  bias: whether it is added.  mask: key of MASKS.  activation: the
    function that takes the place of the layer's own.  index: how a table's index goes wrong.
    last_maximum:
    which of several maxima a max pooling's gradient goes to.  averaging: rounding of average
    pooling, None for its own.  words: of registers, None for those that were exported.  variant: a
    change by its text, which its recipe knows.  factor: of
    the loss gradient, too many.

    In an update, rounding, overflow and narrower are the parameter's; update_rounding is that of u;
    the accumulator has accumulator_overflow, accumulator_narrower, and start: whether what it held
    counts; subtracted: how often u is.
    """

    rounding: str | None = None
    overflow: str | None = None
    narrower: int = 0
    shift: int = 0
    guard_bits: int = 0
    guard_rounding: str = "floor"
    summing: Summing = Summing()
    misread: Misread | None = None
    weights: str = "as stored"
    placement: str = AS_STATED
    weights_from: str = "weights"
    bias_from: str = "bias"
    bias: bool = True
    mask: str = "0 < Z < ceiling"
    activation: Activation | None = None
    index: Index = Index()
    last_maximum: bool = False
    averaging: str | None = None
    words: LfsrWords | None = None
    variant: str = ""
    factor: Fraction = Fraction(1)
    update_rounding: str | None = None
    accumulator_overflow: str = "saturate"
    accumulator_narrower: int = 0
    start: bool = True
    subtracted: int = 1


def _swap(first: int, second: int):
    """The weights as they come out where these two axes of memory are taken for each other."""

    def view(weights: np.ndarray) -> np.ndarray:
        shape = list(weights.shape)
        shape[first], shape[second] = shape[second], shape[first]
        return weights.reshape(shape).swapaxes(first, second)

    return view


WEIGHT_VIEWS = {
    "as stored": lambda weights: weights,
    "kernel flipped in rows and columns": lambda weights: weights[::-1, ::-1],
    "kernel rows and columns swapped": _swap(0, 1),
    "weights transposed (input and output channels swapped)": _swap(-2, -1),
}

MASKS = {
    "0 < Z < ceiling": lambda z, bound, codes: (z > 0) & (z < bound),
    "0 <= Z < ceiling": lambda z, bound, codes: (z >= 0) & (z < bound),
    "0 < Z <= ceiling": lambda z, bound, codes: (z > 0) & (z <= bound),
    "0 <= Z <= ceiling": lambda z, bound, codes: (z >= 0) & (z <= bound),
    "0 < Z, no upper end": lambda z, bound, codes: z > 0,
    "Z < ceiling, no lower end": lambda z, bound, codes: z < bound,
    "none, every gradient passes": lambda z, bound, codes: np.ones(z.shape, bool),
    "0 < quantized activation, Z < ceiling": lambda z, bound, codes: (codes > 0) & (z < bound),
}
"""Where a gradient passes the ReLU: of what the ReLU reads, its ceiling in the steps of that (see
fxsim.ops.exact.relu_bound), and the quantized codes.
"""

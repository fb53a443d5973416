"""What a tensor's computation may do differently, one change at a time."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.golden.dots import Dot, Summing
from fxsim.golden.manifest import Accumulator
from fxsim.kernels.rounding import STOCHASTIC
from fxsim.nn.spec import Dense, Layer

FARTHEST_SHIFT = 2
TILES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Semantics:
    """Every choice that `recipes.py` knows how to make; the manifest's own is the default of its recipe.

    rounding, overflow: of the quantization.  narrower: bits by which its range is smaller.  shift: bits by which too
    many (or, negative, too few) are dropped.  summing: of the products.  weights: key of WEIGHT_VIEWS.  bias: whether
    it is added.  mask: key of MASKS.  last_maximum: which of several maxima a max pooling's gradient goes to.
    averaging: rounding of average pooling.  divide: whether the loss gradient is divided by the batch.
    earlier_weights: whether the backward pass sees the weights as before the update.

    In an update, rounding, overflow and narrower are the parameter's; update_rounding is that of u; the accumulator has
    accumulator_overflow, accumulator_narrower, and start: whether what it held counts; subtract: whether u is
    subtracted.
    """

    rounding: str | None = None
    overflow: str | None = None
    narrower: int = 0
    shift: int = 0
    summing: Summing = Summing()
    weights: str = "as stored"
    bias: bool = True
    mask: str = "0 < Z < 2"
    last_maximum: bool = False
    averaging: str = "nearest_away"
    divide: bool = True
    earlier_weights: bool = True
    update_rounding: str | None = None
    accumulator_overflow: str = "saturate"
    accumulator_narrower: int = 0
    start: bool = True
    subtract: bool = True


@dataclass(frozen=True)
class Alternative:
    """One change of semantics, told in words."""

    text: str
    semantics: Semantics


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
    "0 < Z < 2": lambda z, bound, codes: (z > 0) & (z < bound),
    "0 <= Z < 2": lambda z, bound, codes: (z >= 0) & (z < bound),
    "0 < Z <= 2": lambda z, bound, codes: (z > 0) & (z <= bound),
    "0 <= Z <= 2": lambda z, bound, codes: (z >= 0) & (z <= bound),
    "0 < Z, no upper end": lambda z, bound, codes: z > 0,
    "Z < 2, no lower end": lambda z, bound, codes: z < bound,
    "none, every gradient passes": lambda z, bound, codes: np.ones(z.shape, bool),
    "0 < quantized activation, Z < 2": lambda z, bound, codes: (codes > 0) & (z < bound),
}
"""Where a gradient passes the clipped ReLU, of pre-activations z, 2 in their steps, and the quantized codes."""


AVERAGINGS = {
    "nearest_away": lambda total, count: np.sign(total) * ((2 * np.abs(total) + count) // (2 * count)),
    "nearest_up": lambda total, count: (2 * total + count) // (2 * count),
    "floor": lambda total, count: total // count,
    "zero": lambda total, count: np.sign(total) * (np.abs(total) // count),
}
"""Roundings of the division that averages `count` codes."""


def quantization_changes(default: Semantics, format: Format) -> Iterator[Alternative]:
    """Other roundings, other overflows, a narrower range, a shift that is off."""
    yield from rounding_changes(default)
    if default.overflow is not None:
        for mode in OVERFLOWS:
            if mode != default.overflow:
                yield change(default, f"overflow {mode} instead of {default.overflow}", overflow=mode)
        yield from range_changes(default, format, f"overflow {default.overflow}")
    for bits in range(1, FARTHEST_SHIFT + 1):
        yield change(default, f"{_bits(bits)} too many dropped (values {2**bits} times too small)", shift=bits)
        yield change(default, f"{_bits(bits)} too few dropped (values {2**bits} times too large)", shift=-bits)


def range_changes(default: Semantics, format: Format, overflow: str, field: str = "narrower") -> Iterator[Alternative]:
    for bits in range(1, format.bits):
        yield change(default, f"range {_bits(bits)} narrower, {overflow}", **{field: bits})


def rounding_changes(default: Semantics) -> Iterator[Alternative]:
    for mode in ROUNDINGS:
        known = mode not in STOCHASTIC or default.rounding in STOCHASTIC  # random words are only where they are used
        if known and mode != default.rounding:
            yield change(default, f"rounding {mode} instead of {default.rounding}", rounding=mode)


def summing_changes(default: Semantics, accumulator: Accumulator, dot: Dot, product_bits: int) -> Iterator[Alternative]:
    """Products truncated; the accumulator narrower, overflowing otherwise, or fed in another order."""
    for drop in range(1, product_bits):
        yield _sum_change(default, f"products truncated by {_bits(drop)} before they are added", drop=drop)
    if accumulator.overflow == "exact":
        yield from _narrower_changes(default, accumulator.bits, tuple(_OVERFLOW_TEXTS), dot)
        return
    for overflow, text in {"exact": "wide enough to be exact", **_OVERFLOW_TEXTS}.items():
        if overflow != accumulator.overflow:
            yield _sum_change(default, f"accumulator of {_bits(accumulator.bits)}: {text}", overflow=overflow)
    yield from _narrower_changes(default, accumulator.bits, (accumulator.overflow,), dot, orders=False)
    if accumulator.overflow == "saturate":
        yield from _order_changes(default, dot)


_OVERFLOW_TEXTS = {"wrap": "it wraps", "saturate": "it saturates after every addition",
                   "saturate_end": "it saturates once, at the end"}


def _narrower_changes(default: Semantics, bits: int, overflows: tuple[str, ...], dot: Dot, orders: bool = True):
    for fewer in range(1, bits):
        for overflow in overflows:
            text = (f"accumulator {_bits(fewer)} narrower ({bits - fewer} instead of {bits}), "
                    f"{_OVERFLOW_TEXTS[overflow]}")
            changed = _sum_change(default, text, bits=bits - fewer, overflow=overflow)
            yield changed
            if overflow == "saturate" and orders:
                yield from _order_changes(changed.semantics, dot, text + "; ")


def _order_changes(base: Semantics, dot: Dot, text: str = "") -> Iterator[Alternative]:
    """Other orders of additions, where the accumulator saturates after each."""
    for order in dot.orders:
        if order != base.summing.order:
            yield _sum_change(base, f"{text}terms added in the order: {order}", order=order, tile=1)
    yield _sum_change(base, f"{text}terms added in an adder tree", tile=0)
    for tile in TILES:
        if tile < dot.right.shape[0]:
            yield _sum_change(base, f"{text}terms added in tiles of {tile}", tile=tile)


def weight_changes(default: Semantics, layer: Layer) -> Iterator[Alternative]:
    """Weights read in another arrangement."""
    spatial = ("kernel flipped in rows and columns", "kernel rows and columns swapped")
    for view in WEIGHT_VIEWS:
        one_tap = isinstance(layer, Dense) or layer.kernel == 1
        if view != default.weights and not (one_tap and view in spatial):
            yield change(default, view, weights=view)


def mask_changes(default: Semantics) -> Iterator[Alternative]:
    for mask in MASKS:
        if mask != default.mask:
            yield change(default, f"ReLU mask {mask} instead of {default.mask}", mask=mask)


def averaging_changes(default: Semantics) -> Iterator[Alternative]:
    for mode in AVERAGINGS:
        if mode != default.averaging:
            yield change(default, f"average pooling: rounding {mode} instead of {default.averaging}", averaging=mode)


def change(base: Semantics, text: str, **changes) -> Alternative:
    """`base` with `changes`, which `text` tells."""
    return Alternative(text, dataclasses.replace(base, **changes))


def _sum_change(base: Semantics, text: str, **changes) -> Alternative:
    return change(base, text, summing=dataclasses.replace(base.summing, **changes))


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"

"""Linear combinations of tensors with one set of integer constants per channel.

Batch norm and residual additions are such combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxsim.errors import InputError, present
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import affine as kernel
from fxsim.kernels.epilogue import Epilogue
from fxsim.ops.exact import MAX_SUM_BITS, Exact, holding, kernel_windows, magnitude, relu_bound
from fxsim.ops.integers import largest
from fxsim.quantizer import Quantizer
from fxsim.windows import Window


@dataclass(frozen=True, eq=False)
class ChannelSum:
    """first * x + second * y + constant, exact, in steps of 2**step_exp.

    first, second, constant: (O,) arrays of int64 or Python integers, one for each channel; second
    is 0 without y.  x, y: formats of the codes.  Raises InputError where the sum may need more
    than 62 bits.
    """

    first: np.ndarray
    second: np.ndarray
    constant: np.ndarray
    step_exp: int
    x: Format
    y: Format | None = None

    def __post_init__(self) -> None:
        if self.bound >= 2 ** (MAX_SUM_BITS - 1):
            formats = f"{self.x} and {self.y}" if self.y else f"{self.x}"
            raise InputError(
                f"sums of {formats} codes need {self.bound.bit_length() + 1} bits, at most "
                f"{MAX_SUM_BITS} are exact here; lower the widths, or bring the steps together"
            )

    @cached_property
    def bound(self) -> int:
        """What no sum exceeds in magnitude."""
        terms = largest(self.first) * magnitude(self.x) + largest(self.constant)
        return terms + (largest(self.second) * magnitude(self.y) if self.y else 0)

    @property
    def format(self) -> Format:
        """The format that holds every sum."""
        return holding(self.bound, self.step_exp)

    def of(self, x: np.ndarray, y: np.ndarray | None = None, reuse: bool = False) -> Combination:
        """The sums of these codes.  reuse: whether x's memory may become that of the result."""
        return Combination(self, x, y, reuse)


class Combination(Exact):
    """A ChannelSum with its operands: (..., O) codes."""

    def __init__(self, form: ChannelSum, x: np.ndarray, y: np.ndarray | None, reuse: bool = False):
        self._form = form
        self._x = x
        self._y = y
        self._reuse = reuse
        self.shape = x.shape

    @property
    def format(self) -> Format:  # type: ignore[override]  # read-only here
        """The format that holds every sum."""
        return self._form.format

    def sums(self) -> np.ndarray:
        """The int64 codes in `format`."""
        form = self._form
        sums: np.ndarray = form.first.astype(np.int64) * self._x + form.constant.astype(np.int64)
        if self._y is not None:
            sums = sums + form.second.astype(np.int64) * self._y
        return sums

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, mask or None); see Exact.rounded."""
        if quantizer.at(self._form.step_exp).epilogue is None or not self._x.size:
            return super().rounded(quantizer, relu)
        dtype = quantizer.format.storage
        reused = self._reuse and self._x.dtype == dtype
        out = self._x if reused else memory.empty(self.shape, dtype)
        mask = memory.empty(self.shape, np.uint8) if relu else None
        tally = kernel.combine(self._x, self._y, self._constants(quantizer, relu), out, mask)
        quantizer.tell(out.size, tally)
        return out, mask

    def rounded_and_pooled(
        self, quantizer: Quantizer, window: Window
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codes, winner); see Exact.rounded_and_pooled."""
        size = kernel_windows(window).square
        if quantizer.at(self._form.step_exp).epilogue is None or not self._x.size or not size:
            return super().rounded_and_pooled(quantizer, window)
        images, height, width, channels = self.shape
        shape = (images, height // size, width // size, channels)
        out = memory.empty(shape, quantizer.format.storage)
        winner = memory.empty(shape, np.uint8)
        constants = self._constants(quantizer, True)
        tally = kernel.combine_and_pool(self._x, self._y, constants, size, out, winner)
        if tally is None:
            return super().rounded_and_pooled(quantizer, window)
        quantizer.tell(self._x.size, tally)
        return out, winner

    def _constants(self, quantizer: Quantizer, relu: bool) -> kernel.Constants:
        form = self._form
        numbers = np.array([form.first, form.second, form.constant], np.int64)
        narrow = self._x.dtype == np.int16 and (self._y is None or self._y.dtype == np.int16)
        whole = present(_epilogue(quantizer, form.step_exp, relu))
        high = _epilogue(quantizer, form.step_exp + kernel.SPLIT, relu)
        return kernel.Constants.of(numbers, form.bound, whole, high, narrow)


def _epilogue(quantizer: Quantizer, step_exp: int, relu: bool) -> Epilogue | None:
    found = quantizer.at(step_exp).epilogue
    if found is None or not relu:
        return found
    return found._replace(floor=0, relu_bound=relu_bound(step_exp, quantizer))


def addition(x: Format, y: Format, channels: int, sign: int = 1) -> ChannelSum:
    """x + sign * y at the finer of their steps."""
    step_exp = min(x.step_exp, y.step_exp)
    first = np.full(channels, 1 << (x.step_exp - step_exp), object)
    second = np.full(channels, sign << (y.step_exp - step_exp), object)
    return ChannelSum(first, second, np.full(channels, 0, object), step_exp, x, y)

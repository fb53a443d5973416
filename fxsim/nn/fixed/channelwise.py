"""Linear combinations of tensors with one set of integer constants per channel.

Batch norm, residual additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import affine as kernel
from fxsim.kernels.epilogue import Epilogue
from fxsim.nn.fixed.epilogues import epilogue, fused, quantize_sums, relu_bound
from fxsim.ops.integers import largest
from fxsim.requantizer import Requantizer
from fxsim.requantizer import requantizer as make_requantizer
from fxsim.rng import Stream

MAX_SUM_BITS = 62


@dataclass(frozen=True, eq=False)
class ChannelSum:
    """first * x + second * y + constant, exact, in steps of 2**step_exp.

    first, second, constant: (O,) arrays of int64 or Python integers, one for each channel; second
    is 0 without y. x, y: formats of the codes.  Raises ValueError where the sum may need more than
    62 bits."""

    first: np.ndarray
    second: np.ndarray
    constant: np.ndarray
    step_exp: int
    x: Format
    y: Format | None = None

    def __post_init__(self):
        if self.bound >= 2 ** (MAX_SUM_BITS - 1):
            raise ValueError(
                f"sums of {self.x}{f' and {self.y}' if self.y else ''} codes need "
                f"{self.bound.bit_length() + 1} "
                f"bits, at most {MAX_SUM_BITS} are exact here; lower the widths"
            )

    @cached_property
    def bound(self) -> int:
        """What no sum exceeds in magnitude."""
        terms = largest(self.first) * magnitude(self.x) + largest(self.constant)
        return terms + (largest(self.second) * magnitude(self.y) if self.y else 0)

    @property
    def format(self) -> Format:
        """The format that holds every sum."""
        bits = self.bound.bit_length() + 1
        return Format(bits, self.step_exp + bits - 1)

    def exact(self, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """The sums, int64."""
        first, second, constant = (
            each.astype(np.int64) for each in (self.first, self.second, self.constant)
        )
        sums = first * x + constant
        return sums if y is None else sums + second * y

    def quantized(
        self,
        x: np.ndarray,
        y: np.ndarray | None,
        requantizer: Requantizer,
        stream: Stream | None,
        relu: bool = False,
        in_place: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(codes, ReLU mask or None, counts) of the sums brought to requantizer.format; see
        `quantize_sums`.

        in_place: whether x's memory may be used for the codes.
        """
        if not fused(requantizer):
            return quantize_sums(self.exact(x, y), requantizer, stream, relu)
        dtype = requantizer.format.storage
        out = x if in_place and x.dtype == dtype else memory.empty(x.shape, dtype)
        mask = memory.empty(x.shape, np.uint8) if relu else None
        return out, mask, kernel.combine(x, y, self._constants(x, y, requantizer, relu), out, mask)

    def quantized_and_pooled(
        self, x: np.ndarray, y: np.ndarray | None, requantizer: Requantizer, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(codes, winner, counts) of the sums through a ReLU and max pooling, or None where one
        kernel cannot do both.
        """
        if not fused(requantizer):
            return None
        images, height, width, channels = x.shape
        out = memory.empty(
            (images, height // size, width // size, channels), requantizer.format.storage
        )
        winner = memory.empty(out.shape, np.uint8)
        counts = kernel.combine_and_pool(
            x, y, self._constants(x, y, requantizer, True), size, out, winner
        )
        return None if counts is None else (out, winner, counts)

    def _constants(
        self, x: np.ndarray, y: np.ndarray | None, requantizer: Requantizer, relu: bool
    ) -> kernel.Constants:
        high = make_requantizer(
            self.step_exp + kernel.SPLIT,
            requantizer.format,
            requantizer.rounding,
            requantizer.overflow,
        )
        return kernel.Constants.of(
            np.array([self.first, self.second, self.constant], np.int64),
            self.bound,
            _epilogue(requantizer, relu),
            _epilogue(high, relu) if fused(high) else None,
            x.dtype == np.int16 and (y is None or y.dtype == np.int16),
        )


def _epilogue(requantizer: Requantizer, relu: bool) -> Epilogue:
    whole = epilogue(requantizer)
    return whole._replace(floor=0, relu_bound=relu_bound(requantizer.step_exp)) if relu else whole


def magnitude(format: Format) -> int:
    """The greatest |code|."""
    return max(-format.min_code, format.max_code)


def addition(x: Format, y: Format, channels: int) -> ChannelSum:
    """x + y at the finer of their steps."""
    step_exp = min(x.step_exp, y.step_exp)
    first, second, constant = (
        np.full(channels, value, object)
        for value in (1 << (x.step_exp - step_exp), 1 << (y.step_exp - step_exp), 0)
    )
    return ChannelSum(first, second, constant, step_exp, x, y)

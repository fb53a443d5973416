"""Requantizer: everything a kernel needs to bring integers at one step into a format, worked
out once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fxsim.errors import InputError, choice
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, Format
from fxsim.kernels import rounding as kernel
from fxsim.rng import Stream


def check_modes(format: Format, rounding: str, overflow: str) -> None:
    """TypeError or InputError unless tensors can be quantized to `format` by these modes."""
    if not isinstance(format, Format):
        raise TypeError(f"format must be a fxsim.Format, got {type(format).__name__}")
    choice("rounding", rounding, ROUNDINGS)
    choice("overflow", overflow, OVERFLOWS)
    if format.bits > MAX_TENSOR_BITS:
        raise InputError(
            f"format has {format.bits} bits; tensors are quantized to at most {MAX_TENSOR_BITS}"
        )


@dataclass(frozen=True)
class Requantizer:
    """Rounds integers with step 2**step_exp to `format`, then applies its range.

    shift: bits to drop, negative where the format's step is finer than the source's.
    """

    step_exp: int
    format: Format
    rounding: str = "nearest_away"
    overflow: str = "saturate"

    def __post_init__(self):
        check_modes(self.format, self.rounding, self.overflow)

    @property
    def shift(self) -> int:
        return self.format.step_exp - self.step_exp

    @property
    def stochastic(self) -> bool:
        return self.rounding in kernel.STOCHASTIC

    @property
    def fusable(self) -> bool:
        """Whether a kernel can apply `scalars` to a sum at once.

        Deterministic, and 0 <= shift <= 62.
        """
        return not self.stochastic and 0 <= self.shift <= kernel.MAX_SHIFT

    def terms(self, shift: int) -> tuple[int, int, int, int]:
        """(base, neg, odd, jam) for `shift` dropped bits.

        Zeros where random words give the base.
        """
        return (0, 0, 0, 0) if self.stochastic else kernel.rounding_terms(self.rounding, shift)

    def bounds(self) -> tuple[int, int, int, int, int]:
        """(low, high, rule, bits, signed) of the overflow."""
        low, high = kernel.code_range(self.format.bits, self.format.signed, self.overflow)
        return (
            low,
            high,
            kernel.OVERFLOW_RULE[self.overflow],
            self.format.bits,
            int(self.format.signed),
        )

    def bases(self, stream: Stream | None, shape, shift: int) -> np.ndarray:
        """int64 bases of a stochastic mode for elements of `shape`.

        An empty array for other modes.
        """
        if not self.stochastic:
            return np.empty(0, np.int64)
        if not isinstance(stream, Stream):
            raise InputError(
                f"rounding {self.rounding!r} needs random words; pass stream=fxsim.Stream(seed, "
                f"step, name)"
            )
        return kernel.stochastic_base(stream.words(shape), self.rounding, shift)

    def apply(
        self, values: np.ndarray, out: np.ndarray, stream: Stream | None = None
    ) -> np.ndarray:
        """Write the codes of integer `values` into `out` (same shape, C-contiguous).

        Returns int64 counts (below, above, flushed).
        """
        values, shift = kernel.align(values, self.shift)
        bases = self.bases(stream, out.shape, shift).reshape(-1)
        return kernel.requantize_array(
            np.ascontiguousarray(values).reshape(-1),
            bases,
            shift,
            self.terms(shift),
            self.bounds(),
            out.reshape(-1),
        )


@lru_cache(maxsize=4096)
def requantizer(step_exp: int, format: Format, rounding: str, overflow: str) -> Requantizer:
    """The one Requantizer of these, which a training step asks for again and again."""
    return Requantizer(step_exp, format, rounding, overflow)

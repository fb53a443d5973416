"""Tensor: integer codes with their format; quantization from real values and between formats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import rounding as kernel
from fxsim.requantizer import Requantizer, check_modes
from fxsim.rng import Stream

FRACTION_BITS = 33
"""One more than a random word has, so that the sticky bit lies below all of them."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """Integer `codes` in `format`; the real values are codes * format.step.

    codes: any integer array within the format's range; kept in format.dtype, C-contiguous.
    Raises TypeError for codes that are no integers, InputError for a code outside the format.
    """

    codes: np.ndarray
    format: Format

    def __post_init__(self):
        codes = np.asarray(self.codes)
        if codes.dtype.kind not in "iu":
            raise TypeError(
                f"codes must be integers, got dtype {codes.dtype}; use fxsim.quantize for real "
                f"values"
            )
        if codes.size and not (
            self.format.min_code <= int(codes.min()) and int(codes.max()) <= self.format.max_code
        ):
            raise InputError(
                f"codes must be in [{self.format.min_code}, {self.format.max_code}] for "
                f"{self.format}, "
                f"got [{codes.min()}, {codes.max()}]; requantize to a wider format"
            )
        object.__setattr__(self, "codes", np.asarray(codes, self.format.dtype, order="C"))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def real(self) -> np.ndarray:
        """float64 values; exact for formats of up to 53 bits."""
        return np.ldexp(self.codes.astype(np.float64), self.format.step_exp)

    def equals(self, other: Tensor) -> bool:
        """Same format, shape and codes."""
        return self.format == other.format and np.array_equal(self.codes, other.codes)


@dataclass(frozen=True)
class Counts:
    """What one quantization did: elements in all, below and above the range, flushed to zero.

    flushed counts non-zero values whose rounded code, before overflow, is 0.
    """

    elements: int
    below: int
    above: int
    flushed: int

    @property
    def clipped(self) -> int:
        return self.below + self.above

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.elements + other.elements,
            self.below + other.below,
            self.above + other.above,
            self.flushed + other.flushed,
        )


def quantize(
    values,
    format: Format,
    rounding: str = "nearest_away",
    overflow: str = "saturate",
    stream: Stream | None = None,
    counts: bool = False,
) -> Tensor | tuple[Tensor, Counts]:
    """Real `values` rounded to `format`, then brought into its range; exact in every bit.

    values: array of floats or integers (Python integers and integer arrays exactly).  rounding: one
    of fxsim.ROUNDINGS; the stochastic ones draw element i's word from `stream`.  overflow: one of
    fxsim.OVERFLOWS.  counts: also return the Counts.
    Raises InputError for NaN or infinity, an unknown mode, or a format of more than 32 bits.
    """
    values = np.asarray(values)
    check_modes(format, rounding, overflow)
    if values.dtype.kind in "iu":
        return _requantize(values, 0, format, rounding, overflow, stream, counts)
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise TypeError(f"values must be real numbers of at most 64 bits, got dtype {values.dtype}")
    _check_finite(values)
    requantizer = Requantizer(format.step_exp - FRACTION_BITS, format, rounding, overflow)
    floor, fraction = _split(values.astype(np.float64), format, overflow)
    base, neg, odd, jam = requantizer.terms(FRACTION_BITS)
    if requantizer.stochastic:
        base = requantizer.bases(stream, values.shape, FRACTION_BITS)
    rounded = (
        floor + ((fraction + base + neg * (floor < 0) + odd * (floor & 1)) >> FRACTION_BITS)
    ) | jam
    return _bounded(rounded, values != 0, format, overflow, counts)


def requantize(
    tensor: Tensor,
    format: Format,
    rounding: str = "nearest_away",
    overflow: str = "saturate",
    stream: Stream | None = None,
    counts: bool = False,
) -> Tensor | tuple[Tensor, Counts]:
    """`tensor` in another `format`: bits below the new step are rounded off, the range is applied.

    Arguments, results and errors as for `quantize`.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"tensor must be a fxsim.Tensor, got {type(tensor).__name__}; use fxsim.quantize"
        )
    return _requantize(
        tensor.codes, tensor.format.step_exp, format, rounding, overflow, stream, counts
    )


def _requantize(codes, step_exp, format, rounding, overflow, stream, want_counts):
    if codes.dtype == np.uint64 and codes.size and int(codes.max()) >= 2**63:
        raise InputError("integer values must be below 2**63; divide them by a power of two first")
    requantizer = Requantizer(step_exp, format, rounding, overflow)
    out = np.empty(codes.shape, format.dtype)
    tally = requantizer.apply(codes, out, stream)
    return (
        (Tensor(out, format), Counts(codes.size, *map(int, tally)))
        if want_counts
        else Tensor(out, format)
    )


def _split(values: np.ndarray, format: Format, overflow: str) -> tuple[np.ndarray, np.ndarray]:
    """Floor (int64) in steps of the format and the first FRACTION_BITS bits below it, last one
    sticky.

    Every operation is exact in float64: fmod, clipping, scaling by a power of two (an underflow
    leaves the sticky bit), trunc, and x - trunc(x).  What lies far outside the format is replaced
    by a value that is outside too (saturation), or is reduced modulo a multiple of its range first
    (wrap)."""
    limit = math.ldexp(1.0, format.bits + 1 + format.step_exp)
    if overflow == "wrap":
        far = np.abs(values) >= limit
        values = np.where(far, np.fmod(values, limit) + np.copysign(limit, values), values)
    scaled = np.ldexp(np.clip(values, -2 * limit, 2 * limit), -format.step_exp)
    lost = (scaled == 0) & (values != 0)
    whole = np.trunc(scaled)
    fraction = np.ldexp(scaled - whole, FRACTION_BITS)
    floor = np.floor(fraction)
    sticky = (floor != fraction).astype(np.int64)
    bits = np.where(lost, np.where(values < 0, -1, 1), floor.astype(np.int64) | sticky)
    return whole.astype(np.int64) + (bits >> FRACTION_BITS), bits & (2**FRACTION_BITS - 1)


def _bounded(codes, nonzero, format, overflow, want_counts):
    low, high = kernel.code_range(format.bits, format.signed, overflow)
    below = codes < low
    above = codes > high
    if overflow == "wrap":
        result = kernel.wrap_code(codes, format.bits, int(format.signed))
    elif overflow == "saturate_zero":
        result = np.where(below | above, 0, codes)
    else:
        result = np.clip(codes, low, high)
    tensor = Tensor(np.asarray(result), format)
    if not want_counts:
        return tensor
    return tensor, Counts(
        codes.size, int(below.sum()), int(above.sum()), int((nonzero & (codes == 0)).sum())
    )


def _check_finite(values: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise InputError(
            f"values must be finite: {len(bad)} of {math.prod(values.shape)} are NaN or infinite, "
            f"the first at index {index}; replace them before quantizing"
        )

"""Quantizer: the one place where bits are decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from fxsim.arrays import check_range, frozen, integer_array
from fxsim.errors import InputError, choice, shown
from fxsim.fields import number
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.kernels import rounding as kernel
from fxsim.kernels.epilogue import Epilogue
from fxsim.kernels.rounding import Range, Rounding
from fxsim.lfsr import Lfsr, LfsrWords
from fxsim.rng import Stream
from fxsim.words import DroppedBits, MemoryWords, WordMemory

Words: TypeAlias = (
    Stream
    | Lfsr
    | LfsrWords
    | WordMemory
    | MemoryWords
    | DroppedBits
    | np.ndarray
    | Callable[[np.ndarray], np.ndarray]
)
"""Where random words come from.

A Stream; registers, Lfsr or Lfsr.at(step); a WordMemory likewise; DroppedBits; an array of 32-bit words, one for each
element in row-major order; or a function from positions (int64, row-major) to the words there.
The first bits of a word count: one of k bits is passed as word << (32 - k).
"""


_STREAMS = (Stream, Lfsr, LfsrWords, WordMemory, MemoryWords)


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
        """Elements below or above the range."""
        return self.below + self.above

    def __add__(self, other: Counts) -> Counts:
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(
            self.elements + other.elements,
            self.below + other.below,
            self.above + other.above,
            self.flushed + other.flushed,
        )


class Requantization(NamedTuple):
    """All that a kernel needs to bring integers at one step into a format.

    shift: bits to drop, negative where the format's step is finer than the integers'.  rounding:
    for that shift, where it is 0 to 62.  epilogue: the same for a kernel's epilogue, or None where
    an epilogue cannot do it: random words, a left shift, a shift above 62, no plain saturation.
    """

    shift: int
    rounding: Rounding
    range: Range
    epilogue: Epilogue | None

    @property
    def overflow(self) -> str:
        """What becomes of a code outside of `range`: 'saturate', 'saturate_zero' or 'wrap'."""
        return {kernel.SATURATE: "saturate", kernel.WRAP: "wrap"}.get(
            self.range.rule, "saturate_zero"
        )


@lru_cache(maxsize=4096)
def requantization(
    step_exp: int, format: Format, rounding: str, overflow: str, ceiling: int | None = None
) -> Requantization:
    """The Requantization of integers with step 2**step_exp.

    ceiling: a code at which the results end whatever the overflow; None for the format's end.
    """
    shift = format.step_exp - step_exp
    bounds = Range.of(format.bits, format.signed, overflow)
    if ceiling is not None:
        greatest = ceiling | (rounding == "jam")
        bounds = bounds._replace(high=greatest, rule=kernel.SATURATE)
    kept = min(max(shift, 0), kernel.MAX_SHIFT)
    terms = Rounding.of(rounding, kept)
    fusable = kept == shift and rounding not in STOCHASTIC and bounds.rule == kernel.SATURATE
    epilogue = None
    if fusable:
        epilogue = Epilogue(**terms._asdict(), low=bounds.low, high=bounds.high)
    return Requantization(shift, terms, bounds, epilogue)


@dataclass(frozen=True, eq=False)
class Quantizer:
    """How an exact result becomes codes: format, rounding, overflow, random words.

    Wherever an operation takes a Quantizer it also takes a bare Format, which stands for the
    default modes.

    Args:
        format: of the codes, at most 32 bits.
        rounding: one of fxsim.ROUNDINGS.
        overflow: one of fxsim.OVERFLOWS.
        words: random words of a stochastic rounding; None for every other.  An array is copied.
        counted: called with the Counts of each quantization.

    Raises:
        InputError: for an unknown mode, a format of more than 32 bits, words that are missing or
            that the rounding does not use.

    Example:
        >>> from fxsim import Format, Quantizer, Tensor, requantize
        >>> seen = []
        >>> narrow = Quantizer(Format(4, 3), "floor", "wrap", counted=seen.append)
        >>> requantize(Tensor([7, 8, -9], Format(5, 4)), narrow).codes
        array([ 7, -8,  7], dtype=int8)
        >>> seen
        [Counts(elements=3, below=1, above=1, flushed=0)]
    """

    format: Format
    rounding: str = "nearest_away"
    overflow: str = "saturate"
    words: Words | None = None
    counted: Callable[[Counts], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise TypeError(f"format must be a fxsim.Format, got {type(self.format).__name__}")
        choice("rounding", self.rounding, ROUNDINGS)
        choice("overflow", self.overflow, OVERFLOWS)
        if self.format.bits > MAX_TENSOR_BITS:
            raise InputError(
                f"format has {self.format.bits} bits; tensors are quantized to at most "
                f"{MAX_TENSOR_BITS}"
            )
        self._check_words()
        if self.counted is not None and not callable(self.counted):
            raise TypeError(f"counted must be callable, got {type(self.counted).__name__}")

    def _check_words(self) -> None:
        if self.words is None:
            if self.stochastic:
                raise _missing_words(self.rounding)
            return
        if not self.stochastic:
            raise InputError(
                f"rounding {self.rounding!r} uses no random words; leave words out, or choose "
                f"{' or '.join(STOCHASTIC)}"
            )
        check_words(self.words)
        if isinstance(self.words, DroppedBits) and self.rounding != "stochastic":
            raise InputError(
                f"words DroppedBits() go with rounding 'stochastic', got {self.rounding!r}; change "
                f"one of them"
            )
        if isinstance(self.words, np.ndarray):
            object.__setattr__(self, "words", frozen(integer_array("random words", self.words)))

    def _key(self) -> tuple[object, ...]:
        """What makes two Quantizers equal."""
        words: object = self.words
        if isinstance(words, np.ndarray):
            words = words.shape, words.dtype, words.tobytes()
        return self.format, self.rounding, self.overflow, words, self.counted

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Quantizer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    @classmethod
    def of(cls, value: Format | Quantizer) -> Quantizer:
        """`value` itself, or the Quantizer with default modes of a bare Format."""
        if isinstance(value, Quantizer):
            return value
        if isinstance(value, Format):
            return cls(value)
        raise TypeError(
            f"quantizer must be a fxsim.Format or fxsim.Quantizer, got {type(value).__name__}"
        )

    @property
    def stochastic(self) -> bool:
        """Whether the rounding needs random words."""
        return self.rounding in STOCHASTIC

    @property
    def ceiling(self) -> int:
        """The ceiling of a ReLU in codes: the range of the format, unless another is given."""
        return 1 << (self.format.range_exp - self.format.step_exp)

    def with_ceiling(self, ceiling: float | None) -> Quantizer:
        """The same for a ReLU with that ceiling; None for the range of the format.

        The ceiling is rounded to a code, to nearest, ties away from zero.

        Raises:
            TypeError: the ceiling is no number.
            InputError: it is outside the range of the format, or rounds to 0.
        """
        if ceiling is None:
            return self
        exact = Fraction(number("ceiling", ceiling))
        code = int(exact / Fraction(2) ** self.format.step_exp + Fraction(1, 2))
        if exact > Fraction(2) ** self.format.range_exp:
            raise InputError(
                f"ceiling {shown(ceiling)} is outside the range 2^{self.format.range_exp} of "
                f"{self.format}; take a format of a greater range, or a lower ceiling"
            )
        if code < 1:
            raise InputError(
                f"ceiling {shown(ceiling)} must be above half the step of {self.format}; take a "
                f"format of a finer step, or a higher ceiling"
            )
        if code == self.ceiling:
            return self
        given = (self.format, self.rounding, self.overflow, self.words, self.counted)
        return _Ceiled(*given, own_ceiling=code)

    def laid_flat(self, shape: tuple[int, ...]) -> Quantizer:
        """The same for a tensor of `shape` that a kernel sees in another shape.

        Raises:
            InputError: for an array of words that does not fit `shape`.
        """
        if not isinstance(self.words, np.ndarray):
            return self
        return replace(self, words=words_at(self.words, shape).reshape(-1))

    def at(self, step_exp: int) -> Requantization:
        """What kernels need for integers with step 2**step_exp."""
        return requantization(step_exp, self.format, self.rounding, self.overflow)

    def tell(self, elements: int, tally: np.ndarray) -> None:
        """Report the counts (below, above, flushed) of a kernel."""
        if self.counted is not None:
            below, above, flushed = tally.tolist()
            self.counted(Counts(elements, below, above, flushed))

    def bases(self, values: np.ndarray, shift: int) -> np.ndarray:
        """int64 bases (flat) of a stochastic rounding of integers; empty for every other."""
        return _bases(values, shift, self.rounding, self.words)

    def quantized(
        self, values: np.ndarray, step_exp: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Codes (format.storage) of integers with step 2**step_exp, counted."""
        values, shift = kernel.align(values, self.at(step_exp).shift)
        rounding = Rounding.of(self.rounding, shift)
        if out is None:
            out = np.empty(values.shape, self.format.storage)
        tally = kernel.requantize_array(
            np.ascontiguousarray(values).reshape(-1),
            self.bases(values, shift),
            rounding,
            self.at(step_exp).range,
            out.reshape(-1),
        )
        self.tell(out.size, tally)
        return out

    def quotients(self, numerators: np.ndarray, step_exp: int, divisor: int) -> np.ndarray:
        """Codes of the exact quotients numerators * 2**step_exp / divisor, counted."""
        left = step_exp - self.format.step_exp + kernel.QUOTIENT_GUARD_BITS
        divisor <<= max(-left, 0)
        left = max(left, 0)
        flat = np.ascontiguousarray(numerators).reshape(-1)
        largest = max(int(flat.max(initial=0)), -int(flat.min(initial=0)))
        wide = max((largest << left).bit_length(), divisor.bit_length()) > kernel.MAX_SHIFT
        if wide or isinstance(self.words, DroppedBits):
            guarded = _guarded_quotients(numerators, left, divisor)
            return self.quantized(guarded, self.format.step_exp - kernel.QUOTIENT_GUARD_BITS)
        rounding = Rounding.of(self.rounding, kernel.QUOTIENT_GUARD_BITS)
        out = np.empty(numerators.shape, self.format.storage)
        tally = kernel.requantize_quotients(
            flat,
            (left, divisor),
            self.bases(numerators, rounding.shift),
            rounding,
            self.at(0).range,
            out.reshape(-1),
        )
        self.tell(out.size, tally)
        return out


@dataclass(frozen=True)
class _Ceiled(Quantizer):
    """A Quantizer whose codes end at `own_ceiling`, below the end of its format.

    Codes above it become it, whatever the overflow, and are counted as above the range.
    """

    own_ceiling: int = 0

    @property
    def ceiling(self) -> int:
        return self.own_ceiling

    def at(self, step_exp: int) -> Requantization:
        return requantization(step_exp, self.format, self.rounding, self.overflow, self.own_ceiling)


def _guarded_quotients(numerators: np.ndarray, left: int, divisor: int) -> np.ndarray:
    """int64 floors of (numerators << left) / divisor, the last bit sticky, in Python's integers.

    A floor beyond 2**60 becomes one beyond every format of 32 bits, with the same low bits.
    """
    low_bits = (1 << (MAX_TENSOR_BITS + kernel.QUOTIENT_GUARD_BITS)) - 1
    far = 1 << 60
    floors = []
    for numerator in numerators.reshape(-1).tolist():
        floor, rest = divmod(numerator << left, divisor)
        floor |= rest != 0
        if abs(floor) >= far:
            floor = (far if floor > 0 else -far) + (floor & low_bits)
        floors.append(floor)
    return np.array(floors, np.int64).reshape(numerators.shape)


def shifted(
    values: np.ndarray, shift: int, rounding: str, words: Words | None = None
) -> np.ndarray:
    """Integers / 2**shift (int64), rounded to integers, 0 <= shift <= 62, without any range."""
    if rounding not in STOCHASTIC:
        words = None
    elif words is None:
        raise _missing_words(rounding)
    bases = _bases(values, shift, rounding, words)
    out = np.empty(values.shape, np.int64)
    everything = Range(-(2**62), 2**62, kernel.SATURATE, 63, 1)
    flat = np.ascontiguousarray(values).reshape(-1)
    kernel.requantize_array(flat, bases, Rounding.of(rounding, shift), everything, out.reshape(-1))
    return out


def _bases(values: np.ndarray, shift: int, rounding: str, words: Words | None) -> np.ndarray:
    """int64 bases (flat) of integers of which `shift` bits are dropped; empty without words."""
    if words is None:
        return np.empty(0, np.int64)
    if isinstance(words, DroppedBits):
        return words.bases(values, shift).reshape(-1)
    return kernel.stochastic_base(words_at(words, values.shape), rounding, shift).reshape(-1)


def _missing_words(rounding: str) -> InputError:
    return InputError(
        f"rounding {rounding!r} needs random words; "
        "pass words=fxsim.Stream(seed, step, name), fxsim.Lfsr(...), an array or a function"
    )


def check_words(words: Words) -> None:
    """TypeError unless random words can come from `words`."""
    function = callable(words) and not isinstance(words, type)
    if not isinstance(words, (*_STREAMS, DroppedBits, np.ndarray)) and not function:
        raise TypeError(
            f"words must be a fxsim.Stream, a fxsim.Lfsr, fxsim.DroppedBits(), an integer array "
            f"or a function, got {type(words).__name__}"
        )


def words_at(words: Words, shape: tuple[int, ...]) -> np.ndarray:
    """The uint32 random words (of `shape`) for the elements of a tensor.

    Raises:
        TypeError: for words that are no integers.
        InputError: for too few words, words of another shape, or words of more than 32 bits.
    """
    if isinstance(words, _STREAMS):
        return words.words(shape)
    if isinstance(words, DroppedBits):
        raise InputError(
            "words DroppedBits() are those of a rounding, and there are none here; pass a "
            "fxsim.Stream, a fxsim.Lfsr, an array or a function"
        )
    size = int(np.prod(shape, dtype=np.int64))
    given = words if isinstance(words, np.ndarray) else words(np.arange(size, dtype=np.int64))
    array = integer_array("random words", given)
    if array.shape != shape:
        if array.ndim != 1:
            raise InputError(
                f"random words must have shape {shape} or ({size},), got {array.shape}"
            )
        if array.size < size:
            raise InputError(
                f"random words must be {size}, one for each element, got {array.size}; pass more"
            )
    check_range("random words", array, 0, 2**32 - 1, "pass words of 32 bits, unsigned")
    return array.reshape(-1)[:size].astype(np.uint32).reshape(shape)

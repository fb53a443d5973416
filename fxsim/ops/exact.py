"""Exact: a result that has not been rounded, and knows how to be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from fxsim.accumulator import Overflows
from fxsim.errors import InputError, present, shown
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import pool
from fxsim.ops.checks import tensor_of
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor, operation, shape_after
from fxsim.windows import PaddingLike, PairLike, Window

MAX_SUM_BITS = 62
"""Widest exact sum: one more addition, or the carry of a rounding, still fits int64."""

MASK = Format(1, 1, signed=False)
"""Format of a ReLU's mask: 1 where the gradient passes."""

WINNER = Format(8, 8, signed=False)
"""Format of max pooling's winner: the place in the window, row-major; the number of places where
nothing passes.
"""

MAX_PLACES = 255
"""Places of the largest window of max pooling: a winner has 8 bits."""


class Exact(ABC):
    """An exact result that has not been rounded.

    Nothing is computed until it is told where to go: `to` rounds once, in the kernel that computes
    where that is possible.  Whatever the way, `x.to(q)` has the codes of
    `requantize(x.tensor(), q)`.

    Attributes:
        format: holds every value that the result can have.
        shape: of the result.
        overflows: what the accumulator met, once the result is computed; None without an
            accumulator.

    Example:
        >>> from fxsim import Format, Quantizer, Tensor
        >>> x = Tensor([3, -5], Format(4, 0))
        >>> exact = x + Tensor([1, 1], Format(8, 0))
        >>> str(exact.format)
        's10 r=2^2 step=2^-7'
        >>> exact.tensor().codes
        array([ 49, -79], dtype=int16)
        >>> exact.to(Quantizer(Format(4, 0), "floor")).codes
        array([ 3, -5], dtype=int8)
    """

    __array_ufunc__ = None  # an expression of a NumPy array and an Exact is refused, not guessed at
    format: Format
    shape: tuple[int, ...]
    overflows: Overflows | None = None

    @abstractmethod
    def sums(self) -> np.ndarray:
        """The int64 codes in `format`; the array may be lent, so do not write to it."""

    def tensor(self) -> Tensor:
        """The result with all of its bits."""
        return Tensor._of(self.sums(), self.format)

    def to(self, quantizer: Format | Quantizer) -> Tensor:
        """The result rounded once, then brought into range."""
        chosen = Quantizer.of(quantizer)
        codes, _ = self.rounded(chosen, relu=False)
        return Tensor._of(codes, chosen.format)

    def relu(
        self, quantizer: Format | Quantizer, ceiling: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """(codes, mask) of the ReLU: exact values below 0 become 0, then one rounding.

        The mask (format `MASK`) is 1 where 0 < exact value < ceiling: where the gradient passes
        (straight-through estimator).

        Args:
            quantizer: of the codes.
            ceiling: rounded to a code of the format, to nearest, ties away from zero; values above
                it become it.  None for the range of the format, where the overflow decides.

        Raises:
            InputError: the ceiling is outside the range of the format, or rounds to 0.

        Example:
            >>> from fxsim import Format, Tensor
            >>> exact = Tensor([-8, 8, 24, 40], Format(7, 3)) + Tensor([0], Format(1, -3))
            >>> codes, mask = exact.relu(Format(6, 3, signed=False), ceiling=3)
            >>> codes.real, mask.codes
            (array([0., 1., 3., 3.]), array([0, 1, 0, 0], dtype=uint8))
        """
        chosen = Quantizer.of(quantizer).with_ceiling(ceiling)
        codes, mask = self.rounded(chosen, relu=True)
        return Tensor._of(codes, chosen.format), Tensor._of(present(mask), MASK)

    def relu_max_pool(
        self,
        quantizer: Format | Quantizer,
        size: PairLike,
        ceiling: float | None = None,
        stride: PairLike | None = None,
        padding: PaddingLike = 0,
    ) -> tuple[Tensor, Tensor]:
        """(codes, winner) of the ReLU followed by max pooling; see `max_pool2d`.

        The result is (N, H, W, C), the codes and the winner (format `WINNER`) are
        (N, OH, OW, C).  The winner is the place of the first greatest code in its window,
        row-major, or the number of places where the ReLU's mask is 0 there.  See `relu` for the
        ceiling.
        """
        chosen = Quantizer.of(quantizer).with_ceiling(ceiling)
        window = pool_window(self.shape, size, stride, padding)
        codes, winner = self.rounded_and_pooled(chosen, window)
        return Tensor._of(codes, chosen.format), Tensor._of(winner, WINNER)

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, mask or None) as arrays, for operations and executors."""
        sums = self.sums()
        mask = None
        if relu:
            bound = relu_bound(self.format.step_exp, quantizer)
            mask = ((sums > 0) & (sums < bound)).astype(np.uint8)
            sums = np.maximum(sums, 0)
        return quantizer.quantized(sums, self.format.step_exp), mask

    def rounded_and_pooled(
        self, quantizer: Quantizer, window: Window
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codes, winner) as arrays."""
        codes, mask = self.rounded(quantizer, relu=True)
        return max_pooled(codes, mask, window)

    def __add__(self, other: Tensor | Exact) -> Exact:
        return _add(self, other)

    def __radd__(self, other: Tensor) -> Exact:
        return _add(other, self)

    def __sub__(self, other: Tensor | Exact) -> Exact:
        return _add(self, other, minus=True)

    def __rsub__(self, other: Tensor) -> Exact:
        return _add(other, self, minus=True)

    def __mul__(self, other: Tensor | Exact) -> Exact:
        return operation("multiply")(self, other)

    def __rmul__(self, other: Tensor) -> Exact:
        return operation("multiply")(other, self)

    def __neg__(self) -> Exact:
        return operation("negative")(self)

    def by(self, path: str) -> Exact:
        """The same result, computed by another instruction path.

        Args:
            path: 'auto', or the path to force (see `plan`).

        Raises:
            InputError: for what is no product, an unknown path, or one that these widths or this
                geometry rule out.

        Example:
            >>> from fxsim import Format, Tensor, ops
            >>> x = Tensor([1, 2, 3], Format(8, 7))
            >>> ops.dot(x, x).by("plain").tensor().codes.item()
            14
        """
        raise InputError(f"path {shown(path)}: only products have instruction paths")

    def reshape(self, *shape: Any) -> Exact:
        """The same values in another shape, row-major; one size may be -1.

        Raises:
            InputError: for a shape of another size.
        """
        whole = shape_after(self.shape, shape)
        return Sums(self.sums().reshape(whole), self.format, self.overflows)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("exact results have no ==; compare their `tensor()`, or what `to` gives")

    __hash__ = None  # type: ignore[assignment]  # as of whatever has no ==

    def __repr__(self) -> str:
        return f"<exact result of shape {self.shape} in {self.format}>"


class Sums(Exact):
    """An exact result that is there: int64 codes in a format that holds them."""

    def __init__(self, sums: np.ndarray, format: Format, overflows: Overflows | None = None):
        self._sums = sums
        self.format = format
        self.shape = sums.shape
        self.overflows = overflows

    def sums(self) -> np.ndarray:
        """The int64 codes in `format`, lent."""
        return self._sums


def exact_of(name: str, x: Tensor | Exact) -> Exact:
    """An argument as an exact result; TypeError or InputError where it cannot be one."""
    if isinstance(x, Exact):
        return x
    tensor_of(name, x, most_bits=MAX_SUM_BITS)
    return Sums(x.operand.astype(np.int64), x.format)


class Quotient:
    """An exact result divided by a whole number, to be rounded once.

    Attributes:
        numerators: exact int64 codes with step 2**step_exp.
        divisor: a whole number above 0.
    """

    def __init__(self, numerators: np.ndarray, step_exp: int, divisor: int):
        self.numerators = numerators
        self.step_exp = step_exp
        self.divisor = divisor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.numerators.shape

    def to(self, quantizer: Format | Quantizer) -> Tensor:
        """The quotient rounded once, then brought into range.

        A stochastic rounding compares its word with the first 16 bits below the step, the last of
        which is sticky.
        """
        chosen = Quantizer.of(quantizer)
        codes = chosen.quotients(self.numerators, self.step_exp, self.divisor)
        return Tensor._of(codes, chosen.format)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("exact results have no ==; compare what `to` gives")

    __hash__ = None  # type: ignore[assignment]  # as of whatever has no ==

    def __repr__(self) -> str:
        return f"<exact result of shape {self.shape} over {self.divisor}>"


def relu_bound(step_exp: int, quantizer: Quantizer) -> int:
    """The ReLU's ceiling in steps of 2**step_exp, rounded up: no multiple of the step is between.

    It is at most 2**62, which no exact sum reaches.
    """
    finer = quantizer.format.step_exp - step_exp
    if finer < 0:
        return -(-quantizer.ceiling >> -finer)
    return min(quantizer.ceiling << min(finer, MAX_SUM_BITS), 1 << MAX_SUM_BITS)


def magnitude(format: Format) -> int:
    """The greatest |code|."""
    return max(-format.min_code, format.max_code)


def holding(largest: int, step_exp: int) -> Format:
    """The signed format with that step that holds every code of at most this magnitude.

    Raises:
        InputError: where it would have more than MAX_SUM_BITS bits.
    """
    bits = largest.bit_length() + 1
    if bits > MAX_SUM_BITS:
        raise InputError(
            f"the exact result needs {bits} bits, at most {MAX_SUM_BITS} are exact here; "
            "requantize the operands to fewer bits or to nearer steps"
        )
    return Format(bits, step_exp + bits - 1)


def max_pooled(
    codes: np.ndarray, mask: np.ndarray | None, window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """(codes, winner) of max pooling; the ReLU's mask is folded into the winner."""
    images, height, width, channels = codes.shape
    rows, columns = window.positions((height, width))
    out = memory.empty((images, rows, columns, channels), codes.dtype)
    winner = memory.empty(out.shape, np.uint8)
    mask = np.ones(codes.shape, np.uint8) if mask is None else mask
    pool.max_pool(codes, kernel_windows(window), out, winner, mask)
    return out, winner


def kernel_windows(window: Window) -> pool.Windows:
    """The windows as the kernels take them."""
    return pool.Windows(*window.size, *window.stride, *window.before)


def pool_window(
    shape: Sequence[int],
    size: PairLike,
    stride: PairLike | None = None,
    padding: PaddingLike = 0,
    most: int = MAX_PLACES,
) -> Window:
    """The windows of a pooling over images of a (N, H, W, C) shape.

    Args:
        stride: from a window to the next; None for windows that lie side by side.
        most: places that a window may have.

    Raises:
        TypeError: a size is no integer.
        InputError: the windows do not fit.
    """
    if len(shape) != 4:
        raise InputError(f"pooling takes images (N, H, W, C), got shape {tuple(shape)}")
    _, height, width, _ = shape
    steps = size if stride is None else stride
    window = Window.of("", (height, width), size, steps, padding, what="size")
    if window.taps > most:
        raise InputError(f"size must have at most {most} places, got {shown(size)}")
    return window


def _add(x: Tensor | Exact, y: Tensor | Exact, minus: bool = False) -> Exact:
    return operation("subtract" if minus else "add")(x, y)

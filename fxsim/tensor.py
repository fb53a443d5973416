"""Tensor: integer codes with their format; quantization from real values and between formats."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fxsim import memfile
from fxsim.arrays import check_finite, checked_shape, integer_array, real_array
from fxsim.errors import InputError, shown
from fxsim.fields import boolean, construct, integer
from fxsim.files import parse_npy, read_bytes, write_atomically, write_bytes
from fxsim.formats import Format
from fxsim.kernels import rounding as kernel
from fxsim.kernels.rounding import Range, Rounding
from fxsim.quantizer import Counts, Quantizer, Words

if TYPE_CHECKING:
    from fxsim.ops.exact import Exact

__all__ = ["Counts", "Tensor", "quantize", "requantize"]

FRACTION_BITS = 33
"""One more than a random word has, so that the sticky bit lies below all of them."""


class Tensor:
    """Integer codes in a format; the real values are codes * format.step.

    Tensors are exact and do not change.  `+`, `-`, `*`, `@` and unary `-` give a fxsim.ops.Exact:
    an exact result in a format that holds all of it, to be rounded by its `to`.

    Args:
        codes: integers of any shape and integer dtype, within the format's range; they are copied.
        format: the codes' format.

    Raises:
        TypeError: for codes that are no integers.
        InputError: for a code outside the format.

    Example:
        >>> from fxsim import Format, Tensor
        >>> x = Tensor([[100, -128], [3, 4]], Format(8, 0))
        >>> (x @ x).tensor().codes
        array([[  9616, -13312],
               [   312,   -368]], dtype=int32)
        >>> (x @ x).to(Format(8, 1)).real
        array([[ 0.59375 , -0.8125  ],
               [ 0.015625, -0.015625]])
    """

    __slots__ = ("_codes", "_format")
    __array_ufunc__ = None  # an expression of a NumPy array and a Tensor is refused, not guessed at
    _codes: np.ndarray
    _format: Format

    def __init__(self, codes: Any, format: Format):
        if not isinstance(format, Format):
            raise TypeError(f"format must be a fxsim.Format, got {type(format).__name__}")
        array = integer_array("codes", codes, "use fxsim.quantize for real values")
        if array.size:
            least = int(array.min())
            greatest = int(array.max())
            if least < format.min_code or greatest > format.max_code:
                raise InputError(
                    f"codes must be in [{format.min_code}, {format.max_code}] for {format}, "
                    f"got [{least}, {greatest}]; requantize to a wider format"
                )
        self._codes = np.array(array, format.dtype, order="C")
        self._codes.setflags(write=False)
        self._format = format

    @classmethod
    def _of(cls, codes: np.ndarray, format: Format) -> Tensor:
        """A Tensor of codes that are known to be in the format; they are lent, not copied."""
        self = object.__new__(cls)
        self._codes = codes
        self._format = format
        return self

    @property
    def format(self) -> Format:
        """The format of the codes."""
        return self._format

    @property
    def codes(self) -> np.ndarray:
        """The codes as a read-only array of format.dtype.

        NumPy computes in that dtype: `x.codes @ w.codes` of two int8 arrays wraps modulo 256
        without a word.  Write `x @ w`, or convert the codes to Python integers or int64 first.
        """
        if self._codes.dtype != self._format.dtype:
            self._codes = np.asarray(self._codes, self._format.dtype, order="C")
        view: np.ndarray = self._codes.view()
        view.setflags(write=False)
        return view

    @property
    def operand(self) -> np.ndarray:
        """The codes as kernels take them: C-contiguous, of format.storage, not to be written."""
        return np.asarray(self._codes, self._format.storage, order="C")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array of codes."""
        return self._codes.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._codes.ndim

    @property
    def size(self) -> int:
        """The number of codes."""
        return self._codes.size

    @property
    def real(self) -> np.ndarray:
        """float64 values; exact for formats of up to 53 bits."""
        values: np.ndarray = np.ldexp(self._codes.astype(np.float64), self._format.step_exp)
        return values

    def equals(self, other: Tensor) -> bool:
        """Same format, shape and codes; False for what is no Tensor.  `==` says the same."""
        if not isinstance(other, Tensor):
            return False
        return self._format == other._format and np.array_equal(self._codes, other._codes)

    def __eq__(self, other: object) -> bool:
        return self.equals(other) if isinstance(other, Tensor) else NotImplemented

    def __hash__(self) -> int:
        return hash((self._format, self.shape, self.codes.tobytes()))

    def reshape(self, *shape: Any) -> Tensor:
        """The same codes in another shape, row-major; one size may be -1.

        Raises:
            InputError: for a shape of another size.
        """
        return Tensor._of(self._codes.reshape(shape_after(self.shape, shape)), self._format)

    def transpose(self, *axes: int) -> Tensor:
        """The same codes with the axes in another order, reversed by default.

        Raises:
            InputError: for axes that are not all axes of the tensor, each once.
        """
        wanted = tuple(range(self.ndim))
        places = sorted(integer("each of axes", axis) for axis in axes)
        if axes and tuple(places) != wanted:
            raise InputError(f"axes {shown(axes)} are not the axes {wanted} in another order")
        return Tensor._of(np.asarray(self._codes.transpose(*axes), order="C"), self._format)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor._of(np.asarray(self._codes[index], order="C"), self._format)

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[place] for place in range(len(self)))

    def __bool__(self) -> bool:
        raise TypeError("a Tensor has no truth value; compare its codes, or use `equals`")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("a Tensor is no NumPy array; take its `codes` or its `real` values")

    def __add__(self, other: Tensor | Exact) -> Exact:
        return operation("add")(self, other)

    def __sub__(self, other: Tensor | Exact) -> Exact:
        return operation("subtract")(self, other)

    def __mul__(self, other: Tensor) -> Exact:
        return operation("multiply")(self, other)

    def __neg__(self) -> Exact:
        return operation("negative")(self)

    def __matmul__(self, other: Tensor) -> Exact:
        return operation("matmul")(self, other)

    def to_mem(self, path: str | Path) -> None:
        """Write a memory file for $readmemh: one code to a line, two's complement, row-major.

        The digits of a line are ceil(bits / 4), the most significant first.
        """
        text = memfile.to_hex(self.codes, self._format.bits)
        write_bytes(path, text)

    @classmethod
    def from_mem(cls, path: str | Path, format: Format, shape: tuple[int, ...]) -> Tensor:
        r"""Read the codes of a memory file that $writememh or `to_mem` wrote.

        It takes what $readmemh takes; see `fxsim.memfile.from_hex`.

        Raises:
            InputError: for a file that cannot be read, a digit that is none (x, z), more or fewer
                codes than `shape` has, no or two codes at an address, or more digits than the
                format's width.

        Example:
            >>> import tempfile, pathlib
            >>> from fxsim import Format, Tensor
            >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.mem")
            >>> Tensor([[1, -2], [3, -4]], Format(6, 0)).to_mem(path)
            >>> path.read_text()
            '01\n3e\n03\n3c\n'
            >>> Tensor.from_mem(path, Format(6, 0), (2, 2)).codes
            array([[ 1, -2],
                   [ 3, -4]], dtype=int8)
        """
        shape = checked_shape(shape)
        if not isinstance(format, Format):
            raise TypeError(f"format must be a fxsim.Format, got {type(format).__name__}")
        count = math.prod(shape)
        data = read_bytes(path, memfile.most_bytes(count))
        codes = memfile.from_hex(data, format, count, str(path))
        return cls(codes.reshape(shape), format)

    def to_npy(self, path: str | Path) -> None:
        """Write the codes as an .npy of format.dtype, little-endian; the format is not in it."""
        codes = np.asarray(self.codes, self._format.dtype.newbyteorder("<"), order="C")
        write_atomically(path, lambda file: np.lib.format.write_array(file, codes, (1, 0)))

    @classmethod
    def from_npy(cls, path: str | Path, format: Format) -> Tensor:
        """Read integer codes from an .npy; the pickled kind is refused."""
        if not isinstance(format, Format):
            raise TypeError(f"format must be a fxsim.Format, got {type(format).__name__}")
        codes = parse_npy(read_bytes(path), str(path))
        return construct(cls, str(path), codes, format)

    def __repr__(self) -> str:
        body = np.array2string(self.codes, separator=", ", prefix="Tensor(", threshold=20)
        return f"Tensor({body}, {self._format})"


def operation(name: str) -> Callable[..., Exact]:
    """The operation of that name; fxsim.ops stands above tensors and is loaded at its first use."""
    found: Callable[..., Exact] = getattr(importlib.import_module("fxsim.ops"), name)
    return found


def shape_after(before: tuple[int, ...], shape: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape that `reshape(*shape)` gives: sizes, or one sequence of them, one perhaps -1."""
    sizes = shape
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        sizes = tuple(shape[0])
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"a shape must hold integers, got {shown(size)}")
    known = math.prod(size for size in sizes if size != -1)
    free = sizes.count(-1)
    size = math.prod(before)
    fits = known == size if not free else free == 1 and known > 0 and size % known == 0
    if not fits or any(size < -1 for size in sizes):
        raise InputError(f"cannot reshape a tensor of shape {before} to {shown(sizes)}")
    return tuple(int(each) if each != -1 else size // known for each in sizes)


@overload
def quantize(
    values: Any,
    quantizer: Format | Quantizer,
    rounding: str = ...,
    overflow: str = ...,
    words: Words | None = ...,
    counts: Literal[False] = ...,
) -> Tensor: ...
@overload
def quantize(
    values: Any,
    quantizer: Format | Quantizer,
    rounding: str = ...,
    overflow: str = ...,
    words: Words | None = ...,
    *,
    counts: Literal[True],
) -> tuple[Tensor, Counts]: ...
def quantize(
    values: Any,
    quantizer: Format | Quantizer,
    rounding: str = "nearest_away",
    overflow: str = "saturate",
    words: Words | None = None,
    counts: bool = False,
) -> Tensor | tuple[Tensor, Counts]:
    """Real values rounded to a format, then brought into its range; exact in every bit.

    Args:
        values: an array or nested lists of floats or integers; Python integers of any size, and
            lists that mix them with floats, are taken exactly.
        quantizer: a Format, or a Quantizer, which brings its own modes and words.
        rounding: one of fxsim.ROUNDINGS.
        overflow: one of fxsim.OVERFLOWS.
        words: random words of a stochastic rounding (see fxsim.Quantizer).
        counts: also return the Counts.

    Raises:
        TypeError: for values that are no real numbers.
        InputError: for NaN or infinity, an unknown mode, or a format of more than 32 bits.

    Example:
        >>> from fxsim import Format, quantize
        >>> quantize([0.3, -0.3, 5], Format(8, 0)).codes
        array([ 38, -38, 127], dtype=int8)
    """
    counted = boolean("counts", counts)
    chosen, seen = _chosen(quantizer, rounding, overflow, words)
    array = _values(values)
    if array.dtype.kind in "iu" and array.dtype != np.uint64:
        tensor = Tensor._of(chosen.quantized(array, 0), chosen.format)
    else:
        tensor = _quantize_reals(array, chosen)
    return (tensor, seen[0]) if counted else tensor


@overload
def requantize(
    tensor: Tensor,
    quantizer: Format | Quantizer,
    rounding: str = ...,
    overflow: str = ...,
    words: Words | None = ...,
    counts: Literal[False] = ...,
) -> Tensor: ...
@overload
def requantize(
    tensor: Tensor,
    quantizer: Format | Quantizer,
    rounding: str = ...,
    overflow: str = ...,
    words: Words | None = ...,
    *,
    counts: Literal[True],
) -> tuple[Tensor, Counts]: ...
def requantize(
    tensor: Tensor,
    quantizer: Format | Quantizer,
    rounding: str = "nearest_away",
    overflow: str = "saturate",
    words: Words | None = None,
    counts: bool = False,
) -> Tensor | tuple[Tensor, Counts]:
    """A Tensor in another format: bits below the new step are rounded off, the range is applied.

    Args, results and errors are those of `quantize`.

    Example:
        >>> from fxsim import Format, Tensor, requantize
        >>> requantize(Tensor([5, 6, -6], Format(8, 0)), Format(6, 0), "floor").codes
        array([ 1,  1, -2], dtype=int8)
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"tensor must be a fxsim.Tensor, got {type(tensor).__name__}; use fxsim.quantize"
        )
    counted = boolean("counts", counts)
    chosen, seen = _chosen(quantizer, rounding, overflow, words)
    codes = chosen.quantized(tensor.operand, tensor.format.step_exp)
    result = Tensor._of(codes, chosen.format)
    return (result, seen[0]) if counted else result


def _chosen(
    quantizer: Format | Quantizer, rounding: str, overflow: str, words: Words | None
) -> tuple[Quantizer, list[Counts]]:
    """The Quantizer that the arguments stand for, and the list that gets its Counts."""
    seen: list[Counts] = []
    if not isinstance(quantizer, Quantizer):
        return Quantizer(quantizer, rounding, overflow, words, seen.append), seen
    if (rounding, overflow) != ("nearest_away", "saturate") or words is not None:
        raise InputError(
            "a Quantizer brings its own rounding, overflow and words; give them there, not beside it"
        )

    def count(counts: Counts) -> None:
        seen.append(counts)
        if quantizer.counted is not None:
            quantizer.counted(counts)

    return (
        Quantizer(quantizer.format, quantizer.rounding, quantizer.overflow, quantizer.words, count),
        seen,
    )


def _values(values: Any) -> np.ndarray:
    """Reals as float64 or integers; as objects where only Python's numbers hold them exactly."""
    if isinstance(values, np.ndarray):
        return real_array("values", values)
    if isinstance(values, (list, tuple, range, int)) and not isinstance(values, bool):
        try:
            exact = np.array(values, object)
        except ValueError:
            raise TypeError("values must be nested lists whose rows have one length") from None
        flat = exact.reshape(-1)
        kinds = (int, float, np.integer, np.floating)
        for value in flat:
            if isinstance(value, (bool, np.longdouble)) or not isinstance(value, kinds):
                raise TypeError(f"values must be real numbers, got {type(value).__name__}")
        if any(isinstance(value, (int, np.integer)) for value in flat):
            _check_finite(exact)
            return exact
    return real_array("values", values)


def _check_finite(values: np.ndarray) -> None:
    """InputError for NaN or infinity among Python's numbers."""
    integers = (int, np.integer)
    reals = [0.0 if isinstance(value, integers) else float(value) for value in values.reshape(-1)]
    check_finite("values", np.array(reals).reshape(values.shape))


def _quantize_reals(values: np.ndarray, quantizer: Quantizer) -> Tensor:
    format = quantizer.format
    split = _split if values.dtype.kind == "f" else _split_exactly
    floor, fraction = split(values, format, quantizer.overflow)
    rounding = Rounding.of(quantizer.rounding, FRACTION_BITS)
    base: Any = rounding.base
    if quantizer.stochastic:
        signed = fraction - ((floor < 0).astype(np.int64) << FRACTION_BITS)
        base = quantizer.bases(signed, FRACTION_BITS).reshape(values.shape)
    carry = base + rounding.neg * (floor < 0) + rounding.odd * (floor & 1)
    rounded = (floor + ((fraction + carry) >> FRACTION_BITS)) | rounding.jam
    bounds = Range.of(format.bits, format.signed, quantizer.overflow)
    below = rounded < bounds.low
    above = rounded > bounds.high
    flushed = (values != 0) & (rounded == 0)
    tally = np.array([np.count_nonzero(each) for each in (below, above, flushed)])
    quantizer.tell(values.size, tally)
    return Tensor._of(_bounded(rounded, below | above, bounds), format)


def _bounded(codes: np.ndarray, outside: np.ndarray, bounds: Range) -> np.ndarray:
    if bounds.rule == kernel.WRAP:
        return np.asarray(kernel.wrap_code(codes, bounds.bits, bounds.signed), np.int64)
    if bounds.rule == kernel.TO_ZERO:
        return np.where(outside, 0, codes)
    clipped: np.ndarray = np.clip(codes, bounds.low, bounds.high)
    return clipped


def _split(values: np.ndarray, format: Format, overflow: str) -> tuple[np.ndarray, np.ndarray]:
    """Floor (int64) in steps of the format and the first FRACTION_BITS bits below it, last one
    sticky.

    Every operation is exact in float64: fmod, clipping, scaling by a power of two (an underflow
    leaves the sticky bit), trunc, and x - trunc(x).  What lies far outside the format is replaced
    by a value that is outside too (saturation), or is reduced modulo a multiple of its range first
    (wrap).
    """
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


def _split_exactly(
    values: np.ndarray, format: Format, overflow: str
) -> tuple[np.ndarray, np.ndarray]:
    """`_split` of Python integers and floats, in integers without bounds."""
    pairs = [_split_number(value, format) for value in values.reshape(-1)]
    limit = 2 ** (format.bits + 1)
    floors = []
    for floor, _ in pairs:
        if abs(floor) >= limit and overflow == "wrap":
            floor = floor % limit + (limit if floor > 0 else -2 * limit)
        floors.append(min(max(floor, -2 * limit), 2 * limit))
    fractions = np.array([fraction for _, fraction in pairs], np.int64)
    return np.array(floors, np.int64).reshape(values.shape), fractions.reshape(values.shape)


def _split_number(value: Any, format: Format) -> tuple[int, int]:
    numerator, denominator = (
        (int(value), 1) if isinstance(value, (int, np.integer)) else float(value).as_integer_ratio()
    )
    numerator <<= max(FRACTION_BITS - format.step_exp, 0)
    denominator <<= max(format.step_exp - FRACTION_BITS, 0)
    scaled, rest = divmod(numerator, denominator)
    sticky = int(rest != 0)
    return scaled >> FRACTION_BITS, (scaled & (2**FRACTION_BITS - 1)) | sticky

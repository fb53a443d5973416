"""Functions by tables: the index of a value, the entry there, or a line between two entries."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np

from fxsim.activation import FUNCTIONS, INTERPOLATIONS, MAX_INDEX_BITS, MAX_RANGE_EXP
from fxsim.errors import InputError, choice, shown
from fxsim.fields import instance
from fxsim.formats import Format
from fxsim.ops.checks import tensor_of, whole
from fxsim.ops.exact import MAX_SUM_BITS, Exact, Sums, exact_of, holding
from fxsim.tensor import Tensor

DERIVATIVES = tuple(f"{function}'" for function in FUNCTIONS)

_EXACT = Context(prec=60)


def table_index(x: Tensor | Exact, index_bits: int, range_exp: int) -> Tensor:
    """The index of each value: floor(x / s) for s = 2**(range_exp + 1 - index_bits).

    It is saturated to `index_bits` signed bits, so that a table covers
    [-2**range_exp, 2**range_exp).

    Args:
        x: Tensor or exact result.
        index_bits: 1 to 16.
        range_exp: of the table.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> ops.table_index(Tensor([-128, -1, 0, 15, 16, 127], Format(8, 3)), 4, 2).codes
        array([-8, -1,  0,  1,  2,  7], dtype=int8)
    """
    format = index_format(whole("index_bits", index_bits, 1, MAX_INDEX_BITS), range_exp)
    index, _ = _place(exact_of("x", x), format)
    return Tensor(index, format)


def lookup(x: Tensor | Exact, table: Tensor, range_exp: int, interpolation: str = "none") -> Exact:
    """The entries of a table at the values of x, or lines between them; exact.

    See `table_index` for the index i; r is what is left, x = (i + r) s, 0 <= r < 1.  Below the
    table r is 0, above it 1.

    - 'none': table[i], of 2**index_bits entries;
    - 'linear': table[i] + r (table[i + 1] - table[i]), of 2**index_bits + 1 entries.

    Args:
        x: Tensor or exact result.
        table: entries (E,), the lowest index first.
        range_exp: the table covers [-2**range_exp, 2**range_exp).
        interpolation: 'none' or 'linear'.

    Raises:
        InputError: a table of another length; an exact result of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([-8, -2, 1, 3, 7], Format(4, 1))
        >>> table = Tensor([0, 10, 20, 30, 40], Format(8, 7))
        >>> ops.lookup(x, table, 1, "linear").tensor().real
        array([ 0. , 15. , 22.5, 27.5, 37.5])
    """
    exact = exact_of("x", x)
    tensor_of("table", table, "E")
    choice("interpolation", interpolation, INTERPOLATIONS)
    cells = table.size - (interpolation == "linear")
    index_bits = cells.bit_length() - 1
    if cells != 1 << index_bits or not 1 <= index_bits <= MAX_INDEX_BITS:
        extra = " + 1" if interpolation == "linear" else ""
        raise InputError(
            f"table must have 2^n{extra} entries for n of 1 to {MAX_INDEX_BITS}, "
            f"got {shown(table.size)}"
        )
    index, rest = _place(exact, index_format(index_bits, range_exp))
    place = index + cells // 2
    entries = table.operand.astype(np.int64)
    if interpolation == "none":
        return Sums(entries[place], table.format)
    left = entries[place]
    bits = _rest_bits(exact.format, index_format(index_bits, range_exp))
    format = _lines_format(table.format, bits)
    return Sums((left << bits) + rest * (entries[place + 1] - left), format)


def output_derivative(y: Tensor, function: str) -> Exact:
    """The derivative of a function from its output: y (1 - y), 1 - y**2, or y; exact.

    Args:
        y: the output, at most 30 bits, of a step of at most 1.
        function: 'sigmoid', 'tanh' or 'exp'.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> ops.output_derivative(Tensor([0, 4, 12], Format(4, 0, False)), "sigmoid").tensor().real
        array([0.    , 0.1875, 0.1875])
    """
    tensor_of("y", y, most_bits=30)
    choice("function", function, FUNCTIONS)
    step_exp = y.format.step_exp
    codes = y.operand.astype(np.int64)
    if function == "exp":
        return Sums(codes, y.format)
    if not -30 <= step_exp <= 0:
        raise InputError(f"y must have a step of 2^-30 to 1, got {y.format}; requantize it")
    one = 1 << -step_exp
    values = codes * (one - codes) if function == "sigmoid" else one * one - codes * codes
    greatest = max(-y.format.min_code, y.format.max_code)
    bound = greatest * (one + greatest) if function == "sigmoid" else one * one + greatest**2
    return Sums(values, holding(bound, 2 * step_exp))


def function_table(
    function: str,
    index_bits: int,
    range_exp: int,
    format: Format,
    interpolation: str = "none",
) -> Tensor:
    """The table of a function for `lookup`, each entry rounded to nearest, ties away from zero.

    Without interpolation entry i is the function at (i + 1/2) s, with linear interpolation at i s.
    Entries outside of the format saturate.  No float takes part.

    Args:
        function: 'sigmoid', 'tanh' or 'exp', or their derivatives "sigmoid'", "tanh'", "exp'".
        index_bits: 1 to 16.
        range_exp: of the table, -8 to 8.
        format: of the entries.
        interpolation: 'none' or 'linear'.

    Example:
        >>> from fxsim import Format, ops
        >>> ops.function_table("sigmoid", 2, 1, Format(8, 0, signed=False)).real
        array([0.18359375, 0.37890625, 0.62109375, 0.81640625])
    """
    choice("function", function, (*FUNCTIONS, *DERIVATIVES))
    choice("interpolation", interpolation, INTERPOLATIONS)
    whole("index_bits", index_bits, 1, MAX_INDEX_BITS)
    whole("range_exp", range_exp, -MAX_RANGE_EXP, MAX_RANGE_EXP)
    instance("format", format, Format)
    values = _function_values(function, index_bits, range_exp, interpolation)
    return entries_of(values, format)


def entries_of(values: Iterable[Fraction | float], format: Format) -> Tensor:
    """Real values as entries: to nearest, ties away from zero, saturated."""
    codes = []
    for value in values:
        scaled = Fraction(value) / Fraction(2) ** format.step_exp
        nearest = int(abs(scaled) + Fraction(1, 2))
        code = nearest if scaled >= 0 else -nearest
        codes.append(min(max(code, format.min_code), format.max_code))
    return Tensor(np.array(codes, np.int64), format)


def index_format(index_bits: int, range_exp: int) -> Format:
    """The format of a table's index: its step is s."""
    return Format(index_bits, range_exp)


@lru_cache(maxsize=64)
def _function_values(
    function: str, index_bits: int, range_exp: int, interpolation: str
) -> tuple[Fraction, ...]:
    """Values to 60 decimal digits, of which none lies so near to a tie that more would matter."""
    half = 1 << (index_bits - 1)
    last = half + (interpolation == "linear")
    middle = Fraction(0) if interpolation == "linear" else Fraction(1, 2)
    step = Fraction(2) ** (range_exp + 1 - index_bits)
    return tuple(_function(function, (index + middle) * step) for index in range(-half, last))


def _function(function: str, x: Fraction) -> Fraction:
    power = Fraction(_EXACT.exp(_EXACT.divide(Decimal(x.numerator), Decimal(x.denominator))))
    if function.startswith("exp"):
        return power
    if function.startswith("tanh"):
        power = power * power
        y = (power - 1) / (power + 1)
        return 1 - y * y if function.endswith("'") else y
    y = power / (power + 1)
    return y * (1 - y) if function.endswith("'") else y


def _rest_bits(x: Format, index: Format) -> int:
    return max(index.step_exp - x.step_exp, 0)


def _lines_format(table: Format, bits: int) -> Format:
    """The format of a linear interpolation with so many bits of r."""
    width = table.bits + bits + 2
    if width > MAX_SUM_BITS:
        raise InputError(
            f"linear interpolation of {table} entries by {bits} bits needs {width} bits, at most "
            f"{MAX_SUM_BITS} are exact here; lower the widths, or raise index_bits"
        )
    return Format(width, table.step_exp - bits + width - 1)


def _place(exact: Exact, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """(index, rest in steps of the value, both int64) of each value."""
    bits = _rest_bits(exact.format, format)
    up = max(exact.format.step_exp - format.step_exp, 0)
    # Values this far out have the index of the table's end, shifted or not.
    sums = np.clip(exact.sums(), -(1 << 20), 1 << 20) << min(up, 40) if up else exact.sums()
    index = sums >> min(bits, MAX_SUM_BITS)
    return _bounded(index, sums - (index << min(bits, MAX_SUM_BITS)), format, bits)


def _bounded(
    index: np.ndarray, rest: np.ndarray, format: Format, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Saturated: below the table rest is 0, above it a whole step."""
    above = index > format.max_code
    rest = np.where(
        above, np.int64(1) << min(bits, MAX_SUM_BITS), np.where(index < format.min_code, 0, rest)
    )
    return np.clip(index, format.min_code, format.max_code), rest

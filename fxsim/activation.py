"""Activation: which function a layer applies to its sums, as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_fields, check_keys, check_table, read_fields
from fxsim.files import read_json

CLIPPED_RANGE_EXP = 1
"""The clipped ReLU keeps activations in [0, 2**CLIPPED_RANGE_EXP)."""

KINDS = ("none", "relu", "clipped_relu", "leaky_relu", "table")
FUNCTIONS = ("sigmoid", "tanh", "exp")
INTERPOLATIONS = ("none", "linear")
LEAST_SLOPE_EXP = -16
MAX_INDEX_BITS = 16
MAX_RANGE_EXP = 8
"""Tables reach up to 2**MAX_RANGE_EXP, and down to 2**-MAX_RANGE_EXP."""


@dataclass(frozen=True)
class Activation:
    """The activation function of a layer.

    - 'none': the sums themselves.
    - 'relu': max(z, 0), at most `ceiling`; without one it ends where the format of its output does.
    - 'clipped_relu': the ReLU of the method.  In float its ceiling is 2.  In fixed point it is the
      range of its output's format, which is 2 as assigned; where dropout follows it is at most 2.
    - 'leaky_relu': z where z > 0, else z * 2**slope_exp.
    - 'table': an entry of a table, or a line between two of them.  The index of z is
      floor(z / s) for s = 2**(range_exp + 1 - index_bits), saturated to `index_bits` signed bits.
      Without interpolation entry i is the function at (i + 1/2) s; there are 2**index_bits.  With
      linear interpolation it is the function at i s; there is one more, at 2**range_exp.

    Args:
        kind: one of the above.
        ceiling: of 'relu' alone.  In fixed point it is rounded to a code of the output's format,
            to nearest, ties away from zero.
        slope_exp: of 'leaky_relu', -16 to -1.
        function: of 'table': 'sigmoid', 'tanh' or 'exp'; None with `values`.  In a file it may be
            the name of a JSON file with `values` and `slopes`, as seen from the working directory.
        index_bits: of a table, 1 to 16, by default 8.
        range_exp: of a table: it covers [-2**range_exp, 2**range_exp), by default 3.
        interpolation: of a table, 'none' (the default) or 'linear'.
        derivative: of a table: 'output' (the default of a function), computed from the rounded
            output y as y (1 - y), 1 - y**2 or y; or 'table', an entry of a second table of
            2**index_bits derivatives at (i + 1/2) s, never interpolated.
        values: entries of a table of one's own, the lowest index first.
        slopes: entries of its second table.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a value outside its range, a field that the kind does not have, a table of
            another length.

    Example:
        >>> from fxsim import Activation
        >>> Activation("relu", ceiling=6).least_range_exp
        3
        >>> Activation("table", function="tanh", interpolation="linear").entries
        257
    """

    kind: Literal["none", "relu", "clipped_relu", "leaky_relu", "table"]
    ceiling: float | None = None
    slope_exp: int | None = None
    function: Literal["sigmoid", "tanh", "exp"] | None = None
    index_bits: int | None = None
    range_exp: int | None = None
    interpolation: Literal["none", "linear"] | None = None
    derivative: Literal["output", "table"] | None = None
    values: tuple[float, ...] | None = None
    slopes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "activation")
        for name, value in self._given():
            if name not in _FIELDS[self.kind]:
                raise InputError(
                    f"activation {self.kind!r} has no {name}, got {shown(value)}; leave it out"
                )
        if self.ceiling is not None and self.ceiling <= 0:
            raise InputError(f"activation ceiling must be above 0, got {shown(self.ceiling)}")
        if self.kind == "leaky_relu":
            _within("slope_exp", self.slope_exp, LEAST_SLOPE_EXP, -1)
        if self.kind == "table":
            self._check_table()

    def _check_table(self) -> None:
        """Write the defaults of a table out, and check it."""
        if (self.function is None) == (self.values is None):
            raise InputError(
                f"activation 'table' needs either function, {' or '.join(FUNCTIONS)}, or values"
            )
        own = self.values is not None
        defaults = {"index_bits": 8, "range_exp": 3, "interpolation": "none"}
        defaults["derivative"] = "table" if own else "output"
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _within("index_bits", self.index_bits, 1, MAX_INDEX_BITS)
        _within("range_exp", self.range_exp, -MAX_RANGE_EXP, MAX_RANGE_EXP)
        if own and self.derivative == "output":
            raise InputError(
                "activation derivative of a table of values cannot be 'output'; give slopes"
            )
        if own != (self.slopes is not None):
            raise InputError(
                f"activation slopes must stand beside values, and only there, got "
                f"{shown(self.slopes)}"
            )
        _check_length("values", self.values, self.entries)
        _check_length("slopes", self.slopes, self.cells)

    def _given(self) -> list[tuple[str, Any]]:
        """Name and value of all fields but the kind that are given."""
        fields = dataclasses.fields(self)[1:]
        values = ((field.name, getattr(self, field.name)) for field in fields)
        return [(name, value) for name, value in values if value is not None]

    @classmethod
    def from_dict(cls, value: object, where: str = "activation") -> Activation:
        """The activation that a file describes: its kind, or a table of the fields.

        Raises:
            InputError: an unknown kind (the message names the nearest), an unknown key, a wrong
                value.
        """
        if isinstance(value, str):
            value = {"kind": choice(where, value, KINDS)}
        table = dict(check_table(where, value))
        function = table.get("function")
        if isinstance(function, str) and function.endswith(".json"):
            del table["function"]
            keys = ("values", "slopes")
            table |= check_keys(f"{where}, {shown(function)}", read_json(function), keys, keys)
        return read_fields(cls, table, where)

    def to_dict(self) -> str | dict[str, Any]:
        """What `from_dict` reads: the kind alone where nothing else is given."""
        given = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._given()
        }
        return {"kind": self.kind, **given} if given else self.kind

    @property
    def is_relu(self) -> bool:
        """Whether it is max(z, 0) with whatever ceiling."""
        return self.kind in ("relu", "clipped_relu")

    @property
    def cells(self) -> int:
        """The number of indices of a table."""
        return 1 << (self.index_bits or 0)

    @property
    def entries(self) -> int:
        """The number of entries of a table."""
        return self.cells + (self.interpolation == "linear")

    @property
    def signed(self) -> bool:
        """Whether its results may be below 0."""
        if self.kind == "table":
            return self.function == "tanh" or min(self.values or (0.0,)) < 0
        return not self.is_relu

    @property
    def float_range(self) -> tuple[float, float]:
        """What the float executor clips to."""
        if not self.is_relu:
            return -math.inf, math.inf
        if self.kind == "clipped_relu":
            return 0.0, 2.0**CLIPPED_RANGE_EXP
        return 0.0, math.inf if self.ceiling is None else self.ceiling

    @property
    def least_range_exp(self) -> int | None:
        """The least e with 2**e at or above all of its magnitudes; None where there is none."""
        if self.kind == "table" and self.function == "exp":
            return max(0, math.ceil(2.0 ** (self.range_exp or 0) / math.log(2)))
        _, high = self.float_range
        if self.kind == "table":
            high = max(map(abs, self.values)) if self.values else 1.0
        if math.isinf(high) or not high:
            return None
        mantissa, exponent = math.frexp(high)
        return exponent - (mantissa == 0.5)


_TABLE = ("function", "index_bits", "range_exp", "interpolation", "derivative", "values", "slopes")
_FIELDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "relu": ("ceiling",),
    "clipped_relu": (),
    "leaky_relu": ("slope_exp",),
    "table": _TABLE,
}
"""Kind -> its fields."""


def _within(name: str, value: int | None, least: int, most: int) -> None:
    if value is None or not least <= value <= most:
        raise InputError(f"activation {name} must be {least} to {most}, got {shown(value)}")


def _check_length(name: str, values: tuple[float, ...] | None, length: int) -> None:
    if values is not None and len(values) != length:
        raise InputError(
            f"activation {name} must be {length} by index_bits and interpolation, got "
            f"{len(values)}; change index_bits, or the table"
        )


CLIPPED_RELU = Activation("clipped_relu")
NONE = Activation("none")

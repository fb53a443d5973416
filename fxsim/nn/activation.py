"""Activation: which function a layer applies to its sums, as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_fields, read_fields

CLIPPED_RANGE_EXP = 1
"""The clipped ReLU keeps activations in [0, 2**CLIPPED_RANGE_EXP)."""

KINDS = ("none", "relu", "clipped_relu")


@dataclass(frozen=True)
class Activation:
    """The activation function of a layer.

    - 'none': the sums themselves.
    - 'relu': max(z, 0), at most `ceiling`; without one it ends where the format of its output does.
    - 'clipped_relu': the ReLU of the method.  In float its ceiling is 2.  In fixed point it is the
      range of its output's format, which is 2 as assigned; where dropout follows it is at most 2.

    Args:
        kind: one of the above.
        ceiling: of 'relu' alone.  In fixed point it is rounded to a code of the output's format,
            to nearest, ties away from zero.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a value outside its range, or a field that the kind does not have.

    Example:
        >>> from fxsim import Activation
        >>> Activation("relu", ceiling=6).least_range_exp
        3
    """

    kind: Literal["none", "relu", "clipped_relu"]
    ceiling: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "activation")
        for name, value in self._given():
            if name not in _FIELDS[self.kind]:
                raise InputError(
                    f"activation {self.kind!r} has no {name}, got {shown(value)}; leave it out"
                )
        if self.ceiling is not None and self.ceiling <= 0:
            raise InputError(f"activation ceiling must be above 0, got {shown(self.ceiling)}")

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
        return read_fields(cls, value, where)

    def to_dict(self) -> str | dict[str, Any]:
        """What `from_dict` reads: the kind alone where nothing else is given."""
        given = dict(self._given())
        return {"kind": self.kind, **given} if given else self.kind

    @property
    def is_relu(self) -> bool:
        """Whether it is max(z, 0) with whatever ceiling."""
        return self.kind in ("relu", "clipped_relu")

    @property
    def signed(self) -> bool:
        """Whether its results may be below 0."""
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
        """The least e with 2**e at or above its ceiling; None without a ceiling."""
        _, high = self.float_range
        if math.isinf(high):
            return None
        mantissa, exponent = math.frexp(high)
        return exponent - (mantissa == 0.5)


_FIELDS: dict[str, tuple[str, ...]] = {"none": (), "relu": ("ceiling",), "clipped_relu": ()}
"""Kind -> its fields."""

CLIPPED_RELU = Activation("clipped_relu")
NONE = Activation("none")

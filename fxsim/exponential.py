"""Exponential: how softmax and sigmoid make powers of two from a table, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fxsim.errors import InputError, shown
from fxsim.fields import check_fields

MAX_INDEX_BITS = 16
MAX_ENTRY_BITS = 30


@dataclass(frozen=True)
class Exponential:
    """The exponential of a cross-entropy: 2**-v by a table over the fraction of v, then a shift.

    Entry j, of 2**index_bits + 1, is 2**(-j / 2**index_bits), to the nearest.

    Args:
        index_bits: of the fraction of v, the first ones, 1 to 16.
        entry_bits: fraction bits of the entries and of the result, 1 to 30.
        interpolation: 'linear' between an entry and the next, or 'none' for the entry itself.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a number outside its range, or an unknown interpolation.

    Example:
        >>> from fxsim import Exponential, Format, Tensor, ops
        >>> rough = Exponential(index_bits=2, entry_bits=8, interpolation="none")
        >>> logits = Tensor([[0, 3]], Format(6, 2))
        >>> [ops.softmax_cross_entropy_grad(logits, [0], recipe).to(Format(8, 0)).codes.tolist()
        ...  for recipe in (Exponential(), rough)]
        [[[-76, 76]], [[-75, 75]]]
    """

    index_bits: int = 8
    entry_bits: int = MAX_ENTRY_BITS
    interpolation: Literal["none", "linear"] = "linear"

    def __post_init__(self) -> None:
        check_fields(self, "exponential")
        for name, most in (("index_bits", MAX_INDEX_BITS), ("entry_bits", MAX_ENTRY_BITS)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise InputError(f"exponential {name} must be 1 to {most}, got {shown(value)}")


DEFAULT = Exponential()

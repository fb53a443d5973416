"""Accumulator: how wide the sum of a dot product's terms is held, what happens when it
overflows, in which order it grows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fxsim.errors import InputError, choice
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.kernels.rounding import STOCHASTIC, code_range

KINDS = ("forward", "input_grad", "weight_grad")
"""The three products of a layer.

Pre-activations, gradient at its input, gradient of its weights.
"""

WHEN = ("each addition", "end")
ORDERS = ("sequential", "tree", "tiles")
ADDEND_ROUNDINGS = tuple(mode for mode in ROUNDINGS if mode not in STOCHASTIC)
MIN_BITS = 2
MAX_BITS = 62
MAX_DROP = 62
_EXAMPLE = "write it like '24 bits, saturate each addition, tiles of 16, floor 2'; only the bits are needed"


@dataclass(frozen=True)
class Accumulator:
    """A signed accumulator of `bits` bits.  `fxsim/numerics.md`, "Accumulators", has the formulas.

    overflow: 'saturate', 'saturate_symmetric', 'saturate_zero' or 'wrap'.  when: it acts after
    'each addition', or once at the 'end' of an exact sum.
    order: 'sequential', one term after the other; 'tree', a balanced binary tree of adders over
    neighbours; 'tiles', the exact sums of `tile` terms at a time, one after the other.
    rounding: of every term before it is added, by `drop` bits, or to the step 2**step_exp where
    that is given."""

    bits: int
    overflow: str = "saturate"
    when: str = "each addition"
    order: str = "sequential"
    tile: int = 0
    rounding: str = "floor"
    drop: int = 0
    step_exp: int | None = None

    def __post_init__(self):
        for name in ("bits", "tile", "drop") + (() if self.step_exp is None else ("step_exp",)):
            _check_integer(name, getattr(self, name))
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise InputError(f"accumulator bits must be {MIN_BITS} to {MAX_BITS}, got {self.bits}")
        choice("accumulator overflow", self.overflow, OVERFLOWS)
        choice("accumulator when", self.when, WHEN)
        choice("accumulator order", self.order, ORDERS)
        choice("accumulator rounding", self.rounding, ADDEND_ROUNDINGS)
        if self.order == "tiles" and self.tile < 2:
            raise InputError(
                f"accumulator tile must be at least 2 terms, got {self.tile}; order 'sequential' "
                f"adds one by one"
            )
        if self.order != "tiles" and self.tile:
            raise InputError(
                f"accumulator tile is for order 'tiles', got tile {self.tile} with order "
                f"{self.order!r}"
            )
        if not 0 <= self.drop <= MAX_DROP:
            raise InputError(f"accumulator drop must be 0 to {MAX_DROP} bits, got {self.drop}")
        if self.drop and self.step_exp is not None:
            raise InputError(
                f"accumulator drop {self.drop} and step_exp {self.step_exp} both give the step; "
                f"leave one out"
            )

    @classmethod
    def of(cls, format: Format, **options) -> Accumulator:
        """The accumulator with the bits and the step of a signed Format.

        Options: the other fields.
        """
        if not format.signed:
            raise InputError(f"an accumulator is signed, got {format}")
        return cls(format.bits, step_exp=format.step_exp, **options)

    def resolved(self, product_step_exp: int) -> Accumulator:
        """The same with the step as `drop`, for products with step 2**product_step_exp."""
        if self.step_exp is None:
            return self
        drop = self.step_exp - product_step_exp
        if not 0 <= drop <= MAX_DROP:
            raise InputError(
                f"the accumulator's step 2^{self.step_exp} must be 2^{product_step_exp}, the "
                f"products' own, to "
                f"2^{product_step_exp + MAX_DROP}; change it, or give the bits to drop"
            )
        return dataclasses.replace(self, drop=drop, step_exp=None)

    @property
    def at_end(self) -> bool:
        return self.when == "end"

    @property
    def adds_products_whole(self) -> bool:
        """Whether terms are added as they are."""
        return self.drop == 0 and self.rounding != "jam"

    def range(self, extra_bits: int = 0) -> tuple[int, int]:
        """(lowest, highest) code of its overflow, with so many bits more."""
        return code_range(self.bits + extra_bits, True, self.overflow)

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }

    @classmethod
    def from_dict(cls, row: Mapping) -> Accumulator:
        for key in row:
            choice("accumulator: key", key, [field.name for field in dataclasses.fields(cls)])
        if "bits" not in row:
            raise InputError("accumulator needs 'bits'")
        return cls(**row)

    @classmethod
    def parse(cls, text: str) -> Accumulator:
        """The accumulator that `str` wrote.

        Parts may come in any order, and all but the bits may be left out.
        """
        fields: dict = {}
        for part in filter(None, map(str.strip, text.split(","))):
            found = _read_part(part)
            if found is None:
                raise InputError(f"accumulator {text!r}: {part!r} is unknown; {_EXAMPLE}")
            if fields.keys() & found.keys():
                raise InputError(
                    f"accumulator {text!r}: {part!r} says twice what another part says; {_EXAMPLE}"
                )
            fields |= found
        if "bits" not in fields:
            raise InputError(f"accumulator {text!r} has no bits; {_EXAMPLE}")
        return cls(**fields)

    def __str__(self) -> str:
        parts = [
            f"{self.bits} bits",
            f"{self.overflow} {'at the end' if self.at_end else self.when}",
            f"tiles of {self.tile}" if self.order == "tiles" else self.order,
        ]
        if self.step_exp is not None:
            parts.append(f"{self.rounding} to 2^{self.step_exp}")
        elif self.drop or self.rounding != "floor":
            parts.append(f"{self.rounding} {self.drop}")
        return ", ".join(parts)


_ROUNDING = "|".join(ADDEND_ROUNDINGS)
_PARTS = (
    (r"(\d+)(?: bits?)?", lambda bits: {"bits": int(bits)}),
    (
        rf"({'|'.join(OVERFLOWS)})(?: (each addition|(?:at the )?end))?",
        lambda overflow, when: {
            "overflow": overflow,
            "when": "end" if when and when.endswith("end") else "each addition",
        },
    ),
    (r"(sequential|tree)", lambda order: {"order": order}),
    (r"tiles of (\d+)", lambda tile: {"order": "tiles", "tile": int(tile)}),
    (rf"({_ROUNDING}) (\d+)", lambda mode, drop: {"rounding": mode, "drop": int(drop)}),
    (rf"({_ROUNDING}) to 2\^(-?\d+)", lambda mode, exp: {"rounding": mode, "step_exp": int(exp)}),
)


def _read_part(part: str) -> dict | None:
    for pattern, fields in _PARTS:
        match = re.fullmatch(pattern, part)
        if match:
            return fields(*match.groups())
    return None


def parse_accumulators(texts: Iterable[str]) -> dict[str, Accumulator]:
    """Key -> Accumulator of texts 'forward=24 bits', 'conv1.weight_grad=...'; without a key, all
    three kinds.

    Keys are those of PrecisionAssignment.accumulator; a later text replaces what an earlier one
    said."""
    models: dict[str, Accumulator] = {}
    for text in texts:
        key, equals, model = text.rpartition("=")
        models |= dict.fromkeys((key.strip(),) if equals else KINDS, Accumulator.parse(model))
    return models


def check_keys(models: Mapping[str, Accumulator], layers: Iterable[str]) -> None:
    """InputError unless every key is a kind of product, or 'layer.kind'.

    TypeError for a value that is no Accumulator.
    """
    for key, model in models.items():
        layer, dot, kind = key.rpartition(".")
        choice(f"accumulator {key!r}: product", kind, KINDS)
        if dot:
            choice(f"accumulator {key!r}: layer", layer, layers)
        if not isinstance(model, Accumulator):
            raise TypeError(
                f"accumulator {key!r} must be a fxsim.Accumulator, got {type(model).__name__}"
            )


@dataclass(frozen=True)
class Overflows:
    """What an accumulator met.

    `sums` that it made, `overflows` of its additions (several to a sum, perhaps).
    """

    sums: int
    overflows: int

    def __add__(self, other: Overflows) -> Overflows:
        return Overflows(self.sums + other.sums, self.overflows + other.overflows)


def _check_integer(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"accumulator {name} must be an integer, got {value!r}")

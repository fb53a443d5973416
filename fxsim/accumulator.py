"""Accumulator: how wide the sum of a dot product's terms is held, what happens when it
overflows, what it starts from and in which order it grows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fxsim.errors import InputError, choice, shown
from fxsim.fields import instance, integer, mapping, string, strings
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.kernels.rounding import STOCHASTIC, code_range

KINDS = ("forward", "input_grad", "weight_grad")
"""The three products of a layer.

Pre-activations, gradient at its input, gradient of its weights.
"""

WHEN = ("each addition", "each operation", "end")
ORDERS = ("sequential", "tree", "tiles")
BIASES = ("after", "first")
AXES = ("channel_first", "channel_last")
ADDEND_ROUNDINGS = tuple(mode for mode in ROUNDINGS if mode not in STOCHASTIC)
MIN_BITS = 2
MAX_BITS = 62
MAX_DROP = 62
WHEN_OF_TILES = ("each addition", "end")
"""The terms of a tile are summed exactly, so that none overflows by itself."""
_EXAMPLE = (
    "write it like '24 bits, saturate each addition, tiles of 16, floor 2, bias first, 4 lanes, "
    "channel last'; only the bits are needed"
)
_INTEGERS = ("bits", "tile", "drop", "lanes")
_TEXTS = ("overflow", "when", "order", "rounding", "bias", "axes")


@dataclass(frozen=True)
class Accumulator:
    """A signed accumulator of `bits` bits, as a MAC unit has it.

    `fxsim/numerics.md`, "Accumulators", has the formulas.

    Attributes:
        bits: Width, 2 to 62.
        overflow: 'saturate', 'saturate_symmetric', 'saturate_zero' or 'wrap'.
        when: The overflow acts after 'each addition'; after 'each operation', on every term by
            itself and on every addition; or once at the 'end' of an exact sum.  At the end every
            order, place of the bias, number of lanes and order of axes gives the same sum.
        order: 'sequential', one term after the other; 'tree', a balanced binary tree of adders
            over neighbours; 'tiles', the exact sums of `tile` terms at a time, one after the
            other.
        tile: Terms of a tile, at least 2; 0 for the other orders.
        rounding: Rounding of every term before it is added, by `drop` bits, or to the step
            2**step_exp where that is given.
        drop: Bits that are dropped from every term, 0 to 62.
        step_exp: Exponent of the accumulator's step, in place of drop.
        bias: 'after', the bias is added once the terms are summed; 'first', the sum starts from
            the bias.  The bias must then be a whole number of the accumulator's steps.  A tree
            has no start: 'first' is refused for it.  Sums without a bias start from 0.
        lanes: Accumulators side by side.  Term k goes to lane k mod lanes, every lane grows by
            itself in the stated order, and the lanes are added at the end, in ascending order.
            The bias starts lane 0.
        axes: The order of a convolution's terms: 'channel_first', by channel, kernel row, kernel
            column, the last one fastest; 'channel_last', by kernel row, kernel column, channel.
            It is the input channel forward and the output channel in the gradient at the input.
            The terms of a weight gradient come by image, row, column, those of a fully connected
            layer along one axis: axes does not change them.

    Raises:
        InputError: A value that is none of these, or fields that contradict each other.
        TypeError: A field of another type.

    Example:
        >>> mac = Accumulator(24, bias="first", lanes=4, axes="channel_last")
        >>> str(mac)
        '24 bits, saturate each addition, sequential, bias first, 4 lanes, channel last'
        >>> Accumulator.parse(str(mac)) == Accumulator.from_dict(mac.to_dict()) == mac
        True
        >>> Accumulator(24, order="tree", bias="first")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fxsim.errors.InputError: ... got order 'tree', which has no start; use bias 'after'
    """

    bits: int
    overflow: str = "saturate"
    when: str = "each addition"
    order: str = "sequential"
    tile: int = 0
    rounding: str = "floor"
    drop: int = 0
    step_exp: int | None = None
    bias: str = "after"
    lanes: int = 1
    axes: str = "channel_first"

    def __post_init__(self) -> None:
        self._check_types()
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise InputError(
                f"accumulator bits must be {MIN_BITS} to {MAX_BITS}, got {shown(self.bits)}"
            )
        choice("accumulator overflow", self.overflow, OVERFLOWS)
        choice("accumulator when", self.when, WHEN)
        choice("accumulator order", self.order, ORDERS)
        choice("accumulator rounding", self.rounding, ADDEND_ROUNDINGS)
        choice("accumulator bias", self.bias, BIASES)
        choice("accumulator axes", self.axes, AXES)
        self._check_order()
        if not 0 <= self.drop <= MAX_DROP:
            raise InputError(
                f"accumulator drop must be 0 to {MAX_DROP} bits, got {shown(self.drop)}"
            )
        if self.drop and self.step_exp is not None:
            raise InputError(
                f"accumulator drop {self.drop} and step_exp {shown(self.step_exp)} both give the step; "
                f"leave one out"
            )

    def _check_types(self) -> None:
        """Integers of NumPy become Python's, which JSON can hold."""
        for name in _INTEGERS if self.step_exp is None else (*_INTEGERS, "step_exp"):
            value = integer(f"accumulator {name}", getattr(self, name))
            object.__setattr__(self, name, value)
        for name in _TEXTS:
            string(f"accumulator {name}", getattr(self, name))

    def _check_order(self) -> None:
        if self.order == "tiles" and self.tile < 2:
            raise InputError(
                f"accumulator tile must be at least 2 terms, got {shown(self.tile)}; order 'sequential' "
                f"adds one by one"
            )
        if self.order != "tiles" and self.tile:
            raise InputError(
                f"accumulator tile is for order 'tiles', got tile {shown(self.tile)} with order "
                f"{self.order!r}"
            )
        if self.order == "tiles" and self.when not in WHEN_OF_TILES:
            raise InputError(
                "accumulator when 'each operation' needs order 'sequential' or 'tree', got order "
                "'tiles', whose terms are summed exactly first; use when 'each addition'"
            )
        if self.order == "tree" and self.bias == "first":
            raise InputError(
                "accumulator bias 'first' needs order 'sequential' or 'tiles', got order 'tree', "
                "which has no start; use bias 'after'"
            )
        if self.lanes < 1:
            raise InputError(
                f"accumulator lanes must be at least 1, got {shown(self.lanes)}; one lane adds all terms"
            )

    @classmethod
    def of(cls, format: Format, **options: Any) -> Accumulator:
        """The accumulator with the bits and the step of a signed Format.

        Options: the other fields.
        """
        if not instance("format", format, Format).signed:
            raise InputError(f"an accumulator is signed, got {format}")
        return cls(format.bits, step_exp=format.step_exp, **options)

    def resolved(self, product_step_exp: int) -> Accumulator:
        """The same with the step as `drop`, for products with step 2**product_step_exp."""
        if self.step_exp is None:
            return self
        drop = self.step_exp - integer("product_step_exp", product_step_exp)
        if not 0 <= drop <= MAX_DROP:
            raise InputError(
                f"the accumulator's step 2^{shown(self.step_exp)} must be "
                f"2^{shown(product_step_exp)}, the products' own, or coarser by at most "
                f"{MAX_DROP} bits; change it, or give the bits to drop"
            )
        return dataclasses.replace(self, drop=drop, step_exp=None)

    def check_used(self, operation: str, *, has_bias: bool, has_channels: bool) -> None:
        """Refuse fields that change nothing in an operation.

        A call for one operation asks this.  A setting for a whole network need not: each field
        counts wherever it can.

        Args:
            operation: Its name, for the message.
            has_bias: Whether it adds a bias to its sums.
            has_channels: Whether its terms run over channels and a kernel, in either order.

        Raises:
            InputError: A field is set that the operation cannot honour.

        Example:
            >>> mac = Accumulator(24, bias="first")
            >>> mac.check_used("linear", has_bias=True, has_channels=False)
            >>> mac.check_used("matmul", has_bias=False, has_channels=False)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            fxsim.errors.InputError: matmul: accumulator bias 'first' has no effect, ...
        """
        if self.bias == "first" and not has_bias:
            raise InputError(
                f"{operation}: accumulator bias 'first' has no effect, as there is no bias; leave "
                f"it out"
            )
        if self.axes == "channel_last" and not has_channels:
            raise InputError(
                f"{operation}: accumulator axes 'channel_last' has no effect, as the terms have "
                f"one order of axes; leave it out"
            )

    @property
    def at_end(self) -> bool:
        """Whether the overflow acts once, on the exact sum."""
        return self.when == "end"

    @property
    def bounds_terms(self) -> bool:
        """Whether the overflow acts on every term by itself, before it is added."""
        return self.when == "each operation"

    @property
    def adds_products_whole(self) -> bool:
        """Whether terms are added as they are."""
        return self.drop == 0 and self.rounding != "jam"

    def range(self, extra_bits: int = 0) -> tuple[int, int]:
        """(lowest, highest) code of its overflow, with so many bits more."""
        extra_bits = integer("extra_bits", extra_bits)
        if not 0 <= extra_bits <= MAX_DROP:
            raise InputError(f"extra_bits must be 0 to {MAX_DROP}, got {shown(extra_bits)}")
        return code_range(self.bits + extra_bits, True, self.overflow)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Accumulator:
        """The accumulator that `to_dict` wrote; keys with a default may be left out.

        Raises:
            InputError: An unknown key, no bits, or values that are no Accumulator.
            TypeError: No mapping, or a field of another type.
        """
        for key in mapping("accumulator", row):
            choice("accumulator: key", key, [field.name for field in dataclasses.fields(cls)])
        if "bits" not in row:
            raise InputError("accumulator needs 'bits'")
        return cls(**row)

    @classmethod
    def parse(cls, text: str) -> Accumulator:
        """The accumulator that `str` wrote.

        Parts may come in any order, and all but the bits may be left out.
        """
        fields: dict[str, Any] = {}
        for part in filter(None, map(str.strip, string("accumulator", text).split(","))):
            found = _read_part(part)
            if found is None:
                raise InputError(f"accumulator {shown(text)}: {shown(part)} is unknown; {_EXAMPLE}")
            if fields.keys() & found.keys():
                raise InputError(
                    f"accumulator {shown(text)}: {shown(part)} says twice what another part says; {_EXAMPLE}"
                )
            fields |= found
        if "bits" not in fields:
            raise InputError(f"accumulator {shown(text)} has no bits; {_EXAMPLE}")
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
        if self.bias != "after":
            parts.append(f"bias {self.bias}")
        if self.lanes != 1:
            parts.append(f"{self.lanes} lanes")
        if self.axes != "channel_first":
            parts.append(self.axes.replace("_", " "))
        return ", ".join(parts)


_ROUNDING = "|".join(ADDEND_ROUNDINGS)
_PARTS = (
    (r"(\d{1,9})(?: bits?)?", lambda bits: {"bits": int(bits)}),
    (
        rf"({'|'.join(OVERFLOWS)})(?: (each addition|each operation|(?:at the )?end))?",
        lambda overflow, when: {
            "overflow": overflow,
            "when": "end" if when and when.endswith("end") else when or "each addition",
        },
    ),
    (r"(sequential|tree)", lambda order: {"order": order}),
    (r"tiles of (\d{1,9})", lambda tile: {"order": "tiles", "tile": int(tile)}),
    (rf"({_ROUNDING}) (\d{{1,9}})", lambda mode, drop: {"rounding": mode, "drop": int(drop)}),
    (
        rf"({_ROUNDING}) to 2\^(-?\d{{1,9}})",
        lambda mode, exp: {"rounding": mode, "step_exp": int(exp)},
    ),
    (r"bias (after|first)", lambda bias: {"bias": bias}),
    (r"(\d{1,9}) lanes?", lambda lanes: {"lanes": int(lanes)}),
    (r"channel (first|last)", lambda place: {"axes": f"channel_{place}"}),
)


def _read_part(part: str) -> dict[str, Any] | None:
    for pattern, fields in _PARTS:
        match = re.fullmatch(pattern, part, re.ASCII)
        if match:
            return fields(*match.groups())
    return None


def parse_accumulators(texts: Iterable[str]) -> dict[str, Accumulator]:
    """Key -> Accumulator of texts 'forward=24 bits', 'conv1.weight_grad=...'; without a key, all
    three kinds.

    Keys are those of PrecisionAssignment.accumulator; a later text replaces what an earlier one
    said.
    """
    models: dict[str, Accumulator] = {}
    for text in strings("accumulators", texts):
        key, equals, model = text.rpartition("=")
        models |= dict.fromkeys((key.strip(),) if equals else KINDS, Accumulator.parse(model))
    return models


def check_keys(models: Mapping[str, Accumulator], layers: Iterable[str]) -> None:
    """InputError unless every key is a kind of product, or 'layer.kind'.

    TypeError for a value that is no Accumulator.
    """
    for key, model in models.items():
        layer, dot, kind = key.rpartition(".")
        choice(f"accumulator {shown(key)}: product", kind, KINDS)
        if dot:
            choice(f"accumulator {shown(key)}: layer", layer, layers)
        instance(f"accumulator {shown(key)}", model, Accumulator)


@dataclass(frozen=True)
class Overflows:
    """What an accumulator met.

    `sums` that it made, `overflows` of its additions (several to a sum, perhaps).
    """

    sums: int
    overflows: int

    def __add__(self, other: Overflows) -> Overflows:
        if not isinstance(other, Overflows):
            return NotImplemented
        return Overflows(self.sums + other.sums, self.overflows + other.overflows)

"""Where the random words of a stochastic rounding come from, as plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_fields, check_keys, check_table, read_fields, string, strings
from fxsim.lfsr import Lfsr, LfsrWords
from fxsim.rng import Stream


@dataclass(frozen=True)
class Philox:
    """Words of the Stream of a seed, a step and a tensor's name; `bits` of each count, 1 to 32."""

    bits: int = 32

    def __post_init__(self) -> None:
        check_fields(self, "philox")
        Stream(0, 0, "", self.bits)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": "philox", "bits": self.bits}


@dataclass(frozen=True)
class DroppedBits:
    """No random words: the lower half of the bits that a rounding drops stands for them.

    With d bits dropped from a magnitude, its part below the step is d - h bits and below these
    h = d div 2 bits, to which a 0 is appended where d is odd.  The magnitude is rounded up where
    the upper part is greater than the lower one, else down.

    Source: M. Wang et al., "NITI: Training Integer Neural Networks Using Integer-only Arithmetic"
    (2020), "pseudo stochastic rounding".

    Example:
        >>> from fxsim import DroppedBits, Format, Quantizer, Tensor, requantize
        >>> down = Quantizer(Format(4, 3), "stochastic", words=DroppedBits())
        >>> requantize(Tensor([16, 17, 20, 21, -20, -21], Format(8, 5)), down).codes
        array([ 4,  4,  5,  5, -5, -5], dtype=int8)
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": "dropped_bits"}

    def bases(self, values: np.ndarray, shift: int) -> np.ndarray:
        """int64 bases of integers of which `shift` bits are dropped, 0 to 62.

        A base of 2**shift - 1 gives the ceiling, one of 0 the floor.
        """
        values = values.astype(np.int64)
        dropped = np.abs(values) & np.int64(2**shift - 1)
        half = shift // 2
        upper = dropped >> half
        lower = (dropped & np.int64(2**half - 1)) << (shift % 2)
        away = upper > lower
        return np.where(away != (values < 0), np.int64(2**shift - 1), 0)


WordSource: TypeAlias = Philox | Lfsr | DroppedBits
"""Where a network takes the words of a tensor from."""

_KINDS = {"philox": Philox, "lfsr": Lfsr, "dropped_bits": DroppedBits}


def source_from_dict(row: object, where: str) -> WordSource:
    """The source that `to_dict` gave, by its `kind`; InputError tells what is wrong."""
    row = dict(check_table(where, row))
    if "kind" not in row:
        raise InputError(f"{where} needs 'kind': {', '.join(_KINDS)}")
    kind = _KINDS[choice(f"{where}: kind", row.pop("kind"), _KINDS)]
    if kind is Lfsr:
        return Lfsr.from_dict(row, where)
    if kind is DroppedBits:
        check_keys(where, row, ())
        return DroppedBits()
    return read_fields(Philox, row, where)


def words_of(
    source: WordSource, seed: int, step: int, name: str
) -> Stream | LfsrWords | DroppedBits:
    """The words of one tensor at one step; seed and name are those of a Stream."""
    if isinstance(source, Lfsr):
        return source.at(step)
    return Stream(seed, step, name, source.bits) if isinstance(source, Philox) else source


_EXAMPLE = (
    "write it like 'lfsr of 16, taps 16 15 13 4, 8 bits, 4 lanes', 'philox, 8 bits' or "
    "'dropped bits'"
)
_NUMBER = r"(0x[0-9a-fA-F]{1,16}|\d{1,20})"
_PARTS = (
    (r"lfsr of (\d{1,9})", lambda width: {"kind": "lfsr", "width": int(width)}),
    (r"(philox)", lambda kind: {"kind": kind}),
    (r"dropped bits()", lambda _: {"kind": "dropped_bits"}),
    (r"taps ((?:\d{1,9} ?)+)", lambda taps: {"taps": [int(tap) for tap in taps.split()]}),
    (r"(\d{1,9}) bits?", lambda bits: {"bits": int(bits)}),
    (rf"seed {_NUMBER}", lambda seed: {"seed": int(seed, 0)}),
    (
        rf"seeds ((?:{_NUMBER} ?)+)",
        lambda seeds, _: {"seed": [int(seed, 0) for seed in seeds.split()]},
    ),
    (r"(fibonacci|galois)", lambda form: {"form": form}),
    (r"(left|right)", lambda shift: {"shift": shift}),
    (r"(\d{1,9}) lanes?", lambda lanes: {"lanes": int(lanes)}),
    (r"runs? of (\d{1,9})", lambda run: {"run": int(run)}),
    (r"from bit (\d{1,9})", lambda bit: {"low_bit": int(bit)}),
    (r"(\d{1,12}) clocks?", lambda clocks: {"clocks": int(clocks)}),
    (r"start (\d{1,12})", lambda start: {"start": int(start)}),
    (r"period (\d{1,12})", lambda period: {"period": int(period)}),
)


def parse_source(text: str) -> WordSource:
    """The source that a text describes, parts in any order.

    Example:
        >>> parse_source("lfsr of 16, taps 16 15 13 4, 8 bits, galois, seed 0xACE1")
        ... # doctest: +ELLIPSIS
        Lfsr(width=16, taps=(16, 15, 13, 4), bits=8, seed=44257, form='galois', ...
    """
    row: dict[str, Any] = {}
    for part in filter(None, map(str.strip, string("words", text).split(","))):
        found = _read_part(part)
        if found is None:
            raise InputError(f"words {shown(text)}: {shown(part)} is unknown; {_EXAMPLE}")
        if row.keys() & found.keys():
            raise InputError(
                f"words {shown(text)}: {shown(part)} says twice what another part says; {_EXAMPLE}"
            )
        row |= found
    if "kind" not in row:
        raise InputError(f"words {shown(text)} name no source; {_EXAMPLE}")
    return source_from_dict(row, f"words {shown(text)}")


def _read_part(part: str) -> dict[str, Any] | None:
    for pattern, fields in _PARTS:
        match = re.fullmatch(pattern, part, re.ASCII)
        if match:
            return fields(*match.groups())
    return None


def parse_sources(texts: Iterable[str]) -> dict[str, WordSource]:
    """Key -> source of texts 'accumulators=lfsr of 16, ...', 'conv1.weight_grads=dropped bits'.

    A later text replaces what an earlier one said.
    """
    sources = {}
    for text in strings("words", texts):
        key, equals, source = text.partition("=")
        if not equals:
            raise InputError(
                f"words {shown(text)} must name their tensor, as in 'accumulators=dropped bits'"
            )
        sources[key.strip()] = parse_source(source)
    return sources

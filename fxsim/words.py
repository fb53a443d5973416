"""Where the random words of a stochastic rounding come from, as plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fxsim.arrays import checked_shape
from fxsim.errors import InputError, choice, listed, shown
from fxsim.fields import (
    check_fields,
    check_table,
    integer,
    read_fields,
    string,
    strings,
)
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


@dataclass(frozen=True)
class WordMemory:
    """Words of one's own in a memory, which is read round and round.

    Element i of a tensor of E elements takes, at training step s, the word at (s E + i) mod the
    number of words.  It goes wherever a Stream goes, and then stands for step 0.

    Args:
        memory: the words, at least one.
        bits: of each word, 1 to 32.

    Raises:
        TypeError: words or bits that are no integers.
        InputError: no words, or one of more bits.

    Example:
        >>> from fxsim import WordMemory
        >>> [int(word) >> 30 for word in WordMemory((0, 3, 1), bits=2).words(5)]
        [0, 3, 1, 0, 3]
    """

    memory: tuple[int, ...]
    bits: int = 32

    def __post_init__(self) -> None:
        check_fields(self, "words")
        if not 1 <= self.bits <= 32:
            raise InputError(f"words bits must be 1 to 32 random bits, got {shown(self.bits)}")
        if not self.memory:
            raise InputError("words memory must hold at least one word, got none")
        for word in self.memory:
            if not 0 <= word < 2**self.bits:
                raise InputError(
                    f"words memory must hold words of {self.bits} bits, unsigned, got "
                    f"{shown(word)}; give more bits"
                )

    def words(self, shape: int | tuple[int, ...], start: int = 0, step: int = 0) -> np.ndarray:
        """uint32 words at positions start, start + 1, ... in row-major order of `shape`.

        The bits of a word are the first of the 32; the others are 0.

        Raises:
            TypeError: for sizes, a start or a step that are no integers.
            InputError: for a number outside its range, or more than 2**31 - 1 words.
        """
        shape = checked_shape(shape)
        start = integer("start", start)
        step = integer("step", step)
        if start < 0 or step < 0:
            raise InputError(f"start and step must be at least 0, got {shown((start, step))}")
        size = math.prod(shape)
        table = np.array(self.memory, np.uint32) << np.uint32(32 - self.bits)
        first = (step * size + start) % table.size
        return table[(first + np.arange(size)) % table.size].reshape(shape)

    def at(self, step: int) -> MemoryWords:
        """The words of a step, at least 0."""
        return MemoryWords(self, step)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": "memory", "memory": list(self.memory), "bits": self.bits}


@dataclass(frozen=True)
class MemoryWords:
    """The words of a memory at one step."""

    memory: WordMemory
    step: int

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.step < 0:
            raise InputError(f"step must be at least 0, got {shown(self.step)}")

    def words(self, shape: int | tuple[int, ...], start: int = 0) -> np.ndarray:
        """As WordMemory.words."""
        return self.memory.words(shape, start, self.step)


WordSource: TypeAlias = Philox | Lfsr | DroppedBits | WordMemory
"""Where a network takes the words of a tensor from."""

_KINDS = {"philox": Philox, "lfsr": Lfsr, "dropped_bits": DroppedBits, "memory": WordMemory}


def source_from_dict(row: object, where: str) -> WordSource:
    """The source that `to_dict` gave, by its `kind`; InputError tells what is wrong."""
    row = dict(check_table(where, row))
    if "kind" not in row:
        raise InputError(f"{where} needs 'kind': {', '.join(_KINDS)}")
    kind = _KINDS[choice(f"{where}: kind", row.pop("kind"), _KINDS)]
    if kind is Lfsr:
        return Lfsr.from_dict(row, where)
    if kind is DroppedBits:
        if row:
            raise InputError(f"{where}: dropped bits have no {listed(row)}; leave that out")
        return DroppedBits()
    if kind is WordMemory:
        return read_fields(WordMemory, row, where)
    return read_fields(Philox, row, where)


def source_text(source: WordSource) -> str:
    """A source's kind and bits in a few words.

    Example:
        >>> source_text(Philox(8)), source_text(DroppedBits())
        ('philox of 8 bits', 'dropped bits')
    """
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(source, cls))
    if isinstance(source, DroppedBits):
        return kind.replace("_", " ")
    return f"{kind} of {source.bits} bits"


def words_of(
    source: WordSource, seed: int, step: int, name: str
) -> Stream | LfsrWords | MemoryWords | DroppedBits:
    """The words of one tensor at one step; seed and name are those of a Stream."""
    if isinstance(source, (Lfsr, WordMemory)):
        return source.at(step)
    return Stream(seed, step, name, source.bits) if isinstance(source, Philox) else source


_EXAMPLE = (
    "write it like 'lfsr of 16, taps 16 15 13 4, 8 bits, 4 lanes', 'philox, 8 bits' or "
    "'dropped bits'"
)
_NUMBER = r"(?:0x[0-9a-fA-F]{1,16}|\d{1,20})"


def _integers(text: str) -> list[int]:
    """Numbers between blanks: hexadecimal after 0x, else decimal, with leading zeros or not."""
    return [int(word, 16 if word.startswith("0x") else 10) for word in text.split()]


_PARTS = (
    (r"lfsr of (\d{1,9})", lambda width: {"kind": "lfsr", "width": int(width)}),
    (r"(philox)", lambda kind: {"kind": kind}),
    (r"dropped bits()", lambda _: {"kind": "dropped_bits"}),
    (r"taps (\d{1,9}(?: +\d{1,9})*)", lambda taps: {"taps": _integers(taps)}),
    (r"(\d{1,9}) bits?", lambda bits: {"bits": int(bits)}),
    (rf"seed ({_NUMBER})", lambda seed: {"seed": _integers(seed)[0]}),
    (rf"seeds ({_NUMBER}(?: +{_NUMBER})*)", lambda seeds: {"seed": _integers(seeds)}),
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

    A WordMemory has no text: a file of an assignment holds it.

    Example:
        >>> parse_source("lfsr of 16, taps 16 15 13 4, 8 bits, galois, seed 0xACE1")
        ... # doctest: +ELLIPSIS
        Lfsr(width=16, taps=(16, 15, 13, 4), bits=8, seed=44257, form='galois', ...
    """
    row: dict[str, Any] = {}
    for part in filter(None, map(str.strip, string("words", text).split(","))):
        found = _read_part(part)
        if found is None and part.startswith("memory"):
            raise InputError(
                f"words {shown(text)}: a memory has no text; give it in the file of the assignment, "
                f"as {{'kind': 'memory', 'memory': [1, 2], 'bits': 8}} in 'words'"
            )
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

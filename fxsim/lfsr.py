"""Random words from linear feedback shift registers, as silicon has them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from fxsim.arrays import checked_shape
from fxsim.errors import InputError, shown
from fxsim.fields import check_fields, check_table, integer, read_fields
from fxsim.kernels import lfsr as kernel

MIN_WIDTH = 2
MAX_WIDTH = 64
WORD_BITS = 32
MAX_LANES = 2**20
MAX_CLOCKS = 2**32
"""Of clocks per word, of `start` and of `period`."""


@dataclass(frozen=True)
class Lfsr:
    """Registers that give a random word of `bits` bits to each element of a tensor.

    fxsim/numerics.md, "Registers", has the formulas.  An Lfsr goes wherever a Stream goes, and then
    stands for its step 0; `at` gives the words of another step.

    Args:
        width: bits of a register, 2 to 64.
        taps: exponents of the feedback polynomial, 1 to width, width among them; its 1 is implied.
        bits: bits of a word, 1 to 32: the lowest of the register, from `low_bit` on.
        seed: of lane 0; the lanes then start (2^width - 1) div lanes clocks apart.  Or a seed for
            each lane.  A seed of 0 would stay 0, and is refused.
        form: 'fibonacci', the exclusive or of the taps is shifted in; or 'galois', the bit that is
            shifted out changes the taps.
        shift: 'left', to the high bits, or 'right'.
        lanes: registers side by side.  All are clocked together.
        run: neighbouring elements, in row-major order, that a lane gives words to before the next
            lane does: 1 for element i in lane i mod lanes.
        low_bit: of the register, the lowest bit of the word.
        clocks: from a word of a lane to its next; a word is read before them.
        start: clocks from the seed to the first word of step 0.
        period: clocks from the first word of a step to that of the next: 0 where each step starts
            anew, None for those of the tensor's own words, so that the register stands still in
            between.

    Raises:
        TypeError: a field of another type.
        InputError: a number outside its range, a seed of 0, taps without the width.

    Example:
        >>> from fxsim import Format, Lfsr, Quantizer, Tensor, requantize
        >>> register = Lfsr(width=4, taps=(4, 3), bits=4, seed=0b1000)
        >>> [int(word) >> 28 for word in register.words(6)]
        [8, 1, 2, 4, 9, 3]
        >>> down = Quantizer(Format(4, 3), "stochastic", words=register)
        >>> requantize(Tensor([24, 24, 24], Format(8, 3)), down).codes
        array([2, 1, 1], dtype=int8)
    """

    width: int
    taps: tuple[int, ...]
    bits: int
    seed: int | tuple[int, ...] = 1
    form: Literal["fibonacci", "galois"] = "fibonacci"
    shift: Literal["left", "right"] = "left"
    lanes: int = 1
    run: int = 1
    low_bit: int = 0
    clocks: int = 1
    start: int = 0
    period: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "lfsr")
        _within("width", self.width, MIN_WIDTH, MAX_WIDTH)
        _within("bits", self.bits, 1, WORD_BITS)
        _within("low_bit", self.low_bit, 0, self.width - 1)
        if self.low_bit + self.bits > self.width:
            raise InputError(
                f"lfsr bits {self.bits} from low_bit {self.low_bit} on must lie within the width "
                f"{self.width}; take fewer bits or a wider register"
            )
        self._check_taps()
        _within("lanes", self.lanes, 1, MAX_LANES)
        _within("run", self.run, 1, MAX_LANES // self.lanes)
        self._check_seeds()
        _within("clocks", self.clocks, 1, MAX_CLOCKS)
        _within("start", self.start, 0, MAX_CLOCKS)
        if self.period is not None:
            _within("period", self.period, 0, MAX_CLOCKS)

    def _check_taps(self) -> None:
        for tap in self.taps:
            _within("taps", tap, 1, self.width)
        if len(set(self.taps)) < len(self.taps):
            raise InputError(f"lfsr taps must differ, got {shown(self.taps)}; a pair cancels out")
        if self.width not in self.taps:
            raise InputError(
                f"lfsr taps must have the width {self.width} among them, got {shown(self.taps)}; "
                f"without it states are lost, and the register ends in 0"
            )
        object.__setattr__(self, "taps", tuple(sorted(self.taps, reverse=True)))

    def _check_seeds(self) -> None:
        seeds = (self.seed,) if isinstance(self.seed, int) else self.seed
        if not isinstance(self.seed, int) and len(seeds) != self.lanes:
            raise InputError(
                f"lfsr seed must be one, or one for each of {self.lanes} lanes, got {len(seeds)}; "
                f"change lanes or the seeds"
            )
        for seed in seeds:
            if seed == 0:
                raise InputError(
                    "lfsr seed must not be 0: the register stays 0 and has period 0; take 1 or more"
                )
            _within("seed", seed, 1, 2**self.width - 1)

    def states(self, step: int = 0, elements: int = 0) -> tuple[int, ...]:
        """The state of each lane before the first word of a step.

        Args:
            step: number of the step, 0 to 2**32 - 1.
            elements: of the tensor; only where period is None.

        Raises:
            TypeError: no integers.
            InputError: a number below 0, or too large a step.
        """
        step = _checked_step(step)
        elements = integer("elements", elements)
        if elements < 0:
            raise InputError(f"elements must be at least 0, got {shown(elements)}")
        return tuple(self._states(step, elements, 0).tolist())

    def states_after(self, clocks: int) -> tuple[int, ...]:
        """The state of each lane so many clocks after its seed; 0 for the seeds themselves."""
        clocks = integer("clocks", clocks)
        _within("clocks", clocks, 0, MAX_CLOCKS)
        powers = _powers(self._map)
        return tuple(powers.after(self._seeds(powers), clocks).tolist())

    def _states(self, step: int, elements: int, row: int) -> np.ndarray:
        """uint64 states of the lanes before the first word of a row of lanes x run elements."""
        period = self.period
        if period is None:
            period = -(-elements // (self.run * self.lanes)) * self.run * self.clocks
        powers = _powers(self._map)
        clocks = self.start + step * period + row * self.run * self.clocks
        return powers.after(self._seeds(powers), clocks)

    def _seeds(self, powers: _Powers) -> np.ndarray:
        """uint64 seeds of the lanes."""
        if not isinstance(self.seed, int):
            return np.array(self.seed, np.uint64)
        apart = (2**self.width - 1) // self.lanes
        seeds = np.array([self.seed], np.uint64)
        while seeds.size < self.lanes:
            seeds = np.concatenate([seeds, powers.after(seeds, apart * seeds.size)])
        return seeds[: self.lanes]

    @property
    def _map(self) -> tuple[int, tuple[int, ...], str, str]:
        return self.width, self.taps, self.form, self.shift

    def at(self, step: int) -> LfsrWords:
        """The words of a step, 0 to 2**32 - 1."""
        return LfsrWords(self, step)

    def words(self, shape: int | tuple[int, ...], start: int = 0, step: int = 0) -> np.ndarray:
        """uint32 words at positions start, start + 1, ... in row-major order of `shape`.

        The bits of a word are the first of the 32; the others are 0.

        Raises:
            TypeError: for sizes, a start or a step that are no integers.
            InputError: for a number outside its range, or more than 2**31 - 1 words.
        """
        shape = checked_shape(shape)
        start = integer("start", start)
        if not 0 <= start <= 2**62:
            raise InputError(f"start must be 0 to 2**62, got {shown(start)}")
        size = math.prod(shape)
        states = self._states_at(start, size, _checked_step(step))
        words = (states >> np.uint64(self.low_bit)) & np.uint64(2**self.bits - 1)
        return (words << np.uint64(WORD_BITS - self.bits)).astype(np.uint32).reshape(shape)

    def _states_at(self, start: int, size: int, step: int) -> np.ndarray:
        """uint64 states that give the words at positions start .. start + size - 1."""
        row_size = self.run * self.lanes
        row = start // row_size
        rows = -(-(start + size) // row_size) - row
        states = np.empty((self.lanes, rows * self.run), np.uint64)
        chunks = -(-states.shape[1] // kernel.CHUNK)
        firsts = np.empty((self.lanes, chunks), np.uint64)
        powers = _powers(self._map)
        now = self._states(step, size, row)
        for chunk in range(chunks):
            firsts[:, chunk] = now
            if chunk + 1 < chunks:
                now = powers.after(now, kernel.CHUNK * self.clocks)
        kernel.fill_states(_word_map(self._map, self.clocks), firsts, states)
        ordered = states.reshape(self.lanes, rows, self.run).transpose(1, 0, 2).reshape(-1)
        first = start - row * row_size
        return ordered[first : first + size]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        fields = dataclasses.asdict(self)
        return {"kind": "lfsr"} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_dict(cls, row: object, where: str = "lfsr") -> Lfsr:
        """The registers that `to_dict` gave; InputError tells what is wrong."""
        row = dict(check_table(where, row))
        if row.pop("kind", "lfsr") != "lfsr":
            raise InputError(f"{where}: kind must be 'lfsr'")
        return read_fields(cls, row, where)


@dataclass(frozen=True)
class LfsrWords:
    """The words of registers at one step.

    Example:
        >>> from fxsim import Lfsr
        >>> register = Lfsr(width=4, taps=(4, 3), bits=4, seed=0b1000)
        >>> [int(word) >> 28 for word in register.at(1).words(3)]
        [4, 9, 3]
    """

    lfsr: Lfsr
    step: int

    def __post_init__(self) -> None:
        check_fields(self, "")
        _checked_step(self.step)

    def words(self, shape: int | tuple[int, ...], start: int = 0) -> np.ndarray:
        """As Lfsr.words."""
        return self.lfsr.words(shape, start, self.step)


class _Powers:
    """The maps of 1, 2, 4, 8, ... clocks of a register."""

    def __init__(self, width: int, taps: tuple[int, ...], form: str, shift: str):
        columns = [_clocked(1 << bit, width, taps, form, shift) for bit in range(width)]
        self._tables = [_table(np.array(columns, np.uint64))]
        self._columns = np.array(columns, np.uint64)

    def after(self, states: np.ndarray, clocks: int) -> np.ndarray:
        """uint64 states, so many clocks later."""
        for number in range(clocks.bit_length()):
            if clocks >> number & 1:
                states = _images(self._power(number), states)
        return states

    def _power(self, number: int) -> np.ndarray:
        while len(self._tables) <= number:
            self._columns = _images(self._tables[-1], self._columns)
            self._tables.append(_table(self._columns))
        return self._tables[number]


@lru_cache(maxsize=16)
def _powers(register: tuple[int, tuple[int, ...], str, str]) -> _Powers:
    return _Powers(*register)


@lru_cache(maxsize=64)
def _word_map(register: tuple[int, tuple[int, ...], str, str], clocks: int) -> np.ndarray:
    """The table of the map from the state of a word to that of the lane's next word."""
    units = np.left_shift(np.uint64(1), np.arange(register[0], dtype=np.uint64))
    return _table(_powers(register).after(units, clocks))


def _clocked(state: int, width: int, taps: tuple[int, ...], form: str, shift: str) -> int:
    """The state after one clock."""
    left = shift == "left"
    ones = 2**width - 1
    if form == "fibonacci":
        mask = sum(1 << (tap - 1 if left else width - tap) for tap in taps)
        fed = (state & mask).bit_count() & 1
        return (state << 1 & ones) | fed if left else (state >> 1) | fed << (width - 1)
    if left:
        mask = 1 + sum(1 << tap for tap in taps if tap < width)
        return (state << 1 & ones) ^ (mask if state >> (width - 1) else 0)
    mask = sum(1 << (tap - 1) for tap in taps)
    return (state >> 1) ^ (mask if state & 1 else 0)


def _images(table: np.ndarray, states: np.ndarray) -> np.ndarray:
    out = np.empty_like(states)
    kernel.images(table, states, out)
    return out


def _table(columns: np.ndarray) -> np.ndarray:
    """(bytes, 256) table of the map with these images of the unit vectors."""
    rows = []
    for first in range(0, columns.size, 8):
        row = np.zeros(1, np.uint64)
        for column in columns[first : first + 8]:
            row = np.concatenate([row, row ^ column])
        rows.append(np.concatenate([row, np.zeros(256 - row.size, np.uint64)]))
    return np.array(rows)


def _checked_step(step: int) -> int:
    step = integer("step", step)
    if not 0 <= step < 2**32:
        raise InputError(f"step must be 0 to 2**32 - 1, got {shown(step)}")
    return step


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"lfsr {name} must be {least} to {most}, got {shown(value)}")

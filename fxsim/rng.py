"""Named streams of random words that depend on nothing but (seed, step, name, position)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from fxsim.arrays import checked_shape
from fxsim.errors import InputError, shown
from fxsim.fields import check_fields, integer
from fxsim.kernels.philox import fill_words

MAX_START = 2**62
"""Positions of words stay within int64."""


@dataclass(frozen=True)
class Stream:
    """Random words for one tensor at one step, from Philox4x32-10 (Salmon et al., SC 2011).

    Word i is lane i % 4 of the block with counter (i // 4, step, id) and key `seed`, where id is
    the first four bytes, little-endian, of SHA-256(name).  Words do not depend on order, threads or
    processor. seed: 0 .. 2**64-1.  step: 0 .. 2**32-1.  bits: of a word, its first, that count,
    1 .. 32; the others are 0.
    """

    seed: int
    step: int
    name: str
    bits: int = 32

    def __post_init__(self) -> None:
        check_fields(self, "")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be 0 to 2**64 - 1, got {shown(self.seed)}")
        if not 0 <= self.step < 2**32:
            raise InputError(f"step must be 0 to 2**32 - 1, got {shown(self.step)}")
        if not 1 <= self.bits <= 32:
            raise InputError(f"bits must be 1 to 32 random bits, got {shown(self.bits)}")

    @property
    def name_id(self) -> int:
        """The number that stands for the name in the generator's counter."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "little")

    def words(self, shape: int | tuple[int, ...], start: int = 0) -> np.ndarray:
        """uint32 words at positions start, start + 1, ... in row-major order of `shape`.

        Raises:
            TypeError: for sizes or a start that are no integers.
            InputError: for sizes or a start below 0, or more than 2**31 - 1 words.
        """
        shape = checked_shape(shape)
        start = integer("start", start)
        if not 0 <= start <= MAX_START:
            raise InputError(f"start must be 0 to 2**62, got {shown(start)}")
        out = np.empty(math.prod(shape), np.uint32)
        fill_words(self.seed & 0xFFFFFFFF, self.seed >> 32, self.step, self.name_id, start, out)
        if self.bits < 32:
            out &= np.uint32(2**32 - 2 ** (32 - self.bits))
        return out.reshape(shape)

    def permutation(self, size: int) -> np.ndarray:
        """A permutation of range(size) (int64): positions sorted by (word, position)."""
        size = integer("size", size)
        return np.argsort(self.words(size), kind="stable")


def tensor_stream(seed: int, step: int, layer: str, tensor: str) -> Stream:
    """The random words of one tensor of one layer at one step."""
    return Stream(seed, step, f"{layer}.{tensor}")

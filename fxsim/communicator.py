"""Communicator: several processes that take one training step together.

Each of them, a rank, has a share of every batch, and the sums over the batch are added up as
integers before they are rounded.  Integer sums have no order, so that any number of ranks comes to
the same bits.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

LIMB_BITS = 31
LIMBS = 4
"""An integer of up to 124 bits goes over the wire as so many int64, whose sums fit."""


Pending = Callable[[], np.ndarray]
"""Waits for a sum that is under way, and gives it."""


class Communicator(ABC):
    """The ranks that train together, as one of them sees them.

    All ranks make the same calls in the same order; a call returns when all have made it.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, array: np.ndarray) -> np.ndarray:
        """The sum of the arrays of all ranks; they have one shape, and one dtype of int32, int64."""

    def begin_all_reduce(self, array: np.ndarray) -> Pending:
        """`all_reduce` that may go on while the caller computes; what it returns gives the sum.

        The array must stay as it is until then.  Here it is done at once.
        """
        added = self.all_reduce(array)
        return lambda: added

    @abstractmethod
    def broadcast(self, data: bytes) -> bytes:
        """The data of rank 0."""

    @abstractmethod
    def abandon(self, reason: str) -> None:
        """This rank cannot go on: end the others, too, since they wait for it."""


class Alone(Communicator):
    """One process.

    Example:
        >>> Alone().all_reduce(np.array([1, 2]))
        array([1, 2])
    """

    rank = 0
    size = 1

    def all_reduce(self, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def broadcast(self, data: bytes) -> bytes:
        """The data themselves."""
        return data

    def abandon(self, reason: str) -> None:
        """Nobody waits."""


ALONE = Alone()


class _Silent(Communicator):
    """A rank without an image of its own: it takes part, and adds nothing."""

    def __init__(self, others: Communicator):
        self._others = others
        self.rank = others.rank
        self.size = others.size

    def all_reduce(self, array: np.ndarray) -> np.ndarray:
        return self._others.all_reduce(np.zeros_like(array))

    def begin_all_reduce(self, array: np.ndarray) -> Pending:
        return self._others.begin_all_reduce(np.zeros_like(array))

    def broadcast(self, data: bytes) -> bytes:
        return self._others.broadcast(data)

    def abandon(self, reason: str) -> None:
        self._others.abandon(reason)


class Share(NamedTuple):
    """The images that a rank computes, and how it adds up with the others.

    first: place of the first of them in the batch.  images: how many they are, at least 1.
    """

    first: int
    images: int
    communicator: Communicator

    @property
    def part(self) -> slice:
        """Where they are in the batch."""
        return slice(self.first, self.first + self.images)


def share_of(images: int, communicator: Communicator) -> Share:
    """This rank's share of a batch of so many images, at least 1.

    Shares are side by side, and the first ones are larger by an image where the batch does not
    divide.  A rank for which no image is left computes the first one, and adds nothing.

    Example:
        >>> share_of(96, ALONE).part
        slice(0, 96, None)
    """
    least, larger = divmod(images, communicator.size)
    own = least + (communicator.rank < larger)
    if not own:
        return Share(0, 1, _Silent(communicator))
    first = communicator.rank * least + min(communicator.rank, larger)
    return Share(first, own, communicator)


def total(communicator: Communicator, sums: np.ndarray, largest: int) -> np.ndarray:
    """int64 sums added up over all ranks.

    largest: bounds the magnitude of every total, and of that of any of the ranks.  It decides on the
    `wire_type`.
    """
    return begin_total(communicator, sums, largest)()


def begin_total(communicator: Communicator, sums: np.ndarray, largest: int) -> Pending:
    """`total`, begun; what it returns waits for it."""
    if communicator.size == 1:
        return lambda: sums
    pending = communicator.begin_all_reduce(sums.astype(wire_type(largest)))
    return lambda: pending().astype(np.int64)


def wire_type(largest: int) -> np.dtype:
    """What goes from rank to rank where no sum is larger in magnitude."""
    return np.dtype(np.int32 if largest < 2**31 else np.int64)


def totals(communicator: Communicator, numbers: Sequence[int]) -> list[int]:
    """Integers of up to 120 bits added up over all ranks, by one exchange.

    Example:
        >>> totals(ALONE, [3, -(2**70)])
        [3, -1180591620717411303424]
    """
    if communicator.size == 1:
        return list(numbers)
    mask = (1 << LIMB_BITS) - 1
    limbs = [
        [number >> LIMB_BITS * place & mask for number in numbers] for place in range(LIMBS - 1)
    ]
    limbs.append([number >> LIMB_BITS * (LIMBS - 1) for number in numbers])
    added = communicator.all_reduce(np.array(limbs, np.int64)).tolist()
    return [
        sum(limb << LIMB_BITS * place for place, limb in enumerate(column))
        for column in zip(*added)
    ]


@contextlib.contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """A block that all ranks run: where it fails on one, none waits for that one."""
    try:
        yield
    except BaseException as error:
        communicator.abandon(f"{type(error).__name__}: {error}")
        raise

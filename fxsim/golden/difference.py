"""Where two arrays of codes differ, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fxsim.formats import Format

MOST_LISTED = 6


@dataclass(frozen=True)
class Difference:
    """The first of `count` differences among `size` codes, in row-major order.

    index, got, wanted: of the first.  steps: (got - wanted in codes, how often), the most frequent
    first.
    """

    index: tuple[int, ...]
    got: int
    wanted: int
    count: int
    size: int
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def between(cls, got: np.ndarray, wanted: np.ndarray) -> Difference | None:
        """None where two arrays of one shape are equal."""
        places = np.flatnonzero(np.not_equal(got, wanted).reshape(-1))
        if not places.size:
            return None
        index = tuple(int(i) for i in np.unravel_index(places[0], wanted.shape))
        deltas = got.reshape(-1)[places].astype(np.int64) - wanted.reshape(-1)[places].astype(
            np.int64
        )
        values, counts = np.unique(deltas, return_counts=True)
        order = np.lexsort((np.abs(values), -counts))
        steps = tuple((int(values[i]), int(counts[i])) for i in order)
        return cls(
            index, int(got[index]), int(wanted[index]), int(places.size), int(wanted.size), steps
        )

    def text(self, format: Format | None = None, axes: str = "") -> str:
        """Two lines: the first difference, in codes and (with a format) reals; how many differ, by
        how much.

        axes: names of the axes, such as 'N,H,W,C'.
        """
        index = ", ".join(map(str, self.index))
        return (
            f"first at index ({index}){f' of ({axes})' if axes else ''}: "
            f"got {_code(self.got, format)}, wanted {_code(self.wanted, format)}\n"
            f"{self.count} of {self.size} codes differ ({100 * self.count / self.size:.3g} %); "
            f"got - wanted in codes: {self._histogram()}"
        )

    def _histogram(self) -> str:
        listed = ", ".join(f"{step:+d} ({count}x)" for step, count in self.steps[:MOST_LISTED])
        rest = len(self.steps) - MOST_LISTED
        if rest <= 0:
            return listed
        values = [step for step, _ in self.steps]
        return f"{listed} and {rest} other differences, from {min(values):+d} to {max(values):+d}"


def _code(code: int, format: Format | None) -> str:
    if format is None:
        return str(code)
    digits = -(-format.bits // 4)
    return f"{code} (0x{code & (2**format.bits - 1):0{digits}x}, {math.ldexp(code, format.step_exp):.9g})"

"""Which single change of semantics turns the right codes of a tensor into those of a device, bit
for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxsim.formats import Format
from fxsim.golden.explain.arrangements import arrangements
from fxsim.golden.explain.dots import blocks
from fxsim.golden.explain.recipe import Recipe
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import MissingVectors, Source
from fxsim.golden.export import Vectors
from fxsim.golden.manifest import Entry

PROBED_ROWS = 24
SECOND_LOOK = 6


@dataclass(frozen=True)
class Explanation:
    """Every change that reproduces all codes of the dump, how many were tried, and what kept
    more from being tried.
    """

    changes: tuple[str, ...]
    tried: int
    note: str = ""

    def text(self, what: str) -> str:
        """The explanation for people, of 'all codes of ...'."""
        tried = f"of {self.tried} tried"
        if not self.changes:
            rest = f" ({self.note})" if self.note else "; more than one thing differs, or another"
            return f"no single change of semantics {tried} gives these codes{rest}"
        number = len(self.changes)
        which = "this change" if number == 1 else f"any one of {number} changes"
        lines = [f"{what} are explained by {which} of semantics ({tried}):"]
        return "\n".join(lines + [f"  {change}" for change in self.changes])

    def __add__(self, other: Explanation) -> Explanation:
        changes = self.changes + other.changes
        return Explanation(changes, self.tried + other.tried, self.note or other.note)


def explain(vectors: Vectors, entry: Entry, dumped: np.ndarray) -> Explanation:
    """Search the single changes of semantics that explain a dump (codes of entry.shape) which
    differs.

    The tensor is computed anew from the golden vectors that it follows from, under each change; a
    change is named only if it gives every code of the dump.
    """
    golden = vectors.codes(entry.name)
    found = rearranged(golden, dumped, entry.format, entry.axes.split(","))
    try:
        return found + _recomputed(Source(vectors), entry, golden, dumped)
    except MissingVectors as missing:
        return found + Explanation((), 0, f"for more, export {missing} too")


def _recomputed(
    source: Source, entry: Entry, golden: np.ndarray, dumped: np.ndarray
) -> Explanation:
    """The changes of the recipe; MissingVectors where it or its computation needs more tensors."""
    recipe = recipe_for(source, entry)
    if recipe is not None:
        return changed(recipe, golden, dumped)
    given = "it is an input of the device"
    unvaried = "fxsim varies nothing else about this tensor"
    return Explanation((), 0, given if entry.role == "input" else unvaried)


def rearranged(
    right: np.ndarray, got: np.ndarray, format: Format, axes: Sequence[str]
) -> Explanation:
    """The orders of elements, bytes and bits of the right codes that give those of a device."""
    tried = list(arrangements(right, format, axes))
    flat = got.reshape(-1)
    return Explanation(
        tuple(text for text, codes in tried if np.array_equal(codes, flat)), len(tried)
    )


def changed(recipe: Recipe, right: np.ndarray, got: np.ndarray) -> Explanation:
    """The changes of a recipe that give the codes of a device."""
    if not Comparison(recipe, right, right).holds(recipe.default):
        return Explanation(
            (),
            0,
            "the vectors do not follow from each other by the manifest's "
            "semantics, so that no change of it was tried",
        )
    comparison = Comparison(recipe, got, right)
    alternatives = list(recipe.alternatives())
    texts = tuple(each.text for each in alternatives if comparison.holds(each.semantics))
    return Explanation(texts, len(alternatives))


class Comparison:
    """Whether a recipe gives the codes of a tensor.

    First in a few rows, where codes differ, then in all.
    """

    def __init__(self, recipe: Recipe, wanted: np.ndarray, golden: np.ndarray):
        self.recipe = recipe
        self.wanted = wanted.reshape(-1, recipe.columns)
        different = np.flatnonzero((self.wanted != golden.reshape(self.wanted.shape)).any(axis=1))
        few = _spread(different, 2) if different.size else np.arange(min(2, len(self.wanted)))
        rows = [_spread(different, PROBED_ROWS), _spread(np.arange(len(self.wanted)), SECOND_LOOK)]
        self.probes = [few, np.unique(np.concatenate(rows))]

    def holds(self, semantics: Semantics) -> bool:
        """Whether every code is what `semantics` gives."""
        size = self.recipe.rows_per_block
        everything = blocks(np.arange(len(self.wanted)), size)
        return all(
            np.array_equal(self.recipe.compute(semantics, rows), self.wanted[rows])
            for rows in itertools.chain(*(blocks(probe, size) for probe in self.probes), everything)
        )


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spread, the first and the last among them."""
    if indices.size <= count:
        return indices
    return indices[np.linspace(0, indices.size - 1, count).astype(np.int64)]

"""Which single change of semantics turns the golden codes of a tensor into the codes of a dump,
bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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


def explain(vectors: Vectors, entry: Entry, dumped: np.ndarray) -> Explanation:
    """Search the single changes of semantics that explain a dump (codes of entry.shape) which
    differs.

    The tensor is computed anew from the golden vectors that it follows from, under each change; a
    change is named only if it gives every code of the dump.
    """
    golden = vectors.codes(entry.name)
    orders = list(_element_orders(entry, golden))
    changes = [text for text, codes in orders if np.array_equal(codes, dumped.reshape(-1))][:1]
    try:
        recipe = recipe_for(Source(vectors), entry)
    except MissingVectors as missing:
        return Explanation(tuple(changes), len(orders), f"for more, export {missing} too")
    if recipe is None:
        note = (
            "it is an input of the step"
            if entry.role == "input"
            else "fxsim varies nothing else about this tensor"
        )
        return Explanation(tuple(changes), len(orders), note)
    if not _Comparison(recipe, golden, golden).holds(recipe.default):
        return Explanation(
            tuple(changes),
            len(orders),
            "the vectors do not follow from each other by the manifest's "
            "semantics, so that no change of it was tried",
        )
    comparison = _Comparison(recipe, dumped, golden)
    alternatives = list(recipe.alternatives())
    changes += [each.text for each in alternatives if comparison.holds(each.semantics)]
    return Explanation(tuple(changes), len(orders) + len(alternatives))


def _element_orders(entry: Entry, golden: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The golden codes written in another order of axes, flat."""
    axes = entry.axes.split(",")
    for order in itertools.permutations(range(golden.ndim)):
        if order != tuple(range(golden.ndim)):
            names = ",".join(axes[axis] for axis in order)
            yield (
                f"elements in the order {names} instead of {entry.axes}",
                golden.transpose(order).reshape(-1),
            )


class _Comparison:
    """Whether a recipe gives the codes of a tensor.

    First in a few rows, where codes differ, then in all.
    """

    def __init__(self, recipe: Recipe, wanted: np.ndarray, golden: np.ndarray):
        self.recipe = recipe
        self.wanted = wanted.reshape(-1, wanted.shape[-1])
        different = np.flatnonzero((self.wanted != golden.reshape(self.wanted.shape)).any(axis=1))
        few = _spread(different, 2) if different.size else np.arange(min(2, len(self.wanted)))
        rows = [_spread(different, PROBED_ROWS), _spread(np.arange(len(self.wanted)), SECOND_LOOK)]
        self.probes = [few, np.unique(np.concatenate(rows))]

    def holds(self, semantics: Semantics) -> bool:
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

"""Which single change of semantics turns the golden codes of a tensor into the codes of a dump, bit for bit."""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fxsim.golden.dots import row_blocks
from fxsim.golden.export import Vectors
from fxsim.golden.manifest import Entry
from fxsim.golden.parts import MissingVectors, Source
from fxsim.golden.recipe import Recipe
from fxsim.golden.recipes import recipe_for
from fxsim.golden.semantics import Semantics

PROBED_ROWS = 24
SECOND_LOOK = 6


@dataclass(frozen=True)
class Explanation:
    """What was found: every change that reproduces all codes of the dump, how many were tried, and why none were."""

    changes: tuple[str, ...]
    tried: int
    note: str = ""


def explain(vectors: Vectors, entry: Entry, dumped: np.ndarray) -> Explanation:
    """Search the single changes of semantics that explain a dump (codes of entry.shape) which differs.

    The tensor is computed anew from the golden vectors that it follows from, under each change; a change is named
    only if it gives every code of the dump.
    """
    golden = vectors.codes(entry.name)
    changes, tried = [], 0
    for text, codes in _rearranged(golden):
        tried += 1
        if np.array_equal(codes, dumped.reshape(-1)):
            changes.append(text)
    note, recipe = "", None
    try:
        recipe = recipe_for(Source(vectors), entry)
        note = "" if recipe else "it is not computed from other tensors of the step that fxsim knows how to vary"
    except MissingVectors as missing:
        note = f"that needs {missing}, which was not exported"
    if recipe and not _Comparison(recipe, golden, golden).holds(recipe.default):
        recipe, note = None, "the vectors do not follow from each other by the manifest's own semantics; export them again"
    if recipe:
        comparison = _Comparison(recipe, dumped, golden)
        for alternative in recipe.alternatives():
            tried += 1
            if comparison.holds(alternative.semantics):
                changes.append(alternative.text)
    return Explanation(tuple(changes), tried, note)


def _rearranged(golden: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The golden codes in other orders (flat): axes permuted, a kernel flipped, one place early or late."""
    flat = golden.reshape(-1)
    yield "every code one place too late (the first is anything)", None
    for order in itertools.permutations(range(golden.ndim)):
        if order != tuple(range(golden.ndim)):
            yield f"elements written in the order of axes {order}", golden.transpose(order).reshape(-1)
    _ = flat


class _Comparison:
    """Whether a recipe gives the codes of a tensor: first in a few rows, where codes differ, then in all."""

    def __init__(self, recipe: Recipe, wanted: np.ndarray, golden: np.ndarray):
        self.recipe = recipe
        self.wanted = wanted.reshape(-1, wanted.shape[-1])
        different = np.flatnonzero((self.wanted != golden.reshape(self.wanted.shape)).any(axis=1))
        few = _spread(different, 2) if different.size else np.arange(min(2, len(self.wanted)))
        rows = [_spread(different, PROBED_ROWS), _spread(np.arange(len(self.wanted)), SECOND_LOOK)]
        self.probes = [few, np.unique(np.concatenate(rows))]

    def holds(self, semantics: Semantics) -> bool:
        blocks = row_blocks(len(self.wanted), self.recipe.rows_per_block)
        return all(np.array_equal(self.recipe.compute(semantics, rows), self.wanted[rows])
                   for rows in itertools.chain(self.probes, blocks))


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spread, the first and the last among them."""
    if indices.size <= count:
        return indices
    return indices[np.linspace(0, indices.size - 1, count).astype(np.int64)]

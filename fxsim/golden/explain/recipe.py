"""How a tensor of a step follows from others: the face that the search for explanations sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxsim.golden.explain.changes import Alternative
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry


class Recipe:
    """One tensor, seen as rows: its row-major array with the last axis kept.

    Subclasses compute any rows under any Semantics from golden vectors, and list single changes
    worth trying."""

    def __init__(self, source: Source, entry: Entry):
        self.source = source
        self.entry = entry
        self.layer = source.network.layer(entry.layer)

    @property
    def default(self) -> Semantics:
        return Semantics(self.entry.rounding, self.entry.overflow)

    @property
    def rows_per_block(self) -> int:
        """Rows to compute at a time."""
        return 2**16

    def alternatives(self) -> Iterator[Alternative]:
        raise NotImplementedError

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, last axis) int64 codes of the given rows."""
        raise NotImplementedError

    def operand(self, tensor: str) -> np.ndarray:
        """int64 codes of another tensor of this layer."""
        return self.source.codes(self.layer.name, tensor).astype(np.int64)

    def rows_of(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return array.reshape(-1, array.shape[-1])[rows]

"""How a tensor follows from others: the face that the search for explanations sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from fxsim.golden.explain.changes import Alternative, words_changes
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.words import DroppedBits


class Recipe(ABC):
    """One tensor, seen as rows of `columns` codes: its row-major array.

    Subclasses compute any rows under any Semantics, and list single changes worth trying.
    """

    @property
    @abstractmethod
    def columns(self) -> int:
        """Codes of a row."""

    @property
    @abstractmethod
    def default(self) -> Semantics:
        """The stated semantics."""

    @property
    def rows_per_block(self) -> int:
        """Rows to compute at a time."""
        return 2**16

    @abstractmethod
    def alternatives(self) -> Iterator[Alternative]:
        """Single changes of the stated semantics."""

    @abstractmethod
    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, columns) integer codes of the given rows."""

    def rows_of(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The given rows of an array with as many codes as the tensor."""
        return array.reshape(-1, self.columns)[rows]


class TensorRecipe(Recipe):
    """A tensor of a training step or of inference, computed from golden vectors."""

    def __init__(self, source: Source, entry: Entry):
        self.source = source
        self.entry = entry
        self.layer = source.network.layer(entry.layer)

    @property
    def columns(self) -> int:
        return self.entry.shape[-1]

    @property
    def default(self) -> Semantics:
        return Semantics(self.entry.rounding, self.entry.overflow)

    def operand(self, tensor: str) -> np.ndarray:
        """int64 codes of another tensor of this layer."""
        return self.source.codes(self.layer.name, tensor).astype(np.int64)

    def words_of(
        self, tensor: str, semantics: Semantics, rows: np.ndarray
    ) -> np.ndarray | DroppedBits | None:
        """The random words of the given rows, None where nothing is rounded stochastically."""
        words = self.source.words(self.entry.layer, tensor, semantics.words)
        return self.rows_of(words, rows) if isinstance(words, np.ndarray) else words

    def words_changes(self, default: Semantics, tensor: str) -> Iterator[Alternative]:
        """Other registers for the random words of a tensor."""
        return words_changes(default, *self.source.registers(self.entry.layer, tensor))

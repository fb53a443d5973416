"""What recipes read: golden codes and entries by layer and tensor."""

from __future__ import annotations

import numpy as np

from fxsim.errors import present
from fxsim.factors import LearningRate
from fxsim.golden.explain.semantics import Misread
from fxsim.golden.export import Vectors
from fxsim.golden.manifest import RANDOM_WORDS, Entry
from fxsim.lfsr import Lfsr, LfsrWords
from fxsim.ops.dropout import kept
from fxsim.rng import tensor_stream
from fxsim.words import DroppedBits


class MissingVectors(Exception):
    """A tensor that a recomputation needs is not among the vectors; the message is its name."""


class Source:
    """Golden codes and entries, by layer and tensor; MissingVectors for what was not exported."""

    def __init__(self, vectors: Vectors):
        self.vectors = vectors
        self.manifest = vectors.manifest
        self.network = vectors.manifest.network
        self._last: tuple[str, LfsrWords, np.ndarray] | None = None

    @property
    def rate(self) -> LearningRate:
        """Of the training step."""
        return present(self.manifest.learning_rate)

    def entry(self, layer: str, tensor: str) -> Entry:
        name = f"{layer}.{tensor}"
        if name not in self.vectors:
            raise MissingVectors(name)
        return self.manifest.entries[name]

    def codes(self, layer: str, tensor: str) -> np.ndarray:
        self.entry(layer, tensor)
        return self.vectors.codes(f"{layer}.{tensor}")

    def operand(self, layer: str, tensor: str, misread: Misread | None) -> np.ndarray:
        """The codes as whoever misreads that tensor sees them."""
        codes = self.codes(layer, tensor)
        return misread.of(codes) if misread and misread.tensor == tensor else codes

    def tensors(self, layer: str) -> list[str]:
        """What was exported of a layer."""
        return [entry.tensor for entry in self.manifest.tensors if entry.layer == layer]

    def words(
        self, layer: str, tensor: str, other: LfsrWords | None = None
    ) -> np.ndarray | DroppedBits | None:
        """The random words of a stochastic rounding, None for any other.

        other: registers that take the place of the stated ones.
        """
        name = f"{layer}.{tensor}{RANDOM_WORDS}"
        if name in self.vectors:
            return self.vectors.codes(name) if other is None else self._drawn(name, other)
        own = self.manifest.words.get(f"{layer}.{tensor}")
        return own.source if own and isinstance(own.source, DroppedBits) else None

    def _drawn(self, name: str, other: LfsrWords) -> np.ndarray:
        if self._last is None or self._last[:2] != (name, other):
            self._last = name, other, other.words(self.manifest.entries[name].shape)
        return self._last[2]

    def registers(self, layer: str, tensor: str) -> tuple[LfsrWords | None, tuple[int, ...]]:
        """The registers that give a tensor its random words, if there are any, and their states."""
        own = self.manifest.words.get(f"{layer}.{tensor}")
        if own is None or not isinstance(own.source, Lfsr):
            return None, ()
        return own.source.at(self.manifest.step), own.states

    def kept(self, layer: str, shape: tuple[int, ...]) -> np.ndarray:
        """1 for each element (uint8) that a layer's dropout keeps, 0 for the others."""
        manifest = self.manifest
        words = tensor_stream(manifest.seed, manifest.step, layer, "dropout").words(shape)
        return kept(self.network.layer(layer).dropout, words).view(np.uint8)

    def has(self, layer: str, *tensors: str) -> bool:
        return all(f"{layer}.{tensor}" in self.vectors for tensor in tensors)

    def output_of(self, name: str) -> Entry:
        """The entry of the output of layer `name`: activations of a reader, logits or a branch."""
        readers = self.readers(name)
        if readers:
            return self.entry(readers[0], "activations")
        return self.entry(name, "logits" if name == self.network.names[-1] else "branch")

    def readers(self, name: str) -> list[str]:
        """The layers that read the output of layer `name`."""
        return [layer.name for layer, source in self.network.edges() if source == name]

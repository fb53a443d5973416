"""Backward pass: gradients at pre-activations, of parameters, and of activations."""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fxsim.formats import Format
from fxsim.golden.dots import Dot, Summing, bias_grad_dot, input_grad_dot, rows_per_block, weight_grad_dot
from fxsim.golden.manifest import Entry
from fxsim.golden.parts import MissingVectors, PreactivationGrads, Source, requantized
from fxsim.golden.recipe import Recipe
from fxsim.golden.semantics import (
    WEIGHT_VIEWS,
    Alternative,
    Semantics,
    change,
    quantization_changes,
    summing_changes,
    weight_changes,
)


class GradsAtPreactivations(Recipe):
    """G^A through pooling and mask."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.grads = PreactivationGrads(source, entry.layer)
        if not self.grads.computable:
            raise MissingVectors(f"{entry.layer}.preactivations or {entry.layer}.activation_grads")

    @property
    def default(self) -> Semantics:
        return Semantics()

    def alternatives(self) -> Iterator[Alternative]:
        return self.grads.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.rows_of(self.grads.codes(semantics), rows)


class ParameterGrads(Recipe):
    """Weight or bias gradient: a sum over samples and positions, one quantization."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.grads = PreactivationGrads(source, entry.layer)
        self.of_weights = entry.tensor == "weight_grads"
        self._dot = lru_cache(maxsize=2)(self._dot_of)
        self.dot(self.default)

    @property
    def default(self) -> Semantics:
        accumulator = self.entry.accumulator
        return Semantics(self.entry.rounding, self.entry.overflow,
                         summing=Summing(bits=accumulator.bits, overflow=accumulator.overflow))

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(self.default))

    def dot(self, semantics: Semantics) -> Dot:
        return self._dot(Semantics(mask=semantics.mask, last_maximum=semantics.last_maximum,
                                   averaging=semantics.averaging))

    def _dot_of(self, key: Semantics) -> Dot:
        inner = self.grads.codes_or_golden(key)
        if self.of_weights:
            return weight_grad_dot(self.layer, self.operand("activations"), inner)
        return bias_grad_dot(inner)

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.grads.changes(self.default)
        tensors = ("activations", "preactivation_grads") if self.of_weights else ("preactivation_grads",)
        bits = sum(self.source.entry(self.layer.name, tensor).format.bits for tensor in tensors)
        yield from summing_changes(self.default, self.entry.accumulator, self.dot(self.default), bits)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        step_exp = self.source.entry(self.layer.name, "preactivation_grads").format.step_exp
        if self.of_weights:
            step_exp += self.source.entry(self.layer.name, "activations").format.step_exp
        words = self.source.words(self.layer.name, self.entry.tensor)
        return requantized(self.dot(semantics).sums(rows, semantics.summing), step_exp, self.entry, semantics,
                           None if words is None else self.rows_of(words, rows))


class ActivationGrads(Recipe):
    """G^A of a layer: the input gradient of the layer that reads it, one quantization."""

    def __init__(self, source: Source, entry: Entry, reader: str):
        super().__init__(source, entry)
        self.reader = source.network.layer(reader)
        self.grads = PreactivationGrads(source, reader)
        self._dot = lru_cache(maxsize=2)(self._dot_of)
        self.dot(self.default)

    @property
    def default(self) -> Semantics:
        accumulator = self.entry.accumulator
        return Semantics(self.entry.rounding, self.entry.overflow,
                         summing=Summing(bits=accumulator.bits, overflow=accumulator.overflow))

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(self.default))

    def dot(self, semantics: Semantics) -> Dot:
        return self._dot(Semantics(mask=semantics.mask, last_maximum=semantics.last_maximum,
                                   averaging=semantics.averaging, weights=semantics.weights,
                                   earlier_weights=semantics.earlier_weights))

    def _dot_of(self, key: Semantics) -> Dot:
        weights = self.source.codes(self.reader.name, "weights" if key.earlier_weights else "updated_weights")
        grads = self.grads.codes_or_golden(key)
        return input_grad_dot(self.reader, grads, WEIGHT_VIEWS[key.weights](weights), self.entry.shape)

    def _reader_formats(self) -> tuple[Format, Format]:
        reader = self.reader.name
        return self.source.entry(reader, "preactivation_grads").format, self.source.entry(reader, "weights").format

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.grads.changes(self.default)
        yield from weight_changes(self.default, self.reader)
        if self.source.has(self.reader.name, "updated_weights"):
            yield change(self.default, "weights after the update instead of before", earlier_weights=False)
        bits = sum(format.bits for format in self._reader_formats())
        yield from summing_changes(self.default, self.entry.accumulator, self.dot(self.default), bits)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        step_exp = sum(format.step_exp for format in self._reader_formats())
        words = self.source.words(self.layer.name, "activation_grads")
        return requantized(self._sums(semantics, rows), step_exp, self.entry, semantics,
                           None if words is None else self.rows_of(words, rows))

    def _sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """Sums of the rows of the entry (N, H, W, C); a Dense reader makes all of a sample at a time."""
        dot = self.dot(semantics)
        merged = int(np.prod(self.entry.shape[:3])) // dot.rows
        wide, inverse = np.unique(rows // merged, return_inverse=True)
        sums = dot.sums(wide, semantics.summing).reshape(len(wide), merged, -1)
        return sums[inverse.reshape(-1), rows % merged]

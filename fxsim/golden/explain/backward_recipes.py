"""Backward pass: gradients at pre-activations, of parameters, and of activations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fxsim.formats import Format
from fxsim.golden.explain.changes import (
    Alternative,
    misread_changes,
    quantization_changes,
    stale_changes,
    summing_changes,
    weight_changes,
)
from fxsim.golden.explain.dots import (
    Dot,
    Summing,
    bias_grad_dot,
    input_grad_dot,
    rows_per_block,
    weight_grad_dot,
)
from fxsim.golden.explain.parts import PreactivationGrads, requantized
from fxsim.golden.explain.recipe import Recipe
from fxsim.golden.explain.semantics import WEIGHT_VIEWS, Semantics
from fxsim.golden.explain.source import MissingVectors, Source
from fxsim.golden.manifest import Entry


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
        self.operands = (
            ("activations", "preactivation_grads")
            if entry.tensor == "weight_grads"
            else ("preactivation_grads",)
        )
        self._dot = lru_cache(maxsize=2)(self._dot_of)
        self.dot(self.default)

    @property
    def default(self) -> Semantics:
        return Semantics(
            self.entry.rounding, self.entry.overflow, summing=Summing.of(self.entry.accumulator)
        )

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(self.default))

    def dot(self, semantics: Semantics) -> Dot:
        return self._dot(
            Semantics(
                mask=semantics.mask,
                last_maximum=semantics.last_maximum,
                averaging=semantics.averaging,
                misread=semantics.misread,
            )
        )

    def _dot_of(self, key: Semantics) -> Dot:
        inner = self.grads.codes_or_golden(key)
        if len(self.operands) == 1:
            return bias_grad_dot(inner)
        return weight_grad_dot(
            self.layer, self.source.operand(self.layer.name, "activations", key.misread), inner
        )

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.grads.changes(self.default)
        formats = {
            tensor: self.source.entry(self.layer.name, tensor).format for tensor in self.operands
        }
        yield from misread_changes(self.default, formats)
        bits = sum(format.bits for format in formats.values())
        yield from summing_changes(
            self.default, self.entry.accumulator, self.dot(self.default), bits
        )

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        step_exp = sum(
            self.source.entry(self.layer.name, tensor).format.step_exp for tensor in self.operands
        )
        words = self.source.words(self.layer.name, self.entry.tensor)
        return requantized(
            self.dot(semantics).sums(rows, semantics.summing),
            step_exp,
            self.entry,
            semantics,
            None if words is None else self.rows_of(words, rows),
        )


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
        return Semantics(
            self.entry.rounding, self.entry.overflow, summing=Summing.of(self.entry.accumulator)
        )

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(self.default))

    def dot(self, semantics: Semantics) -> Dot:
        return self._dot(
            Semantics(
                mask=semantics.mask,
                last_maximum=semantics.last_maximum,
                averaging=semantics.averaging,
                weights=semantics.weights,
                weights_from=semantics.weights_from,
                misread=semantics.misread,
            )
        )

    def _dot_of(self, key: Semantics) -> Dot:
        weights = self.source.operand(self.reader.name, key.weights_from, key.misread)
        grads = self.grads.codes_or_golden(key)
        return input_grad_dot(
            self.reader, grads, WEIGHT_VIEWS[key.weights](weights), self.entry.shape
        )

    def _reader_formats(self) -> dict[str, Format]:
        return {
            tensor: self.source.entry(self.reader.name, tensor).format
            for tensor in ("preactivation_grads", "weights")
        }

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.grads.changes(self.default)
        yield from weight_changes(self.default, self.reader)
        yield from stale_changes(self.default, self.source.tensors(self.reader.name), bias=False)
        yield from misread_changes(self.default, self._reader_formats())
        bits = sum(format.bits for format in self._reader_formats().values())
        yield from summing_changes(
            self.default, self.entry.accumulator, self.dot(self.default), bits
        )

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        step_exp = sum(format.step_exp for format in self._reader_formats().values())
        words = self.source.words(self.layer.name, "activation_grads")
        return requantized(
            self._sums(semantics, rows),
            step_exp,
            self.entry,
            semantics,
            None if words is None else self.rows_of(words, rows),
        )

    def _sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """Sums of the rows of the entry (N, H, W, C).

        A Dense reader makes all of a sample at a time.
        """
        dot = self.dot(semantics)
        merged = int(np.prod(self.entry.shape[:3])) // dot.rows
        wide, inverse = np.unique(rows // merged, return_inverse=True)
        sums = dot.sums(wide, semantics.summing).reshape(len(wide), merged, -1)
        return sums[inverse.reshape(-1), rows % merged]

"""Backward pass: gradients at pre-activations, of parameters, and of activations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fxsim.errors import present
from fxsim.formats import Format
from fxsim.golden.explain.backward_parts import PreactivationGrads
from fxsim.golden.explain.changes import (
    Alternative,
    misread_changes,
    quantization_changes,
    stale_changes,
    summing_changes,
    weight_changes,
)
from fxsim.golden.explain.dots import Dot, Summing, rows_per_block
from fxsim.golden.explain.parts import geometry, model_of, requantized
from fxsim.golden.explain.placements import placed, placement_changes
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.semantics import WEIGHT_VIEWS, Semantics
from fxsim.golden.explain.source import MissingVectors, Source
from fxsim.golden.manifest import Entry
from fxsim.ops.conv import input_grad, weight_grad


class GradsAtPreactivations(TensorRecipe):
    """G^A through dropout, pooling and mask, at what the activation reads."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.grads = PreactivationGrads(source, entry.layer)
        if not self.grads.computable:
            raise MissingVectors(f"{entry.layer}.preactivations or {entry.layer}.activation_grads")

    @property
    def default(self) -> Semantics:
        return self.grads.default

    def alternatives(self) -> Iterator[Alternative]:
        if self.default.rounding is not None:
            yield from quantization_changes(self.default, self.entry.format)
        yield from self.words_changes(self.default, self.entry.tensor)
        yield from self.grads.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.rows_of(self.grads.codes(semantics), rows)


class Sums(TensorRecipe):
    """Sums of products with gradients at pre-activations, and one quantization.

    A subclass tells which layer's products they are, and their operands.
    """

    def __init__(self, source: Source, entry: Entry, name: str, operands: tuple[str, ...]):
        super().__init__(source, entry)
        self.name = name
        self.grads = PreactivationGrads(source, name)
        self.formats: dict[str, Format] = {
            tensor: source.entry(name, tensor).format for tensor in operands
        }
        self._dot = lru_cache(maxsize=2)(self.dot_of)
        self.dot(self.default)

    @abstractmethod
    def dot_of(self, key: Semantics) -> Dot:
        """The dot products of operands as `key` has them."""

    def operand_changes(self) -> Iterator[Alternative]:
        """Changes of operands beside the gradients and misread codes."""
        return iter(())

    @property
    def columns(self) -> int:
        return self.dot(self.default).columns

    @property
    def default(self) -> Semantics:
        modes = self.entry.rounding, self.entry.overflow
        return Semantics(*modes, summing=Summing(model_of(self.entry)))

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(self.default))

    def grad_changes(self) -> Iterator[Alternative]:
        """Changes of the gradients at the pre-activations, unless batch norm makes them."""
        return iter(()) if self.grads.layer.norm else self.grads.changes(self.default)

    def dot(self, semantics: Semantics) -> Dot:
        return self._dot(
            Semantics(
                mask=semantics.mask,
                last_maximum=semantics.last_maximum,
                averaging=semantics.averaging,
                activation=semantics.activation,
                index=semantics.index,
                weights=semantics.weights,
                placement=semantics.placement,
                weights_from=semantics.weights_from,
                misread=semantics.misread,
            )
        )

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.words_changes(self.default, self.entry.tensor)
        yield from self.grad_changes()
        yield from self.operand_changes()
        yield from misread_changes(self.default, self.formats)
        product_bits = sum(format.bits for format in self.formats.values())
        bits = present(self.entry.accumulator).bits
        yield from summing_changes(self.default, self.dot(self.default), bits, product_bits)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        step_exp = sum(format.step_exp for format in self.formats.values())
        model = self.default.summing.model
        step_exp += model.drop if model else 0
        sums = self.dot(semantics).sums(rows, semantics.summing)
        words = self.words_of(self.entry.tensor, semantics, rows)
        return requantized(sums, step_exp, self.entry.format, semantics, words)


class WeightGrads(Sums):
    """The weight gradient: a sum over samples and positions."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry, entry.layer, ("activations", "preactivation_grads"))

    def dot_of(self, key: Semantics) -> Dot:
        shapes = geometry(self.source, self.name)
        x = self.source.operand(self.name, "activations", key.misread)
        formats = self.formats.values()
        product = weight_grad(*formats, shapes, model_of(self.entry))
        grads = self.grads.codes_or_golden(key)
        exact = product(x.reshape(-1, *shapes.input), grads)
        return Dot.of(placed(exact, key.placement))

    def operand_changes(self) -> Iterator[Alternative]:
        yield from placement_changes(self.default, geometry(self.source, self.name))


class BiasGrads(Sums):
    """The bias gradient: a sum over samples and positions of the gradients themselves."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry, entry.layer, ("preactivation_grads",))

    def dot_of(self, key: Semantics) -> Dot:
        return Dot.of_ones(self.grads.codes_or_golden(key))


class ActivationGrads(Sums):
    """G^A of a layer: the input gradient of the layer that reads it.

    A row is a position, or all of a sample where the reader is a Dense layer.
    """

    def __init__(self, source: Source, entry: Entry, reader: str):
        super().__init__(source, entry, reader, ("preactivation_grads", "weights"))

    def dot_of(self, key: Semantics) -> Dot:
        shapes = geometry(self.source, self.name)
        weights = self.source.operand(self.name, key.weights_from, key.misread)
        weights = WEIGHT_VIEWS[key.weights](weights.reshape(shapes.weight))
        formats = self.formats.values()
        product = input_grad(*formats, shapes, model_of(self.entry))
        exact = product(self.grads.codes_or_golden(key), weights)
        return Dot.of(placed(exact, key.placement))

    def operand_changes(self) -> Iterator[Alternative]:
        shapes = geometry(self.source, self.name)
        yield from weight_changes(self.default, shapes.taps)
        yield from placement_changes(self.default, shapes)
        yield from stale_changes(self.default, self.source.tensors(self.name), bias=False)

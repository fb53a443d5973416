"""One operation of fxsim.ops and its quantization, under any semantics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fxsim.formats import STOCHASTIC
from fxsim.golden.explain.changes import (
    Alternative,
    change,
    misread_changes,
    quantization_changes,
    summing_changes,
    weight_changes,
    words_changes,
)
from fxsim.golden.explain.dots import Dot, Summing, rows_per_block
from fxsim.golden.explain.parts import requantized
from fxsim.golden.explain.placements import placed, placement_changes
from fxsim.golden.explain.recipe import Recipe
from fxsim.golden.explain.search import Explanation, changed, rearranged
from fxsim.golden.explain.semantics import WEIGHT_VIEWS, Semantics
from fxsim.lfsr import Lfsr, LfsrWords
from fxsim.ops.exact import Exact
from fxsim.ops.matmul import product_of
from fxsim.ops.products import ProductSum
from fxsim.quantizer import Quantizer, Words, words_at
from fxsim.words import DroppedBits

AXES = {"forward": "N,H,W,C", "input_grad": "N,H,W,C", "weight_grad": "KH,KW,C,O"}


def explain_operation(exact: Exact, quantizer: Quantizer, got: np.ndarray) -> Explanation:
    """The single changes that give the codes `got` instead of those of `exact.to(quantizer)`.

    got: integers of exact's shape.
    """
    product = product_of(exact)
    recipe = Rounded(exact, quantizer) if product is None else Product(exact, product, quantizer)
    rows = np.arange(recipe.values.shape[0])
    right = recipe.compute(recipe.default, rows).reshape(exact.shape)
    if np.array_equal(right, got):
        return Explanation((), 0, "the codes are those that it gives")
    found = rearranged(right, got, quantizer.format, _axes(exact, product))
    return found + changed(recipe, right, got)


def _axes(exact: Exact, product: ProductSum | None) -> list[str]:
    if product is not None and len(exact.shape) == 4:
        return AXES[product.product.kind].split(",")
    return [f"axis {number}" for number in range(len(exact.shape))]


class Rounded(Recipe):
    """An exact result, quantized."""

    def __init__(self, exact: Exact, quantizer: Quantizer):
        self.step_exp = exact.format.step_exp
        self.quantizer = quantizer
        shape = exact.shape[-1:] or (1,)
        self.values = exact.sums().reshape(-1, *shape)
        self.shape = exact.shape

    @property
    def columns(self) -> int:
        return self.values.shape[1]

    @property
    def default(self) -> Semantics:
        return Semantics(self.quantizer.rounding, self.quantizer.overflow)

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.quantizer.format)
        words = self.quantizer.words
        registers = words.at(0) if isinstance(words, Lfsr) else words
        if isinstance(registers, LfsrWords):
            states = registers.lfsr.states(registers.step, self.values.size)
            yield from words_changes(self.default, registers, states)

    def words(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray | DroppedBits | None:
        """The random words of the given rows, None where nothing is rounded stochastically."""
        words: Words | None = semantics.words or self.quantizer.words
        if words is None or semantics.rounding not in STOCHASTIC:
            return None
        if isinstance(words, DroppedBits):
            return words
        return words_at(words, self.shape).reshape(self.values.shape)[rows]

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        words = self.words(semantics, rows)
        sums = self.sums(semantics, rows)
        return requantized(sums, self.step_exp, self.quantizer.format, semantics, words)

    def sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, columns) int64 before the quantization."""
        return self.values[rows]


class Product(Rounded):
    """The sums of a product, quantized."""

    def __init__(self, exact: Exact, product: ProductSum, quantizer: Quantizer):
        super().__init__(exact, quantizer)
        self.values = self.values.reshape(-1, product.shape[-1])
        self.product = product
        self.dot = lru_cache(maxsize=2)(self._dot_of)

    @property
    def default(self) -> Semantics:
        modes = self.quantizer.rounding, self.quantizer.overflow
        return Semantics(*modes, summing=Summing(self.product.product.accumulator))

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.dot(Semantics()))

    def alternatives(self) -> Iterator[Alternative]:
        yield from super().alternatives()
        formats = self.product.operand_formats
        if "bias" in formats:
            yield change(self.default, "bias missing", bias=False)
        if "weight" in formats:
            yield from weight_changes(self.default, self.product.product.geometry.taps)
        yield from placement_changes(self.default, self.product.product.geometry)
        yield from misread_changes(self.default, formats)
        product_bits = self.product.product.left.bits + self.product.product.right.bits
        dot = self.dot(Semantics())
        yield from summing_changes(self.default, dot, self.product.format.bits, product_bits)

    def sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        operands = _of_operands(semantics)
        if operands == Semantics() and semantics.summing == self.default.summing:
            return self.values[rows]
        return self.dot(operands).sums(rows, semantics.summing)

    def _dot_of(self, key: Semantics) -> Dot:
        """Dot products of operands as `key` has them."""
        codes = dict(self.product.operands)
        misread = key.misread
        if misread is not None:
            codes[misread.tensor] = misread.of(codes[misread.tensor])
        if not key.bias:
            codes["bias"] = np.zeros_like(codes["bias"])
        if "weight" in codes:
            codes["weight"] = WEIGHT_VIEWS[key.weights](codes["weight"])
        return Dot.of(placed(self.product.with_operands(codes), key.placement))


def _of_operands(semantics: Semantics) -> Semantics:
    """The part of `semantics` that decides what is multiplied."""
    return Semantics(
        misread=semantics.misread,
        weights=semantics.weights,
        placement=semantics.placement,
        bias=semantics.bias,
    )

"""Forward pass and loss.

Pre-activations, masks, activations, logits and the gradient at the logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from fxsim.errors import present
from fxsim.exponential import MAX_ENTRY_BITS, MAX_INDEX_BITS, Exponential
from fxsim.formats import Format
from fxsim.golden.arithmetic import narrowed, quantizer_of
from fxsim.golden.explain.changes import (
    Alternative,
    activation_changes,
    averaging_changes,
    change,
    index_changes,
    mask_changes,
    quantization_changes,
)
from fxsim.golden.explain.dots import rows_per_block
from fxsim.golden.explain.forward_parts import Forward, Output, looked_up
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.semantics import MASKS, Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.nn.fixed.loss import FixedLoss
from fxsim.nn.spec import Network
from fxsim.ops.exact import Quotient
from fxsim.ops.leaky_relu import leaked, slopes_of
from fxsim.tensor import Tensor

FARTHEST = 4
"""Bits by which the numbers of an exponential are tried."""


class Preactivations(TensorRecipe):
    """Z = conv(A, W) + b."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.forward = Forward(source, entry.layer)
        self.forward.dot()

    @property
    def default(self) -> Semantics:
        return Semantics(summing=self.forward.summing)

    @property
    def rows_per_block(self) -> int:
        return rows_per_block(self.forward.dot())

    def alternatives(self) -> Iterator[Alternative]:
        return self.forward.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.forward.sums(semantics, rows)


class ReluMask(TensorRecipe):
    """1 where the exact Z lies inside (0, ceiling)."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.output = Output(source, entry.layer)

    @property
    def default(self) -> Semantics:
        return self.output.default

    def alternatives(self) -> Iterator[Alternative]:
        yield from mask_changes(self.default)
        yield from self.output.input.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        z = self.output.exact(semantics, rows).sums()
        codes = self.output.before_pool(self.default, rows)
        return MASKS[semantics.mask](z, self.output.bound, codes).astype(np.int64)


class LeakyMask(ReluMask):
    """What of a gradient passes a leaky ReLU: nothing, the slope, all."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from activation_changes(self.default, self.layer.activation)
        yield from self.output.input.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        own = semantics.activation or self.layer.activation
        exact = self.output.exact(semantics, rows)
        if own.kind == "none":
            return np.full(exact.shape, 2)
        if own.is_relu:
            z = exact.sums()
            return 2 * ((z > 0) & (z < self.output.bound))
        leaky, positive = leaked(exact, present(own.slope_exp))
        return slopes_of(leaky, positive, self.output.quantizer).astype(np.int64)


class TableIndices(ReluMask):
    """The index of each sum in a table."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from index_changes(self.default)
        yield from self.output.input.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        own = self.layer.activation
        exact = self.output.exact(semantics, rows)
        half = own.cells // 2
        format = Format(present(own.index_bits), present(own.index_bits) - 1)
        indices = Tensor(np.arange(-half, half), format)
        return looked_up(exact, own, indices, semantics.index, "none").sums()


class LayerOutput(TensorRecipe):
    """Activations, logits or a branch: ReLU, one quantization, pooling, dropout."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        own = entry.tensor in ("logits", "branch")
        producer = entry.layer if own else source.network.source(entry.layer)
        self.output = Output(source, present(producer))

    @property
    def default(self) -> Semantics:
        return self.output.default

    @property
    def rows_per_block(self) -> int:
        forward = self.output.input.forward
        return rows_per_block(forward.dot()) if forward.has_operands else 2**16

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.output.format)
        yield from self.words_changes(self.default, self.entry.tensor)
        yield from activation_changes(self.default, self.output.layer.activation)
        pool = self.output.layer.pool
        if pool and pool.kind == "average":
            yield from averaging_changes(self.default, pool)
        yield from self.output.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.output.after_dropout(semantics, rows)


class LossGradient(TensorRecipe):
    """The gradient of the mean loss at the logits."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        logits = source.entry(entry.layer, "logits")
        batch = source.manifest.batch
        codes = self.operand("logits").reshape(batch, -1)
        network = source.network
        targets = self.operand("labels" if network.decides else "targets")
        targets = targets if network.decides else targets.reshape(batch, -1)
        self.logits = Tensor(codes, logits.format)
        self.targets = targets
        self.exact = self._grad(network)

    def _grad(self, network: Network) -> Quotient:
        return FixedLoss(network, self.logits.format).grad(
            self.logits, self.targets, len(self.logits)
        )

    def alternatives(self) -> Iterator[Alternative]:
        yield from (
            each
            for each in quantization_changes(self.default, self.entry.format)
            if not each.semantics.shift
        )
        yield from self.words_changes(self.default, self.entry.tensor)
        for text, factor in self._factors():
            yield change(self.default, text, factor=Fraction(factor))
        if "cross_entropy" in self.source.network.loss:
            for text in self._exponentials():
                yield change(self.default, text, variant=text)

    def _exponentials(self) -> dict[str, Exponential]:
        """Exponentials that are taken for the loss's own, by what tells them."""
        own = self.source.network.exponential
        found = {}
        other: Any = "none" if own.interpolation == "linear" else "linear"
        text = f"exponential: interpolation {other} instead of {own.interpolation}"
        found[text] = dataclasses.replace(own, interpolation=other)
        for field, most in (("index_bits", MAX_INDEX_BITS), ("entry_bits", MAX_ENTRY_BITS)):
            stated: int = getattr(own, field)
            near = range(stated - FARTHEST, stated + FARTHEST + 1)
            for bits in near:
                if bits != stated and 1 <= bits <= most:
                    changes: Any = {field: bits}
                    text = f"exponential: {field} {bits} instead of {stated}"
                    found[text] = dataclasses.replace(own, **changes)
        return found

    def _factors(self) -> Iterator[tuple[str, int | Fraction]]:
        """Factors that are taken for each other."""
        network = self.source.network
        yield "not divided by the batch size", self.source.manifest.batch
        if network.loss != "softmax_cross_entropy":
            yield "targets minus outputs", -1
        if network.loss == "mse":
            yield "not divided by the number of outputs", network.outputs
            yield "factor 2 missing", Fraction(1, 2)
        if network.loss == "half_mse":
            yield "factor 2 too many", 2

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        words = self.source.words(self.layer.name, self.entry.tensor, semantics.words)
        if isinstance(words, np.ndarray):
            words = words.reshape(self.exact.shape)
        format = narrowed(self.entry.format, semantics.narrower)
        modes = (present(semantics.rounding), present(semantics.overflow))
        quantizer = quantizer_of(format, *modes, words)
        factor = semantics.factor
        exact = self.exact
        if semantics.variant:
            exponential = self._exponentials()[semantics.variant]
            exact = self._grad(dataclasses.replace(self.source.network, exponential=exponential))
        out = Quotient(
            exact.numerators * factor.numerator,
            exact.step_exp,
            exact.divisor * factor.denominator,
        ).to(quantizer)
        return self.rows_of(out.codes, rows)

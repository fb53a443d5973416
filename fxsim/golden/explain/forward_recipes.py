"""Forward pass and loss.

Pre-activations, masks, activations, logits and the gradient at the logits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxsim.golden.explain.changes import (
    Alternative,
    averaging_changes,
    change,
    mask_changes,
    quantization_changes,
)
from fxsim.golden.explain.dots import rows_per_block
from fxsim.golden.explain.parts import Forward, Output
from fxsim.golden.explain.recipe import Recipe
from fxsim.golden.explain.semantics import MASKS, Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.kernels.elementwise import softmax
from fxsim.kernels.rounding import OVERFLOW_RULE, code_range, stochastic_base
from fxsim.nn.spec import RELU_RANGE_EXP
from fxsim.requantizer import Requantizer


class Preactivations(Recipe):
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


class ReluMask(Recipe):
    """1 where the exact Z lies inside (0, 2)."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.forward = Forward(source, entry.layer)
        self.output = Output(source, entry.layer)

    @property
    def default(self) -> Semantics:
        return self.output.default

    def alternatives(self) -> Iterator[Alternative]:
        yield from mask_changes(self.default)
        yield from self.forward.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        z = self.forward.sums_or_golden(semantics, rows)
        bound = 1 << (RELU_RANGE_EXP - self.forward.entry.format.step_exp)
        return MASKS[semantics.mask](z, bound, self.output.before_pool(self.default, rows)).astype(
            np.int64
        )


class LayerOutput(Recipe):
    """Activations or logits: ReLU, one quantization, pooling."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        producer = entry.layer if entry.tensor == "logits" else source.network.source(entry.layer)
        self.output = Output(source, producer)

    @property
    def default(self) -> Semantics:
        return self.output.default

    @property
    def rows_per_block(self) -> int:
        forward = self.output.forward
        return rows_per_block(forward.dot()) if forward.has_operands else 2**16

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        pool = self.output.layer.pool
        if pool and pool.kind == "average":
            yield from averaging_changes(self.default)
        yield from self.output.forward.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.output.after_pool(semantics, rows)


class LossGradient(Recipe):
    """(p - onehot) / N at the logits."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from (
            each
            for each in quantization_changes(self.default, self.entry.format)
            if not each.semantics.shift
        )
        yield change(self.default, "not divided by the batch size", divide=False)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        logits = self.operand("logits").reshape(self.source.manifest.batch, -1)
        labels = self.operand("labels")
        logits_exp = self.source.entry(self.layer.name, "logits").format.step_exp
        format = self.entry.format
        left, divisor = softmax.gradient_division(
            format.step_exp, len(logits) if semantics.divide else 1
        )
        requantizer = Requantizer(
            format.step_exp - softmax.GUARD_BITS, format, semantics.rounding, semantics.overflow
        )
        bases = np.empty((0, 0), np.int64)
        if requantizer.stochastic:
            words = self.source.words(self.layer.name, self.entry.tensor)
            bases = stochastic_base(words, requantizer.rounding, requantizer.shift).reshape(
                logits.shape
            )
        low, high = code_range(format.bits - semantics.narrower, format.signed, semantics.overflow)
        out = np.empty(logits.shape, np.int64)
        softmax.softmax_gradient(
            logits,
            labels,
            softmax.softmax_scale_shift(logits_exp),
            softmax.EXP2_TABLE,
            left,
            divisor,
            bases,
            *requantizer.terms(requantizer.shift),
            low,
            high,
            OVERFLOW_RULE[semantics.overflow],
            format.bits - semantics.narrower,
            out,
            np.zeros(3, np.int64),
        )
        return out[rows]

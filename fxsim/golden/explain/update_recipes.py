"""The update of parameters and their accumulators, from the definition in fxsim/ops/update.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxsim.errors import present
from fxsim.factors import LearningRate
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC
from fxsim.golden.arithmetic import bounded, narrowed, rounded, updates
from fxsim.golden.explain.changes import (
    Alternative,
    change,
    misread_changes,
    quantization_changes,
    range_changes,
    rounding_changes,
)
from fxsim.golden.explain.parts import requantized
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.nn.fixed.network import FURTHER

OF_WEIGHTS = ("weights", "accumulators", "updates", "weight_grads", "velocities")
OF_FURTHER = ("accumulators", "updates", "grads", "velocities")
"""Of bias, gamma or beta, behind its name."""


class Update(TensorRecipe):
    """u = round(learning rate * gradient), and what it makes of the parameter and the
    accumulator.
    """

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        kind = next((kind for kind in FURTHER if kind in entry.tensor), None)
        self.parameter, self.accumulator, self.update, self.gradient, velocity = (
            OF_WEIGHTS if kind is None else (kind, *(f"{kind}_{name}" for name in OF_FURTHER))
        )
        if source.has(entry.layer, velocity):
            self.gradient = velocity
        self.formats = {
            tensor: source.entry(entry.layer, tensor).format
            for tensor in (self.parameter, self.accumulator, self.gradient)
            if tensor != self.accumulator or source.has(entry.layer, tensor)
        }

    @property
    def _update_rounding(self) -> str:
        return present(self.source.entry(self.layer.name, self.update).rounding)

    def operand_rows(self, tensor: str, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        codes = self.source.operand(self.layer.name, tensor, semantics.misread)
        return self.rows_of(codes, rows).astype(np.int64)

    def updates(self, rounding: str, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """u of the given rows in accumulator steps, int64."""
        return updates(
            self.operand_rows(self.gradient, semantics, rows),
            self.formats[self.gradient],
            self.formats[self.accumulator],
            self.source.rate,
            rounding,
            self.words_of(self.accumulator, semantics, rows),
        )


class UpdateItself(Update):
    """u."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from rounding_changes(self.default)
        yield from self.words_changes(self.default, self.accumulator)
        yield from misread_changes(self.default, {self.gradient: self.formats[self.gradient]})

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.updates(present(semantics.rounding), semantics, rows)


class Updated(Update):
    """W' = round(t), t = (W, acc) - u, and acc' = t - W'."""

    @property
    def default(self) -> Semantics:
        return Semantics("nearest_up", "saturate", update_rounding=self._update_rounding)

    def alternatives(self) -> Iterator[Alternative]:
        for each in rounding_changes(Semantics(self._update_rounding)):
            yield change(
                self.default, f"update: {each.text}", update_rounding=each.semantics.rounding
            )
        yield from self.words_changes(self.default, self.accumulator)
        for each in rounding_changes(self.default):
            yield change(
                self.default, f"{self.parameter}: {each.text}", rounding=each.semantics.rounding
            )
        for overflow in (mode for mode in OVERFLOWS if mode != "saturate"):
            yield change(
                self.default,
                f"{self.parameter}: overflow {overflow} instead of saturate",
                overflow=overflow,
            )
            yield change(
                self.default,
                f"{self.accumulator}: overflow {overflow} instead of saturate",
                accumulator_overflow=overflow,
            )
        yield from self._narrower(self.parameter, "narrower")
        yield from self._narrower(self.accumulator, "accumulator_narrower")
        yield change(self.default, f"{self.accumulator} before the step ignored (0)", start=False)
        yield change(self.default, "update added instead of subtracted", subtracted=-1)
        yield change(self.default, "update left out", subtracted=0)
        yield from misread_changes(
            self.default,
            {
                self.parameter: self.formats[self.parameter],
                f"{self.accumulator}_before": self.formats[self.accumulator],
                self.gradient: self.formats[self.gradient],
            },
        )

    def _narrower(self, tensor: str, field: str) -> Iterator[Alternative]:
        for each in range_changes(self.default, self.formats[tensor], "overflow saturate", field):
            yield Alternative(f"{tensor}: {each.text}", each.semantics)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        below = self.formats[self.accumulator].bits
        update = self.updates(present(semantics.update_rounding), semantics, rows)
        held = self.operand_rows(f"{self.accumulator}_before", semantics, rows) * semantics.start
        total = (self.operand_rows(self.parameter, semantics, rows) << below) + held
        total = total - update * semantics.subtracted
        format = narrowed(self.formats[self.parameter], semantics.narrower)
        codes = rounded(total, below, present(semantics.rounding))
        codes = bounded(codes, format, present(semantics.overflow))
        if self.entry.tensor != self.accumulator:
            return codes
        format = narrowed(self.formats[self.accumulator], semantics.accumulator_narrower)
        return bounded(total - (codes << below), format, semantics.accumulator_overflow)


class RoundedUpdate(Update):
    """u = round(learning rate * gradient) in a format of its own, without an accumulator."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.words_changes(self.default, self.update)
        yield from misread_changes(self.default, {self.gradient: self.formats[self.gradient]})

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        factor = self.source.rate.odd
        exact = self.operand_rows(self.gradient, semantics, rows) * factor.mantissa
        step_exp = self.formats[self.gradient].step_exp + factor.exponent
        words = self.words_of(self.update, semantics, rows)
        return requantized(exact, step_exp, self.entry.format, semantics, words)


TOGETHER = "learning rate times gradient subtracted exactly, rounded once with the parameter"


class UpdatedAlone(Update):
    """W' = round(W - learning rate * gradient), without an accumulator; round(W - u) where the
    product has a format of its own.
    """

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.product = self.gradient
        self.rounded = source.has(entry.layer, self.update)
        if self.rounded:
            self.gradient = self.update
            self.formats[self.update] = source.entry(entry.layer, self.update).format

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.words_changes(self.default, self.accumulator)
        yield change(self.default, "update added instead of subtracted", subtracted=-1)
        yield change(self.default, "update left out", subtracted=0)
        names = self.parameter, self.gradient
        yield from misread_changes(self.default, {name: self.formats[name] for name in names})
        if self.rounded:
            if self._update_rounding not in STOCHASTIC:
                rounding = self._update_rounding
                yield change(self.default, TOGETHER, variant=TOGETHER, rounding=rounding)
            return
        for mode in ROUNDINGS:
            if mode not in STOCHASTIC or self.default.rounding in STOCHASTIC:
                text = f"update rounded {mode} before it is subtracted"
                yield change(self.default, text, update_rounding=mode)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        words = self.words_of(self.accumulator, semantics, rows)
        codes = self.operand_rows(self.parameter, semantics, rows)
        apart = self.rounded and semantics.variant != TOGETHER
        gradient = self.gradient if apart else self.product
        grads = self.operand_rows(gradient, semantics, rows) * semantics.subtracted
        format = self.formats[self.parameter]
        rate = LearningRate.of(1.0) if apart else self.source.rate
        if semantics.update_rounding is not None:
            grads_format = self.formats[gradient]
            update = updates(grads, grads_format, format, rate, semantics.update_rounding, words)
            return bounded(codes - update, format, present(semantics.overflow))
        factor = rate.odd
        scaled_exp = self.formats[gradient].step_exp + factor.exponent
        step_exp = min(format.step_exp, scaled_exp)
        held = codes << (format.step_exp - step_exp)
        exact = held - (grads * factor.mantissa << (scaled_exp - step_exp))
        return requantized(exact, step_exp, format, semantics, words)


def updated(source: Source, entry: Entry) -> Update:
    """The recipe of an updated parameter, with an accumulator or without."""
    return Updated(source, entry) if _held(source, entry) else UpdatedAlone(source, entry)


def update(source: Source, entry: Entry) -> Update:
    """The recipe of rate times gradient, with an accumulator or without."""
    return UpdateItself(source, entry) if _held(source, entry) else RoundedUpdate(source, entry)


def _held(source: Source, entry: Entry) -> bool:
    """Whether the parameter has an accumulator."""
    kind = next((kind for kind in FURTHER if kind in entry.tensor), None)
    accumulator = OF_WEIGHTS[1] if kind is None else f"{kind}_accumulators"
    return f"{entry.layer}.{accumulator}" in source.manifest.entries

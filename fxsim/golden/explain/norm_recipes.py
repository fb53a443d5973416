"""Batch norm, residual additions, and gradients that add up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from fxsim.errors import present
from fxsim.factors import Factor, OddFactor
from fxsim.formats import STOCHASTIC, Format
from fxsim.golden.explain.changes import (
    Alternative,
    change,
    quantization_changes,
    rounding_changes,
)
from fxsim.golden.explain.forward_parts import Forward, ReluInput
from fxsim.golden.explain.parts import geometry, requantized
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.ops.batch_norm import EPSILON, inverse_root
from fxsim.ops.conv import input_grad
from fxsim.ops.exact import Quotient
from fxsim.ops.integers import integers
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor

OF_BATCH = "statistic of these images instead of the running one"
EPSILONS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, EPSILON)
"""What is tried for batch norm's epsilon: what other software takes by default, and near."""
ROUNDED_FIRST = "every gradient rounded by itself before the addition"


class Rounded(TensorRecipe):
    """A tensor that is one exact result, quantized once."""

    def alternatives(self) -> Iterator[Alternative]:
        yield from quantization_changes(self.default, self.entry.format)
        yield from self.words_changes(self.default, self.entry.tensor)
        yield from self.own_changes()

    def own_changes(self) -> Iterator[Alternative]:
        """Changes beside those of the quantization."""
        return iter(())

    @abstractmethod
    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """(integers (R, columns), the exponent of their step)."""

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        values, step_exp = self.exact(semantics, rows)
        words = self.words_of(self.entry.tensor, semantics, rows)
        return requantized(values, step_exp, self.entry.format, semantics, words)

    def format_of(self, tensor: str) -> Format:
        """The format of another tensor of this layer."""
        return self.source.entry(self.layer.name, tensor).format


class QuantizedPreactivations(Rounded):
    """Y, which batch norm normalizes."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.forward = Forward(source, entry.layer)

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        sums = self.forward.golden[rows].astype(np.int64)
        return sums, self.forward.entry.format.step_exp


class Statistic(TensorRecipe):
    """The mean or the variance of each channel."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        codes = self.operand("quantized_preactivations")
        self.step_exp = source.entry(entry.layer, "quantized_preactivations").format.step_exp
        self.columns_of = codes.reshape(-1, codes.shape[-1])

    def alternatives(self) -> Iterator[Alternative]:
        yield from rounding_changes(self.default)
        if self.entry.tensor == "variance" and len(self.columns_of) > 1:
            text = "variance divided by one position less"
            yield change(self.default, text, variant=text)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        terms = len(self.columns_of)
        total = self.columns_of.sum(axis=0)
        quantizer = Quantizer(
            self.entry.format, present(semantics.rounding), present(semantics.overflow)
        )
        if self.entry.tensor == "mean":
            return Quotient(total, self.step_exp, terms).to(quantizer).codes.reshape(1, -1)
        square = (self.columns_of**2).sum(axis=0)
        deviation = terms * square.astype(object) - total.astype(object) ** 2
        divisor = terms * (terms - (semantics.variant != ""))
        small = max(deviation).bit_length() < 62
        numerators = deviation.astype(np.int64) if small else deviation
        codes = Quotient(numerators, 2 * self.step_exp, divisor).to(quantizer).codes
        return codes.reshape(1, -1)


class RunningStatistic(Rounded):
    """The mean or the variance that inference, or frozen batch norm, takes: the running one."""

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        running = f"running_{self.entry.tensor}"
        return self.operand(running).reshape(1, -1), self.format_of(running).step_exp

    def own_changes(self) -> Iterator[Alternative]:
        if self.source.has(self.layer.name, "quantized_preactivations"):
            yield change(self.default, OF_BATCH, variant=OF_BATCH)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        if semantics.variant == OF_BATCH:
            return Statistic(self.source, self.entry).compute(self.default, rows)
        return super().compute(semantics, rows)


class InverseRoots(TensorRecipe):
    """1 / sqrt(variance + epsilon), to 16 significant bits."""

    @property
    def default(self) -> Semantics:
        return Semantics()

    @cached_property
    def _others(self) -> dict[str, tuple[float, bool]]:
        """Text of a change -> (epsilon, whether the root is rounded)."""
        own = present(self.layer.norm).epsilon
        others: dict[str, tuple[float, bool]] = {
            "": (own, True),
            "inverse root cut off instead of rounded": (own, False),
            "epsilon left out": (0.0, True),
        }
        for epsilon in EPSILONS:
            if Factor.nearest(epsilon) != Factor.nearest(own):
                others[f"epsilon {epsilon:g} instead of {own:g}"] = (epsilon, True)
        return others

    def alternatives(self) -> Iterator[Alternative]:
        for text in self._others:
            if text:
                yield change(self.default, text, variant=text)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        epsilon, nearest = self._others[semantics.variant]
        variance_exp = self.source.entry(self.layer.name, "variance").format.step_exp
        odd = Factor.nearest(epsilon).odd if epsilon else OddFactor(0, variance_exp)
        finest = min(variance_exp, odd.exponent)
        step_exp = finest - finest % 2  # even, so that the root of the step is a power of two
        added = odd.mantissa << (odd.exponent - step_exp)
        roots = []
        for code in self.operand("variance").tolist():
            value = (code << (variance_exp - step_exp)) + added
            mantissa, places = inverse_root(value, nearest) if value else (0, 0)
            up = -places - step_exp // 2 - self.entry.format.step_exp
            roots.append(mantissa << up if up >= 0 else mantissa >> -up)
        return integers(roots).reshape(1, -1)


class Normalized(Rounded):
    """x-hat = (Y - mean) times the inverse root."""

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        y_exp, mean_exp, root_exp = (
            self.format_of(tensor).step_exp
            for tensor in ("quantized_preactivations", "mean", "inverse_roots")
        )
        step_exp = min(y_exp, mean_exp)
        y = self.rows_of(self.operand("quantized_preactivations"), rows) << (y_exp - step_exp)
        mean = self.operand("mean") << (mean_exp - step_exp)
        centred = y if semantics.variant else y - mean
        return centred * self.operand("inverse_roots"), step_exp + root_exp

    def own_changes(self) -> Iterator[Alternative]:
        yield change(self.default, "mean not subtracted", variant="mean not subtracted")


class ReluInputs(TensorRecipe):
    """What the activation reads after batch norm, a residual addition or both: exact."""

    def __init__(self, source: Source, entry: Entry):
        super().__init__(source, entry)
        self.input = ReluInput(source, entry.layer)

    @property
    def default(self) -> Semantics:
        return Semantics()

    def alternatives(self) -> Iterator[Alternative]:
        return self.input.changes(self.default)

    def compute(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        return self.input.combined(semantics, rows)


class AffineGrads(Rounded):
    """The gradients of gamma and beta: sums over all positions."""

    @cached_property
    def _sums(self) -> tuple[np.ndarray, int]:
        grads = self.operand("relu_input_grads")
        step_exp = self.format_of("relu_input_grads").step_exp
        if self.entry.tensor == "gamma_grads":
            grads = grads * self.operand("normalized").reshape(grads.shape)
            step_exp += self.format_of("normalized").step_exp
        return grads.reshape(-1, grads.shape[-1]).sum(axis=0, keepdims=True), step_exp

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        return self._sums


class GradsBeforeNorm(Rounded):
    """The gradient at the pre-activations: scales g + slopes x-hat + offsets."""

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        left_out = semantics.variant
        grads = self.rows_of(self.operand("relu_input_grads"), rows)
        values = grads * self.operand("normalization_scales")
        if "slopes" not in left_out:
            x = self.rows_of(self.operand("normalized"), rows)
            values = values + x * self.operand("normalization_slopes")
        if "offsets" not in left_out:
            values = values + self.operand("normalization_offsets")
        return values, self.format_of("normalization_offsets").step_exp

    def own_changes(self) -> Iterator[Alternative]:
        for kinds in ("slopes", "offsets", "slopes and offsets"):
            text = f"batch norm's {kinds} left out of the gradient"
            yield change(self.default, text, variant=text)


class JoinedGrads(Rounded):
    """G^A of a layer that several read or add: the exact sum of what they give."""

    @cached_property
    def _parts(self) -> dict[str, tuple[np.ndarray, Format]]:
        """What gives a gradient -> (codes (N, ..., columns), their format)."""
        name = self.layer.name
        network = self.source.network
        parts = {
            f"reader {reader}": self._input_grads(reader) for reader in self.source.readers(name)
        }
        for layer in network.layers:
            if layer.add == name:
                tensor = "relu_input_grads" if layer.norm else "preactivation_grads"
                codes = self.source.codes(layer.name, tensor).astype(np.int64)
                format = self.source.entry(layer.name, tensor).format
                parts[f"addition in {layer.name}"] = codes, format
        return parts

    def _input_grads(self, reader: str) -> tuple[np.ndarray, Format]:
        shapes = geometry(self.source, reader)
        grads, weights = (
            Tensor(self.source.codes(reader, tensor), self.source.entry(reader, tensor).format)
            for tensor in ("preactivation_grads", "weights")
        )
        stated = self.source.manifest.input_grads.get(reader)
        model = stated.model if stated else None
        product = input_grad(grads.format, weights.format, shapes, model)
        exact = product(
            grads.operand.reshape(-1, *shapes.output), weights.operand.reshape(shapes.weight)
        )
        return exact.sums(), exact.format

    def own_changes(self) -> Iterator[Alternative]:
        for name in self._parts:
            text = f"gradient of {name} left out"
            yield change(self.default, text, variant=text)
        if self.entry.rounding not in STOCHASTIC:  # each would need random words of its own
            yield change(self.default, ROUNDED_FIRST, variant=ROUNDED_FIRST)

    def exact(self, semantics: Semantics, rows: np.ndarray) -> tuple[np.ndarray, int]:
        total = np.zeros((len(rows), self.columns), np.int64)
        parts = {
            name: (self.rows_of(codes, rows), format.step_exp)
            for name, (codes, format) in self._parts.items()
        }
        if semantics.variant == ROUNDED_FIRST:
            target = self.entry.format
            for codes, step_exp in parts.values():
                total += requantized(codes, step_exp, target, self.default)
            return total, target.step_exp
        finest = min(step_exp for _, step_exp in parts.values())
        for name, (codes, step_exp) in parts.items():
            if semantics.variant != f"gradient of {name} left out":
                total += codes << (step_exp - finest)
        return total, finest

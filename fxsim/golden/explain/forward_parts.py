"""Pieces of a layer's forward pass, recomputed from golden vectors under any semantics.

Sums, what the activation reads, outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

from fxsim.activation import Activation
from fxsim.errors import present
from fxsim.formats import Format
from fxsim.golden.explain.changes import (
    Alternative,
    change,
    misread_changes,
    stale_changes,
    summing_changes,
    weight_changes,
)
from fxsim.golden.explain.dots import Dot, Summing
from fxsim.golden.explain.parts import geometry, model_of, requantized
from fxsim.golden.explain.placements import placed, placement_changes
from fxsim.golden.explain.semantics import WEIGHT_VIEWS, Index, Semantics
from fxsim.golden.explain.source import MissingVectors, Source
from fxsim.nn.fixed.activation import relu_format, relu_quantizer, table_of
from fxsim.ops.dropout import Scaled
from fxsim.ops.exact import Exact, Sums, relu_bound
from fxsim.ops.leaky_relu import leaked
from fxsim.ops.lookup import lookup
from fxsim.ops.matmul import forward
from fxsim.ops.pooling import (
    avg_pool2d,
)
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor


class Forward:
    """The pre-activations of one layer."""

    def __init__(self, source: Source, name: str):
        self.source = source
        self.layer = source.network.layer(name)
        self.operands = (
            ("activations", "weights", "bias")
            if self.layer.has_bias
            else ("activations", "weights")
        )
        self.entry = source.entry(name, "preactivations")
        self.rows_shape = self.entry.shape[:3]
        self._dot = lru_cache(maxsize=2)(self._dot_of)

    @cached_property
    def golden(self) -> np.ndarray:
        """Z as exported, one row to a position."""
        return self.source.codes(self.layer.name, "preactivations").reshape(-1, self.entry.shape[3])

    @property
    def has_operands(self) -> bool:
        return self.source.has(self.layer.name, *self.operands)

    @property
    def formats(self) -> dict[str, Format]:
        """Operand -> its format."""
        return {
            tensor: self.source.entry(self.layer.name, tensor).format for tensor in self.operands
        }

    @property
    def summing(self) -> Summing:
        """The manifest's own."""
        return Summing(model_of(self.entry))

    def dot(self, semantics: Semantics | None = None) -> Dot:
        """The sums, of operands as `semantics` (None: the manifest's) has them."""
        return self._dot(_of_operands(semantics or Semantics()))

    def _dot_of(self, key: Semantics) -> Dot:
        name = self.layer.name
        shapes = geometry(self.source, name)
        x = self.source.operand(name, "activations", key.misread)
        weights = self.source.operand(name, key.weights_from, key.misread)
        bias = None
        if self.layer.has_bias:
            bias = self.source.operand(name, key.bias_from, key.misread) * np.int64(key.bias)
        formats = tuple(self.formats.values())
        bias_format = formats[2] if self.layer.has_bias else None
        product = forward(*formats[:2], shapes, model_of(self.entry), bias_format)
        weights = WEIGHT_VIEWS[key.weights](weights.reshape(shapes.weight))
        exact = product(x.reshape(-1, *shapes.input), weights, bias)
        return Dot.of(placed(exact, key.placement))

    def sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 under `semantics`, without a look at the golden Z."""
        return self.dot(semantics).sums(rows, semantics.summing)

    def sums_or_golden(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        changed = _of_operands(semantics) != Semantics() or semantics.summing != self.summing
        return self.sums(semantics, rows) if changed else self.golden[rows].astype(np.int64)

    def changes(self, default: Semantics) -> Iterator[Alternative]:
        if not self.has_operands:
            return
        name = self.layer.name
        if self.layer.has_bias:
            yield change(default, "bias missing", bias=False)
        shapes = geometry(self.source, name)
        yield from weight_changes(default, shapes.taps)
        yield from placement_changes(default, shapes)
        yield from stale_changes(default, self.source.tensors(name), bias=self.layer.has_bias)
        yield from misread_changes(default, self.formats)
        bits = self.formats["activations"].bits + self.formats["weights"].bits
        yield from summing_changes(default, self.dot(), present(self.entry.accumulator).bits, bits)


def _of_operands(semantics: Semantics) -> Semantics:
    """The part of `semantics` that decides what is multiplied in a forward pass."""
    return Semantics(
        misread=semantics.misread,
        weights=semantics.weights,
        placement=semantics.placement,
        weights_from=semantics.weights_from,
        bias_from=semantics.bias_from,
        bias=semantics.bias,
    )


def looked_up(
    exact: Sums, own: Activation, table: Tensor, index: Index, interpolation: str
) -> Exact:
    """The entries of a table for values whose index goes wrong as `index` says."""
    format = exact.format
    sums = exact.sums()
    cell_exp = present(own.range_exp) + 1 - present(own.index_bits)
    if index.nearest and cell_exp > format.step_exp:
        sums = sums + (1 << (cell_exp - format.step_exp - 1))
    places = np.clip(np.arange(table.size) + index.offset, 0, table.size - 1)
    entries = Tensor(table.codes[places], table.format)
    return lookup(Sums(sums, format), entries, present(own.range_exp) + index.shift, interpolation)


NO_BRANCH = "residual branch left out"
NO_BETA = "beta left out"
NO_DROPOUT = "dropout left out"
NO_SCALE = "dropout without its scale"


class ReluInput:
    """What a layer's activation reads: its sums, or these after batch norm and addition."""

    def __init__(self, source: Source, name: str):
        self.source = source
        self.forward = Forward(source, name)
        self.layer = self.forward.layer
        self.plain = not (self.layer.norm or self.layer.add)
        self.entry = self.forward.entry if self.plain else source.entry(name, "relu_inputs")

    @cached_property
    def _terms(self) -> dict[str, tuple[np.ndarray, int]]:
        """Text of leaving it out -> (codes (P, O) or (O,), exponent of their step)."""
        name = self.layer.name
        read = self.source.codes
        terms: dict[str, tuple[np.ndarray, int]] = {}
        if self.layer.norm:
            step_exps = {
                tensor: self.source.entry(name, tensor).format.step_exp
                for tensor in ("gamma", "beta", "normalized")
            }
            x = read(name, "normalized").astype(np.int64)
            product = x.reshape(-1, x.shape[-1]) * read(name, "gamma").astype(np.int64)
            terms["gamma"] = product, step_exps["gamma"] + step_exps["normalized"]
            terms[NO_BETA] = read(name, "beta").astype(np.int64), step_exps["beta"]
        else:
            terms["sums"] = self.forward.golden.astype(np.int64), self.forward.entry.format.step_exp
        if self.layer.add:
            branch = self.source.output_of(self.layer.add)
            codes = self.source.codes(branch.layer, branch.tensor).astype(np.int64)
            terms[NO_BRANCH] = codes.reshape(-1, codes.shape[-1]), branch.format.step_exp
        return terms

    def combined(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 after batch norm and addition, from what they read."""
        step_exp = self.entry.format.step_exp
        total = np.zeros((len(rows), self.entry.shape[-1]), np.int64)
        for text, (codes, own_exp) in self._terms.items():
            if text != semantics.variant:
                total += (codes if codes.ndim == 1 else codes[rows]) << (own_exp - step_exp)
        return total

    def sums(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64; what batch norm and addition make is taken as exported, if stated."""
        if self.plain:
            return self.forward.sums_or_golden(semantics, rows)
        if semantics.variant in (NO_BETA, NO_BRANCH):
            return self.combined(semantics, rows)
        golden = self.source.codes(self.layer.name, "relu_inputs")
        return golden.reshape(-1, golden.shape[-1])[rows].astype(np.int64)

    def changes(self, default: Semantics) -> Iterator[Alternative]:
        if self.plain:
            yield from self.forward.changes(default)
            return
        try:
            terms = self._terms
        except MissingVectors:
            return
        for text in (NO_BETA, NO_BRANCH):
            if text in terms:
                yield change(default, text, variant=text)


class Output:
    """What becomes of what a layer's activation reads: the activations of its readers, logits, or a
    branch.
    """

    def __init__(self, source: Source, name: str):
        self.source = source
        self.input = ReluInput(source, name)
        self.layer = self.input.layer
        self.rows_shape = self.input.entry.shape[:3]
        self.entry = source.output_of(name)
        self.format = relu_format(self.layer, self.entry.format)

    @property
    def quantizer(self) -> Quantizer:
        """The format of the output, with the ReLU's ceiling."""
        return relu_quantizer(self.layer, Quantizer(self.format))

    @property
    def bound(self) -> int:
        """The ReLU's ceiling in steps of Z."""
        return relu_bound(self.input.entry.format.step_exp, self.quantizer)

    @property
    def default(self) -> Semantics:
        modes = self.entry.rounding, self.entry.overflow
        return Semantics(*modes, summing=self.input.forward.summing)

    def before_pool(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 codes of the given positions before pooling."""
        own = semantics.activation or self.layer.activation
        exact = self.activated(self.exact(semantics, rows), own, semantics.index)
        words = self.source.words(self.entry.layer, self.entry.tensor, semantics.words)
        if isinstance(words, np.ndarray):
            words = words.reshape(-1, words.shape[-1])[rows]
        step_exp = exact.format.step_exp
        codes = requantized(exact.sums(), step_exp, self.format, semantics, words)
        if own.ceiling is None:
            return codes
        greatest = self.quantizer.ceiling | (semantics.rounding == "jam")
        return np.minimum(codes, greatest)

    def exact(self, semantics: Semantics, rows: np.ndarray) -> Sums:
        """What the activation reads at the given positions."""
        return Sums(self.input.sums(semantics, rows), self.input.entry.format)

    def activated(self, exact: Sums, own: Activation, index: Index) -> Exact:
        """The exact results of an activation function."""
        if own.is_relu:
            bound = None if own.ceiling is None else self.bound
            return Sums(np.clip(exact.sums(), 0, bound), exact.format)
        if own.kind == "leaky_relu":
            return leaked(exact, present(own.slope_exp))[0]
        if own.kind != "table":
            return exact
        table, _ = table_of(own, self.format)
        return looked_up(exact, own, table, index, present(own.interpolation))

    def after_pool(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 codes of the given positions after pooling, if there is any."""
        pool = self.layer.pool
        if pool is None:
            return self.before_pool(semantics, rows)
        samples, height, width = self.rows_shape
        window = present(self.source.network.shape(self.layer.name).pool)
        n, y, x = np.unravel_index(rows, (samples, *window.positions((height, width))))
        down, across = np.indices(window.size).reshape(2, -1)
        row = y[:, None] * window.stride[0] - window.before[0] + down
        column = x[:, None] * window.stride[1] - window.before[1] + across
        outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
        inside = np.ravel_multi_index(
            (n[:, None], row.clip(0, height - 1), column.clip(0, width - 1)),
            (samples, height, width),
        )
        codes = self.before_pool(semantics, inside.reshape(-1)).reshape(*row.shape, -1)
        format = self.entry.format
        if pool.kind == "max":
            return np.where(outside[:, :, None], format.min_code, codes).max(axis=1)
        windows = Tensor(codes.reshape(len(rows), *window.size, -1), format)
        averages = avg_pool2d(windows, window.size)
        rounding = semantics.averaging or pool.rounding
        return averages.to(Quantizer(format, rounding)).codes.reshape(len(rows), -1)

    def after_dropout(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 codes of the given positions of the output."""
        codes = self.after_pool(semantics, rows)
        if not self._drops or semantics.variant == NO_DROPOUT:
            return codes
        stays = self._kept[rows]
        if semantics.variant == NO_SCALE:
            return codes * stays
        scaled = Scaled(Tensor(codes, self.entry.format), stays, self.layer.dropout)
        return scaled.to(self.entry.format).codes.astype(np.int64)

    @property
    def _drops(self) -> bool:
        """Whether dropout takes part: not in inference."""
        return bool(self.layer.dropout) and not self.source.manifest.of_inference

    @cached_property
    def _kept(self) -> np.ndarray:
        """(positions, O), 1 where dropout keeps."""
        output = self.source.network.shape(self.layer.name).output
        kept = self.source.kept(self.layer.name, (self.source.manifest.batch, *output))
        return kept.reshape(-1, output[-1])

    def changes(self, default: Semantics) -> Iterator[Alternative]:
        """Changes of what the activation reads, and of dropout."""
        yield from self.input.changes(default)
        if self._drops:
            for text in (NO_DROPOUT, NO_SCALE):
                yield change(default, text, variant=text)

"""Pieces of a layer's step, recomputed from golden vectors under any semantics.

Sums, outputs, masked gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

from fxsim.golden.arithmetic import narrowed, quantized, rounded
from fxsim.golden.explain.changes import (
    Alternative,
    averaging_changes,
    change,
    mask_changes,
    misread_changes,
    stale_changes,
    summing_changes,
    weight_changes,
)
from fxsim.golden.explain.dots import Dot, Summing, forward_dot
from fxsim.golden.explain.semantics import AVERAGINGS, MASKS, WEIGHT_VIEWS, Semantics
from fxsim.golden.explain.source import MissingVectors, Source, plain
from fxsim.golden.manifest import Entry
from fxsim.kernels.elementwise.pool import average_pool_gradient_bits
from fxsim.nn.spec import RELU_RANGE_EXP, Pool


def requantized(
    values: np.ndarray,
    step_exp: int,
    entry: Entry,
    semantics: Semantics,
    words: np.ndarray | None = None,
) -> np.ndarray:
    """Codes (int64) of integers with step 2**step_exp in the entry's format, under `semantics`."""
    format = narrowed(entry.format, semantics.narrower)
    guarded = format.step_exp - semantics.guard_bits - step_exp
    if semantics.guard_bits and guarded > 0:
        values = rounded(values, guarded, semantics.guard_rounding)
        step_exp = step_exp + guarded
    return quantized(
        values, step_exp - semantics.shift, format, semantics.rounding, semantics.overflow, words
    )


class Forward:
    """The pre-activations of one layer."""

    def __init__(self, source: Source, name: str):
        self.source = source
        self.layer = source.network.layer(name)
        self.operands = (
            ("activations", "weights", "bias") if self.layer.bias else ("activations", "weights")
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
    def summing(self) -> Summing:
        """The manifest's own."""
        return Summing.of(self.entry.accumulator)

    def dot(self, semantics: Semantics | None = None) -> Dot:
        """The sums, of operands as `semantics` (None: the manifest's) has them."""
        return self._dot(_of_operands(semantics or Semantics()))

    def _dot_of(self, key: Semantics) -> Dot:
        name = self.layer.name
        activations, weights = (
            self.source.operand(name, tensor, key.misread)
            for tensor in ("activations", key.weights_from)
        )
        shift = (
            sum(
                self.source.entry(name, tensor).format.step_exp
                for tensor in ("activations", "weights")
            )
            - self.entry.format.step_exp
        )
        return forward_dot(
            self.layer,
            activations,
            WEIGHT_VIEWS[key.weights](weights),
            self._bias(key),
            self.rows_shape[1:],
            shift,
        )

    def _bias(self, key: Semantics) -> np.ndarray | None:
        """In steps of Z, int64; None where the layer has none."""
        if not self.layer.bias:
            return None
        shift = (
            self.source.entry(self.layer.name, "bias").format.step_exp - self.entry.format.step_exp
        )
        return (
            self.source.operand(self.layer.name, key.bias_from, key.misread).astype(np.int64)
            * key.bias
            << shift
        )

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
        formats = {tensor: self.source.entry(name, tensor).format for tensor in self.operands}
        if self.layer.bias:
            yield change(default, "bias missing", bias=False)
        yield from weight_changes(default, self.layer)
        yield from stale_changes(default, self.source.tensors(name), bias=self.layer.bias)
        yield from misread_changes(default, formats)
        bits = formats["activations"].bits + formats["weights"].bits
        yield from summing_changes(default, self.entry.accumulator, self.dot(), bits)


def _of_operands(semantics: Semantics) -> Semantics:
    """The part of `semantics` that decides what is multiplied in a forward pass."""
    return Semantics(
        misread=semantics.misread,
        weights=semantics.weights,
        weights_from=semantics.weights_from,
        bias_from=semantics.bias_from,
        bias=semantics.bias,
    )


class Output:
    """What becomes of a layer's pre-activations: the activations of its readers, or the logits."""

    def __init__(self, source: Source, name: str):
        self.source = source
        self.forward = Forward(source, name)
        self.layer = self.forward.layer
        readers = source.readers(name)
        self.entry = (
            source.entry(readers[0], "activations") if readers else source.entry(name, "logits")
        )
        words = source.words(self.entry.layer, self.entry.tensor)
        self._words = None if words is None else words.reshape(-1, words.shape[-1])

    @property
    def default(self) -> Semantics:
        return Semantics(self.entry.rounding, self.entry.overflow, summing=self.forward.summing)

    def before_pool(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 codes of the given positions before pooling."""
        sums = self.forward.sums_or_golden(semantics, rows)
        if self.layer.relu:
            sums = np.maximum(sums, 0)
        words = None if self._words is None else self._words[rows]
        return requantized(sums, self.forward.entry.format.step_exp, self.entry, semantics, words)

    def after_pool(self, semantics: Semantics, rows: np.ndarray) -> np.ndarray:
        """(R, O) int64 codes of the given positions after pooling, if there is any."""
        pool = self.layer.pool
        if pool is None:
            return self.before_pool(semantics, rows)
        samples, height, width = self.forward.rows_shape
        n, y, x = np.unravel_index(rows, (samples, height // pool.size, width // pool.size))
        down, across = np.indices((pool.size, pool.size)).reshape(2, -1)
        inside = np.ravel_multi_index(
            (n[:, None], y[:, None] * pool.size + down, x[:, None] * pool.size + across),
            (samples, height, width),
        )
        windows = self.before_pool(semantics, inside.reshape(-1)).reshape(*inside.shape, -1)
        if pool.kind == "max":
            return windows.max(axis=1)
        return AVERAGINGS[semantics.averaging](windows.sum(axis=1), pool.size**2)


class PreactivationGrads:
    """The gradient at one layer's pre-activations: through pooling, then the ReLU's mask."""

    def __init__(self, source: Source, name: str):
        self.source = source
        self.layer = source.network.layer(name)
        self.pool: Pool | None = self.layer.pool
        self.shape = (source.manifest.batch, *source.network.shape(name).pre)
        self.codes = lru_cache(maxsize=2)(self._under)

    @property
    def computable(self) -> bool:
        """Whether all that it is made from was exported, and is covered."""
        if not plain(self.layer):
            return False
        try:
            _ = self.source.codes(self.layer.name, "activation_grads"), self._output
        except MissingVectors:
            return False
        return True

    @cached_property
    def _output(self) -> Output | None:
        """Where masks and maxima come from; None where neither is needed."""
        needed = self.layer.relu or (self.pool and self.pool.kind == "max")
        return Output(self.source, self.layer.name) if needed else None

    @cached_property
    def _codes(self) -> np.ndarray:
        """Activations before pooling, of every position."""
        rows = np.arange(int(np.prod(self.shape[:3])))
        return self._output.before_pool(self._output.default, rows).reshape(self.shape)

    def codes_or_golden(self, semantics: Semantics) -> np.ndarray:
        plain = Semantics()
        changed = (semantics.mask, semantics.last_maximum, semantics.averaging) != (
            plain.mask,
            plain.last_maximum,
            plain.averaging,
        )
        if changed:
            return self.codes(semantics)
        return self.source.operand(self.layer.name, "preactivation_grads", semantics.misread)

    def _under(self, semantics: Semantics) -> np.ndarray:
        """(N, OH, OW, O) int64, of all positions, under `semantics`."""
        grads = self.source.codes(self.layer.name, "activation_grads").astype(np.int64)
        if self.pool:
            grads = self._through_pool(grads, semantics)
        if not self.layer.relu:
            return grads.reshape(self.shape)
        forward = self._output.forward
        bound = 1 << (RELU_RANGE_EXP - forward.entry.format.step_exp)
        mask = MASKS[semantics.mask](forward.golden.reshape(self.shape), bound, self._codes)
        return grads.reshape(self.shape) * mask

    def _through_pool(self, grads: np.ndarray, semantics: Semantics) -> np.ndarray:
        size = self.pool.size
        rows, columns = grads.shape[1:3]
        if self.pool.kind == "max":
            cut = self._codes[:, : rows * size, : columns * size]
            windows = cut.reshape(len(cut), rows, size, columns, size, -1).transpose(
                0, 1, 3, 5, 2, 4
            )
            windows = windows.reshape(*windows.shape[:4], size * size)
            last = semantics.last_maximum
            winner = (
                size * size - 1 - windows[..., ::-1].argmax(axis=-1)
                if last
                else windows.argmax(axis=-1)
            )
            spread = (np.arange(size * size) == winner[..., None]) * grads[..., None]
        else:
            finer = average_pool_gradient_bits(size)
            share = AVERAGINGS[semantics.averaging](grads << finer, size * size)
            spread = np.repeat(share[..., None], size * size, axis=-1)
        spread = spread.reshape(*grads.shape, size, size).transpose(0, 1, 4, 2, 5, 3)
        out = np.zeros(self.shape, np.int64)
        out[:, : rows * size, : columns * size] = spread.reshape(
            len(grads), rows * size, columns * size, -1
        )
        return out

    def changes(self, default: Semantics) -> Iterator[Alternative]:
        if not self.computable:
            return
        if self.layer.relu:
            yield from mask_changes(default)
        if self.pool and self.pool.kind == "max":
            yield change(
                default,
                "max pooling: a window's last maximum wins instead of its first",
                last_maximum=True,
            )
        if self.pool and self.pool.kind == "average":
            yield from averaging_changes(default)

"""The gradient at what a layer's activation reads, recomputed from golden vectors under any
semantics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

from fxsim.activation import Activation
from fxsim.errors import present
from fxsim.formats import Format
from fxsim.golden.explain.changes import (
    Alternative,
    activation_changes,
    averaging_changes,
    change,
    mask_changes,
)
from fxsim.golden.explain.forward_parts import Output, looked_up
from fxsim.golden.explain.parts import requantized
from fxsim.golden.explain.semantics import MASKS, Semantics
from fxsim.golden.explain.source import MissingVectors, Source
from fxsim.golden.manifest import Entry
from fxsim.nn.fixed.activation import table_of
from fxsim.nn.fixed.grad_formats import unpooled_grad_format
from fxsim.nn.spec import Pool
from fxsim.ops.dropout import before_dropout, grad_format
from fxsim.ops.exact import WINNER
from fxsim.ops.leaky_relu import leaked, slopes_of
from fxsim.ops.lookup import output_derivative
from fxsim.ops.pooling import (
    average_grad_format,
    avg_pool2d_grad,
    max_pool2d_grad,
)
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor
from fxsim.windows import Window
from fxsim.words import DroppedBits


class PreactivationGrads:
    """The gradient at what a layer's activation reads: through dropout, pooling, the mask.

    Without batch norm it is the one at the pre-activations.
    """

    def __init__(self, source: Source, name: str):
        self.source = source
        self.layer = source.network.layer(name)
        self.pool: Pool | None = self.layer.pool
        self.shape = (source.manifest.batch, *source.network.shape(name).pre)
        self.window = source.network.shape(name).pool or Window((1, 1))
        self.codes = lru_cache(maxsize=2)(self._under)

    @property
    def computable(self) -> bool:
        """Whether all that it is made from was exported, and is covered."""
        try:
            _ = self.source.codes(self.layer.name, "activation_grads"), self._output
        except MissingVectors:
            return False
        return True

    @cached_property
    def _output(self) -> Output | None:
        """Where masks and maxima come from; None where neither is needed."""
        needed = self.layer.activation.kind != "none" or (self.pool and self.pool.kind == "max")
        return Output(self.source, self.layer.name) if needed else None

    @cached_property
    def entry(self) -> Entry:
        """Of the gradient."""
        return self.source.entry(self.layer.name, self.tensor)

    @property
    def tensor(self) -> str:
        """The name of the gradient."""
        return "relu_input_grads" if self.layer.norm else "preactivation_grads"

    @property
    def default(self) -> Semantics:
        """The stated one; without modes where no function of the layer rounds the gradient."""
        rounds = self.entry.overflow is not None
        return Semantics(self.entry.rounding, self.entry.overflow) if rounds else Semantics()

    def _words(self, semantics: Semantics) -> np.ndarray | DroppedBits | None:
        words = self.source.words(self.layer.name, self.tensor, semantics.words)
        return words.reshape(self.shape) if isinstance(words, np.ndarray) else words

    @property
    def _unpooled_format(self) -> Format:
        """Of the gradient at what leaves the activation."""
        arriving = self.source.entry(self.layer.name, "activation_grads").format
        shape = self.source.network.shape(self.layer.name)
        return unpooled_grad_format(self.layer, shape, arriving)

    @property
    def _rows(self) -> np.ndarray:
        """Every position."""
        return np.arange(int(np.prod(self.shape[:3])))

    @cached_property
    def _codes(self) -> np.ndarray:
        """Activations before pooling, of every position."""
        output = present(self._output)
        return output.before_pool(output.default, self._rows).reshape(self.shape)

    def codes_or_golden(self, semantics: Semantics) -> np.ndarray:
        """The gradient at the pre-activations."""
        plain = Semantics()
        fields = ("mask", "last_maximum", "averaging", "activation", "index")
        if any(getattr(semantics, field) != getattr(plain, field) for field in fields):
            own = self.default
            rounded = dataclasses.replace(semantics, rounding=own.rounding, overflow=own.overflow)
            return self.codes(rounded)
        return self.source.operand(self.layer.name, "preactivation_grads", semantics.misread)

    def _under(self, semantics: Semantics) -> np.ndarray:
        """(N, OH, OW, O) int64, of all positions, under `semantics`."""
        name = self.layer.name
        grads = self.source.codes(name, "activation_grads")
        format = self.source.entry(name, "activation_grads").format
        rate = self.layer.dropout
        if rate:
            kept = self.source.kept(name, grads.shape)
            grads = before_dropout(Tensor(grads, format).operand, kept, rate, format)
            format = grad_format(format, rate)
        if self.pool:
            grads = self._through_pool(Tensor(grads, format), semantics)
        grads = grads.reshape(self.shape).astype(np.int64)
        own = semantics.activation or self.layer.activation
        if own.kind == "table":
            return self._through_table(grads, own, semantics)
        finer = -(self.layer.activation.slope_exp or 0)
        grads = self._through_function(grads << finer, own, semantics)
        if semantics.rounding is None:
            return grads
        step_exp = self._unpooled_format.step_exp - finer
        return requantized(grads, step_exp, self.entry.format, semantics, self._words(semantics))

    def _through_function(
        self, grads: np.ndarray, own: Activation, semantics: Semantics
    ) -> np.ndarray:
        """Gradients that an activation without a table lets pass."""
        if own.kind == "none":
            return grads
        output = present(self._output)
        if own.kind == "leaky_relu":
            slope_exp = present(own.slope_exp)
            exact = output.exact(output.default, self._rows)
            mask = slopes_of(*leaked(exact, slope_exp), output.quantizer).reshape(self.shape)
            return np.select([mask == 1, mask == 2], [grads >> -slope_exp, grads])
        z = output.exact(output.default, self._rows).sums().reshape(self.shape)
        return grads * MASKS[semantics.mask](z, output.bound, self._codes)

    def _through_table(
        self, grads: np.ndarray, own: Activation, semantics: Semantics
    ) -> np.ndarray:
        """Gradients times the derivative of a table's function."""
        output = present(self._output)
        _, slopes = table_of(own, output.format)
        if slopes is None:
            codes = Tensor(self._codes, output.format)
            factors = output_derivative(codes, present(own.function)).tensor()
        else:
            exact = output.exact(output.default, self._rows)
            sums = looked_up(exact, own, slopes, semantics.index, "none")
            factors = sums.tensor().reshape(*self.shape)
        step_exp = self._unpooled_format.step_exp + factors.format.step_exp
        products = grads * factors.operand
        return requantized(products, step_exp, self.entry.format, semantics, self._words(semantics))

    def _through_pool(self, grads: Tensor, semantics: Semantics) -> np.ndarray:
        pool = present(self.pool)
        if pool.kind == "average":
            format = average_grad_format(grads.format, self.window)
            spread = avg_pool2d_grad(grads, self.window.size, self.shape, self.window.stride)
            return spread.to(Quantizer(format, semantics.averaging or pool.rounding)).codes
        winner = self._winner(semantics.last_maximum)
        window = self.window
        geometry = window.size, self.shape, window.stride, window.padding
        return max_pool2d_grad(grads, winner, *geometry).codes

    def _winner(self, last: bool) -> Tensor:
        """The place of the first or the last maximum of each window."""
        lowest = present(self._output).entry.format.min_code - 1
        edges = (0, 0), *self.window.edges, (0, 0)
        padded = np.pad(self._codes.astype(np.int64), edges, constant_values=lowest)
        views = np.lib.stride_tricks.sliding_window_view(padded, self.window.size, axis=(1, 2))
        down, across = self.window.stride
        views = views[:, ::down, ::across]
        places = views.reshape(*views.shape[:4], -1)
        if last:
            return Tensor(self.window.taps - 1 - places[..., ::-1].argmax(axis=-1), WINNER)
        return Tensor(places.argmax(axis=-1), WINNER)

    def changes(self, default: Semantics) -> Iterator[Alternative]:
        """Changes of the way from the gradient at the output."""
        if not self.computable:
            return
        own = self.layer.activation
        if own.is_relu:
            yield from mask_changes(default)
        elif own.kind == "leaky_relu" or own.derivative == "table":
            yield from activation_changes(default, own)
        if self.pool and self.pool.kind == "max":
            yield change(
                default,
                "max pooling: a window's last maximum wins instead of its first",
                last_maximum=True,
            )
        if self.pool and self.pool.kind == "average":
            yield from averaging_changes(default, self.pool)

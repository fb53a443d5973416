"""Activation functions in fixed point: from exact sums to codes, and the gradient's way back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.activation import CLIPPED_RANGE_EXP, Activation
from fxsim.errors import InputError, present
from fxsim.formats import MAX_TENSOR_BITS, Format
from fxsim.nn.spec import Layer
from fxsim.ops.exact import MAX_SUM_BITS, Exact, Sums
from fxsim.ops.leaky_relu import SLOPES, leaked, sloped, sloped_format, slopes_of
from fxsim.ops.lookup import (
    entries_of,
    function_table,
    lookup,
    output_derivative,
    table_index,
)
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor

DERIVATIVE_BITS = 16
"""Of the entries of a table of derivatives; their range is the least that holds them."""


class Activated(NamedTuple):
    """What an activation gives.

    codes: of the output.  factors: what the gradient is multiplied by, `SLOPES` codes of a leaky
    ReLU, or derivatives of a table's function.
    """

    codes: np.ndarray
    factors: Tensor


def relu_format(layer: Layer, format: Format) -> Format:
    """The format of what leaves the activation on its way to an output of that format.

    An output with dropout may have room for dropout's scale; the clipped ReLU itself stays below
    2**CLIPPED_RANGE_EXP.
    """
    room = format.range_exp - CLIPPED_RANGE_EXP
    if not (layer.activation.kind == "clipped_relu" and layer.dropout and room > 0):
        return format
    if format.bits <= room:
        raise InputError(
            f"dropout follows a ReLU that clips to 2^{CLIPPED_RANGE_EXP}, {room} bits below the "
            f"range of its output's format {format}; give that format more bits or a smaller range"
        )
    return Format(format.bits - room, CLIPPED_RANGE_EXP, format.signed)


def relu_quantizer(layer: Layer, quantizer: Quantizer) -> Quantizer:
    """The quantizer with the ceiling of the layer's ReLU, if it has one of its own."""
    return quantizer.with_ceiling(layer.activation.ceiling)


def inner_format(activation: Activation, grads: Format) -> Format:
    """The format of the gradient at what the activation reads, from that at its output."""
    if activation.kind != "leaky_relu":
        return grads
    return sloped_format(grads, present(activation.slope_exp))


class Table(NamedTuple):
    """The entries of a layer's table, and of its table of derivatives, if it has one."""

    values: Tensor
    slopes: Tensor | None


def table_of(activation: Activation, output: Format) -> Table:
    """The tables of an activation whose output has that format: so have the entries."""
    size = present(activation.index_bits), present(activation.range_exp)
    if activation.function is None:
        slopes = _derivatives(present(activation.slopes))
        return Table(entries_of(present(activation.values), output), slopes)
    name = activation.function
    values = function_table(name, *size, output, present(activation.interpolation))
    if activation.derivative == "output":
        return Table(values, None)
    greatest = {"sigmoid": -2, "tanh": 0, "exp": present(activation.least_range_exp)}[name]
    format = Format(DERIVATIVE_BITS, greatest, signed=False)
    return Table(values, function_table(f"{name}'", *size, format))


def _derivatives(values: tuple[float, ...]) -> Tensor:
    largest = max(map(abs, values))
    range_exp = int(np.frexp(largest)[1]) if largest else 0
    return entries_of(values, Format(DERIVATIVE_BITS, range_exp, min(values) < 0))


class FixedActivation:
    """A leaky ReLU or a table of a layer, between formats.

    input: format of the exact sums.  output: of the codes.  grads: of the gradient at the output.
    inner: of the gradient before the activation.  Raises InputError where something does not fit.
    """

    def __init__(
        self, activation: Activation, input: Format, output: Format, grads: Format, inner: Format
    ):
        self.activation = activation
        self.output = output
        self.grads = grads
        self.table = table_of(activation, output) if activation.kind == "table" else None
        self.exact_grads = inner_format(activation, grads)
        self.inner_format = inner
        self._check(input)

    @property
    def rounds_grads(self) -> bool:
        """Whether the gradient before it is rounded."""
        return self.table is not None or self.inner_format != self.exact_grads

    def _check(self, input: Format) -> None:
        if self.activation.signed and not self.output.signed:
            raise InputError(
                f"activation {self.activation.kind!r} gives values below 0, and its output is in "
                f"{self.output}; give the layers that read it signed activations"
            )
        if self.inner_format.bits > MAX_TENSOR_BITS:
            raise InputError(
                f"the gradient before activation {self.activation.kind!r} needs "
                f"{self.inner_format.bits} bits, at most {MAX_TENSOR_BITS}; give activation_grads "
                f"fewer bits, take a greater slope, or give relu_input_grads a format"
            )
        nothing = Sums(np.zeros(1, np.int64), input)
        factors = self.forward(nothing, Quantizer(self.output)).factors
        bits = factors.format.bits + self.grads.bits
        if self.table is not None and bits > MAX_SUM_BITS:
            raise InputError(
                f"the gradient before a table needs {bits} bits, at most {MAX_SUM_BITS} are exact "
                f"here; lower the widths of its output or of activation_grads"
            )

    def forward(self, exact: Exact, quantizer: Quantizer) -> Activated:
        """The codes, and what the backward pass needs."""
        own = self.activation
        if self.table is None:
            leaky, positive = leaked(exact, present(own.slope_exp))
            mask = slopes_of(leaky, positive, quantizer)
            return Activated(leaky.rounded(quantizer, relu=False)[0], Tensor._of(mask, SLOPES))
        sums = Sums(exact.sums(), exact.format)
        range_exp = present(own.range_exp)
        looked_up = lookup(sums, self.table.values, range_exp, present(own.interpolation))
        codes, _ = looked_up.rounded(quantizer, relu=False)
        if self.table.slopes is None:
            output = Tensor._of(codes, quantizer.format)
            return Activated(codes, output_derivative(output, present(own.function)).tensor())
        return Activated(codes, lookup(sums, self.table.slopes, range_exp).tensor())

    def backward(self, grads: np.ndarray, factors: Tensor, quantizer: Quantizer) -> np.ndarray:
        """Gradient codes before the activation, in `inner_format`.

        quantizer: of the product with the derivative; that of a leaky ReLU is exact where its
        format holds it.
        """
        if self.table is None:
            wide = grads.astype(self.exact_grads.storage)
            exact = sloped(wide, factors.codes, present(self.activation.slope_exp))
            if not self.rounds_grads:
                return exact
            return quantizer.quantized(exact, self.exact_grads.step_exp)
        products = grads.astype(np.int64) * factors.operand
        return quantizer.quantized(products, self.grads.step_exp + factors.format.step_exp)


def seen_of(activation: Activation, exact: Tensor, quantizer: Quantizer) -> tuple[str, Tensor]:
    """(name, tensor) of what a golden vector shows beside the codes: a mask or indices."""
    sums = Sums(exact.operand.astype(np.int64), exact.format)
    if activation.kind == "leaky_relu":
        leaky, positive = leaked(sums, present(activation.slope_exp))
        return "leaky_relu_mask", Tensor._of(slopes_of(leaky, positive, quantizer), SLOPES)
    index = table_index(sums, present(activation.index_bits), present(activation.range_exp))
    return "table_indices", index

"""The products of a layer whose sums are held in accumulators of limited width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from fxsim.accumulator import Accumulator, Overflows
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels.products.paths import Plan
from fxsim.nn.fixed.epilogues import fused
from fxsim.nn.fixed.products import MAX_SUM_BITS, Products
from fxsim.nn.precision import LayerPrecision
from fxsim.nn.spec import RELU_RANGE_EXP, Layer, LayerShape
from fxsim.ops.accumulation import (
    Bias,
    Lowered,
    accumulated_sums,
    bias_shifts,
    finished_sums,
    lower_forward,
    lower_input_grad,
    lower_weight_grad,
    never_overflows,
)
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream


class AccumulatedProducts(Products):
    """As Products, with an Accumulator for some kinds of product (keys of accumulator.KINDS); the
    others stay exact.

    Where no sum of any of the terms can overflow, for the codes at hand, and terms are added whole,
    the exact product has the same bits and is made instead.
    """

    def __init__(
        self,
        layer: Layer,
        shape: LayerShape,
        formats: LayerPrecision,
        gradient_format: Format,
        kernel_name: str,
        accumulators: Mapping[str, Accumulator],
    ):
        activations = formats.activations.step_exp
        weights = formats.weights.step_exp
        product_exp = {
            "forward": activations + weights,
            "input_grad": gradient_format.step_exp + weights,
            "weight_grad": gradient_format.step_exp + activations,
        }
        self.accumulators = {
            kind: model.resolved(product_exp[kind]) for kind, model in accumulators.items()
        }
        super().__init__(layer, shape, formats, gradient_format, kernel_name)
        self.input_grad_step_exp += self._drop("input_grad")
        self.weight_grad_step_exp += self._drop("weight_grad")

    def _drop(self, kind: str) -> int:
        return self.accumulators[kind].drop if kind in self.accumulators else 0

    def _align_bias(self) -> tuple[Format, int, int]:
        """As in Products, for products without the bits that are dropped.

        The width is the accumulator's at Z's step.
        """
        exact, sum_shift, bias_shift = super()._align_bias()
        model = self.accumulators.get("forward")
        if model is None:
            return exact, sum_shift, bias_shift
        sum_exp = exact.step_exp + sum_shift + model.drop
        bias_exp = exact.step_exp + bias_shift
        step_exp = min(sum_exp, bias_exp)
        if self.layer.bias:
            bias_shifts(model, sum_exp, bias_exp)
        bits = model.bits + sum_exp - step_exp
        if bits > MAX_SUM_BITS or exact.bits + model.drop > MAX_SUM_BITS:
            raise InputError(
                f"the forward accumulator ({model}) ends {sum_exp - step_exp} bits above the "
                f"bias's step 2^"
                f"{bias_exp}: sums of more than {MAX_SUM_BITS} bits; lower its bits, or drop fewer"
            )
        if self.relu and step_exp > RELU_RANGE_EXP:
            raise InputError(
                f"the forward accumulator ({model}) has a step of 2^{step_exp}, above the clipped "
                f"ReLU's range "
                f"2^{RELU_RANGE_EXP}; drop fewer bits"
            )
        return Format(bits, step_exp + bits - 1), sum_exp - step_exp, bias_exp - step_exp

    def forward(
        self,
        source: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None,
        requantizer: Requantizer,
        stream: Stream | None = None,
        moments: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        if fused(requantizer) and self._ample("forward", source, weight, bias):
            self._count("forward", len(source) * math.prod(self.shape.pre), 0)
            return super().forward(source, weight, bias, requantizer, stream, moments)
        return self.forward_apart(source, weight, bias, requantizer, stream, moments)

    def forward_exact(
        self, source: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        """Z in sum_format as the accumulator leaves it."""
        if self._ample("forward", source, weight, bias):
            self._count("forward", len(source) * math.prod(self.shape.pre), 0)
            return super().forward_exact(source, weight, bias)
        return self._sums(
            "forward",
            (len(source), *self.shape.pre),
            self.forward_plan,
            lambda out: self._forward(source, weight, out),
            lambda: lower_forward(*self._as_conv(source, weight)),
            self._bias(bias),
        )

    def input_grad(
        self,
        grad: np.ndarray,
        weight: np.ndarray,
        shape: tuple[int, ...],
        requantizer: Requantizer,
        stream: Stream | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        if fused(requantizer) and self._ample("input_grad", grad, np.swapaxes(weight, -1, -2)):
            self._count("input_grad", math.prod(shape), 0)
            return super().input_grad(grad, weight, shape, requantizer, stream)
        return _quantized(self.input_grad_exact(grad, weight, shape), requantizer, stream)

    def input_grad_exact(
        self, grad: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The accumulator's sums, int64, with step 2**input_grad_step_exp."""
        if self._ample("input_grad", grad, np.swapaxes(weight, -1, -2)):
            self._count("input_grad", math.prod(shape), 0)
            return super().input_grad_exact(grad, weight, shape)

        def lowered() -> Lowered:
            source, kernel, stride, padding = self._as_conv(np.empty(shape, np.int8), weight)
            return lower_input_grad(grad, kernel, source.shape, stride, padding)

        return self._sums(
            "input_grad",
            shape,
            self.input_grad_plan,
            lambda out: self._input_grad(grad, weight, out),
            lowered,
        )

    def weight_grad(
        self,
        source: np.ndarray,
        grad: np.ndarray,
        requantizer: Requantizer,
        stream: Stream | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        if fused(requantizer) and self._ample("weight_grad", source, grad):
            self._count("weight_grad", self.shape.weights, 0)
            return super().weight_grad(source, grad, requantizer, stream)
        return _quantized(self.weight_grad_exact(source, grad), requantizer, stream)

    def weight_grad_exact(self, source: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The accumulator's sums, int64, with step 2**weight_grad_step_exp."""
        if self._ample("weight_grad", source, grad):
            self._count("weight_grad", self.shape.weights, 0)
            return super().weight_grad_exact(source, grad)

        def lowered() -> Lowered:
            x, kernel, stride, padding = self._as_conv(source, np.empty(self.shape.weight, np.int8))
            return lower_weight_grad(x, grad, len(kernel), stride, padding)

        return self._sums(
            "weight_grad",
            self.shape.weight,
            self.weight_grad_plan(len(source)),
            lambda out: self._weight_grad(source, grad, out),
            lowered,
        )

    def _ample(
        self, kind: str, left: np.ndarray, right: np.ndarray, bias: np.ndarray | None = None
    ) -> bool:
        """Whether exact sums are what the accumulator comes to, in every order, without an
        overflow.

        right: its last axis is that of the outputs; the other axes are the terms of each.
        """
        model = self.accumulators.get(kind)
        if model is None:
            return True
        return never_overflows(left, right, model, self._bias(bias) if kind == "forward" else None)

    def _bias(self, bias: np.ndarray | None) -> Bias:
        return Bias(bias, self._sum_shift, self._bias_shift)

    def _sums(
        self,
        kind: str,
        shape: tuple[int, ...],
        plan: Plan,
        exact: Callable[[np.ndarray], None],
        lower: Callable[[], Lowered],
        bias: Bias | None = None,
    ) -> np.ndarray:
        """int64 sums as the accumulator leaves them.

        Exact(out) makes those of the products that overflow at the end only.
        """
        model = self.accumulators[kind]
        if model.at_end and model.adds_products_whole:
            out = np.empty(shape, np.int64)
            exact(out)
            sums, met = finished_sums(out, model, bias)
            self._count(kind, sums.size, met)
            return sums
        if (
            plan.accumulator_bits >= MAX_SUM_BITS
        ):  # one bit more may come from a jam, one from the accumulator itself
            raise InputError(
                f"layer {self.layer.name!r}: {plan.terms} terms of {kind} may need "
                f"{plan.accumulator_bits} bits; "
                f"with an accumulator at most {MAX_SUM_BITS - 1} are simulated; lower the widths "
                f"or the batch"
            )
        sums, met = accumulated_sums(lower(), model, bias)
        self._count(kind, sums.size, met)
        return sums.reshape(shape)

    def _count(self, kind: str, sums: int, met: int) -> None:
        if kind in self.accumulators:
            self.overflows[kind] = Overflows(sums, met)


def _quantized(
    sums: np.ndarray, requantizer: Requantizer, stream: Stream | None
) -> tuple[np.ndarray, np.ndarray]:
    codes = np.empty(sums.shape, requantizer.format.storage)
    return codes, requantizer.apply(sums, codes, stream)

"""One layer in fixed point: its forward pass, and its way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from fxsim.communicator import wire_type
from fxsim.errors import InputError, present
from fxsim.formats import Format
from fxsim.nn.fixed.activation import (
    FixedActivation,
    relu_format,
    relu_quantizer,
)
from fxsim.nn.fixed.grad_formats import (
    inner_grad_format,
    preactivation_grad_format,
    unpooled_grad_format,
)
from fxsim.nn.fixed.parameters import TrainedParameter
from fxsim.nn.fixed.step import Step, lent
from fxsim.nn.geometry import geometry_of
from fxsim.nn.layer_precision import BatchNormPrecision
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import BatchNorm as BatchNormSpec
from fxsim.nn.spec import Layer, LayerShape, Network
from fxsim.nn.tensors import products_of
from fxsim.ops.arithmetic import sum as exact_sum
from fxsim.ops.batch_norm import (
    BatchNorm,
    BatchNormFormats,
    BatchNormGrad,
    Moments,
    Normalized,
    Running,
    running_format,
)
from fxsim.ops.dropout import Scaled, before_dropout, grad_format, kept
from fxsim.ops.exact import Exact, magnitude, max_pooled
from fxsim.ops.pooling import (
    average_pooled,
    before_average_pool,
    before_max_pool,
)
from fxsim.ops.products import Forward, ForwardSum, InputGrad, Product, WeightGrad
from fxsim.ops.relu import gated
from fxsim.ops.summation import addition
from fxsim.quantizer import Counts, Quantizer, words_at
from fxsim.tensor import Tensor

FURTHER = ("bias", "gamma", "beta")
"""Parameters beside the weights."""


class Output(NamedTuple):
    """What a layer's output is: a tensor of layer `owner`, its name and its format."""

    owner: str
    tensor: str
    format: Format


@dataclass
class LayerTape:
    """What the backward pass needs of a layer's forward pass.

    input, weight: A_l and W_l as the products read them.  mask: of the ReLU.  factors: of another
    activation.  winner: of max pooling.  kept: what dropout kept.  normalized: of batch norm.
    """

    input: Tensor
    weight: Tensor
    mask: np.ndarray | None = None
    factors: Tensor | None = None
    winner: np.ndarray | None = None
    kept: np.ndarray | None = None
    normalized: Normalized | None = None


class LayerGrads(NamedTuple):
    """What a layer's way back gives.

    inner: gradient at what the ReLU reads.  pre: gradient at the pre-activations, which the
    products read; `inner` itself without batch norm.  parameters: of gamma and beta.  begun: what
    rounds the sums of the weights and of the bias, once they are there, by kind.
    """

    inner: Tensor
    pre: Tensor
    parameters: dict[str, Tensor]
    begun: dict[str, Callable[[], Tensor]]


class FixedLayer:
    """A layer of a FixedNetwork: all that follows from formats and shapes, worked out once.

    branch: format of the residual branch that is added, None without one.  path: 'auto', or the
    instruction path to force.  Raises InputError, which names the layer, where no exact path exists.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        assignment: PrecisionAssignment,
        output: Output,
        branch: Format | None,
        path: str = "auto",
    ):
        self.layer: Layer = network.layer(name)
        self.name = name
        self.shape: LayerShape = network.shape(name)
        self.formats = assignment.layers[name]
        self.output = output
        self.products = products_of(network, name)
        self.reached = name in network.reached
        self.reads_images = network.source(name) is None
        try:
            self._build(branch, assignment, path)
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from None

    def _build(self, branch: Format | None, assignment: PrecisionAssignment, path: str) -> None:
        formats = self.formats
        accumulators = assignment.accumulators_of(self.name)
        geometry = geometry_of(self.layer, self.shape)
        self.relu_format = relu_format(self.layer, self.output.format)
        self.inner_format = inner_grad_format(self.layer, self.shape, formats)
        self.norm: BatchNorm | None = None
        self.norm_grad: BatchNormGrad | None = None
        self.pre_format = self.inner_format
        if self.layer.norm:
            precision = formats.batch_norm or BatchNormPrecision()
            self.pre_format = preactivation_grad_format(
                precision.preactivation_grads or self.inner_format
            )
            self.norm = _batch_norm(self.layer.norm, formats.preactivations, precision, branch)
            self.norm_grad = BatchNormGrad(self.norm, self.inner_format, self.pre_format)
        bias = formats.bias if self.layer.has_bias else None
        self.forward_product = Forward(
            formats.activations, formats.weights, geometry, path, accumulators.get("forward"), bias
        )
        self.input_grad: InputGrad | None = None
        if "input_grad" in self.products:
            self.input_grad = InputGrad(
                self.pre_format, formats.weights, geometry, path, accumulators.get("input_grad")
            )
        self.weight_grad: WeightGrad | None = None
        if "weight_grad" in self.products:
            model = accumulators.get("weight_grad")
            self.weight_grad = WeightGrad(
                formats.activations, self.pre_format, geometry, path, model
            )
        self.addition = None
        if branch is not None and self.norm is None:
            self.addition = addition(self.forward_product.format, branch, geometry.outputs)
        self.activation = self._activation()
        self.forward_product.check_held(self.forward_product.plan)
        if self.input_grad is not None:
            self.input_grad.check_held(self.input_grad.plan)
        self._check_batch(1)

    def _activation(self) -> FixedActivation | None:
        """The activation function, if it is neither none nor a ReLU; checks a ReLU's ceiling."""
        own = self.layer.activation
        relu_quantizer(self.layer, Quantizer(self.relu_format))
        if own.is_relu or own.kind == "none":
            return None
        grads = unpooled_grad_format(self.layer, self.shape, self.formats.activation_grads)
        output = self.relu_format
        return FixedActivation(own, self.relu_input_format, output, grads, self.inner_format)

    @property
    def weighted(self) -> tuple[Product, ...]:
        """The layer's products, as far as a training step computes them."""
        products = (self.forward_product, self.input_grad, self.weight_grad)
        return tuple(product for product in products if product is not None)

    def maker_of_grads(self, tensor: str) -> str | None:
        """The name under which the assignment has the modes of a gradient within the layer.

        tensor: 'preactivation_grads' or 'relu_input_grads'.  None where it is not quantized.
        """
        if tensor == "preactivation_grads" and self.norm is not None:
            return tensor
        rounds = self.activation is not None and self.activation.rounds_grads
        return "relu_input_grads" if rounds else None

    @property
    def relu_input_format(self) -> Format:
        """Format of what the ReLU reads, exact."""
        if self.norm is not None:
            return self.norm.format
        return self.addition.format if self.addition else self.forward_product.format

    def check_batch(self, images: int) -> None:
        """InputError where sums over so many images are not exact."""
        try:
            self._check_batch(images)
        except InputError as error:
            raise InputError(f"layer {self.name!r}: {error}") from None

    def _check_batch(self, images: int) -> None:
        if self.weight_grad is not None:
            self.weight_grad.format_of(images)
            self.weight_grad.check_held(self.weight_grad.plan_of(images))
        if self.norm is not None and self.norm_grad is not None:
            if not self.norm.frozen:
                self.norm.check_terms(self._positions(images))
            self.norm_grad.check_terms(self._positions(images))

    def _positions(self, images: int) -> int:
        """Positions of the pre-activations of so many images."""
        rows, columns, _ = self.shape.pre
        return images * rows * columns

    def check_shares(self) -> None:
        """InputError where a sum over the batch cannot be put together from those of shares."""
        if self.weight_grad is not None and self.weight_grad.adds_in_order:
            raise InputError(
                f"layer {self.name!r}: the accumulator of weight_grad adds image after image "
                f"({self.weight_grad.accumulator}), an order that several ranks cannot keep; train "
                "on one, or sum it exactly"
            )

    def exchanged(self, images: int) -> dict[str, int]:
        """Tensor -> bytes of its sums that each rank exchanges in a step of so many images."""
        terms = self._positions(images)
        outputs = self.shape.pre[-1]
        sums = {}
        if self.norm is not None and not self.norm.frozen:
            sums["moments"] = 2 * outputs, self.norm.largest_moment(terms)
        if self.weight_grad is not None:
            sums["weights"] = self.shape.weights, self.weight_grad.largest(images)
        if "bias" in self.layer.trained:
            sums["bias"] = outputs, terms * magnitude(self.pre_format)
        if self.norm_grad is not None and "gamma" in self.layer.trained:
            sums["gamma and beta"] = 2 * outputs, self.norm_grad.largest_moment(terms)
        return {
            name: elements * wire_type(largest).itemsize
            for name, (elements, largest) in sums.items()
        }

    def counted(self) -> int:
        """Numbers that each rank counts in a step; they are exchanged as integers."""
        reached = self.reached
        normed = self.norm is not None
        quantized = 1 + reached + 2 * normed + (normed and reached) + bool(self.layer.dropout)
        rounds = self.activation is not None and self.activation.rounds_grads
        quantized += rounds and reached
        held = [product for product in (self.forward_product, self.input_grad) if product]
        overflows = sum(product.accumulator is not None for product in held)
        return 4 * quantized + 2 * overflows

    def forward(
        self,
        tape: LayerTape,
        branch: Tensor | None,
        parameters: Mapping[str, TrainedParameter],
        running: Running | None,
        step: Step,
    ) -> Tensor:
        """The layer's output; the tape gets what the backward pass needs."""
        bias = parameters["bias"].tensor if "bias" in parameters else None
        exact = self.forward_product(
            *self._operands(tape), bias.operand if bias is not None else None
        )
        self._see_operands(tape, exact, parameters, step)
        relu_input = self._relu_input(exact, tape, branch, parameters, running, step)
        if not step.reuse and relu_input is not exact:
            step.see("relu_inputs", self.name, relu_input.tensor())
        codes = self._activated(relu_input, tape, step)
        step.count_overflows(self.name, "forward", exact)
        codes = self._pooled(codes, tape)
        codes = codes.astype(self.output.format.storage, copy=False)
        codes = self._dropped(codes, tape, step)
        result = lent(codes, self.output.format)
        if self.output.tensor != "activations":  # those are seen where they are read
            step.see(self.output.tensor, self.name, result)
        return result

    def _operands(self, tape: LayerTape) -> tuple[np.ndarray, np.ndarray]:
        geometry = self.forward_product.geometry
        images = tape.input.operand.reshape(-1, *geometry.input)
        return images, tape.weight.operand.reshape(geometry.weight)

    def _see_operands(
        self,
        tape: LayerTape,
        exact: Exact,
        parameters: Mapping[str, TrainedParameter],
        step: Step,
    ) -> None:
        if step.reuse:
            return
        step.see("activations", self.name, tape.input)
        step.see("weights", self.name, tape.weight)
        for kind in FURTHER:
            if kind in parameters:
                step.see(kind, self.name, parameters[kind].tensor)
        step.see("preactivations", self.name, exact.tensor())

    def _relu_input(
        self,
        exact: ForwardSum,
        tape: LayerTape,
        branch: Tensor | None,
        parameters: Mapping[str, TrainedParameter],
        running: Running | None,
        step: Step,
    ) -> Exact:
        """What the ReLU reads: after batch norm and the residual addition, if there are any."""
        other = branch.operand if branch is not None else None
        if self.norm is None:
            return exact if self.addition is None else self.addition.of(exact.sums(), other)
        gamma = parameters["gamma"].codes.astype(np.int64)
        beta = parameters["beta"].codes.astype(np.int64)
        tape.normalized = self._normalized(exact, running, step)
        return self.norm.affine(gamma, beta).of(tape.normalized.codes, other)

    def _normalized(self, exact: ForwardSum, running: Running | None, step: Step) -> Normalized:
        norm = present(self.norm)
        of_batch = step.training and not norm.frozen
        sums = np.empty((2, exact.shape[-1]), np.int64) if of_batch else None
        quantizer = step.quantizer(self.name, "preactivations", norm.input)
        codes, _ = exact.rounded_with_moments(quantizer, False, sums)
        moments = None
        if sums is not None:
            terms = self._positions(step.result.samples)
            moments = Moments(step.total(sums, norm.largest_moment(terms)), terms)
        formats = norm.formats

        def quantizers(tensor: str) -> Quantizer:
            return step.quantizer(self.name, tensor, getattr(formats, tensor))

        made = norm.forward(codes, moments, running, quantizers, step.reuse)
        if not step.reuse:
            running = present(running)
            see = step.see
            see("quantized_preactivations", self.name, lent(codes, norm.input))
            see("mean", self.name, lent(made.mean, formats.mean))
            see("variance", self.name, lent(made.variance, formats.variance))
            see("running_mean", self.name, lent(running.mean, running_format(formats.mean)))
            see(
                "running_variance",
                self.name,
                lent(running.variance, running_format(formats.variance)),
            )
            roots = made.inverse_roots.astype(np.int64)
            see("inverse_roots", self.name, lent(roots, norm.inverse_root.format))
            see("normalized", self.name, lent(made.codes, formats.normalized))
        return made

    def _activated(self, relu_input: Exact, tape: LayerTape, step: Step) -> np.ndarray:
        """Codes of what leaves the ReLU, or max pooling where one kernel does both."""
        layer = self.layer
        owner, tensor, _ = self.output
        quantizer = relu_quantizer(layer, step.quantizer(owner, tensor, self.relu_format))
        relu = layer.activation.is_relu
        if self.activation is not None:
            codes, tape.factors = self.activation.forward(relu_input, quantizer)
        elif relu and layer.pool and layer.pool.kind == "max":
            codes, tape.winner = relu_input.rounded_and_pooled(quantizer, present(self.shape.pool))
        else:
            codes, tape.mask = relu_input.rounded(quantizer, relu)
        return codes.reshape(
            -1, *(self.shape.output if tape.winner is not None else self.shape.pre)
        )

    def _pooled(self, codes: np.ndarray, tape: LayerTape) -> np.ndarray:
        layer = self.layer
        if layer.pool is None or tape.winner is not None:
            return codes
        if layer.pool.kind == "max":
            codes, tape.winner = max_pooled(codes, None, present(self.shape.pool))
            return codes
        window = present(self.shape.pool)
        return average_pooled(codes, window, self.output.format, layer.pool.rounding)

    def _dropped(self, codes: np.ndarray, tape: LayerTape, step: Step) -> np.ndarray:
        rate = self.layer.dropout
        if not (rate and step.training):
            return codes
        stays = kept(rate, words_at(step.words(self.name, "dropout"), codes.shape))
        tape.kept = stays.view(np.uint8)
        scaled = Scaled(lent(codes, self.output.format), tape.kept, rate)

        def count(counts: Counts) -> None:
            step.result.counts[self.name, "dropout"] = counts

        out, _ = scaled.rounded(Quantizer(self.output.format, counted=count), relu=False)
        return out

    def backward(
        self,
        tape: LayerTape,
        arriving: Tensor,
        parameters: Mapping[str, TrainedParameter],
        step: Step,
    ) -> LayerGrads:
        """The gradients of the layer's parameters and at its pre-activations."""
        step.see("activation_grads", self.name, arriving)
        inner = lent(self._at_relu_input(arriving, tape, step), self.inner_format)
        pre = inner
        grads: dict[str, Tensor] = {}
        if self.norm_grad is not None:
            pre, grads = self._through_norm(inner, tape, parameters, step)
        step.see("preactivation_grads", self.name, pre)
        return LayerGrads(inner, pre, grads, self._weight_grads(tape, pre, step))

    def _at_relu_input(self, arriving: Tensor, tape: LayerTape, step: Step) -> np.ndarray:
        """Gradient codes at what the activation reads (N, H, W, O), in `inner_format`."""
        grads = arriving.operand
        layer = self.layer
        format = arriving.format
        if tape.kept is not None:
            grads = before_dropout(grads, tape.kept, layer.dropout, format)
            format = grad_format(format, layer.dropout)
        shape = (len(grads), *self.shape.pre)
        if layer.pool and layer.pool.kind == "max":
            winner = present(tape.winner)
            grads = before_max_pool(grads, winner, present(self.shape.pool), shape, format)
        elif layer.pool:
            window = present(self.shape.pool)
            grads = before_average_pool(grads, window, shape, format, layer.pool.rounding)
        if self.activation is not None:
            return self._before_activation(grads.reshape(shape), tape, step)
        if tape.mask is None:
            return grads
        return gated(grads, tape.mask.reshape(grads.shape), step.reuse or layer.pool is not None)

    def _before_activation(self, grads: np.ndarray, tape: LayerTape, step: Step) -> np.ndarray:
        """Gradient codes before a leaky ReLU or a table."""
        factors = present(tape.factors).reshape(*grads.shape)
        quantizer = step.quantizer(self.name, "relu_input_grads", self.inner_format)
        return present(self.activation).backward(grads, factors, quantizer)

    def _through_norm(
        self,
        inner: Tensor,
        tape: LayerTape,
        parameters: Mapping[str, TrainedParameter],
        step: Step,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient at the pre-activations, and those of gamma and beta."""
        norm_grad = present(self.norm_grad)
        normalized = present(tape.normalized)
        precision = self.formats.batch_norm or BatchNormPrecision()
        formats = {
            "gamma_grads": precision.gamma_grads,
            "beta_grads": precision.beta_grads,
            "preactivation_grads": self.pre_format,
        }

        def quantizers(tensor: str) -> Quantizer:
            return step.quantizer(self.name, tensor, formats[tensor])

        step.see("relu_input_grads", self.name, inner)
        reuse = step.reuse and not self.layer.add  # a residual branch reads the gradient, too
        gamma = parameters["gamma"].codes.astype(np.int64)
        moments = None
        if "gamma" in self.layer.trained:
            terms = self._positions(step.result.samples)
            sums, _ = Moments.of(inner.operand, normalized.codes)
            moments = Moments(step.total(sums, norm_grad.largest_moment(terms)), terms)
        made = norm_grad.backward(inner.operand, normalized, gamma, moments, quantizers, reuse)
        grads = {
            kind: lent(codes, formats[f"{kind}_grads"])
            for kind, codes in (("gamma", made.gamma), ("beta", made.beta))
            if codes is not None
        }
        if not step.reuse:
            for kind, codes in grads.items():
                step.see(f"{kind}_grads", self.name, codes)
            constants = (made.sums.first, made.sums.second, made.sums.constant)
            for (kind, format), values in zip(norm_grad.formats.items(), constants):
                codes = lent(values.astype(np.int64), format)
                step.see(f"normalization_{kind}", self.name, codes)
        return lent(made.codes, self.pre_format), grads

    def _weight_grads(
        self, tape: LayerTape, pre: Tensor, step: Step
    ) -> dict[str, Callable[[], Tensor]]:
        """What rounds the gradients of the weights and of the bias, as far as they are trained."""
        grads = pre.operand.reshape(-1, *self.forward_product.geometry.output)
        begun: dict[str, Callable[[], Tensor]] = {}
        if self.weight_grad is not None:
            images, _ = self._operands(tape)
            weights = step.weight_grad(self.weight_grad(images, grads))
            begun["weight"] = partial(self._rounded_weight_grad, weights, step)
            step.count_later(self.name, "weight_grads")
        if "bias" not in self.layer.trained:
            return begun
        largest = self._positions(step.result.samples) * magnitude(pre.format)
        own = exact_sum(lent(grads, pre.format), axis=(0, 1, 2))
        step.count_later(self.name, "bias_grads")
        begun["bias"] = partial(self._rounded_bias_grad, step.summed(own, largest), step)
        return begun

    def _rounded_weight_grad(self, sums: Callable[[], Exact], step: Step) -> Tensor:
        exact = sums()
        quantizer = step.quantizer(self.name, "weight_grads", self.formats.weight_grads)
        made = exact.to(quantizer).reshape(*self.shape.weight)
        step.count_overflows(self.name, "weight_grad", exact)
        step.see("weight_grads", self.name, made)
        return made

    def _rounded_bias_grad(self, sums: Callable[[], Exact], step: Step) -> Tensor:
        quantizer = step.quantizer(self.name, "bias_grads", self.formats.bias_grads)
        made = sums().to(quantizer)
        step.see("bias_grads", self.name, made)
        return made

    def input_grads(self, tape: LayerTape, pre: Tensor) -> Exact:
        """The exact gradient at the layer's input."""
        _, weight = self._operands(tape)
        product = present(self.input_grad)
        return product(pre.operand.reshape(-1, *product.geometry.output), weight)


def _batch_norm(
    norm: BatchNormSpec,
    preactivations: Format,
    precision: BatchNormPrecision,
    branch: Format | None,
) -> BatchNorm:
    formats = BatchNormFormats(
        precision.mean, precision.variance, precision.normalized, precision.gamma, precision.beta
    )
    return BatchNorm(preactivations, formats, branch, norm.epsilon, norm.running_rate, norm.frozen)

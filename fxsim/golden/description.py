"""What the manifest says about a tensor of a step: who makes it, and how."""

from __future__ import annotations

from collections.abc import Container, Mapping

from fxsim.errors import present
from fxsim.golden.manifest import RANDOM_WORDS, Accumulator, Entry
from fxsim.nn.fixed.layer import FixedLayer
from fxsim.nn.fixed.network import FURTHER, FixedNetwork
from fxsim.nn.layer_precision import UPDATE_ROUNDING, VELOCITIES
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Dense
from fxsim.ops.paths import Operand, accumulator_bits, operand
from fxsim.ops.products import Product
from fxsim.tensor import Counts, Tensor

GIVEN = (
    "weights",
    "bias",
    "earlier_weights",
    "earlier_bias",
    "labels",
    "targets",
    "accumulators_before",
    "bias_accumulators_before",
    "gamma",
    "beta",
    "gamma_accumulators_before",
    "beta_accumulators_before",
    "running_mean_before",
    "running_variance_before",
    "table_values",
    "table_slopes",
    *(f"{tensor}_before" for tensor in VELOCITIES),
)
RUNNING = ("running_mean", "running_variance")
"""Tensors that a training step makes and inference is given."""
QUANTIZED = (
    "activations",
    "logits",
    "branch",
    "activation_grads",
    "weight_grads",
    "bias_grads",
    "normalized",
    "gamma_grads",
    "beta_grads",
    "mean",
    "variance",
    *VELOCITIES,
)
"""Tensors of a step that are made by the modes of the assignment's tensor of that name."""
GRADS_WITHIN = ("preactivation_grads", "relu_input_grads")
"""Gradients within a layer, which batch norm, the activation or average pooling quantizes."""
MOVED = {
    "updated_weights": "weights",
    **{f"updated_{kind}": kind for kind in FURTHER},
}
ACCUMULATED = {
    "updates": "accumulators",
    **{f"{kind}_updates": f"{kind}_accumulators" for kind in FURTHER},
}
COUNTED_AS = {
    "updated_weights": "weights",
    "preactivations": None,
    "quantized_preactivations": "preactivations",
}
OF_WEIGHTS = (
    "weights",
    "earlier_weights",
    "weight_grads",
    "velocities_before",
    "velocities",
    "accumulators_before",
    "updates",
    "updated_weights",
    "accumulators",
)


def is_rounded_update(assignment: PrecisionAssignment, layer: str, tensor: str) -> bool:
    """Whether a tensor is rate times gradient in a format of its own."""
    return tensor in ACCUMULATED and tensor in assignment.layers[layer].given()


class Description:
    """Describes the tensors of one step, or of one inference, of a FixedNetwork.

    Batch: its samples; counts: StepResult.counts.  training: whether it is a step.
    """

    def __init__(
        self,
        network: FixedNetwork,
        batch: int,
        counts: Mapping[tuple[str, str], Counts],
        training: bool = True,
    ):
        self.assignment = network.assignment
        self.network = network.network
        self.layers = network.layers
        self.batch = batch
        self.counts = counts
        self.given = GIVEN if training else (*GIVEN, *RUNNING)

    def entry(self, layer: str, tensor: str, value: Tensor) -> Entry:
        """The manifest's entry of a tensor, without files."""
        given = (
            tensor in self.given or tensor.endswith(RANDOM_WORDS) or self._is_input(layer, tensor)
        )
        counted = None if given else COUNTED_AS.get(tensor, tensor)
        if tensor in GRADS_WITHIN:
            counted = self.layers[layer].maker_of_grads(tensor)
        counts = None if counted is None else self.counts.get((layer, counted))
        rounding, overflow = self._modes(layer, tensor)
        return Entry(
            layer,
            tensor,
            "input" if given else "result",
            value.shape,
            _axes(tensor, value.codes.ndim),
            value.format,
            rounding,
            overflow,
            self._accumulator(layer, tensor),
            counts,
        )

    def _is_input(self, layer: str, tensor: str) -> bool:
        return tensor == "activations" and self.network.source(layer) is None

    def _modes(self, layer: str, tensor: str) -> tuple[str | None, str | None]:
        """(rounding, overflow) of what made a tensor."""
        rounding_of = self.assignment.rounding_of
        overflow_of = self.assignment.overflow_of
        if tensor in QUANTIZED and not self._is_input(layer, tensor):
            return rounding_of(tensor), overflow_of(tensor)
        if tensor == "quantized_preactivations":
            return rounding_of("preactivations"), overflow_of("preactivations")
        if tensor in GRADS_WITHIN:
            return self._grad_modes(layer, tensor)
        if tensor in MOVED:
            return self._moving_modes(layer, MOVED[tensor])
        if is_rounded_update(self.assignment, layer, tensor):
            return rounding_of(tensor), overflow_of(tensor)
        if tensor in ACCUMULATED:
            return rounding_of(ACCUMULATED[tensor]), None
        if tensor in ACCUMULATED.values():
            return None, overflow_of(tensor)
        return None, None

    def _moving_modes(self, layer: str, parameter: str) -> tuple[str, str]:
        """Of the running parameter; of the update itself where there is no accumulator."""
        tensor = "accumulators" if parameter == "weights" else f"{parameter}_accumulators"
        if tensor in self.assignment.layers[layer].given():
            return UPDATE_ROUNDING, self.assignment.overflow_of(parameter)
        return self.assignment.rounding_of(tensor), self.assignment.overflow_of(tensor)

    def _grad_modes(self, layer: str, tensor: str) -> tuple[str | None, str | None]:
        """Batch norm quantizes them, or the activation does; without these, average pooling."""
        maker = self.layers[layer].maker_of_grads(tensor)
        if maker:
            return self.assignment.rounding_of(maker), self.assignment.overflow_of(maker)
        definition = self.network.layer(layer)
        if definition.pool and definition.pool.kind == "average":
            return definition.pool.rounding, None
        return None, None

    def _accumulator(self, layer: str, tensor: str) -> Accumulator | None:
        """Of the sums behind a tensor.

        What exactness needs, or its model; None for one that is no sum of products.
        """
        own = self.layers[layer]
        if tensor == "preactivations":
            product = own.forward_product
            order = _order(own, product, "input")
            bits = product.format.bits
            terms = own.shape.dot_length
            if not own.layer.has_bias:
                return _sums(product, bits, terms, order)
            model = product.accumulator
            first = model is not None and model.bias == "first"
            order = f"the bias, then {order}" if first else f"{order}, then the bias"
            return _sums(product, bits, terms + 1, order)
        if tensor == "weight_grads":
            weight_grad = present(own.weight_grad)
            plan = weight_grad.plan_of(self.batch)
            order = "sample, row, column"
            return _sums(weight_grad, plan.accumulator_bits, plan.terms, order)
        if tensor == "bias_grads":
            return self._bias_accumulator(own)
        if tensor == "activation_grads" and not self._joined(layer):
            return next(map(self._input_grad_accumulator, self._readers(layer)), None)
        return None

    def _readers(self, layer: str) -> list[str]:
        return [reader.name for reader, source in self.network.edges() if source == layer]

    def _joined(self, layer: str) -> bool:
        """Whether the gradient at the output of a layer is the sum of several."""
        added = any(other.add == layer for other in self.network.layers)
        return added or len(self._readers(layer)) > 1

    def input_grads(self, layers: Container[str]) -> dict[str, Accumulator]:
        """Reader of one of these layers -> of the sums that it adds to those of others."""
        return {
            reader: self._input_grad_accumulator(reader)
            for layer in self.network.names
            if layer in layers and self._joined(layer)
            for reader in self._readers(layer)
        }

    def _input_grad_accumulator(self, reader: str) -> Accumulator:
        own = self.layers[reader]
        input_grad = present(own.input_grad)
        plan = input_grad.plan
        order = _order(own, input_grad, "output")
        return _sums(input_grad, plan.accumulator_bits, plan.terms, order)

    def _bias_accumulator(self, own: FixedLayer) -> Accumulator:
        """Each gradient is added as it is, times a constant of magnitude 1."""
        terms = self.batch * own.shape.pre[0] * own.shape.pre[1]
        bits = accumulator_bits(operand(own.pre_format), Operand(1), terms)
        return Accumulator(bits, terms, "sample, row, column")


def _order(own: FixedLayer, product: Product, side: str) -> str:
    """Axes of the terms, slowest first; side: 'input' or 'output', whose channels are summed."""
    if isinstance(own.layer, Dense):
        return side
    model = product.accumulator
    if model is not None and model.axes == "channel_last":
        return f"kernel row, kernel column, {side} channel"
    return f"{side} channel, kernel row, kernel column"


def _sums(product: Product, exact_bits: int, terms: int, order: str) -> Accumulator:
    """The accumulator of a product; that of pre-activations has the width of Z."""
    model = product.accumulator
    if model is None:
        return Accumulator(exact_bits, terms, order)
    bits = exact_bits if product.kind == "forward" else model.bits
    return Accumulator(bits, terms, order, "model", model)


def _axes(tensor: str, dimensions: int) -> str:
    tensor = tensor.removesuffix(RANDOM_WORDS)
    if tensor == "labels":
        return "N"
    if tensor in ("table_values", "table_slopes"):
        return "E"
    return {1: "O", 2: "I,O", 4: "KH,KW,C,O" if tensor in OF_WEIGHTS else "N,H,W,C"}[dimensions]

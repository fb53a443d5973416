"""What the manifest says about a tensor of a step: who makes it, and how."""

from __future__ import annotations

from collections.abc import Mapping

from fxsim.golden.manifest import RANDOM_WORDS, Accumulator, Entry
from fxsim.kernels.products.paths import Operand, accumulator_bits
from fxsim.nn.fixed.network import FURTHER, FixedNetwork
from fxsim.nn.fixed.products import Products
from fxsim.nn.precision import UPDATE_ROUNDING, VELOCITIES
from fxsim.nn.spec import Dense
from fxsim.tensor import Counts, Tensor

GIVEN = (
    "weights",
    "bias",
    "earlier_weights",
    "earlier_bias",
    "labels",
    "accumulators_before",
    "bias_accumulators_before",
    "gamma",
    "beta",
    "gamma_accumulators_before",
    "beta_accumulators_before",
    "running_mean_before",
    "running_variance_before",
    *(f"{tensor}_before" for tensor in VELOCITIES),
)
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


class Description:
    """Describes the tensors of one step of a FixedNetwork.

    Batch: its samples; counts: StepResult.counts.
    """

    def __init__(self, network: FixedNetwork, batch: int, counts: Mapping[tuple[str, str], Counts]):
        self.assignment = network.assignment
        self.network = network.network
        self.products = network.products
        self.batch = batch
        self.counts = counts

    def entry(self, layer: str, tensor: str, value: Tensor) -> Entry:
        """The manifest's entry of a tensor, without files."""
        given = tensor in GIVEN or tensor.endswith(RANDOM_WORDS) or self._is_input(layer, tensor)
        counts = None if given else self.counts.get((layer, COUNTED_AS.get(tensor, tensor)))
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
        if tensor == "preactivation_grads":
            return self._preactivation_grad_modes(layer)
        if tensor in MOVED:
            return UPDATE_ROUNDING, overflow_of(MOVED[tensor])
        if tensor in ACCUMULATED:
            return rounding_of(ACCUMULATED[tensor]), None
        if tensor in ACCUMULATED.values():
            return None, overflow_of(tensor)
        return None, None

    def _preactivation_grad_modes(self, layer: str) -> tuple[str | None, str | None]:
        """Batch norm quantizes them; without it, average pooling divides them."""
        definition = self.network.layer(layer)
        if definition.batch_norm:
            return (
                self.assignment.rounding_of("preactivation_grads"),
                self.assignment.overflow_of("preactivation_grads"),
            )
        if definition.pool and definition.pool.kind == "average":
            return "nearest_away", None
        return None, None

    def _accumulator(self, layer: str, tensor: str) -> Accumulator | None:
        """Of the sums behind a tensor.

        What exactness needs, or its model; None for one that is no sum of products.
        """
        products = self.products[layer]
        readers = [reader.name for reader, source in self.network.edges() if source == layer]
        added = any(other.add == layer for other in self.network.layers)
        if tensor == "preactivations":
            order = (
                "input"
                if isinstance(products.layer, Dense)
                else "input channel, kernel row, kernel column"
            )
            bits = products.sum_format.bits
            terms = products.shape.dot_length
            if not products.layer.bias:
                return _sums(products, "forward", bits, terms, order)
            return _sums(products, "forward", bits, terms + 1, f"{order}, then the bias")
        if tensor == "weight_grads":
            plan = products.weight_grad_plan(self.batch)
            return _sums(
                products, "weight_grad", plan.accumulator_bits, plan.terms, "sample, row, column"
            )
        if tensor == "bias_grads":
            return self._bias_accumulator(products)
        if tensor == "activation_grads" and len(readers) == 1 and not added:
            reader = self.products[readers[0]]
            order = (
                "output"
                if isinstance(reader.layer, Dense)
                else "output channel, kernel row, kernel column"
            )
            plan = reader.input_grad_plan
            return _sums(reader, "input_grad", plan.accumulator_bits, plan.terms, order)
        return None

    def _bias_accumulator(self, products: Products) -> Accumulator:
        terms = self.batch * products.shape.pre[0] * products.shape.pre[1]
        grads = Operand(products.gradient_format.bits, products.gradient_format.signed)
        one = Operand(1)  # of magnitude 1: each gradient is added as it is
        return Accumulator(accumulator_bits(grads, one, terms), terms, "sample, row, column")


def _sums(products: Products, kind: str, exact_bits: int, terms: int, order: str) -> Accumulator:
    """Of one kind of product; the accumulator of pre-activations has the width of Z."""
    model = products.accumulators.get(kind)
    if model is None:
        return Accumulator(exact_bits, terms, order)
    return Accumulator(
        exact_bits if kind == "forward" else model.bits, terms, order, "model", model
    )


def _axes(tensor: str, dimensions: int) -> str:
    tensor = tensor.removesuffix(RANDOM_WORDS)
    if tensor == "labels":
        return "N"
    return {1: "O", 2: "I,O", 4: "KH,KW,C,O" if tensor in OF_WEIGHTS else "N,H,W,C"}[dimensions]

"""One training step with every tensor that it reads and makes, in data-flow order."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fxsim.errors import choice
from fxsim.formats import Format
from fxsim.golden import arithmetic
from fxsim.golden.manifest import RANDOM_WORDS, Accumulator, Entry, Manifest
from fxsim.kernels.gemm import Operand, accumulator_bits
from fxsim.kernels.rounding import STOCHASTIC
from fxsim.machine import versions
from fxsim.nn.codes import LearningRate, tensor_stream
from fxsim.nn.fixed import FixedNetwork, StepResult
from fxsim.nn.spec import RELU_RANGE_EXP, Dense, Network
from fxsim.tensor import Tensor

MASK_FORMAT = Format(1, 1, False)
WORD_FORMAT = Format(32, 32, False)

_UPDATED = {"accumulators": "weights", "bias_accumulators": "bias"}
_COUNTED_AS = {"updated_weights": "weights"}
_GIVEN = ("weights", "bias", "labels", "accumulators_before", "bias_accumulators_before")
_CONV_ORDER = "input channel, kernel row, kernel column"


@dataclass(frozen=True)
class GoldenStep:
    """The manifest (entries without files yet) and the codes of every entry, by name."""

    manifest: Manifest
    codes: dict[str, np.ndarray]


def capture(network: FixedNetwork, images: np.ndarray, labels: np.ndarray, learning_rate: LearningRate, step: int,
            layers: Iterable[str] | None = None) -> GoldenStep:
    """Run one training step in place and keep its tensors.

    images, labels, learning_rate, step: as for FixedNetwork.train_step.  layers: names of the layers to keep,
    each with its input, its output and the gradients of both; None for all.
    """
    before = network.fingerprint()
    recorder = _Recorder(network, np.asarray(labels), learning_rate, step)
    recorder.result = network.train_step(images, labels, learning_rate, step, recorder.see)
    entries, codes = recorder.tensors(_wanted(network.network, layers))
    used = {package: version for package, version in versions().items() if package in ("fxsim", "numpy", "numba")}
    manifest = Manifest(network.network, step, network.seed, len(images), learning_rate, entries, used,
                        {"before": before, "after": network.fingerprint()})
    return GoldenStep(manifest, codes)


def _wanted(network: Network, layers: Iterable[str] | None) -> set[tuple[str, str]] | None:
    """(layer, tensor) of what the chosen layers make for their neighbours; (layer, '') for all of a layer."""
    if layers is None:
        return None
    chosen = {choice("layer", name, network.names) for name in layers}
    wanted = {(name, "") for name in chosen}
    for layer, source in network.edges():
        if source in chosen:
            wanted |= {(layer.name, "activations"), (layer.name, "activations" + RANDOM_WORDS)}
        if layer.name in chosen and source is not None:
            wanted |= {(source, "activation_grads"), (source, "activation_grads" + RANDOM_WORDS)}
    return wanted


class _Recorder:
    """Collects (layer, tensor, Tensor) from the probe, adding what the probe does not show."""

    def __init__(self, network: FixedNetwork, labels: np.ndarray, learning_rate: LearningRate, step: int):
        self.network, self.labels, self.learning_rate, self.step = network, labels, learning_rate, step
        self.result: StepResult | None = None
        self.kept: list[tuple[str, str, Tensor]] = []
        self.grads: dict[tuple[str, str], Tensor] = {}
        self.accumulators = {
            name: {kind: parameter.accumulators.copy() for kind, parameter in parameters.items()}
            for name, parameters in network.parameters.items()}

    def see(self, tensor: str, layer: str, value: Tensor) -> None:
        """The probe of FixedNetwork.train_step."""
        value = Tensor(value.codes.copy(), value.format)
        if tensor in ("weight_grads", "bias_grads"):
            self.grads[layer, tensor] = value
        if tensor == "updated_weights":
            self._see_update(layer, "weight", "accumulators", "updates", "weight_grads")
        if tensor == "updated_bias":
            self._see_update(layer, "bias", "bias_accumulators", "bias_updates", "bias_grads")
        self._keep(layer, tensor, value)
        if tensor == "preactivations" and self.network.network.layer(layer).relu:
            bound = 1 << (RELU_RANGE_EXP - value.format.step_exp)
            mask = (value.codes > 0) & (value.codes < bound)
            self._keep(layer, "relu_mask", Tensor(mask.astype(np.uint8), MASK_FORMAT))
        if tensor == "logits":
            bits = max(1, (self.network.network.classes - 1).bit_length())
            self._keep(layer, "labels", Tensor(self.labels, Format(bits, bits, False)))

    def _see_update(self, layer: str, kind: str, tensor: str, update: str, grads_name: str) -> None:
        """The accumulators as they were, and the update in their steps."""
        format = getattr(self.network.assignment.layers[layer], tensor)
        self._keep(layer, f"{tensor}_before", Tensor(self.accumulators[layer][kind], format))
        grads = self.grads[layer, grads_name]
        words = self._see_words(layer, tensor, grads.shape)
        codes = arithmetic.updates(grads.codes, grads.format, format, self.learning_rate,
                                   self.network.assignment.rounding_of(tensor), words)
        self._keep(layer, update, Tensor(codes, arithmetic.update_format(grads.format, format, self.learning_rate)))

    def _keep(self, layer: str, tensor: str, value: Tensor) -> None:
        if tensor in ("logits", "activation_grads", "weight_grads", "bias_grads"):
            self._see_words(layer, tensor, value.shape)
        source = self.network.network.source(layer)
        if tensor == "activations" and source is not None:
            self._see_words(layer, tensor, (len(self.labels), *self.network.network.shape(source).pre))
        self.kept.append((layer, tensor, value))

    def _see_words(self, layer: str, tensor: str, shape) -> np.ndarray | None:
        """The random words of a stochastic rounding, one for every element before pooling."""
        if self.network.assignment.rounding_of(tensor) not in STOCHASTIC:
            return None
        owner = layer
        if tensor == "activations":
            source = self.network.network.source(layer)
            owner = next(name.name for name, reads in self.network.network.edges() if reads == source)
        words = tensor_stream(self.network.seed, self.step, owner, tensor).words(shape)
        self.kept.append((layer, tensor + RANDOM_WORDS, Tensor(words, WORD_FORMAT)))
        return words

    def tensors(self, wanted: set[tuple[str, str]] | None) -> tuple[tuple[Entry, ...], dict[str, np.ndarray]]:
        entries, codes = [], {}
        for layer, tensor, value in self.kept:
            if wanted is None or wanted & {(layer, ""), (layer, tensor)}:
                entry = self._entry(layer, tensor, value)
                entries.append(entry)
                codes[entry.name] = value.codes
        return tuple(entries), codes

    def _entry(self, layer: str, tensor: str, value: Tensor) -> Entry:
        rounding, overflow = self._modes(layer, tensor)
        given = tensor in _GIVEN or tensor.endswith(RANDOM_WORDS) or \
            (tensor == "activations" and self.network.network.source(layer) is None)
        return Entry(layer, tensor, "input" if given else "result", value.shape, _axes(tensor, value.codes.ndim),
                     value.format, rounding, overflow, self._accumulator(layer, tensor),
                     self.result.counts.get((layer, _COUNTED_AS.get(tensor, tensor))) if not given else None)

    def _modes(self, layer: str, tensor: str) -> tuple[str | None, str | None]:
        """(rounding, overflow) of the quantization that made a tensor."""
        assignment, network = self.network.assignment, self.network.network
        if tensor == "activations" and network.source(layer) is None:
            return None, None
        if tensor in ("activations", "logits", "activation_grads", "weight_grads", "bias_grads"):
            return assignment.rounding_of(tensor), assignment.overflow_of(tensor)
        pool = network.layer(layer).pool
        if tensor == "preactivation_grads" and pool and pool.kind == "average":
            return "nearest_away", None
        return {
            "updates": (assignment.rounding_of("accumulators"), None),
            "bias_updates": (assignment.rounding_of("bias_accumulators"), None),
            "updated_weights": ("nearest_up", "saturate"), "updated_bias": ("nearest_up", "saturate"),
            "accumulators": (None, "saturate"), "bias_accumulators": (None, "saturate"),
        }.get(tensor, (None, None))

    def _accumulator(self, layer: str, tensor: str) -> Accumulator | None:
        """What exact sums need; None for a tensor that is no quantized sum."""
        network, products = self.network.network, self.network.products[layer]
        if tensor == "preactivations":
            order = "input" if isinstance(products.layer, Dense) else _CONV_ORDER
            return Accumulator(products.sum_format.bits, products.shape.dot_length + 1, f"{order}, then the bias")
        if tensor == "weight_grads":
            plan = products.weight_grad_plan(len(self.labels))
            return Accumulator(plan.accumulator_bits, plan.terms, "sample, row, column")
        if tensor == "bias_grads":
            terms = len(self.labels) * products.shape.pre[0] * products.shape.pre[1]
            grads = Operand(products.gradient_format.bits, products.gradient_format.signed)
            return Accumulator(accumulator_bits(grads, Operand(1), terms), terms, "sample, row, column")
        readers = [reader.name for reader, source in network.edges() if source == layer]
        if tensor == "activation_grads" and len(readers) == 1:
            plan = self.network.products[readers[0]].input_grad_plan
            dense = isinstance(network.layer(readers[0]), Dense)
            order = "output" if dense else "output channel, kernel row, kernel column"
            return Accumulator(plan.accumulator_bits, plan.terms, order)
        return None


def _axes(tensor: str, dimensions: int) -> str:
    tensor = tensor.removesuffix(RANDOM_WORDS)
    if tensor == "labels":
        return "N"
    of_weights = tensor.startswith(("weight", "updated_weights", "updates", "accumulators"))
    return {1: "O", 2: "I,O", 4: "KH,KW,C,O" if of_weights else "N,H,W,C"}[dimensions]

"""One training step with every tensor that it reads and makes, in data-flow order."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fxsim.errors import choice
from fxsim.formats import Format
from fxsim.golden import arithmetic
from fxsim.golden.description import Description
from fxsim.golden.manifest import RANDOM_WORDS, Entry, Manifest
from fxsim.kernels.rounding import STOCHASTIC
from fxsim.machine import versions
from fxsim.nn.codes import LearningRate, tensor_stream
from fxsim.nn.fixed import FixedNetwork, StepResult
from fxsim.nn.spec import RELU_RANGE_EXP, Network
from fxsim.tensor import Tensor

MASK_FORMAT = Format(1, 1, False)
WORD_FORMAT = Format(32, 32, False)


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
        """Entries and codes of what is wanted (None: of all), in data-flow order."""
        describe = Description(self.network, len(self.labels), self.result.counts).entry
        kept = [row for row in self.kept if wanted is None or wanted & {(row[0], ""), row[:2]}]
        entries = tuple(describe(*row) for row in kept)
        return entries, {entry.name: value.codes for entry, (_, _, value) in zip(entries, kept)}

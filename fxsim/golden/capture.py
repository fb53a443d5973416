"""One training step with every tensor that it reads and makes, in data-flow order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fxsim.errors import choice, present
from fxsim.factors import LearningRate
from fxsim.formats import STOCHASTIC, Format
from fxsim.golden import arithmetic
from fxsim.golden.description import GRADS_WITHIN, QUANTIZED, Description, is_rounded_update
from fxsim.golden.manifest import RANDOM_WORDS, Entry, Manifest, TensorWords
from fxsim.machine import versions
from fxsim.nn.fixed.activation import relu_format, relu_quantizer, seen_of
from fxsim.nn.fixed.network import FURTHER, FixedNetwork, StepResult
from fxsim.nn.optimizer import velocity_tensor
from fxsim.nn.spec import Network
from fxsim.ops.exact import MASK, relu_bound
from fxsim.quantizer import Quantizer, words_at
from fxsim.tensor import Tensor
from fxsim.words import DroppedBits, Philox, words_of

WORD_FORMAT = Format(32, 32, False)


@dataclass(frozen=True)
class GoldenStep:
    """The manifest (entries without files yet) and the codes of every entry, by name."""

    manifest: Manifest
    codes: dict[str, np.ndarray]


def parameter_codes(network: FixedNetwork) -> dict[tuple[str, str], np.ndarray]:
    """(layer, 'weights' or 'bias') -> a copy of the codes."""
    kinds = {"weight": "weights", "bias": "bias"}
    return {
        (layer, kinds[kind]): parameter.codes.copy()
        for layer, parameters in network.parameters.items()
        for kind, parameter in parameters.items()
        if kind in kinds
    }


def capture(
    network: FixedNetwork,
    images: np.ndarray,
    targets: np.ndarray,
    learning_rate: LearningRate,
    step: int,
    layers: Iterable[str] | None = None,
    earlier: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> GoldenStep:
    """Run one training step in place and keep its tensors.

    images, targets, learning_rate, step: as for FixedNetwork.train_step.  layers: names of the
    layers to keep, each with its input, its output and the gradients of both; None for all.
    earlier: parameter_codes as of the step before, kept so that a device which computes with stale
    parameters is found out.
    """
    before = network.fingerprint()
    recorder = _Recorder(network, _codes(targets), learning_rate, step, earlier or {})
    recorder.result = network.train_step(images, targets, learning_rate, step, recorder.see)
    entries, codes = recorder.tensors(_wanted(network.network, layers))
    layers_kept = {entry.layer for entry in entries}
    joined = {entry.layer for entry in entries if entry.tensor == "activation_grads"}
    words = {
        f"{layer}.{tensor}": own
        for (layer, tensor), own in recorder.words.items()
        if layer in layers_kept
    }
    used = {
        package: version
        for package, version in versions().items()
        if package in ("fxsim", "numpy", "numba")
    }
    manifest = Manifest(
        network.network,
        step,
        network.seed,
        len(images),
        learning_rate,
        entries,
        used,
        {"before": before, "after": network.fingerprint()},
        words=words,
        input_grads=recorder.description.input_grads(joined),
    )
    return GoldenStep(manifest, codes)


def _codes(targets: np.ndarray | Tensor) -> np.ndarray:
    """The codes of targets, which may be a Tensor."""
    return targets.codes if isinstance(targets, Tensor) else np.asarray(targets)


def _wanted(network: Network, layers: Iterable[str] | None) -> set[tuple[str, str]] | None:
    """(layer, tensor) of what the chosen layers make for their neighbours.

    (layer, '') for all of a layer.
    """
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

    def __init__(
        self,
        network: FixedNetwork,
        targets: np.ndarray,
        learning_rate: LearningRate,
        step: int,
        earlier: Mapping[tuple[str, str], np.ndarray],
    ):
        self.network = network
        self.targets = targets
        self.learning_rate = learning_rate
        self.step = step
        self.earlier = earlier
        self.result: StepResult | None = None
        self.kept: list[tuple[str, str, Tensor]] = []
        self.grads: dict[tuple[str, str], Tensor] = {}
        self.words: dict[tuple[str, str], TensorWords] = {}
        self.accumulators = {
            (name, kind): parameter.accumulators.copy()
            for name, parameters in network.parameters.items()
            for kind, parameter in parameters.items()
            if parameter.accumulators is not None
        }
        self.velocities = {
            (name, velocity_tensor(kind)): parameter.velocity.codes.copy()
            for name, parameters in network.parameters.items()
            for kind, parameter in parameters.items()
            if parameter.velocity
        }
        self.running = {
            (name, f"running_{statistic}"): codes.copy()
            for name, running in network.running.items()
            for statistic, codes in (("mean", running.mean), ("variance", running.variance))
        }

    def see(self, tensor: str, layer: str, value: Tensor) -> None:
        """The probe of FixedNetwork.train_step."""
        if (layer, tensor) in self.earlier:
            self._keep(
                layer, f"earlier_{tensor}", Tensor(self.earlier[layer, tensor], value.format)
            )
        if tensor in ("weight_grads", *(f"{kind}_grads" for kind in FURTHER)):
            self.grads[layer, tensor] = value
        if (layer, tensor) in self.velocities:
            self._keep(
                layer, f"{tensor}_before", Tensor(self.velocities[layer, tensor], value.format)
            )
            self.grads[layer, f"{tensor.removesuffix('velocities') or 'weight_'}grads"] = (
                value  # what the update takes
            )
        if tensor == "updated_weights":
            self._see_update(layer, "weight", "accumulators", "updates", "weight_grads")
        for kind in FURTHER:
            if tensor == f"updated_{kind}":
                self._see_update(
                    layer, kind, f"{kind}_accumulators", f"{kind}_updates", f"{kind}_grads"
                )
        if (layer, tensor) in self.running:
            self._keep(layer, f"{tensor}_before", Tensor(self.running[layer, tensor], value.format))
        self._keep(layer, tensor, value)
        own = self.network.layers[layer]
        read = "preactivations" if own.norm is None and own.addition is None else "relu_inputs"
        if tensor == read:
            self._see_activation(layer, value)
        if tensor == "logits":
            self._see_targets(layer, value)

    def _see_targets(self, layer: str, outputs: Tensor) -> None:
        """What the loss compares the outputs with."""
        if not self.network.network.decides:
            codes = self.targets.reshape(outputs.shape)
            self._keep(layer, "targets", Tensor(codes, outputs.format))
            return
        bits = max(1, (self.network.network.classes - 1).bit_length())
        self._keep(layer, "labels", Tensor(self.targets, Format(bits, bits, False)))

    def _see_activation(self, layer: str, value: Tensor) -> None:
        """What the activation function makes of its input beside the codes, and its tables."""
        own = self.network.layers[layer]
        quantizer = Quantizer(relu_format(own.layer, own.output.format))
        if own.layer.activation.is_relu:
            bound = relu_bound(value.format.step_exp, relu_quantizer(own.layer, quantizer))
            mask = (value.codes > 0) & (value.codes < bound)
            self._keep(layer, "relu_mask", Tensor(mask.astype(np.uint8), MASK))
        if own.activation is None:
            return
        self._keep(layer, *seen_of(own.layer.activation, value, quantizer))
        if own.activation.table is not None:
            values, slopes = own.activation.table
            self._keep(layer, "table_values", values)
            if slopes is not None:
                self._keep(layer, "table_slopes", slopes)

    def _see_update(self, layer: str, kind: str, tensor: str, update: str, grads_name: str) -> None:
        """The random words of the update; accumulators as they were, the update in their steps."""
        grads = self.grads[layer, grads_name]
        words = self._see_words(layer, tensor, grads.shape)
        if (layer, kind) not in self.accumulators:
            return
        format = self.network.assignment.layers[layer].given()[tensor]
        before = Tensor(self.accumulators[layer, kind], format)
        self._keep(layer, f"{tensor}_before", before)
        codes = arithmetic.updates(
            grads.codes,
            grads.format,
            format,
            self.learning_rate,
            self.network.assignment.rounding_of(tensor),
            words,
        )
        self._keep(
            layer,
            update,
            Tensor(codes, arithmetic.update_format(grads.format, format, self.learning_rate)),
        )

    def _keep(self, layer: str, tensor: str, value: Tensor) -> None:
        rounded_update = is_rounded_update(self.network.assignment, layer, tensor)
        if rounded_update or tensor in QUANTIZED and tensor != "activations":
            self._see_words(layer, tensor, value.shape)
        if tensor == "quantized_preactivations":
            self._see_words(layer, tensor, value.shape, "preactivations")
        if tensor in GRADS_WITHIN:
            maker = self.network.layers[layer].maker_of_grads(tensor)
            self._see_words(layer, tensor, value.shape, maker)
        source = self.network.network.source(layer)
        if tensor == "activations" and source is not None:
            self._see_words(
                layer, tensor, (len(self.targets), *self.network.network.shape(source).pre)
            )
        self.kept.append((layer, tensor, value))

    def _see_words(
        self, layer: str, tensor: str, shape: tuple[int, ...], maker: str | None = ""
    ) -> np.ndarray | DroppedBits | None:
        """The random words of a stochastic rounding, one for every element before pooling.

        maker: the name that the assignment has for the rounding, where it is not the tensor's; None
        where there is no rounding.
        """
        made_as = tensor if maker == "" else maker
        if made_as is None or self.network.assignment.rounding_of(made_as) not in STOCHASTIC:
            return None
        owner = layer
        if tensor == "activations":
            read = self.network.network.source(layer)
            owner = next(each.name for each, reads in self.network.network.edges() if reads == read)
        source = self.network.assignment.words_of(owner, made_as)
        if source != Philox():
            self.words[layer, tensor] = TensorWords.of(source, self.step, shape)
        drawn = words_of(source, self.network.seed, self.step, f"{owner}.{made_as}")
        if isinstance(drawn, DroppedBits):
            return drawn
        words = words_at(drawn, shape)
        self.kept.append((layer, tensor + RANDOM_WORDS, Tensor(words, WORD_FORMAT)))
        return words

    @property
    def description(self) -> Description:
        """Of the tensors of the finished step."""
        return Description(self.network, len(self.targets), present(self.result).counts)

    def tensors(
        self, wanted: set[tuple[str, str]] | None
    ) -> tuple[tuple[Entry, ...], dict[str, np.ndarray]]:
        """Entries and codes of what is wanted (None: of all), in data-flow order."""
        describe = self.description.entry
        kept = [row for row in self.kept if wanted is None or wanted & {(row[0], ""), row[:2]}]
        entries = tuple(describe(*row) for row in kept)
        return entries, {entry.name: value.codes for entry, (_, _, value) in zip(entries, kept)}

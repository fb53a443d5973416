"""One training step, or one inference, with every tensor that it reads and makes, in data-flow
order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden import arithmetic
from fxsim.golden.description import Description
from fxsim.golden.manifest import Manifest
from fxsim.golden.recording import Recorder
from fxsim.machine import versions
from fxsim.nn.fixed.network import FURTHER, FixedNetwork
from fxsim.nn.optimizer import velocity_tensor
from fxsim.tensor import Tensor


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
    recorder = _StepRecorder(network, _codes(targets), learning_rate, step, earlier or {})
    result = network.train_step(images, targets, learning_rate, step, recorder.see)
    description = Description(network, len(images), result.counts)
    entries, codes = recorder.tensors(description, layers)
    joined = {entry.layer for entry in entries if entry.tensor == "activation_grads"}
    manifest = Manifest(
        network.network,
        step,
        network.seed,
        len(images),
        learning_rate,
        entries,
        _versions(),
        {"before": before, "after": network.fingerprint()},
        words=recorder.words_kept(entries),
        input_grads=description.input_grads(joined),
    )
    return GoldenStep(manifest, codes)


def capture_inference(
    network: FixedNetwork, images: np.ndarray, layers: Iterable[str] | None = None
) -> GoldenStep:
    """Run inference and keep its tensors; batch norm takes its running statistics.

    For batch norm folded into weights and bias, give `network.folded()`.

    Args:
        network: stays as it is.
        images: codes (N, H, W, C) in network.input_format.  Stochastic roundings draw the words of
            the first N images of a data set.
        layers: names of the layers to keep, each with its input and its output; None for all.

    Raises:
        InputError: images that do not fit, or an unknown layer.

    Example:
        >>> from fxsim import Dense, FixedNetwork, Network, presets
        >>> from fxsim.golden.check import check
        >>> from fxsim.golden.export import write_vectors
        >>> from fxsim.nn.init import initial_parameters
        >>> network = Network("n", (1, 1, 3), (Dense(name="scores", units=2, activation="none"),))
        >>> formats = presets.uniform("Q4.12").assignment(network)
        >>> fixed = FixedNetwork(network, formats, initial_parameters(network, 0))
        >>> golden = capture_inference(fixed, np.ones((4, 1, 1, 3), np.int16))
        >>> sorted(golden.codes)[:2], golden.codes["scores.logits"].shape
        (['scores.activations', 'scores.bias'], (4, 1, 1, 2))
        >>> import os, tempfile
        >>> folder = os.path.join(tempfile.mkdtemp(), "vectors")
        >>> _ = write_vectors(golden, folder)
        >>> print(check(folder, folder).text())
        equal: 72 codes of 5 tensors of inference of 4 images
    """
    recorder = Recorder(network, len(images), 0, training=False)
    made = network.infer(images, probe=recorder.see)
    description = Description(network, len(images), made.counts, training=False)
    entries, codes = recorder.tensors(description, layers)
    fingerprint = network.fingerprint()
    manifest = Manifest(
        network.network,
        0,
        network.seed,
        len(images),
        None,
        entries,
        _versions(),
        {"before": fingerprint, "after": fingerprint},
        words=recorder.words_kept(entries),
        vectors="inference",
    )
    return GoldenStep(manifest, codes)


def _versions() -> dict[str, str | None]:
    """Of what computes the vectors."""
    used = ("fxsim", "numpy", "numba")
    return {package: version for package, version in versions().items() if package in used}


def _codes(targets: np.ndarray | Tensor) -> np.ndarray:
    """The codes of targets, which may be a Tensor."""
    return targets.codes if isinstance(targets, Tensor) else np.asarray(targets)


class _StepRecorder(Recorder):
    """The tensors of a training step, with the parameters as they were before it."""

    def __init__(
        self,
        network: FixedNetwork,
        targets: np.ndarray,
        learning_rate: LearningRate,
        step: int,
        earlier: Mapping[tuple[str, str], np.ndarray],
    ):
        super().__init__(network, len(targets), step, training=True)
        self.targets = targets
        self.learning_rate = learning_rate
        self.earlier = earlier
        self.grads: dict[tuple[str, str], Tensor] = {}
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
            self.keep(layer, f"earlier_{tensor}", Tensor(self.earlier[layer, tensor], value.format))
        if tensor in ("weight_grads", *(f"{kind}_grads" for kind in FURTHER)):
            self.grads[layer, tensor] = value
        if (layer, tensor) in self.velocities:
            self.keep(
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
            self.keep(layer, f"{tensor}_before", Tensor(self.running[layer, tensor], value.format))
        super().see(tensor, layer, value)
        if tensor == "logits":
            self._see_targets(layer, value)

    def _see_targets(self, layer: str, outputs: Tensor) -> None:
        """What the loss compares the outputs with."""
        if not self.network.network.decides:
            codes = self.targets.reshape(outputs.shape)
            self.keep(layer, "targets", Tensor(codes, outputs.format))
            return
        bits = max(1, (self.network.network.classes - 1).bit_length())
        self.keep(layer, "labels", Tensor(self.targets, Format(bits, bits, False)))

    def _see_update(self, layer: str, kind: str, tensor: str, update: str, grads_name: str) -> None:
        """The random words of the update; accumulators as they were, the update in their steps."""
        grads = self.grads[layer, grads_name]
        words = self.see_words(layer, tensor, grads.shape)
        if (layer, kind) not in self.accumulators:
            return
        format = self.network.assignment.layers[layer].given()[tensor]
        before = Tensor(self.accumulators[layer, kind], format)
        self.keep(layer, f"{tensor}_before", before)
        codes = arithmetic.updates(
            grads.codes,
            grads.format,
            format,
            self.learning_rate,
            self.network.assignment.rounding_of(tensor),
            words,
        )
        self.keep(
            layer,
            update,
            Tensor(codes, arithmetic.update_format(grads.format, format, self.learning_rate)),
        )

"""All statistics of a trained float network in one call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fxsim.analysis import criteria
from fxsim.analysis.accumulators import sum_statistics
from fxsim.analysis.jacobian import largest_singular_values
from fxsim.analysis.noise_gains import layer_gains, measure_decisions
from fxsim.analysis.output_error import output_gains, output_loss
from fxsim.analysis.statistics import FLUSHABLE, GradientStatistics, Statistics
from fxsim.nn.floating.activation import LayerTape
from fxsim.nn.floating.network import FloatNetwork, Tape
from fxsim.nn.init import Parameters

Batch = tuple[np.ndarray, np.ndarray]


def measure(
    network: FloatNetwork,
    gradients: GradientStatistics,
    images: np.ndarray,
    batches: Sequence[Batch],
    gamma_min: float,
    batch: int = 64,
    held_out: Batch | None = None,
    start: Parameters | None = None,
) -> Statistics:
    """The Statistics of a trained network.

    gradients: what was observed while it was trained.  images: `(N, H, W, C)`, the sample for the
    largest magnitudes, taken `batch` at a time.  held_out: images that training has not seen, and
    their targets, for decisions, noise gains and the loss of outputs, which are taken over `images`
    as their own targets without them.  batches: images and
    targets of training batches, at least one; lambda_max is taken on the first, whose length is the
    batch size, and what may be flushed, and sums of products, on all.  gamma_min: the smallest
    learning rate of the schedule.  start: the parameters before the training, for sums of products,
    too.

    Where the network's targets are tensors, noise gains and loss are those of
    analysis/output_error.py.
    """
    training_batch = batches[0][0]
    shapes = [network.network.shape(name) for name in network.network.names]
    unseen, targets = (images, images) if held_out is None else held_out
    decisions = None
    if network.network.decides:
        decisions = measure_decisions(network, unseen, batch)
        gains = layer_gains(network.network, decisions.mean_gains())
    else:
        gains = output_gains(network, unseen, batch)
    weights_gain, activations_gain = gains
    sigmas = gradients.sigmas()
    moments = [network]
    if start is not None:
        moments.insert(0, FloatNetwork(network.network, start, network.dtype))
    measured: dict[str, Any] = {
        **sigmas,
        **largest_magnitudes(network, images, training_batch, batch),
        **largest_singular_values(network, training_batch),
        **flushable_magnitudes(network, batches),
        **sum_statistics(moments, batches, sigmas),
        **largest_parameters(network),
    }
    return Statistics(
        network=network.network.name,
        layers=network.network.names,
        **measured,
        weights_gain=weights_gain,
        activations_gain=activations_gain,
        weight_grads_count=np.array([shape.weights for shape in shapes]),
        activation_grads_count=np.array(
            [math.prod(shape.output) * len(training_batch) for shape in shapes]
        ),
        gamma_min=gamma_min,
        batch_size=len(training_batch),
        output_loss=0.0 if decisions else output_loss(network, unseen, targets),
        decisions=decisions,
    )


def flushable_magnitudes(network: FloatNetwork, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Entries of Statistics that criterion GF needs: the least over one training step from here on
    each of the batches.

    The network is left as it was.
    """
    names = network.network.names
    found = {name: np.full(len(names), np.inf) for name in FLUSHABLE}

    def see(tensor: str, layer: str, array: np.ndarray) -> None:
        entry = f"{tensor}_flushable"
        if entry in found:
            row = names.index(layer)
            found[entry][row] = min(found[entry][row], criteria.flushable_magnitude(array))

    copy = FloatNetwork(network.network, network.parameters, network.dtype)
    for step, (images, targets) in enumerate(batches):
        copy.loss_and_grads(images, targets, step=step, probe=see)
    return {name: np.where(np.isfinite(values), values, 0.0) for name, values in found.items()}


def largest_parameters(network: FloatNetwork) -> dict[str, np.ndarray]:
    """Entries of Statistics that are largest magnitudes of parameters."""
    found = {}
    for name in ("weight", "bias", "gamma", "beta"):
        own = (network.parameters[layer].get(name) for layer in network.network.names)
        most = [0.0 if array is None else float(np.abs(array).max()) for array in own]
        found["weights_max" if name == "weight" else f"{name}_max"] = np.array(most)
    return found


def largest_magnitudes(
    network: FloatNetwork, images: np.ndarray, training_batch: np.ndarray, batch: int = 64
) -> dict[str, Any]:
    """Entries of Statistics that are largest magnitudes: in inference mode, and where there is
    batch norm also in training mode, whose statistics may be others.

    preactivations_max `(layers,)` is the largest |Z|, bias included, before batch norm.  Frozen
    statistics are what a layer subtracts and divides by, and count with it and with the variances.
    """
    layers, variances, outputs = np.zeros((3, len(network.network.names)))
    scores = 0.0
    for tape in _tapes(network, images, training_batch, batch):
        scores = max(scores, float(np.abs(tape.logits).max()))
        for row, (name, entry) in enumerate(tape.layers.items()):
            operation = entry.operation + network.parameters[name].get("bias", 0.0)
            layers[row] = max(layers[row], float(np.abs(operation).max()))
            outputs[row] = max(outputs[row], _largest_output(entry))
            if entry.layer.batch_norm:
                variances[row] = max(variances[row], float(operation.var(axis=(0, 1, 2)).max()))
    for row, layer in enumerate(network.network.layers):
        if layer.norm and layer.norm.frozen:
            own = network.parameters[layer.name]
            layers[row] = max(layers[row], float(np.abs(own["running_mean"]).max()))
            variances[row] = max(variances[row], float(own["running_var"].max()))
    return {
        "preactivations_max": layers,
        "activations_max": outputs,
        "variances_max": variances,
        "logits_max": scores,
    }


def _largest_output(entry: LayerTape) -> float:
    """The largest magnitude that leaves the activation and the pooling, without dropout's scale."""
    largest = float(np.abs(entry.output).max())
    return largest * (1.0 - entry.layer.dropout) if entry.keep is not None else largest


def _tapes(
    network: FloatNetwork, images: np.ndarray, training_batch: np.ndarray, batch: int
) -> Iterator[Tape]:
    for start in range(0, len(images), batch):
        yield network.forward_tape(images[start : start + batch])
    if any(layer.batch_norm for layer in network.network.layers):
        copy = FloatNetwork(
            network.network, network.parameters, network.dtype
        )  # its running statistics move
        yield copy.forward_tape(training_batch, training=True, step=0)

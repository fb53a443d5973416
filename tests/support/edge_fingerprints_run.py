"""Prints the fingerprints of networks for small devices after ten fixed-point steps on random images.

    python tests/support/edge_fingerprints_run.py [KERNEL [NETWORK ...]]

Images and labels come from counter-based streams, as the initial weights do, and the formats are
given: nothing in it depends on a float."""

from __future__ import annotations

import sys

from fxsim import Format
from fxsim.factors import LearningRate
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.rng import Stream

NETWORKS = ("kws-dscnn", "vww-mobilenet", "jet-mlp", "ecg-convnet")
STEPS = 10
BATCH = 4
SEED = 5


def assignment(network) -> PrecisionAssignment:
    """8- to 10-bit weights, 8-bit activations, stochastic rounding of weight gradients."""
    layers = {}
    for place, name in enumerate(network.names):
        weights = Format(8 + place % 3, 0)
        layers[name] = LayerPrecision(
            weights=weights,
            activations=Format(8, 0 if place == 0 else 2, signed=False),
            activation_grads=Format(12, -4),
            weight_grads=Format(12, 0),
            accumulators=accumulator_format(weights, -20),
        )
    return PrecisionAssignment(network.name, layers, rounding={"weight_grads": "stochastic"})


def fingerprint(name: str, kernel: str = "auto") -> str:
    network = build(name)
    fixed = FixedNetwork(
        network, assignment(network), initial_parameters(network, SEED), kernel=kernel, seed=SEED
    )
    classes = network.layers[-1].units
    rate = LearningRate.of(0.1)
    for step in range(STEPS):
        images = Stream(SEED, step, "images").words((BATCH, *network.input_shape)) % 256
        labels = Stream(SEED, step, "labels").words((BATCH,)) % classes
        fixed.train_step(images.astype("int64"), labels.astype("int64"), rate, step)
    return fixed.fingerprint()


if __name__ == "__main__":
    kernel, *names = sys.argv[1:] or ["auto"]
    for name in names or NETWORKS:
        print(f"{fingerprint(name, kernel)}  {name}")

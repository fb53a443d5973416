"""Prints the fingerprint of all weights after 20 fixed-point steps on the embedded digits.

    python tests/support/fingerprint_run.py

Nothing in it depends on a float: the formats are given, the initial weights come from counter-based
streams."""

from __future__ import annotations

from fxsim import Format
from fxsim.communicator import ALONE, Communicator
from fxsim.datasets import digits
from fxsim.datasets.pixels import pixel_codes
from fxsim.factors import LearningRate
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import digits_convnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.rng import Stream

STEPS = 20
BATCH = 64
SEED = 5


def assignment(network) -> PrecisionAssignment:
    """7- to 10-bit weights, 4- to 8-bit activations, stochastic rounding of weight gradients."""
    layers = {}
    for place, name in enumerate(network.names):
        weights = Format(7 + place % 4, 0)
        layers[name] = LayerPrecision(
            weights=weights,
            activations=Format(8 - place, 0 if place == 0 else 1, signed=False),
            activation_grads=Format(11, -5),
            weight_grads=Format(10, -2),
            accumulators=accumulator_format(weights, -20),
        )
    return PrecisionAssignment(network.name, layers, rounding={"weight_grads": "stochastic"})


def fingerprint(kernel: str = "auto", communicator: Communicator = ALONE) -> str:
    network = digits_convnet()
    data = digits()
    fixed = FixedNetwork(
        network, assignment(network), initial_parameters(network, SEED), kernel=kernel, seed=SEED
    )
    codes = pixel_codes(data.pixel_max, fixed.input_format)
    rate = LearningRate.of(0.1)
    order = Stream(SEED, 0, "order").permutation(len(data.train_labels))
    for step in range(STEPS):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        batch = codes[data.train_images[chosen]], data.train_labels[chosen]
        fixed.train_step(*batch, rate, step, communicator=communicator)
    return fixed.fingerprint()


if __name__ == "__main__":
    print(fingerprint())

"""Prints the SHA-256 of all weights after 20 fixed-point steps of three networks, computed by all
ranks together.

    python tests/support/ranks_run.py
    mpiexec -n 4 python tests/support/ranks_run.py mpi

Every line is that of tests/support/ranks.txt, however many ranks there are.  Nothing in it depends
on a float: formats are given, images, labels and initial weights come from counter-based streams.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from fxsim import Conv, Dense, FixedNetwork, Format, LearningRate, Network, Pool, Stream
from fxsim.communicator import ALONE, Communicator
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import build
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from support import fingerprint_run

STEPS = 20
SEED = 5
RESIDUAL = Network(
    "residual",
    (8, 8, 3),
    (
        Conv(name="stem", filters=8, padding=1, batch_norm=True),
        Conv(name="a", filters=8, padding=1, dropout=0.25),
        Conv(name="b", filters=8, padding=1, batch_norm=True, add="stem"),
        Conv(name="short", filters=16, kernel=1, stride=2, input="b", activation="none"),
        Conv(name="c", filters=16, padding=1, stride=2, input="b", add="short"),
        Conv(name="d", filters=16, padding=1, pool=Pool("average", 4)),
        Dense(name="out", units=10, activation="none"),
    ),
)
STOCHASTIC = dict.fromkeys(
    ("accumulators", "activation_grads", "activations", "preactivation_grads", "weight_grads"),
    "stochastic",
)


def formats(place: int) -> LayerPrecision:
    """8- to 10-bit weights, 8-bit activations."""
    weights = Format(8 + place % 3, 0)
    return LayerPrecision(
        weights,
        Format(8, 2 * bool(place), False),
        Format(12, -3),
        Format(12, 0),
        accumulator_format(weights, -20),
        preactivations=Format(14, 4),
    )


def trained(
    network: Network,
    batch: int,
    communicator: Communicator,
    rounding: dict[str, str],
    optimizer: Optimizer,
    steps: int = STEPS,
) -> str:
    """The fingerprint of a network after its steps."""
    layers = {name: formats(place) for place, name in enumerate(network.names)}
    assignment = PrecisionAssignment(network.name, layers, Format(12, 3), rounding)
    real = initial_parameters(network, SEED)
    fixed = FixedNetwork(network, assignment, real, seed=SEED, optimizer=optimizer)
    rate = LearningRate.of(0.0625)
    for step in range(steps):
        images = Stream(SEED, step, "images").words((batch, *network.input_shape)) % 256
        labels = Stream(SEED, step, "labels").words((batch,)) % network.classes
        given = images.astype("int64"), labels.astype("int64")
        fixed.train_step(*given, rate, step, communicator=communicator)
    return fixed.fingerprint()


def fingerprints(communicator: Communicator) -> Iterator[tuple[str, str]]:
    """(network, fingerprint) of all three."""
    yield "digits-convnet, batch 64", fingerprint_run.fingerprint(communicator=communicator)
    narrow = build("cifar10-convnet", 1 / 16)
    rounding = {"weight_grads": "stochastic"}
    found = trained(narrow, 96, communicator, rounding, Optimizer())
    yield "cifar10-convnet of width 1/16, batch norm, batch 96", found
    found = trained(RESIDUAL, 50, communicator, STOCHASTIC, Optimizer(0.9, 0.001))
    yield "residual, batch norm, dropout, stochastic rounding, momentum, batch 50", found


if __name__ == "__main__":
    communicator: Communicator = ALONE
    if sys.argv[1:] == ["mpi"]:
        from fxsim.mpi import MpiCommunicator

        communicator = MpiCommunicator()
    for name, found in fingerprints(communicator):
        if communicator.rank == 0:
            print(f"{found}  {name}", flush=True)

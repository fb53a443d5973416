"""Prints the SHA-256 of exported golden steps, one line for each kind of network.

    python tests/support/golden_hashes_run.py > tests/support/golden_hashes.txt

Each line is the third training step of a network, exported as .npy files.  The hash covers the
names and the bytes of all files.  No float takes part, so that the lines are the same on every
machine and with every instruction path."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from fxsim.accumulator import Accumulator
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.capture import capture
from fxsim.golden.export import write_vectors
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool

STEPS = 3
BATCH = 6
SEED = 11


def plain(norm: bool) -> Network:
    """Convolutions large enough for every path, Winograd's algorithm among them."""
    return Network(
        "plain",
        (12, 12, 3),
        (
            Conv(name="c1", filters=32, padding=1, batch_norm=norm),
            Conv(name="c2", filters=32, padding=1, batch_norm=norm, pool=Pool("max", 2)),
            Conv(name="c3", filters=32, padding=1, batch_norm=norm, pool=Pool("average", 3)),
            Dense(name="d1", units=16, batch_norm=norm, dropout=0.25),
            Dense(name="d2", units=10, relu=False),
        ),
    )


RESIDUAL = Network(
    "residual",
    (8, 8, 3),
    (
        Conv(name="stem", filters=32, padding=1, batch_norm=True),
        Conv(name="a", filters=32, padding=1, batch_norm=True),
        Conv(name="b", filters=32, padding=1, batch_norm=True, add="stem"),
        Conv(name="short", filters=32, kernel=1, stride=2, input="b", relu=False),
        Conv(name="c", filters=32, padding=1, stride=2, input="b"),
        Conv(name="d", filters=32, padding=1, add="short", pool=Pool("average", 4)),
        Dense(name="out", units=7, relu=False),
    ),
)


def formats(place: int) -> LayerPrecision:
    weights = Format(7 + place % 3, 0)
    return LayerPrecision(
        weights,
        Format(8, int(place > 0), False),
        Format(10, -3),
        Format(11, 0),
        accumulator_format(weights, -18),
        preactivations=Format(14, 4),
    )


STOCHASTIC = {
    "weight_grads": "stochastic",
    "activation_grads": "stochastic",
    "accumulators": "stochastic_equal",
    "activations": "stochastic",
}
MODES = {
    "weight_grads": "nearest_even",
    "activation_grads": "floor",
    "activations": "nearest_zero",
    "bias_grads": "jam",
}
OVERFLOW = {
    "weight_grads": "wrap",
    "activation_grads": "saturate_zero",
    "activations": "saturate_symmetric",
}
ACCUMULATORS = {
    "forward": Accumulator(18),
    "input_grad": Accumulator(16, order="tree", drop=2),
    "weight_grad": Accumulator(20, "wrap", order="tiles", tile=8),
    "d1.forward": Accumulator(16, when="end"),
}
CASES = {
    "plain": (plain(False), {}),
    "batch norm": (plain(True), {}),
    "stochastic rounding": (plain(False), {"rounding": STOCHASTIC}),
    "modes": (plain(False), {"rounding": MODES, "overflow": OVERFLOW}),
    "accumulators": (plain(False), {"accumulator": ACCUMULATORS}),
    "residual": (RESIDUAL, {}),
    "residual, momentum": (RESIDUAL, {"optimizer": Optimizer(0.9, 0.001)}),
}


def golden_hash(case: str, kernel: str = "auto") -> str:
    network, options = CASES[case]
    options = dict(options)
    optimizer = options.pop("optimizer", Optimizer())
    assignment = PrecisionAssignment(
        network.name, {name: formats(k) for k, name in enumerate(network.names)}, **options
    )
    fixed = FixedNetwork(
        network, assignment, initial_parameters(network, SEED), kernel, SEED, optimizer
    )
    random = np.random.default_rng(SEED)
    rate = LearningRate.of(0.125)
    for step in range(STEPS):
        images = random.integers(0, fixed.input_format.max_code + 1, (BATCH, *network.input_shape))
        labels = random.integers(0, network.classes, BATCH)
        if step < STEPS - 1:
            fixed.train_step(images, labels, rate, step)
    golden = capture(fixed, images, labels, rate, STEPS - 1)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(golden, folder, ["npy"])
        for path in sorted(Path(folder).glob("*.npy")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    for case in CASES:
        sys.stdout.write(f"{golden_hash(case)}  {case}\n")

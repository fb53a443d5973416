"""One training step of the CIFAR-10 ConvNet in true fixed point against PyTorch's float32 step and
QPyTorch's.

    python benchmarks/bench_step.py [--json FILE] [--batch 128] [--repeats 10] [--no-batch-norm] [--quick]

All steps take turns in one process with the same threads, a few in a row each: fxsim in fixed point
and in float32, PyTorch float32 (default and channels_last layout; the faster counts), and QPyTorch
with the same bits where it is installed. Before timing, the fixed-point step is checked: the vector
path and the plain path give the same fingerprint."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from machine import machine
from timing import burst_seconds

from fxsim.factors import LearningRate
from fxsim.files import write_text
from fxsim.formats import Format
from fxsim.kernels.threads import thread_count
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import cifar10_convnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network

WEIGHT_BITS = (9, 10, 11, 11, 12, 12, 13, 14, 11)
ACTIVATION_BITS = (8, 7, 7, 6, 6, 5, 5, 4, 4)
GRAD_BITS = (14, 13, 13, 12, 12, 11, 10, 9, 8)
"""An assignment of the kind the method gives.

Weights 9-14 bits, activations 4-8, gradients 8-14.
"""

TARGET_TORCH = 2.0
TARGET_QTORCH = 6.0
TARGET_FLOAT = 1.3


def without_batch_norm(network: Network) -> Network:
    layers = tuple(dataclasses.replace(layer, batch_norm=False) for layer in network.layers)
    return Network(network.name, network.input_shape, layers)


def assignment(network: Network) -> PrecisionAssignment:
    layers = {}
    for i, name in enumerate(network.names):
        weights = Format(WEIGHT_BITS[i], 0)
        grads = Format(GRAD_BITS[i], -6)
        layers[name] = LayerPrecision(
            weights=weights,
            activations=Format(ACTIVATION_BITS[i], 0 if i == 0 else 1, signed=False),
            activation_grads=grads,
            weight_grads=Format(12, -4),
            accumulators=accumulator_format(weights, -24),
        )
    return PrecisionAssignment(network.name, layers)


def fixed_step(network, batch, kernel="auto"):
    fixed = FixedNetwork(
        network, assignment(network), initial_parameters(network, 0), kernel=kernel
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *network.input_shape)).astype(np.int16)
    labels = rng.integers(0, 10, batch)
    rate = LearningRate.of(0.01)
    return fixed, lambda: fixed.train_step(images, labels, rate, 0)


def float_step(network, batch):
    executor = FloatNetwork(network, initial_parameters(network, 0))
    rng = np.random.default_rng(0)
    images = rng.random((batch, *network.input_shape), np.float32)
    labels = rng.integers(0, 10, batch)
    return lambda: executor.train_step(images, labels, 0.01, step=0)


def torch_step(network, batch, channels_last, quantizer=None):
    """PyTorch's step of the same network.

    Quantizer(bits of A, bits of G) -> module, for QPyTorch.
    """
    import torch

    torch.set_num_threads(thread_count())
    modules = []
    for i, layer in enumerate(network.layers):
        shape = network.shape(layer.name)
        if len(shape.weight) == 4:
            modules.append(
                torch.nn.Conv2d(
                    shape.input[2], shape.weight[3], layer.kernel, bias=not layer.batch_norm
                )
            )
            if layer.batch_norm:
                modules.append(torch.nn.BatchNorm2d(shape.weight[3]))
        else:
            if len(network.shape(network.layers[i - 1].name).weight) == 4:
                modules.append(torch.nn.Flatten())
            modules.append(torch.nn.Linear(*shape.weight))
        if layer.activation.is_relu:
            modules.append(torch.nn.Hardtanh(0.0, 2.0))
        if quantizer:
            modules.append(quantizer(ACTIVATION_BITS[min(i + 1, 8)], GRAD_BITS[i]))
        if layer.pool:
            modules.append(torch.nn.MaxPool2d(layer.pool.size))
    model = torch.nn.Sequential(*modules)
    images = torch.rand(batch, 3, 32, 32)
    labels = torch.randint(0, 10, (batch,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loss = torch.nn.CrossEntropyLoss()
    if quantizer:
        optimizer = _low_precision(optimizer)

    def step():
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()

    return step


def _low_precision(optimizer):
    from qtorch import FixedPoint
    from qtorch.optim import OptimLP
    from qtorch.quant import quantizer

    def fixed(bits):
        return quantizer(forward_number=FixedPoint(bits, bits - 1), forward_rounding="nearest")

    return OptimLP(optimizer, weight_quant=fixed(12), grad_quant=fixed(12), acc_quant=fixed(24))


def qtorch_quantizer(activation_bits, grad_bits):
    from qtorch import FixedPoint
    from qtorch.quant import Quantizer

    return Quantizer(
        FixedPoint(activation_bits, activation_bits - 1),
        FixedPoint(grad_bits, grad_bits + 5),
        "nearest",
        "nearest",
    )


def contenders(network, batch) -> dict:
    steps = {
        "fxsim fixed": fixed_step(network, batch)[1],
        "fxsim float32": float_step(network, batch),
    }
    try:
        steps["torch"] = torch_step(network, batch, False)
        steps["torch channels_last"] = torch_step(network, batch, True)
    except ImportError as error:
        print(f"not measured: {error}; pip install torch", file=sys.stderr)
        return steps
    try:
        steps["qtorch"] = torch_step(network, batch, False, qtorch_quantizer)
    except Exception as error:  # QPyTorch compiles C++ on import and may fail in many ways
        print(f"QPyTorch not measured: {type(error).__name__}: {error}", file=sys.stderr)
    return steps


def check(network) -> None:
    """The vector path and the plain path end two steps on two images with the same bits."""
    prints = set()
    for kernel in ("auto", "plain"):
        fixed, step = fixed_step(network, 2, kernel)
        step(), step()
        prints.add(fixed.fingerprint())
    if len(prints) != 1:
        sys.exit("the kernel paths differ: no timing")


def ratios(seconds: dict[str, float]) -> list[dict]:
    rows = []
    torch = min(
        (value for name, value in seconds.items() if name.startswith("torch")), default=None
    )
    if torch:
        rows.append(
            {
                "what": "PyTorch float32 step / fixed-point step",
                "ratio": torch / seconds["fxsim fixed"],
                "target": f">= {TARGET_TORCH}",
            }
        )
        rows.append(
            {
                "what": "fxsim float32 step / PyTorch float32 step",
                "ratio": seconds["fxsim float32"] / torch,
                "target": f"<= {TARGET_FLOAT}",
            }
        )
    if "qtorch" in seconds:
        rows.append(
            {
                "what": "QPyTorch step / fixed-point step",
                "ratio": seconds["qtorch"] / seconds["fxsim fixed"],
                "target": f">= {TARGET_QTORCH}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10, help="rounds of three steps each")
    parser.add_argument("--no-batch-norm", action="store_true", help="leave it out of all steps")
    parser.add_argument("--quick", action="store_true", help="batch 16, 2 rounds")
    arguments = parser.parse_args()
    batch, repeats = (16, 2) if arguments.quick else (arguments.batch, arguments.repeats)
    network = cifar10_convnet()
    if arguments.no_batch_norm:
        network = without_batch_norm(network)
    check(network)
    seconds = burst_seconds(contenders(network, batch), repeats)
    rows = ratios(seconds)
    for name, value in seconds.items():
        print(f"{name:22} {1e3 * value:8.1f} ms  {batch / value:7.0f} images/s")
    for row in rows:
        print(f"{row['what']:45} {row['ratio']:6.2f}  target {row['target']}")
    if arguments.json:
        result = {
            "command": "python " + " ".join(sys.argv),
            "machine": machine(),
            "threads": thread_count(),
            "batch": batch,
            "seconds": seconds,
            "ratios": rows,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The float training step of cifar10-convnet against PyTorch's float32 step of the same network.

    python benchmarks/bench_float_step.py --batch 128 --threads 2 [--json]

PyTorch runs in both memory formats, interleaved with fxsim in one process; its better time counts.
Before anything is timed, one step from the same parameters must give both the same loss and the
same weights."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from machine import machine
from torch import nn

from fxsim.kernels.threads import use_threads
from fxsim.nn.floating import products as floating_products
from fxsim.nn.floating.network import AFFINE_MAX, FloatNetwork
from fxsim.nn.init import WEIGHT_MAX, initial_parameters
from fxsim.nn.networks import build
from fxsim.nn.spec import Conv, Network

RATE = 0.01


def torch_model(network: Network, parameters: dict) -> nn.Sequential:
    """The network with the same parameters.

    Layers of a chain with batch norm, ReLU and max pooling.
    """
    modules: list[nn.Module] = []
    for layer in network.layers:
        own = {
            name: torch.tensor(array, dtype=torch.float32)
            for name, array in parameters[layer.name].items()
        }
        channels = network.shape(layer.name).input[2]
        outputs = network.shape(layer.name).pre[2]
        if isinstance(layer, Conv):
            weighted = nn.Conv2d(
                channels, outputs, layer.kernel, layer.stride, layer.padding, bias=layer.has_bias
            )
            weight = own["weight"].permute(3, 2, 0, 1)
            norm = nn.BatchNorm2d
        else:
            modules.append(nn.Flatten())
            weighted = nn.Linear(network.shape(layer.name).dot_length, outputs, bias=layer.has_bias)
            weight = own["weight"].T
            norm = nn.BatchNorm1d
        weighted.weight.data.copy_(weight)
        modules.append(weighted)
        if layer.has_bias:
            weighted.bias.data.copy_(own["bias"])
        if layer.batch_norm:
            modules.append(norm(outputs, eps=layer.norm.epsilon, momentum=layer.norm.running_rate))
        if layer.activation.is_relu:
            modules.append(nn.Hardtanh(*layer.activation.float_range, inplace=True))
        if layer.pool:
            modules.append(nn.MaxPool2d(layer.pool.size))
    return nn.Sequential(*modules)


class TorchStep:
    """A training step in PyTorch that ends, as ours does, by clipping the parameters."""

    def __init__(
        self,
        network: Network,
        parameters: dict,
        images: np.ndarray,
        memory_format: torch.memory_format,
    ):
        self.model = torch_model(network, parameters).to(memory_format=memory_format)
        self.images = (
            torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)

    def __call__(self, labels: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.images), labels)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for module in self.model:
                affine = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
                for parameter in module.parameters():
                    parameter.clamp_(*((-2.0, AFFINE_MAX) if affine else (-1.0, WEIGHT_MAX)))
        return float(loss.detach())


def check_same(
    parameters: dict, ours: FloatNetwork, our_loss: float, step: TorchStep, torch_loss: float
) -> None:
    """After one step the losses agree, and for every layer the change of the weights; a SystemExit
    says which do not.

    A pre-activation beside a clip boundary may fall on either side, which changes a gradient here
    and there."""
    if not np.isclose(our_loss, torch_loss, rtol=1e-5):
        raise SystemExit(f"loss {our_loss} differs from PyTorch's {torch_loss}")
    weighted = [module for module in step.model if isinstance(module, (nn.Conv2d, nn.Linear))]
    for (name, own), module in zip(ours.parameters.items(), weighted):
        weight = module.weight.detach().numpy()
        before = parameters[name]["weight"].astype(np.float32)
        wanted = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        error = np.linalg.norm(own["weight"] - wanted) / np.linalg.norm(wanted - before)
        if error > 0.03:
            raise SystemExit(
                f"{name}: the change of the weights differs from PyTorch's by {100 * error:.2g} %"
            )


def measure(batch: int, threads: int, repeats: int) -> dict:
    network = build("cifar10-convnet")
    parameters = initial_parameters(network, 1)
    rng = np.random.default_rng(0)
    images = rng.random((batch, *network.input_shape), np.float32)
    labels = rng.integers(0, network.classes, batch)
    ours = FloatNetwork(network, parameters)
    formats = {"torch": torch.contiguous_format, "torch channels_last": torch.channels_last}
    peers = {name: TorchStep(network, parameters, images, kind) for name, kind in formats.items()}
    torch_labels = torch.tensor(labels)
    first = ours.train_step(images, labels, RATE, step=0)
    for step in peers.values():
        check_same(parameters, ours, first.loss, step, step(torch_labels))
    works = {"fxsim": lambda: ours.train_step(images, labels, RATE, step=0)}
    works |= {name: lambda step=step: step(torch_labels) for name, step in peers.items()}
    seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    macs = 3 * batch * sum(network.shape(name).macs for name in network.names)
    return {
        "network": network.name,
        "batch": batch,
        "threads": threads,
        "path": floating_products.PATH or "numpy",
        "best_seconds": best,
        "median_seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "gmac_per_second": {name: macs / time / 1e9 for name, time in best.items()},
        "ratio_to_torch": best["fxsim"] / min(best[name] for name in peers),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.batch, arguments.threads, arguments.repeats)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for name, seconds in result["best_seconds"].items():
        print(
            f"{name:<20} {1e3 * seconds:7.1f} ms best {1e3 * result['median_seconds'][name]:7.1f} "
            f"ms median "
            f"{result['gmac_per_second'][name]:6.1f} GMAC/s"
        )
    print(f"fxsim ({result['path']}) takes {result['ratio_to_torch']:.2f} of PyTorch's time")


if __name__ == "__main__":
    main()

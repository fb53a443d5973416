"""Depthwise convolutions in fixed point against PyTorch's in float32: forward and both gradients.

    python benchmarks/bench_depthwise.py [--json FILE] [--batch 64] [--repeats 20] [--quick]

The layers are those of `kws-dscnn` and `vww-mobilenet`, with 8-bit activations and weights and 12-bit
gradients.  fxsim's products are rounded to codes, with all counts; PyTorch's are sums alone, in the
faster of its two layouts.  All take turns in one process with the same threads.  Before timing, the
exact sums of the three products are compared with PyTorch's, of codes that float32 adds exactly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from runs import write_result
from timing import burst_seconds

from fxsim import Format, Quantizer
from fxsim.kernels.threads import thread_count
from fxsim.nn.geometry import geometry_of
from fxsim.nn.networks import build
from fxsim.ops.products import Forward, Geometry, InputGrad, WeightGrad

NETWORKS = ("kws-dscnn", "vww-mobilenet")
KINDS = ("forward", "input_grad", "weight_grad")
X = Format(8, 1, signed=False)
WEIGHT = Format(8, 0)
GRAD = Format(12, -6)
TARGET = 1.0
"""PyTorch's time over fxsim's, of all layers of a network."""


def layers_of(name: str) -> dict[str, tuple[Geometry, int]]:
    """Label -> geometry of each depthwise layer, and how many there are of it."""
    network = build(name)
    found: dict[Geometry, int] = {}
    for layer in network.layers:
        geometry = geometry_of(layer, network.shape(layer.name))
        if geometry.groups > 1:
            found[geometry] = found.get(geometry, 0) + 1
    return {label(geometry): (geometry, count) for geometry, count in found.items()}


def label(geometry: Geometry) -> str:
    stride = geometry.window.stride[0]
    return f"{geometry.height}x{geometry.width}x{geometry.channels} stride {stride}"


def codes_of(format: Format, shape: tuple[int, ...], small: bool) -> np.ndarray:
    """Random codes; small ones are of 4 bits, whose sums float32 holds."""
    low, high = (-8, 8) if small else (format.min_code, format.max_code + 1)
    rng = np.random.default_rng(len(shape))
    return rng.integers(max(low, format.min_code), high, shape).astype(np.int16)


def operands_of(geometry: Geometry, batch: int, small: bool = False) -> tuple[np.ndarray, ...]:
    """(x, weight, grad) as arrays."""
    return (
        codes_of(X, (batch, *geometry.input), small),
        codes_of(WEIGHT, geometry.weight, small),
        codes_of(GRAD, (batch, *geometry.output), small),
    )


def products(geometry: Geometry, arrays: tuple[np.ndarray, ...]) -> dict:
    """Kind -> a function that gives the exact result."""
    x, weight, grad = arrays
    forward = Forward(X, WEIGHT, geometry)
    input_grad = InputGrad(GRAD, WEIGHT, geometry)
    weight_grad = WeightGrad(X, GRAD, geometry)
    return {
        "forward": lambda: forward(x, weight),
        "input_grad": lambda: input_grad(grad, weight),
        "weight_grad": lambda: weight_grad(x, grad),
    }


def peers(geometry: Geometry, arrays: tuple[np.ndarray, ...], channels_last: bool) -> dict:
    """Kind -> a function that gives PyTorch's result (N, C, H, W)."""
    import torch

    form = torch.channels_last if channels_last else torch.contiguous_format
    x, weight, grad = (
        torch.tensor(np.ascontiguousarray(array.transpose(axes), np.float32)).to(memory_format=form)
        for array, axes in zip(arrays, ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)))
    )
    top, bottom, left, right = geometry.window.padding
    around = [top, left]
    if (top, left) != (bottom, right):  # PyTorch has the same on both sides only
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        x = padded.contiguous(memory_format=form)
        around = [0, 0]
    stride = list(geometry.window.stride)
    groups = geometry.groups

    def backward(*wanted: bool):
        given = (None, stride, around, [1, 1], False, [0, 0], groups, [*wanted, False])
        return torch.ops.aten.convolution_backward(grad, x, weight, *given)

    def input_grad():
        found = backward(True, False)[0]
        if around == [0, 0]:
            found = found[:, :, top : top + geometry.height, left : left + geometry.width]
        return found

    return {
        "forward": lambda: torch.conv2d(x, weight, None, stride, around, [1, 1], groups),
        "input_grad": input_grad,
        "weight_grad": lambda: backward(False, True)[1],
    }


def check(geometry: Geometry) -> None:
    arrays = operands_of(geometry, 2, small=True)
    theirs = peers(geometry, arrays, False)
    for kind, exact in products(geometry, arrays).items():
        axes = (2, 3, 1, 0) if kind == "weight_grad" else (0, 2, 3, 1)
        if not np.array_equal(exact().tensor().codes, theirs[kind]().numpy().transpose(axes)):
            sys.exit(f"{kind} of {label(geometry)} differs from PyTorch's: no timing")


def works_of(geometry: Geometry, batch: int) -> dict:
    """(kind, who) -> work."""
    arrays = operands_of(geometry, batch)
    works = {}
    for kind, exact in products(geometry, arrays).items():
        format = exact().format
        quantizer = Quantizer(Format(8, format.range_exp - 4), counted=lambda counts: None)
        works[kind, "fxsim"] = lambda exact=exact, quantizer=quantizer: exact().rounded(
            quantizer, relu=False
        )
    for layout, channels_last in (("torch", False), ("torch channels_last", True)):
        for kind, work in peers(geometry, arrays, channels_last).items():
            works[kind, layout] = work
    return works


def measured(geometry: Geometry, batch: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Kind -> seconds of fxsim and of PyTorch."""
    seconds = burst_seconds(works_of(geometry, batch), repeats, pause=0.02)
    return {
        kind: (
            seconds[kind, "fxsim"],
            min(seconds[kind, "torch"], seconds[kind, "torch channels_last"]),
        )
        for kind in KINDS
    }


def rows_of(network: str, batch: int, repeats: int) -> list[dict]:
    totals = {kind: np.zeros(2) for kind in KINDS}
    rows = []
    for name, (geometry, count) in layers_of(network).items():
        check(geometry)
        for kind, pair in measured(geometry, batch, repeats).items():
            totals[kind] += count * np.array(pair)
            rows.append(row(network, name, kind, *pair))
    return rows + [row(network, "all layers", kind, *pair) for kind, pair in totals.items()]


def row(network: str, layer: str, kind: str, own: float, torch: float) -> dict:
    print(
        f"{network:14} {layer:22} {kind:12} {1e3 * own:7.3f} ms, PyTorch {1e3 * torch:7.3f} ms, "
        f"ratio {torch / own:5.2f}"
    )
    return {
        "network": network,
        "layer": layer,
        "product": kind,
        "seconds": own,
        "torch_seconds": torch,
        "ratio": torch / own,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="name of a file in benchmarks/results")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20, help="rounds of three calls each")
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"{error}; pip install torch")
    torch.set_num_threads(thread_count())
    torch.set_grad_enabled(False)
    rounds = 3 if arguments.quick else arguments.repeats
    rows = [each for network in NETWORKS for each in rows_of(network, arguments.batch, rounds)]
    print(f"target of all layers: ratio >= {TARGET}")
    if arguments.json:
        write_result(
            arguments.json.stem, target=TARGET, batch=arguments.batch, rounds=rounds, rows=rows
        )


if __name__ == "__main__":
    main()

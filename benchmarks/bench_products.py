"""Exact integer products against NumPy's float32 `@` and PyTorch's int8 product; the convolutions
of a training step.

    python benchmarks/bench_products.py [--json FILE] [--quick]

Every result is checked before it is timed; peers run in turn, each with two threads.  The
convolutions are those of the CIFAR-10 ConvNet as a step runs them, packing and epilogue included;
their share is of the rate of the square product by the same path.  Roofline: the peak of a path is
that of its instructions on operands that stay in the first-level cache, on all threads, measured in
turn with the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_step import assignment, without_batch_norm
from machine import machine
from peaks import peak_works
from timing import best_seconds

from fxsim.files import write_text
from fxsim.formats import Format
from fxsim.kernels.products import amx_conv as byte_products
from fxsim.kernels.products.matmul import gemm
from fxsim.kernels.products.paths import Operand, plan
from fxsim.kernels.threads import thread_count
from fxsim.nn.fixed.layer import FixedLayer, Output
from fxsim.nn.layer_precision import accumulator_format
from fxsim.nn.networks import cifar10_convnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.ops.paths import forward_paths
from fxsim.quantizer import Quantizer

FORMATS = {
    "14-bit by 8-bit": (Format(14, 13), Format(8, 7)),
    "8-bit by 8-bit": (Format(8, 8, False), Format(8, 7)),
}
TARGETS = {"14-bit by 8-bit": 1.8, "8-bit by 8-bit": 3.0}
TORCH_TARGET = 0.9
SHARE_TARGET = 0.6
KIND = {"int8_amx": "8-bit by 8-bit", "int8_vnni": "8-bit by 8-bit"}
"""Path -> the square product of its kind; any other path is of the 14-bit kind."""


def random_codes(format: Format, shape, seed: int) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(
        format.min_code, format.max_code, shape, endpoint=True
    )
    return codes.astype(format.storage)


def square_product(name: str, size: int, kernel: str = "auto"):
    """(path, work) of an exact size x size x size product, its result checked in float64, exact
    below 2**53.
    """
    formats = FORMATS[name]
    a, b = (random_codes(format, (size, size), seed) for seed, format in enumerate(formats))
    left, right = (Operand(format.bits, format.signed) for format in formats)
    chosen = plan(left, right, size, forward_paths(), kernel)
    if chosen.path.startswith("int8"):
        a = a.astype(np.uint8)
        b = b.astype(np.int8)
    out = np.empty((size, size), np.int32 if chosen.fits_int32 else np.int64)

    def work():
        if chosen.path.endswith("amx"):
            byte_products.gemm(a, b, out, left=left, right=right)
        else:
            gemm(a, b, out, spill_terms=chosen.spill_terms, path=chosen.path.split("_")[-1])

    work()
    if not np.array_equal(out, a.astype(np.float64) @ b.astype(np.float64)):
        sys.exit(f"the {name} product differs from float64's: no timing")
    return chosen.path, work


def numpy_product(size: int):
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty((size, size), np.float32)
    return lambda: np.matmul(a, b, out=out)


def torch_product(size: int):
    """PyTorch's int8 product into int32, or None if PyTorch is not installed."""
    try:
        import torch
    except ImportError as error:
        print(f"PyTorch not measured: {error}", file=sys.stderr)
        return None
    torch.set_num_threads(thread_count())
    a, b = (
        torch.from_numpy(random_codes(Format(8, 7), (size, size), seed).astype(np.int8))
        for seed in (0, 1)
    )
    return lambda: torch._int_mm(a, b)


def squares(size: int, repeats: int) -> tuple[dict, dict, dict]:
    """({product or path: GMAC/s}, {product: path}, {path: GMAC/s at its peak})."""
    works = {"numpy float32": numpy_product(size)}
    paths = {}
    for name in FORMATS:
        paths[name], works[name] = square_product(name, size)
    for path in forward_paths():
        if path.endswith(("amx", "vnni")) and path.startswith("int"):
            _, works[path] = square_product(KIND.get(path, "14-bit by 8-bit"), size, path)
    torch = torch_product(size)
    if torch:
        works["torch int8"] = torch
    peaks = peak_works(forward_paths())
    seconds = best_seconds(
        works | {f"peak {path}": work for path, (work, _) in peaks.items()}, repeats
    )
    return (
        {name: size**3 / seconds[name] / 1e9 for name in works},
        paths,
        {path: products / seconds[f"peak {path}"] / 1e9 for path, (_, products) in peaks.items()},
    )


def square_rows(rates: dict) -> list[dict]:
    rows = [
        {
            "what": f"exact product, {name}, / NumPy float32 @",
            "ratio": rates[name] / rates["numpy float32"],
            "target": f">= {target}",
        }
        for name, target in TARGETS.items()
    ]
    if "torch int8" in rates:
        rows.append(
            {
                "what": "exact product, 8-bit by 8-bit, / PyTorch int8",
                "ratio": rates["8-bit by 8-bit"] / rates["torch int8"],
                "target": f">= {TORCH_TARGET}",
            }
        )
    return rows


def with_byte_weights(network) -> PrecisionAssignment:
    """The assignment of the step, with 8-bit weights."""
    weights = Format(8, 0)
    layers = assignment(network).layers
    return PrecisionAssignment(
        network.name,
        {
            name: replace(layer, weights=weights, accumulators=accumulator_format(weights, -24))
            for name, layer in layers.items()
        },
    )


class LayerWorks:
    """The three products of one layer on `batch` random inputs, as a training step calls them."""

    def __init__(self, network, name: str, assignment: PrecisionAssignment, path: str, batch: int):
        self.layer = fixed_layer(network, name, assignment, path)
        self.shape = network.shape(name)
        formats = assignment.layers[name]
        geometry = self.layer.forward_product.geometry
        self.source = random_codes(formats.activations, (batch, *geometry.input), 0)
        self.weight = random_codes(formats.weights, geometry.weight, 1)
        self.grad = random_codes(self.layer.pre_format, (batch, *geometry.output), 2)
        self.bias = np.zeros(geometry.outputs, np.int16)
        sums = self.layer.forward_product.format.step_exp
        self.activations = Quantizer(Format(8, sums + 18, False))
        self.activation_grads = Quantizer(formats.activation_grads)
        self.weight_grads = Quantizer(formats.weight_grads)

    def path_of(self, what: str, batch: int) -> str:
        if what == "weight_grad":
            return self.layer.weight_grad.plan_of(batch).path
        product = self.layer.forward_product if what == "forward" else self.layer.input_grad
        return product.plan.path

    def forward(self):
        exact = self.layer.forward_product(self.source, self.weight, self.bias)
        return exact.rounded(self.activations, self.layer.layer.activation.is_relu)[0]

    def input_grad(self):
        exact = self.layer.input_grad(self.grad, self.weight)
        return exact.rounded(self.activation_grads, relu=False)[0]

    def weight_grad(self):
        exact = self.layer.weight_grad(self.source, self.grad)
        return exact.rounded(self.weight_grads, relu=False)[0]


def fixed_layer(network, name: str, assignment: PrecisionAssignment, path: str) -> FixedLayer:
    """The layer of a network as a training step computes it."""
    output = Output(name, "activations", Format(8, 1, False))
    return FixedLayer(network, name, assignment, output, None, path)


def layer_works(network, formats_of: PrecisionAssignment, batch: int) -> dict[str, LayerWorks]:
    """By layer, checked: on three images the vector path and the plain path give the same codes."""
    works = {}
    for name in formats_of.layers:
        auto, plain = (LayerWorks(network, name, formats_of, path, 3) for path in ("auto", "plain"))
        for what in (product.kind for product in auto.layer.weighted):
            if not np.array_equal(getattr(auto, what)(), getattr(plain, what)()):
                sys.exit(f"{what} of {name} differs between the kernel paths: no timing")
        works[name] = LayerWorks(network, name, formats_of, "auto", batch)
    return works


def convolution_rows(network, rates: dict, batch: int, repeats: int) -> list[dict]:
    """Rate of every product of every layer, and its share of the square product of its kind."""
    rows = []
    for bits, formats, whats in (
        ("", assignment(network), ("forward", "input_grad", "weight_grad")),
        (", 8-bit weights", with_byte_weights(network), ("forward",)),
    ):
        for name, work in layer_works(network, formats, batch).items():
            chosen = {
                what: getattr(work, what)
                for what in whats
                if what != "input_grad" or name != network.names[0]
            }  # an image needs no gradient
            for what, seconds in best_seconds(chosen, repeats, pause=0.0).items():
                path = work.path_of(what, batch)
                rate = batch * work.shape.macs / seconds / 1e9
                rows.append(
                    {
                        "what": f"{name} {what}{bits}",
                        "path": path,
                        "gmac_per_second": rate,
                        "ratio": rate / rates.get(path, rates[KIND.get(path, "14-bit by 8-bit")]),
                        "target": f">= {SHARE_TARGET}" if name.startswith("conv") else "none",
                    }
                )
    return rows


def add_peak_shares(rows: list[dict], peaks: dict) -> None:
    """Of the peak of the path.

    More than 1 where Winograd's algorithm makes fewer products than are counted.
    """
    for row in rows:
        if row["path"] in peaks:
            row["peak_share"] = row["gmac_per_second"] / peaks[row["path"]]


def roofline(rates: dict, peaks: dict) -> list[dict]:
    return [
        {
            "what": f"{KIND.get(path, '14-bit by 8-bit')} product by {path} / peak of its "
            f"instructions",
            "ratio": rates[path] / peak,
            "target": "none",
            "peak_gmac_per_second": peak,
        }
        for path, peak in peaks.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="512^3, batch 8, 2 repeats")
    arguments = parser.parse_args()
    size, batch, repeats = (512, 8, 2) if arguments.quick else (2048, 128, 30)
    rates, paths, peaks = squares(size, repeats)
    layers = convolution_rows(without_batch_norm(cifar10_convnet()), rates, batch, repeats)
    add_peak_shares(layers, peaks)
    rows = [*square_rows(rates), *roofline(rates, peaks), *layers]
    for name, rate in rates.items():
        print(f"{name:20} {rate:7.1f} GMAC/s  {paths.get(name, '')}")
    for row in rows:
        rate = f"{row['gmac_per_second']:7.1f} GMAC/s  {row['path']:10}" if "path" in row else ""
        print(f"{row['what']:70} {row['ratio']:6.2f}  target {row['target']:7} {rate}")
    if arguments.json:
        result = {
            "command": "python " + " ".join(sys.argv),
            "machine": machine(),
            "threads": thread_count(),
            "size": size,
            "batch": batch,
            "gmac_per_second": rates,
            "paths": paths,
            "ratios": rows,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

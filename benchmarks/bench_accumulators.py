"""What every kind of accumulator costs against the exact product: a square product, and a layer of
the CIFAR-10 ConvNet.

    python benchmarks/bench_accumulators.py [--json FILE] [--quick]

The sums of the first rows are checked against NumPy, an addition at a time, before anything is
timed.  Codes are random over their whole range, so that accumulators do overflow; the last one
never can, and is made as the exact product."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from bench_products import random_codes
from bench_step import assignment, without_batch_norm
from machine import machine
from timing import best_seconds

from fxsim.accumulator import Accumulator
from fxsim.files import write_text
from fxsim.formats import Format
from fxsim.kernels.products.matmul import gemm
from fxsim.kernels.products.paths import Operand, plan
from fxsim.kernels.threads import thread_count
from fxsim.nn.geometry import geometry_of
from fxsim.nn.networks import cifar10_convnet
from fxsim.ops.accumulation import accumulate, bounded
from fxsim.ops.paths import available_paths
from fxsim.ops.products import Forward
from fxsim.quantizer import Quantizer

MODELS = (
    "16 bits",
    "16 bits, wrap",
    "16 bits, tiles of 16",
    "16 bits, tree",
    "16 bits, saturate at the end",
    "14 bits, nearest_even 2",
    "14 bits, tiles of 16, nearest_even 2",
    "14 bits, tree, nearest_even 2",
    "40 bits, tree",
)
LAYER = "conv2"
CHECKED_ROWS = 4


def reference(a: np.ndarray, b: np.ndarray, model: Accumulator) -> np.ndarray:
    """The sums of a few rows, for the overflows and roundings of MODELS."""
    low, high = model.range()

    def bound(sums):
        return (
            (sums - low) % (high - low + 1) + low
            if model.overflow == "wrap"
            else np.clip(sums, low, high)
        )

    terms = a[:, :, None].astype(np.int64) * b
    half = 2**model.drop // 2
    odd = terms >> model.drop & 1
    terms = terms + (half - 1 + odd if model.drop else 0) >> model.drop
    if model.at_end:
        return bound(terms.sum(axis=1))
    if model.order == "tree":
        terms = bound(
            np.pad(
                terms,
                ((0, 0), (0, 2 ** (terms.shape[1] - 1).bit_length() - terms.shape[1]), (0, 0)),
            )
        )
        while terms.shape[1] > 1:
            terms = bound(terms[:, ::2] + terms[:, 1::2])
        return terms[:, 0]
    sums = 0
    tile = model.tile or 1
    for start in range(0, terms.shape[1], tile):
        sums = bound(sums + terms[:, start : start + tile].sum(axis=1))
    return sums


def square_works(size: int) -> dict:
    """Text of an accumulator, or 'exact' -> work on a size x size x size product of 8-bit codes."""
    a, b = (random_codes(Format(8, 7), (size, size), seed) for seed in (0, 1))
    chosen = plan(Operand(8), Operand(8), size, available_paths())
    out = np.empty((size, size), np.int32 if chosen.fits_int32 else np.int64)
    works = {
        "exact": lambda: gemm(
            a, b, out, spill_terms=chosen.spill_terms, path=chosen.path.split("_")[-1]
        )
    }
    for text in MODELS[:-1]:
        model = Accumulator.parse(text)
        works[text] = lambda model=model: bounded(accumulate(a, b, model)[0], model)[0]
        if not np.array_equal(works[text]()[:CHECKED_ROWS], reference(a[:CHECKED_ROWS], b, model)):
            sys.exit(f"sums in an accumulator of {text} are wrong: no timing")
    return works


def layer_works(batch: int) -> tuple[dict, float]:
    """(text of an accumulator, or 'exact' -> the forward product of LAYER with its epilogue.

    10^9 products).
    """
    network = without_batch_norm(cifar10_convnet())
    formats = assignment(network).layers[LAYER]
    shape = network.shape(LAYER)
    geometry = geometry_of(network.layer(LAYER), shape)
    source = random_codes(formats.activations, (batch, *shape.input), 0)
    weight = random_codes(formats.weights, shape.weight, 1)
    bias = np.zeros(shape.weight[-1], np.int16)
    works = {}
    for text in ("exact", *MODELS):
        model = None if text == "exact" else Accumulator.parse(text)
        product = Forward(
            formats.activations, formats.weights, geometry, "auto", model, formats.bias
        )
        quantizer = Quantizer(Format(8, product.format.step_exp + 18, False))
        works[text] = lambda product=product, quantizer=quantizer: product(
            source, weight, bias
        ).rounded(quantizer, relu=True)[0]
    if not np.array_equal(works["exact"](), works[MODELS[-1]]()):
        sys.exit(f"an accumulator of {MODELS[-1]} does not give the exact product: no timing")
    return works, batch * shape.macs / 1e9


def rows_of(what: str, works: dict, giga_products: float, repeats: int) -> list[dict]:
    """Seconds of each accumulator over those of the exact product."""
    seconds = best_seconds(works, repeats)
    return [
        {
            "what": f"{what}, accumulator of {text}, time / exact",
            "ratio": value / seconds["exact"],
            "target": "none",
            "giga_products_per_second": giga_products / value,
        }
        for text, value in seconds.items()
        if text != "exact"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="128^3, batch 4, 2 repeats")
    arguments = parser.parse_args()
    size, batch, repeats = (128, 4, 2) if arguments.quick else (512, 32, 10)
    layer, giga_products = layer_works(batch)
    rows = [
        *rows_of(f"{size}^3 product", square_works(size), size**3 / 1e9, repeats),
        *rows_of(f"forward pass of {LAYER}", layer, giga_products, repeats),
    ]
    for row in rows:
        print(
            f"{row['what']:100} {row['ratio']:7.2f}  {row['giga_products_per_second']:7.2f} G "
            f"products/s"
        )
    if arguments.json:
        result = {
            "command": "python " + " ".join(sys.argv),
            "machine": machine(),
            "threads": thread_count(),
            "size": size,
            "batch": batch,
            "ratios": rows,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Requantization and ordered saturating accumulation against APyTypes.

    python benchmarks/bench_elementwise.py [--json FILE] [--quick]

Requantized codes are checked against APyTypes before they are timed.  Saturating sums are checked
against an addition at a time in NumPy, not against APyTypes: its accumulator context loses bits
where a running sum overflows (its issue 857), so that only its time is comparable.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from machine import machine
from timing import burst_seconds

from fxsim.files import write_text
from fxsim.formats import Format
from fxsim.kernels.accumulators.saturating import NO_ROUNDING, accumulate_saturating
from fxsim.kernels.rounding import SATURATE, Range
from fxsim.kernels.threads import thread_count
from fxsim.quantizer import Quantizer

SHIFT = 8
OUT_BITS = 16
ACCUMULATOR_BITS = 16
SPEED_TARGET = 2.0
CAST_TARGET = 40
SATURATING_TARGET = 200
PEER_ELEMENTS = 2**20
"""APyTypes casts fewer elements than fxsim, for its time is proportional to them."""

try:
    import apytypes
except ImportError as error:
    print(f"APyTypes not measured: {error}", file=sys.stderr)
    apytypes = None


def cast(values: np.ndarray):
    """A function that casts the same integers to the same codes in APyTypes."""
    array = apytypes.APyFixedArray(values.tolist(), int_bits=32, frac_bits=0)
    return lambda: array.cast(
        int_bits=OUT_BITS + SHIFT,
        frac_bits=-SHIFT,
        overflow=apytypes.OverflowMode.SAT,
        quantization=apytypes.QuantizationMode.TIES_AWAY,
    )


def requantize_rows(elements: int, rounds: int) -> list[dict]:
    """int32 to int16, ties away from zero, half of the values clipped."""
    values = np.random.default_rng(0).integers(-(2**24), 2**24, elements).astype(np.int32)
    quantizer = Quantizer(Format(OUT_BITS, SHIFT + OUT_BITS - 1))
    out = np.empty(elements, np.int16)
    works = {"fxsim": lambda: quantizer.quantized(values, 0, out)}
    works["fxsim"]()
    wanted = np.sign(values) * ((np.abs(values.astype(np.int64)) + 2 ** (SHIFT - 1)) >> SHIFT)
    if not np.array_equal(out, np.clip(wanted, -(2**15), 2**15 - 1)):
        sys.exit("requantized codes are wrong: no timing")
    sizes = {"fxsim": elements, "APyTypes": min(elements, PEER_ELEMENTS)}
    if apytypes:
        works["APyTypes"] = cast(values[:PEER_ELEMENTS])
        if not np.array_equal(
            np.array(works["APyTypes"]().to_bits(), np.uint16).view(np.int16), out[:PEER_ELEMENTS]
        ):
            sys.exit("requantized codes differ from APyTypes': no timing")
    rates = {
        name: sizes[name] / seconds / 1e9 for name, seconds in burst_seconds(works, rounds).items()
    }
    rows = [
        {
            "what": "requantize int32 to int16, G elements/s",
            "ratio": rates["fxsim"],
            "target": f">= {SPEED_TARGET}",
        }
    ]
    if apytypes:
        rows.append(
            {
                "what": "requantize, fxsim / APyTypes",
                "ratio": rates["fxsim"] / rates["APyTypes"],
                "target": f">= {CAST_TARGET}",
                "giga_elements_per_second": rates,
            }
        )
    return rows


def saturated(a: np.ndarray, b: np.ndarray, low: int, high: int) -> np.ndarray:
    sums = np.zeros((len(a), b.shape[1]), np.int64)
    for k in range(a.shape[1]):
        sums = np.clip(sums + a[:, k : k + 1] * b[k].astype(np.int64), low, high)
    return sums


def peer_product(a: np.ndarray, b: np.ndarray):
    a, b = (apytypes.APyFixedArray(codes.tolist(), int_bits=8, frac_bits=0) for codes in (a, b))

    def work():
        with apytypes.APyFixedAccumulatorContext(
            int_bits=ACCUMULATOR_BITS, frac_bits=0, overflow=apytypes.OverflowMode.SAT
        ):
            return a @ b

    return work


def saturating_product(a: np.ndarray, b: np.ndarray, bounds: Range) -> np.ndarray:
    sums, overflows = np.zeros((2, len(a), b.shape[1]), np.int64)
    accumulate_saturating(a, b, NO_ROUNDING, bounds, sums, overflows)
    return sums


def saturating_rows(size: int, rounds: int) -> list[dict]:
    """8-bit by 8-bit codes into 16 bits that saturate often, and into 32 bits that cannot."""
    a, b = np.random.default_rng(1).integers(-128, 128, (2, size, size)).astype(np.int16)
    works = {}
    for bits in (ACCUMULATOR_BITS, 32):
        low = -(2 ** (bits - 1))
        high = 2 ** (bits - 1) - 1
        bounds = Range(low, high, SATURATE, bits, 1)
        works[f"{bits} bits"] = lambda bounds=bounds: saturating_product(a, b, bounds)
        if not np.array_equal(works[f"{bits} bits"](), saturated(a, b, low, high)):
            sys.exit(f"sums of {bits} bits are wrong: no timing")
    if apytypes:
        works["APyTypes"] = peer_product(a, b)
    seconds = burst_seconds(works, rounds)
    rates = {name: size**3 / value / 1e9 for name, value in seconds.items()}
    for name, rate in rates.items():
        print(f"saturating product {name:10} {rate:9.3f} GMAC/s")
    if not apytypes:
        return []
    return [
        {
            "what": f"saturating {ACCUMULATOR_BITS}-bit accumulator, {size}^3, fxsim / APyTypes",
            "ratio": rates[f"{ACCUMULATOR_BITS} bits"] / rates["APyTypes"],
            "target": f">= {SATURATING_TARGET}",
            "gmac_per_second": rates,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="2^20 elements, 128^3, 2 rounds")
    arguments = parser.parse_args()
    elements, size, rounds = (2**20, 128, 2) if arguments.quick else (2**24, 512, 5)
    rows = [*requantize_rows(elements, rounds), *saturating_rows(size, rounds)]
    for row in rows:
        print(f"{row['what']:60} {row['ratio']:8.2f}  target {row['target']}")
    if arguments.json:
        result = {
            "command": "python " + " ".join(sys.argv),
            "machine": machine(),
            "threads": thread_count(),
            "ratios": rows,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Exhaustive comparison of RTL, kernel and Python twin: how many cases, how many differences.

    python benchmarks/rtl_cases.py [--json FILE] [--quick]

The requantizer of tests/rtl takes every value of every format of up to 8 bits, in every rounding
and overflow mode, to every format of up to 8 bits at every shift that makes a difference.  The
multiply-accumulate unit makes every addition of a product of two codes to an accumulator, in every
mode.  Exit code 1 where anything differs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from machine import machine

from fxsim.files import write_text

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rtl.harness import ICARUS, VERILATOR
from rtl.sweeps import MODES, exhaustive, transitions

VERSIONS = {"Verilator": ["verilator", "--version"], "Icarus Verilog": ["iverilog", "-V"]}
ACCUMULATORS = ((4, 4, 4, 0), (5, 4, 4, 1), (6, 3, 4, 2), (6, 3, 3, 3), (6, 3, 6, 0))
"""(bits of a, bits of b, accumulator bits, bits dropped of a product)."""
QUICK_ACCUMULATORS = ((4, 2, 3, 1),)


def requantizer_rows(simulator, widest: int, shifts: range, folder: str) -> Iterable[dict]:
    """A row for every input format of up to `widest` bits."""
    for bits, signed in product(range(1, widest + 1), (True, False)):
        sweep = exhaustive(bits, signed, widest, shifts)
        differences = sweep.differences(*sweep.simulate(simulator, folder))
        modes = sweep.shape[0] * sweep.shape[1]
        yield {
            "unit": "requantizer",
            "simulator": simulator.name,
            "cases": sweep.cases,
            "differences": differences,
            "input": f"{'s' if signed else 'u'}{bits}",
            "output_bits": [1, widest],
            "dropped_bits": [shifts[0], shifts[-1]],
            "modes": modes,
            "cases_per_mode": sweep.cases // modes,
        }


def accumulator_row(simulator, widths: tuple[int, ...], folder: str) -> dict:
    a_bits, b_bits, acc_bits, shift = widths
    cases = differences = 0
    for sums in transitions(*widths):
        cases += len(sums.modes) * len(sums.a)
        differences += sums.differences(sums.simulate(simulator, folder))
    return {
        "unit": "multiply-accumulate",
        "simulator": simulator.name,
        "cases": cases,
        "differences": differences,
        "operands": [f"s{a_bits}", f"s{b_bits}"],
        "accumulator_bits": acc_bits,
        "dropped_bits": shift,
        "modes": len(MODES),
        "cases_per_mode": cases // len(MODES),
    }


def rows(quick: bool, folder: str) -> Iterable[dict]:
    widest, shifts = (3, range(-2, 5)) if quick else (8, range(-5, 12))
    yield from requantizer_rows(VERILATOR, widest, shifts, folder)
    yield from requantizer_rows(ICARUS, min(widest, 4), range(-2, 7), folder)
    for widths in QUICK_ACCUMULATORS if quick else ACCUMULATORS:
        yield accumulator_row(VERILATOR, widths, folder)
    yield accumulator_row(ICARUS, QUICK_ACCUMULATORS[0], folder)


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="formats of up to 3 bits, one accumulator"
    )
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(arguments.quick, folder):
            found.append(row)
            what = (
                row.get("input") or f"{' x '.join(row['operands'])} into {row['accumulator_bits']}"
            )
            print(
                f"{row['unit']:20} {row['simulator']:14} {what:16} {row['cases']:9,} cases "
                f"{row['differences']:5} "
                "differences",
                flush=True,
            )
    differences = sum(row["differences"] for row in found)
    print(f"{sum(row['cases'] for row in found):,} cases, {differences} differences")
    if arguments.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()
        versions = {name: first_line(command) for name, command in VERSIONS.items()}
        result = {
            "command": "python " + " ".join(sys.argv),
            "commit": commit,
            "machine": machine(),
            "simulators": versions,
            "rows": found,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())

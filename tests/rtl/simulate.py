"""Simulates the layer units on the vectors of a training step.

`PYTHONPATH=tests python -m rtl.simulate --help`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pytest

from fxsim.errors import InputError
from fxsim.formats import STOCHASTIC
from fxsim.golden.export import Vectors
from rtl.harness import ICARUS, VERILATOR
from rtl.layers import StepUnits

UNITS = ("forward", "input_grad", "weight_grad", "update", "update_bias")


def simulate(vectors, dumps, simulator, layers=None, units=UNITS, bug=0):
    """Dump what the units make of every layer (or of `layers`).

    Returns the names of the tensors.
    """
    vectors = Vectors(vectors)
    drawn = [entry.tensor for entry in vectors.manifest.tensors if entry.rounding in STOCHASTIC]
    if drawn:
        raise InputError(
            f"{drawn[0]} rounds stochastically, and these units have no random words; run with "
            "--gradient-rounding nearest"
        )
    dumped = []
    network = vectors.manifest.network
    readers = [source for _, source in network.edges() if source]
    Path(dumps).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as builds:
        step = StepUnits(vectors, Path(dumps).resolve(), simulator, Path(builds))
        for layer in layers or network.names:
            for unit in units:
                if unit != "input_grad" or readers.count(network.source(layer)) == 1:
                    dumped += getattr(step, unit)(layer, BUG=bug)
    return dumped


def main():
    parser = argparse.ArgumentParser(
        prog="python -m rtl.simulate", description=__doc__.partition(":")[0] + "."
    )
    parser.add_argument(
        "vectors", help="folder that `fxsim vectors export` wrote, .mem files among them"
    )
    parser.add_argument("dump", help="folder for the units' results")
    parser.add_argument("--layers", nargs="+", help="default: all")
    parser.add_argument("--units", nargs="+", choices=UNITS, default=UNITS, help="default: all")
    parser.add_argument("--simulator", choices=("icarus", "verilator"), default="verilator")
    parser.add_argument(
        "--bug", type=int, default=0, help="number of a planted bug; see the units' parameter BUG"
    )
    given = parser.parse_args()
    simulator = {"icarus": ICARUS, "verilator": VERILATOR}[given.simulator]
    try:
        names = simulate(
            Path(given.vectors).resolve(),
            given.dump,
            simulator,
            given.layers,
            given.units,
            given.bug,
        )
    except (pytest.skip.Exception, pytest.fail.Exception, InputError) as reason:
        sys.exit(str(reason))
    print(f"next: fxsim vectors check {given.vectors} {given.dump} --tensor {' '.join(names)}")


if __name__ == "__main__":
    main()

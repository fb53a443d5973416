"""Runs the benches of this folder in Icarus Verilog and Verilator.

Files of codes as in fxsim.memfile.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fxsim import Format
from fxsim.memfile import from_hex, to_hex

FOLDER = Path(__file__).parent
UNITS = (
    "modes",
    "round_shift",
    "requantize",
    "bounded_add",
    "saturating_mac",
    "dot_products",
    "conv_forward",
    "conv_input_grad",
    "conv_weight_grad",
    "weight_update",
    "lfsr",
    "lfsr_update",
    "half_up_zoom",
    "uniform_step",
)
ON_PACKAGES = ("dense_vectors_tb",)
"""Benches on a package of vectors, of units above."""
SECONDS = 300


def need(tool, found):
    """Skip the test where `tool` is missing; on a CI machine that is a failure."""
    if not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{tool} is not installed")


def sources(*units):
    return [str(FOLDER / f"{unit}.sv") for unit in units]


def execute(command, folder):
    """Run a command; RuntimeError with its output where it fails, or has a parameter that the
    bench lacks.
    """
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode or "warning: parameter" in done.stderr:
        raise RuntimeError(
            f"{command[0]} failed in {folder}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )


class Simulation:
    """A compiled bench."""

    def __init__(self, command, folder):
        self.command = command
        self.folder = folder

    def run(self, **files):
        """Simulate with +name=file for each of `files`, paths within the simulation's folder."""
        execute([*self.command, *(f"+{name}={file}" for name, file in files.items())], self.folder)


class Icarus:
    name = "Icarus Verilog"

    def build(self, bench, folder, packages=(), **parameters):
        """The bench of that name, in a new folder within `folder`; packages: files beside."""
        need(self.name, shutil.which("iverilog"))
        folder = Path(tempfile.mkdtemp(prefix="icarus_", dir=folder))
        overrides = [f"-P{bench}.{name}={int(value)}" for name, value in parameters.items()]
        execute(
            [
                "iverilog",
                "-g2012",
                "-Wall",
                f"-I{FOLDER}",
                "-s",
                bench,
                "-o",
                "bench.vvp",
                *overrides,
                *packages,
                *sources(*UNITS, bench),
            ],
            folder,
        )
        return Simulation(["vvp", "-n", "bench.vvp"], folder)


class Verilator:
    name = "Verilator"
    runtime = ("verilated.o", "verilated_timing.o", "verilated_threads.o")

    def __init__(self):
        self.earlier = None

    def build(self, bench, folder, packages=(), **parameters):
        """As Icarus.build; compiles the C++ in one piece, and takes Verilator's own part of it
        from an earlier build.
        """
        need(self.name, shutil.which("verilator"))
        folder = Path(tempfile.mkdtemp(prefix="verilator_", dir=folder))
        overrides = [f"-G{name}={int(value)}" for name, value in parameters.items()]
        execute(
            [
                "verilator",
                "--cc",
                "--exe",
                "--main",
                "--timing",
                "-O1",
                "--output-split",
                "0",
                "-Wall",
                "-Wno-UNUSEDSIGNAL",
                f"-I{FOLDER}",
                "--top-module",
                bench,
                "--prefix",
                "bench",
                "-Mdir",
                ".",
                *overrides,
                *packages,
                *sources(*UNITS, bench),
            ],
            folder,
        )
        for part in self.runtime:
            if self.earlier and (self.earlier / part).exists():
                shutil.copyfile(self.earlier / part, folder / part)
        options = ("VM_PARALLEL_BUILDS=0", "OPT_FAST=-O0", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0")
        execute(["make", "-f", "bench.mk", *options], folder)
        self.earlier = folder
        return Simulation(["./bench"], folder)


ICARUS = Icarus()
VERILATOR = Verilator()
both_simulators = pytest.mark.parametrize(
    "simulator", [ICARUS, VERILATOR], ids=["icarus", "verilator"]
)


def write_codes(path, codes, bits):
    Path(path).write_bytes(to_hex(np.asarray(codes, np.int64), bits))


def read_codes(path, bits, signed, shape):
    """int64 codes of `shape`; InputError unless there are exactly so many, each of `bits` bits."""
    codes = from_hex(
        Path(path).read_bytes(), Format(bits, 0, signed), int(np.prod(shape)), str(path)
    )
    return codes.astype(np.int64).reshape(shape)

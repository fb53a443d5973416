"""Benches in VHDL and SystemVerilog on the packages and files of an export."""

import re
import shutil

import numpy as np
import pytest
from rtl.harness import FOLDER, both_simulators, execute, need

from fxsim import Dense, FixedNetwork, Format, LayerPrecision, LearningRate, Network, presets
from fxsim.golden.capture import capture, capture_inference
from fxsim.golden.check import check
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment

GHDL = shutil.which("ghdl") or shutil.which("ghdl-mcode")
NETWORK = Network(
    "two-layers",
    (3, 3, 1),
    (
        Dense(name="hidden", units=6, activation="relu"),
        Dense(name="scores", units=3, activation="none"),
    ),
)
IMAGES = 8


def golden(network=NETWORK, rounding="nearest_even"):
    """An inference whose hidden layer has ties and passes its range."""
    own = LayerPrecision(
        weights=Format(5, 1),
        activations=Format(4, 1, False),
        activation_grads=Format(8, 0),
        weight_grads=Format(8, 0),
        accumulators=None,
        bias=Format(6, 1),
        bias_accumulators=None,
    )
    assignment = PrecisionAssignment(
        network.name, dict.fromkeys(network.names, own), rounding={"activations": rounding}
    )
    random = np.random.default_rng(1)
    real = {
        layer: {kind: random.normal(0.1, 0.5, array.shape) for kind, array in own.items()}
        for layer, own in initial_parameters(network, 0).items()
    }
    fixed = FixedNetwork(network, assignment, real)
    images = random.integers(0, 16, (IMAGES, *network.input_shape))
    return capture_inference(fixed, images)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden(), folder, ("mem", "vhdl", "sv"))
    return folder


class Vhdl:
    """The VHDL bench, compiled, to run with generics."""

    def __init__(self, vectors, folder):
        need("GHDL", GHDL)
        self.folder = folder
        self.vectors = vectors
        files = (
            vectors / "fxsim_vectors.vhd",
            FOLDER / "requantize.vhd",
            FOLDER / "dense_vectors_tb.vhd",
        )
        execute([GHDL, "-a", "--std=08", *files], folder)
        execute([GHDL, "-e", "--std=08", "dense_vectors_tb"], folder)

    def run(self, dump, bug=0):
        command = [GHDL, "-r", "--std=08", "dense_vectors_tb", f"-gfolder={self.vectors}/"]
        execute([*command, f"-gdump={dump}/", f"-gbug={bug}"], self.folder)


def test_the_hidden_layer_has_ties_and_saturates(vectors):
    z = Vectors(vectors).codes("hidden.preactivations")
    assert ((z > 0) & (z % 8 == 4)).any()
    assert Vectors(vectors).manifest.entry("scores.activations").counts.above


def test_ghdl_reads_the_package_and_finds_every_planted_bug(vectors, tmp_path):
    bench = Vhdl(vectors, tmp_path)
    name = "scores.activations"
    bench.run(tmp_path)
    assert check(vectors, tmp_path / f"{name}.mem", [name]).passed
    for bug in (1, 2, 3):
        with pytest.raises(RuntimeError, match="outputs differ"):
            bench.run(tmp_path, bug)
        assert not check(vectors, tmp_path / f"{name}.mem", [name]).passed


def test_the_rounding_of_the_package_is_that_of_the_export(tmp_path):
    write_vectors(golden(rounding="jam"), tmp_path / "jam", ("hex", "vhdl"))
    Vhdl(tmp_path / "jam", tmp_path).run(tmp_path)


@both_simulators
def test_systemverilog_reads_the_package_and_finds_every_planted_bug(vectors, tmp_path, simulator):
    package = (vectors / "fxsim_vectors.sv",)
    bench = simulator.build("dense_vectors_tb", tmp_path, package)
    bench.run(folder=vectors)
    for bug in (1, 2, 3):
        with pytest.raises(RuntimeError, match="outputs differ"):
            bench.run(folder=vectors, bug=bug)


NAMES = ("entity", "begin", "Begin", "always", "a_b", "a__b", "_A_B_", "1x", "conv", "conv_updated")


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory):
    """A training step of layers whose names are no identifiers, or are equal in VHDL."""
    layers = tuple(Dense(name=name, units=2, activation="none") for name in NAMES)
    network = Network("names", (1, 1, 2), layers)
    formats = presets.uniform("Q2.6").assignment(network)
    fixed = FixedNetwork(network, formats, initial_parameters(network, 0))
    images = np.ones((2, 1, 1, 2), np.int16)
    step = capture(fixed, images, np.zeros(2, np.int64), LearningRate.of(0.5), 0)
    folder = tmp_path_factory.mktemp("names")
    write_vectors(step, folder, ("mem", "c", "vhdl", "sv"))
    return folder


def test_whatever_the_names_of_layers_c_headers_stand_side_by_side(odd_names):
    guards = [re.findall(r"#ifndef (\w+)", path.read_text()) for path in odd_names.glob("*.h")]
    assert len({guard for (guard,) in guards}) == len(guards) > 100


def test_whatever_the_names_of_layers_vhdl_takes_the_package(odd_names, tmp_path):
    need("GHDL", GHDL)
    execute([GHDL, "-a", "--std=08", odd_names / "fxsim_vectors.vhd"], tmp_path)


def test_whatever_the_names_of_layers_systemverilog_takes_the_package(odd_names, tmp_path):
    package = odd_names / "fxsim_vectors.sv"
    need("Verilator", shutil.which("verilator"))
    (tmp_path / "top.sv").write_text("module top;\nendmodule\n")  # both want a module
    execute(["verilator", "--lint-only", "-Wall", package, "top.sv"], tmp_path)
    need("Icarus Verilog", shutil.which("iverilog"))
    execute(["iverilog", "-g2012", "-Wall", "-o", "names.vvp", package, "top.sv"], tmp_path)

"""--stochastic: random words from the command line to the vectors."""

import pytest

from fxsim import Format, Lfsr
from fxsim.cli import parser as cli
from fxsim.cli.commands import _design_name
from fxsim.golden.export import Vectors
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.words import parse_sources

REGISTERS = "lfsr of 16, taps 16 15 13 4, 8 bits, galois, 4 lanes"


def assignment(network):
    weights = Format(8, 0)
    row = LayerPrecision(
        weights=weights,
        activations=Format(6, 1, False),
        activation_grads=Format(10, -4),
        weight_grads=Format(10, -2),
        accumulators=accumulator_format(weights, -14),
    )
    return PrecisionAssignment(network.name, dict.fromkeys(network.names, row))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("assignment") / "plain.json"
    assignment(build("digits-convnet")).save(path)
    return path


def export(file, folder, *more):
    command = "vectors export --network digits-convnet --batch 2 --files npy --assignment"
    return cli.main([*command.split(), str(file), "--out", str(folder), *more])


def test_vectors_are_exported_with_words_of_registers(tmp_path, file, capsys):
    option = ("--stochastic", f"accumulators={REGISTERS}", "--stochastic", "logits=dropped bits")
    assert export(file, tmp_path / "golden", *option) == 0
    manifest = Vectors(tmp_path / "golden").manifest
    words = manifest.words["conv1.accumulators"]
    assert words.source == Lfsr(16, (16, 15, 13, 4), 8, form="galois", lanes=4)
    assert words.states == words.source.states()
    assert manifest.entry("conv1.updates").rounding == "stochastic"
    other = ("--stochastic", f"accumulators={REGISTERS.replace('13', '12')}")
    assert export(file, tmp_path / "device", *other) == 0
    capsys.readouterr()
    command = ["vectors", "check", str(tmp_path / "golden"), str(tmp_path / "device")]
    assert cli.main([*command, "--tensor", "conv2.updates"]) == 1
    assert "LFSR: tap 12 instead of 13" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option, told",
    [
        ("accumulators=lfsr of 16, taps 16 15, 8 bits, seed 0", "period 0"),
        ("accumulators=lfsr of 16, taps 17 15, 8 bits", "taps must be 1 to 16, got 17"),
        ("accumulators=philox, 33 bits", "bits must be 1 to 32"),
        ("accumulator=dropped bits", "did you mean 'accumulators'"),
        ("conv9.accumulators=dropped bits", "layer 'conv9' is unknown"),
        ("conv1.logits=dropped bits", "quantizes no logits"),
        ("weights=dropped bits", "rounding of weights must be nearest_away"),
        ("dropped bits", "must name their tensor"),
    ],
)
def test_words_that_do_not_do_are_told(tmp_path, file, capsys, option, told):
    assert export(file, tmp_path / "out", "--stochastic", option) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["train"], ["vectors", "export"]])
def test_help_teaches_words(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "dropped bits" in text
    examples = [line for line in text.splitlines() if line.strip().startswith("--stochastic '")]
    assert examples
    for line in examples:
        parse_sources(line.split("'")[1::2])


def test_every_option_of_a_training_is_in_the_name_of_its_design(file):
    def name(*options):
        return _design_name(cli.parse(["train", "--out", "mine", *options]))

    more = ("--in-place", "--accumulator", "24 bits", "--stochastic", "logits=philox")
    text = "; in place; 24 bits; logits=philox"
    assert name("--perturb", "-1", "--only", "weight_grads", *more) == f"FX C_-1 weight_grads{text}"
    assert name("--assignment", str(file), *more) == f"FX C_o of plain{text}"
    assert name("--formats", "Q8.8", *more) == f"FX Q8.8, nearest_away, saturate{text}"


def test_vectors_of_updates_in_place(tmp_path, file):
    option = ("--in-place", "--stochastic", f"accumulators={REGISTERS}")
    assert export(file, tmp_path / "golden", *option) == 0
    manifest = Vectors(tmp_path / "golden").manifest
    assert manifest.entry("conv1.updated_weights").rounding == "stochastic"
    assert "conv1.accumulators" not in manifest.entries
    assert "conv1.accumulators_random_words" in manifest.entries

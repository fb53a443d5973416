"""Accumulators from the command line to the results, and in assignments."""

import dataclasses
import json

import numpy as np
import pytest

from fxsim import Accumulator, FixedNetwork, InputError, LearningRate
from fxsim.accumulator import Overflows
from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.experiment import training
from fxsim.formats import Format
from fxsim.golden.export import Vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import text as report
from fxsim.train.learners import FixedLearner

NARROW = ("--accumulator", "forward=9 bits, tree", "--accumulator", "fc1.weight_grad=40 bits")


def assignment(network):
    layers = {}
    for name in network.names:
        weights = Format(8, 0)
        layers[name] = LayerPrecision(
            weights=weights,
            activations=Format(6, 1, False),
            activation_grads=Format(10, -4),
            weight_grads=Format(10, -2),
            accumulators=accumulator_format(weights, -14),
        )
    return PrecisionAssignment(network.name, layers)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("assignment") / "plain.json"
    assignment(build("digits-convnet", 0.25)).save(path)
    return path


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    data = digits()
    few = {
        name: getattr(data, name)[:64]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    monkeypatch.setattr(training, "load", lambda name, folder: dataclasses.replace(data, **few))


def train(folder, file, *more):
    return cli.main(
        [
            "train",
            "--width",
            "0.25",
            "--epochs",
            "1",
            "--held-out",
            "0",
            "--assignment",
            str(file),
            "--out",
            str(folder),
            *more,
        ]
    )


def test_a_training_counts_its_overflows_and_the_table_warns(tmp_path, file, capsys):
    assert train(tmp_path, file, *NARROW) == 0
    out = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "results.json").read_text())["designs"]
    assert row["design"] == "FX C_o of plain; forward=9 bits, tree; fc1.weight_grad=40 bits"
    network = build("digits-convnet", 0.25)
    sums = {f"{name}.forward": 64 * np.prod(network.shape(name).pre) for name in network.names}
    sums["fc1.weight_grad"] = 2 * network.shape("fc1").weights
    assert {name: met["sums"] for name, met in row["overflows"].items()} == sums
    assert row["overflows"]["fc1.weight_grad"]["overflows"] == 0
    share = row["overflows"]["conv1.forward"]["overflows"] / sums["conv1.forward"]
    assert share > 0.01
    assert f"conv1.forward: overflows per sum {share:.2g} in FX" in out
    assert row["sums"]["conv1"]["forward"]["accumulator"] == "9 bits, saturate each addition, tree"
    assert f"{row['sums']['conv1']['forward']['bits']}, has 9" in out
    assert "fc1.weight_grad: overflows" not in out
    assert PrecisionAssignment.from_dict(row["assignment"]).accumulator == {
        "forward": Accumulator(9, order="tree"),
        "fc1.weight_grad": Accumulator(40),
    }


def test_without_accumulators_there_are_no_overflows(tmp_path, file, capsys):
    assert train(tmp_path, file) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["designs"]
    assert row["overflows"] == {}
    assert "has " not in capsys.readouterr().out


@pytest.mark.parametrize(
    "option, told",
    [
        ("9 bit", ""),
        ("forward=saturate", "has no bits"),
        ("forwards=9 bits", "did you mean 'forward'"),
        ("conv9.forward=9 bits", "layer 'conv9' is unknown"),
        ("9 bits, jam to 2^-90", "must be 2^"),
    ],
)
def test_an_accumulator_that_does_not_do_is_told(tmp_path, file, capsys, option, told):
    assert train(tmp_path, file, "--accumulator", option) == (2 if told else 0)
    assert told in capsys.readouterr().err


def test_vectors_are_exported_under_the_accumulators(tmp_path, file, capsys):
    whole = tmp_path / "whole.json"
    tensor = "conv1.preactivations"
    assignment(build("digits-convnet")).save(whole)
    orders = {"exact": (), "tree": NARROW, "sequential": ("--accumulator", "forward=9 bits")}
    for name, more in orders.items():
        assert (
            cli.main(
                [
                    "vectors",
                    "export",
                    "--network",
                    "digits-convnet",
                    "--assignment",
                    str(whole),
                    "--batch",
                    "2",
                    "--files",
                    "npy",
                    "--out",
                    str(tmp_path / name),
                    *more,
                ]
            )
            == 0
        )
    models = {
        name: Vectors(tmp_path / name).manifest.entry(tensor).accumulator.model for name in orders
    }
    assert models == {
        "exact": None,
        "tree": Accumulator(9, order="tree"),
        "sequential": Accumulator(9),
    }
    capsys.readouterr()
    assert cli.main(["vectors", "check", str(tmp_path / "tree"), str(tmp_path / "tree")]) == 0
    assert (
        cli.main(
            [
                "vectors",
                "check",
                str(tmp_path / "tree"),
                str(tmp_path / "sequential"),
                "--tensor",
                tensor,
            ]
        )
        == 1
    )
    assert (
        f"accumulator of {models['sequential']} instead of {models['tree']}"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("command", [["train"], ["vectors", "export"]])
def test_help_teaches_accumulators(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "tiles of N" in text
    for line in text.splitlines():
        if line.strip().startswith("--accumulator '"):
            for model in line.split("'")[1::2]:
                Accumulator.parse(model.rpartition("=")[2])


def test_a_plain_assignment_is_written_as_before(file):
    data = json.loads(file.read_text())
    assert "accumulator" not in data
    loaded = PrecisionAssignment.load(file)
    assert loaded.accumulator == {}
    assert json.dumps(loaded.to_dict(), indent=1) + "\n" == file.read_text()


def test_an_assignment_keeps_its_accumulators(file, tmp_path):
    models = {
        "forward": Accumulator(16, order="tiles", tile=8, drop=2),
        "fc1.input_grad": Accumulator.of(Format(20, 3)),
    }
    made = dataclasses.replace(PrecisionAssignment.load(file), accumulator=models)
    made.save(tmp_path / "made.json")
    assert PrecisionAssignment.load(tmp_path / "made.json") == made
    assert made.perturbed(-1).accumulator == models
    assert made.accumulators_of("fc1") == {
        "forward": models["forward"],
        "input_grad": models["fc1.input_grad"],
    }
    assert made.accumulators_of("conv1") == {"forward": models["forward"]}


@pytest.mark.parametrize(
    "row, told",
    [({"bits": 1}, "2 to 62"), ({"bit": 9}, "did you mean 'bits'"), ({}, "needs 'bits'")],
)
def test_a_damaged_accumulator_in_a_file_is_told(file, row, told):
    data = json.loads(file.read_text()) | {"accumulator": {"forward": row}}
    with pytest.raises(InputError, match=told):
        PrecisionAssignment.from_dict(data)


def test_a_learner_goes_on_with_its_overflows(file):
    network = build("digits-convnet", 0.25)
    made = PrecisionAssignment.load(file).with_accumulators(["9 bits"])
    data = digits()
    learners = [
        FixedLearner(FixedNetwork(network, made, initial_parameters(network, 0)), data.pixel_max)
        for _ in range(2)
    ]
    part = data.train_images[:8], data.train_labels[:8], LearningRate.of(0.1)
    learners[0].step(*part, 0)
    learners[1].load_state({name: array.copy() for name, array in learners[0].state().items()})
    for learner in learners:
        learner.step(*part, 1)
    assert learners[0].overflows == learners[1].overflows
    assert all(isinstance(met, Overflows) for met in learners[1].overflows.values())
    assert learners[0].network.fingerprint() == learners[1].network.fingerprint()


def test_remarks_name_overflows_above_a_hundredth_of_the_sums():
    row = {
        "design": "FX C_o",
        "counts": {},
        "overflows": {
            "c.forward": {"sums": 100, "overflows": 1},
            "c.weight_grad": {"sums": 100, "overflows": 250},
        },
    }
    assert report.remarks([row]) == ["c.weight_grad: overflows per sum 2.5 in FX C_o"]

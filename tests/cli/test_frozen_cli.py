"""A network with frozen layers from a TOML file to its results."""

import dataclasses
import json

import pytest

from fxsim import Format
from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.experiment import training
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment

TOML = """\
dataset = "digits"
epochs = 2
batch = 16
held_out = 0

[layers]
name = "small"
input_shape = [8, 8, 1]

[[layers.layer]]
type = "conv"
name = "c"
filters = 4
train = "none"

[[layers.layer]]
type = "dense"
name = "h"
units = 6
train = "bias"

[[layers.layer]]
type = "dense"
name = "scores"
units = 10
relu = false
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    data = digits()
    few = {
        name: getattr(data, name)[:64]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    monkeypatch.setattr(training, "load", lambda name, folder: dataclasses.replace(data, **few))
    weights = Format(8, 0)
    row = LayerPrecision(
        weights=weights,
        activations=Format(6, 1, False),
        activation_grads=Format(10, -4),
        weight_grads=Format(10, -2),
        accumulators=accumulator_format(weights, -14),
    )
    PrecisionAssignment("small", dict.fromkeys(("c", "h", "scores"), row)).save(tmp_path / "a.json")
    (tmp_path / "small.toml").write_text(TOML)
    return tmp_path


def test_a_network_with_frozen_layers_is_trained(files, capsys):
    out = ["--out", str(files / "run")]
    assert cli.main(["train", str(files / "small.toml"), *out]) == 0
    assert cli.main(["analyze", *out]) == 2
    assert "layer 'c' has train='none'" in capsys.readouterr().err
    whole = ["run", str(files / "small.toml"), "--out", str(files / "whole")]
    assert cli.main(whole) == 2
    assert "layer 'c' has train='none', so that its gradients are" in capsys.readouterr().err
    assert not (files / "whole" / "float.npz").exists(), "refused before the float run"
    options = ["--in-place", "--stochastic", "accumulators=lfsr of 16, taps 16 15 13 4, 8 bits"]
    assert cli.main(["train", *out, "--assignment", str(files / "a.json"), *options]) == 0
    designs = json.loads((files / "run" / "results.json").read_text())["designs"]
    row = designs[-1]
    assert row["start_fingerprint"] != row["fingerprint"]
    assert set(row["sums"]["c"]) == {"forward"}
    assert set(row["sums"]["h"]) == {"forward"}
    assert set(row["sums"]["scores"]) == {"forward", "input_grad", "weight_grad"}
    assert "c.weight_grads" not in row["counts"]
    assert "scores.weight_grads" in row["counts"]
    assert row["assignment"]["words"]["accumulators"]["taps"] == [16, 15, 13, 4]

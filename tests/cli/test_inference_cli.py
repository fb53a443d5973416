"""Vectors of inference from the command line, of what a run folder holds."""

import json

import numpy as np
import pytest

from fxsim.cli.parser import main
from fxsim.datasets import load
from fxsim.datasets.pixels import pixel_codes
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.golden.export import Vectors
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.presets import Uniform

LAYERS = {
    "name": "mine",
    "input_shape": [8, 8, 1],
    "layer": [
        {"type": "conv", "name": "c", "filters": 4, "stride": 2, "batch_norm": True},
        {"type": "dense", "name": "scores", "units": 10, "activation": "none"},
    ],
}
IMAGES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An experiment with a float run, an assignment, and its training in fixed point."""
    settings = Settings.make(layers=LAYERS, epochs=1, batch=64, images=256, seed=2)
    experiment = Experiment(settings, tmp_path_factory.mktemp("run"))
    experiment.train_float()
    assignment = Uniform.parse("Q4.12").assignment(experiment.network)
    assignment.save(experiment.path("assignment.json"), experiment.setup.identity)
    experiment.train_fixed(assignment)
    return experiment


def export(run, out, *options):
    words = ("--run", run.folder, "--inference", "--images", IMAGES, "--out", out, *options)
    return main(["vectors", "export", *map(str, words)])


def network_of(run):
    """The float run's parameters in the formats of the assignment."""
    return FixedNetwork(
        run.network, run.own_assignment(), run.float_parameters(), seed=run.settings.seed
    )


def logits_of(network):
    digits = load("digits", None)
    pixels = digits.test_images[:IMAGES]
    return network.logits(pixel_codes(digits.pixel_max, network.input_format)[pixels])


def exported_logits(folder):
    return Vectors(folder).codes("scores.logits").reshape(IMAGES, -1)


def test_the_weights_of_the_float_run(run, tmp_path, capsys):
    assert export(run, tmp_path / "v") == 0
    network = network_of(run)
    told = capsys.readouterr().out
    assert told.startswith("inference of 3 images of mine: ")
    assert "images as in the run of FX C_o; next: " in told
    assert np.array_equal(exported_logits(tmp_path / "v"), logits_of(network))
    manifest = Vectors(tmp_path / "v").manifest
    assert manifest.identity.to_dict() == run.setup.identity.to_dict()
    assert manifest.fingerprints["after"] == network.fingerprint()
    assert main(["vectors", "check", str(tmp_path / "v"), str(tmp_path / "v")]) == 0


def test_batch_norm_folded(run, tmp_path):
    assert export(run, tmp_path / "v", "--folded") == 0
    assert np.array_equal(exported_logits(tmp_path / "v"), logits_of(network_of(run).folded()))
    assert Vectors(tmp_path / "v").manifest.network.layer("c").norm is None


def test_the_weights_that_the_training_in_fixed_point_ends_with(run, tmp_path, capsys):
    assert export(run, tmp_path / "v", "--weights", "fixed", "--files", "mem") == 0
    assert "images, final weights as in the run of FX C_o; next: " in capsys.readouterr().out
    rows = json.loads(run.path("results.json").read_text())["designs"]
    (end,) = [row["fingerprint"] for row in rows if row["design"] == "FX C_o"]
    assert Vectors(tmp_path / "v").manifest.fingerprints["after"] == end


def test_a_network_without_batch_norm_has_nothing_to_fold(tmp_path, capsys):
    words = "vectors export --network digits-convnet --formats Q6.10 --inference --weights fixed"
    assert main([*words.split(), "--folded", "--out", str(tmp_path / "v")]) == 2
    told = capsys.readouterr().err
    assert "network 'digits-convnet' has no batch norm to fold; leave folded out" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--images 0", "images must be 1 to 360, the test images of 'digits', got 0"),
        ("--images 361", "images must be 1 to 360, the test images of 'digits', got 361"),
        ("--step 3", "--step has no effect beside --inference"),
        ("--batch 4", "--batch has no effect beside --inference"),
        ("--seed 4", "--seed has no effect on inference with the weights of a float run"),
        ("--in-place", "--in-place has no effect on inference with the weights of a float run"),
        ("--weights trained", "--weights 'trained' is unknown"),
        ("--layers conv9", "layer 'conv9' is unknown"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, tmp_path, capsys, options, message):
    words = ["vectors", "export", "--run", str(run.folder), "--inference", "--out"]
    assert main([*words, str(tmp_path / "v"), *options.split()]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--network digits-convnet --inference", "--network has no effect on inference"),
        ("--images 4", "--images has no effect without --inference"),
        ("--weights fixed", "--weights has no effect without --inference"),
        ("--folded", "--folded has no effect without --inference"),
    ],
)
def test_options_that_have_no_effect_are_refused(tmp_path, capsys, words, message):
    out = str(tmp_path / "v")
    assert main(["vectors", "export", "--out", out, *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_what_is_needed(run, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("experiment.json", "assignment.json"):
        (folder / name).write_bytes(run.path(name).read_bytes())
    words = ["vectors", "export", "--run", str(folder), "--inference", "--out", str(tmp_path / "v")]
    assert main(words) == 2
    assert "holds no float run (no float.npz)" in capsys.readouterr().err

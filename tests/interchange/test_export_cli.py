"""`fxsim export`, from a run to files that give its codes."""

import json

import numpy as np
import pytest
from support.export_cases import by_onnxruntime, by_qonnx, images_of

from fxsim import FixedNetwork, PrecisionAssignment, presets
from fxsim.cli import parser as cli
from fxsim.experiment.stages import Experiment

onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

SETTINGS = ("--network", "digits-autoencoder", "--width", "0.25", "--epochs", "1", "--images", "96")
FORMATS = "Q4.6"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A float run, and a training in fixed point."""
    place = tmp_path_factory.mktemp("run") / "mine"
    assert cli.main(["train", *SETTINGS, "--out", str(place)]) == 0
    assert cli.main(["train", "--formats", FORMATS, "--out", str(place)]) == 0
    return place


def export(folder, *options):
    assert cli.main(["export", str(folder), *map(str, options)]) == 0


def fixed_network(folder):
    experiment = Experiment.reopen(folder)
    formats = presets.uniform(FORMATS).assignment(experiment.network)
    return FixedNetwork(experiment.network, formats, experiment.float_parameters())


def test_both_files_have_the_codes_of_the_float_run(folder, tmp_path, capsys):
    one = tmp_path / "one.onnx"
    other = tmp_path / "other.onnx"
    export(folder, "--onnx", one, "--formats", FORMATS)
    export(folder, "--qonnx", other, "--formats", FORMATS, "--folded", "--batch", 20)
    assert [line.partition(" written")[0] for line in capsys.readouterr().out.splitlines()] == [
        "digits-autoencoder in integers",
        "digits-autoencoder in QONNX",
    ]
    fixed = fixed_network(folder)
    codes = images_of(fixed, 20)
    assert np.array_equal(by_onnxruntime(one, fixed, codes), fixed.logits(codes))
    folded = fixed.folded()
    assert np.array_equal(by_qonnx(other, folded, codes), folded.logits(codes))


def test_retrained_weights_are_those_of_the_run(folder, tmp_path):
    path = tmp_path / "m.onnx"
    export(folder, "--onnx", path, "--formats", FORMATS, "--retrain")
    (row,) = (
        row
        for row in json.loads((folder / "results.json").read_text())["designs"]
        if row["costs"]["design"] == "FX"
    )
    found = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert found["fxsim.fingerprint"] == row["fingerprint"] != fixed_network(folder).fingerprint()


def test_an_assignment_of_a_file(folder, tmp_path):
    fixed = fixed_network(folder)
    fixed.assignment.save(tmp_path / "a.json")
    assert PrecisionAssignment.load(tmp_path / "a.json").network == "digits-autoencoder"
    export(folder, "--onnx", tmp_path / "m.onnx", "--assignment", tmp_path / "a.json")
    codes = images_of(fixed, 3)
    assert np.array_equal(by_onnxruntime(tmp_path / "m.onnx", fixed, codes), fixed.logits(codes))


@pytest.mark.parametrize(
    "options, told",
    [
        ((), "give --onnx FILE or --qonnx FILE"),
        (("--onnx", "a", "--qonnx", "./a"), "both name 'a'; give two files"),
        (("--onnx", "a", "--batch", "3"), "--batch has no effect on --onnx"),
        (("--onnx", "a", "--formats", "Q4.6", "--assignment", "b"), "leave one out"),
        (("--onnx", "a"), "assignment.json"),
        (("--qonnx", "a", "--formats", "Q4.6"), "layer 'encoder': batch norm .* (--folded)"),
        (
            ("--qonnx", "a", "--formats", "Q4.6", "--batch", "0"),
            "batch must be 1 to 268435456, got 0",
        ),
    ],
)
def test_what_is_refused(folder, options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(folder), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    first, _, last = told.partition(" .* ")
    assert first in line and last in line
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_float_run(tmp_path, capsys):
    nothing = ["export", str(tmp_path / "none"), "--onnx", str(tmp_path / "a")]
    for options, told in (([], "holds no float run"), (["--retrain"], "holds no experiment")):
        assert cli.main([*nothing, *options]) == 2
        assert told in capsys.readouterr().err
    place = tmp_path / "fixed"
    settings = ["--width", "0.1", "--epochs", "1", "--images", "64", "--batch", "32"]
    assert cli.main(["train", *settings, "--formats", FORMATS, "--out", str(place)]) == 0
    capsys.readouterr()
    command = ["export", str(place), "--onnx", str(tmp_path / "a"), "--formats", FORMATS]
    assert cli.main(command) == 2
    assert "holds no float run" in capsys.readouterr().err
    assert cli.main([*command, "--retrain"]) == 0
    assert (tmp_path / "a").exists()
    assert cli.main([*command, "--folded", "--retrain"]) == 2
    assert "--folded has no effect" in capsys.readouterr().err

"""fxsim import writes the float stage of a run that the other commands go on with."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")

from support.onnx_models import Model  # noqa: E402

from fxsim import FixedNetwork, PrecisionAssignment, Settings  # noqa: E402
from fxsim.cli import main  # noqa: E402
from fxsim.experiment.stages import Experiment  # noqa: E402
from fxsim.interchange import from_onnx  # noqa: E402

QUICK = ["--images", "192", "--epochs", "1"]


def convnet(weight_scale=1.0):
    """Digits in ten classes; some weights and biases above 1 where they are scaled."""
    model = Model(1, 8, 8).conv("c1", 4, 1, 3, 3, pads=[1] * 4).norm("n1", 4).relu().max_pool(2, 2)
    model.conv("c2", 6, 4, 3, 3).relu().flatten().linear("fc", 10, 24)
    for tensor in model.tensors:
        if tensor.name in ("c2.weight", "c2.bias"):
            values = np.frombuffer(tensor.raw_data, np.float32) * np.float32(weight_scale)
            tensor.raw_data = values.tobytes()
    return model


def fxsim(*words):
    assert main([str(word) for word in words]) == 0


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and len(lines[0]) <= 300
    return lines[0]


def test_every_command_goes_on(tmp_path, capsys):
    path = convnet(4.0).save(tmp_path / "m.onnx")
    run = tmp_path / "run"
    fxsim("import", path, "--pixels", "0,1", "--out", run, *QUICK)
    printed = capsys.readouterr().out
    assert (
        "loss softmax_cross_entropy, targets labels; pixels 0 to 16 are 0,1 to the model" in printed
    )
    rows = [line.split() for line in printed.splitlines() if line.startswith(("c1", "c2", "fc"))]
    assert [row[:3] for row in rows] == [
        ["c1", "36", "4x4x4"],
        ["c2", "216", "2x2x6"],
        ["fc", "240", "1x1x10"],
    ]
    assert all(float(row[3]) < 1e-5 for row in rows)
    network, parameters = from_onnx(path)
    experiment = Experiment.reopen(run)
    assert experiment.network == network
    for layer, own in parameters.items():
        for name, array in own.items():
            assert (experiment.float_parameters()[layer][name] == array).all()
            assert (experiment.setup.initial_parameters()[layer][name] == array).all()
    fxsim("analyze", "--out", run)
    fxsim("assign", "--out", run)
    assignment = PrecisionAssignment.load(run / "assignment.json")
    weights = assignment.layers["c2"].weights
    largest = float(np.abs(parameters["c2"]["weight"]).max())
    assert largest > 1 and 2.0 ** (weights.range_exp - 1) < largest <= 2.0**weights.range_exp
    bias = float(np.abs(parameters["c2"]["bias"]).max())
    assert bias > 1 and assignment.layers["c2"].bias.range_exp == np.ceil(np.log2(bias))
    assert assignment.layers["c1"].weights.range_exp == 0
    fixed = FixedNetwork(network, assignment, parameters).parameters
    off = np.abs(fixed["c2"]["weight"].codes * weights.step - parameters["c2"]["weight"])
    assert off.max() <= weights.step / 2
    fxsim("train", "--out", run, "--assignment", run / "assignment.json")
    designs = [row["design"] for row in json.loads((run / "results.json").read_text())["designs"]]
    assert designs == ["FL", "FX C_o"]
    fxsim("vectors", "export", "--run", run, "--out", tmp_path / "v", "--files", "npy")
    codes = np.load(tmp_path / "v" / "c2.weights.npy")
    assert (codes == fixed["c2"]["weight"].codes).all()


def test_changed_parameters_are_refused(tmp_path, capsys):
    path = convnet().save(tmp_path / "m.onnx")
    run = tmp_path / "run"
    fxsim("import", path, "--pixels", "0,1", "--out", run, *QUICK)
    arrays = dict(np.load(run / "imported.npz"))
    arrays["fc.bias"] = arrays["fc.bias"] + 1
    np.savez(run / "imported.npz", **arrays)
    capsys.readouterr()
    assert "holds other parameters than were imported" in refused(capsys, "analyze", "--out", run)


def test_what_was_there_is_set_aside_and_a_refusal_leaves_it(tmp_path, capsys):
    path = convnet().save(tmp_path / "m.onnx")
    run = tmp_path / "run"
    fxsim("import", path, "--pixels", "0,1", "--out", run, *QUICK)
    before = {each.name: each.read_bytes() for each in run.iterdir() if each.is_file()}
    capsys.readouterr()
    wrong = Model(3, 8, 8).conv("c", 4, 3, 3, 3).flatten().linear("fc", 10, 144)
    wrong.save(tmp_path / "w.onnx")
    message = refused(capsys, "import", tmp_path / "w.onnx", "--pixels", "0,1", "--out", run)
    assert "network 'w' takes (8, 8, 3) in 10" in message
    assert {each.name: each.read_bytes() for each in run.iterdir() if each.is_file()} == before
    fxsim("import", path, "--pixels", "0,255", "--out", run, *QUICK)
    aside = run / "earlier-1"
    assert {each.name: each.read_bytes() for each in aside.iterdir()} == before


@pytest.mark.parametrize("pixels", ["-1,1", "0,255"])
def test_another_range_of_pixels_is_folded(tmp_path, pixels, capsys):
    """What differs from ONNX Runtime is compared on what the model reads."""
    model = Model(1, 8, 8).conv("c", 4, 1, 3, 3).norm("n", 4).relu().flatten().linear("fc", 10, 144)
    path = model.save(tmp_path / "m.onnx")
    fxsim("import", path, "--pixels", pixels, "--out", tmp_path / "run", *QUICK)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [float(row[3]) < 1e-5 for row in rows if row and row[0] in ("c", "fc")] == [True, True]
    low, high = map(float, pixels.split(","))
    _, plain = from_onnx(path)
    _, folded = from_onnx(path, pixels=(low, high))
    assert (folded["c"]["weight"] == plain["c"]["weight"] * (high - low)).all()


def test_pixels_must_be_said_and_fit(tmp_path, capsys):
    path = convnet().save(tmp_path / "m.onnx")
    words = ("import", path, "--out", tmp_path / "run")
    assert "--pixels" in refused(capsys, *words)
    for wrong in ("0", "1,0", "a,b", "0,nan"):
        assert "--pixels must be two rising numbers" in refused(capsys, *words, "--pixels", wrong)
    assert "(Conv): it pads images with zeros" in refused(capsys, *words, "--pixels", "-1,1")
    assert not (tmp_path / "run" / "experiment.json").exists()


def test_vectors_take_the_shape_of_the_images(tmp_path, capsys):
    path = Model(64).linear("a", 8, 64).relu().linear("b", 64, 8).save(tmp_path / "m.onnx")
    fxsim("import", path, "--pixels", "0,1", "--out", tmp_path / "run", *QUICK)
    assert "loss mse, targets tensors" in capsys.readouterr().out
    assert Settings.load(tmp_path / "run" / "experiment.json").layers["input_shape"] == (8, 8, 1)

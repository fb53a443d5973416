"""A network that decides nothing, from the settings to the report and the vectors."""

import csv
import json

import numpy as np
import pytest

from fxsim.cli import parser as cli
from fxsim.datasets import load
from fxsim.errors import InputError
from fxsim.experiment.results import read_results
from fxsim.nn.networks import build
from fxsim.nn.spec import Dense, Network
from fxsim.report import plots
from fxsim.train.learners import check_dataset

RUN = (
    *("--network", "digits-autoencoder", "--width", "0.5", "--quick"),
    *("--learning-rate", "0.1", "--perturb", "+1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("autoencoder") / "out"
    assert cli.main(["run", *RUN, "--out", str(path)]) == 0
    return path


def test_results_have_losses_and_no_errors(folder):
    data = read_results(folder)
    assert [row["design"] for row in data["designs"]] == ["FL", "FX C_o", "FX C_+1"]
    for row in data["designs"]:
        assert row["test_error"] is None
        assert 0 < row["test_loss"] < 0.2
        assert {epoch["test_error"] for epoch in row["epochs"]} == {None}
        assert row["epochs"][-1]["train_loss"] < row["epochs"][0]["train_loss"]
    losses = [row["train_loss"] for row in data["designs"]]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    with open(folder / "curves.csv", newline="", encoding="utf-8") as file:
        assert {row["test_error"] for row in csv.DictReader(file)} == {""}


def test_the_report_tells_the_error_of_the_outputs(folder):
    data = read_results(folder)
    found = data["output_error"]
    assert "mismatch" not in data
    assert found["bound"] <= found["bound_asked"] == found["target"] * found["loss"]
    assert list(found["measured"]) == ["training", "held-out", "test"]
    for row in found["measured"].values():
        assert 0.1 < row["error"] / found["bound"] < 4
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "| design | test loss | train loss |" in text
    assert "## Outputs" in text and "## Decisions" not in text
    assert "EFQN, MSE" in text
    assert "test error" not in text


def test_plots_show_the_loss_on_the_test_set(folder):
    designs = read_results(folder)["designs"]
    _, tested = plots.curves_figure(designs).axes
    assert tested.get_ylabel() == "test loss"
    assert list(tested.lines[0].get_ydata()) == [row["test_loss"] for row in designs[0]["epochs"]]
    rows = [
        {"class": "all", "bits": bits, "train_loss": 1, "test_loss": 2, "test_error": None}
        for bits in (0, 1)
    ]
    assert plots.sensitivity_figure(rows).axes[1].get_ylabel() == "test loss"


def test_a_finished_run_is_taken_up(folder, capsys):
    before = (folder / "results.json").read_bytes()
    assert cli.main(["run", "--resume", "--out", str(folder)]) == 0
    rows = [
        json.loads(text)["designs"] for text in (before, (folder / "results.json").read_bytes())
    ]
    assert rows[0] == rows[1]
    assert "test loss" in capsys.readouterr().out


def test_vectors_of_its_step_are_exported_and_checked(folder, tmp_path, capsys):
    out = tmp_path / "vectors"
    assert (
        cli.main(["vectors", "export", "--run", str(folder), "--step", "5", "--out", str(out)]) == 0
    )
    assert (out / "pixels.targets.mem").exists()
    assert cli.main(["vectors", "check", str(out), str(out)]) == 0
    assert "equal: " in capsys.readouterr().out


def test_images_are_the_targets():
    dataset = load("digits", None)
    check_dataset(dataset, build("digits-autoencoder"))
    message = r"takes \(8, 8, 1\) as input and images of 3 pixels as targets; choose another"
    layers = (Dense(name="out", units=3, relu=False),)
    with pytest.raises(InputError, match=message):
        check_dataset(dataset, Network("three", (8, 8, 1), layers, "mse", "tensors"))
    with pytest.raises(InputError, match="network 'ad-autoencoder' takes"):
        check_dataset(dataset, build("ad-autoencoder"))


def test_labels_may_be_compared_by_a_squared_error(tmp_path):
    text = """
dataset = "digits"
epochs = 2
batch = 8
images = 800
learning_rate = 0.1
designs = ["FL", "FX"]
perturb = []
[layers]
input_shape = [8, 8, 1]
loss = "half_mse"
layer = [
    {type = "dense", name = "inner", units = 48},
    {type = "dense", name = "scores", units = 10, relu = false},
]
"""
    (tmp_path / "half.toml").write_text(text, encoding="utf-8")
    assert cli.main(["run", str(tmp_path / "half.toml"), "--out", str(tmp_path / "out")]) == 0
    data = read_results(tmp_path / "out")
    assert "mismatch" in data
    for row in data["designs"]:
        assert 0 < row["test_error"] < 0.5


def test_mlperf_tinys_autoencoder_has_the_published_counts():
    network = build("ad-autoencoder")
    shapes = [network.shape(name) for name in network.names]
    assert sum(shape.macs for shape in shapes) == sum(shape.weights for shape in shapes) == 264192
    norms = sum(shape.weight[1] for layer, shape in zip(network.layers, shapes) if layer.batch_norm)
    # Trained parameters of the published one, which has biases beside its batch norm.
    assert 264192 + sum(shape.weight[1] for shape in shapes) + 2 * norms == 267928
    assert [shape.weight[1] for shape in shapes] == [128] * 4 + [8] + [128] * 4 + [640]
    for layer in network.layers[:-1]:
        assert layer.batch_norm and layer.activation.kind == "clipped_relu"
    assert np.prod(network.input_shape) == network.outputs == 640

"""fxsim sweep: points over targets and bits from one float run, resumable, with table and plot."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment import sweep
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.report import plots, text


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with a float run and a sweep."""
    folder = tmp_path_factory.mktemp("swept")
    Experiment(Settings.make(images=96, epochs=1, width=0.25), folder).train_float()
    assert cli.main(["sweep", "--out", str(folder), "--targets", "0.05,0.3", "--perturb=-1"]) == 0
    return folder


def read(folder) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def test_a_row_for_each_target_the_own_one_among_them_and_for_each_perturbation(swept):
    data = read(swept)
    assert [(row["target"], row["bits"]) for row in data["rows"]] == [
        (0.01, 0),
        (0.05, 0),
        (0.3, 0),
        (None, -1),
    ]
    designs = {
        row["design"]: row for row in json.loads((swept / "results.json").read_text())["designs"]
    }
    for row in [data["float"], *data["rows"]]:
        trained = designs[row["design"]]
        assert [row[name] for name in sweep.MEASURES] == [trained[name] for name in sweep.MEASURES]
        assert [row[name] for name in sweep.COSTS] == list(trained["costs"]["total"].values())
    assert data["identity"]["settings"]["width"] == 0.25
    macs = [row["training_macs"] for row in data["rows"][:3]]
    assert macs == sorted(macs, reverse=True) and macs[0] > macs[-1]


def test_the_table_is_the_same(swept):
    data = read(swept)
    with open(swept / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["design"] for row in rows] == ["FL", *(row["design"] for row in data["rows"])]
    assert [row["train_loss"] for row in rows[1:]] == [
        str(row["train_loss"]) for row in data["rows"]
    ]
    assert text.sweep_table(data).splitlines()[2].split()[-4:] == ["1.000"] * 4


def test_what_is_finished_is_not_trained_again(swept, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(swept, folder)
    before = read(folder)
    monkeypatch.setattr(Experiment, "outcome", None)  # a training would fail
    assert cli.main(["sweep", "--out", str(folder), "--targets", "0.3,0.05", "--perturb=-1"]) == 0
    assert read(folder) == before


def test_points_of_the_same_formats_share_a_training(swept):
    experiment = Experiment.reopen(swept, resume=True)
    found = sweep.points(experiment, (0.01, 0.0100000001), ())
    assert [point.target for point in found] == [0.01, 0.0100000001]
    assert [training.name for training in sweep.trainings_of(found)] == ["FX C_o"]


def test_a_point_without_formats_is_left_out_with_a_note(swept):
    notes = []
    experiment = Experiment.reopen(swept, resume=True)
    experiment.observer.note = notes.append
    found = sweep.points(experiment, (0.01,), (-30,))
    assert [point.bits for point in found] == [0]
    assert len(notes) == 1 and notes[0].startswith("FX C_-30 is left out: layer")


@pytest.mark.parametrize(
    "targets, perturb, told",
    [
        ((0.0,), (), "targets must lie between 0 and 1, got 0.0"),
        ((0.1, 0.1), (), "targets must hold each value once"),
        ((), (1, 1), "perturb must hold each value once"),
        ((), (0,), "perturb must not hold 0"),
    ],
)
def test_wrong_points_are_refused(swept, targets, perturb, told):
    with pytest.raises(InputError, match=told):
        sweep.points(Experiment.reopen(swept, resume=True), targets, perturb)


def test_a_sweep_needs_a_float_run(tmp_path, capsys):
    assert cli.main(["sweep", "--out", str(tmp_path)]) == 2
    assert "holds no float run" in capsys.readouterr().err


def test_each_plot_has_a_line_where_float_is_and_the_points_by_their_cost(swept):
    data = read(swept)
    axes = plots.sweep_figure(data).axes
    assert len(axes) == 2 * len(sweep.COSTS)
    for axis, cost in zip(axes, sweep.COSTS):
        targets, bits, reference = axis.lines
        places = sorted(
            row[cost] / data["float"][cost] for row in data["rows"] if row["target"] is not None
        )
        assert list(targets.get_xdata()) == places
        assert len(bits.get_xdata()) == 2
        assert reference.get_ydata()[0] == 100 * data["float"]["test_error"]
    assert {path.name for path in swept.iterdir()} >= {"sweep.png", "sweep.svg"}

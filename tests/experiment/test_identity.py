"""A file is taken for what it is of, and nothing is removed in silence."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.errors import InputError
from fxsim.experiment import study, training
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment, Observer, settings_in
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.checkpoint import Cadence, Checkpoint, path_of, read
from fxsim.train.loop import Position

LAYERS = {
    "name": "small",
    "input_shape": [8, 8, 1],
    "layer": [{"type": "dense", "name": "fc1", "units": 10, "relu": False}],
}


def settings(seed):
    return Settings.make(layers=LAYERS, epochs=1, batch=16, seed=seed, perturb=[])


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    data = digits()
    few = dataclasses.replace(
        data,
        train_images=data.train_images[:64],
        train_labels=data.train_labels[:64],
        test_images=data.test_images[:20],
        test_labels=data.test_labels[:20],
    )
    monkeypatch.setattr(training, "load", lambda name, folder: few)


@pytest.fixture
def folder(tmp_path):
    """A finished experiment of seed 1."""
    study.run(Experiment(settings(1), tmp_path / "mine"))
    return tmp_path / "mine"


@pytest.fixture
def other(tmp_path):
    """The same of seed 2."""
    study.run(Experiment(settings(2), tmp_path / "other"))
    return tmp_path / "other"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert len(line) < 300 + len(str(arguments[-1]))
    return line


def test_every_file_says_of_which_experiment_it_is(folder):
    identity = Experiment(settings(1), folder).setup.identity.to_dict()
    assert (identity["settings"]["seed"], identity["network"]["name"]) == (1, "small")
    for name in ("assignment.json", "results.json"):
        assert json.loads((folder / name).read_text())["identity"] == identity
    for name in ("float.npz", "gradients.npz", "statistics.npz"):
        with np.load(folder / name) as arrays:
            assert json.loads(arrays["text"].tobytes())["identity"] == identity


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("float.npz", [["analyze"]]),
        ("gradients.npz", [["analyze"]]),
        ("statistics.npz", [["assign"]]),
        ("assignment.json", [["train", "--perturb", "1"], ["vectors", "export"]]),
        ("results.json", [["analyze"], ["run", "--resume"], ["vectors", "export"]]),
    ],
)
def test_files_of_two_experiments_are_not_mixed(name, commands, folder, other, tmp_path, capsys):
    shutil.copy(other / name, folder / name)
    before = files_of(folder)
    capsys.readouterr()
    for command in commands:
        where = ["--run", folder, "--out", tmp_path / "vectors"]
        line = refused(capsys, *command, *(where if "export" in command else ["--out", folder]))
        assert f"{name} is of another training: settings.seed is 2 there, 1 here" in line
        assert files_of(folder) == before
    assert not (tmp_path / "vectors").exists()


def test_an_assignment_that_says_nothing_is_not_taken_for_the_folders_own(folder, capsys):
    own = folder / "assignment.json"
    identity = Experiment(settings(1), folder).setup.identity
    made = PrecisionAssignment.load(own, identity)
    made.save(own)
    capsys.readouterr()
    line = refused(capsys, "train", "--perturb", "1", "--out", folder)
    assert f"{own.name} does not say of which training it is; make it anew" in line
    (folder / "mine.json").write_text(own.read_text())
    assert cli.main(["train", "--assignment", str(folder / "mine.json"), "--out", str(folder)]) == 0


def test_an_assignment_that_was_edited_is_still_the_folders_own(folder):
    own = folder / "assignment.json"
    data = json.loads(own.read_text())
    data["rounding"] = {"weight_grads": "floor"}
    own.write_text(json.dumps(data))
    assert Experiment.reopen(folder).own_assignment().rounding["weight_grads"] == "floor"


def test_a_new_float_run_sets_an_earlier_experiment_aside(folder):
    before = files_of(folder)
    notes = []
    observer = Observer()
    observer.note = notes.append
    for number in (1, 2):
        Experiment(settings(number + 1), folder, observer).train_float()
        (note,) = (note for note in notes if f"now in {folder / f'earlier-{number}'}" in note)
        assert note.startswith("FL begins anew; what was there is ")
    assert files_of(folder / "earlier-1") == before
    assert settings_in(folder / "earlier-1").seed == 1
    assert settings_in(folder / "earlier-2").seed == 2
    study.run(Experiment(settings(1), folder / "earlier-1", resume=True))
    assert set(files_of(folder)) == {
        "curves.csv",
        "experiment.json",
        "float.npz",
        "gradients.npz",
        "results.json",
    }


def test_a_new_float_run_that_is_stopped_has_lost_nothing_and_goes_on(folder, other):
    class Stop(Observer):
        def step(self, epoch, step, steps, loss):
            raise KeyboardInterrupt

    before = files_of(folder)
    with pytest.raises(KeyboardInterrupt):
        Experiment(settings(2), folder, Stop()).train_float()
    assert files_of(folder / "earlier-1") == before
    study.run(Experiment(settings_in(folder), folder, resume=True))
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["earlier-1"]
    found = files_of(folder)
    for name, data in files_of(other).items():
        assert name in ("results.json", "curves.csv") or found[name] == data, name


def test_a_result_of_other_formats_is_kept(folder):
    experiment = Experiment.reopen(folder)
    assignment = experiment.own_assignment()
    before = (folder / "results.json").read_bytes()
    experiment.train_fixed(assignment)
    assert not (folder / "earlier-1").exists()
    experiment.train_fixed(assignment.perturbed(1))
    assert (folder / "earlier-1/results.json").read_bytes() != before  # it has other times
    (row,) = (
        row
        for row in json.loads((folder / "earlier-1/results.json").read_text())["designs"]
        if row["design"] == "FX C_o"
    )
    assert row["fingerprint"] in before.decode()


class Nothing:
    """A learner without arrays."""

    def state(self):
        return {}

    def load_state(self, arrays):
        raise AssertionError("the position comes first")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": None}, "step must be an integer, got None"),
        ({"step": -1}, "position must have a step from 0 on"),
        ({"step": 5}, "position is epoch 0, step 5, and the training has 1 epochs of 3 steps"),
        ({"steps": 3}, "key 'steps' is unknown; did you mean 'step'"),
    ],
)
def test_a_position_that_no_training_has_is_refused(change, told, tmp_path):
    experiment = Experiment(settings(1), tmp_path)
    saved = Checkpoint(tmp_path, "FL", {}, Cadence())
    position = Position()
    saved.write(Nothing(), position)
    dictionary = dataclasses.asdict(position) | change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataclasses, "asdict", lambda _: dictionary)
        saved.write(Nothing(), position)
    with pytest.raises(InputError) as refusal:
        saved.load(Nothing(), experiment.setup.plan)
    assert told in str(refusal.value)
    assert str(saved.path) in str(refusal.value)
    assert read(path_of(tmp_path, "FL"))[0]["identity"] == {}


def test_an_empty_option_changes_nothing(folder, capsys):
    before = files_of(folder)
    capsys.readouterr()
    for option in ("--assignment", "--network", "--only", "--data", "--resume="):
        value = [] if "=" in option else [""]
        line = refused(capsys, "train", option, *value, "--out", folder)
        assert f"{option.rstrip('=')} must not be empty" in line
    assert "--out must not be empty" in refused(capsys, "run", "--out", "")
    assert "--design must not be empty" in refused(
        capsys, "cost", "--network", "digits-convnet", "--design", ""
    )
    assert files_of(folder) == before


def test_only_the_packages_own_leftovers_are_removed(folder):
    names = [".results.json.123.tmp", ".notes.mine.tmp", ".x.tmp", "a.1.tmp"]
    for name in names:
        (folder / name).touch()
    assert cli.main(["run", "--resume", "--out", str(folder)]) == 0
    assert [name for name in names if Path(folder / name).exists()] == names[1:]

"""Every command sees the training that the settings say, and an export is a step of the run's."""

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fxsim
from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.errors import InputError
from fxsim.experiment import training
from fxsim.experiment.replay import replay
from fxsim.experiment.settings import Settings
from fxsim.experiment.stage_file import write_stage_arrays
from fxsim.experiment.stages import ARRAYS_VERSION, Experiment
from fxsim.experiment.training import TrainingSetup, training_images
from fxsim.files import write_arrays
from fxsim.golden.manifest import Manifest
from fxsim.identity import sealed
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.loop import train

ROOT = Path(fxsim.__file__).parent
SMALL = ("--width", "0.25", "--perturb", "none")
RUNS = {
    "quick": (("--quick",), 512, 32, 3),
    "few images": (("--images", "70", "--epochs", "2", "--batch", "20"), 70, 20, 2),
}
"""Name -> options of `fxsim run`, images, images of a step, epochs."""


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A folder of `fxsim run` with the number of its steps."""
    options, images, batch, epochs = RUNS[request.param]
    folder = tmp_path_factory.mktemp("run") / "out"
    assert cli.main(["run", *options, *SMALL, "--out", str(folder)]) == 0
    return folder, images // batch * epochs


def export(folder, step, *more):
    """The exit code of `fxsim vectors export`, into a folder beside that of the run."""
    out = folder.parent / "vectors"
    arguments = ["--run", str(folder), "--step", str(step), "--layers", "fc2", "--files", "npy"]
    return cli.main(["vectors", "export", *arguments, "--out", str(out), *more])


def results(folder):
    return json.loads((folder / "results.json").read_text())


def design(data, name):
    return next(row for row in data["designs"] if row["design"] == name)


def test_the_last_step_of_an_export_ends_with_the_weights_of_the_run(run, capsys):
    folder, steps = run
    assert export(folder, steps - 1) == 0
    printed = capsys.readouterr().out
    assert "images, initial weights, final weights as in the run of FX C_o" in printed
    after = Manifest.load(folder.parent / "vectors").fingerprints["after"]
    assert after == design(results(folder), "FX C_o")["fingerprint"]
    assert export(folder, steps) == 2
    assert f"step must be 0 to {steps - 1} " in capsys.readouterr().err


def test_the_first_step_of_an_export_starts_from_the_weights_of_the_run(run, capsys):
    folder, _ = run
    assert export(folder, 0) == 0
    assert "; images, initial weights as in the run of FX C_o; " in capsys.readouterr().out
    before = Manifest.load(folder.parent / "vectors").fingerprints["before"]
    assert before == design(results(folder), "FX C_o")["start_fingerprint"]


@pytest.mark.parametrize(
    ("options", "compared"),
    [
        (("--batch", "2"), "images, initial weights as in"),
        (("--seed", "7"), "; images as in"),
        (("--accumulator", "30 bits"), "; images as in the run; "),
    ],
)
def test_what_an_option_changes_is_not_compared(run, options, compared, capsys):
    folder, _ = run
    assert export(folder, 1, *options) == 0
    assert compared in capsys.readouterr().out


def tamper(path, *keys):
    """Change one value in a JSON file and seal it again; a text keeps its length."""
    data = json.loads(path.read_text())
    row = data
    for key in keys[:-1]:
        row = design(data, key) if row is data["designs"] else row[key]
    value = row[keys[-1]]
    row[keys[-1]] = value + 1 if isinstance(value, int) else value[1:] + value[:1]
    path.write_text(json.dumps(sealed(data)))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("designs", "FX C_o", "fingerprint"), "the final weights differ from those of FX C_o"),
        (("designs", "FX C_o", "start_fingerprint"), "the initial weights differ"),
        (("identity", "images", "sha256"), "is of another training: images.sha256 is "),
        (("identity", "images", "training"), "is of another training: images.training is "),
        (("identity", "settings", "seed"), "another training: settings.seed is 1 there, 0 here"),
        (("identity", "settings", "batch"), "is of another training: settings.batch is "),
        (("identity", "version"), "is of another training: version is 2 there, 1 here"),
    ],
)
def test_an_export_that_the_results_contradict_is_refused(run, keys, told, tmp_path, capsys):
    folder, steps = run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    tamper(copy / "results.json", *keys)
    capsys.readouterr()
    assert export(copy, steps - 1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "vectors").exists()


def test_an_export_of_other_images_is_refused(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    data = digits()
    changed = data.train_images.copy()
    changed[0, 3, 3, 0] ^= 1
    other = dataclasses.replace(data, train_images=changed)
    monkeypatch.setattr(training, "load", lambda name, folder: other)
    assert export(folder, 0) == 2
    assert "is of another training: images.sha256 is " in capsys.readouterr().err


def test_other_images_are_not_trained_on_in_the_folder(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    data = digits()
    other = dataclasses.replace(data, test_images=data.test_images[::-1].copy())
    monkeypatch.setattr(training, "load", lambda name, folder: other)
    for arguments in (["run", "--resume"], ["train", "--perturb", "-1"], ["analyze"], ["assign"]):
        assert cli.main([*arguments, "--out", str(copy)]) == 2
        assert "another training: images.sha256 is " in capsys.readouterr().err.splitlines()[-1]


def test_an_export_needs_no_float_run(run, tmp_path, capsys):
    """The settings are in results.json, too."""
    folder, steps = run
    shutil.copy(folder / "results.json", tmp_path)
    assert export(tmp_path, steps - 1, "--assignment", str(folder / "assignment.json")) == 0
    assert "final weights as in the run of FX C_o" in capsys.readouterr().out


def test_an_export_before_the_run_has_ended_has_nothing_to_compare_with(run, tmp_path, capsys):
    folder, _ = run
    for name in ("experiment.json", "assignment.json"):
        shutil.copy(folder / name, tmp_path)
    assert export(tmp_path, 0) == 0
    assert "as in the run" not in capsys.readouterr().out


def test_the_images_are_the_first_of_the_training_set():
    whole = digits()
    for settings, count in (
        (Settings.make(), 1294),
        (Settings.make(held_out=0), 1437),
        (Settings.make(held_out=1000), 437),
        (Settings.make(images=40), 40),
        (Settings.make(quick=True), 512),
        (Settings.make(quick=True, images=600), 600),
    ):
        found, held_out, _ = training_images(settings)
        assert np.array_equal(found.train_images, whole.train_images[:count])
        assert np.array_equal(found.train_labels, whole.train_labels[:count])
        assert np.array_equal(found.test_images, whole.test_images)
        kept = 143 if settings.held_out is None else settings.held_out
        assert np.array_equal(held_out, whole.train_images[1437 - kept :])
        described = TrainingSetup.of(settings).describe_images()
        assert (described["training"], described["test"]) == (count, 360)
        assert described["held_out"] == kept


def test_more_images_than_there_are_are_refused():
    told = "images must be 1 to 1294, .*'digits' less 143 that are held out, got 1295"
    with pytest.raises(InputError, match=told):
        training_images(Settings.make(images=1295))
    with pytest.raises(InputError, match="held_out must be 0 to 1436, .*'digits', got 1437"):
        training_images(Settings.make(held_out=1437))


def test_no_more_are_held_out_than_are_measured():
    _, held_out, _ = training_images(Settings.make(gain_samples=20))
    assert len(held_out) == 20


def test_quick_takes_what_a_small_set_has(monkeypatch):
    data = digits()
    few = dataclasses.replace(
        data, train_images=data.train_images[:64], train_labels=data.train_labels[:64]
    )
    monkeypatch.setattr(training, "load", lambda name, folder: few)
    dataset, held_out, _ = training_images(Settings.make(quick=True))
    assert (len(dataset.train_labels), len(held_out)) == (58, 6)


def test_the_digest_changes_with_every_pixel_and_label():
    setup = TrainingSetup.of(Settings.make(images=40))
    found = {setup.images_sha256}
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        array = getattr(setup.dataset, name).copy()
        array.reshape(-1)[-1] ^= 1
        changed = dataclasses.replace(setup.dataset, **{name: array})
        found.add(dataclasses.replace(setup, dataset=changed).images_sha256)
    found.add(dataclasses.replace(setup, held_out=setup.held_out[::-1].copy()).images_sha256)
    assert len(found) == 6


def test_a_replay_goes_through_the_steps_of_the_training(run):
    """The setup's steps are those that `train` gives to the learner, one after another."""
    folder, steps = run
    setup = TrainingSetup.of(Settings.load(folder / "experiment.json"))
    assignment = PrecisionAssignment.load(folder / "assignment.json")
    learner = setup.fixed_learner(assignment)
    seen = []
    step = learner.step
    learner.step = lambda *batch: seen.append(batch) or step(*batch)
    train(learner, setup.plan)
    assert len(seen) == steps == setup.step_count
    for (pixels, labels, rate, number), each in zip(seen, setup.plan.steps(), strict=True):
        assert np.array_equal(pixels, each.pixels)
        assert np.array_equal(labels, each.labels)
        assert (rate, number) == (each.rate, each.number)
    golden = replay(setup, assignment, steps - 1, ["fc2"])
    assert golden.manifest.fingerprints["after"] == learner.network.fingerprint()


def calls(path):
    """The names of the functions that a module calls, but for methods of a TrainingSetup."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if getattr(getattr(node.func, "value", None), "attr", "") == "setup":
                continue
            yield getattr(node.func, "id", getattr(node.func, "attr", ""))


def test_one_module_turns_settings_into_a_training():
    """No other loads images, draws initial weights or orders batches for the commands."""
    makers = {"initial_parameters", "permutation"}
    for folder in ("experiment", "cli", "report", "golden"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == Path(training.__file__):
                assert "initial_parameters" in set(calls(path))
                continue
            assert not makers & set(calls(path)), path
            names = [
                f"{node.module}.{alias.name}"
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            ]
            assert "fxsim.datasets.load" not in names, path


def test_experiments_share_the_setup(tmp_path):
    settings = Settings.make(images=70, epochs=1, width=0.25)
    experiment = Experiment(settings, tmp_path)
    assert experiment.dataset is experiment.setup.dataset
    assert len(experiment.dataset.train_labels) == 70


def test_results_that_were_edited_are_refused(run, tmp_path, capsys):
    folder, _ = run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text.replace('"train_loss": ', '"train_loss": 1'))
    assert cli.main(["run", "--resume", "--out", str(copy)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "results.json was changed after fxsim wrote it" in line


@pytest.mark.parametrize("name", ["float.npz", "gradients.npz"])
def test_arrays_of_another_training_are_refused(name, run, tmp_path, capsys):
    folder, _ = run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    settings = Settings.load(copy / "experiment.json")
    dataclasses.replace(settings, seed=1).save(copy / "experiment.json")
    (copy / "results.json").unlink()
    other = {"float.npz": "gradients.npz", "gradients.npz": "float.npz"}[name]
    experiment = Experiment.reopen(copy)
    experiment._write_arrays(other, Experiment.reopen(folder)._read_arrays(other))
    assert cli.main(["analyze", "--out", str(copy)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{name} is of another training: settings.seed is 0 there, 1 here" in line


@pytest.mark.parametrize("row, value", [(2, -1.0), (1, 0.0), (1, np.inf), (0, np.nan)])
def test_variances_that_no_run_leaves_are_refused(row, value, run, tmp_path):
    folder, _ = run
    experiment = Experiment.reopen(Path(shutil.copytree(folder, tmp_path / "run")))
    state = experiment._read_arrays("gradients.npz")["state"].copy()
    state[row, 0, 0] = value
    experiment._write_arrays("gradients.npz", {"state": state})
    with pytest.raises(InputError, match="what is no average, largest and smallest variance"):
        experiment.analyze()


def test_arrays_without_kind_and_version_are_refused(run, tmp_path):
    folder, _ = run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    experiment = Experiment.reopen(copy)
    arrays = experiment._read_arrays("float.npz")
    identity = experiment.setup.identity
    write_stage_arrays(copy / "float.npz", "fxsim float run", 9, identity, arrays)
    with pytest.raises(
        InputError, match=f"has version 9, and this fxsim reads version {ARRAYS_VERSION}; make it"
    ):
        Experiment.reopen(copy).float_parameters()
    write_arrays(copy / "float.npz", arrays)
    with pytest.raises(InputError, match="is no file of kind 'fxsim float run'"):
        Experiment.reopen(copy).float_parameters()

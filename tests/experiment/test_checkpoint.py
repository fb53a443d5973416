"""A training that was interrupted or killed goes on to the same bits.

Checkpoints that do not fit are refused.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.run_files import content, curves

import fxsim
from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.errors import InputError
from fxsim.experiment import study, training
from fxsim.experiment.results import write_curves
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment, Observer, settings_in
from fxsim.files import read_arrays, write_arrays
from fxsim.nn.state import arrays_of, restore
from fxsim.train.checkpoint import Cadence, Checkpoint, path_of, read
from fxsim.train.loop import Epoch, Position

LAYERS = {
    "name": "small",
    "input_shape": [8, 8, 1],
    "layer": [
        {
            "type": "conv",
            "name": "conv1",
            "filters": 4,
            "padding": 1,
            "pool": {"kind": "max", "size": 2},
        },
        {"type": "dense", "name": "fc1", "units": 10, "relu": False},
    ],
}
SETTINGS = Settings.make(layers=LAYERS, epochs=2, batch=32, seed=3, perturb=[1], flip=True, crop=1)
STEPS = 3
EPOCHS = SETTINGS.epochs
DESIGNS = 3
DRIVER = Path(__file__).parent.parent.parent / "benchmarks" / "sigkill.py"


def three_steps_an_epoch(patch):
    data = digits()
    few = {
        name: getattr(data, name)[:count]
        for name, count in (
            ("train_images", 110),
            ("train_labels", 110),
            ("test_images", 50),
            ("test_labels", 50),
        )
    }
    patch.setattr(training, "load", lambda name, folder: dataclasses.replace(data, **few))


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    three_steps_an_epoch(monkeypatch)


class Stop(Observer):
    """Raises an error after so many steps, counted over all designs, or at the first epoch's
    end after them.
    """

    def __init__(self, steps, error=KeyboardInterrupt, at_epoch=False):
        self.left = steps
        self.error = error
        self.at_epoch = at_epoch

    def step(self, epoch, step, steps, loss):
        self.left -= 1
        if self.left == 0 and not self.at_epoch:
            raise self.error

    def epoch(self, epoch):
        if self.left <= 0 and self.at_epoch:
            raise self.error


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What a whole run leaves: FL, C_o and C_+1, of two epochs of three steps each."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        three_steps_an_epoch(patch)
        study.run(Experiment(SETTINGS, folder))
    return content(folder)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder whose C_o was interrupted in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        three_steps_an_epoch(patch)
        study.run(Experiment(SETTINGS, folder, Stop(EPOCHS * STEPS + STEPS + 1)))
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def resume(folder, observer=None):
    return study.run(Experiment(settings_in(folder), folder, observer, resume=True))


def fixed_checkpoint(folder):
    return path_of(folder, "FX C_o")


def test_a_run_that_has_ended_leaves_no_checkpoint(unbroken):
    assert sorted(unbroken) == [
        "assignment.json",
        "curves.csv",
        "experiment.json",
        "float.npz",
        "gradients.npz",
        "results.json",
        "statistics.npz",
    ]
    assert len(unbroken["curves.csv"]) == DESIGNS * EPOCHS


@pytest.mark.parametrize("steps", range(1, DESIGNS * EPOCHS * STEPS + 1))
def test_a_run_interrupted_after_any_step_goes_on_to_the_same_bits(steps, unbroken, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        study.run(Experiment(SETTINGS, tmp_path, Stop(steps)))
    (path,) = tmp_path.glob("checkpoint-*.npz")
    position = read(path)[0]["position"]
    done = (steps - 1) % (EPOCHS * STEPS) + 1
    assert (len(position["epochs"]), position["step"]) == (
        (done - 1) // STEPS,
        (done - 1) % STEPS + 1,
    )
    resume(tmp_path)
    assert content(tmp_path) == unbroken


@pytest.mark.parametrize("steps", [1, 4, 7, 10])
def test_a_run_interrupted_between_epochs_goes_on_to_the_same_bits(steps, unbroken, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        study.run(Experiment(SETTINGS, tmp_path, Stop(steps, at_epoch=True)))
    resume(tmp_path)
    assert content(tmp_path) == unbroken


@pytest.mark.parametrize("steps", [2, 5, 9, 14])
@pytest.mark.parametrize("every", [None, 1, 2])
def test_a_run_that_fails_goes_on_from_its_last_checkpoint(steps, every, unbroken, tmp_path):
    """An error writes no checkpoint, as little as SIGKILL does."""
    with pytest.raises(MemoryError):
        study.run(
            Experiment(SETTINGS, tmp_path, Stop(steps, MemoryError), cadence=Cadence(steps=every))
        )
    (path,) = tmp_path.glob("checkpoint-*.npz")
    in_epoch = (steps - 1) % STEPS + 1
    assert read(path)[0]["position"]["step"] == {None: 0, 1: in_epoch, 2: in_epoch // 2 * 2}[every]
    resume(tmp_path)
    assert content(tmp_path) == unbroken


def test_a_run_interrupted_again_and_again_goes_on_to_the_same_bits(unbroken, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        study.run(Experiment(SETTINGS, tmp_path, Stop(2)))
    for steps in (2, 3, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path, Stop(steps))
    resume(tmp_path)
    assert content(tmp_path) == unbroken


def test_every_design_with_batch_norm_dropout_and_momentum_goes_on_to_the_same_bits(tmp_path):
    layers = {
        "name": "small",
        "input_shape": [8, 8, 1],
        "layer": [
            {
                "type": "conv",
                "name": "conv1",
                "filters": 4,
                "padding": 1,
                "pool": {"kind": "max", "size": 2},
                "batch_norm": True,
                "dropout": 0.2,
            },
            {"type": "dense", "name": "fc1", "units": 10, "relu": False},
        ],
    }
    settings = Settings.make(
        layers=layers,
        epochs=2,
        batch=32,
        designs=["FL", "FX", "BN", "SQ", "TG"],
        perturb=[],
        momentum=0.9,
        weight_decay=1e-4,
    )
    study.run(Experiment(settings, tmp_path / "unbroken"))
    interrupts = 0
    while True:
        try:
            study.run(Experiment(settings, tmp_path / "broken", Stop(4), resume=True))
            break
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 5 * EPOCHS * STEPS // 4
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


def test_without_resume_a_run_begins_anew_and_sets_the_checkpoint_aside(copy, unbroken):
    notes = []
    observer = Stop(2)
    observer.note = notes.append
    with pytest.raises(KeyboardInterrupt):
        study.run(Experiment(SETTINGS, copy, Stop(2)))
    with pytest.raises(KeyboardInterrupt):
        study.run(Experiment(SETTINGS, copy, observer))
    assert [note for note in notes if str(copy / "earlier-2") in note]
    assert read(copy / "earlier-2/checkpoint-FL.npz")[0]["position"]["step"] == 2
    assert (copy / "earlier-1/results.json").exists()
    for number in (1, 2):
        shutil.rmtree(copy / f"earlier-{number}")
    resume(copy)
    assert content(copy) == unbroken


def test_what_is_finished_is_not_trained_again(copy, unbroken):
    resume(copy)
    outcomes = resume(copy, Stop(1))
    assert [outcome.design for outcome in outcomes] == ["FL", "FX C_o", "FX C_+1"]
    assert content(copy) == unbroken
    rows = json.loads((copy / "results.json").read_text())["designs"]
    assert [outcome.to_dict() for outcome in outcomes] == [
        {key: value for key, value in row.items() if key not in ("command", "machine")}
        for row in rows
    ]


def test_a_checkpoint_that_outlived_its_design_is_removed(copy, unbroken):
    kept = fixed_checkpoint(copy).read_bytes()
    resume(copy)
    fixed_checkpoint(copy).write_bytes(kept)
    resume(copy, Stop(1))
    assert content(copy) == unbroken


def test_curves_have_a_row_for_each_epoch_that_has_ended(stopped, copy, unbroken):
    assert curves(stopped) == unbroken["curves.csv"][: EPOCHS + 1]
    with pytest.raises(KeyboardInterrupt):
        resume(copy, Stop(STEPS - 1, at_epoch=True))
    assert curves(copy) == unbroken["curves.csv"][: 2 * EPOCHS]


def test_rows_that_a_checkpoint_does_not_know_yet_are_not_doubled(copy, unbroken):
    """A kill between the row and the checkpoint."""
    rows = unbroken["curves.csv"][EPOCHS : 2 * EPOCHS]
    write_curves(
        copy,
        {"FX C_o": [{key: value for key, value in row.items() if key != "design"} for row in rows]},
    )
    resume(copy)
    assert content(copy) == unbroken


def test_curves_of_designs_under_way_side_by_side_stay(tmp_path):
    row = {field.name: 1 for field in dataclasses.fields(Epoch)}
    for design, epochs in (("A", 1), ("B", 1), ("A", 2), ("B", 2)):
        write_curves(tmp_path, {design: [row] * epochs})
    assert [row["design"] for row in curves(tmp_path)] == ["A", "A", "B", "B"]


class Counter:
    """A learner of three arrays."""

    def __init__(self):
        self.arrays = {
            "parameters.a": np.arange(7, dtype=np.int16),
            "counts.x.y": np.zeros(4, np.int64),
            "b": np.array(0.1),
        }

    def state(self):
        return self.arrays

    def load_state(self, arrays):
        restore(self.arrays, arrays)


def test_what_is_read_is_what_was_written(tmp_path):
    """Sums of losses to the last bit, too."""
    position = Position([Epoch(0, 0.1, 1 / 3, 2 / 3, 0.5, 1e3)], 2, 0.1 + 0.2, 1e-3, 1e-4)
    checkpoint = Checkpoint(tmp_path, "A", {"seed": 1, "drops": (1, 2)}, Cadence())
    learner = Counter()
    checkpoint.write(learner, position)
    wanted = {name: array.copy() for name, array in learner.state().items()}
    for array in learner.state().values():
        array[...] = 1
    assert checkpoint.load(learner) == position
    assert all(np.array_equal(learner.state()[name], array) for name, array in wanted.items())


def test_a_bit_that_flips_anywhere_in_the_file_is_told_or_changes_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path, "A", {"seed": 1}, Cadence())
    checkpoint.write(Counter(), Position())
    sound = checkpoint.path.read_bytes()
    text = read(checkpoint.path)[0]
    harmless = 0
    for at in range(len(sound)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        checkpoint.path.write_bytes(damaged)
        try:
            found = read(checkpoint.path)
        except InputError as error:
            assert str(checkpoint.path) in str(error)
        else:
            harmless += 1  # dates of the archive and the like
            assert found[0] == text
            assert {name: array.tobytes() for name, array in found[1].items()} == {
                name: array.tobytes() for name, array in Counter().state().items()
            }
    assert harmless < len(sound) / 3


def test_a_damaged_checkpoint_is_refused_with_one_line_and_nothing_is_lost(copy, capsys):
    path = fixed_checkpoint(copy)
    data = bytearray(path.read_bytes())
    data[data.index(read_arrays(path)["sha256"].tobytes())] ^= 1
    path.write_bytes(data)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    assert cli.main(["run", "--resume", "--out", str(copy)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"fxsim: error: {path}")
    assert line.endswith("the checkpoint is damaged, delete it to start anew")
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.mark.parametrize("length", [0, 1, 100, -1, -100])
def test_a_truncated_checkpoint_is_refused(length, copy):
    path = fixed_checkpoint(copy)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="checkpoint-FX-C_o.npz .*delete it"):
        resume(copy)


def test_an_array_that_was_changed_is_told_by_its_digest(copy):
    arrays = read_arrays(fixed_checkpoint(copy))
    arrays["state.parameters.conv1.weight.codes"].reshape(-1)[0] ^= 1
    write_arrays(fixed_checkpoint(copy), arrays)
    with pytest.raises(InputError, match="is damaged .its SHA-256 differs"):
        resume(copy)


def test_a_file_that_is_no_checkpoint_is_refused(copy):
    write_arrays(fixed_checkpoint(copy), {"weights": np.zeros(3)})
    with pytest.raises(InputError, match="is no checkpoint of fxsim"):
        resume(copy)


def foreign(folder, change):
    """Replace the checkpoint of C_o by a sound one with another identity."""
    path = fixed_checkpoint(folder)
    text, _ = read(path)
    identity = text["identity"]
    change(identity)

    Checkpoint(folder, "FX C_o", identity, Cadence()).write(Counter(), Position())


def another_filter(identity):
    identity["network"]["layer"][0]["filters"] = 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda identity: identity["settings"].update(seed=4), "settings.seed is 4 there, 3 here"),
        (lambda identity: identity.update(fxsim="9.9"), "fxsim is '9.9' there"),
        (
            lambda identity: identity.update(design="FX C_-1"),
            "design is 'FX C_-1' there, 'FX C_o' here",
        ),
        (another_filter, "network.layer.0.filters is 5 there, 4 here"),
        (lambda identity: identity["images"].update(sha256="0"), "images.sha256 is '0' there"),
        (
            lambda identity: identity["assignment"]["layers"]["fc1"]["weights"].update(bits=31),
            "assignment.layers.fc1.weights.bits is 31 there",
        ),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_what_differs(change, told, copy):
    foreign(copy, change)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with pytest.raises(InputError) as refusal:
        resume(copy)
    assert f"is of another training: {told}" in str(refusal.value)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_a_state_that_does_not_fit_is_refused_before_anything_is_copied():
    own = arrays_of(
        {"conv1": {"weight": np.zeros((2, 3), np.int8), "bias": np.zeros(3, np.int8)}}, "parameters"
    )
    assert list(own) == ["parameters.conv1.weight", "parameters.conv1.bias"]
    good = {name: np.ones_like(array) for name, array in own.items()}
    for name, bad in (
        ("parameters.conv1.bias", np.ones(4, np.int8)),
        ("parameters.conv1.bias", np.ones(3, np.int16)),
        ("parameters.conv1.gamma", np.ones(3, np.int8)),
    ):
        with pytest.raises(InputError, match=name):
            restore(own, good | {name: bad})
    with pytest.raises(InputError, match="'parameters.conv1.bias' is missing"):
        restore(own, {"parameters.conv1.weight": np.ones((2, 3), np.int8)})
    assert not any(array.any() for array in own.values())
    restore(own, good)
    assert all(array.all() for array in own.values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--epochs", "5"), "epochs is 5, but what is in {} has 2"),
        (("--seed", "4"), "seed is 4, but what is in {} has 3"),
        (("--perturb", "2"), "perturb is (2,), but what is in {} has (1,)"),
        (
            ("--network", "mnist-convnet"),
            "network is 'mnist-convnet', but what is in {} has 'small'",
        ),
    ],
)
def test_an_option_that_contradicts_the_folder_is_an_error_that_names_both(
    options, told, copy, capsys
):
    assert cli.main(["run", "--resume", "--out", str(copy), *options]) == 2
    assert told.format(copy) in capsys.readouterr().err.splitlines()[-1]


def test_options_that_agree_with_the_folder_may_be_repeated(copy, unbroken, capsys):
    assert cli.main(["run", "--resume", "--out", str(copy), "--epochs", "2", "--perturb", "1"]) == 0
    for path in copy.iterdir():
        if path.name not in unbroken:
            path.unlink()  # the report
    assert content(copy) == unbroken


def test_quick_settings_may_be_repeated():
    settings = Settings.make(quick=True, epochs=12, drops=[9])
    settings.check_given({"quick": True, "epochs": 12, "drops": [9]}, "there")
    with pytest.raises(InputError, match="epochs is 3, but what is in there has 12"):
        settings.check_given({"epochs": 3}, "there")


def test_resume_begins_where_nothing_is(unbroken, tmp_path):
    assert settings_in(tmp_path) is None
    study.run(Experiment(SETTINGS, tmp_path, resume=True))
    assert content(tmp_path) == unbroken


def test_the_stages_one_by_one_resume_too(copy, unbroken, capsys):
    assert cli.main(["train", "--resume", "--out", str(copy)]) == 0
    assert (
        cli.main(
            ["train", "--resume", "--out", str(copy), "--assignment", str(copy / "assignment.json")]
        )
        == 0
    )
    assert cli.main(["train", "--resume", "--out", str(copy), "--perturb", "1"]) == 0
    found = content(copy)
    rows = [
        json.loads(each)["designs"]
        for each in (found.pop("results.json"), unbroken["results.json"])
    ]
    for got, wanted in zip(*rows, strict=True):
        assert {**got, "measured": None} == {
            **wanted,
            "measured": None,
        }  # a stage by itself measures more
    assert found == {name: value for name, value in unbroken.items() if name != "results.json"}


def test_a_fixed_point_run_without_a_float_run_resumes(copy, tmp_path, capsys):
    assignment = str(copy / "assignment.json")
    out = tmp_path / "out"
    arguments = ["train", "--out", str(out), "--assignment", assignment]
    with pytest.raises(KeyboardInterrupt):
        Experiment(SETTINGS, out, Stop(STEPS + 1)).train_fixed(
            fxsim.PrecisionAssignment.load(assignment), "FX C_o of assignment"
        )
    assert cli.main([*arguments, "--resume"]) == 0
    (row,) = json.loads((out / "results.json").read_text())["designs"]
    resume(copy)
    assert (
        row["fingerprint"]
        == json.loads((copy / "results.json").read_text())["designs"][1]["fingerprint"]
    )


@pytest.mark.parametrize(
    ("cadence", "told"),
    [
        (("--checkpoint-minutes", "-1"), "from 0"),
        (("--checkpoint-minutes", "nan"), "nan"),
        (("--checkpoint-steps", "0"), "1"),
    ],
)
def test_a_cadence_that_does_not_do(cadence, told, tmp_path, capsys):
    assert cli.main(["run", "--out", str(tmp_path / "out"), *cadence]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_new_float_run_makes_checkpoints_of_the_old_one_void(copy):
    Experiment(SETTINGS, copy).train_float()
    assert list(copy.glob("checkpoint*")) == []


def test_leftovers_of_a_killed_process_are_removed(copy, capsys):
    leftover = copy / ".checkpoint-FX-C_o.npz.12345.tmp"
    leftover.write_bytes(b"half")
    assert cli.main(["run", "--resume", "--out", str(copy)]) == 0
    assert not leftover.exists()


def kill_and_resume(kills, path):
    """The driver's result; its runs are processes of their own, killed at random moments."""
    run = subprocess.run(
        [sys.executable, DRIVER, "--kills", str(kills), "--output", path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(fxsim.__file__).parent.parent)},
    )
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    assert (result["kills"], result["identical"]) == (kills, kills)
    return result


@pytest.mark.skipif(not DRIVER.exists(), reason="the driver is beside the tests in a checkout only")
@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 50])
def test_every_resume_after_sigkill_ends_bit_identical(kills, tmp_path):
    kill_and_resume(kills, tmp_path / "sigkill.json")

"""Targets of one's own, in a Dataset and in an .npz: what is read, what is refused, trainings."""

import dataclasses

import numpy as np
import pytest
from oracle import rounding as oracle

from fxsim import Dataset, Experiment, InputError, Settings, Tensor, cli
from fxsim.datasets import digits, read_npz
from fxsim.experiment.results import read_results
from fxsim.experiment.training import TrainingSetup
from fxsim.presets import Uniform

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (50, 3, 3, 1)).astype(np.uint8)
NO_LABELS = np.zeros(50, np.uint8)
TARGETS = RANDOM.normal(0, 1, (50, 2))
LAYERS = {
    "name": "line",
    "input_shape": [3, 3, 1],
    "loss": "mse",
    "targets": "tensors",
    "layer": [{"type": "dense", "name": "out", "units": 2, "activation": "none"}],
}
SETTINGS = Settings.make(layers=LAYERS, dataset="given", epochs=1, batch=8)


def dataset(targets=TARGETS, tests=TARGETS):
    return Dataset("mine", IMAGES, NO_LABELS, IMAGES, NO_LABELS, 1, 255, targets, tests)


@pytest.mark.parametrize(
    ("targets", "tests", "error", "message"),
    [
        (TARGETS, None, InputError, "test_targets is missing; give targets of both splits"),
        (None, TARGETS, InputError, "train_targets is missing"),
        (
            TARGETS[:49],
            TARGETS,
            InputError,
            r"train_targets must be \(50, ...\), an array for each",
        ),
        (TARGETS[:, 0], TARGETS, InputError, r"an array for each image, got \(50,\)"),
        (TARGETS, TARGETS[:, :1], InputError, r"test_targets are \(1,\), train_targets \(2,\)"),
        (TARGETS.astype(int), TARGETS, TypeError, "must be a NumPy array of float32 or float64"),
        (TARGETS * np.inf, TARGETS, InputError, "train_targets must be finite, and one is not"),
    ],
)
def test_targets_that_do_not_fit_the_images(targets, tests, error, message):
    with pytest.raises(error, match=message):
        dataset(targets, tests)


def test_targets_are_copied_where_somebody_could_write_into_them():
    own = TARGETS.copy()
    made = dataset(own)
    own[:] = 0
    np.testing.assert_array_equal(made.train_targets, TARGETS)
    assert (made.target_shape, digits().target_shape) == ((2,), ())
    np.testing.assert_array_equal(digits().train_wanted, digits().train_labels)


def test_a_file_has_them_with_or_without_labels_and_tests(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=IMAGES, train_targets=TARGETS)
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.train_targets, TARGETS[:40])
    np.testing.assert_array_equal(found.test_targets, TARGETS[40:])
    assert (found.classes, len(found.test_labels)) == (1, 10)
    dataset(tests=TARGETS + 1).save(tmp_path / "b.npz")
    found = read_npz(tmp_path / "b.npz")
    np.testing.assert_array_equal(found.test_targets, TARGETS + 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_images": IMAGES}, "test_images stands alone"),
        (
            {"test_images": IMAGES, "test_labels": NO_LABELS},
            "tests have test_images, test_labels, and training images, targets; give both the same",
        ),
        ({"train_targets": NO_LABELS}, "must be a NumPy array of float32 or float64, got uint8"),
        ({"train_targets": TARGETS[:20]}, r"must be \(40, ...\), an array for each image"),
    ],
)
def test_a_file_whose_targets_do_not_fit(tmp_path, arrays, message):
    given = {"train_images": IMAGES, "train_targets": TARGETS}
    np.savez(tmp_path / "a.npz", **given | arrays)
    with pytest.raises(InputError, match=message) as refusal:
        read_npz(tmp_path / "a.npz")
    assert str(refusal.value).startswith(f"{tmp_path / 'a.npz'}: ")


def test_data_tells_of_them(tmp_path, capsys):
    dataset().save(tmp_path / "a.npz")
    assert cli.main(["data", str(tmp_path / "a.npz")]) == 0
    assert "npz: whole, 1 classes, images of 3x3x1, targets of 2\n" in capsys.readouterr().out


def test_a_network_that_compares_with_something_else_refuses_them():
    labels = {**LAYERS, "targets": "labels"}
    with pytest.raises(InputError, match="'mine' has targets, and network 'line' compares its out"):
        TrainingSetup.of(dataclasses.replace(SETTINGS, layers=labels), dataset())
    with pytest.raises(InputError, match=r"has targets \(3,\), and network 'line' has 2 outputs"):
        three = np.zeros((50, 3))
        TrainingSetup.of(SETTINGS, dataset(three, three))


def test_targets_become_the_nearest_codes_of_the_logits():
    setup = TrainingSetup.of(SETTINGS, dataset())
    learner = setup.fixed_learner(Uniform.parse("Q2.4").assignment(setup.network))
    format = learner.network.target_format
    rows = np.array([[0.03125, -0.03125], [7.0, -9.0], [0.1, -1.53]])
    found = learner.targets(IMAGES[:3], rows)
    plain = format.bits, format.range_exp, format.signed
    wanted = [[oracle.quantize(oracle.Fraction(x), plain)[0] for x in row] for row in rows.tolist()]
    assert found.tolist() == wanted
    assert wanted[0] == [1, -1] and wanted[1] == [format.max_code, format.min_code]
    assert Tensor(found, format).shape == (3, 2)


def test_every_step_and_evaluation_takes_the_targets_of_its_images(tmp_path):
    experiment = Experiment(SETTINGS, tmp_path, dataset=dataset())
    steps = list(experiment.setup.plan.steps())
    assert len(steps) == 45 // 8
    for step in steps:
        rows = [np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0] for image in step.pixels]
        np.testing.assert_array_equal(step.labels, TARGETS[rows])
    learner = experiment.setup.float_learner()
    loss, error = learner.evaluate(experiment.dataset.test_images, experiment.dataset.test_wanted)
    outputs = learner.network.logits(IMAGES / 255)
    assert loss == pytest.approx(((outputs - TARGETS) ** 2).mean()) and error is None


def test_the_digest_changes_with_every_target():
    digests = set()
    for place in (None, 0, -1):
        targets = TARGETS.copy()
        if place is not None:
            targets[place, 0] += 1  # the last is held out
        digests.add(TrainingSetup.of(SETTINGS, dataset(targets)).images_sha256)
    assert len(digests) == 3


def whole_run(folder, given):
    """The curves and fingerprints of an autoencoder, and its statistics."""
    settings = Settings.make(
        network="digits-autoencoder", dataset="given", images=96, epochs=1, quick=True
    )
    experiment = Experiment(settings, folder, dataset=given)
    experiment.train_float()
    statistics = experiment.analyze()
    experiment.train_fixed(experiment.assign())
    rows = read_results(folder)["designs"]
    told = [(row["train_loss"], row["test_loss"], row["fingerprint"]) for row in rows]
    return told, statistics.arrays()


def test_images_as_targets_are_what_an_autoencoder_takes_without_any(tmp_path):
    plain = digits()
    targets = {f"{split}_targets": getattr(plain, f"{split}_images") / 16 for split in SPLITS}
    told, statistics = whole_run(tmp_path / "own", dataclasses.replace(plain, **targets))
    wanted, of_plain = whole_run(tmp_path / "plain", plain)
    assert told == wanted
    for name, array in of_plain.items():
        np.testing.assert_array_equal(statistics[name], array)


SPLITS = ("train", "test")

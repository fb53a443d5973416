"""A Dataset handed to Experiment in Python: the same training, and no other data set in its place."""

import dataclasses
import pickle
from concurrent.futures import Executor, Future

import numpy as np
import pytest

from fxsim import Dataset, Experiment, InputError, Settings, cli
from fxsim.datasets import digits, load
from fxsim.experiment import study
from fxsim.experiment.results import read_results

OPTIONS = {"network": "digits-convnet", "width": 0.25, "images": 128, "epochs": 1, "batch": 32}
SETTINGS = Settings.make(dataset="given", **OPTIONS)


def losses(folder):
    return [row["train_loss"] for row in read_results(folder)["designs"]]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a float run on the digits, handed over as a Dataset."""
    folder = tmp_path_factory.mktemp("given")
    Experiment(SETTINGS, folder, dataset=digits()).train_float()
    return folder


def test_it_trains_as_the_data_set_of_the_same_images_does(given, tmp_path):
    Experiment(Settings.make(dataset="digits", **OPTIONS), tmp_path).train_float()
    assert losses(given) == losses(tmp_path)


def test_the_stages_go_on_with_it(given):
    experiment = Experiment.reopen(given, dataset=digits())
    experiment.analyze()
    assert experiment.assign().network == "digits-convnet"
    assert experiment.setup.identity.images["sha256"]


def other_digits():
    found = digits()
    images = found.train_images.copy()
    images[0, 0, 0, 0] ^= 1
    return dataclasses.replace(found, train_images=images)


def test_other_images_are_refused_by_their_digest(given):
    with pytest.raises(InputError, match=r"is of another training: images\.sha256 is "):
        Experiment.reopen(given, dataset=other_digits())


class Inline(Executor):
    """Runs what workers would run, with arguments as they would get them."""

    def submit(self, function, *arguments):
        future = Future()
        function, *arguments = pickle.loads(pickle.dumps((function, *arguments)))
        future.set_result(function(*arguments))
        return future


def test_workers_get_it_too(tmp_path):
    settings = dataclasses.replace(SETTINGS, designs=("FL", "BN", "TG"))
    study.run(Experiment(settings, tmp_path, dataset=digits()), Inline())
    assert len(losses(tmp_path)) == 3


@pytest.mark.parametrize(
    ("settings", "dataset", "message"),
    [
        (SETTINGS, None, "dataset 'given' is one that Python hands over, and nothing finds it"),
        (Settings.make(**OPTIONS), digits(), "the settings name 'digits': make them with dataset="),
    ],
)
def test_settings_and_data_set_belong_together(tmp_path, settings, dataset, message):
    with pytest.raises(InputError, match=message):
        Experiment(settings, tmp_path, dataset=dataset)
    assert not list(tmp_path.iterdir())


def test_only_a_dataset_can_be_given(tmp_path):
    with pytest.raises(TypeError, match="dataset must be a fxsim.Dataset, got 'digits'"):
        Experiment(SETTINGS, tmp_path, dataset="digits")
    with pytest.raises(InputError, match="data 'mine.npz' has no effect beside dataset 'given'"):
        Settings.make(dataset="given", data="mine.npz")
    with pytest.raises(InputError, match="dataset 'given' is unknown"):
        load("given")


def test_images_that_do_not_fit_are_refused(tmp_path):
    images = np.zeros((200, 5, 5, 1), np.uint8)
    labels = np.zeros(200, np.uint8)
    mine = Dataset("mine", images, labels, images, labels, classes=10)
    with pytest.raises(InputError, match=r"dataset 'mine' has images \(5, 5, 1\) in 10 classes"):
        Experiment(SETTINGS, tmp_path, dataset=mine)


@pytest.mark.parametrize(
    "words",
    [
        ("analyze", "--out", "FOLDER"),
        ("train", "--formats", "Q4.12", "--out", "FOLDER"),
        ("vectors", "export", "--formats", "Q4.12", "--run", "FOLDER"),
        ("train", "--dataset", "given", "--out", "NEW"),
    ],
)
def test_a_command_that_cannot_find_it_says_so(given, tmp_path, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"FOLDER": str(given), "NEW": str(tmp_path / "new")}
    assert cli.main([places.get(word, word) for word in words]) == 2
    told = capsys.readouterr().err
    assert "nothing finds it again: open the experiment with Experiment(..., dataset=...)" in told
    assert told.count("\n") == 1 and len(told) <= 320

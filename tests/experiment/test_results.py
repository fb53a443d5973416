"""results.json is read strictly."""

import dataclasses
import json

import pytest

from fxsim.analysis.complexity import design_complexity
from fxsim.errors import InputError
from fxsim.experiment import results
from fxsim.experiment.results import FILE, Outcome, Results, read_results
from fxsim.experiment.settings import Settings
from fxsim.identity import Identity
from fxsim.nn.networks import build
from fxsim.nn.spec import to_dict
from fxsim.train.loop import Epoch

IMAGES = {"training": 70, "held_out": 7, "test": 360, "sha256": "0" * 64}
SETTINGS = Settings.make(images=70, epochs=1)
IDENTITY = Identity(SETTINGS.to_dict(), to_dict(SETTINGS.build_network()), IMAGES)


@pytest.fixture
def folder(tmp_path):
    """A folder with the results of one float design."""
    epochs = [Epoch(0, 0.1, 0.5, 0.4, 0.1, 32.0)]
    costs = design_complexity(build("digits-convnet"), "FL")
    Results(tmp_path, IDENTITY, "fxsim run").add(Outcome("FL", epochs, costs, 6.0))
    return tmp_path


def test_what_is_written_is_read_back(folder):
    data = read_results(folder)
    assert data["version"] == results.VERSION
    assert data["identity"] == IDENTITY.to_dict()
    assert results.stored_settings(folder) == SETTINGS
    (row,) = data["designs"]
    assert (row["start_fingerprint"], row["fingerprint"]) == (None, None)
    costs = design_complexity(build("digits-convnet"), "FL")
    outcome = Outcome.from_dict(row, costs)
    assert outcome.to_dict() == {
        name: value for name, value in row.items() if name not in ("command", "machine")
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.update(version=1), "has version 1, and this fxsim reads version 3"),
        (lambda data: data.update(kind="x"), "is no file of kind 'fxsim results'"),
        (lambda data: data.pop("identity"), "results.json needs 'identity'"),
        (lambda data: data.update(identities={}), "did you mean 'identity'?"),
        (lambda data: data.update(identity=[]), "identity must be a table of keys"),
        (lambda data: data["identity"].pop("network"), "identity needs 'network'"),
        (lambda data: data["identity"].update(images=[]), "images must be a table of keys"),
        (lambda data: data["identity"]["images"].update(sha=""), "did you mean 'sha256'?"),
        (lambda data: data["designs"][0].update(seconds=7.0), "was changed after fxsim wrote"),
        (lambda data: data.update(sha256=None), "was changed after fxsim wrote it"),
        (lambda data: data.update(designs={}), "designs must be a list"),
        (lambda data: data.update(designs=[3]), "designs[0] must be a table of keys"),
        (lambda data: data["designs"][0].update(fingerprints=""), "did you mean 'fingerprint'?"),
        (lambda data: data["designs"][0].pop("counts"), "designs[0] needs 'counts'"),
        (lambda data: data["designs"][0].update(counts=[]), "counts must be a mapping"),
        (
            lambda data: data["designs"][0].update(fingerprint=3),
            "fingerprint must be a text, got 3",
        ),
        (lambda data: data["designs"][0].update(train_loss="1"), "train_loss must be a number"),
        (
            lambda data: data["designs"][0].update(seconds=True),
            "seconds must be a number, got True",
        ),
        (lambda data: data["designs"][0].update(epochs=[3]), "epochs[0] must be a table of keys"),
        (lambda data: data["designs"].append(data["designs"][0]), "design 'FL' stands there twice"),
        (lambda data: data["designs"][0].update(epochs=[]), "epochs must be at least one"),
        (lambda data: data["designs"][0]["epochs"][0].update(epoch=2), "epochs must count from 1"),
        (lambda data: data["designs"][0].update(test_loss=0.5), "test_loss 0.5 contradicts"),
        (lambda data: data["designs"][0].update(design="FX C_o"), "its assignment contradict"),
        (lambda data: data["designs"][0]["costs"]["total"].update(communication=1), "total"),
        (lambda data: data["designs"][0]["costs"].update(layers={}), "layers must be at least one"),
        (lambda data: data["designs"][0].update(counts={"a": 3}), "counts, 'a' must be a table"),
        (lambda data: data["designs"][0].update(stopped={"a": "b"}), "stopped['a'] must be an int"),
        (lambda data: data["designs"][0]["machine"].pop("processor"), "machine needs 'processor'"),
        (lambda data: data["designs"][0].update(measured={"criteria": {}}), "criteria must be a"),
        (
            lambda data: data["identity"]["settings"].update(epochs="3"),
            "epochs must be an integer, got '3'",
        ),
        (lambda data: data.update(mismatch=3), "mismatch must be a table of keys"),
        (lambda data: data.update(mismatch={"bound": 1}), "mismatch needs 'target'"),
        (
            lambda data: data.update(mismatch={"target": 0.1, "bound": 1, "measured": {}}),
            "bound 1 is unknown; choose from tight, paper",
        ),
        (
            lambda data: data.update(
                mismatch={"target": 0.1, "bound": "tight", "measured": {"test": {"images": 3}}}
            ),
            "needs 'share'",
        ),
        (lambda data: data["designs"][0]["epochs"][0].pop("epoch"), "epochs[0] needs 'epoch'"),
        (
            lambda data: data["designs"][0]["epochs"][0].update(epoch=None),
            "epoch must be an integer, got None",
        ),
    ],
)
def test_results_that_were_edited_are_refused(change, told, folder):
    data = json.loads((folder / FILE).read_text())
    change(data)
    (folder / FILE).write_text(json.dumps(data))
    with pytest.raises(InputError) as refusal:
        read_results(folder)
    assert told in str(refusal.value)
    assert FILE in str(refusal.value)


def test_results_are_not_added_to_those_of_another_experiment(folder):
    Results(folder, IDENTITY)
    for change, told in (
        ({"settings": Settings.make(seed=1, images=70, epochs=1).to_dict()}, "settings.seed is 0"),
        ({"images": IMAGES | {"training": 71}}, "images.training is 70 there, 71 here"),
        ({"network": {}}, "network.name is 'digits-convnet' there, None here"),
        ({"version": 0}, "version is 1 there, 0 here"),
    ):
        with pytest.raises(InputError, match=f"is of another training: {told}"):
            Results(folder, dataclasses.replace(IDENTITY, **change))

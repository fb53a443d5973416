"""Settings: every field is checked, files are read strictly."""

import dataclasses
import json

import pytest

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment.settings import QUICK, Settings, read_toml
from fxsim.experiment.stages import settings_in

WRONG = {
    int: ("3", 3.0, True, [3], {}),
    float: ("0.5", True, [0.5], 10**400),
    bool: (1, 0, "true", [True]),
    str: (1, True, ["a"], ""),
    tuple: (1, "1", [1.5], [True], {"a": 1}),
    dict: (1, "a", [("name", "a")]),
}
"""Kind of a field -> values of other types."""


def kind_of(field):
    text = field.type.partition(" ")[0].partition("[")[0]
    return {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "dict": dict}[
        text
    ]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_field_is_checked_against_its_type(field):
    wrong = [*WRONG[kind_of(field)], object()]
    if field.default is not None:
        wrong.append(None)
    for value in wrong:
        with pytest.raises(InputError, match=field.name):
            Settings(**{field.name: value})
        if value is not None:
            with pytest.raises(InputError, match=field.name):
                Settings.make(**{field.name: value})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"target": 1.0}, "target must lie between 0 and 1"),
        ({"width": float("nan")}, "width must be above 0"),
        ({"crop": 65}, "crop must be 0 to 64"),
        ({"momentum": 1.0}, "momentum must be 0 to 0.9999"),
        ({"dataset": "cifra10"}, "did you mean 'cifar10'?"),
        ({"designs": ["FL", "FL"]}, "designs must hold each value once"),
        ({"perturb": [1, 1]}, "perturb must hold each value once"),
        ({"network": "mine"}, "network 'mine' is unknown"),
    ],
)
def test_every_field_is_checked_against_its_range(given, told):
    for build in (Settings, Settings.make):
        with pytest.raises(InputError) as refusal:
            build(**given)
        assert told in str(refusal.value)


def test_the_old_name_of_a_setting_names_the_new_one(tmp_path):
    with pytest.raises(InputError, match="'pictures' is called 'images' now"):
        Settings.make(pictures=3)
    (tmp_path / "old.toml").write_text("pictures = 3")
    with pytest.raises(InputError, match="old.toml: .*'pictures' is called 'images' now"):
        read_toml(tmp_path / "old.toml")


@pytest.mark.parametrize("name", ["assignment", "formats", "in_place", "accumulator", "stochastic"])
def test_what_is_of_one_training_names_the_option_of_train(tmp_path, name):
    (tmp_path / "run.toml").write_text(f"{name} = 'Q8.8'")
    with pytest.raises(InputError, match=f"run.toml: '{name}' is no setting.* fxsim train") as told:
        read_toml(tmp_path / "run.toml")
    option = next(word for word in str(told.value).split() if word.startswith("--"))
    assert getattr(cli.parse(["train", option, "Q8.8"][: 2 + (name != "in_place")]), name)


def test_quick_is_for_what_is_not_given():
    assert dataclasses.asdict(Settings.make(quick=True)).items() >= QUICK.items()
    given = {"epochs": 12, "drops": (9,), "images": 1000}
    assert dataclasses.asdict(Settings.make(quick=True, **given)).items() >= given.items()


def test_the_width_is_for_built_in_networks():
    layers = {"name": "mine"}
    assert Settings.make(layers=layers).width == 1.0
    with pytest.raises(InputError, match="width scales the filters of a built-in network"):
        Settings.make(layers=layers, width=0.5)


@pytest.mark.parametrize("name", [[], 3, True, "", None])
def test_the_name_of_a_network_is_a_text(name):
    with pytest.raises(InputError, match="name in .layers. must be a text"):
        Settings.make(layers={"name": name})


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "conv", "name": "c"},
        {"type": "conv", "name": "c", "filters": "x"},
        {"type": "conv", "name": "c", "filters": [3]},
        {"name": "c"},
        3,
        None,
    ],
)
def test_layers_that_are_none_are_refused_in_one_line(layer):
    settings = Settings.make(layers={"input_shape": [8, 8, 1], "layer": [layer]})
    with pytest.raises(InputError) as refusal:
        settings.build_network()
    assert "\n" not in str(refusal.value)


SETTINGS = [
    Settings.make(network="mnist-convnet", width=2, drops=[2], quick=True),
    Settings.make(layers={"name": "mine", "input_shape": [8, 8, 1], "layer": []}, perturb=[]),
    Settings.make(quick=True, images=70),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_come_back_from_their_file(settings, tmp_path):
    settings.save(tmp_path / "experiment.json")
    assert Settings.load(tmp_path / "experiment.json") == settings
    assert settings_in(tmp_path) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def edited(change):
    data = {"kind": "fxsim settings", "version": 1, "settings": Settings().to_dict()}
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.update(version=2), "has version 2, and this fxsim reads version 1"),
        (lambda data: data.update(version=True), "has version True"),
        (lambda data: data.pop("version"), "has version None"),
        (lambda data: data.update(kind="other"), "is no file of kind 'fxsim settings'"),
        (lambda data: data.update(setings={}), "'setings' is unknown; did you mean 'settings'?"),
        (lambda data: data.pop("settings"), "experiment.json needs 'settings'"),
        (lambda data: data.update(settings=[]), "settings must be a table"),
        (lambda data: data["settings"].update(epoch=3), "did you mean 'epochs'?"),
        (lambda data: data["settings"].update(pictures=3), "called 'images' now"),
        (lambda data: data["settings"].pop("seed"), "the settings have no seed"),
        (lambda data: data["settings"].update(epochs="3"), "epochs must be an integer"),
        (lambda data: data["settings"].update(epochs=None), "epochs must be an integer"),
    ],
)
def test_a_settings_file_that_was_edited_is_refused(change, told, tmp_path):
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(edited(change)))
    with pytest.raises(InputError) as refusal:
        settings_in(tmp_path)
    assert told in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", '"a"', "{", ""])
def test_a_file_that_holds_something_else_is_refused(text, tmp_path):
    path = tmp_path / "experiment.json"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        Settings.load(path)

"""The door of the command line: an option is honoured or refused by its name."""

import argparse
import json

import pytest

from fxsim.cli import options
from fxsim.cli import parser as cli


def command_parsers():
    """(words, parser) of every command, those below `vectors` too."""

    def below(words, parser):
        groups = [
            action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        ]
        if not groups:
            yield words, parser
        for group in groups:
            for name, child in group.choices.items():
                yield from below([*words, name], child)

    yield from below([], cli._parser())


COMMANDS = {" ".join(words): (words, parser) for words, parser in command_parsers()}
OPTIONS = [
    (name, option)
    for name, (_, parser) in COMMANDS.items()
    for action in parser._actions
    for option in action.option_strings
    if option.startswith("--") and action.nargs != 0 and not isinstance(action, options.Renamed)
]
POSITIONALS = [
    name
    for name, (_, parser) in COMMANDS.items()
    if any(not action.option_strings for action in parser._actions)
]


def refused(capsys, *arguments):
    """The one line on standard error with which a command is refused; nothing was done before."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    assert line.startswith("fxsim: error: ")
    return line


def test_there_are_commands_and_options():
    assert {"run", "train", "cost", "data", "vectors export", "vectors check"} <= set(COMMANDS)
    assert {("run", "--out"), ("train", "--assignment"), ("vectors export", "--layers")} <= set(
        OPTIONS
    )


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
def test_an_empty_value_is_refused_by_the_name_of_the_option(command, option, capsys, tmp_path):
    words, _ = COMMANDS[command]
    for empty in ([option, ""], [option, " "], [f"{option}="], [f"{option}=--"]):
        line = refused(capsys, *words, *empty)
        assert f"{option} must not be empty" in line
    assert refused(capsys, *words, option, "a", "").startswith(
        f"fxsim: error: {option} must not be empty"
    )


@pytest.mark.parametrize("command", POSITIONALS)
def test_an_empty_argument_is_refused(command, capsys):
    words, _ = COMMANDS[command]
    assert "an argument must not be empty" in refused(capsys, *words, "")


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
def test_an_option_that_is_given_twice_is_refused(command, option, capsys):
    words, _ = COMMANDS[command]
    if option in cli.REPEATED and command != "run":  # which takes one word there
        arguments = cli.parse([*words, option, "9 bits", option, "8 bits"])
        assert getattr(arguments, option.removeprefix("--")) == ["9 bits", "8 bits"]
        return
    line = refused(capsys, *words, option, "1", option, "2")
    assert f"{option} is given 2 times" in line


def test_a_switch_and_its_opposite_are_refused(capsys):
    assert "--flip is given 2 times" in refused(capsys, "run", "--flip", "--no-flip")


def test_the_old_name_of_an_option_names_the_new_one(capsys):
    for command in ("run", "train"):
        line = refused(capsys, command, "--pictures", "512")
        assert "--pictures is called --images now; use --images 512" in line


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("option", ["--formats=Q8.8", "--in-place", "--stochastic=a=philox"])
def test_an_option_of_one_training_is_named_as_that(capsys, command, option):
    line = refused(capsys, command, option)
    name = option.partition("=")[0]
    assert f"{name} is an option of fxsim train, not of fxsim {command}; leave it out" in line


def test_the_old_name_is_not_in_the_help(capsys):
    assert cli.main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--images N" in text
    assert "picture" not in text


WITHOUT_EFFECT = [
    (("run", "--designs", "FL", "--perturb", "1"), "--perturb has no effect"),
    (("run", "--designs", "SQ,TG", "--perturb", "1"), "--perturb has no effect"),
    (("run", "--designs", "FL", "--per-class"), "--per-class has no effect"),
    (("run", "--perturb", "none", "--per-class"), "--per-class has no effect"),
    (("run", "--designs", "BN", "--output-grad-bits", "9"), "--output-grad-bits has no effect"),
    (("run", "--designs", "FL", "--bound", "paper"), "--bound has no effect"),
    (("run", "--designs", "TG", "--minimize", "macs"), "--minimize has no effect"),
    (("train", "--perturb", "1", "--bound", "tight"), "--bound has no effect"),
    (
        ("train", "--perturb", "-1", "--only", "accumulators", "--in-place"),
        "--in-place has no effect beside --only accumulators",
    ),
    (("run", "--bound", "loose"), "bound 'loose' is unknown; choose from tight, paper"),
    (("run", "--network", "digits-autoencoder", "--bound", "paper"), "decides nothing"),
    (
        ("run", "--minimize", "bits"),
        "minimize 'bits' is unknown; choose from macs, activations, weights",
    ),
    (("run", "--designs", "FL,TG", "--jobs", "2"), "--jobs has no effect"),
    (("run", "--data", "somewhere"), "'digits' is inside the package and reads no folder"),
    (("run", "--images", "2000"), "images must be 1 to 1294"),
    (("train", "--perturb", "0", "--only", "weight_grads"), "--only needs --perturb"),
    (("train", "--only", "weight_grads"), "--only needs --perturb"),
    (("train", "--perturb", "1", "--output-grad-bits", "9"), "--output-grad-bits has no effect"),
    (("sweep", "--targets", "0.01,x"), "--targets"),
    (("sweep", "--targets", "0.01", "--targets", "0.1"), "--targets is given 2 times"),
    (("run", "--designs", "FL", "--gradient-rounding", "nearest"), "--gradient-rounding has no"),
    (
        ("run", "--gradient-rounding", "up"),
        "gradient_rounding 'up' is unknown; choose from stochastic, nearest",
    ),
    (
        ("vectors", "export", "--network", "digits-convnet", "--run", "mine"),
        "--run mine has no effect beside --network digits-convnet",
    ),
]


@pytest.mark.parametrize(("arguments", "told"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused_by_its_name(arguments, told, capsys, tmp_path):
    assert told in refused(capsys, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_width_of_a_network_of_ones_own_is_refused(capsys, tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text("[layers]\nname = 'mine'")
    for command in ("run", "train", "cost"):
        line = refused(capsys, command, file, "--width", "0.5")
        assert "width scales the filters of a built-in network" in line


def test_the_option_quick_comes_before_a_file(tmp_path):
    """... and other options before it."""
    from fxsim.cli.commands import _settings

    file = tmp_path / "experiment.toml"
    file.write_text("epochs = 9\nimages = 900\ndrops = [5]\nseed = 3")

    def settings(*options):
        return _settings(cli.parse(["run", str(file), "--out", str(tmp_path / "out"), *options]))

    whole = settings()
    assert (whole.epochs, whole.images, whole.drops, whole.seed) == (9, 900, (5,), 3)
    quick = settings("--quick")
    assert (quick.epochs, quick.images, quick.drops, quick.seed) == (3, 512, (), 3)
    more = settings("--quick", "--epochs", "4")
    assert (more.epochs, more.images, more.drops) == (4, 512, ())


BAD_FILES = {
    "deep JSON": "[" * 100_000,
    "no table": "3",
    "no JSON": "{",
    "other kind": json.dumps({"kind": "other", "version": 1}),
    "other version": json.dumps({"kind": "fxsim settings", "version": 99, "settings": {}}),
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize(
    "command",
    [
        ("analyze", "--out"),
        ("assign", "--out"),
        ("train", "--perturb", "-1", "--resume", "--out"),
        ("run", "--resume", "--out"),
        ("sweep", "--out"),
        ("vectors", "export", "--run"),
    ],
)
def test_a_damaged_settings_file_ends_every_command_with_one_line(command, text, capsys, tmp_path):
    (tmp_path / "experiment.json").write_text(text)
    (tmp_path / "assignment.json").write_text("{}")
    assert cli.main([*command, str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fxsim: error: ")


@pytest.mark.parametrize(
    "command", [("analyze", "--out"), ("data",), ("vectors", "export", "--run")]
)
def test_a_path_that_the_system_refuses_ends_with_one_line(command, capsys):
    refused(capsys, *command, "x" * 5000)

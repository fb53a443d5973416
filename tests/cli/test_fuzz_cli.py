"""Mutated command lines, from a seed: each is done, or refused in one short line."""

import argparse
import contextlib
import io
import random
import re

import pytest

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment import replay, stages, study

SEEDS = 4
CASES = 100
"""Of each seed; the slow test has a hundred times as many."""

MOST = 300
PYTHON = re.compile(
    r"Traceback|NoneType|object is not|has no attribute|positional argument|must be str|"
    r"invalid literal|indices must be|unsupported operand|codec can't|embedded null|Error\b"
)

GOOD = (
    "run --quick --out mine",
    "run --network digits-convnet --width 0.5 --epochs 2 --batch 32 --seed 3 --out mine",
    "run experiment.toml --learning-rate 0.1 --momentum 0.9 --weight-decay 1e-4 --jobs 2",
    "run --designs FL,FX,BN,SQ,TG --perturb -2,-1,+1 --per-class --jobs 2 --images 256",
    "run --resume --out mine --checkpoint-minutes 1 --checkpoint-steps 10",
    "run --dataset mnist --data data --flip --crop 4 --output-grad-bits 16",
    "run --designs FX --gradient-rounding nearest --bound paper --held-out 0",
    "sweep --out mine --targets 0.01,0.1 --perturb -1,+1 --jobs 2",
    "train --out mine --quick",
    "train --out mine --assignment assignment.json --accumulator forward=16",
    "train --out mine --perturb -1 --only weight_grads --accumulator 24",
    "train --out mine --assignment assignment.json --in-place --stochastic accumulators=philox",
    "report mine",
    "report mine data --out both.html",
    "analyze --out mine",
    "assign --out mine",
    "cost digits-convnet --width 0.5 --json",
    "cost cifar10-convnet --design BN",
    "cost experiment.toml --assignment assignment.json",
    "data data --dataset mnist --json",
    "data data",
    "vectors export --run mine --step 3 --batch 2 --layers conv1 --files mem npy --out vectors",
    "vectors export --network digits-convnet --assignment assignment.json --seed 1 --data data",
    "vectors export --run mine --inference --images 4 --weights fixed --folded",
    "vectors check vectors dump --tensor conv1.activations",
    "export mine --onnx mine.onnx --assignment assignment.json --retrain",
    "export mine --qonnx mine.onnx --formats Q8.8 --folded --batch 4",
    "profiles",
    "guide train",
    "info --json",
    "--version",
    "run --help",
)

BAD = (
    *("", " ", "-", "--", "---", "-0", "--out", "-1", "0", "1", "7", "64", "1.5", "1e400", "-inf"),
    *("nan", "inf", "9e399", "1_0", "0x10", "\u0663", " 1", "1 ", "1,2", ",", ",,", "none", "true"),
    *("9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 40, str(2**31), str(2**63), str(2**64)),
    *("x" * 5000, "x y " * 2000, "/" * 5000, "x/" * 3000, "\x1b[2J", "a\nb", "a\tb", "\0", "a\0b"),
    *("\u00e9", "\udcff", "a\udcffb", "\u202e", "%s", "{0}", "$HOME", "~", "*", "[", "(", "\\"),
    *("FL", "FX", "FL,FL", "FL,XX", "bits", "16 bits", "conv1.*", "conv1", "mem", "digits"),
    *(".", "file", "file/below", "missing", "missing/below", "mine", "data"),
    *("/dev/null", "experiment.toml", "assignment.json", "bad.toml", "nul.toml"),
)


def options_of(parser):
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from options_of(child)


OPTIONS = sorted(set(options_of(cli._parser())))


def mutated(random):
    """A good command line with one to four changes."""
    words = random.choice(GOOD).split()
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(words) + 1)
        change = random.randrange(6)
        if change == 0 and words:
            del words[place - 1]
        elif change == 1 and words:
            words.insert(place, words[place - 1])
        elif change == 2 and words:
            words[place - 1] = random.choice(BAD)
        elif change == 3:
            words[place:place] = [random.choice(OPTIONS), random.choice(BAD)]
        elif change == 4:
            words.insert(place, f"{random.choice(OPTIONS)}={random.choice(BAD)}")
        else:
            words.insert(place, random.choice(BAD))
    return words


class Reached(Exception):
    """The arguments were taken: the work itself would begin."""


def reach(*_arguments, **_options):
    raise Reached


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, where no work is done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "data").mkdir()
    (tmp_path / "assignment.json").write_text("{}")
    (tmp_path / "experiment.toml").write_text("epochs = 2\nseed = 3\n")
    (tmp_path / "bad.toml").write_text("epochs = '2'\n")
    (tmp_path / "nul.toml").write_text('dataset = "mnist"\ndata = "a\\u0000b"\n')
    for owner, name in (
        (stages.Experiment, "_train"),
        (stages.Experiment, "measure"),
        (study, "run"),
        (replay, "replay"),
        (replay, "replay_of_run"),
    ):
        monkeypatch.setattr(owner, name, reach)
    run = cli._run

    def run_until_reached(argv):
        try:
            return run(argv)
        except Reached:
            return 0

    monkeypatch.setattr(cli, "_run", run_until_reached)
    return tmp_path


def complaint(words):
    """What is wrong with how `fxsim` ends; None where nothing is."""
    output = io.StringIO()
    errors = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = cli.main(words)
    lines = errors.getvalue().split("\n")
    if code == 0:
        return None
    if code != 2:
        return f"exit code {code}: {errors.getvalue()[-500:]}"
    line = lines[-2]
    if lines[-1] or not line.startswith("fxsim: error: "):
        return f"not one line: {lines}"
    if len(line) > MOST:
        return f"{len(line)} characters: {line}"
    if not line.isprintable():
        return f"control characters: {line!r}"
    if PYTHON.search(line):
        return f"Python: {line}"
    return None


def complaints(seed, count):
    source = random.Random(f"command line {seed}")
    cases = (mutated(source) for _ in range(count))
    return [(words, told) for words in cases if (told := complaint(words))]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mutated_command_line_is_done_or_refused_in_one_line(seed, place):
    assert complaints(seed, CASES) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS, 2 * SEEDS))
def test_many_mutated_command_lines_are_done_or_refused_in_one_line(seed, place):
    assert complaints(seed, 100 * CASES) == []


def test_the_fuzzer_tells_what_is_wrong(place, monkeypatch):
    from fxsim.cli import commands

    def refusing(arguments):
        raise InputError("'str' object is not callable")

    for broken, told in ((lambda arguments: 1 / 0, "exit code 3"), (refusing, "Python")):
        monkeypatch.setattr(commands, "profiles", broken)
        assert complaint(["profiles"]).startswith(told)
    assert complaint(["cost", "digits-convnet"]) is None

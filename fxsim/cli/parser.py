"""The command `fxsim`: how its words are read.

The arguments of each command are in cli/arguments.py, what it does in cli/commands.py, how it ends
in cli/ending.py.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections import Counter

from fxsim import __version__
from fxsim.cli import ending
from fxsim.cli.arguments import add_commands
from fxsim.errors import InputError, cut, shown

FUNCTIONS = {"import": "import_network"}
"""Command -> its function, where Python has the name for itself."""


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's own); returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return ending.run(lambda: _run(argv), _way_on(argv))


def _run(argv: list[str]) -> int:
    arguments = parse(argv)
    arguments.command_line = shlex.join(["fxsim", *argv])
    # here, so that --help and --version do not wait for Numba
    commands = importlib.import_module("fxsim.cli.commands")
    progress = importlib.import_module("fxsim.experiment.progress")
    with progress.compilations_held():
        function = FUNCTIONS.get(arguments.command, arguments.command)
        return getattr(commands, function)(arguments) or 0


def _way_on(argv: list[str]) -> str:
    """What to do after an interrupt, as far as it fits a line."""
    if argv[:1] not in (["run"], ["train"]):
        return "run the command again"
    others = [word for word in argv[1:] if word != "--resume"]
    command = shlex.join(["fxsim", argv[0], "--resume", *others])
    if len(command) <= 200 and command.isprintable():
        return f"go on with: {command}"
    return "go on with the same command and --resume"


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments in `argv`, with the command's name as `command`.

    Args:
        argv: the words after `fxsim`.

    Returns:
        The arguments; `given` is the set of the options that are in `argv`, as '--out'.

    Raises:
        InputError: an option is unknown, empty, given twice or has a value of another type, or a
            command, an argument or an option is missing.

    Example:
        >>> parse(["run", "--seed", "3"]).seed
        3
    """
    words = _joined(argv)
    if any("\0" in word for word in words):
        raise InputError("an argument holds the character NUL; leave it out")
    _refuse_empty(words)
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    _refuse_repeated(given)
    arguments, unknown = _parser().parse_known_args(words)
    option = unknown[0].partition("=")[0] if unknown else ""
    if option in OF_TRAIN and words[0] in ("run", "sweep"):
        raise InputError(
            f"{option} is an option of fxsim train, not of fxsim {words[0]}; leave it out"
        )
    if unknown:
        raise InputError(f"argument {shown(unknown[0])} is unknown; see fxsim {words[0]} --help")
    arguments.given = frozenset(given)
    return arguments


def _refuse_empty(words: list[str]) -> None:
    """InputError where an option or another argument has an empty value.

    An empty value is what an unset variable of a shell leaves: it stands for nothing that can be
    meant.
    """
    option = "an argument"
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            option = name
        if not word.strip() or (word.startswith("--") and equals and value.strip() in ("", "--")):
            raise InputError(f"{option} must not be empty; give it a value or leave it out")


OF_TRAIN = ("--assignment", "--formats", "--in-place", "--accumulator", "--stochastic")
"""Options of one training in fixed point, which a whole run has not."""

REPEATED = ("--accumulator", "--stochastic")
"""Options that may be given more than once."""


def _refuse_repeated(given: list[str]) -> None:
    """InputError where an option is given twice: one of its values would have no effect."""
    counts = Counter(name.replace("--no-", "--", 1) for name in given if name not in REPEATED)
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"{name} is given {count} times; give it once")


LISTS = {
    "--perturb": r"none|[+-]?\d+(,[+-]?\d+)*",
    "--designs": r"\w+(,\w+)*,?",
    "--pixels": r"[\d.e+-]+,[\d.e+-]+",
    "--targets": r"none|[\d.e-]+(,[\d.e-]+)*",
}
"""Option -> what its values look like; they may be given apart, too."""


def _joined(argv: list[str]) -> list[str]:
    """`--perturb -2,-1 +1` as `--perturb=-2,-1,+1`.

    Argparse would take the word -2,-1 for an option.
    """
    words: list[str] = []
    for word in argv:
        option, equals, _ = words[-1].partition("=") if words else ("", "", "")
        if re.fullmatch(LISTS.get(option, "(?!)"), word):
            words[-1] += ("," if equals else "=") + word
        else:
            words.append(word)
    return words


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def error(self, message: str):
        raise InputError(f"{cut(message, 200)}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fxsim",
        description="Simulate the training of neural networks in fixed point, bit by bit, with a "
        "precision for every "
        "tensor that the method of Sakr and Shanbhag (ICLR 2019) derives from one float run.",
        epilog="""\
start with:
  fxsim run                     the whole method on embedded digits; then open fxsim-run/report.html
  fxsim guide                   how to do what, page by page

each command explains itself: fxsim COMMAND --help

"""
        + ending.EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"fxsim {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_commands(commands)
    return parser

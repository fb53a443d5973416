"""How a command ends: with its exit code, and one line on standard error where it is not 0."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import fxsim
from fxsim.cli.signals import Listener
from fxsim.errors import InputError, one_line
from fxsim.interrupts import Interrupts

EXIT_CODES = """\
exit codes:
  0    done
  1    `fxsim vectors check` has found a difference
  2    bad input, or a file that cannot be read or written: one line says which, and the way out
  3    an error of fxsim itself, or standard output that is full or closed: one line says what
  130  ended by SIGINT (Ctrl-C), 143 by SIGTERM: the checkpoint of a training is written first;
       a second signal ends the command at once"""

TRACEBACK = "FXSIM_TRACEBACK"
"""The environment variable that asks for the traceback of an error of fxsim itself."""


class OutputError(Exception):
    """Standard output or standard error cannot be written."""


class _Output:
    """A text stream whose failures are told from those of files."""

    def __init__(self, stream, name: str):
        self._stream = stream
        self._name = name
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # whatever bytes a file's name has

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._failing():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._failing():
            self._stream.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot write to {self._name}: {reason}") from None


def run(command: Callable[[], int], way_on: str) -> int:
    """Run `command`; returns the exit code, after the one line that explains it.

    way_on: what the line of an interrupted command ends with.
    """
    with _streams():
        interrupts = Interrupts()
        code = 0
        line = ""
        try:
            with interrupts, Listener(interrupts):
                code, line = _outcome(command)
        except KeyboardInterrupt:
            interrupts.number = interrupts.number or signal.SIGINT
        if interrupts.number:  # also where an interrupt became another error, or none
            code = 128 + interrupts.number
            line = f"interrupted; {way_on}"
        if line:
            with contextlib.suppress(OutputError):
                print(one_line(f"fxsim: {line}", LONGEST_LINE), file=sys.stderr)
        return code


LONGEST_LINE = 300


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Both streams with failures of their own; standard error goes nowhere where it is closed."""
    with contextlib.ExitStack() as block:
        errors = sys.stderr or block.enter_context(open(os.devnull, "w"))
        block.enter_context(contextlib.redirect_stderr(_Output(errors, "standard error")))
        if sys.stdout is not None:
            output = _Output(sys.stdout, "standard output")
            block.enter_context(contextlib.redirect_stdout(output))
        yield


def _outcome(command: Callable[[], int]) -> tuple[int, str]:
    """The exit code of a command, and the line that explains it."""
    try:
        if sys.stdout is None:
            raise OutputError("standard output is closed; send it to a file, or to /dev/null")
        try:
            code = command()
        except SystemExit as end:  # of --help and --version
            code = int(end.code or 0)
        sys.stdout.flush()
        return code, ""
    except InputError as error:
        return 2, f"error: {error}"
    except OutputError as error:
        _give_up_output()
        return 3, str(error)
    except MemoryError:
        return 2, "error: this needs more memory than there is; give it less, or more memory"
    except OSError as error:
        what = f" {error.filename}" if error.filename else ""
        return 2, f"error: cannot read or write{what}: {error.strerror or error}"
    except Exception as error:
        return 3, _own_error(error)


def _give_up_output() -> None:
    """Python would try again, at its end, what could not be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _own_error(error: Exception) -> str:
    """What an error of fxsim itself is, where it was met, and where to report it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    root = Path(fxsim.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    place = ""
    if own:
        file = Path(own[-1].filename).relative_to(root.parent).as_posix()
        place = f" at {file}:{own[-1].lineno}"
    return (
        f"error of fxsim itself{place}: {type(error).__name__}: {one_line(str(error), 80)}; "
        f"report it to fxsim's authors, with the command and what {TRACEBACK}=1 adds to it"
    )

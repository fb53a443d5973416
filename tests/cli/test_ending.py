"""Exit codes, and the one line that explains them; streams that are full, closed or broken."""

import os
import subprocess
import sys

import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.cli import commands, ending
from fxsim.cli import parser as cli
from fxsim.errors import InputError, one_line

FULL = "/dev/full"


def fxsim(command, **environment):
    """A shell's command line, where $F is fxsim; its code and standard error."""
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**ENVIRONMENT, "F": f"{sys.executable} -m fxsim", **environment},
        capture_output=True,
        timeout=300,
    )
    return run.returncode, run.stderr.decode()


@pytest.mark.skipif(not os.path.exists(FULL), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--version", "profiles"])
def test_a_full_standard_output_has_its_code_and_line(command):
    line = "fxsim: cannot write to standard output: No space left on device\n"
    assert fxsim(f"$F {command} > {FULL}") == (3, line)


@pytest.mark.parametrize("command", ["run --help", "profiles"])
def test_a_reader_that_has_left_is_told(command):
    line = "fxsim: cannot write to standard output: Broken pipe\n"
    assert fxsim(f"(sleep 0.3; $F {command}) | true") == (3, line)


def test_a_closed_standard_output_is_told_before_any_work(tmp_path):
    code, line = fxsim(f"$F run --quick --out {tmp_path}/out >&-")
    assert (code, line.count("\n")) == (3, 1)
    assert "standard output is closed; send it to a file" in line
    assert not (tmp_path / "out").exists()


def test_a_closed_standard_error_is_no_failure(tmp_path):
    assert fxsim("$F --version 2>&-")[0] == 0
    assert fxsim("$F rnu 2>&-")[0] == 2


def test_names_in_other_bytes_are_printed_in_every_locale(tmp_path):
    folder = os.fsencode(tmp_path) + b"/d\xff\xc3\xa9"
    os.mkdir(folder)
    for variables in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C.UTF-8"}):
        code, line = fxsim(f"$F data '{tmp_path}/d'*", **variables)
        assert (code, line.count("\n")) == (2, 1)
        assert r"/d\udcff" in line
        assert "holds no data set" in line


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5", "100000", "9" * 5000, "\u0663"])
def test_a_number_of_threads_that_numba_would_refuse_or_ignore(text):
    code, line = fxsim("$F info", NUMBA_NUM_THREADS=text)
    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith("fxsim: error: NUMBA_NUM_THREADS must be an integer from 1 to 1024, got")
    assert len(line) <= 301


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such\nfile \x1b[2J"), 2, r"fxsim: error: no such\nfile \x1b[2J"),
        (MemoryError(), 2, "fxsim: error: this needs more memory than there is; "),
        (PermissionError(13, "denied", "a/b"), 2, "fxsim: error: cannot read or write a/b: denied"),
        (RecursionError("too deep"), 3, "fxsim: error of fxsim itself"),
        (TypeError("planted\nhere"), 3, r"TypeError: planted\nhere; report it to fxsim's authors"),
        (KeyError("x" * 1000), 3, "what FXSIM_TRACEBACK=1 adds to it"),
    ],
)
def test_every_error_has_its_code_and_one_line(error, code, line, monkeypatch, capsys):
    def failing(arguments):
        raise error

    monkeypatch.setattr(commands, "info", failing)
    assert cli.main(["info"]) == code
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told
    assert len(told) <= ending.LONGEST_LINE


def test_the_traceback_of_an_error_of_fxsim_can_be_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(commands, "info", lambda arguments: 1 / 0)
    monkeypatch.setenv(ending.TRACEBACK, "1")
    assert cli.main(["info"]) == 3
    assert capsys.readouterr().err.startswith("Traceback")


def test_the_place_of_an_error_of_fxsim_is_told(monkeypatch, capsys):
    monkeypatch.setattr("fxsim.machine.describe", lambda: {}["processor"])
    assert cli.main(["info"]) == 3
    assert "at fxsim/cli/commands.py:" in capsys.readouterr().err


def test_an_unreadable_path_is_told(monkeypatch, capsys):
    def denied(self, **_options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.exists", denied)
    assert cli.main(["analyze", "--out", "locked"]) == 2
    told = capsys.readouterr().err
    assert told == "fxsim: error: cannot read or write locked: Permission denied\n"


def test_a_path_keeps_its_ends_where_a_message_is_too_long():
    path = f"/{'x' * 5000}/results.json"
    text = one_line(f"{path}: is not valid JSON; delete it, or choose another --out")
    assert text.startswith("/xxx")
    assert text.endswith("/results.json: is not valid JSON; delete it, or choose another --out")
    assert 270 < len(one_line("a b " * 1000)) <= 280


@pytest.mark.parametrize("jobs", [0, -1, 257, 10**30])
def test_a_number_of_jobs_that_is_too_large(jobs, capsys, tmp_path):
    assert cli.main(["run", "--quick", "--jobs", str(jobs), "--out", str(tmp_path / "out")]) == 2
    assert "jobs must be 1 to 256" in capsys.readouterr().err


def test_exit_codes_are_in_the_help(capsys):
    assert cli.main(["--help"]) == 0
    assert ending.EXIT_CODES in capsys.readouterr().out

"""Commands that are ended by signals, met by a second command, or that fill the disk.

What they leave goes on to the files of an unbroken run.  Commands are forks of this process, which
has compiled all kernels.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
from support.run_files import content

from fxsim.cli import parser as cli
from fxsim.lock import FILE

TOML = """
epochs = 2
batch = 32
images = 160
seed = 3
perturb = [1]

[layers]
name = "small"
input_shape = [8, 8, 1]
layer = [
  {type = "conv", name = "conv1", filters = 4, padding = 1, pool = {kind = "max", size = 2}},
  {type = "dense", name = "fc1", units = 10, relu = false},
]
"""
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
INTERVAL = 0.002
"""Seconds between two looks at a folder."""


class Command:
    """A command of fxsim in a process of its own."""

    def __init__(self, arguments, cwd):
        file, self.errors = tempfile.mkstemp()
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(list(map(str, arguments)), cwd, file)
        os.close(file)

    def _run(self, arguments, cwd, errors):
        code = 99
        try:
            os.chdir(cwd)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors, 2)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            code = cli.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def poll(self, flags=os.WNOHANG):
        """The exit code; minus the number of the signal that ended it; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, flags)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def start(*arguments, cwd):
    return Command(arguments, cwd)


def ended(process):
    """(exit code, lines on standard error) of a process."""
    code = process.poll(0)
    errors = Path(process.errors).read_text()
    os.unlink(process.errors)
    assert "Traceback" not in errors, errors
    return code, errors.splitlines()


def done(*arguments, cwd):
    code, lines = ended(start(*arguments, cwd=cwd))
    assert code == 0, lines


EXPORT = ("vectors", "export", "--run", "mine", "--step", "2", "--out", "vectors")
RUN = ("run", "mine.toml", "--out", "mine")
KINDS = {
    "run": ("empty", RUN, (*RUN, "--resume")),
    "train": ("empty", ("train", "mine.toml", "--out", "mine"), None),
    "analyze": ("trained", ("analyze", "--out", "mine"), ("analyze", "--out", "mine")),
    "export": ("whole", EXPORT, EXPORT),
    "report": ("whole", (*RUN, "--resume"), (*RUN, "--resume")),
    "resume": ("half", (*RUN, "--resume"), (*RUN, "--resume")),
}
"""Kind -> what is there before, the command that is struck, the one that goes on after it."""
SECOND = (("analyze",), ("run", "mine.toml", "--resume"), ("assign",), ("train", "--perturb", "-1"))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders as unbroken commands leave them, by name."""
    root = tmp_path_factory.mktemp("places")
    for name in ("empty", "trained", "analyzed", "half", "whole"):
        (root / name).mkdir()
        (root / name / "mine.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "empty")
        assert cli.main([*RUN[:-1], str(tmp_path_factory.mktemp("compiling") / "mine")]) == 0
    done("train", "mine.toml", "--out", "mine", cwd=root / "trained")
    shutil.copytree(root / "trained/mine", root / "analyzed/mine")
    done("analyze", "--out", "mine", cwd=root / "analyzed")
    done(*RUN, cwd=root / "whole")
    done(*EXPORT, cwd=root / "whole")
    process = start(*RUN, "--checkpoint-steps", "1", cwd=root / "half")
    while not (root / "half/mine/checkpoint-FX-C_o.npz").exists():
        assert process.poll() is None
        time.sleep(INTERVAL)
    process.send_signal(signal.SIGKILL)
    ended(process)
    return root


def holds(process, kind, place):
    """Whether the process holds the lock of its folder; one that was killed may have left its own."""
    lock = place / (".vectors.fxsim-lock" if kind == "export" else f"mine/{FILE}")
    try:
        return json.loads(lock.read_text())["pid"] == process.pid
    except (FileNotFoundError, ValueError):
        return False


def wait_for_lock(kind, place, process):
    while not holds(process, kind, place) and process.poll() is None:
        time.sleep(INTERVAL)


@pytest.fixture(scope="module")
def spans(places, tmp_path_factory):
    """Seconds that each kind of command writes, by kind."""
    found = {}
    for kind, (before, command, _) in KINDS.items():
        place = tmp_path_factory.mktemp(kind) / "place"
        shutil.copytree(places / before, place)
        process = start(*command, cwd=place)
        wait_for_lock(kind, place, process)
        begun = time.monotonic()
        assert ended(process)[0] == 0
        found[kind] = time.monotonic() - begun
    return found


def second_command(kind, draw):
    if kind == "export":
        return EXPORT
    command = draw.choice(SECOND if kind in ("run", "report", "resume") else SECOND[:1])
    return (*command, "--out", "mine")


def strike(kind, place, number, draw, span):
    """A command that is struck by a signal while a second one tries the same folder."""
    process = start(*KINDS[kind][1], cwd=place)
    wait_for_lock(kind, place, process)
    second = start(*second_command(kind, draw), cwd=place)
    time.sleep(draw.uniform(0, span))
    process.send_signal(number)
    code, lines = ended(process)
    assert code in (0, 130, 143, -number), lines
    code, lines = ended(second)
    assert code in (0, 2), lines
    if code == 2:
        told = (" in use by ", "holds no float run", "cannot read")
        assert any(text in lines[-1] for text in told), lines
    return lines[-1:]


def wanted(kind, places):
    if kind == "train":
        return content(places / "trained/mine")
    return content(places / {"analyze": "analyzed/mine"}.get(kind, "whole/mine"))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_strike(kind, places, place, number, draw, span):
    shutil.copytree(places / KINDS[kind][0], place)
    told = strike(kind, place, number, draw, span)
    go_on = KINDS[kind][2] or ("train", "mine.toml", "--resume", "--out", "mine")
    done(*go_on, cwd=place)
    if kind == "export":
        assert files_of(place / "vectors") == files_of(places / "whole/vectors")
        assert {path.name for path in place.iterdir()} == {"mine", "mine.toml", "vectors"}
    found = content(place / "mine")
    expected = wanted(kind, places)
    if kind in ("run", "report", "resume"):
        found, expected = without_second_design(found), without_second_design(expected)
    if kind == "train":
        found.pop("statistics.npz", None)  # of a second command that came in after the end
    assert found == expected, (told, [name for name in found if found[name] != expected.get(name)])


def without_second_design(found):
    """A second command may have trained C_-1, when the first had ended."""
    results = json.loads(found["results.json"])
    results["designs"] = [row for row in results["designs"] if row["design"] != "FX C_-1"]
    curves = [row for row in found["curves.csv"] if row["design"] != "FX C_-1"]
    return {**found, "results.json": results, "curves.csv": curves}


@pytest.mark.slow
def test_every_command_that_was_struck_goes_on_to_the_files_of_an_unbroken_run(
    places, spans, tmp_path
):
    draw = random.Random(20)
    for number in range(int(os.environ.get("FXSIM_STRIKES", "100"))):
        kind = list(KINDS)[number % len(KINDS)]
        place = tmp_path / str(number)
        check_strike(kind, places, place, SIGNALS[number // 6 % 3], draw, spans[kind])
        shutil.rmtree(place)


SIZES = [round(50e3 * 100 ** (step / 19)) for step in range(20)]
FULL_RUN = (
    *("run", "--images", "96", "--epochs", "1", "--perturb", "none", "--width", "2"),
    *("--checkpoint-steps", "1", "--out"),
)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many bytes, and one that makes it large."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = []

    def mount(options):
        run = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False
        )
        if run.returncode:
            pytest.skip("a file system can be mounted by root alone")
        mounted.append(disk)

    yield disk, mount
    if mounted:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="module")
def large_disk(tmp_path_factory):
    """What a run leaves that has room."""
    place = tmp_path_factory.mktemp("large") / "mine"
    assert cli.main([*FULL_RUN, str(place)]) == 0
    return content(place)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_file(
    size, large_disk, small_disk, capsys
):
    disk, mount = small_disk
    mount(f"size={math.ceil(size / 4096) * 4096}")
    code = cli.main([*FULL_RUN, str(disk / "mine")])
    lines = capsys.readouterr().err.splitlines()
    if code:
        assert code == 2, lines
        assert lines[-1].startswith("fxsim: error: cannot "), lines
        assert lines[-1].endswith("No space left on device; choose another folder"), lines
    left = list((disk / "mine").iterdir()) if (disk / "mine").exists() else []
    assert [path.name for path in left if path.name.startswith(".") or path.name == FILE] == []
    assert [path.name for path in left if path.stat().st_size == 0] == []
    if left:
        content(disk / "mine")  # can be read
    mount("remount,size=50m")
    assert cli.main([*FULL_RUN, str(disk / "mine"), "--resume"]) == 0
    assert content(disk / "mine") == large_disk

"""SIGINT and SIGTERM end every command: at once or after its step, with a checkpoint and a code."""

import contextlib
import csv
import json
import random
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.cli import commands, signals
from fxsim.cli import parser as cli
from fxsim.experiment.progress import Progress
from fxsim.files import read_arrays
from fxsim.interrupts import SIGNALS, held
from fxsim.train.checkpoint import read

COMMANDS = (
    "run",
    "sweep",
    "report",
    "train",
    "analyze",
    "assign",
    "cost",
    "data",
    "vectors",
    "export",
    "profiles",
    "guide",
    "info",
)
ARGUMENTS = {
    "cost": ["digits-convnet"],
    "data": ["folder"],
    "vectors": ["check", "vectors", "dump"],
    "export": ["folder", "--onnx", "file"],
}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
EXPERIMENT = """
epochs = 2
batch = 32
images = 256

[layers]
name = "small"
input_shape = [8, 8, 1]
layer = [
    {type = "conv", name = "conv1", filters = 4, padding = 1, pool = {kind = "max", size = 2}},
    {type = "dense", name = "fc1", units = 10, relu = false},
]
"""


@pytest.fixture(autouse=True)
def hearing():
    """Interrupts arrive, also where a background shell has its children ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def blow(number):
    signal.raise_signal(number)


def wait(until=lambda: False):
    """For a signal that comes by itself, or until something holds."""
    limit = time.monotonic() + 60
    while not until():
        assert time.monotonic() < limit, "nothing came"
        time.sleep(0.001)


def told(capfd):
    """What is said as soon as a signal has come; other lines may stand before and behind it."""
    lines = []

    def said():
        time.sleep(
            0.3
        )  # readouterr loses what is written while it empties its file: call it rarely
        lines.extend(capfd.readouterr().err.splitlines(keepends=True))
        return any(line.endswith("ends it at once\n") for line in lines)

    wait(said)
    return next(line for line in lines if line.endswith("ends it at once\n"))


def ends(monkeypatch, command, body):
    """The exit code of a command that does this, and whether all is as it was before."""
    monkeypatch.setattr(commands, command, body)
    before = [signal.getsignal(number) for number in SIGNALS], sys.unraisablehook
    threads = threading.active_count()
    code = cli.main([command, *ARGUMENTS.get(command, ())])
    assert ([signal.getsignal(number) for number in SIGNALS], sys.unraisablehook) == before
    assert threading.active_count() == threads
    return code


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_every_command_with_its_code(command, number, monkeypatch, capfd):
    def body(arguments):
        blow(number)
        wait()

    assert ends(monkeypatch, command, body) == CODES[number]
    first, last = capfd.readouterr().err.splitlines()
    assert first == f"fxsim: {number.name}: ends; a second signal ends it at once"
    assert last.startswith("fxsim: interrupted; ")
    assert ("--resume" in last) == (command in ("run", "train"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_step_is_finished_and_it_is_told_what_is_waited_for(number, monkeypatch, capfd):
    done = []

    def body(arguments):
        with held("this training step"):
            blow(number)
            done.append(told(capfd))
        done.append("more")

    assert ends(monkeypatch, "info", body) == CODES[number]
    assert done == [
        f"fxsim: {number.name}: waits for this training step; a second signal ends it at once\n"
    ]


def test_a_signal_waits_for_the_end_of_a_compilation(monkeypatch, capfd):
    from numba.core import event

    reached = []

    def body(arguments):
        event.start_event("numba:compile")
        event.start_event("numba:compile")
        blow(signal.SIGINT)
        reached.append(told(capfd))
        event.end_event("numba:compile")
        reached.append("the outer one too")
        event.end_event("numba:compile")
        reached.append("its end")

    assert ends(monkeypatch, "analyze", body) == 130
    line, *reached = reached
    assert "waits for the kernel that is being compiled; " in line
    assert reached == ["the outer one too"]


def drop_in_weakref():
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing, lambda _: blow(signal.SIGINT))
    del thing
    return watch


def drop_in_finalizer():
    class Thing:
        def __del__(self):
            blow(signal.SIGINT)

    Thing()


def drop_in_c():
    """As LLVM calls back into Python."""
    import ctypes

    kind = ctypes.CFUNCTYPE(None)
    kind(lambda: blow(signal.SIGINT))()


@pytest.mark.parametrize("drop", [drop_in_weakref, drop_in_finalizer, drop_in_c])
def test_a_signal_that_python_drops_comes_again(drop, monkeypatch, capfd):
    reached = []

    def body(arguments):
        drop()
        reached.append("dropped")
        wait()

    assert ends(monkeypatch, "run", body) == 130
    assert reached == ["dropped"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_signal_that_becomes_another_error_is_still_a_signal(monkeypatch, capfd):
    def body(arguments):
        try:
            blow(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("no compiled object yet") from None

    assert ends(monkeypatch, "analyze", body) == 143
    assert "compiled object" not in capfd.readouterr().err


def test_a_signal_that_somebody_swallows_still_ends_the_command(monkeypatch, capfd):
    def body(arguments):
        with contextlib.suppress(BaseException):
            blow(signal.SIGTERM)

    assert ends(monkeypatch, "info", body) == 143


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    """As nohup and background shells have it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert ends(monkeypatch, "info", lambda arguments: blow(signal.SIGINT)) == 0


def test_the_same_signal_twice_within_a_moment_is_one(monkeypatch, capfd):
    """As timeout(1) sends it: to the process, and to its group."""

    def body(arguments):
        with held("this training step"):
            blow(signal.SIGTERM)
            blow(signal.SIGTERM)

    monkeypatch.setattr(signals, "AGAIN_SECONDS", 60)
    assert ends(monkeypatch, "info", body) == 143


def signalled_at(steps, number, lines, capfd):
    """Progress of a training that meets a signal in its step of this number, and what is said."""

    class Signalled(Progress):
        count = 0

        def step(self, *arguments):
            Signalled.count += 1
            if Signalled.count == steps:
                with held("this test"):
                    blow(number)
                    lines.append(told(capfd))
            super().step(*arguments)

    return Signalled


def position_in(folder):
    """How far the training is whose checkpoint is in the folder."""
    (checkpoint,) = folder.glob("checkpoint-*.npz")
    return read(checkpoint)[0]["position"]


VARYING = {"seconds", "images_per_second", "machine", "command", "sha256"}


def content(folder):
    """What a run leaves, without times."""
    found = {}
    for path in folder.glob("[!.]*"):
        if path.suffix == ".npz":
            found[path.name] = {name: each.tobytes() for name, each in read_arrays(path).items()}
        elif path.suffix == ".csv":
            rows = csv.DictReader(path.read_text().splitlines())
            found[path.name] = [{k: v for k, v in row.items() if k not in VARYING} for row in rows]
        elif path.suffix == ".json":
            found[path.name] = json.loads(
                path.read_text(),
                object_hook=lambda row: {k: v for k, v in row.items() if k not in VARYING},
            )
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The settings of a small experiment."""
    path = tmp_path_factory.mktemp("settings") / "experiment.toml"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture(scope="module")
def unbroken(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    assert cli.main(["run", file, "--perturb", "none", "--out", str(folder)]) == 0
    return content(folder)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("steps", [3, 21])  # in the float run, and in the one in fixed point
def test_a_run_goes_on_to_the_same_bits(
    steps, number, file, unbroken, tmp_path, monkeypatch, capfd
):
    run = ["run", file, "--perturb", "none", "--out", str(tmp_path)]
    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(commands, "Progress", signalled_at(steps, number, lines, capfd))
        assert cli.main(run) == CODES[number]
    assert "waits for this test, then the checkpoint of F" in lines[0]
    position = position_in(tmp_path)
    assert len(position["epochs"]) * 8 + position["step"] == (steps - 1) % 16 + 1
    assert cli.main([*run, "--resume"]) == 0
    assert content(tmp_path) == unbroken


# What only a process of its own can show.

IN_A_PROCESS = """
import hashlib, signal, sys, threading
# children of a background shell ignore interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
from fxsim.cli import commands, main
from fxsim.interrupts import held

def python():
    with held("this training step"):
        while True:
            pass

def compiled():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C, without the GIL, for minutes

def info(arguments):
    # by another thread, when this one is where it stays
    threading.Timer(0.3, print, ("ready",), {"flush": True}).start()
    globals()[sys.argv[1]]()

commands.info = info
sys.exit(main(["info"]))
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("place", "number"), [("python", signal.SIGINT), ("compiled", signal.SIGTERM)]
)
def test_the_second_signal_ends_at_once(place, number):
    process = start(IN_A_PROCESS, place)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        line = process.stderr.readline()  # at once, wherever the main thread is
        assert line.startswith(f"fxsim: {number.name}: ")
        assert process.poll() is None
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(2 * signals.AGAIN_SECONDS)
        assert process.returncode == CODES[number]
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


ASIDE = """
import signal, sys
from pathlib import Path
from fxsim.experiment import study
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Training
from fxsim.train.checkpoint import Cadence

class Signalled(study.Progress):
    def step(self, epoch, step, steps, loss):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

study.Progress = Signalled
settings = Settings.make(width=0.25, epochs=2, images=256)
study.train_aside(Training("TG", "TG"), settings, Path(sys.argv[1]), Cadence())
"""


def test_a_worker_that_is_ended_writes_its_checkpoint(tmp_path):
    process = start(ASIDE, tmp_path)
    errors = process.communicate(timeout=300)[1]
    assert (process.returncode, errors) == (143, "")
    assert position_in(tmp_path)["step"] == 3


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from fxsim.cli import main
sys.exit(main())
"""


def finished_or_ended(seconds, number, *arguments):
    """Exit code of a command that gets a signal after so many seconds; checks how it ends."""
    process = start(COMMAND, *arguments)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    try:
        errors = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert "Traceback" not in errors, errors
    assert process.returncode in (0, CODES[number], -number), errors  # -number: as Python starts
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_ended_again_and_again_goes_on_to_the_same_bits(seed, jobs, file, tmp_path):
    options = [file, "--epochs", "8", "--perturb", "-1,1"]
    assert cli.main(["run", *options, "--out", str(tmp_path / "unbroken")]) == 0
    source = random.Random(f"signals {seed}")
    broken = ("run", *options, "--jobs", jobs, "--resume", "--out", tmp_path / "broken")
    for _ in range(4):
        finished_or_ended(source.uniform(1, 8), source.choice(SIGNALS), *broken)
    assert finished_or_ended(600, signal.SIGTERM, *broken) == 0
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_stages_that_are_ended_can_be_repeated(seed, file, tmp_path):
    stages = (["train", file, "--resume"], ["analyze"], ["assign"])
    source = random.Random(f"stages {seed}")
    for stage in stages:
        assert cli.main([*stage, "--out", str(tmp_path / "unbroken")]) == 0
        command = (*stage, "--out", tmp_path / "broken")
        for _ in range(3):
            finished_or_ended(source.uniform(1, 8), source.choice(SIGNALS), *command)
        assert finished_or_ended(600, signal.SIGTERM, *command) == 0
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")

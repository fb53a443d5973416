"""`--workers mpi`: processes that mpiexec has started train together."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fxsim import InputError
from fxsim.cli import main
from fxsim.mpi import MpiCommunicator

SUPPORT = Path(__file__).parents[1] / "support"
MPIEXEC = shutil.which("mpiexec")
SECONDS = 120
TRAIN = [
    "train",
    "--quick",
    "--images",
    "320",
    "--width",
    "0.25",
    "--formats",
    "Q4.12",
    "--checkpoint-steps",
    "2",
]


@pytest.fixture
def mpiexec():
    """Starts so many ranks of a Python command."""
    if MPIEXEC is None:
        pytest.skip("mpiexec is not here: pip install mpich")
    pytest.importorskip("mpi4py", reason="mpi4py is not here: pip install mpi4py")

    def start(ranks, *command):
        return subprocess.Popen(
            [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NUMBA_NUM_THREADS": "1"},
        )

    return start


def ended(process, code=0):
    """(stdout, stderr) of a process that ends with that code."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, out + err
    return out, err


def fxsim(*arguments):
    return ("-m", "fxsim", *arguments)


def fingerprint(folder):
    [row] = json.loads((folder / "results.json").read_text())["designs"]
    return row["fingerprint"], row["counts"], row["test_error"]


def test_weights_after_twenty_steps_are_those_of_one_process(mpiexec):
    out, _ = ended(mpiexec(3, SUPPORT / "ranks_run.py", "mpi"))
    assert out == (SUPPORT / "ranks.txt").read_text()


def rank_of(process_id, folder):
    """The rank of a process that trains into a folder; None for every other process."""
    try:
        words = Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
        variables = Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    if str(folder).encode() not in words:
        return None
    return next((int(each[9:]) for each in variables if each.startswith(b"PMI_RANK=")), None)


def test_a_run_whose_rank_is_killed_goes_on_with_more_of_them(mpiexec, tmp_path):
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    assert main([*TRAIN, "--out", str(whole)]) == 0
    process = mpiexec(2, *fxsim(*TRAIN, "--workers", "mpi", "--out", broken))
    written = set()
    begun = time.monotonic()
    while len(written) < 3 and time.monotonic() - begun < SECONDS:
        written |= {path.stat().st_mtime_ns for path in broken.glob("checkpoint-*.npz")}
        time.sleep(0.005)
    processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    [second] = [number for number in processes if rank_of(number, broken) == 1]
    os.kill(second, 9)
    _, err = ended(process, 9)
    assert "2 ranks" in err
    assert not (broken / "results.json").exists()
    resumed = mpiexec(3, *fxsim(*TRAIN, "--workers", "mpi", "--resume", "--out", broken))
    out, err = ended(resumed)
    assert "3 ranks" in err and err.count("epoch 3/3") == out.count("written to") == 1
    assert fingerprint(broken) == fingerprint(whole)


def test_processes_that_nobody_leads_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PMI_SIZE", "4")
    assert main(["train", "--quick", "--out", str(tmp_path / "run")]) == 2
    assert (
        "mpiexec has started 4 processes of this command; give --workers" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "--workers", "mpx"], "workers 'mpx' is unknown"),
        (["train", "--workers", "mpi"], "--workers has no effect on a float run"),
        (["run", "--designs", "FL", "--workers", "mpi"], "--workers has no effect on the designs"),
        (["run", "--jobs", "2", "--workers", "mpi"], "--jobs 2 beside --workers mpi"),
    ],
)
def test_workers_that_do_nothing_are_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fxsim.cli.workers.MpiCommunicator", Single)
    assert main([*words, "--quick", "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


class Single:
    """MPI with one rank."""

    rank = 0
    size = 1
    here = 1

    def broadcast(self, data):
        return data


def test_one_line_says_how_to_install_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"pip install 'fxsim\[mpi\]' mpich"):
        MpiCommunicator()

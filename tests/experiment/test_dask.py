"""Trainings side by side on the workers of Dask."""

import json
import subprocess
import sys

import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.cli import parser as cli

SMALL = "--epochs 2 --width 0.25 --images 256 --batch 32"
STUDIES = [
    pytest.param(f"{SMALL} --designs BN,TG", 2),
    pytest.param(f"{SMALL} --designs FX,BN,SQ,TG --perturb -2,-1,+1,+2", 9, marks=pytest.mark.slow),
]
"""Options, and how many trainings they ask for."""

CLUSTER = """
import os, signal, sys, threading, time
from pathlib import Path

from distributed import LocalCluster
from fxsim.cli import main

def kill_one(folder):
    "A worker that has begun: its checkpoint is there."
    while len(list(folder.glob("checkpoint-*"))) < 2:
        time.sleep(0.01)
    process = cluster.workers[0].process.process
    os.kill(process.pid, signal.SIGKILL)
    print("killed", file=sys.stderr)

if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        host = cluster.scheduler_address.replace("tcp", "dask")
        threading.Thread(target=kill_one, args=[Path(folder)], daemon=True).start()
        code = main(["run", *words, "--jobs", host, "--out", folder])
    sys.exit(code)
"""


def designs(folder):
    rows = json.loads((folder / "results.json").read_text())["designs"]
    return [
        (row["design"], row.get("fingerprint"), row["train_loss"], row["test_loss"]) for row in rows
    ]


@pytest.mark.parametrize("options, count", STUDIES)
def test_a_study_on_dask_whose_worker_is_killed_has_the_results_of_one_job(
    options, count, tmp_path
):
    pytest.importorskip("distributed", reason="Dask is not here: pip install distributed")
    alone = tmp_path / "alone"
    shared = tmp_path / "shared"
    assert cli.main(["run", *options.split(), "--out", str(alone)]) == 0
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    found = subprocess.run(
        [sys.executable, script, shared, *options.split()],
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert "killed" in found.stderr
    assert designs(shared) == designs(alone)
    assert len(designs(alone)) == count
    assert not list(shared.glob("checkpoint-*")) and not list(shared.glob("earlier-*"))


@pytest.mark.parametrize(
    "address, message",
    [
        ("dask://", "must be like dask://HOST:PORT, or a number"),
        ("dask://here", "must be like dask://HOST:PORT, or a number"),
        ("dask://here:x", "must be like dask://HOST:PORT, or a number"),
        ("dask://127.0.0.1:1", "no scheduler of Dask answers"),
        ("dusk://127.0.0.1:1", "an integer is wanted"),
    ],
)
def test_an_address_that_is_none_is_refused(address, message, tmp_path, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="Dask is not here: pip install distributed")
    monkeypatch.setattr("fxsim.experiment.dask_jobs.SECONDS_TO_CONNECT", 0.2)
    folder = tmp_path / "out"
    assert cli.main(["run", "--quick", "--jobs", address, "--out", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_one_line_says_how_to_install_dask(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["run", "--quick", "--jobs", "dask://here:8786", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert "need Dask; install it: pip install 'fxsim[dask]'" in capsys.readouterr().err

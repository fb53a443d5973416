"""The float run and its analysis are functions: the same bytes in every process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.experiment import stages, study
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.nn.floating import products

PROGRAM = """
import sys
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment

layers = {
    "name": "every-way",
    "input_shape": [8, 8, 1],
    "layer": [
        {"type": "conv", "name": "routed", "filters": 32, "padding": 1, "batch_norm": True},
        {"type": "conv", "name": "averaged", "filters": 32, "padding": 1,
         "pool": {"kind": "average", "size": 2}},
        {"type": "conv", "name": "few_positions", "filters": 64, "pool": {"kind": "max", "size": 2}},
        {"type": "dense", "name": "scores", "units": 10, "relu": False},
    ],
}
settings = Settings.make(layers=layers, images=128, epochs=1, gain_samples=64)
experiment = Experiment(settings, sys.argv[1])
experiment.train_float()
experiment.analyze()
"""
FILES = ("float.npz", "gradients.npz", "statistics.npz")


def digests(folder) -> tuple[str, ...]:
    return tuple(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES)


def in_processes(count: int, tmp_path) -> set[tuple[str, ...]]:
    """What `count` processes leave, each with other numbers of threads."""
    found = set()
    for number in range(count):
        threads = {
            "OPENBLAS_NUM_THREADS": str(1 + number % 4),
            "MKL_NUM_THREADS": str(1 + number % 4),
            "NUMBA_NUM_THREADS": str(1 + number // 2 % 2),
        }
        folder = tmp_path / str(number)
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder)], env=ENVIRONMENT | threads, check=True
        )
        found.add(digests(folder))
    return found


pytestmark = pytest.mark.skipif(
    products.PATH is None, reason="float products are BLAS', whose bits may depend on its threads"
)


def test_two_processes_give_the_same_bytes(tmp_path):
    assert len(in_processes(2, tmp_path)) == 1


@pytest.mark.slow
def test_twenty_processes_give_the_same_bytes(tmp_path):
    assert len(in_processes(20, tmp_path)) == 1


def test_a_second_analysis_changes_nothing_and_makes_nothing_void(tmp_path, monkeypatch):
    settings = Settings.make(epochs=1, images=64, width=0.25, gain_samples=64, perturb=())
    experiment = Experiment(settings, tmp_path)
    experiment.train_float()
    experiment.train_fixed(experiment.assigned())
    before = {
        name: (tmp_path / name).read_bytes() for name in ("statistics.npz", "assignment.json")
    }
    experiment.analyze()
    assert experiment.assign().reasons
    assert {name: (tmp_path / name).read_bytes() for name in before} == before

    # Other reasons for the same formats, as another version of fxsim may give, make nothing void.
    path = tmp_path / "assignment.json"
    changed = json.loads(path.read_text())
    changed["layers"]["conv1"]["weights"]["reason"]["margin"] *= 1.5
    path.write_text(json.dumps(changed))
    monkeypatch.setattr(stages, "train", lambda *_: pytest.fail("trained again"))
    outcomes = study.run(Experiment(settings, tmp_path, resume=True))
    assert [outcome.design for outcome in outcomes] == ["FL", "FX C_o"]

"""Accumulators by the criteria alone, from the float run to the report."""

import json

import numpy as np
import pytest

from fxsim.analysis.mismatch import mismatch
from fxsim.cli import parser as cli
from fxsim.experiment import sweep
from fxsim.experiment.results import read_results
from fxsim.experiment.stages import Experiment
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.precision import PrecisionAssignment

SHORT = ("--quick", "--width", "0.5", "--images", "256", "--perturb", "-1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in assigned accumulators."""
    folder = tmp_path_factory.mktemp("assigned")
    assert cli.main(["run", *SHORT, "--accumulator", "assigned", "--out", str(folder)]) == 0
    return folder


def test_overflows_stay_below_the_bound(folder):
    chosen = next(row for row in read_results(folder)["designs"] if row["design"] == "FX C_o")
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    assert len(assignment.proposed) == 14  # three products of five layers, less one
    for key, met in chosen["overflows"].items():
        bound = assignment.proposed[key].reason.statistic["overflow_bound"]
        assert met["overflows"] <= max(bound * met["sums"], 1.0 if bound else 0.0), key
    assert chosen["overflows"].keys() == assignment.proposed.keys()


def test_bits_are_fewer_than_exact_sums_need(folder):
    designs = {row["design"]: row for row in read_results(folder)["designs"]}
    proposed = json.loads((folder / "assignment.json").read_text())["proposed"]
    for key, row in proposed.items():
        layer, _, kind = key.rpartition(".")
        exact = designs["FX C_o"]["sums"][layer][kind]["bits"]
        assert row["accumulator"]["bits"] <= exact, key
    narrower = designs["FX C_-1"]["assignment"]["accumulator"]["conv2.forward"]
    assert narrower["bits"] == proposed["conv2.forward"]["accumulator"]["bits"] - 2


def test_the_report_has_the_overflows_and_the_bound(folder):
    report = (folder / "report.md").read_text()
    _, table = report.split("## Accumulators, measured on FX C_o")
    assert "| conv2 | Z | O" in table
    assert "fails" not in table.split("##")[0]


def test_exact_sums_classify_alike(folder, tmp_path):
    """The same run with exact sums, from the assignment of the run in accumulators."""
    file = str(folder / "assignment.json")
    assert cli.main(["train", *SHORT[:5], "--assignment", file, "--out", str(tmp_path)]) == 0
    exact = read_results(tmp_path)["designs"][-1]["test_error"]
    held = next(row for row in read_results(folder)["designs"] if row["design"] == "FX C_o")
    assert abs(held["test_error"] - exact) <= 0.02


def test_dropped_product_bits_keep_the_decisions(folder):
    experiment = Experiment.reopen(folder)
    assignment = experiment.own_assignment()
    drops = {
        key: int(proposal.reason.statistic["droppable_bits"])
        for key, proposal in assignment.proposed.items()
        if key.endswith(".forward")
    }
    assert len(drops) == 5 and max(drops.values()) > 0
    texts = [f"{key}=40 bits, nearest_even {drop}" for key, drop in drops.items()]
    images = experiment.dataset.test_images
    network = FloatNetwork(experiment.network, experiment.float_parameters(), np.float64)
    share = mismatch(network, assignment.with_accumulators(texts), images, 16)
    error = (experiment.settings.target / len(images)) ** 0.5
    assert share <= experiment.settings.target + 3 * error


def test_a_sweep_holds_its_sums_in_them(folder):
    experiment = Experiment.reopen(folder, resume=True)
    found = sweep.points(experiment, (0.05,), (-1,))
    for point in found:
        assert point.training.assignment.accumulator.keys() == experiment.assigned().proposed.keys()


def test_vectors_are_those_of_the_run(folder, tmp_path, capsys):
    out = str(tmp_path / "vectors")
    assert cli.main(["vectors", "export", "--run", str(folder), "--step", "1", "--out", out]) == 0
    assert "as in the run of FX C_o" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, text",
    [
        (("--accumulator", "24 bits"), "choose from exact, assigned"),
        (("--accumulator", "assigned", "--accumulator", "exact"), "given 2 times"),
        (("--accumulator", "assigned", "--designs", "FL"), "--accumulator has no effect"),
    ],
)
def test_what_run_cannot_honour_is_refused(words, text, tmp_path, capsys):
    assert cli.main(["run", "--quick", *words, "--out", str(tmp_path / "none")]) == 2
    assert text in capsys.readouterr().err

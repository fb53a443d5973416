"""All designs of an experiment, one after another and side by side."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.analysis import criteria, fixed_run, mismatch
from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment import stages, study
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment, Observer, Training
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.identity import sealed
from fxsim.kernels import threads
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.tensor import Counts
from fxsim.train.checkpoint import Cadence
from fxsim.words import WordMemory

ALL = (
    "--designs",
    "FL,FX,BN,SQ,TG",
    "--perturb",
    "+1,+2",
    "--epochs",
    "1",
    "--width",
    "0.25",
    "--batch",
    "64",
)
NAMES = ["FL", "FX C_o", "FX C_+1", "FX C_+2", "BN", "SQ", "TG"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All designs, one after another."""
    path = tmp_path_factory.mktemp("study") / "out"
    assert cli.main(["run", *ALL, "--out", str(path)]) == 0
    return path


def designs(folder) -> list[dict]:
    """The designs of results.json without what differs from run to run."""
    rows = json.loads((folder / "results.json").read_text())["designs"]
    for row in rows:
        del row["command"], row["seconds"], row["machine"]["threads"]
        for epoch in row["epochs"]:
            del epoch["images_per_second"]
    return rows


def curves(folder) -> list[str]:
    return [line.rpartition(",")[0] for line in (folder / "curves.csv").read_text().splitlines()]


def test_all_designs_are_in_the_results_in_the_order_asked_for(folder):
    assert [row["design"] for row in designs(folder)] == NAMES
    assert [line.partition(",")[0] for line in curves(folder)[1:]] == NAMES
    assert list(folder.glob("checkpoint*")) == []


def test_side_by_side_gives_the_same_results(folder, tmp_path):
    assert cli.main(["run", *ALL, "--jobs", "2", "--out", str(tmp_path)]) == 0
    assert designs(tmp_path) == designs(folder)
    assert curves(tmp_path) == curves(folder)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}


def settings(**more) -> Settings:
    return Settings.make(
        **{
            "designs": ["FL", "FX", "TG"],
            "perturb": [1],
            "epochs": 1,
            "width": 0.25,
            "batch": 64,
            **more,
        }
    )


class Backwards(Executor):
    """Does what it was given last first, when the first result is asked for."""

    def __init__(self):
        self.waiting: list = []

    def submit(self, function, *arguments):
        future = Future()
        self.waiting.append((future, function, arguments))
        future.result = lambda timeout=None, own=future: self._result(own)
        return future

    def _result(self, future):
        while self.waiting:
            other, function, arguments = self.waiting.pop()
            other.set_result(function(*arguments))
        return Future.result(future)


class Failing(Executor):
    """Every task of it ends with an error."""

    def __init__(self, error):
        self.error = error

    def submit(self, function, *arguments):
        future = Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    "error, message",
    [
        (InputError("the loss is nan at epoch 0"), "BN: the loss is nan at epoch 0"),
        (BrokenProcessPool("killed"), "BN: its worker has died .BrokenProcessPool.*--resume"),
    ],
)
def test_a_training_that_fails_aside_is_named(error, message, tmp_path):
    experiment = Experiment(settings(designs=["BN", "TG"]), tmp_path)
    with pytest.raises(InputError, match=message):
        study.run(experiment, Failing(error))
    with pytest.raises(ZeroDivisionError):
        study.run(experiment, Failing(ZeroDivisionError()))


def test_a_training_aside_goes_on_where_another_worker_was_lost(tmp_path):
    given = settings(designs=["TG"], epochs=2, images=256)
    wanted = study.run(Experiment(given, tmp_path / "whole"))[0].epochs
    experiment = Experiment(given, tmp_path / "broken")
    training = Training("TG", "TG")
    experiment.observer = Stopping()
    with pytest.raises(KeyboardInterrupt):
        experiment.outcome(training)
    found = study.train_aside(training, given, tmp_path / "broken", Cadence()).epochs
    assert [epoch.train_loss for epoch in found] == [epoch.train_loss for epoch in wanted]
    assert not list((tmp_path / "broken").glob("earlier-*"))


class Stopping(Observer):
    """Breaks a training off in its second epoch."""

    def step(self, epoch, step, steps, loss):
        if (epoch, step) == (1, 2):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_any_executor_will_do(tmp_path):
    outcomes = {}
    with ThreadPoolExecutor(2) as threads:
        for name, executor in (("none", None), ("threads", threads), ("backwards", Backwards())):
            experiment = Experiment(settings(), tmp_path / name)
            outcomes[name] = [
                (outcome.design, outcome.fingerprint, outcome.epochs[-1].train_loss)
                for outcome in study.run(experiment, executor)
            ]
    assert [row[0] for row in outcomes["none"]] == ["FL", "FX C_o", "FX C_+1", "TG"]
    assert outcomes["threads"] == outcomes["backwards"] == outcomes["none"]


def test_what_is_finished_is_not_trained_again(folder, tmp_path, monkeypatch):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    results = json.loads((tmp_path / "results.json").read_text())
    results["designs"] = [row for row in results["designs"] if row["design"] != "SQ"]
    (tmp_path / "results.json").write_text(json.dumps(sealed(results)))
    trained = []
    monkeypatch.setattr(
        "fxsim.experiment.stages.train",
        lambda learner, *rest, train=stages.train: (
            trained.append(type(learner.network).__name__) or train(learner, *rest)
        ),
    )
    assert cli.main(["run", "--resume", *ALL, "--out", str(tmp_path)]) == 0
    assert trained == ["StochasticNetwork"]
    by_name = {row["design"]: row for row in designs(folder)}
    assert {row["design"]: row for row in designs(tmp_path)} == by_name


def test_a_design_that_is_not_asked_for_is_not_trained(tmp_path):
    assert [
        row.design for row in study.run(Experiment(settings(designs=["TG"]), tmp_path / "tg"))
    ] == ["TG"]
    assert not (tmp_path / "tg/assignment.json").exists()
    assert [
        row.design for row in study.run(Experiment(settings(designs=["SQ"]), tmp_path / "sq"))
    ] == ["FL", "SQ"]


def test_every_class_is_perturbed_alone_where_that_is_asked_for():
    names = [row[0] for row in study.planned(settings(perturb=[-1, 1], per_class=True))]
    classes = ("feedforward", "weight_grads", "activation_grads", "accumulators")
    assert names == [
        "FX C_o",
        "FX C_-1",
        *(f"FX C_-1 {name}" for name in classes),
        "FX C_+1",
        *(f"FX C_+1 {name}" for name in classes),
        "TG",
    ]
    assert study.count(settings(perturb=[-1, 1], per_class=True)) == len(names) + 1


def test_the_sensitivity_is_that_of_the_designs_in_the_results():
    given = settings(perturb=[-1, 1], per_class=True)
    rows = [
        {"design": row[0], "train_loss": place, "test_loss": 1.0, "test_error": 0.5}
        for place, row in enumerate(study.planned(given))
        if row[0] != "FX C_+1 weight_grads"
    ]
    found = study.sensitivity(given, rows)
    assert [(row["class"], row["bits"], row["train_loss"]) for row in found] == [
        ("all", -1, 1),
        ("all", 0, 0),
        ("all", 1, 6),
        ("feedforward", -1, 2),
        ("feedforward", 1, 7),
        ("weight_grads", -1, 3),
        ("activation_grads", -1, 4),
        ("activation_grads", 1, 9),
        ("accumulators", -1, 5),
        ("accumulators", 1, 10),
    ]
    assert (
        study.sensitivity(given, [row for row in rows if row["design"] in ("FX C_o", "TG")]) == []
    )


def test_progress_of_a_training_aside_is_told_where_it_ends(tmp_path):
    told = []

    class Listener(Observer):
        def begin(self, design, settings):
            told.append(f"begin {design}")

        def end(self, outcome):
            told.append(f"end {outcome.design}")

    study.run(Experiment(settings(designs=["TG", "BN"]), tmp_path, Listener()), Backwards())
    assert told == ["begin TG", "end TG", "begin BN", "end BN"]


@pytest.mark.parametrize(
    "given",
    [
        ("--perturb", "-2,-1,+1"),
        ("--perturb=-2,-1,+1",),
        ("--perturb", "-2", "-1", "1"),
        ("--perturb", "-2,-1", "+1"),
    ],
)
def test_perturbations_are_read_however_they_are_given(given):
    arguments = cli.parse(["run", "some.toml", *given, "--per-class", "--seed", "-1"])
    assert arguments.perturb == [-2, -1, 1]
    assert (arguments.per_class, arguments.seed, arguments.experiment) == (True, -1, "some.toml")


@pytest.mark.parametrize("given", [("--perturb", "none"), ("--perturb=none",)])
def test_no_perturbations(given):
    arguments = cli.parse(["run", *given, "some.toml"])
    assert (arguments.perturb, arguments.experiment) == ([], "some.toml")


@pytest.mark.parametrize(
    "given",
    [
        ("--designs", "FL,FX,BN"),
        ("--designs=FL,FX,BN",),
        ("--designs", "FL", "FX", "BN"),
        ("--designs", "FL,", "FX,", "BN"),
    ],
)
def test_designs_are_read_however_they_are_given(given):
    arguments = cli.parse(["run", *given, "some.toml"])
    assert (arguments.designs, arguments.experiment) == (["FL", "FX", "BN"], "some.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--designs", "FL,FK"), "design 'FK' is unknown"),
        (("--designs", ","), "designs must be at least one of FL, FX, BN, SQ, TG"),
        (("--perturb", "1.5"), "integers are wanted"),
        (("--perturb", "-1,x"), "--perturb"),
        (("--perturb", "0"), "perturb must not hold 0"),
        (("--jobs", "0"), "jobs must be 1 to 256, got 0"),
    ],
)
def test_lists_that_do_not_do(arguments, message, tmp_path, capsys):
    assert cli.main(["run", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("designs = ['FL', 3]", "designs must be a list of texts"),
        ("designs = 'FL'", "designs must be a list of texts"),
        ("per_class = 1", "per_class must be true or false"),
    ],
)
def test_toml_lists_that_do_not_do(text, message, tmp_path, capsys):
    (tmp_path / "experiment.toml").write_text(text)
    assert cli.main(["run", str(tmp_path / "experiment.toml"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_costs_of_a_fixed_point_design_need_an_assignment(folder, capsys):
    file = str(folder / "assignment.json")
    for design in ("FX", "SQ"):
        assert cli.main(["cost", "digits-convnet", "--design", design]) == 2
        assert "--assignment" in capsys.readouterr().err
        assert (
            cli.main(
                [
                    "cost",
                    "digits-convnet",
                    "--design",
                    design,
                    "--assignment",
                    file,
                    "--width",
                    "0.25",
                    "--json",
                ]
            )
            == 0
        )
        costs = {row["design"]: row["costs"] for row in designs(folder)}
        assert json.loads(capsys.readouterr().out) == costs["FX C_o" if design == "FX" else "SQ"]
    assert cli.main(["cost", "digits-convnet", "--design", "TG", "--assignment", file]) == 2
    assert "not in fixed point" in capsys.readouterr().err


INTERRUPTED = """
import multiprocessing, os, signal, sys, time
from fxsim.experiment import study
if __name__ == "__main__":
    with study.processes(2) as executor:
        futures = [executor.submit(time.sleep, 300) for _ in range(4)]
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.02)
        time.sleep(0.5)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        if sys.argv[1] == "wait":
            futures[0].result()
        raise KeyboardInterrupt
"""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie, which nobody may be there to collect, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("blow", ["interrupt", "kill"])
def test_no_worker_outlives_its_parent(blow, tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    parent = subprocess.Popen(
        [sys.executable, script, "wait" if blow == "kill" else "raise"],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        if blow == "kill":
            parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=60)
        limit = time.monotonic() + 30
        while any(map(alive, workers)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not any(map(alive, workers))
    finally:
        parent.kill()
        parent.communicate()


def test_workers_share_the_cores():
    with study.processes(study.core_count() + 1) as executor:
        assert executor.submit(threads.thread_count).result(timeout=120) == 1


# What is measured on a fixed-point run.

NETWORK = Network(
    "small",
    (6, 6, 1),
    (
        Conv(name="conv", filters=3, batch_norm=True, pool=Pool("max", 2)),
        Dense(name="fc1", units=8, dropout=0.5),
        Dense(name="fc2", units=4, relu=False),
    ),
)
RNG = np.random.default_rng(3)
IMAGES = RNG.random((16, 6, 6, 1))
LABELS = RNG.integers(0, 4, 16)
CODES = (IMAGES * 255).astype(np.int16)
RATE = LearningRate.of(0.125)


def fixed(rounding=None, grad_bits=14) -> FixedNetwork:
    layer = LayerPrecision(
        weights=Format(8, 0),
        activations=Format(8, 1, signed=False),
        activation_grads=Format(grad_bits, 0),
        weight_grads=Format(8, 0),
        accumulators=Format(12, -8),
    )
    first = dataclasses.replace(layer, activations=Format(8, 0, signed=False))
    layers = {"conv": first, "fc1": layer, "fc2": layer}
    assignment = PrecisionAssignment("small", layers, rounding=rounding or {})
    network = FixedNetwork(NETWORK, assignment, initial_parameters(NETWORK, 0))
    for step in range(3):
        network.train_step(CODES, LABELS, RATE, step)
    return network


def test_shares_of_clipped_gradients_and_lost_updates_come_from_the_counts():
    counts = {
        ("fc1", "weight_grads"): Counts(100, 2, 1, 9),
        ("fc1", "activation_grads"): Counts(50, 5, 0, 9),
        ("fc1", "accumulators"): Counts(100, 0, 7, 4),
        ("fc1", "activations"): Counts(10, 9, 0, 0),
    }
    found = [
        (row.criterion, row.tensor, row.value, row.passed)
        for row in fixed_run.gradient_clipping(counts)
    ]
    assert found == [("GC", "weight_grads", 0.03, True), ("GC", "activation_grads", 0.1, False)]
    assert [(row.value, row.passed) for row in fixed_run.accumulator_stopping(counts)] == [
        (0.04, False)
    ]


def test_a_value_fails_where_it_is_above_its_bound_by_more_than_three_standard_errors():
    assert fixed_run.Finding("RQB", "fc1", "weight_grads", 0.04, 0.01, 0.0101).passed
    assert not fixed_run.Finding("RQB", "fc1", "weight_grads", 0.04, 0.01, 0.0099).passed


def test_exact_weight_gradients_round_to_the_recorded_ones_and_leave_no_trace():
    network = fixed()
    before = network.fingerprint()
    found = fixed_run.weight_grads(network, CODES, LABELS, RATE, 0)
    assert network.fingerprint() == before
    recorded = {}
    network.train_step(
        CODES,
        LABELS,
        RATE,
        0,
        probe=lambda tensor, layer, value: recorded.update({(tensor, layer): value}),
    )
    for name in NETWORK.names:
        format = network.assignment.layers[name].weight_grads
        exact = found[name][0]
        rounded = np.clip(
            np.copysign(np.floor(np.abs(exact) / format.step + 0.5), exact),
            format.min_code,
            format.max_code,
        )
        np.testing.assert_array_equal(recorded["weight_grads", name].codes, rounded)
        np.testing.assert_array_equal(found[name][1], rounded * format.step)


def test_the_bias_is_that_of_the_exact_gradients_of_all_batches():
    network = fixed()
    batches = [(CODES[:8], LABELS[:8]), (CODES[8:], LABELS[8:])]
    found = {row.layer: row for row in fixed_run.quantization_bias(network, batches, RATE)}
    parts = [
        fixed_run.weight_grads(network, *batch, RATE, step) for step, batch in enumerate(batches)
    ]
    assert list(found) == [*NETWORK.names]
    for name, row in found.items():
        values = np.concatenate([part[name][0].ravel() for part in parts])
        step = 2.0**-7
        assert row.value > 0
        assert row.value == pytest.approx(criteria.relative_quantization_bias(values, step))
        near = np.abs(values)[(np.abs(values) > step / 2) & (np.abs(values) < 1.5 * step)]
        assert row.error == pytest.approx(np.sqrt(((step - near) ** 2).sum()) / near.sum())


def test_reflected_noise_is_what_noise_in_activation_gradients_does_to_weight_gradients():
    """For the last layer G^W = A^T G^A, so that the gains are column sums of A squared."""
    network = fixed()
    rows = list(fixed_run.reflected_noise(network, IMAGES))
    found = {row.layer: row for row in rows if row.tensor == "activation_grads"}
    tape = FloatNetwork(NETWORK, fixed_run.real_parameters(network), np.float64).forward_tape(
        IMAGES
    )
    gains = (tape.layers["fc2"].input.reshape(16, -1) ** 2).sum(axis=0)
    formats = network.assignment.layers["fc2"]
    share = (formats.activation_grads.step / formats.weight_grads.step) ** 2 * np.sqrt(
        np.mean(gains**2)
    )
    assert found["fc2"].value == pytest.approx(share)
    assert [row.layer for row in found.values()] == [*NETWORK.names]


def test_reflected_noise_of_a_gradient_that_rounds_stochastically_is_twice_as_much():
    network = fixed()

    def values(**rounding):
        network.assignment = dataclasses.replace(network.assignment, rounding=rounding)
        return {
            (row.layer, row.tensor): row.value for row in fixed_run.reflected_noise(network, IMAGES)
        }

    nearest = values()
    one = values(activation_grads="stochastic")
    both = values(activation_grads="stochastic", weight_grads="stochastic")
    assert {tensor for _, tensor in nearest} == set(fixed_run.REFLECTING)
    for (layer, tensor), value in nearest.items():
        twice = tensor == "activation_grads"
        assert one[layer, tensor] == pytest.approx(value * (2 if twice else 1))
        assert both[layer, tensor] == pytest.approx(value * (1 if twice else 0.5))


def test_what_rounding_to_nearest_flushes_is_found_and_stochastic_rounding_loses_nothing():
    batches = [(IMAGES, LABELS)]
    network = fixed(grad_bits=7)
    view = FloatNetwork(NETWORK, fixed_run.real_parameters(network), np.float64)
    kept = {}
    view.loss_and_grads(
        IMAGES,
        LABELS,
        step=0,
        probe=lambda tensor, layer, array: kept.update({(layer, tensor): array}),
    )
    found = {(row.layer, row.tensor): row for row in fixed_run.gradient_flushing(network, batches)}
    assert set(found) == {key for key in kept if key[1] in fixed_run.REFLECTING}
    for (layer, tensor), row in found.items():
        format = network.layers[layer].pre_format
        if tensor == "activation_grads":
            format = network.assignment.layers[layer].activation_grads
        share = criteria.flushed_share(kept[layer, tensor], format.step)
        assert row.value == pytest.approx(share)
    assert any(row.value > 0.05 and not row.passed for row in found.values())
    drawn = fixed(dict.fromkeys(fixed_run.REFLECTING, "stochastic"), grad_bits=7)
    for row in fixed_run.gradient_flushing(drawn, batches):
        assert row.passed and row.error > 0


def test_what_is_flushed_is_rounded_by_the_words_of_the_assignment():
    network = fixed(dict.fromkeys(fixed_run.REFLECTING, "stochastic"), grad_bits=7)
    zeros = dict.fromkeys(fixed_run.REFLECTING, WordMemory((0,), bits=1))
    network.assignment = dataclasses.replace(network.assignment, words=zeros)
    kept = {}
    view = FloatNetwork(NETWORK, fixed_run.real_parameters(network), np.float64)
    view.loss_and_grads(
        IMAGES,
        LABELS,
        step=0,
        probe=lambda tensor, layer, array: kept.update({(layer, tensor): array}),
    )
    for row in fixed_run.gradient_flushing(network, [(IMAGES, LABELS)]):
        step = fixed_run._format_of(network, row.layer, row.tensor).step
        grads = kept[row.layer, row.tensor]
        small = grads[np.abs(grads) < step / 2]
        # a word of 0 rounds down: 0 stands for what is positive, one step for what is negative
        change = np.abs(small).sum() - step * (small < 0).sum()
        assert row.value == pytest.approx(abs(change) / np.abs(grads).sum())


def test_weight_gradients_that_round_stochastically_have_no_bias():
    batches = [(CODES, LABELS)] * 8
    for row in fixed_run.quantization_bias(fixed({"weight_grads": "stochastic"}), batches, RATE):
        assert 0 < row.value <= fixed_run.SPREAD * row.error


def test_real_parameters_are_those_that_fixed_inference_reads():
    network = fixed()
    real = fixed_run.real_parameters(network)
    logits = network.logits(CODES) * network.assignment.logits.step
    view = FloatNetwork(NETWORK, real, np.float64)
    scores = view.logits(CODES * network.input_format.step)
    assert np.abs(scores - logits).max() < 0.05
    assert real["conv"].keys() == {"weight", "gamma", "beta", "running_mean", "running_var"}
    assert (real["conv"]["running_var"] != 1).all()


def test_histograms_count_every_element_at_its_power_of_two():
    network = fixed()
    found = fixed_run.histograms(network, IMAGES, LABELS, 0.125)
    assert list(found) == [*NETWORK.names]
    for name, row in found.items():
        assert set(row) == {
            "weights",
            "activations",
            "weight_grads",
            "activation_grads",
            "accumulators",
        }
        weights = NETWORK.shape(name).weights
        for tensor in ("weights", "weight_grads", "accumulators"):
            assert row[tensor]["zeros"] + sum(row[tensor]["counts"]) == weights
        assert row["accumulators"]["least"] == row["weight_grads"]["least"] - 3
        assert row["accumulators"]["counts"] == row["weight_grads"]["counts"]
    assert fixed_run._by_powers_of_two(np.array([0, 1, -1.5, 2, 0.25, 0])) == {
        "zeros": 2,
        "least": -2,
        "counts": [1, 0, 2, 1],
    }
    assert fixed_run._by_powers_of_two(np.zeros(3))["counts"] == []


def test_float_and_fixed_point_decide_alike_with_ample_bits_and_otherwise_with_few():
    network = Network(
        "dense", (1, 1, 6), (Dense(name="fc1", units=8), Dense(name="fc2", units=3, relu=False))
    )
    pixels = RNG.integers(0, 256, (300, 1, 1, 6)).astype(np.uint8)
    parameters = initial_parameters(network, 2)
    view = FloatNetwork(network, parameters, np.float64)
    shares = []
    for bits in (2, 16):
        layers = {
            name: LayerPrecision(
                weights=Format(bits, 0),
                activations=Format(bits, range_exp, signed=False),
                activation_grads=Format(8, 0),
                weight_grads=Format(8, 0),
                accumulators=Format(8, -bits),
            )
            for name, range_exp in (("fc1", 0), ("fc2", 1))
        }
        shares.append(mismatch.mismatch(view, PrecisionAssignment("dense", layers), pixels, 255))
    assert shares[0] > 0.05
    assert shares[1] == 0


def test_the_run_of_c_o_is_measured_and_the_others_are_not(folder):
    for row in designs(folder):
        assert bool(row["measured"]) == (row["design"] == "FX C_o")
    rows = designs(folder)[1]["measured"]["criteria"]
    assert {(row["criterion"], row["moment"]) for row in rows} == {
        ("GC", "training"),
        ("AS", "training"),
        *((name, moment) for name in ("RQB", "BQN", "GF") for moment in ("start", "end")),
    }
    assert len(rows) == 5 * (2 + 1 + 2 + 2 + 2)
    assert all(row["passed"] for row in rows if row["criterion"] not in ("GC", "AS"))
    told = json.loads((folder / "results.json").read_text())["mismatch"]
    assert (told["bound"], told["target"]) == ("tight", 0.01)
    assert 0 < told["measured"]["held-out"]["tight"] <= 0.01
    for row in told["measured"].values():
        assert row["tight"] <= row["paper"]
    assert {name: row["images"] for name, row in told["measured"].items()} == {
        "training": 512,
        "held-out": 143,
        "test": 360,
    }


def test_the_report_is_written_without_matplotlib_too(tmp_path, monkeypatch, capsys):
    def missing(*arguments):
        raise InputError("they need matplotlib; python -m pip install matplotlib")

    monkeypatch.setattr("fxsim.report.plots.write_plots", missing)
    assert (
        cli.main(
            ["run", "--designs", "TG", "--epochs", "1", "--width", "0.25", "--out", str(tmp_path)]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert "no plots: they need matplotlib" in output
    assert (
        output.splitlines()[-2]
        == f"written to {tmp_path}: report.html, report.md, results.json, curves.csv"
    )
    assert (tmp_path / "report.md").read_text().startswith("# digits-convnet on digits\n")

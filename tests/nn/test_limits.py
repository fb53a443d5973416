"""Formats at the limits: a network equals the twin on every path, or is refused when it is built.

And a step is all or nothing; random words in inference are those of the image.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.limits_cases import Case, random_case, real_parameters, run_case
from support.modes_cases import NETWORK, PARAMETERS, assignment

import fxsim
from fxsim.accumulator import Accumulator
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.layer_precision import BatchNormPrecision, LayerPrecision, accumulator_format
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Dense, Network
from fxsim.ops.paths import available_paths

RUN = Path(__file__).parents[1] / "support" / "limits_run.py"
FAMILIES = {
    "": ("auto", "plain", "int16_avx2", "split_avx2"),
    "vnni": ("auto", "int16_vnni", "split_vnni"),
    "amx": ("auto",),
}
"""What is emulated -> the paths that run then."""
PIECE = 100


def test_random_networks_at_the_limits():
    outcomes = [run_case(random_case(seed), ("auto", "plain")) for seed in range(5)]
    assert sum(outcome.stepped for outcome in outcomes) >= 2
    assert sum(bool(outcome.refusals) for outcome in outcomes) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("emulate", FAMILIES)
@pytest.mark.parametrize("piece", range(5000 // PIECE))
def test_many_random_networks_at_the_limits(piece, emulate):
    ends = str(piece * PIECE), str((piece + 1) * PIECE)
    run = subprocess.run(
        [sys.executable, RUN, *ends, ",".join(FAMILIES[emulate])],
        env={**os.environ, "FXSIM_EMULATE": emulate},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-2000:]


SMALL = LayerPrecision(
    weights=Format(6, 0),
    activations=Format(6, 1, False),
    activation_grads=Format(8, 0),
    weight_grads=Format(10, 0),
    accumulators=accumulator_format(Format(6, 0), -13),
)


def two_layers(first: LayerPrecision, second: LayerPrecision | None = None, **options) -> Case:
    layer = Dense(
        name="a", units=3, batch_norm=options.get("norm", False), dropout=options.get("dropout", 0)
    )
    network = Network("n", (1, 1, 5), (layer, Dense(name="z", units=3, relu=False)))
    layers = {"a": first, "z": second or first}
    assigned = PrecisionAssignment(
        "n", layers, accumulator=options.get("accumulator", {}), logits=Format(16, 4)
    )
    rate = LearningRate.of(options.get("rate", 0.5))
    return Case(network, assigned, options.get("optimizer", PLAIN_SGD), rate, 3, 7)


def test_a_gradient_that_dropout_widens_beyond_32_bits_is_refused_before_batch_norm():
    wide = dataclasses.replace(SMALL, activation_grads=Format(32, 0))
    normed = dataclasses.replace(wide, batch_norm=BatchNormPrecision())
    case = two_layers(normed, SMALL, norm=True, dropout=0.25)
    outcome = run_case(case, ("auto", "plain"))
    assert not outcome.built
    assert all("batch norm needs 33 bits" in text for text in outcome.refusals)
    assert run_case(two_layers(wide, SMALL, dropout=0.25), ("plain",)).stepped


def with_formats(**formats) -> LayerPrecision:
    """SMALL with other formats; the bias gets the step of the products."""
    made = dataclasses.replace(SMALL, **formats)
    step_exp = made.weights.step_exp + made.activations.step_exp
    return dataclasses.replace(
        made, bias=Format(6, step_exp + 5), bias_accumulators=Format(8, step_exp - 1)
    )


NORM = BatchNormPrecision(
    normalized=Format(10, -30),
    gamma=Format(6, -30),
    gamma_accumulators=Format(10, -36),
    beta=Format(6, -62),
    beta_accumulators=Format(10, -68),
)
RUNS = {
    "sums in steps of 2^-63 behind a ReLU": two_layers(
        with_formats(
            weights=Format(6, -40),
            accumulators=Format(8, -46),
            activations=Format(6, -12, False),
        ),
        with_formats(activations=Format(6, -54, False)),
    ),
    "sums in steps of 2^-74 behind batch norm": two_layers(
        with_formats(batch_norm=NORM), with_formats(activations=Format(6, -70, False)), norm=True
    ),
    "a gradient of the logits in steps of 2^70": two_layers(
        SMALL, with_formats(activation_grads=Format(4, 73))
    ),
    "a gradient of the logits in steps of 2^-80": two_layers(
        SMALL, with_formats(activation_grads=Format(8, -73))
    ),
    "an update whose rounding drops 100 bits": two_layers(SMALL, rate=2.0**-90),
    "an update of 2^100 steps": two_layers(SMALL, rate=2.0**100),
    "an update whose last bit is forced": two_layers(
        with_formats(weights=Format(30, 0), accumulators=Format(32, -30)), rate=2.0**40
    ),
    "a learning rate of 4 with momentum 0.9": two_layers(SMALL, optimizer=Optimizer(0.9), rate=4.0),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_the_contract_defines_is_computed(name):
    paths = ("auto", "plain")
    case = RUNS[name]
    outcome = run_case(case, paths)
    assert outcome.built == paths, outcome.refusals
    assert outcome.stepped


JOINED = Network(
    "n",
    (1, 1, 5),
    (
        Dense(name="a", units=3),
        Dense(name="b", units=3, add="a"),
        Dense(name="z", units=3, relu=False),
    ),
)


def joined(**accumulator) -> Case:
    layers = dict.fromkeys(JOINED.names, SMALL)
    made = PrecisionAssignment("n", layers, accumulator=accumulator)
    return Case(JOINED, made, PLAIN_SGD, LearningRate.of(0.5), 3, 7)


REFUSED = {
    "weight gradients of 63 bits": (
        two_layers(with_formats(activations=Format(32, 1, False), activation_grads=Format(31, 0))),
        "layer 'a': the sums need 6[34] bits",
    ),
    "gradients of readers at far steps": (
        joined(input_grad=Accumulator(20, drop=60)),
        "layer 'a', gradients of its readers: sums of .* need .* bits",
    ),
    "a ReLU without a bit below dropout's room": (
        two_layers(SMALL, with_formats(activations=Format(3, 4, False)), dropout=0.5),
        "layer 'a': dropout follows a ReLU that clips to 2\\^1, 3 bits below",
    ),
    "products that an accumulator cannot be given": (
        two_layers(
            with_formats(activations=Format(32, 1, False), activation_grads=Format(32, 0)),
            SMALL,
            accumulator={"weight_grad": Accumulator(20, drop=40)},
        ),
        "layer 'a': sums must stay within 2\\^62",
    ),
    "a seed of more than 64 bits": (None, "seed must be 0 to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_proof_is_refused_when_the_network_is_built(name):
    case, message = REFUSED[name]
    seed = 0
    if case is None:
        case = joined()
        seed = 2**64
    real = real_parameters(case.network, case.assignment.layers, np.random.default_rng(0))
    with pytest.raises(InputError, match=message):
        FixedNetwork(case.network, case.assignment, real, seed=seed)


def test_a_batch_whose_sums_are_too_wide_changes_nothing():
    """62 bits hold the weight gradient of 4 images, not that of 5."""
    case = two_layers(
        with_formats(activations=Format(29, 1, False), activation_grads=Format(31, 0)), SMALL
    )
    real = real_parameters(case.network, case.assignment.layers, np.random.default_rng(0))
    fixed = FixedNetwork(case.network, case.assignment, real)
    images = np.random.default_rng(1).integers(0, 2**29, (5, 1, 1, 5))
    seen = []
    before = fixed.fingerprint()
    with pytest.raises(InputError, match="layer 'a': the sums need 63 bits"):
        fixed.train_step(images, np.zeros(5, int), 0.5, 0, lambda *row: seen.append(row))
    assert not seen
    assert fixed.fingerprint() == before
    fixed.train_step(images[:4], np.zeros(4, int), 0.5, 0)


def test_a_step_that_raises_changes_nothing():
    optimizer = Optimizer(0.5, 0.01, 12)
    fixed = FixedNetwork(NETWORK, assignment(), PARAMETERS, optimizer=optimizer)
    random = np.random.default_rng(2)
    images = random.integers(0, 16, (4, 6, 6, 2))
    labels = random.integers(0, 3, 4)
    names = []
    fixed.train_step(images, labels, 0.5, 0, lambda tensor, layer, _: names.append((tensor, layer)))
    before = fixed.state()
    for name in names[:: max(1, len(names) // 12)] + names[-1:]:

        def probe(tensor, layer, _, name=name):
            if (tensor, layer) == name:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fixed.train_step(images, labels, 0.5, 1, probe)
        after = fixed.state()
        for key, array in before.items():
            np.testing.assert_array_equal(after[key], array, err_msg=f"{name}: {key}")
    fixed.train_step(images, labels, 0.5, 1)
    assert any((fixed.state()[key] != array).any() for key, array in before.items())


STOCHASTIC = dict.fromkeys(
    ("activations", "preactivations", "normalized", "branch", "logits"), "stochastic"
)


def test_words_of_inference_are_those_of_the_image():
    fixed = FixedNetwork(NETWORK, assignment(rounding=STOCHASTIC), PARAMETERS)
    random = np.random.default_rng(3)
    images = random.integers(0, 16, (9, 6, 6, 2))
    labels = random.integers(0, 3, 9)
    whole = fixed.logits(images)
    assert (fixed.logits(images[4:], first=4) == whole[4:]).all()
    assert (fixed.logits(images[4:]) != whole[4:]).any()
    results = {batch: fixed.evaluate(images, labels, batch) for batch in (1, 2, 4, 9, 256)}
    assert len({(result.loss_sum, result.wrong) for result in results.values()}) == 1
    halves = [
        fixed.evaluate(images[:5], labels[:5]),
        fixed.evaluate(images[5:], labels[5:], first=5),
    ]
    assert sum(half.loss_sum for half in halves) == results[1].loss_sum
    for first, error in (
        (-1, InputError),
        (2**32, InputError),
        (1.0, TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="first must be"):
            fixed.logits(images, first)
        with pytest.raises(error, match="first must be"):
            fixed.evaluate(images, labels, first=first)


def test_the_step_that_the_contract_works_out():
    text = (Path(fxsim.__file__).parent / "numerics.md").read_text(encoding="utf-8")
    section = text[text.index("## A step in numbers") : text.index("## Known properties")]
    told = {
        (tensor, layer): [int(code) for code in codes.split()]
        for layer, tensor, codes in re.findall(r"^\| `(\w+)\.(\w+)` \| ([-\d ]+) \|", section, re.M)
    }
    s4 = Format(4, 0)
    s8 = Format(8, 0)
    act = Format(4, 1, False)
    own = LayerPrecision(
        s4, act, s8, s8, Format(8, -4), bias=s4, bias_grads=s8, bias_accumulators=Format(8, -4)
    )
    layers = (Dense(name="h", units=1), Dense(name="out", units=2, relu=False))
    network = Network("n", (1, 1, 2), layers)
    assigned = PrecisionAssignment("n", {"h": own, "out": own}, logits=Format(8, 2))
    real = {
        name: {
            kind: np.array(told[tensor, name]).reshape(shape) * s4.step
            for kind, tensor, shape in (("weight", "weights", weight), ("bias", "bias", (-1,)))
        }
        for name, weight in (("h", (2, 1)), ("out", (1, 2)))
    }
    fixed = FixedNetwork(network, assigned, real)
    seen = {}
    image = np.array(told["activations", "h"]).reshape(1, 1, 1, 2)
    result = fixed.train_step(
        image, [1], 0.5, 0, lambda *row: seen.update({row[:2]: row[2].codes.ravel().tolist()})
    )
    assert {name: seen[name] for name in told} == told
    assert set(seen) - set(told) == {("preactivation_grads", "h"), ("preactivation_grads", "out")}
    assert f"The loss is {result.loss_sum} " in section
    assert result.wrong == 1


def test_every_path_is_in_a_family():
    told = {path for paths in FAMILIES.values() for path in paths}
    assert set(available_paths()) <= told

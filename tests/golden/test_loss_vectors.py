"""Vectors of networks whose outputs are compared with targets: written, checked, explained."""

from fractions import Fraction

import numpy as np
import pytest
from oracle import losses as oracle
from oracle import rounding
from support.fixed_step_cases import assignment, random_targets, start

from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.capture import capture
from fxsim.golden.check import check
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.tensor import Tensor

LOSSES = ("mse", "half_mse", "sigmoid_cross_entropy")
DENSE = (Dense(name="inner", units=4), Dense(name="outer", units=5, relu=False))
CONV = (
    Conv(name="inner", filters=2, kernel=2, padding=1),
    Conv(name="outer", filters=2, kernel=2, relu=False),
)
LOGITS = Format(12, 2)
BATCH = 4


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    made = {}

    def get(loss, layers=DENSE, targets="tensors", rounding="nearest_away"):
        key = loss, layers, targets, rounding
        if key not in made:
            network = Network("small", (2, 3, 1), layers, loss, targets)
            modes = {"activation_grads": rounding}
            assigned = assignment(network, {"activation_grads": 14}, logits=LOGITS, rounding=modes)
            fixed = FixedNetwork(network, assigned, start(network, assigned, 1)[0])
            random = np.random.default_rng(7)
            highest = fixed.input_format.max_code
            images = random.integers(0, highest + 1, (BATCH, *network.input_shape))
            wanted = random_targets(random, network, LOGITS, BATCH)
            folder = tmp_path_factory.mktemp("vectors")
            step = capture(fixed, images, wanted, LearningRate.of(0.3), 1)
            write_vectors(step, folder, ("npy",))
            made[key] = Vectors(folder)
        return made[key]

    return get


@pytest.mark.parametrize("rounding", ["nearest_away", "stochastic"])
@pytest.mark.parametrize("layers", [DENSE, CONV], ids=["dense", "conv"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_tensor_follows_from_the_others(vectors, loss, layers, rounding):
    made = vectors(loss, layers, rounding=rounding)
    computed = set()
    for entry in made.manifest.tensors:
        recipe = recipe_for(Source(made), entry)
        if recipe:
            golden = made.codes(entry.name)
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
            computed.add(entry.name)
    assert {"outer.logits", "outer.activation_grads", "inner.activation_grads"} <= computed


def test_targets_are_an_input_in_the_format_of_the_logits(vectors):
    made = vectors("mse", CONV)
    entry = made.manifest.entry("outer.targets")
    assert (entry.role, entry.format, entry.axes) == ("input", LOGITS, "N,H,W,C")
    assert entry.shape == made.manifest.entry("outer.logits").shape == (BATCH, 2, 3, 2)
    assert "outer.labels" not in made.manifest.entries
    assert made.manifest.network.loss == "mse"
    assert "outer.labels" in vectors("mse", targets="labels").manifest.entries


def test_a_dump_of_all_that_a_device_computes_is_equal(vectors):
    folder = vectors("half_mse").folder
    assert check(folder, folder).passed


def planted(made, factor=1):
    """The gradient at the outputs by the twin, with a factor too many."""
    network = made.manifest.network
    fmt = (14, -1, True)
    rows = []
    for name in ("logits", "targets"):
        rows.append(made.codes(f"outer.{name}").astype(int).reshape(BATCH, -1).tolist())
    codes = []
    for each in zip(*rows):
        exact = oracle.exact_gradient(network.loss, *each, LOGITS.step_exp, BATCH)
        codes += [rounding.quantize(value * factor, fmt)[0] for value in exact]
    return np.array(codes)


@pytest.mark.parametrize(
    ("loss", "factor", "text"),
    [
        ("mse", BATCH, "not divided by the batch size"),
        ("mse", 5, "not divided by the number of outputs"),
        ("mse", 0.5, "factor 2 missing"),
        ("mse", -1, "targets minus outputs"),
        ("half_mse", 2, "factor 2 too many"),
        ("half_mse", BATCH, "not divided by the batch size"),
        ("sigmoid_cross_entropy", BATCH, "not divided by the batch size"),
        ("sigmoid_cross_entropy", -1, "targets minus outputs"),
    ],
)
def test_a_factor_of_the_gradient_is_found(vectors, loss, factor, text):
    made = vectors(loss)
    entry = made.manifest.entry("outer.activation_grads")
    assert np.array_equal(planted(made), made.codes(entry.name).reshape(-1))
    dumped = planted(made, Fraction(factor)).reshape(entry.shape)
    assert text in explain(made, entry, dumped).changes


def test_targets_may_come_as_a_tensor():
    network = Network("small", (2, 3, 1), DENSE, "mse", "tensors")
    assigned = assignment(network, {}, logits=LOGITS)
    codes = np.arange(10).reshape(2, 5)
    images = np.zeros((2, 2, 3, 1), int)
    steps = [
        capture(
            FixedNetwork(network, assigned, start(network, assigned, 1)[0]),
            images,
            targets,
            LearningRate.of(0.3),
            1,
        )
        for targets in (codes, Tensor(codes, LOGITS))
    ]
    assert np.array_equal(*(step.codes["outer.targets"] for step in steps))
    assert steps[0].manifest.fingerprints == steps[1].manifest.fingerprints

"""Training without accumulators: the weight is its own, from formats to vectors."""

import dataclasses
import json

import numpy as np
import pytest
from oracle.rounding import round_by_dropped_bits
from support.fixed_step_cases import NETWORKS, assignment, check_steps, start
from support.golden_steps import NETWORKS as GOLDEN
from support.golden_steps import precision

from fxsim import (
    DroppedBits,
    FixedNetwork,
    Format,
    InputError,
    LearningRate,
    Lfsr,
    PrecisionAssignment,
    assignment_complexity,
)
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.fixed.stochastic import StochasticNetwork, wide_accumulators
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import BatchNormPrecision
from fxsim.report.text import assignment_table

NETWORK = NETWORKS["max pool"]
REGISTERS = Lfsr(16, (16, 15, 13, 4), 8, (7, 0xACE1), lanes=2, clocks=8)


def batch(fixed, count=4):
    random = np.random.default_rng(8)
    images = random.integers(0, fixed.input_format.max_code + 1, (count, *NETWORK.input_shape))
    return images, random.integers(0, 3, count)


def in_place(**modes):
    return assignment(NETWORK, {}, held=False, **modes)


def network(assigned, **options):
    real, _, _ = start(NETWORK, assigned, 0)
    return FixedNetwork(NETWORK, assigned, real, **options)


@pytest.mark.parametrize("dropped_bits", [False, True])
def test_a_rate_of_a_power_of_two_shifts_the_gradient(dropped_bits):
    """W' = (2^k' W - G) rounded at bit k', in integers alone."""
    modes = {"rounding": {"accumulators": "floor"}}
    if dropped_bits:
        modes["rounding"] = {"accumulators": "stochastic"}
        modes["words"] = {"accumulators": DroppedBits()}
    fixed = network(in_place(**modes))
    before = fixed.parameters["d"]["weight"].codes.astype(int)
    seen = {}
    fixed.train_step(
        *batch(fixed),
        LearningRate.of(2.0**-3),
        0,
        lambda tensor, layer, value: seen.setdefault((tensor, layer), value.codes.astype(int)),
    )
    row = fixed.assignment.layers["d"]
    dropped = row.weights.step_exp - row.weight_grads.step_exp + 3
    exact = (before << dropped) - seen["weight_grads", "d"]
    wanted = exact >> dropped
    if dropped_bits:
        rounded = [round_by_dropped_bits(each, dropped) for each in exact.reshape(-1).tolist()]
        wanted = np.array(rounded).reshape(exact.shape)
    assert np.array_equal(fixed.parameters["d"]["weight"].codes, np.clip(wanted, -128, 127))
    assert not np.array_equal(wanted, before)


def test_nothing_of_an_accumulator_is_left():
    fixed = network(in_place())
    assert not [name for name in fixed.state() if "accumulators" in name]
    seen = []
    result = fixed.train_step(
        *batch(fixed), LearningRate.of(0.3), 0, lambda tensor, layer, value: seen.append(tensor)
    )
    assert not [tensor for tensor in seen if "accumulators" in tensor]
    assert not [key for key in result.counts if "accumulators" in key[1]]
    assert fixed.parameters["d"]["weight"].accumulators is None


def test_a_training_goes_on_from_its_state():
    words = {"accumulators": REGISTERS}
    assigned = in_place(rounding={"accumulators": "stochastic"}, words=words)
    whole, first, resumed = (network(assigned) for _ in range(3))
    for step in range(4):
        whole.train_step(*batch(whole), LearningRate.of(0.3), step)
    for step in range(2):
        first.train_step(*batch(first), LearningRate.of(0.3), step)
    resumed.load_state(first.state())
    for step in range(2, 4):
        resumed.train_step(*batch(resumed), LearningRate.of(0.3), step)
    assert resumed.fingerprint() == whole.fingerprint()


def test_momentum_without_accumulators_equals_the_twin():
    assigned = in_place(rounding={"accumulators": "zero"})
    check_steps(NETWORK, assigned, optimizer=Optimizer(0.9, 0.01))


def test_some_layers_may_have_accumulators():
    held = assignment(NETWORK, {})
    layers = {**held.layers, "c2": held.layers["c2"].without_accumulators()}
    check_steps(NETWORK, dataclasses.replace(held, layers=layers))


def test_an_assignment_without_accumulators_as_a_file():
    made = in_place()
    data = json.loads(json.dumps(made.to_dict()))
    assert data["layers"]["c1"]["accumulators"] is None
    assert data["layers"]["c1"]["bias_accumulators"] is None
    assert PrecisionAssignment.from_dict(data) == made
    del data["layers"]["c1"]["accumulators"]
    with pytest.raises(InputError, match="needs 'accumulators'"):
        PrecisionAssignment.from_dict(data)
    data["layers"]["c1"] |= {"accumulators": None, "weights": None}
    with pytest.raises(InputError, match="layer 'c1', weights must be a table"):
        PrecisionAssignment.from_dict(data)


def test_batch_norm_has_none_either():
    row = precision()
    norm = dataclasses.replace(row, batch_norm=BatchNormPrecision()).without_accumulators()
    made = PrecisionAssignment("n", {"a": norm})
    assert made.layers["a"].batch_norm.gamma_accumulators is None
    assert PrecisionAssignment.from_dict(made.to_dict()) == made


def test_perturbation_leaves_what_is_not_there():
    made = in_place().perturbed(1)
    assert made.layers["c1"].accumulators is None
    assert made.layers["c1"].weights.bits == in_place().layers["c1"].weights.bits + 1
    with pytest.raises(InputError, match="perturb another class"):
        in_place().perturbed(-1, "accumulators")


def test_costs_and_tables_have_no_accumulator():
    held = assignment(NETWORK, {})
    one, other = (assignment_complexity(NETWORK, each) for each in (held, in_place()))
    bits = held.layers["c1"].accumulators.bits
    weights = NETWORK.shape("c1").weights
    difference = one.layers["c1"].weight_storage - other.layers["c1"].weight_storage
    assert difference == bits * weights
    assert "none" in assignment_table(in_place())


def test_the_design_with_wide_accumulators_brings_its_own():
    wide = wide_accumulators(in_place())
    assert wide.layers["c1"].accumulators == Format(32, wide.layers["c1"].weights.step_exp - 1)
    real, _, _ = start(NETWORK, wide, 0)
    fixed = StochasticNetwork(NETWORK, wide, real)
    fixed.train_step(*batch(fixed), LearningRate.of(0.3), 0)


def test_a_rate_that_needs_too_many_bits_undoes_the_step():
    fixed = network(in_place())
    before = fixed.fingerprint()
    with pytest.raises(InputError, match="layer '.*', update of weight: sums of") as caught:
        fixed.train_step(*batch(fixed), LearningRate.of(1e-12), 0)
    assert len(str(caught.value)) <= 300
    assert fixed.fingerprint() == before


WORDS = {
    "nearest_away": {},
    "registers": {"accumulators": REGISTERS},
    "dropped bits": {"accumulators": DroppedBits()},
}


@pytest.fixture(scope="module", params=WORDS)
def vectors(request, tmp_path_factory):
    network = GOLDEN["max pool"]
    words = WORDS[request.param]
    made = PrecisionAssignment(
        network.name,
        {name: precision() for name in network.names},
        Format(12, 3),
        {"accumulators": "stochastic" if words else "nearest_away"},
        words=words,
    ).without_accumulators()
    fixed = FixedNetwork(network, made, initial_parameters(network, 3), seed=1)
    random = np.random.default_rng(4)
    images = random.integers(0, fixed.input_format.max_code + 1, (8, *network.input_shape))
    golden = capture(fixed, images, random.integers(0, 3, 8), LearningRate.of(0.7), 2)
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden, folder, ("npy",))
    return Vectors(folder)


def test_updated_parameters_follow_from_the_vectors(vectors):
    source = Source(vectors)
    names = [each.name for each in vectors.manifest.tensors if each.tensor.startswith("updated_")]
    assert len(names) == 6
    for name in names:
        entry = vectors.manifest.entry(name)
        recipe = recipe_for(source, entry)
        golden = vectors.codes(name)
        assert Comparison(recipe, golden, golden).holds(recipe.default), name


@pytest.mark.parametrize(
    "changed, cause",
    [
        ({"rounding": "floor"}, "rounding floor instead of "),
        ({"subtracted": -1}, "update added instead of subtracted"),
        ({"update_rounding": "floor"}, "update rounded floor before it is subtracted"),
    ],
)
def test_other_updates_are_named(vectors, changed, cause):
    entry = vectors.manifest.entry("c2.updated_weights")
    recipe = recipe_for(Source(vectors), entry)
    golden = vectors.codes(entry.name)
    rows = np.arange(golden.reshape(-1, recipe.columns).shape[0])
    planted = recipe.compute(dataclasses.replace(recipe.default, **changed), rows)
    planted = planted.reshape(golden.shape)
    assert not np.array_equal(planted, golden)
    assert any(text.startswith(cause) for text in explain(vectors, entry, planted).changes)


def test_wrong_registers_are_named(vectors):
    own = vectors.manifest.words.get("c1.accumulators")
    if own is None or own.source != REGISTERS:
        return
    entry = vectors.manifest.entry("c1.updated_weights")
    recipe = recipe_for(Source(vectors), entry)
    wrong = dataclasses.replace(REGISTERS, taps=(16, 15, 12, 4)).at(2)
    golden = vectors.codes(entry.name)
    rows = np.arange(golden.reshape(-1, recipe.columns).shape[0])
    planted = recipe.compute(dataclasses.replace(recipe.default, words=wrong), rows)
    changes = explain(vectors, entry, planted.reshape(golden.shape)).changes
    assert "LFSR: tap 12 instead of 13" in changes

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
from fxsim.golden.explain.update_recipes import TOGETHER
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.fixed.stochastic import StochasticNetwork, wide_accumulators
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import BatchNormPrecision
from fxsim.nn.optimizer import Optimizer
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


@pytest.mark.parametrize("overflow", ["wrap", "saturate_zero", "saturate_symmetric"])
def test_parameters_overflow_as_asked(overflow):
    """By the twin; updates are wide enough to leave the parameter's range."""
    tensors = ("accumulators", "bias_accumulators")
    assigned = in_place(overflow=dict.fromkeys(tensors, overflow), rounding={"accumulators": "jam"})
    check_steps(NETWORK, assigned, rate=40.0)


@pytest.mark.parametrize("bits, range_exp", [(8, 0), (6, -1), (12, -2)])
def test_rate_times_gradient_in_its_own_format(bits, range_exp):
    """Coarser than the parameter's step, the same, finer; by the twin, with momentum, too."""
    modes = {
        "rounding": {"updates": "floor", "bias_updates": "stochastic", "accumulators": "zero"},
        "overflow": {"updates": "wrap", "bias_updates": "saturate_zero", "accumulators": "wrap"},
        "words": {"d.bias_updates": REGISTERS},
    }
    assigned = in_place(updates=Format(bits, range_exp), **modes)
    check_steps(NETWORK, assigned, rate=3.0)
    check_steps(NETWORK, assigned, rate=0.3, optimizer=Optimizer(0.9, 0.01))


def test_steps_round_after_every_operation():
    """A weight in Q4.4 minus the rounded product, in integers alone; both wrap."""
    modes = {
        "rounding": {"updates": "floor"},
        "overflow": dict.fromkeys(("accumulators", "updates"), "wrap"),
    }
    fixed = network(in_place(updates=Format(8, 0), **modes))
    before = fixed.parameters["d"]["weight"].codes.astype(int)
    seen = {}
    result = fixed.train_step(
        *batch(fixed),
        LearningRate.of(3.0),
        0,
        lambda tensor, layer, value: seen.setdefault((tensor, layer), value.codes.astype(int)),
    )
    drop = -7 - fixed.assignment.layers["d"].weight_grads.step_exp
    product = 3 * seen["weight_grads", "d"] >> drop

    def wrapped(codes):
        return (codes + 128) % 256 - 128

    assert np.array_equal(seen["updates", "d"], wrapped(product))
    wanted = wrapped(before - wrapped(product))
    assert np.array_equal(fixed.parameters["d"]["weight"].codes, wanted)
    assert result.counts["d", "weights"].clipped == np.sum(wanted != before - wrapped(product)) > 0
    assert result.counts["d", "updates"].elements == before.size


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: dataclasses.replace(precision(), updates=Format(8, 0)),
            "updates is the format of rate times gradient where there are no accumulators",
        ),
        (
            lambda: in_place(
                updates=Format(8, 0),
                rounding={"accumulators": "stochastic"},
                words={"accumulators": REGISTERS},
            ),
            "updates come in whole steps of the weights.*give the words to updates",
        ),
        (
            lambda: in_place(rounding={"updates": "floor"}).check_network(NETWORK),
            "quantizes no such tensor",
        ),
        (
            lambda: in_place(updates=Format(8, 0)).check_network(NETWORK.training_only("d")),
            r"layer 'c1': training computes no updates here \(train 'none'\)",
        ),
    ],
)
def test_formats_and_modes_of_updates_that_have_no_effect(make, match):
    with pytest.raises(InputError, match=match) as caught:
        make()
    assert len(str(caught.value)) <= 300


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


ROUNDED = ("updates", "bias_updates")


def stepped(
    tmp_path_factory, words=None, rounding="nearest_away", overflow="saturate", apart=False
):
    """Vectors of one step; apart: rate times gradient in a format of its own."""
    network = GOLDEN["max pool"]
    row = precision().without_accumulators()
    if apart:
        row = dataclasses.replace(row, updates=row.weights, bias_updates=row.bias)
    tensors = (("accumulators", "bias_accumulators"), ROUNDED)[apart]
    made = PrecisionAssignment(
        network.name,
        dict.fromkeys(network.names, row),
        Format(12, 3),
        {"accumulators": "stochastic"} if words else dict.fromkeys(tensors, rounding),
        dict.fromkeys(("accumulators", "bias_accumulators"), overflow),
        words=words or {},
    )
    fixed = FixedNetwork(network, made, initial_parameters(network, 3), seed=1)
    random = np.random.default_rng(4)
    images = random.integers(0, fixed.input_format.max_code + 1, (8, *network.input_shape))
    golden = capture(fixed, images, random.integers(0, 3, 8), LearningRate.of(0.7), 2)
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden, folder, ("npy",))
    return Vectors(folder)


@pytest.fixture(scope="module", params=WORDS)
def vectors(request, tmp_path_factory):
    return stepped(tmp_path_factory, WORDS[request.param])


@pytest.fixture(scope="module", params=[False, True], ids=["at once", "rounded before"])
def wrapping(request, tmp_path_factory):
    return stepped(tmp_path_factory, rounding="floor", overflow="wrap", apart=request.param)


def test_updates_that_wrap_follow_from_the_vectors(wrapping):
    source = Source(wrapping)
    entries = [each for each in wrapping.manifest.tensors if "update" in each.tensor]
    apart = any(each.tensor == "updates" for each in entries)
    assert len(entries) == (12 if apart else 6)
    for entry in entries:
        recipe = recipe_for(source, entry)
        golden = wrapping.codes(entry.name)
        assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    moved = wrapping.manifest.entry("c2.updated_weights")
    assert (moved.rounding, moved.overflow) == ("nearest_away" if apart else "floor", "wrap")


@pytest.mark.parametrize(
    "tensor, changed, cause",
    [
        ("updates", {"rounding": "nearest_up"}, "rounding nearest_up instead of floor"),
        ("updated_weights", {"subtracted": -1}, "update added instead of subtracted"),
        ("updated_weights", {"variant": TOGETHER, "rounding": "floor"}, TOGETHER),
    ],
)
def test_other_updates_after_every_operation_are_named(tmp_path_factory, tensor, changed, cause):
    made = stepped(tmp_path_factory, rounding="floor", overflow="wrap", apart=True)
    assert cause in planted(made, f"c2.{tensor}", changed)


def planted(vectors, name, changed):
    """What explains a tensor that was computed with changed semantics."""
    entry = vectors.manifest.entry(name)
    recipe = recipe_for(Source(vectors), entry)
    golden = vectors.codes(name)
    rows = np.arange(golden.reshape(-1, recipe.columns).shape[0])
    got = recipe.compute(dataclasses.replace(recipe.default, **changed), rows)
    got = got.reshape(golden.shape)
    assert not np.array_equal(got, golden)
    return explain(vectors, entry, got).changes


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
    changes = planted(vectors, "c2.updated_weights", changed)
    assert any(text.startswith(cause) for text in changes)


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

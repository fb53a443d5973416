"""Layers that are not trained, or by their biases alone: nothing of them is computed that is not
needed.
"""

import dataclasses

import numpy as np
import pytest
from support import graph_cases as graphs
from support.fixed_step_cases import NETWORKS, assignment, check_steps, start
from support.golden_steps import precision

from fxsim import (
    Accumulator,
    Activation,
    BatchNorm,
    Conv,
    Dense,
    FixedNetwork,
    FloatNetwork,
    Format,
    InputError,
    LearningRate,
    Lfsr,
    Network,
    PrecisionAssignment,
    assignment_complexity,
)
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.spec import from_dict, to_dict

WHOLE = NETWORKS["max pool"]
TRAINED = {
    "the last layer": ("d",),
    "the two last layers": ("c2", "d"),
    "a layer in the middle": ("c2",),
    "biases alone": ("c1.bias", "c2.bias", "d.bias"),
    "a bias and the last layer": ("c2.bias", "d"),
    "the first layer": ("c1",),
}
RESIDUAL = Network(
    "residual",
    (4, 4, 2),
    (
        Conv(name="a", filters=3, padding=1),
        Conv(name="b", filters=3, padding=1),
        Conv(name="c", filters=3, padding=1, relu=False),
        Conv(name="e", filters=3, padding=1, input="b", add="a"),
        Dense(name="d", units=3, relu=False),
    ),
)


def batch(network, count=4, most=63):
    random = np.random.default_rng(8)
    images = random.integers(0, most + 1, (count, *network.input_shape))
    return images, random.integers(0, network.classes, count)


@pytest.mark.parametrize("name", TRAINED)
def test_steps_equal_the_twin(name):
    network = WHOLE.training_only(*TRAINED[name])
    check_steps(network, assignment(network, {}))


def test_steps_without_accumulators_and_with_momentum_equal_the_twin():
    network = WHOLE.training_only("c2.bias", "d")
    words = {"accumulators": Lfsr(16, (16, 15, 13, 4), 8)}
    assigned = assignment(
        network, {}, held=False, rounding={"accumulators": "stochastic"}, words=words
    )
    check_steps(network, assigned, optimizer=Optimizer(0.9))


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_moves_as_if_all_were(name):
    """In one step; and nothing else moves, or is seen."""
    network = WHOLE.training_only(*TRAINED[name])
    assigned = assignment(WHOLE, {})
    real, _, _ = start(WHOLE, assigned, 0)
    whole, frozen = (FixedNetwork(each, assigned, real) for each in (WHOLE, network))
    before = FixedNetwork(network, assigned, real).state()
    seen = set()

    def probe(tensor, layer, value):
        seen.add((layer, tensor))

    whole.train_step(*batch(WHOLE), LearningRate.of(0.4), 0)
    result = frozen.train_step(*batch(WHOLE), LearningRate.of(0.4), 0, probe)
    lowest = min(WHOLE.names.index(each.partition(".")[0]) for each in TRAINED[name])
    for place, layer in enumerate(WHOLE.names):
        trained = network.layer(layer).trained
        for kind in ("weight", "bias"):
            codes = frozen.parameters[layer][kind].codes
            same = whole.parameters[layer][kind].codes if kind in trained else None
            wanted = before[f"parameters.{layer}.{kind}.codes"] if same is None else same
            assert np.array_equal(codes, wanted), (layer, kind)
            assert ((layer, f"{kind}_grads") in seen) == (kind in trained)
            assert (f"parameters.{layer}.{kind}.accumulators" in before) == (kind in trained)
        assert ((layer, "activation_grads") in seen) == (place >= lowest)
        assert ((layer, "activation_grads") in result.counts) == (place >= lowest)


@pytest.mark.parametrize("name", TRAINED)
def test_a_float_network_moves_the_same_parameters(name):
    network = WHOLE.training_only(*TRAINED[name])
    real = initial_parameters(WHOLE, 1)
    whole, frozen = (FloatNetwork(each, real, np.float64) for each in (WHOLE, network))
    images, labels = batch(WHOLE)
    _, grads = frozen.loss_and_grads(images / 63, labels)
    assert {layer: set(own) for layer, own in grads.items() if own} == {
        layer: set(network.layer(layer).trained)
        for layer in network.names
        if network.layer(layer).trained
    }
    for each in (whole, frozen):
        each.train_step(images / 63, labels, 0.5, 0)
    for layer, own in frozen.parameters.items():
        for kind, array in own.items():
            trained = kind in network.layer(layer).trained
            wanted = whole.parameters[layer][kind] if trained else real[layer][kind]
            assert np.array_equal(array, wanted), (layer, kind)


@pytest.mark.parametrize(
    "names, reached", [(("b",), "bced"), (("e.bias",), "ed"), (("a",), "abced")]
)
def test_gradients_pass_residual_additions_as_far_as_they_must(names, reached):
    graph = dataclasses.replace(RESIDUAL, layers=tuple(x for x in RESIDUAL.layers if x.name != "c"))
    network = graph.training_only(*names)
    assert network.reached == set(reached) - {"c"}
    real = initial_parameters(graph, 2)
    row = precision()
    assigned = PrecisionAssignment("residual", dict.fromkeys(graph.names, row), Format(12, 3))
    whole, frozen = (FixedNetwork(each, assigned, real) for each in (graph, network))
    for each in (whole, frozen):
        each.train_step(*batch(graph), LearningRate.of(0.4), 0)
    for name in graph.names:
        for kind in network.layer(name).trained:
            wanted = whole.parameters[name][kind].codes
            assert np.array_equal(frozen.parameters[name][kind].codes, wanted)


def test_a_training_goes_on_from_its_state():
    network = WHOLE.training_only("c2.bias", "d")
    assigned = assignment(network, {})
    real, _, _ = start(network, assigned, 0)
    whole, first, resumed = (FixedNetwork(network, assigned, real) for _ in range(3))
    for step in range(4):
        whole.train_step(*batch(network), LearningRate.of(0.3), step)
    for step in range(2):
        first.train_step(*batch(network), LearningRate.of(0.3), step)
    resumed.load_state(first.state())
    for step in range(2, 4):
        resumed.train_step(*batch(network), LearningRate.of(0.3), step)
    assert resumed.fingerprint() == whole.fingerprint()


def test_vectors_hold_what_is_computed(tmp_path):
    network = WHOLE.training_only("c2.bias", "d")
    fixed = FixedNetwork(network, assignment(network, {}), initial_parameters(network, 0))
    golden = capture(fixed, *batch(network), LearningRate.of(0.3), 0)
    write_vectors(golden, tmp_path / "vectors", ("npy",))
    made = Vectors(tmp_path / "vectors")
    assert made.manifest.network == network
    names = set(made.manifest.entries)
    assert {"d.weight_grads", "c2.bias_grads", "c2.updated_bias"} <= names
    assert not names & {"c1.activation_grads", "c2.weight_grads", "c1.updated_weights"}
    source = Source(made)
    for entry in made.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = made.codes(entry.name)
        assert not recipe or Comparison(recipe, golden, golden).holds(recipe.default), entry.name


def test_costs_of_what_is_not_trained_are_left_out():
    assigned = assignment(WHOLE, {})
    whole = assignment_complexity(WHOLE, assigned)
    frozen = assignment_complexity(WHOLE.training_only("d"), assigned)
    row, shape = assigned.layers["c1"], WHOLE.shape("c1")
    assert frozen.layers["c1"].weight_storage == shape.weights * row.weights.bits
    assert frozen.layers["c1"].communication == 0
    assert frozen.layers["c1"].training_macs == (
        shape.macs * row.weights.bits * row.activations.bits
    )
    assert frozen.layers["d"].weight_storage == whole.layers["d"].weight_storage
    d = assigned.layers["d"]
    back = WHOLE.shape("d").macs * d.weights.bits * d.activation_grads.bits
    assert whole.layers["d"].training_macs - frozen.layers["d"].training_macs == back


def test_networks_as_plain_data():
    network = WHOLE.training_only("c2.bias", "d")
    rows = to_dict(network)["layer"]
    assert [row.get("train") for row in rows] == ["none", "bias", None]
    assert from_dict(to_dict(network)) == network


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Dense(name="a", units=2, train="weights"), "train 'weights' is unknown"),
        (lambda: Dense(name="a", units=2, train="bias", bias=False), "train 'bias' needs a bias"),
        (
            lambda: Dense(name="a", units=2, train="none", batch_norm=True),
            "whose statistics move .* freeze them, too",
        ),
        (
            lambda: Dense(name="a", units=2, train="bias", batch_norm=BatchNorm(frozen=True)),
            "train 'bias' needs a bias",
        ),
        (lambda: WHOLE.training_only(), "no layer is trained"),
        (lambda: WHOLE.training_only("d.weights"), "parameter of d 'weights' is unknown"),
        (lambda: WHOLE.training_only("e"), "layer 'e' is unknown"),
    ],
)
def test_what_does_not_go_together_is_refused(make, match):
    with pytest.raises(InputError, match=match):
        make()


NORMS = {
    "below": Network(
        "norms",
        (4, 4, 2),
        (
            Conv(name="a", filters=3, batch_norm=BatchNorm(frozen=True), train="none"),
            Conv(name="b", filters=3, kernel=2, batch_norm=True, activation="none"),
            Dense(name="d", units=3, activation="none"),
        ),
    ),
    "between": Network(
        "norms",
        (4, 4, 2),
        (
            Conv(name="a", filters=3, padding=1),
            Conv(name="b", filters=3, padding=1, batch_norm=BatchNorm(frozen=True), train="none"),
            Conv(name="c", filters=3, padding=1, add="a", train="none"),
            Dense(name="d", units=3, activation="none", train="bias"),
        ),
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_frozen_batch_norm_equals_the_twin(name):
    """Its gradient is passed on where a layer below is trained; gamma and beta stay."""
    network = NORMS[name]
    modes = {"rounding": {"weight_grads": "floor"}}
    fixed, counts = graphs.check_steps(network, graphs.assignment(network, **modes))
    layer = {"below": "a", "between": "b"}[name]
    parts = ("gamma_grads", "beta_grads", "weight_grads", "accumulators", "mean", "normalized")
    made = {tensor for own, tensor in counts if own == layer}
    assert made & set(parts) == {"mean", "normalized"} & made
    assert "normalized" in made
    assert ("preactivation_grads" in made) == (name == "between")
    start = FixedNetwork(network, fixed.assignment, graphs.real_parameters(network, 0)).state()
    moved = {key for key, codes in fixed.state().items() if not np.array_equal(codes, start[key])}
    assert moved and not [key for key in moved if f".{layer}." in key]


@pytest.mark.parametrize("name", NORMS)
def test_float_layers_with_frozen_batch_norm_stay(name):
    network = NORMS[name]
    real = initial_parameters(network, 1)
    floating = FloatNetwork(network, real, np.float64)
    images, labels = batch(network)
    floating.train_step(images / 63, labels, 0.5, 0)
    for layer in network.layers:
        for kind, array in floating.parameters[layer.name].items():
            statistic = kind.startswith("running") and layer.norm and not layer.norm.frozen
            moves = kind in layer.trained or statistic
            assert np.array_equal(array, real[layer.name][kind]) != bool(moves), (layer.name, kind)


def test_frozen_batch_norm_changes_no_gradient_below():
    """The first layer moves as it does where gamma and beta are trained, too."""
    network = NORMS["between"]
    layers = tuple(dataclasses.replace(layer, train="all") for layer in network.layers)
    whole = dataclasses.replace(network, layers=layers)
    moved = []
    for each in (network, whole):
        real = graphs.real_parameters(each, 3)
        fixed = FixedNetwork(each, graphs.assignment(each), real)
        fixed.train_step(*batch(each), LearningRate.of(0.4), 0)
        moved.append(fixed.parameters["a"]["weight"].codes)
    assert np.array_equal(*moved)


def test_vectors_of_frozen_batch_norm_follow_from_each_other(tmp_path):
    network = NORMS["between"]
    real = graphs.real_parameters(network, 3)
    fixed = FixedNetwork(network, graphs.assignment(network), real)
    golden = capture(fixed, *batch(network), LearningRate.of(0.3), 0)
    write_vectors(golden, tmp_path / "vectors", ("npy",))
    made = Vectors(tmp_path / "vectors")
    assert "b.preactivation_grads" in made.manifest.entries
    assert "b.gamma_grads" not in made.manifest.entries
    source = Source(made)
    for entry in made.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = made.codes(entry.name)
        assert not recipe or Comparison(recipe, golden, golden).holds(recipe.default), entry.name


def test_formats_of_gradients_that_are_not_computed_are_refused():
    leaky = dataclasses.replace(WHOLE.layers[0], activation=Activation("leaky_relu", slope_exp=-2))
    network = dataclasses.replace(WHOLE, layers=(leaky, *WHOLE.layers[1:]))
    assigned = assignment(network, {})
    own = dataclasses.replace(assigned.layers["c1"], relu_input_grads=Format(8, 0))
    assigned = dataclasses.replace(assigned, layers={**assigned.layers, "c1": own})
    assigned.check_network(network)
    with pytest.raises(InputError, match="computes no relu_input_grads here .train 'none'.; leave"):
        assigned.check_network(network.training_only("d"))


@pytest.mark.parametrize("tensor", ["weight_grads", "accumulators", "activation_grads"])
def test_words_of_what_is_not_computed_are_refused(tensor):
    network = WHOLE.training_only("d")
    key = f"c1.{tensor}"
    assigned = assignment(network, {}, rounding={tensor: "stochastic"})
    assigned = dataclasses.replace(assigned, words={key: Lfsr(8, (8, 6, 5, 4), 4)})
    with pytest.raises(InputError, match=f"layer 'c1' quantizes no {tensor}"):
        assigned.check_network(network)


@pytest.mark.parametrize(
    "trained, computed",
    [
        (
            ("c1", "c2", "d"),
            ("c1.weight_grad", "c2.input_grad", "c2.weight_grad", "d.input_grad", "d.weight_grad"),
        ),
        (("d",), ("d.weight_grad",)),
        (("c2.bias", "d"), ("d.input_grad", "d.weight_grad")),
        (("d.bias",), ()),
    ],
)
def test_an_accumulator_of_a_product_that_is_not_computed_is_refused(trained, computed):
    network = WHOLE.training_only(*trained)
    plain = assignment(WHOLE, {})
    for layer in WHOLE.names:
        for kind in ("forward", "input_grad", "weight_grad"):
            key = f"{layer}.{kind}"
            given = dataclasses.replace(plain, accumulator={key: Accumulator(24)})
            if kind == "forward" or key in computed:
                given.check_network(network)
                continue
            with pytest.raises(InputError, match=f"'{key}': a training step computes no {kind} of"):
                given.check_network(network)


@pytest.mark.parametrize("kind", ["input_grad", "weight_grad"])
def test_a_product_that_is_not_computed_is_not_checked(kind):
    finer_than_any = {kind: Accumulator.of(Format(24, -40))}
    given = dataclasses.replace(assignment(WHOLE, {}), accumulator=finer_than_any)
    real, _, _ = start(WHOLE, given, 0)
    with pytest.raises(InputError, match="the accumulator's step"):
        FixedNetwork(WHOLE, given, real)
    network = FixedNetwork(WHOLE.training_only("d.bias"), given, real)
    network.train_step(*batch(WHOLE), LearningRate.of(0.4), 0)


def test_sums_of_squares_that_frozen_statistics_do_not_need_are_not_checked():
    def network(frozen):
        layers = (
            Dense(name="d", units=3, batch_norm=BatchNorm(frozen=frozen)),
            Dense(name="scores", units=3, activation="none"),
        )
        return Network("norm", (1, 1, 4), layers)

    own = dataclasses.replace(precision(), preactivations=Format(32, 3))
    given = PrecisionAssignment("norm", {"d": own, "scores": precision()})
    real = initial_parameters(network(True), 0)
    images = np.arange(16).reshape(4, 1, 1, 4) % 2
    moving = FixedNetwork(network(False), given, real)
    with pytest.raises(InputError, match="squared pre-activations"):
        moving.train_step(images, np.array([0, 1, 2, 0]), LearningRate.of(0.1), 0)
    still = FixedNetwork(network(True), given, real)
    still.train_step(images, np.array([0, 1, 2, 0]), LearningRate.of(0.1), 0)

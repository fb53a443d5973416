"""Planted faults in batch norm, residual additions and dropout that the explanation finds."""

import dataclasses

import numpy as np
import pytest
from support.explained import changes, every_recipe
from support.modes_cases import NETWORK, PARAMETERS, assignment

from fxsim import (
    BatchNorm,
    Conv,
    Dense,
    FixedNetwork,
    InputError,
    LearningRate,
    Lfsr,
    Network,
    Quantizer,
    Tensor,
)
from fxsim.accumulator import Accumulator, parse_accumulators
from fxsim.formats import STOCHASTIC, Format
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import Manifest
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import MODES, VELOCITIES, LayerPrecision, accumulator_format
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.tensors import quantized_tensors
from fxsim.ops.exact import Sums


def vectors_of(fixed, folder, classes=3, layers=None):
    random = np.random.default_rng(4)
    shape = fixed.network.input_shape
    images = random.integers(0, fixed.input_format.max_code + 1, (4, *shape))
    labels = random.integers(0, classes, 4)
    rate = LearningRate.of(0.25)
    fixed.train_step(images, labels, rate, 0)
    write_vectors(capture(fixed, images, labels, rate, 1, layers), folder, ["npy"])
    return Vectors(folder)


MIXED = Network(
    "mixed",
    (5, 5, 2),
    (
        Conv(name="c1", filters=4, padding=1, batch_norm=True),
        Conv(name="c2", filters=4, padding=1, batch_norm=True, add="c1", dropout=0.25),
        Conv(name="c3", filters=4, padding=1, batch_norm=BatchNorm(frozen=True), add="c1"),
        Dense(name="d1", units=6, batch_norm=True),
        Dense(name="d2", units=3, relu=False),
    ),
)


def mixed_step(**options):
    """MIXED with these options of its assignment."""
    weights = Format(8, 0)
    own = LayerPrecision(
        weights=weights,
        activations=Format(8, 2, False),
        activation_grads=Format(12, -1),
        weight_grads=Format(12, 0),
        accumulators=accumulator_format(weights, -16),
    )
    layers = dict.fromkeys(MIXED.names, own)
    assigned = PrecisionAssignment("mixed", layers, **options)
    return FixedNetwork(MIXED, assigned, initial_parameters(MIXED, 1))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return vectors_of(mixed_step(), tmp_path_factory.mktemp("mixed"))


def tensor(vectors, name):
    return Tensor(vectors.codes(name), vectors.manifest.entry(name).format)


def test_every_tensor_follows_from_the_others(mixed):
    found = every_recipe(mixed)
    for name in ("c1", "c2", "c3", "d1"):
        for kind in ("normalized", "relu_inputs", "relu_input_grads", "gamma_grads"):
            assert f"{name}.{kind}" in found
    assert {"c1.mean", "c2.variance", "c1.activation_grads", "d1.activations"} <= found
    assert {"c1.inverse_roots", "c3.mean", "c3.variance"} <= found  # c3 is frozen


def rounding_all(rounding):
    """The rounding of every tensor that has it."""
    present = {*quantized_tensors(NETWORK, assignment().layers), *VELOCITIES}
    return {tensor: rounding for tensor in present if rounding in MODES[tensor].roundings}


@pytest.mark.parametrize("rounding", ["jam", "stochastic"])
def test_every_tensor_follows_from_the_others_in_other_modes(tmp_path, rounding):
    rounds = rounding_all(rounding)
    fixed = FixedNetwork(
        NETWORK, assignment(rounding=rounds), PARAMETERS, optimizer=Optimizer(0.5, 0.0, 4)
    )
    found = every_recipe(vectors_of(fixed, tmp_path))
    assert {"leaky.preactivation_grads", "norm.normalized", "leaky.branch"} <= found


def test_registers_are_varied_behind_every_tensor_that_they_round(tmp_path):
    rounds = rounding_all("stochastic")
    words = dict.fromkeys(rounds, Lfsr(12, (12, 6, 4, 1), 8, 5))
    assigned = assignment(rounding=rounds, words=words)
    fixed = FixedNetwork(NETWORK, assigned, PARAMETERS, optimizer=Optimizer(0.5, 0.0, 4))
    made = vectors_of(fixed, tmp_path)
    source = Source(made)
    varied = set()
    for name in made.manifest.words:
        recipe = recipe_for(source, made.manifest.entry(name))
        if recipe is not None:
            assert any("LFSR" in each.text for each in recipe.alternatives()), name
            varied.add(name)
    assert {"leaky.preactivation_grads", "norm.normalized", "stem.activation_grads"} <= varied


NARROW = ["input_grad=11 bits", "c2.input_grad=9 bits, wrap, floor 2"]


def test_the_accumulators_of_gradients_that_add_up_are_stated(tmp_path):
    made = vectors_of(mixed_step(accumulator=parse_accumulators(NARROW)), tmp_path)
    stated = made.manifest.input_grads
    assert Manifest.load(tmp_path) == made.manifest
    assert {reader: own.model for reader, own in stated.items()} == {
        "c2": Accumulator(9, "wrap", drop=2)  # all others are the only readers of what they read
    }
    assert made.manifest.entry("c1.activation_grads").accumulator is None
    assert made.manifest.entry("c3.activation_grads").accumulator.model == Accumulator(11)
    assert "c1.activation_grads" in every_recipe(made)
    golden = made.codes("c1.activation_grads")
    format = made.manifest.entry("c1.activation_grads").format
    narrow = Format(format.bits - 10, format.range_exp - 10)
    planted = np.clip(golden, narrow.min_code, narrow.max_code)
    text = "range 10 bits narrower, overflow saturate"
    assert text in changes(made, "c1.activation_grads", planted)


def test_every_reader_of_a_tensor_has_its_accumulator_in_the_manifest(tmp_path):
    assigned = assignment(accumulator=parse_accumulators(["input_grad=8 bits, tree"]))
    fixed = FixedNetwork(NETWORK, assigned, PARAMETERS)
    made = vectors_of(fixed, tmp_path)
    stated = made.manifest.input_grads
    assert set(stated) == {"skip", "leaky", "norm"}  # what reads the stem
    assert all(own.model == Accumulator(8, order="tree") for own in stated.values())
    assert "stem.activation_grads" in every_recipe(made)
    row = stated["skip"].to_dict()
    assert row["order"] == "output channel, kernel row, kernel column"
    with pytest.raises(InputError, match="bits must be at least 1, got 0"):
        dataclasses.replace(made.manifest, input_grads={"skip": type(stated["skip"])(0, 1, "x")})


def test_exact_sums_of_readers_are_stated_where_their_gradient_was_kept(tmp_path, mixed):
    assert mixed.manifest.input_grads["c2"].overflow == "exact"
    made = vectors_of(mixed_step(), tmp_path, layers=["c3"])
    assert made.manifest.input_grads == {}


def rounded(exact, step_exp, format, rounding="nearest_away", overflow="saturate"):
    sums = Sums(exact.astype(np.int64), Format(62, step_exp + 61))
    return sums.to(Quantizer(format, rounding, overflow)).codes


def normalization(vectors, name, centred=True):
    """(exact x-hat, the exponent of its step)."""
    y, mean, root = (
        tensor(vectors, f"{name}.{kind}")
        for kind in ("quantized_preactivations", "mean", "inverse_roots")
    )
    assert y.format.step_exp >= mean.format.step_exp
    up = y.format.step_exp - mean.format.step_exp
    values = (y.codes.astype(np.int64) << up) - centred * mean.codes
    return values * root.codes, mean.format.step_exp + root.format.step_exp


@pytest.mark.parametrize("rounding", ["floor", "nearest_even", "zero", "ceil"])
@pytest.mark.parametrize("name", ["c1", "d1"])
def test_the_rounding_of_the_normalization(mixed, name, rounding):
    exact, step_exp = normalization(mixed, name)
    format = mixed.manifest.entry(f"{name}.normalized").format
    assert np.array_equal(rounded(exact, step_exp, format), mixed.codes(f"{name}.normalized"))
    planted = rounded(exact, step_exp, format, rounding)
    if np.array_equal(planted, mixed.codes(f"{name}.normalized")):
        assert rounding == "nearest_even"  # there may be no tie
        return
    expected = f"rounding {rounding} instead of nearest_away"
    assert expected in changes(mixed, f"{name}.normalized", planted)


def test_a_mean_that_is_not_subtracted(mixed):
    exact, step_exp = normalization(mixed, "c1", centred=False)
    planted = rounded(exact, step_exp, mixed.manifest.entry("c1.normalized").format)
    assert changes(mixed, "c1.normalized", planted) == {"mean not subtracted"}


def test_the_rounding_of_mean_and_variance(mixed):
    y = mixed.codes("c1.quantized_preactivations").reshape(-1, 4).astype(object)
    step = mixed.manifest.entry("c1.quantized_preactivations").format.step_exp
    mean = mixed.manifest.entry("c1.mean").format
    terms = len(y)
    assert mean.step_exp == step
    assert "rounding floor instead of nearest_away" in changes(
        mixed, "c1.mean", np.array(y.sum(axis=0) // terms, np.int64)
    )
    deviation = terms * (y**2).sum(axis=0) - y.sum(axis=0) ** 2
    variance = mixed.manifest.entry("c1.variance").format
    drop = variance.step_exp - 2 * step
    floors = np.array(deviation // (terms**2 << drop), np.int64)
    assert "rounding floor instead of nearest_away" in changes(mixed, "c1.variance", floors)
    divisor = 2 * (terms * (terms - 1) << drop)
    unbiased = np.array((2 * deviation + divisor // 2) // divisor, np.int64)
    text = "variance divided by one position less"
    assert text in changes(mixed, "c1.variance", unbiased)


def test_the_gradient_before_batch_norm(mixed):
    parts = {
        kind: tensor(mixed, f"c2.normalization_{kind}") for kind in ("scales", "slopes", "offsets")
    }
    grads, x = (
        mixed.codes(f"c2.{kind}").astype(np.int64) for kind in ("relu_input_grads", "normalized")
    )
    step_exp = parts["offsets"].format.step_exp
    format = mixed.manifest.entry("c2.preactivation_grads").format
    with_x = grads * parts["scales"].codes + x * parts["slopes"].codes
    exact = with_x + parts["offsets"].codes
    assert "rounding floor instead of nearest_away" in changes(
        mixed, "c2.preactivation_grads", rounded(exact, step_exp, format, "floor")
    )
    assert changes(mixed, "c2.preactivation_grads", rounded(with_x, step_exp, format)) == {
        "batch norm's offsets left out of the gradient"
    }


def test_the_sums_of_gamma_and_beta(mixed):
    grads = tensor(mixed, "d1.relu_input_grads")
    total = grads.codes.astype(np.int64).reshape(-1, 6).sum(axis=0)
    format = mixed.manifest.entry("d1.beta_grads").format
    planted = rounded(total, grads.format.step_exp, Format(format.bits - 12, format.range_exp - 12))
    assert "range 12 bits narrower, overflow saturate" in changes(mixed, "d1.beta_grads", planted)


def combined(vectors, name, branch=True, beta=True):
    """(exact sums after batch norm and addition, the exponent of their step)."""
    x, gamma, shift = (
        tensor(vectors, f"{name}.{kind}") for kind in ("normalized", "gamma", "beta")
    )
    added = tensor(vectors, "c2.activations")
    step_exp = vectors.manifest.entry(f"{name}.relu_inputs").format.step_exp
    parts = [
        (x.codes.astype(np.int64) * gamma.codes, x.format.step_exp + gamma.format.step_exp),
        (beta * shift.codes.astype(np.int64), shift.format.step_exp),
        (branch * added.codes.astype(np.int64), added.format.step_exp),
    ]
    return sum(codes << (exponent - step_exp) for codes, exponent in parts), step_exp


@pytest.mark.parametrize("kept", ["branch", "beta"])
def test_a_residual_branch_or_beta_left_out(mixed, kept):
    exact, step_exp = combined(mixed, "c3")
    assert np.array_equal(exact, mixed.codes("c3.relu_inputs"))
    planted, _ = combined(mixed, "c3", **{kept: False})
    if kept == "beta" and np.array_equal(exact, planted):
        pytest.fail("beta is 0")
    text = {"branch": "residual branch left out", "beta": "beta left out"}[kept]
    assert text in changes(mixed, "c3.relu_inputs", planted)
    format = mixed.manifest.entry("d1.activations").format
    codes = rounded(np.maximum(planted, 0), step_exp, format)
    assert text in changes(mixed, "d1.activations", codes)


def test_dropout_left_out_and_without_its_scale(mixed):
    exact, step_exp = combined(mixed, "c2")
    format = mixed.manifest.entry("c3.activations").format
    whole = rounded(np.maximum(exact, 0), step_exp, Format(7, 1, False))
    golden = mixed.codes("c3.activations")
    assert "dropout left out" in changes(mixed, "c3.activations", whole)
    kept = Source(mixed).kept("c2", golden.shape)
    assert format.bits == 8
    assert "dropout without its scale" in changes(mixed, "c3.activations", whole * kept)


def test_a_rounding_before_a_residual_addition_of_gradients(mixed):
    source = Source(mixed)
    entry = mixed.manifest.entry("c1.activation_grads")
    recipe = recipe_for(source, entry)
    texts = {each.text: each.semantics for each in recipe.alternatives()}
    rows = np.arange(np.prod(entry.shape[:3]))
    for text in (
        "every gradient rounded by itself before the addition",
        "gradient of addition in c3 left out",
        "gradient of reader c2 left out",
        "rounding floor instead of nearest_away",
    ):
        planted = recipe.compute(texts[text], rows)
        assert text in changes(mixed, entry.name, planted), text


@pytest.mark.parametrize("rounding", STOCHASTIC)
def test_gradients_that_add_up_and_round_stochastically(tmp_path, rounding):
    made = vectors_of(mixed_step(rounding={"activation_grads": rounding}), tmp_path)
    entry = made.manifest.entry("c1.activation_grads")
    assert changes(made, entry.name, made.codes(entry.name) ^ 1) == set()
    recipe = recipe_for(Source(made), entry)
    text = "gradient of reader c2 left out"
    (left_out,) = (each.semantics for each in recipe.alternatives() if each.text == text)
    planted = recipe.compute(left_out, np.arange(np.prod(entry.shape[:3])))
    assert text in changes(made, entry.name, planted)


TWICE = Network(
    "twice",
    (4, 4, 2),
    (
        Conv(name="stem", filters=3, kernel=1),
        Conv(name="skip", filters=3, kernel=1, relu=False),
        Conv(name="c1", filters=3, padding=1, input="stem", add="skip"),
        Conv(name="c2", filters=3, padding=1, add="skip"),
        Dense(name="d", units=3, relu=False),
    ),
)


def test_gradients_rounded_first_to_a_finer_step_than_their_own(tmp_path):
    weights = Format(8, 0)
    own = LayerPrecision(
        weights=weights,
        activations=Format(8, 2, False),
        activation_grads=Format(8, -4),
        weight_grads=Format(12, 0),
        accumulators=accumulator_format(weights, -16),
    )
    finer = dataclasses.replace(own, activation_grads=Format(9, -6), branch=Format(8, 0))
    layers = {**dict.fromkeys(TWICE.names, own), "skip": finer}
    assigned = PrecisionAssignment("twice", layers)
    made = vectors_of(FixedNetwork(TWICE, assigned, initial_parameters(TWICE, 1)), tmp_path)
    name = "skip.activation_grads"
    parts = [tensor(made, f"{layer}.preactivation_grads") for layer in ("c1", "c2")]
    assert finer.activation_grads.step_exp < min(part.format.step_exp for part in parts)
    first = [
        rounded(part.codes, part.format.step_exp, finer.activation_grads).astype(np.int64)
        for part in parts
    ]
    planted = rounded(sum(first), finer.activation_grads.step_exp, finer.activation_grads)
    text = "every gradient rounded by itself before the addition"
    assert text in changes(made, name, planted)


def modes_step():
    return FixedNetwork(NETWORK, assignment(), PARAMETERS)


@pytest.mark.parametrize(
    ("step", "layer", "name", "missing"),
    [
        (mixed_step, "c1", "c1.activation_grads", "c2.preactivation_grads"),
        (mixed_step, "c2", "c1.activation_grads", "c3.relu_input_grads"),
        (mixed_step, "c3", "c3.relu_inputs", "c2.activations"),
        (modes_step, "skip", "skip.activation_grads", "sum.preactivation_grads"),
        (modes_step, "norm", "norm.relu_inputs", "leaky.branch"),
    ],
)
def test_what_a_neighbour_was_not_exported_of_is_named(tmp_path, step, layer, name, missing):
    made = vectors_of(step(), tmp_path, layers=[layer])
    found = explain(made, made.manifest.entry(name), made.codes(name) ^ 1)
    assert found.changes == ()
    assert found.note == f"for more, export {missing} too"

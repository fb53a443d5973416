"""Planted faults in batch norm, residual additions and dropout that the explanation finds."""

import numpy as np
import pytest
from support.modes_cases import NETWORK, PARAMETERS, assignment

from fxsim import BatchNorm, Conv, Dense, FixedNetwork, LearningRate, Network, Quantizer, Tensor
from fxsim.formats import STOCHASTIC, Format
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import (
    MODES,
    VELOCITIES,
    LayerPrecision,
    PrecisionAssignment,
    accumulator_format,
    quantized_tensors,
)
from fxsim.ops.exact import Sums


def vectors_of(fixed, folder, classes=3):
    random = np.random.default_rng(4)
    shape = fixed.network.input_shape
    images = random.integers(0, fixed.input_format.max_code + 1, (4, *shape))
    labels = random.integers(0, classes, 4)
    rate = LearningRate.of(0.25)
    fixed.train_step(images, labels, rate, 0)
    write_vectors(capture(fixed, images, labels, rate, 1), folder, ["npy"])
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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    weights = Format(8, 0)
    own = LayerPrecision(
        weights=weights,
        activations=Format(8, 2, False),
        activation_grads=Format(12, -1),
        weight_grads=Format(12, 0),
        accumulators=accumulator_format(weights, -16),
    )
    layers = dict.fromkeys(MIXED.names, own)
    fixed = FixedNetwork(MIXED, PrecisionAssignment("mixed", layers), initial_parameters(MIXED, 1))
    return vectors_of(fixed, tmp_path_factory.mktemp("mixed"))


def tensor(vectors, name):
    return Tensor(vectors.codes(name), vectors.manifest.entry(name).format)


def changes(vectors, name, dumped):
    golden = vectors.codes(name)
    dumped = np.asarray(dumped).reshape(golden.shape)
    assert not np.array_equal(golden, dumped), "nothing was planted"
    return set(explain(vectors, vectors.manifest.entry(name), dumped).changes)


def every_recipe(vectors):
    """Names of the tensors whose recipe gives the golden codes; a recipe that does not fails."""
    source = Source(vectors)
    found = set()
    for entry in vectors.manifest.tensors:
        recipe = recipe_for(source, entry)
        if recipe is not None:
            golden = vectors.codes(entry.name)
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
            found.add(entry.name)
    return found


def test_every_tensor_follows_from_the_others(mixed):
    found = every_recipe(mixed)
    for name in ("c1", "c2", "c3", "d1"):
        for kind in ("normalized", "relu_inputs", "relu_input_grads", "gamma_grads"):
            assert f"{name}.{kind}" in found
    assert {"c1.mean", "c2.variance", "c1.activation_grads", "d1.activations"} <= found
    assert "c3.mean" not in found  # frozen: what was there before


def rounding_all(rounding):
    """The rounding of every tensor that has it."""
    present = {*quantized_tensors(NETWORK, assignment().layers), *VELOCITIES}
    return {tensor: rounding for tensor in present if rounding in MODES[tensor].roundings}


@pytest.mark.parametrize("rounding", ["floor", "jam", *STOCHASTIC])
def test_every_tensor_follows_from_the_others_in_other_modes(tmp_path, rounding):
    rounds = rounding_all(rounding)
    fixed = FixedNetwork(
        NETWORK, assignment(rounding=rounds), PARAMETERS, optimizer=Optimizer(0.5, 0.0, 4)
    )
    found = every_recipe(vectors_of(fixed, tmp_path))
    assert {"leaky.preactivation_grads", "norm.normalized", "leaky.branch"} <= found


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

"""Golden vectors of a step with accumulators.

The manifest tells them, and what differs from them is explained.
"""

import dataclasses

import numpy as np
import pytest
from oracle import accumulators as oracle
from support.golden_steps import NETWORKS, golden_step

from fxsim.accumulator import Accumulator, parse_accumulators
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import Manifest

MODELS = {
    "sequential": ["11 bits", "weight_grad=9 bits"],
    "tree": ["11 bits, tree"],
    "rounded": ["9 bits, tiles of 4, nearest_even 3", "input_grad=9 bits, wrap, floor 2"],
    "coarse step": [
        "forward=9 bits, saturate at the end, zero to 2^-7",
        "weight_grad=8 bits, tree, saturate_zero, jam 4",
    ],
    "lanes": ["10 bits, 3 lanes, channel last", "weight_grad=9 bits, 2 lanes"],
    "bias first": ["forward=10 bits, bias first, 2 lanes", "input_grad=9 bits, channel last"],
}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """golden_step(...) with accumulators as vectors, each made once."""
    made = {}

    def get(name, texts):
        key = name, *texts
        if key not in made:
            folder = tmp_path_factory.mktemp("vectors")
            write_vectors(
                golden_step(name, accumulator=parse_accumulators(texts)), folder, ("npy",)
            )
            made[key] = Vectors(folder)
        return made[key]

    return get


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_follows_from_the_others_by_the_manifest(vectors, network, name):
    made = vectors(network, MODELS[name])
    source = Source(made)
    computed = 0
    for entry in made.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = made.codes(entry.name)
        if recipe:
            computed += 1
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    assert computed > 20


def test_the_manifest_names_the_accumulator(vectors):
    made = vectors("max pool", MODELS["rounded"])
    accumulator = made.manifest.entry("c1.preactivations").accumulator
    assert accumulator.overflow == "model"
    assert accumulator.model == Accumulator(
        9, order="tiles", tile=4, rounding="nearest_even", drop=3
    )
    assert made.manifest.entry("c1.activation_grads").accumulator.model == Accumulator(
        9, "wrap", drop=2
    )
    assert made.manifest.entry("c1.bias_grads").accumulator.model is None
    assert Manifest.load(made.folder) == made.manifest
    text = (made.folder / "manifest.json").read_text()
    assert '"text": "9 bits, saturate each addition, tiles of 4, nearest_even 3"' in text


def planted(made, turned=False, **changes):
    """Pre-activations of c1 in the manifest's accumulator with changes, by the twin.

    turned: terms in descending order, as channels, rows and columns of pictures and kernels turned
    round bring them."""
    codes = {
        tensor: made.codes(f"c1.{tensor}").astype(int)
        for tensor in ("activations", "weights", "bias")
    }
    if turned:
        codes["activations"] = codes["activations"][:, ::-1, ::-1, ::-1]
        codes["weights"] = codes["weights"][::-1, ::-1, ::-1]
    entry = made.manifest.entry("c1.preactivations")
    model = dataclasses.replace(entry.accumulator.model, **changes)
    a, w, b, z = (
        made.manifest.entry(f"c1.{tensor}").format.step_exp
        for tensor in ("activations", "weights", "bias", "preactivations")
    )
    x, kernel, bias = (array.tolist() for array in codes.values())
    sums, _ = oracle.forward(
        x, kernel, 1, 1, dataclasses.asdict(model), bias, (a + w + model.drop - z, b - z)
    )
    return entry, np.array(sums)[:, ::-1, ::-1] if turned else np.array(sums), model


def test_the_twin_gives_the_vectors(vectors):
    made = vectors("max pool", MODELS["tree"])
    entry, sums, _ = planted(made)
    assert np.array_equal(sums, made.codes(entry.name))


@pytest.mark.parametrize(
    "changes",
    [
        {"order": "sequential"},
        {"order": "tiles", "tile": 4},
        {"overflow": "wrap"},
        {"overflow": "saturate_symmetric"},
        {"when": "end"},
        {"bits": 9},
        {"rounding": "jam"},
        {"drop": 1},
    ],
)
def test_another_accumulator_is_found_and_explained(vectors, changes):
    made = vectors("max pool", MODELS["tree"])
    entry, sums, model = planted(made, **changes)
    assert (
        f"accumulator of {model} instead of {entry.accumulator.model}"
        in explain(made, entry, sums).changes
    )


@pytest.mark.parametrize("own", ["sequential", "lanes", "bias first"])
@pytest.mark.parametrize(
    "changes",
    [{"bias": "after"}, {"bias": "first"}, {"lanes": 1}, {"lanes": 4}]
    + [{"axes": axes} for axes in ("channel_first", "channel_last")],
)
def test_another_place_of_the_bias_lanes_or_axes_are_explained(vectors, own, changes):
    made = vectors("max pool", MODELS[own])
    entry, sums, model = planted(made, **changes)
    stated = entry.accumulator.model
    found = explain(made, entry, sums)
    if model == stated:
        assert np.array_equal(sums, made.codes(entry.name))
    else:
        assert f"accumulator of {model} instead of {stated}" in found.changes


def test_the_manifest_names_the_order_of_terms_and_bias(vectors):
    for own, forward, back in (
        ("sequential", "{input}, kernel row, kernel column, then the bias", "{output}, {kernel}"),
        ("lanes", "{kernel}, {input}, then the bias", "{kernel}, {output}"),
        ("bias first", "the bias, then {input}, {kernel}", "{kernel}, {output}"),
    ):
        names = {
            "input": "input channel",
            "output": "output channel",
            "kernel": "kernel row, kernel column",
        }
        entry = vectors("max pool", MODELS[own]).manifest.entry
        assert entry("c1.preactivations").accumulator.order == forward.format(**names)
        assert entry("c1.activation_grads").accumulator.order == back.format(**names)
        assert entry("c1.weight_grads").accumulator.order == "sample, row, column"


def test_an_exact_accumulator_is_told_from_the_manifests_own(vectors):
    made = vectors("max pool", MODELS["tree"])
    entry, sums, _ = planted(made, bits=40)
    (change,) = explain(made, entry, sums).changes
    assert change.startswith("accumulator of ")
    assert "sequential" not in change


def test_another_order_of_terms_is_explained(vectors):
    made = vectors("max pool", MODELS["sequential"])
    entry, sums, _ = planted(made, turned=True)
    assert explain(made, entry, sums).changes == ("terms added in the order: descending",)

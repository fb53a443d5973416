"""Vectors of inference: those of FixedNetwork and of the twin, exported, checked, explained."""

import dataclasses

import numpy as np
import pytest
from oracle import graph as oracle
from support.explained import changes, every_recipe
from support.graph_cases import assignment, describe, real_parameters, start, tuple_of

from fxsim import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    FixedNetwork,
    InputError,
    Lfsr,
    Network,
    Pool,
    presets,
)
from fxsim.factors import LearningRate
from fxsim.golden.capture import capture, capture_inference
from fxsim.golden.check import check
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import RANDOM_WORDS, Manifest
from fxsim.identity import sealed

TABLE = Activation("table", function="tanh", index_bits=4, range_exp=2, interpolation="linear")
LAYERS = (
    Conv(name="stem", filters=3, padding=1, batch_norm=True),
    Conv(name="same", filters=3, stride=2, padding="same", batch_norm=True, dropout=0.25),
    Conv(name="skip", filters=3, kernel=1, activation="none"),
    Conv(
        name="c",
        filters=3,
        padding=1,
        batch_norm=True,
        add="skip",
        input="same",
        pool=Pool("max", 2),
    ),
    Dense(name="d", units=4, activation=TABLE),
    Dense(name="scores", units=3, activation="none"),
)
NETWORK = Network("mine", (6, 6, 2), LAYERS)
IMAGES = 4


def fixed_network(network=NETWORK, **options):
    return FixedNetwork(network, assignment(network, **options), real_parameters(network, 0))


def images_of(fixed):
    shape = (IMAGES, *fixed.network.input_shape)
    return np.random.default_rng(7).integers(0, fixed.input_format.max_code + 1, shape)


def golden_of(fixed, **options):
    return capture_inference(fixed, images_of(fixed), **options)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden_of(fixed_network()), folder)
    return Vectors(folder)


STOCHASTIC = dict.fromkeys(("activations", "normalized", "preactivations", "branch"), "stochastic")


@pytest.mark.parametrize("rounding", [{}, {"activations": "floor", "branch": "jam"}, STOCHASTIC])
def test_every_tensor_is_that_of_the_twin(rounding):
    fixed = fixed_network(rounding=rounding)
    formats, state = start(fixed, real_parameters(NETWORK, 0))
    modes = {("rounding", tensor): mode for tensor, mode in rounding.items()}
    run = oracle.Inference(modes, 0, 0, IMAGES)
    logits_format = tuple_of(fixed.assignment.logits)
    codes = images_of(fixed).tolist()
    oracle.forward(describe(NETWORK), formats, logits_format, state, codes, run)
    golden = golden_of(fixed)
    others = {f"d.table_{kind}" for kind in ("values", "indices")}
    others |= {name for name in golden.codes if name.endswith(RANDOM_WORDS)}
    wanted = {f"{layer}.{tensor}": codes for (tensor, layer), codes in run.tensors.items()}
    assert set(golden.codes) - others == set(wanted)
    for name, codes in wanted.items():
        assert golden.codes[name].tolist() == np.array(codes).tolist(), name


def test_nothing_of_the_network_moves_and_the_logits_are_its_own():
    fixed = fixed_network()
    before = fixed.fingerprint()
    golden = golden_of(fixed)
    logits = golden.codes["scores.logits"].reshape(IMAGES, -1)
    assert np.array_equal(logits, fixed.logits(images_of(fixed)))
    assert golden.manifest.fingerprints == {"before": before, "after": before}
    assert fixed.fingerprint() == before
    counts = fixed.infer(images_of(fixed)).counts
    assert golden.manifest.entry("skip.activations").counts == counts["skip", "activations"]
    assert golden.manifest.entry("skip.activations").counts.elements == 4 * 3 * 3 * 3


def test_a_folded_network_has_the_logits_of_its_vectors(tmp_path):
    formats = presets.uniform("Q6.10").assignment(NETWORK)
    folded = FixedNetwork(NETWORK, formats, real_parameters(NETWORK, 0)).folded()
    golden = golden_of(folded)
    logits = golden.codes["scores.logits"].reshape(IMAGES, -1)
    assert np.array_equal(logits, folded.logits(images_of(folded)))
    assert "stem.bias" in golden.codes and "stem.gamma" not in golden.codes
    write_vectors(golden, tmp_path)
    assert {"stem.preactivations", "same.activations"} <= every_recipe(Vectors(tmp_path))


def test_inputs_are_what_a_device_is_given(vectors):
    roles = {name: entry.role for name, entry in vectors.manifest.entries.items()}
    assert roles["stem.running_mean"] == roles["stem.activations"] == roles["c.gamma"] == "input"
    assert roles["stem.mean"] == roles["stem.inverse_roots"] == roles["skip.branch"] == "result"
    assert not [name for name in roles if "mask" in name or "slopes" in name or "labels" in name]


def test_the_manifest_says_what_it_holds(vectors):
    manifest = vectors.manifest
    data = manifest.to_dict()
    assert (data["vectors"], data["learning_rate"], data["batch"]) == ("inference", None, IMAGES)
    assert Manifest.from_dict(data) == manifest
    assert manifest.subject == "inference of 4 images"
    assert check(vectors.folder, vectors.folder).text().endswith(" of inference of 4 images")


def step_manifest():
    fixed = fixed_network()
    labels = np.zeros(IMAGES, np.int64)
    return capture(fixed, images_of(fixed), labels, LearningRate.of(0.5), 0).manifest


def test_a_manifest_of_before_there_were_two_kinds_is_of_a_training_step():
    manifest = step_manifest()
    earlier = manifest.to_dict()
    assert earlier.pop("vectors") == "training step"
    assert Manifest.from_dict(sealed(earlier)) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": "inference"}, "vectors 'inference' has no learning_rate"),
        ({"learning_rate": None}, "vectors 'training step' needs a learning_rate"),
        ({"vectors": "backward"}, "vectors 'backward'"),
    ],
)
def test_a_kind_and_its_learning_rate_belong_together(change, message):
    with pytest.raises(InputError, match=message):
        Manifest.from_dict(sealed({**step_manifest().to_dict(), **change}))


def test_every_tensor_follows_from_the_others(vectors, tmp_path):
    found = every_recipe(vectors)
    results = {name for name, own in vectors.manifest.entries.items() if own.role == "result"}
    assert found == results
    words = {"activations": Lfsr(12, (12, 6, 4, 1), 8, 5)}
    own = dataclasses.replace(assignment(NETWORK, rounding=STOCHASTIC), words=words)
    fixed = FixedNetwork(NETWORK, own, real_parameters(NETWORK, 0))
    write_vectors(golden_of(fixed), tmp_path)
    assert every_recipe(Vectors(tmp_path)) == results


def explained(vectors, device, folder):
    """The first mismatch of what another network infers, and the changes that explain it."""
    write_vectors(golden_of(device), folder)
    report = check(vectors.folder, folder)
    assert f"MISMATCH at {vectors.manifest.subject}" in report.text()
    return report.mismatches[0].entry.name, set(report.explanation.changes)


def with_layer(name, **changed):
    layers = tuple(
        dataclasses.replace(layer, **changed) if layer.name == name else layer for layer in LAYERS
    )
    return dataclasses.replace(NETWORK, layers=layers)


def test_another_rounding_of_activations(vectors, tmp_path):
    device = fixed_network(rounding={"activations": "floor"})
    name, found = explained(vectors, device, tmp_path)
    assert name == "same.activations"
    assert "rounding floor instead of nearest_away" in found


@pytest.mark.parametrize("epsilon", [1e-2, 1e-5])
def test_another_epsilon(vectors, epsilon):
    device = golden_of(fixed_network(with_layer("same", batch_norm=BatchNorm(epsilon=epsilon))))
    name = "same.inverse_roots"
    step_exp = vectors.manifest.entry(name).format.step_exp
    finer = device.manifest.entry(name).format.step_exp - step_exp  # its smallest root is another
    planted = (device.codes[name] * 2.0**finer).astype(np.int64)
    assert changes(vectors, name, planted) == {f"epsilon {epsilon:g} instead of 0.000976562"}


def test_padding_on_the_other_side(vectors, tmp_path):
    device = fixed_network(with_layer("same", padding=(1, 0, 1, 0)))
    assert NETWORK.shape("same").window.padding == (0, 1, 0, 1)
    name, found = explained(vectors, device, tmp_path)
    assert name == "same.preactivations"
    assert any("padding" in text for text in found)


def codes_of(vectors, layer, tensor):
    entry = vectors.manifest.entry(f"{layer}.{tensor}")
    return vectors.codes(entry.name).astype(object), entry.format.step_exp


def test_no_epsilon_and_a_root_that_is_cut_off(vectors):
    codes, step_exp = codes_of(vectors, "stem", "variance")
    exact = (codes * 2.0**step_exp).astype(np.float64)
    roots, root_exp = codes_of(vectors, "stem", "inverse_roots")

    def mantissas(values, rounding):
        """Of 16 bits, in steps of the roots."""
        exponents = np.floor(np.log2(values)) - 15
        return rounding(values * 2.0**-exponents) * 2.0 ** (exponents - root_exp)

    right = mantissas(1 / np.sqrt(exact + 2.0**-10), np.rint)
    assert np.array_equal(right, roots.astype(np.float64))
    planted = mantissas(1 / np.sqrt(exact), np.rint).astype(np.int64)
    assert changes(vectors, "stem.inverse_roots", planted) >= {"epsilon left out"}
    planted = mantissas(1 / np.sqrt(exact + 2.0**-10), np.floor).astype(np.int64)
    text = "inverse root cut off instead of rounded"
    assert changes(vectors, "stem.inverse_roots", planted) == {text}


def test_statistics_of_the_images_in_place_of_the_running_ones(vectors):
    y, y_exp = codes_of(vectors, "c", "quantized_preactivations")
    rows = y.reshape(-1, 3) * 2**y_exp
    text = "statistic of these images instead of the running one"
    for tensor, values in (("mean", rows.mean(axis=0)), ("variance", rows.var(axis=0))):
        _, step_exp = codes_of(vectors, "c", tensor)
        planted = np.rint(values.astype(np.float64) * 2.0**-step_exp).astype(np.int64)
        assert text in changes(vectors, f"c.{tensor}", planted)


def test_a_running_mean_that_is_cut_off(tmp_path):
    fixed = fixed_network()
    for number in range(2):
        labels = np.zeros(IMAGES, np.int64)
        fixed.train_step(images_of(fixed), labels, LearningRate.of(0.5), number)
    write_vectors(golden_of(fixed), tmp_path)
    moved = Vectors(tmp_path)
    assert set(every_recipe(moved)) >= {"c.mean", "stem.variance"}
    running, running_exp = codes_of(moved, "c", "running_mean")
    _, step_exp = codes_of(moved, "c", "mean")
    planted = np.array(running >> step_exp - running_exp, np.int64)
    assert "rounding floor instead of nearest_away" in changes(moved, "c.mean", planted)


def test_chosen_layers_come_with_input_and_output():
    names = set(golden_of(fixed_network(), layers=["d"]).codes)
    assert {"d.activations", "d.weights", "d.table_values", "scores.activations"} <= names
    assert not [name for name in names if name.startswith(("stem.", "c.", "same."))]

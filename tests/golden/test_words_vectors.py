"""Golden vectors of stochastic roundings by registers, few bits and dropped bits: what the manifest
says, and what explains a device whose registers differ.
"""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from oracle import lfsr as oracle
from oracle import rounding as rounding_oracle
from support.golden_steps import NETWORKS, golden_step

from fxsim import (
    Activation,
    Conv,
    Dense,
    DroppedBits,
    FixedNetwork,
    Format,
    InputError,
    LearningRate,
    Lfsr,
    Network,
    Philox,
    Quantizer,
    Tensor,
    WordMemory,
    testing,
)
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import RANDOM_WORDS, Manifest
from fxsim.memfile import from_hex
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment

STEP = 3
"""Of golden_step."""
UPDATES = Lfsr(16, (16, 15, 13, 4), 6, (0xACE1, 0x1234, 0xBEEF, 7), lanes=4, clocks=6)
WORDS = {
    "activations": Lfsr(12, (12, 6, 4, 1), 8, 5, "galois", lanes=3, run=2, period=100, start=3),
    "activation_grads": DroppedBits(),
    "weight_grads": Philox(4),
    "bias_grads": WordMemory((0, 3, 1), 2),
    "accumulators": UPDATES,
    "bias_accumulators": DroppedBits(),
    "logits": Lfsr(8, (8, 6, 5, 4), 8, 9, shift="right"),
}
ROUNDING = dict.fromkeys(WORDS, "stochastic")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """golden_step(...) with these words as vectors, each made once."""
    made = {}

    def get(name="max pool"):
        if name not in made:
            folder = tmp_path_factory.mktemp("vectors")
            golden = golden_step(name, rounding=ROUNDING, words=WORDS)
            write_vectors(golden, folder, ("npy", "mem"))
            made[name] = Vectors(folder)
        return made[name]

    return get


@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_follows_from_the_others_by_the_manifest(vectors, network):
    made = vectors(network)
    source = Source(made)
    computed = 0
    for entry in made.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = made.codes(entry.name)
        if recipe:
            computed += 1
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    assert computed > 20


def test_the_manifest_tells_where_words_come_from(vectors):
    manifest = vectors().manifest
    assert Manifest.load(vectors().folder) == manifest
    own = manifest.words["c1.accumulators"]
    assert own.source == UPDATES
    assert own.states == UPDATES.states(STEP, 3 * 3 * 2 * 3)
    assert manifest.words["c1.bias_accumulators"].source == DroppedBits()
    assert manifest.words["d.weight_grads"].source == Philox(4)
    assert manifest.words["d.bias_grads"].source == WordMemory((0, 3, 1), 2)
    assert "c1.bias_accumulators_random_words" not in manifest.entries
    text = (vectors().folder / "manifest.json").read_text()
    assert '"taps": [' in text and '"kind": "dropped_bits"' in text


def test_hardware_gets_the_words_in_a_memory_file(vectors):
    made = vectors()
    name = f"c1.accumulators{RANDOM_WORDS}"
    entry = made.manifest.entry(name)
    data = (made.folder / entry.files["mem"].name).read_bytes()
    words = from_hex(data, entry.format, 54, name).tolist()
    assert words == oracle.words(dataclasses.asdict(UPDATES), STEP, 0, 54)


def test_a_step_of_default_words_has_no_words_in_its_manifest():
    golden = golden_step(rounding={"weight_grads": "stochastic"})
    assert "words" not in golden.manifest.to_dict()


def updates(made, model, layer="c1", skipped=None):
    """u of a device with other registers, from the twin; `skipped`: a lane one word ahead."""
    manifest = made.manifest
    grads = made.codes(f"{layer}.weight_grads").reshape(-1).tolist()
    words = oracle.words(model, STEP, 0, len(grads))
    if skipped is not None:
        later = oracle.words(
            {**model, "start": model["start"] + model["clocks"]}, STEP, 0, len(grads)
        )
        lanes = [place // model["run"] % model["lanes"] for place in range(len(grads))]
        words = [late if lane == skipped else word for word, late, lane in zip(words, later, lanes)]
    unit = Fraction(2) ** (
        manifest.entry(f"{layer}.weight_grads").format.step_exp
        - manifest.entry(f"{layer}.updates").format.step_exp
    )
    gamma = manifest.learning_rate.mantissa * Fraction(2) ** manifest.learning_rate.exponent
    return [
        rounding_oracle.round_exact(gamma * grad * unit, "stochastic", word)
        for grad, word in zip(grads, words)
    ]


def changes(made, name, dumped):
    entry = made.manifest.entry(name)
    dumped = np.array(dumped).reshape(entry.shape)
    assert not np.array_equal(dumped, made.codes(name)), "nothing was planted"
    return explain(made, entry, dumped).changes


def test_the_twin_gives_the_updates(vectors):
    made = vectors()
    wanted = updates(made, dataclasses.asdict(UPDATES))
    assert made.codes("c1.updates").reshape(-1).tolist() == wanted


PLANTED = {
    "LFSR: tap 14 instead of 15": {"taps": (16, 14, 13, 4)},
    "LFSR: tap 4 missing": {"taps": (16, 15, 13)},
    "LFSR: tap 2 too many": {"taps": (16, 15, 13, 4, 2)},
    "LFSR: form galois instead of fibonacci": {"form": "galois"},
    "LFSR: shift right instead of left": {"shift": "right"},
    "LFSR: clocked 1 clock too early": {"start": 1},
    "LFSR: clocked 6 clocks too early": {"start": 6},
    "LFSR: started anew at every step": {"period": 0},
    "LFSR: 1 instead of 6 clocks per word": {"clocks": 1},
    "LFSR: runs of 4 instead of 1 elements in a lane": {"run": 4},
    "LFSR: lanes in the opposite order": {"seed": UPDATES.seed[::-1]},
    "LFSR: words of 5 instead of 6 bits": {"bits": 5},
    "LFSR: words from bit 10 instead of 0 on": {"low_bit": 10},
}


@pytest.mark.parametrize("cause", PLANTED)
def test_other_registers_are_named(vectors, cause):
    planted = updates(vectors(), dataclasses.asdict(UPDATES) | PLANTED[cause])
    assert cause in changes(vectors(), "c1.updates", planted)


def test_a_lane_that_advanced_too_early_is_named(vectors):
    planted = updates(vectors(), dataclasses.asdict(UPDATES), skipped=2)
    cause = "LFSR: lane 2 advanced a word too early"
    assert cause in changes(vectors(), "c1.updates", planted)


def test_registers_behind_an_activation_are_named(vectors):
    made = vectors()
    own = WORDS["activations"]
    source = Source(made)
    recipe = recipe_for(source, made.manifest.entry("c2.activations"))
    wrong = dataclasses.replace(own, taps=(12, 6, 4, 2)).at(STEP)
    rows = np.arange(int(np.prod(made.codes("c2.activations").shape[:3])))
    planted = recipe.compute(dataclasses.replace(recipe.default, words=wrong), rows)
    assert "LFSR: tap 2 instead of 1" in changes(made, "c2.activations", planted)


@pytest.mark.parametrize("tensor", [*WORDS, "updates", "bias_updates", "updated_weights"])
def test_a_wrong_bit_is_searched_whatever_the_source_of_words(vectors, tensor):
    made = vectors()
    name = f"d.{tensor}"
    assert changes(made, name, made.codes(name) ^ 1) == ()


LEAKY = Activation("leaky_relu", slope_exp=-2)
TABLE = Activation("table", function="tanh", index_bits=5, range_exp=1, derivative="table")


def step_behind(registers, activation, batch_norm):
    """A step where the gradient behind an activation function rounds by these registers."""
    own = {"activation": activation, "batch_norm": batch_norm}
    layers = (
        Conv(name="hidden", filters=3, padding=1, **own),
        Dense(name="scores", units=3, relu=False),
    )
    network = Network("functions", (4, 4, 2), layers)
    weights = Format(8, 0)
    scores = LayerPrecision(
        weights=weights,
        activations=Format(9, 2),
        activation_grads=Format(10, -1),
        weight_grads=Format(12, 0),
        accumulators=accumulator_format(weights, -16),
    )
    hidden = dataclasses.replace(scores, relu_input_grads=Format(6, -2))
    assigned = PrecisionAssignment(
        "functions",
        {"hidden": hidden, "scores": scores},
        rounding={"relu_input_grads": "stochastic"},
        words={"relu_input_grads": registers},
    )
    fixed = FixedNetwork(network, assigned, initial_parameters(network, 1))
    random = np.random.default_rng(4)
    images = random.integers(0, fixed.input_format.max_code + 1, (4, 4, 4, 2))
    return capture(fixed, images, random.integers(0, 3, 4), LearningRate.of(0.25), STEP)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", [LEAKY, TABLE], ids=["leaky", "table"])
def test_registers_behind_the_gradient_of_an_activation_are_named(tmp_path, activation, batch_norm):
    own = WORDS["activations"]
    wrong = dataclasses.replace(own, taps=(12, 6, 4))
    write_vectors(step_behind(own, activation, batch_norm), tmp_path, ("npy",))
    name = f"hidden.{'relu_input' if batch_norm else 'preactivation'}_grads"
    device = step_behind(wrong, activation, batch_norm).codes[name]
    assert "LFSR: tap 1 missing" in changes(Vectors(tmp_path), name, device)


def test_operations_on_their_own_are_explained():
    own = Lfsr(16, (16, 15, 13, 4), 8, (1, 2), lanes=2)
    x = Tensor(np.arange(-100, 100).reshape(10, 20), Format(8, 7))
    exact = x + x
    right = Quantizer(Format(5, 8), "stochastic", words=own.at(2))
    wrong = Quantizer(
        Format(5, 8), "stochastic", words=dataclasses.replace(own, taps=(16, 14, 13, 4)).at(2)
    )
    told = str(testing.explain(exact.to(wrong).codes, exact, right))
    assert "LFSR: tap 14 instead of 15" in told
    dropped = Quantizer(Format(5, 8), "stochastic", words=DroppedBits())
    told = str(testing.explain(exact.to(Format(5, 8)).codes, exact, dropped))
    assert "rounding nearest_away instead of stochastic" in told


def test_words_of_a_manifest_are_checked(vectors):
    row = vectors().manifest.words["c1.accumulators"].to_dict()
    for changed, match in (
        ({"seed": [0, 1, 2, 3]}, "period 0"),
        ({"kind": "lsfr"}, "kind"),
        ({"states": "x"}, "states"),
        ({"tap": 1}, "tap"),
    ):
        with pytest.raises(InputError, match=match):
            type(vectors().manifest.words["c1.accumulators"]).from_dict(row | changed)

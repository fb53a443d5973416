"""Presets: one format for every tensor."""

import numpy as np
import pytest
from support.bits import assert_same_codes

import fxsim
from fxsim import Activation, Conv, Dense, FixedNetwork, Format, InputError, LearningRate, Network
from fxsim.accumulator import KINDS, Accumulator
from fxsim.cli import parser as cli
from fxsim.cli.commands import read_results
from fxsim.formats import OVERFLOWS, STOCHASTIC
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import MODES
from fxsim.nn.networks import BUILDERS, build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Pool
from fxsim.presets import Uniform, uniform

LEAKY = Activation("leaky_relu", slope_exp=-2)
PLAIN = Network(
    "plain",
    (4, 4, 1),
    (
        Conv(name="c", filters=3, activation="relu", pool=Pool("max", 2)),
        Dense(name="d", units=4, activation=LEAKY),
        Dense(name="scores", units=3, activation="none"),
    ),
)


def test_q8_8_has_16_bits_unless_the_text_says_otherwise():
    assert uniform("Q8.8").format == Format(16, 7)
    assert uniform("Q8.8 (ti)").format == Format(17, 8)
    assert uniform(Format(9, 2)).format == Format(9, 2)
    assert Uniform.parse("ap_fixed<16,8>, floor").format == Format(16, 7)


@pytest.mark.parametrize("text, bits", [("Q15.16", 31), ("Q16.16", 30), ("Q1.31", 30)])
def test_parameter_and_accumulator_have_62_bits_at_most(text, bits):
    own = uniform(text).assignment(PLAIN).layers["c"]
    assert own.accumulators == own.bias_accumulators
    assert own.accumulators == Format(bits, own.weights.step_exp - 1)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_tensor_has_the_format(name):
    network = build(name)
    preset = uniform("Q6.10")
    assignment = preset.assignment(network)
    assignment.check_network(network)
    for own in assignment.layers.values():
        for tensor, format in own.given().items():
            below = tensor.endswith("accumulators")
            assert format == (Format(16, -11) if below else preset.format), tensor
    assert not assignment.rounding and not assignment.overflow and not assignment.accumulator


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ["floor", "nearest_up", "jam", "stochastic"])
def test_every_tensor_that_takes_a_mode_has_it(rounding, overflow):
    assignment = uniform("Q8.8", rounding=rounding, overflow=overflow).assignment(PLAIN)
    assignment.check_network(PLAIN)
    for tensor in ("activations", "activation_grads", "weight_grads", "relu_input_grads", "logits"):
        assert assignment.rounding_of(tensor) == rounding
        assert assignment.overflow_of(tensor) == overflow
    assert assignment.rounding_of("accumulators") == rounding
    for tensor in ("weights", "bias"):
        assert assignment.rounding_of(tensor) in MODES[tensor].roundings
    fixed = FixedNetwork(PLAIN, assignment, initial_parameters(PLAIN, 0))
    fixed.train_step(np.full((2, 4, 4, 1), 100), [0, 1], LearningRate.of(0.1), 0)


def test_every_operation_is_an_accumulator_of_the_format():
    preset = fxsim.presets.uniform("Q4.4", rounding="nearest_up", every_operation=True)
    wanted = Accumulator(8, when="each operation", rounding="nearest_up", step_exp=-4)
    assert preset.assignment(PLAIN).accumulator == dict.fromkeys(KINDS, wanted)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_every_operation_of_the_update_is_rounded(overflow):
    preset = uniform("Q4.4", rounding="floor", overflow=overflow, every_operation=True)
    network = PLAIN.training_only("c.bias", "scores")
    assignment = preset.assignment(network)
    assignment.check_network(network)
    updates = {
        name: (own.accumulators, own.bias_accumulators, own.updates, own.bias_updates)
        for name, own in assignment.layers.items()
    }
    q4_4 = Format(8, 3)
    assert updates["c"] == (None, None, None, q4_4)
    assert updates["d"] == (None, None, None, None)
    assert updates["scores"] == (None, None, q4_4, q4_4)
    for tensor in ("updates", "bias_updates"):
        assert assignment.rounding_of(tensor) == "floor"
        assert assignment.overflow_of(tensor) == overflow
    assert assignment.overflow_of("accumulators") == overflow
    assert assignment.rounding_of("accumulators") == "nearest_away", "the difference is exact"


def by_hand(x, w, b, low=-128, high=127):
    """A dense layer in Q4.4, half up and saturated after every product and every sum."""

    def held(value):
        return min(max(value, low), high)

    out = []
    for sample in x.reshape(len(x), -1).tolist():
        row = []
        for column, bias in zip(w.T.tolist(), b.tolist()):
            total = 0
            for left, right in zip(sample, column):
                total = held(total + held((left * right + 8) >> 4))
            row.append(held(total + bias))
        out.append(row)
    return np.array(out)


def test_products_and_sums_saturate_one_by_one():
    network = Network("one", (1, 1, 9), (Dense(name="scores", units=4, activation="none"),))
    preset = uniform("Q4.4", rounding="nearest_up", every_operation=True)
    random = np.random.default_rng(1)
    real = {"scores": {"weight": random.uniform(-8, 8, (9, 4)), "bias": random.uniform(-8, 8, 4)}}
    fixed = FixedNetwork(network, preset.assignment(network), real)
    images = random.integers(-128, 128, (40, 1, 1, 9))
    codes = [fixed.parameters["scores"][kind].codes.astype(int) for kind in ("weight", "bias")]
    assert_same_codes(fixed.logits(images), by_hand(images, *codes))
    once = FixedNetwork(network, uniform("Q4.4", rounding="nearest_up").assignment(network), real)
    assert not np.array_equal(fixed.logits(images), once.logits(images))


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Q8.8", uniform("Q8.8")),
        ("(12, 4), wrap", uniform("(12, 4)", overflow="wrap")),
        ("Q8.8, every operation, floor", uniform("Q8.8", rounding="floor", every_operation=True)),
    ],
)
def test_texts(text, wanted):
    assert Uniform.parse(text) == wanted
    assert Uniform.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text, why",
    [
        ("Q8", "no known notation"),
        ("Q8.8, flor", "'flor' is unknown; write it like"),
        ("Q8.8, floor, ceil", "says twice"),
        ("UQ8.8", "must be signed"),
        ("Q8.8, stochastic, every operation", "has no random words"),
    ],
)
def test_texts_that_are_refused(text, why):
    with pytest.raises(InputError, match=why):
        Uniform.parse(text)


def scores(**options):
    return Dense(name="scores", units=3, activation="none", **options)


@pytest.mark.parametrize(
    "layers, options, why",
    [
        ((Dense(name="a", units=4, batch_norm=True), scores()), {"rounding": "floor"}, "mean and"),
        ((Dense(name="a", units=4, batch_norm=True), scores()), {}, "has batch norm, a sum"),
        (
            (Conv(name="a", filters=2, pool=Pool("average", 2)), scores()),
            {},
            "has average pooling, a sum",
        ),
        (
            (Conv(name="a", filters=2, kernel=1, pool=Pool("max", 2, 1)), scores()),
            {},
            "windows may overlap",
        ),
        (
            (Dense(name="a", units=4), Dense(name="b", units=4, add="a"), scores()),
            {},
            "'b' has a residual addition",
        ),
        (
            (
                Dense(name="a", units=4),
                Dense(name="b", units=4),
                Dense(name="c", units=4, input="a", add="b"),
                scores(),
            ),
            {},
            "'a' has several readers",
        ),
    ],
)
def test_networks_whose_operations_are_rounded_once(layers, options, why):
    preset = uniform("Q8.8", every_operation=not options, **options)
    with pytest.raises(InputError, match=why):
        preset.assignment(Network("n", (4, 4, 1), layers))


def test_stochastic_modes_are_of_tensors_alone():
    for mode in STOCHASTIC:
        uniform("Q8.8", rounding=mode)
        with pytest.raises(InputError, match="leave every_operation out"):
            uniform("Q8.8", rounding=mode, every_operation=True)


FORMATS = "Q8.8, floor, wrap, every operation"


def test_training_and_vectors_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    short = ["--width", "0.25", "--images", "64", "--epochs", "1"]
    assert cli.main(["train", *short, "--out", out, "--formats", FORMATS]) == 0
    (row,) = read_results(tmp_path / "run")["designs"]
    assert row["design"] == f"FX {FORMATS}"
    assert row["sums"]["conv1"]["forward"]["accumulator"].startswith("16 bits, wrap each operation")
    assigned = PrecisionAssignment.from_dict(row["assignment"])
    assert assigned == Uniform.parse(FORMATS).assignment(build("digits-convnet", 0.25))
    vectors = ["vectors", "export", "--run", out, "--formats", FORMATS, "--batch", "2"]
    assert cli.main([*vectors, "--files", "npy", "--out", str(tmp_path / "vectors")]) == 0
    random_words = ["lfsr of 16, taps 16 15 13 4, 6 bits"] * 2
    options = [f"{name}={words}" for name, words in zip(("updates", "bias_updates"), random_words)]
    stochastic = [word for option in options for word in ("--stochastic", option)]
    assert cli.main(["train", *short, "--out", out, "--formats", FORMATS, *stochastic]) == 0
    _, other = read_results(tmp_path / "run")["designs"]
    assert other["design"] == "; ".join([f"FX {FORMATS}", *options])
    assert other["assignment"]["words"]["updates"]["bits"] == 6
    assert other["fingerprint"] != row["fingerprint"]
    assert cli.main(["cost", "digits-convnet", "--formats", "Q8.8"]) == 0
    assert "design FX" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, why",
    [
        (["--assignment", "a.json"], "--formats and --assignment both give the formats"),
        (["--perturb", "-1"], "--perturb has no effect beside --formats"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, more, why):
    command = ["train", "--quick", "--out", str(tmp_path), "--formats", "Q8.8", *more]
    assert cli.main(command) == 2
    assert why in capsys.readouterr().err

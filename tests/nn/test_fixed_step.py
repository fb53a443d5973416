"""A whole training step in fixed point equals the twin, tensor for tensor."""

import copy
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import rounding as rounding_oracle
from oracle import step as oracle
from support.bits import assert_same_codes
from support.fixed_step_cases import (
    ASSIGNMENTS,
    NETWORKS,
    WIDE,
    assignment,
    check_steps,
    start,
)

from fxsim import ops
from fxsim.accumulator import Accumulator
from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.ops import products
from fxsim.ops.paths import available_paths
from fxsim.tensor import Tensor

ACCUMULATORS = {
    "sequential": ["13 bits"],
    "tree": ["13 bits, tree"],
    "tiles": ["13 bits, tiles of 4"],
    "wrap": ["12 bits, wrap"],
    "wrap in a tree": ["12 bits, wrap, tree"],
    "at the end": ["11 bits, saturate_zero at the end", "weight_grad=6 bits, saturate at the end"],
    "each kind its own": [
        "forward=11 bits, tiles of 3, nearest_even 2",
        "input_grad=10 bits, tree, saturate_symmetric, jam 1",
        "weight_grad=9 bits, wrap at the end, nearest_away 3",
    ],
    "one layer's step": [
        "c1.forward=9 bits, ceil to 2^-10",
        "c1.weight_grad=6 bits, saturate_zero, floor to 2^-12",
    ],
    "lanes, the channel last": [
        "11 bits, 3 lanes, channel last",
        "weight_grad=10 bits, 2 lanes, tree, saturate_zero",
    ],
    "ample": ["40 bits", "forward=30 bits, tree", "weight_grad=41 bits, wrap at the end"],
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ACCUMULATORS)
def test_two_steps_with_accumulators(network, name):
    """At steps of the bias both finer and coarser than the products'."""
    network = NETWORKS[network]
    for bias in (6, 16):
        check_steps(network, assignment(network, {"bias": bias}, accumulator=ACCUMULATORS[name]))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "text",
    [
        "9 bits, bias first",
        "9 bits, bias first, 2 lanes, tiles of 2, channel last, saturate_zero",
        "9 bits, bias first, wrap at the end",
        "30 bits, bias first",
    ],
)
def test_two_steps_that_start_from_the_bias(network, text):
    network = NETWORKS[network]
    check_steps(network, assignment(network, {"bias": 6}, accumulator=[f"forward={text}"]))


def test_a_first_bias_with_a_finer_step_is_refused_when_the_network_is_built():
    network = NETWORKS["max pool"]
    assigned = assignment(network, {"bias": 16}, accumulator=["24 bits, bias first"])
    with pytest.raises(InputError, match="bias 'first' needs a bias with at least"):
        FixedNetwork(network, assigned, initial_parameters(network, 0))


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_accumulators_overflow_unless_they_are_ample(name):
    network = NETWORKS["max pool"]
    assigned = assignment(network, {}, accumulator=ACCUMULATORS[name])
    real, _, _ = start(network, assigned, 0)
    fixed = FixedNetwork(network, assigned, real)
    images = np.random.default_rng(1).integers(0, 64, (8, 5, 5, 2))
    labels = np.arange(8) % 3
    result = fixed.train_step(images, labels, LearningRate.of(0.4), 0)
    kinds = {kind for layer, kind in result.overflows}
    met = {kind for (_, kind), own in result.overflows.items() if own.overflows}
    assert met == (set() if name == "ample" else kinds)
    sums = {key: own.sums for key, own in result.overflows.items()}
    assert sums.get(("c1", "forward"), 600) == 8 * 5 * 5 * 3
    assert sums.get(("c2", "input_grad"), 96) == 8 * 2 * 2 * 3
    assert sums.get(("c2", "weight_grad"), 48) == 2 * 2 * 3 * 4
    evaluated = fixed.evaluate(images, labels, batch=3).overflows
    assert {key: own.sums for key, own in evaluated.items()} == {
        key: own for key, own in sums.items() if key[1] == "forward"
    }


NORMS_AND_BRANCHES = Network(
    "norms",
    (5, 5, 2),
    (
        Conv(name="c1", filters=4, padding=1, batch_norm=True),
        Conv(name="c2", filters=4, padding=1, batch_norm=True, add="c1"),
        Conv(name="c3", filters=4, padding=1, add="c2"),
        Dense(name="d", units=3, relu=False),
    ),
)


@pytest.mark.parametrize("network", [NETWORKS["max pool"], NORMS_AND_BRANCHES])
def test_an_ample_accumulator_changes_nothing_and_a_narrow_one_does(network):
    images = np.random.default_rng(1).integers(0, 64, (8, 5, 5, 2))
    labels = np.arange(8) % 3
    fingerprints = []
    for texts in ([], ACCUMULATORS["ample"], ["12 bits, tree"]):
        fixed = FixedNetwork(
            network, assignment(network, {}, accumulator=texts), initial_parameters(network, 0)
        )
        met = fixed.train_step(images, labels, LearningRate.of(0.4), 0).overflows
        assert len(met) == (
            3 * len(network.layers) - 1 if texts else 0
        )  # no gradient at the pictures
        fingerprints.append(fixed.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize("kind", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("order", ["sequential", "tree", "tiles of 4"])
def test_the_exact_product_is_made_up_to_the_bound_and_not_beyond(monkeypatch, kind, order):
    """Codes at their extremes reach the bound.

    The width that holds it never accumulates, one bit less does, and overflows.
    """
    formats = {
        "activations": Format(6, 1, False),
        "weights": Format(8, 0),
        "grads": Format(8, -1),
    }
    left, right = {
        "forward": ("activations", "weights"),
        "input_grad": ("grads", "weights"),
        "weight_grad": ("activations", "grads"),
    }[kind]
    left = formats[left]
    right = formats[right]
    greatest = [max(format.max_code, format.min_code, key=abs) for format in (left, right)]
    bound = 4 * abs(greatest[0] * greatest[1])
    a = Tensor(np.full((4, 1, 1, 4), greatest[0]), left)
    shape = (4, 1, 1, 4) if kind == "weight_grad" else (1, 1, 4, 4)
    b = Tensor(np.full(shape, greatest[1]), right)
    made = []
    accumulate = products.accumulated_sums
    monkeypatch.setattr(
        products, "accumulated_sums", lambda *args: (made.append(1), accumulate(*args))[1]
    )
    for bits in (bound.bit_length(), bound.bit_length() + 1):
        made.clear()
        model = Accumulator.parse(f"{bits} bits, {order}")
        exact = {
            "forward": lambda model: ops.conv2d(
                a, b, Tensor(np.zeros(4, int), Format(2, 0)), accumulator=model
            ),
            "input_grad": lambda model: ops.conv2d_input_grad(a, b, a.shape, accumulator=model),
            "weight_grad": lambda model: ops.conv2d_weight_grad(
                a, b, (1, 1, 4, 4), accumulator=model
            ),
        }[kind](model)
        sums = exact.tensor().codes
        ample = bits == bound.bit_length() + 1
        assert bool(made) != ample
        assert exact.overflows.sums == sums.size
        assert bool(exact.overflows.overflows) != ample
        assert (abs(sums) == bound).all() == ample


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_two_steps_of_a_small_network(network, name):
    network = NETWORKS[network]
    dead = check_steps(network, assignment(network, **ASSIGNMENTS[name]))
    assert not dead or name in ("one bit where it can be", "other roundings", "other overflows")


@pytest.mark.parametrize("kernel", available_paths())
def test_every_path_gives_the_same_steps(kernel):
    network = NETWORKS["max pool"]
    check_steps(network, assignment(network, {}), kernel=kernel)


@pytest.mark.parametrize(
    "tensor, bits",
    [
        ("activations", 31),
        ("activations", 32),
        ("weights", 30),
        ("activation_grads", 30),
        ("activation_grads", 32),
        ("weight_grads", 32),
    ],
)
def test_a_tensor_as_wide_as_tensors_can_be(tensor, bits):
    network = NETWORKS["halves and no relu"]
    check_steps(network, assignment(network, {**WIDE, tensor: bits}))


@given(
    st.sampled_from(sorted(NETWORKS)),
    st.lists(st.integers(2, 14), min_size=6, max_size=6),
    st.integers(1, 4),
    st.floats(2.0**-8, 2.0),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_random_assignments(network, widths, batch, rate, seed):
    network = NETWORKS[network]
    names = ("weights", "activations", "activation_grads", "weight_grads", "below", "bias")
    check_steps(network, assignment(network, dict(zip(names, widths))), 1, batch, rate, seed)


def test_a_step_does_not_depend_on_the_probe_or_on_other_runs():
    network = NETWORKS["max pool"]
    assigned = assignment(network, **ASSIGNMENTS["stochastic"])
    real, _, _ = start(network, assigned, 5)
    images = np.random.default_rng(2).integers(0, 64, (3, 5, 5, 2))
    labels = np.array([0, 1, 2])
    one, other = (FixedNetwork(network, copy.deepcopy(assigned), real) for _ in range(2))
    one.train_step(images, labels, LearningRate.of(0.4), 3)
    other.logits(images)
    other.train_step(images, labels, LearningRate.of(0.4), 3, probe=lambda *_: None)
    assert one.fingerprint() == other.fingerprint()


PLANTED = {
    "another learning rate": {"rate": 0.401},
    "another seed of the words": {"seed_of_words": 1},
    "another step number": {"first": 1},
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_difference_is_caught(monkeypatch, bug):
    network = NETWORKS["max pool"]
    planted = PLANTED[bug]
    right = oracle.train_step

    def wrong(layers, formats, logits, state, images, labels, rate, modes, seed, number):
        value = LearningRate.of(planted.get("rate", 0.4))
        rate = value.mantissa * Fraction(2) ** value.exponent
        return right(
            layers,
            formats,
            logits,
            state,
            images,
            labels,
            rate,
            modes,
            planted.get("seed_of_words", seed),
            number + planted.get("first", 0),
        )

    monkeypatch.setattr(oracle, "train_step", wrong)
    with pytest.raises(AssertionError, match="differ, first at"):
        check_steps(network, assignment(network, **ASSIGNMENTS["stochastic"]))


def test_an_input_gradient_of_unflipped_weights_is_caught(monkeypatch):
    right = oracle.products.conv_input_grad
    monkeypatch.setattr(
        oracle.products,
        "conv_input_grad",
        lambda g, w, *rest, **more: right(g, [row[::-1] for row in w[::-1]], *rest, **more),
    )
    network = NETWORKS["max pool"]
    with pytest.raises(AssertionError, match="step 0, c1, activation_grads: .* differ, first at"):
        check_steps(network, assignment(network, {}))


@given(st.floats(2.0**-100, 2.0**100))
def test_a_learning_rate_is_the_nearest_with_a_16_bit_mantissa(value):
    rate = LearningRate.of(value)
    assert 2**15 <= rate.mantissa < 2**16
    unit = Fraction(2) ** rate.exponent
    assert abs(rate.mantissa * unit - Fraction(value)) <= unit / 2


@pytest.mark.parametrize(
    "value, wanted",
    [
        (1.0, (2**15, -15)),
        (0.5, (2**15, -16)),
        (2.0 - 2.0**-15, (2**16 - 1, -15)),
        (2.0 - 2.0**-16, (2**15, -14)),
        (1 + 2.0**-16, (2**15 + 1, -15)),
    ],
)
def test_a_learning_rate_at_a_tie_goes_up(value, wanted):
    rate = LearningRate.of(value)
    assert (rate.mantissa, rate.exponent) == wanted


@pytest.mark.parametrize(
    "fmt",
    [(8, 0, False), (8, 1, False), (4, 0, False), (1, 0, False), (12, 1, False), (7, -1, False)],
)
@pytest.mark.parametrize("pixel_max", [255, 16, 1])
def test_every_pixel_is_the_nearest_code(fmt, pixel_max):
    wanted = [
        rounding_oracle.quantize(Fraction(pixel, pixel_max), fmt)[0]
        for pixel in range(pixel_max + 1)
    ]
    assert_same_codes(pixel_codes(pixel_max, Format(*fmt)), wanted, range(pixel_max + 1))

"""Dropout in fixed point: what it drops, how it scales, and whole steps equal to the twin's."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import dropout as oracle
from oracle.rounding import DETERMINISTIC
from support.bits import assert_same_codes
from support.fixed_step_cases import ASSIGNMENTS, WIDE, assignment, check_steps, start

from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.kernels.elementwise import dropout as kernel
from fxsim.nn.fixed.grad_formats import unpooled_grad_format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.ops.dropout import scale

RATES = (0.5, 0.2, 0.75, 0.3, 0.01, 0.9, 0.9375, 1 / 3, 0.9999)


def network(rate, pool=None, relu=True, units=6):
    return Network(
        "dropped",
        (5, 6, 1),
        (
            Conv(name="c1", filters=3, padding=1, relu=relu, pool=pool, dropout=rate),
            Dense(name="d1", units=units, dropout=rate),
            Dense(name="d2", units=3, relu=False),
        ),
    )


@pytest.mark.parametrize("rate", RATES)
def test_every_7_bit_code_is_scaled_as_the_twin_says(rate):
    unsigned = Format(7, 1, False)
    codes = np.arange(128, dtype=np.int16).repeat(2)
    kept = np.tile([True, False], 128)
    factor = scale(rate)
    out = np.empty(256, np.int16)
    counts = kernel.scale_kept(codes, kept, factor.mantissa, -factor.exponent, (0, 127), out)
    wanted, clipped = oracle.forward(codes.tolist(), kept.tolist(), rate, (7, 1, False))
    assert_same_codes(out, wanted, codes, f"forward, rate {rate}")
    assert tuple(counts) == clipped and clipped[1] > 0 or rate == 0.01
    assert not out[1::2].any() and unsigned.max_code == 127


def layer_and_shape(rate):
    """A Dense layer with dropout, and its shape."""
    layer = Dense(name="d", units=3, dropout=rate)
    scores = Dense(name="scores", units=2, relu=False)
    return layer, Network("n", (1, 1, 1), (layer, scores)).shape("d")


@pytest.mark.parametrize("rate", RATES)
def test_no_gradient_is_clipped_and_each_is_scaled_as_the_twin_says(rate):
    for bits in (1, 2, 7):
        grads = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.int16)
        kept = np.ones(grads.shape, bool)
        format = Format(bits, -1)
        inner = unpooled_grad_format(*layer_and_shape(rate), format)
        out = np.empty(grads.shape, np.int64)
        clipped = kernel.scale_kept(
            grads,
            kept,
            scale(rate).mantissa,
            15,
            (inner.min_code, inner.max_code),
            out,
        )
        wanted, coarser = oracle.backward(grads.tolist(), kept.tolist(), rate)
        assert_same_codes(out, wanted, grads, f"backward, rate {rate}, {bits} bits")
        assert not clipped.any()
        assert inner.step_exp == format.step_exp + coarser


def made(net, widths=None):
    assigned = assignment(net, widths or {})
    return net, assigned, start(net, assigned, 0)[0]


@pytest.mark.parametrize(
    "size", [0, 1, kernel.BLOCK - 1, kernel.BLOCK, kernel.BLOCK + 1, 3 * kernel.BLOCK + 5]
)
def test_blocks_and_threads_do_not_matter(size):
    random = np.random.default_rng(0)
    codes = random.integers(-1000, 1000, size)
    kept = random.random(size) < 0.5
    out = np.empty_like(codes)
    counts = kernel.scale_kept(codes, kept, 50_000, 15, (-900, 900), out)
    wanted = np.where(kept, codes, 0) * Fraction(50_000, 2**15)
    clipped = np.zeros(2, int)
    for i, value in enumerate(wanted):
        code = int(abs(value) + Fraction(1, 2)) * (1 if value > 0 else -1)
        clipped += code < -900, code > 900
        assert out[i] == min(max(code, -900), 900)
    assert counts.tolist() == clipped.tolist()


@given(st.floats(2.0**-60, 0.9999))
def test_a_scale_is_the_nearest_with_a_mantissa_of_16_bits(rate):
    factor = scale(rate)
    assert (factor.mantissa, factor.exponent) == oracle.scale(rate)


def test_the_float_executor_drops_the_same_elements():
    net = network(0.4, Pool("max", 2))
    _, assigned, real = made(net, WIDE)
    real = {
        name: {kind: np.clip(array, -1, 1 - 2.0**-16) for kind, array in row.items()}
        for name, row in real.items()
    }
    images = np.random.default_rng(1).integers(
        0, assigned.layers["c1"].activations.max_code + 1, (8, 5, 6, 1)
    )
    fixed = FixedNetwork(net, assigned, real, seed=3)
    seen = {}
    fixed.train_step(
        images,
        np.zeros(8, int),
        LearningRate.of(0.1),
        7,
        lambda tensor, layer, value: seen.setdefault((tensor, layer), value.real),
    )
    tape = FloatNetwork(net, real, np.float64, seed=3).forward_tape(
        images * assigned.layers["c1"].activations.step, training=True, step=7
    )
    wanted = tape.layers["c1"].output
    got = seen["activations", "d1"]
    np.testing.assert_allclose(got, np.minimum(wanted, 2), atol=2.0**-12)
    assert 0 < np.count_nonzero(tape.layers["c1"].keep) < wanted.size and wanted.max() > 2
    dropped = tape.layers["d1"].keep == 0
    assert dropped.any() and not seen["activations", "d2"][dropped].any()


def with_room(assigned, bits):
    """So many bits, and so much more range, for the activations that hidden layers read."""
    first, *others = assigned.layers
    layers = {
        name: dataclasses.replace(
            assigned.layers[name],
            activations=Format(assigned.layers[name].activations.bits + bits, 1 + bits, False),
        )
        for name in others
    }
    return dataclasses.replace(assigned, layers={first: assigned.layers[first], **layers})


@pytest.mark.parametrize("rate, bits", [(0.5, 1), (0.2, 1), (0.8, 3), (0.5, 3)])
@pytest.mark.parametrize("pool", [None, Pool("max", 2), Pool("average", 3)])
def test_steps_with_room_for_the_scale(rate, bits, pool):
    net = network(rate, pool)
    check_steps(net, with_room(assignment(net, {}), bits))


def test_room_is_the_scale_s_and_a_step_of_many_bits_with_it_follows_the_float_executor():
    """16 bits at the ReLU and 17 after it are of two storage types.

    An activation of 2 becomes 4.
    """
    net = network(0.5, Pool("max", 2))
    assigned = with_room(assignment(net, {**WIDE, "activations": 15}), 2)
    assigned = dataclasses.replace(
        assigned,
        layers={
            name: dataclasses.replace(row, weight_grads=Format(28, 4), bias_grads=Format(28, 4))
            for name, row in assigned.layers.items()
        },
    )
    real = made(net)[2]
    real["c1"]["bias"] += 0.6
    real = {
        name: {kind: np.clip(array, -0.95, 0.95) for kind, array in row.items()}
        for name, row in real.items()
    }
    fixed = FixedNetwork(net, assigned, real)
    floating = FloatNetwork(net, real, np.float64)
    seen = {}
    images = np.random.default_rng(1).integers(0, 2**15, (8, 5, 6, 1))
    labels = np.arange(8) % 3
    scale = fixed.input_format.step
    plain = floating.logits(images * scale)
    np.testing.assert_allclose(
        fixed.logits(images) * assigned.logits.step, plain, atol=5 * assigned.logits.step
    )
    for step in range(3):
        result = fixed.train_step(
            images,
            labels,
            LearningRate.of(0.01),
            step,
            lambda tensor, layer, value: seen.update({(tensor, layer): value.real}),
        )
        floating.train_step(images * scale, labels, LearningRate.of(0.01).real, step=step)
        assert result.counts["c1", "dropout"].clipped == 0
    assert seen["activations", "d1"].max() > 3.99
    for name, row in fixed.parameters.items():
        for kind, parameter in row.items():
            np.testing.assert_allclose(
                parameter.codes * parameter.format.step, floating.parameters[name][kind], atol=1e-3
            )


def test_inference_drops_nothing():
    given, kept = (network(rate) for rate in (0.6, 0.0))
    images = np.random.default_rng(1).integers(0, 64, (4, 5, 6, 1))
    logits = [
        FixedNetwork(net, assignment(net, {}), made(net)[2]).logits(images) for net in (given, kept)
    ]
    assert np.array_equal(*logits) and logits[0].any()


@pytest.mark.parametrize("rate", RATES[:5])
@pytest.mark.parametrize("pool", [None, Pool("max", 2), Pool("average", 3), Pool("average", 2)])
def test_two_steps_of_a_small_network(rate, pool):
    net = network(rate, pool)
    dead = check_steps(net, assignment(net, {}))
    assert not dead


@pytest.mark.parametrize(
    "name", ["odd widths", "wide", "other roundings", "other overflows", "stochastic"]
)
def test_two_steps_under_other_assignments(name):
    net = network(0.3, Pool("max", 2), relu=name != "other overflows")
    check_steps(net, assignment(net, **ASSIGNMENTS[name]))


@given(
    st.floats(0.001, 0.99),
    st.sampled_from((None, Pool("max", 2), Pool("average", 3))),
    st.booleans(),
    st.lists(st.integers(2, 14), min_size=6, max_size=6),
    st.sampled_from(DETERMINISTIC),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_random_rates_and_assignments(rate, pool, relu, widths, rounding, seed):
    net = network(rate, pool, relu)
    names = ("weights", "activations", "activation_grads", "weight_grads", "below", "bias")
    modes = {"activations": rounding, "activation_grads": rounding}
    check_steps(net, assignment(net, dict(zip(names, widths)), rounding=modes), 1, seed=seed)


def test_another_mask_on_the_way_back_is_caught(monkeypatch):
    right = oracle.backward
    monkeypatch.setattr(
        oracle, "backward", lambda grads, stays, rate: right(grads, stays[::-1], rate)
    )
    net = network(0.5)
    with pytest.raises(AssertionError, match="preactivation_grads: .* differ, first at"):
        check_steps(net, assignment(net, {}))


def test_a_rate_whose_scale_passes_16_bits_is_refused():
    net = network(0.99999)
    with pytest.raises(InputError, match=r"layer 'c1': dropout may be up to 0\.9999, got 0\.99999"):
        FixedNetwork(*made(net))

"""Batch norm with constants of its own, with frozen statistics, and folded into weights."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from oracle import batch_norm as oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes

from fxsim import (
    BatchNorm,
    Conv,
    Dense,
    FixedNetwork,
    FloatNetwork,
    Format,
    InputError,
    LayerPrecision,
    LearningRate,
    Network,
    Philox,
    PrecisionAssignment,
    Tensor,
    ops,
)
from fxsim.analysis.measure import largest_magnitudes
from fxsim.factors import Factor
from fxsim.nn.folding import fold, folded_assignment, without_batch_norm
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import accumulator_format
from fxsim.nn.spec import from_dict, to_dict

OWN = BatchNorm(epsilon=0.003, running_rate=0.25)
FROZEN = BatchNorm(epsilon=0.1, frozen=True)
NETWORK = Network(
    "norms",
    (4, 4, 2),
    (
        Conv(name="c", filters=3, batch_norm=OWN, activation="none"),
        Dense(name="d", units=5, batch_norm=FROZEN),
        Dense(name="scores", units=3, activation="none"),
    ),
)


def parameters(seed=0):
    real = initial_parameters(NETWORK, seed)
    random = np.random.default_rng(seed)
    for name in ("c", "d"):
        for kind, ends in {
            "gamma": (0.5, 1.5),
            "beta": (-0.5, 0.5),
            "running_mean": (-0.5, 0.5),
            "running_var": (0.3, 2),
        }.items():
            real[name][kind] = random.uniform(*ends, real[name][kind].shape)
    return real


def images(count=6):
    return np.random.default_rng(9).random((count, 4, 4, 2))


LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_true_stands_for_the_defaults():
    layer = Conv(name="c", filters=3, batch_norm=True)
    assert layer.batch_norm == BatchNorm() == layer.norm
    assert to_dict(Network("n", (4, 4, 1), (layer, Dense(name="s", units=2, relu=False))))["layer"][
        0
    ] == {"type": "conv", "name": "c", "filters": 3, "batch_norm": True}
    assert Conv(name="c", filters=3).norm is None


def test_tables_are_read_and_written():
    rows = to_dict(NETWORK)["layer"]
    assert rows[0]["batch_norm"] == {"epsilon": 0.003, "running_rate": 0.25}
    assert rows[1]["batch_norm"] == {"epsilon": 0.1, "frozen": True}
    assert from_dict(to_dict(NETWORK)) == NETWORK


@pytest.mark.parametrize(
    "table, why",
    [
        ({"epsilon": 0.0}, "epsilon must be above 0, at most 1, got 0"),
        ({"running_rate": 1.5}, "running_rate must be above 0, at most 1, got 1.5"),
        ({"eps": 0.1}, "did you mean 'epsilon'"),
        ({"frozen": 1}, "frozen"),
        ({"frozen": True, "running_rate": 0.5}, "no effect where the statistics are frozen"),
        ("yes", "batch_norm must be True or False or a BatchNorm"),
    ],
)
def test_tables_that_are_refused(table, why):
    row = {"type": "conv", "name": "c", "filters": 3, "batch_norm": table}
    with pytest.raises(InputError, match=why):
        from_dict({"input_shape": [4, 4, 1], "layer": [row]})


def test_running_statistics_of_the_float_network_move_by_the_rate_or_stay():
    floating = FloatNetwork(NETWORK, parameters(), np.float64)
    before = {name: floating.parameters[name]["running_mean"].copy() for name in ("c", "d")}
    tape = floating.forward_tape(images(), training=True, step=0)
    batch = tape.layers["c"].operation.mean(axis=(0, 1, 2))
    after = {name: floating.parameters[name]["running_mean"] for name in before}
    assert np.allclose(after["c"], 0.75 * before["c"] + 0.25 * batch)
    assert np.array_equal(after["d"], before["d"])
    root = np.sqrt(parameters()["d"]["running_var"] + Factor.nearest(0.1).real)
    assert np.allclose(tape.layers["d"].inverse, 1 / root)


def test_the_gradient_of_frozen_statistics_is_that_of_constants():
    """Against finite differences of the loss in training mode, at the weights of both layers."""
    real = parameters(1)
    _, grads = FloatNetwork(NETWORK, real, np.float64).loss_and_grads(images(), LABELS, step=0)
    for name, place in (("d", (3, 2)), ("c", (1, 2, 0, 1))):
        losses = []
        for change in (-1e-5, 1e-5):
            moved = {key: {k: v.copy() for k, v in own.items()} for key, own in real.items()}
            moved[name]["weight"][place] += change
            network = FloatNetwork(NETWORK, moved, np.float64)
            losses.append(network.loss_and_grads(images(), LABELS, step=0)[0])
        assert grads[name]["weight"][place] == pytest.approx(np.diff(losses)[0] / 2e-5, rel=1e-4)


def tuple_of(format):
    return format.bits, format.range_exp, format.signed


def test_the_operation_with_frozen_statistics_is_the_twin():
    random = np.random.default_rng(2)
    x = Tensor(random.integers(-128, 128, (20, 3)), Format(8, 2))
    gamma, beta = (Tensor(random.integers(-30, 30, 3), Format(6, 1)) for _ in range(2))
    statistics = Format(9, 2), Format(9, 2, signed=False)
    running = ops.running_statistics([0.3, -0.2, 0.1], [0.5, 1.5, 0.01], statistics)
    made = ops.batch_norm_frozen(
        x, gamma, beta, running, statistics=statistics, normalized=Format(9, 3), epsilon=0.01
    )
    inference = ops.batch_norm_inference(
        x, gamma, beta, running, statistics=statistics, normalized=Format(9, 3), epsilon=0.01
    )
    assert_same_codes(made.output.tensor().codes, inference.tensor().codes)
    grad = Tensor(random.integers(-32, 32, (20, 3)), Format(6, 0))
    back = ops.batch_norm_grad(
        grad, made.saved, x=Format(12, 0), gamma=Format(12, 6), beta=Format(12, 4)
    )
    mantissa, exponent = rounding_oracle.sixteen_bits(Fraction(0.01))
    epsilon = mantissa * Fraction(2) ** exponent
    for channel in range(3):
        code = oracle.at_rest(int(running[1].codes[channel]), tuple_of(statistics[1]))
        root = oracle.inverse_root(code * rounding_oracle.step(tuple_of(statistics[1])), epsilon)
        step = rounding_oracle.step(tuple_of(grad.format))
        scale, slope, offset = oracle.constants(
            [code * step for code in grad.codes[:, channel].tolist()],
            [Fraction(0)] * 20,
            int(gamma.codes[channel]) * rounding_oracle.step((6, 1, True)),
            root,
            step,
            rounding_oracle.step((9, 3, True)),
            rounding_oracle.step((12, 0, True)),
            True,
        )
        assert slope == offset == 0
        wanted = [
            rounding_oracle.quantize(scale * code * step, (12, 0, True))[0]
            for code in grad.codes[:, channel].tolist()
        ]
        assert_same_codes(back.x.codes[:, channel], np.array(wanted))


def precision(range_exp=0, bits=16):
    weights = Format(bits, range_exp)
    return LayerPrecision(
        weights=weights,
        activations=Format(16, 3),
        activation_grads=Format(16, 0),
        weight_grads=Format(16, 0),
        accumulators=accumulator_format(weights, weights.step_exp - 8),
        bias=Format(16, 2),
        bias_accumulators=accumulator_format(Format(16, 2), -20),
    )


def fixed_network(real=None):
    layers = {name: precision() for name in NETWORK.names}
    assigned = PrecisionAssignment(NETWORK.name, layers)
    return FixedNetwork(NETWORK, assigned, real or parameters())


def test_folded_parameters_are_exact_values_rounded_once():
    fixed = fixed_network()
    codes = fixed.input_format.step_exp
    fixed.train_step((images() * 2.0**-codes).astype(int), LABELS, LearningRate.of(0.1), 0)
    wide = PrecisionAssignment(NETWORK.name, {name: precision(3) for name in NETWORK.names})
    folded = fixed.folded(wide)
    assert folded.network == without_batch_norm(NETWORK)
    for name, norm in (("c", OWN), ("d", FROZEN)):
        own = fixed.parameters[name]
        statistics = {"mean": (16, 3, True), "variance": (16, 3, False)}
        at_rest = {
            kind: [
                oracle.at_rest(int(code), fmt) * rounding_oracle.step(fmt)
                for code in getattr(fixed.running[name], kind)
            ]
            for kind, fmt in statistics.items()
        }
        mantissa, exponent = rounding_oracle.sixteen_bits(Fraction(norm.epsilon))
        epsilon = mantissa * Fraction(2) ** exponent
        step = rounding_oracle.step((16, 1, True))
        for channel in range(len(at_rest["mean"])):
            scale = int(own["gamma"].codes[channel]) * step
            scale *= oracle.inverse_root(at_rest["variance"][channel], epsilon)
            weights = own["weight"].codes[..., channel].reshape(-1).tolist()
            wanted = [
                rounding_oracle.quantize(
                    code * rounding_oracle.step((16, 0, True)) * scale, (16, 3, True)
                )[0]
                for code in weights
            ]
            got = folded.parameters[name]["weight"].codes[..., channel].reshape(-1)
            assert_same_codes(got, np.array(wanted))
            exact = int(own["beta"].codes[channel]) * step - at_rest["mean"][channel] * scale
            (code, *_) = rounding_oracle.quantize(exact, (16, 2, True))
            assert folded.parameters[name]["bias"].codes[channel] == code
    sums = (images() * 2.0**-codes).astype(int)
    near = folded.logits(sums) - fixed.logits(sums)
    assert abs(near).max() < 16  # of 2^11 to 1


def test_a_folded_value_outside_its_format_is_named():
    real = parameters()
    real["c"]["running_var"][1] = 0.01
    message = r"layer 'c', channel 1: the folded weights -?\d\.\d+ is outside s16 r=2\^0 .*; give "
    with pytest.raises(InputError, match=message + r"weights a range of 2\^\d, or"):
        fixed_network(real).folded()


def test_an_assignment_with_batch_norm_is_refused():
    fixed = fixed_network()
    with pytest.raises(InputError, match="has no batch norm; leave batch_norm"):
        fixed.folded(fixed.assignment)


def test_the_folded_float_network_has_the_same_logits():
    real = parameters(3)
    folded = FloatNetwork(*fold(NETWORK, real), np.float64)
    assert np.allclose(
        folded.logits(images()), FloatNetwork(NETWORK, real, np.float64).logits(images())
    )


def test_folding_keeps_what_is_not_batch_norm():
    plain = dataclasses.replace(NETWORK.layers[0], batch_norm=False)
    assert without_batch_norm(NETWORK).layers[0] == plain
    assert without_batch_norm(NETWORK).layers[2] == NETWORK.layers[2]


def test_frozen_statistics_are_measured_with_those_of_the_batch():
    real = parameters()
    real["c"] |= {"running_mean": np.full(3, 1000.0), "running_var": np.full(3, 2000.0)}
    real["d"] |= {"running_mean": np.full(5, -300.0), "running_var": np.full(5, 400.0)}
    found = largest_magnitudes(FloatNetwork(NETWORK, real, np.float64), images(), images())
    assert found["variances_max"][1] == 400 and found["preactivations_max"][1] == 300
    # those of a layer that is not frozen are of the batch
    assert 0 < found["variances_max"][0] < 100 and found["preactivations_max"][0] < 100
    real["d"] |= {"running_mean": np.zeros(5), "running_var": np.full(5, 1e-9)}
    found = largest_magnitudes(FloatNetwork(NETWORK, real, np.float64), images(), images())
    assert found["variances_max"][1] > 1e-6 and found["preactivations_max"][1] > 0


def test_folding_keeps_the_words_of_what_is_left():
    few = Philox(8)
    fixed = fixed_network()
    assigned = dataclasses.replace(
        fixed.assignment,
        rounding=dict.fromkeys(("gamma_grads", "activations", "bias_grads"), "stochastic"),
        words={"gamma_grads": few, "c.gamma_grads": few, "activations": few, "d.activations": few},
    )
    plain = without_batch_norm(NETWORK)
    left = folded_assignment(assigned, plain)
    assert left.words == {"activations": few, "d.activations": few}
    assert left.rounding == {"activations": "stochastic", "bias_grads": "stochastic"}
    left.check_network(plain)

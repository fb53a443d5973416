"""A whole network in Q8.8, floor and wrap after every product and sum: its RTL trains to the same
bits, step after step.
"""

import numpy as np
import pytest
from rtl.harness import ICARUS, VERILATOR, read_codes, write_codes
from support.bits import assert_same_codes

from fxsim import Activation, Dense, FixedNetwork, LearningRate, Network, presets

INPUTS, HIDDEN, OUTPUTS, BATCH, STEPS = 3, 4, 2, 2, 100
BITS, SLOPE = 16, 3
NETWORK = Network(
    "uniform",
    (1, 1, INPUTS),
    (
        Dense(name="hidden", units=HIDDEN, activation=Activation("leaky_relu", slope_exp=-SLOPE)),
        Dense(name="out", units=OUTPUTS, activation="none"),
    ),
    loss="half_mse",
    targets="tensors",
)
PRESET = presets.uniform("Q8.8", rounding="floor", overflow="wrap", every_operation=True)
RATE = LearningRate.of(2.0**-4)
ORDER = [("hidden", "weight"), ("hidden", "bias"), ("out", "weight"), ("out", "bias")]


def start(scale):
    """(a network, images, targets) with values up to so many; beyond 10 products wrap."""
    random = np.random.default_rng(5)
    real = {
        name: {
            "weight": random.uniform(-scale, scale, NETWORK.shape(name).weight),
            "bias": random.uniform(-1, 1, NETWORK.shape(name).weight[-1:]),
        }
        for name in NETWORK.names
    }
    ends = int(scale * 2**8)
    images = random.integers(-ends, ends, (STEPS, BATCH, 1, 1, INPUTS))
    targets = random.integers(-ends, ends, (STEPS, BATCH, OUTPUTS))
    return FixedNetwork(NETWORK, PRESET.assignment(NETWORK), real), images, targets


def parameters_of(fixed):
    """(codes, accumulators) of all parameters, in the order of the unit."""
    found = [fixed.parameters[name][kind] for name, kind in ORDER]
    return tuple(
        np.concatenate([getattr(each, part).reshape(-1) for each in found])
        for part in ("codes", "accumulators")
    )


def trained(fixed, images, targets):
    """(outputs, codes, accumulators) of every step."""
    rows = []
    for number in range(STEPS):
        outputs = fixed.logits(images[number])
        fixed.train_step(images[number], targets[number], RATE, number)
        rows.append((outputs, *parameters_of(fixed)))
    return tuple(np.stack(parts) for parts in zip(*rows))


def simulated(simulator, folder, fixed, images, targets, **overrides):
    """As `trained`, by the unit."""
    codes, _ = parameters_of(fixed)
    sources = {"parameters": codes, "samples": images, "targets": targets}
    for name, values in sources.items():
        write_codes(folder / name, values.reshape(-1), BITS)
    options = {"MANTISSA": RATE.mantissa, "EXPONENT": RATE.exponent + BITS, "SLOPE": SLOPE}
    bench = simulator.build("uniform_step_tb", folder, STEPS=STEPS, **options, **overrides)
    bench.run(
        **{name: folder / name for name in sources}, outputs="outputs", codes="codes", rests="rests"
    )
    shapes = {"outputs": (BATCH, OUTPUTS), "codes": (codes.size,), "rests": (codes.size,)}
    return tuple(
        read_codes(bench.folder / name, BITS, True, (STEPS, *shape))
        for name, shape in shapes.items()
    )


@pytest.mark.parametrize(
    "simulator, scale",
    [(ICARUS, 1.0), (ICARUS, 30.0), (VERILATOR, 30.0)],
    ids=["icarus, small", "icarus, wrapping", "verilator, wrapping"],
)
def test_100_steps_in_rtl_have_the_bits_of_the_network(tmp_path, simulator, scale):
    fixed, images, targets = start(scale)
    got = simulated(simulator, tmp_path, fixed, images, targets)
    wanted = trained(fixed, images, targets)
    for what, own, right in zip(("outputs", "parameters", "accumulators"), got, wanted):
        assert_same_codes(own, right, what=what)
    assert len(np.unique(wanted[1], axis=0)) > STEPS / 2, "it hardly trains"


def test_sums_wrap_where_values_are_large():
    fixed, images, targets = start(30.0)
    overflows = [
        fixed.train_step(images[number], targets[number], RATE, number).overflows["out", "forward"]
        for number in range(10)
    ]
    assert sum(each.overflows for each in overflows) > 10


@pytest.mark.parametrize("bug", [1, 2])
def test_a_rounding_that_is_left_out_is_seen(tmp_path, bug):
    fixed, images, targets = start(1.0)
    got = simulated(ICARUS, tmp_path, fixed, images, targets, BUG=bug)
    assert not np.array_equal(got[1], trained(fixed, images, targets)[1])

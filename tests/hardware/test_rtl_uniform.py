"""A whole network in Q8.8, floor and wrap after every product and sum, those of the update too, which
may round stochastically, by registers: its RTL trains to the same bits, step after step.
"""

import dataclasses

import numpy as np
import pytest
from rtl.harness import ICARUS, VERILATOR, read_codes, write_codes
from support.bits import assert_same_codes

from fxsim import Activation, Dense, FixedNetwork, LearningRate, Lfsr, Network, presets

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
RATE = 19
"""The learning rate in steps of Q8.8."""
ORDER = [("hidden", "weight"), ("hidden", "bias"), ("out", "weight"), ("out", "bias")]
CLOCKS = 7


def registers():
    """The words of each parameter's update: a register for each element."""
    seeds = iter(range(1, 2**16, 1777))
    words = {}
    for name, kind in ORDER:
        shape = NETWORK.shape(name).weight
        count = int(np.prod(shape if kind == "weight" else shape[-1:]))
        key = f"{name}.{'updates' if kind == 'weight' else 'bias_updates'}"
        own = tuple(next(seeds) for _ in range(count))
        words[key] = Lfsr(16, (16, 15, 13, 4), 6, own, lanes=count, clocks=CLOCKS)
    return words


def stochastic(assignment):
    """The same with updates that are rounded by registers."""
    roundings = {"updates": "stochastic", "bias_updates": "stochastic"}
    return dataclasses.replace(
        assignment, rounding={**assignment.rounding, **roundings}, words=registers()
    )


def start(scale, random_words=False):
    """(a network, images, targets) with values up to so many; beyond 10 products wrap."""
    assignment = PRESET.assignment(NETWORK)
    if random_words:
        assignment = stochastic(assignment)
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
    return FixedNetwork(NETWORK, assignment, real), images, targets


def parameters_of(fixed):
    """The codes of all parameters, in the order of the unit."""
    return np.concatenate([fixed.parameters[name][kind].codes.reshape(-1) for name, kind in ORDER])


def trained(fixed, images, targets):
    """(outputs, codes) of every step."""
    rate = LearningRate.of(RATE / 2**8)
    rows = []
    for number in range(STEPS):
        outputs = fixed.logits(images[number])
        fixed.train_step(images[number], targets[number], rate, number)
        rows.append((outputs, parameters_of(fixed)))
    return tuple(np.stack(parts) for parts in zip(*rows))


def simulated(simulator, folder, fixed, images, targets, **overrides):
    """As `trained`, by the unit."""
    codes = parameters_of(fixed)
    sources = {"parameters": codes, "samples": images, "targets": targets}
    options = {"STEPS": STEPS, "RATE": RATE, "SLOPE": SLOPE}
    for name, values in sources.items():
        write_codes(folder / name, values.reshape(-1), BITS)
    if words := list(fixed.assignment.words.values()):
        sources["seeds"] = np.concatenate([register.states() for register in words])
        write_codes(folder / "seeds", sources["seeds"], words[0].width)
        options |= {"RANDOM_BITS": words[0].bits, "CLOCKS": CLOCKS}
    bench = simulator.build("uniform_step_tb", folder, **options, **overrides)
    bench.run(**{name: folder / name for name in sources}, outputs="outputs", codes="codes")
    shapes = {"outputs": (BATCH, OUTPUTS), "codes": (codes.size,)}
    return tuple(
        read_codes(bench.folder / name, BITS, True, (STEPS, *shape))
        for name, shape in shapes.items()
    )


@pytest.mark.parametrize(
    "simulator, scale, random_words",
    [
        (ICARUS, 1.0, False),
        (ICARUS, 100.0, False),
        (VERILATOR, 100.0, False),
        (ICARUS, 1.0, True),
        (VERILATOR, 100.0, True),
    ],
    ids=[
        "icarus, small",
        "icarus, wrapping",
        "verilator, wrapping",
        "icarus, registers",
        "verilator, registers",
    ],
)
def test_100_steps_in_rtl_have_the_bits_of_the_network(tmp_path, simulator, scale, random_words):
    fixed, images, targets = start(scale, random_words)
    got = simulated(simulator, tmp_path, fixed, images, targets)
    wanted = trained(fixed, images, targets)
    for what, own, right in zip(("outputs", "parameters"), got, wanted):
        assert_same_codes(own, right, what=what)
    assert len(np.unique(wanted[1], axis=0)) > STEPS / 2, "it hardly trains"


def test_sums_wrap_where_values_are_large():
    fixed, images, targets = start(100.0)
    rate = LearningRate.of(RATE / 2**8)
    results = [
        fixed.train_step(images[number], targets[number], rate, number) for number in range(STEPS)
    ]
    assert sum(each.overflows["out", "forward"].overflows for each in results) > 10
    wrapped = [each.counts[name, "weights"].clipped for each in results for name in NETWORK.names]
    assert sum(wrapped) > 2


@pytest.mark.parametrize("bug, scale, random_words", [(1, 1, 0), (2, 1, 0), (3, 100, 0), (4, 1, 1)])
def test_an_operation_that_is_done_otherwise_is_seen(tmp_path, bug, scale, random_words):
    fixed, images, targets = start(scale, random_words)
    got = simulated(ICARUS, tmp_path, fixed, images, targets, BUG=bug)
    assert not np.array_equal(got[1], trained(fixed, images, targets)[1])

"""RTL of registers and of the update that they round: the weight is its own accumulator, and is
bit-equal to fxsim's over 100 updates.
"""

import numpy as np
import pytest
from rtl.harness import ICARUS, both_simulators, read_codes, write_codes

from fxsim import (
    Dense,
    FixedNetwork,
    Format,
    LayerPrecision,
    LearningRate,
    Lfsr,
    Network,
    PrecisionAssignment,
    Tensor,
    ops,
)
from fxsim.golden.capture import capture
from fxsim.golden.check import check
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.init import initial_parameters

STEPS = 100
RATE_EXP = -4
WEIGHTS = Format(8, 0)
GRADS = Format(12, -1)
SHIFT = WEIGHTS.step_exp - GRADS.step_exp - RATE_EXP
TAPS = (16, 15, 13, 4)
REGISTERS = {
    "fibonacci, left, 3 lanes": Lfsr(16, TAPS, 8, (0xACE1, 2, 3), lanes=3, clocks=8),
    "galois, left": Lfsr(16, TAPS, 8, 0xACE1, "galois", low_bit=5),
    "fibonacci, right": Lfsr(9, (9, 5), 3, (7, 300), shift="right", lanes=2),
    "galois, right": Lfsr(31, (31, 3), 20, 0x1234567, "galois", "right", clocks=3),
}


def simulate(simulator, folder, register, weights, grads, seeds=None, bug=0, shift=SHIFT):
    """(steps, weights) int64 codes after each step; grads: (steps, weights)."""
    simulation = simulator.build(
        "lfsr_update_tb",
        folder,
        COUNT=weights.size,
        STEPS=len(grads),
        W_BITS=WEIGHTS.bits,
        GRAD_BITS=GRADS.bits,
        SHIFT=shift,
        WIDTH=register.width,
        TAPS=sum(1 << (tap - 1) for tap in register.taps),
        GALOIS=register.form == "galois",
        RIGHT=register.shift == "right",
        LANES=register.lanes,
        CLOCKS=register.clocks,
        LOW_BIT=register.low_bit,
        K=register.bits,
        BUG=bug,
    )
    write_codes(simulation.folder / "weights", weights.reshape(-1), WEIGHTS.bits)
    write_codes(simulation.folder / "grads", grads.reshape(-1), GRADS.bits)
    write_codes(simulation.folder / "seeds", seeds or register.states(), register.width)
    simulation.run(**{name: name for name in ("weights", "grads", "seeds", "new_weights")})
    shape = len(grads), weights.size
    return read_codes(simulation.folder / "new_weights", WEIGHTS.bits, True, shape)


@both_simulators
@pytest.mark.parametrize("name", REGISTERS)
def test_a_hundred_updates_in_place(tmp_path, simulator, name):
    register = REGISTERS[name]
    random = np.random.default_rng(len(name))
    weights = random.integers(-128, 128, 20)
    grads = random.integers(-2048, 2048, (STEPS, 20)) >> random.integers(0, 9, (STEPS, 1))
    parameter = ops.Parameter(Tensor(weights, WEIGHTS))
    wanted = []
    for step, codes in enumerate(grads):
        grad = Tensor(codes, GRADS)
        rate = 2.0**RATE_EXP
        options = {"rounding": "stochastic", "words": register.at(step)}
        parameter, _ = ops.sgd_update(parameter, grad, rate, **options)
        wanted.append(parameter.value.codes.copy())
    got = simulate(simulator, tmp_path, register, weights, grads)
    assert np.array_equal(got, np.array(wanted))
    assert len({row.tobytes() for row in got}) > STEPS / 2


NETWORK = Network(
    "n", (2, 3, 1), (Dense(name="h", units=5), Dense(name="scores", units=3, relu=False))
)
OF_NETWORK = REGISTERS["fibonacci, left, 3 lanes"]


def trained():
    row = LayerPrecision(
        weights=WEIGHTS,
        activations=Format(8, 1, False),
        activation_grads=Format(12, 0),
        weight_grads=GRADS,
        accumulators=None,
        bias_accumulators=None,
    )
    assignment = PrecisionAssignment(
        "n",
        dict.fromkeys(NETWORK.names, row),
        rounding={"accumulators": "stochastic"},
        words={"accumulators": OF_NETWORK},
    )
    return FixedNetwork(NETWORK, assignment, initial_parameters(NETWORK, 3))


def batch(step):
    random = np.random.default_rng(step)
    return random.integers(0, 256, (4, *NETWORK.input_shape)), random.integers(0, 3, 4)


@both_simulators
def test_a_hundred_training_steps_of_a_network(tmp_path, simulator):
    """The unit takes the network's gradients and gives its weights, step after step."""
    fixed = trained()
    start = {name: fixed.parameters[name]["weight"].codes.copy() for name in NETWORK.names}
    seen = {}

    def probe(tensor, layer, value):
        seen.setdefault((layer, tensor), []).append(value.codes.reshape(-1).copy())

    for step in range(STEPS):
        fixed.train_step(*batch(step), LearningRate.of(2.0**RATE_EXP), step, probe)
    for name, weights in start.items():
        grads = np.array(seen[name, "weight_grads"])
        got = simulate(simulator, tmp_path, OF_NETWORK, weights, grads)
        assert np.array_equal(got, np.array(seen[name, "updated_weights"]))
        assert not np.array_equal(got[-1], weights.reshape(-1))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A step in the midst of a training."""
    fixed = trained()
    for step in range(7):
        fixed.train_step(*batch(step), LearningRate.of(2.0**RATE_EXP), step)
    golden = capture(fixed, *batch(7), LearningRate.of(2.0**RATE_EXP), 7)
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden, folder, ("mem", "npy"))
    return Vectors(folder)


@pytest.mark.parametrize(
    "bug, cause",
    [
        (0, None),
        (1, "LFSR: clocked 1 clock too early"),
        (2, "LFSR: lane 1 advanced a word too early"),
    ],
)
def test_one_step_is_replayed_from_the_manifests_states(tmp_path, vectors, bug, cause):
    manifest = vectors.manifest
    words = manifest.words["h.accumulators"]
    weights = vectors.codes("h.weights")
    grads = vectors.codes("h.weight_grads").reshape(1, -1)
    got = simulate(ICARUS, tmp_path, words.source, weights, grads, words.states, bug)
    dump = tmp_path / "h.updated_weights.mem"
    write_codes(dump, got.reshape(-1), WEIGHTS.bits)
    report = check(vectors.folder, dump, ["h.updated_weights"])
    assert report.passed == (cause is None)
    if cause is not None:
        assert cause in report.explanation.changes


def test_a_wrong_tap_in_the_register_is_named(tmp_path, vectors):
    words = vectors.manifest.words["h.accumulators"]
    wrong = Lfsr.from_dict({**words.source.to_dict(), "taps": [16, 14, 13, 4]})
    weights = vectors.codes("h.weights")
    grads = vectors.codes("h.weight_grads").reshape(1, -1)
    got = simulate(ICARUS, tmp_path, wrong, weights, grads, words.states)
    dump = tmp_path / "h.updated_weights.mem"
    write_codes(dump, got.reshape(-1), WEIGHTS.bits)
    report = check(vectors.folder, dump, ["h.updated_weights"])
    assert "LFSR, from the step's states: tap 14 instead of 15" in report.explanation.changes

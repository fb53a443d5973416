"""Momentum and weight decay.

Velocities and whole steps equal to the twin's, and the float executor followed.
"""

import dataclasses
import itertools
import json
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import momentum as oracle
from oracle.rounding import OVERFLOWS
from oracle.update import update
from support.bits import assert_same_codes
from support.fixed_step_cases import (
    ASSIGNMENTS,
    NETWORKS,
    WIDE,
    assignment,
    check_steps,
    start,
    tuple_of,
)

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.capture import capture
from fxsim.golden.explain.search import explain
from fxsim.golden.export import Vectors, write_vectors
from fxsim.kernels.elementwise.update import velocity_sums
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.optimizer import MAX_MOMENTUM, Optimizer, Velocity
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.quantizer import Counts, Quantizer
from fxsim.rng import Stream
from fxsim.tensor import Tensor

OPTIMIZERS = {
    "momentum": Optimizer(0.9),
    "momentum and decay": Optimizer(0.9, 5e-4),
    "decay alone": Optimizer(0.0, 0.01),
    "a half and a half": Optimizer(0.5, 0.5),
    "long memory in few bits": Optimizer(0.99, 1e-3, velocity_bits=9),
    "wide": Optimizer(0.875, 2**-10, velocity_bits=32),
}


def check(
    velocities,
    grads,
    weights,
    optimizer,
    weight_fmt,
    grad_fmt,
    rounding="nearest_away",
    overflow="saturate",
    words=None,
    kind="weight",
):
    """Velocity.advance of flat codes equals the twin; formats as (bits, range_exp, signed)."""
    velocity = Velocity.zeros(
        (len(velocities),), optimizer, kind, Format(*weight_fmt), Format(*grad_fmt)
    )
    mu = oracle.held(optimizer.momentum)
    decay = oracle.held(optimizer.weight_decay if kind == "weight" else 0)
    fmt = oracle.velocity_format(optimizer.velocity_bits, mu, decay, weight_fmt, grad_fmt)
    assert tuple_of(velocity.format) == fmt
    velocity.codes[:] = velocities
    counted = []
    quantizer = Quantizer(
        velocity.format,
        rounding,
        overflow,
        None if words is None else np.array(words, np.uint32),
        counted.append,
    )
    velocity.advance(
        Tensor(np.array(grads), Format(*grad_fmt)),
        Tensor(np.array(weights), Format(*weight_fmt)),
        quantizer,
    )
    rows = [
        oracle.advance(*codes, mu, decay, (fmt, grad_fmt, weight_fmt), rounding, overflow, word)
        for *codes, word in zip(
            velocities, grads, weights, itertools.repeat(0) if words is None else words
        )
    ]
    inputs = [f"v {v} G {g} W {w}" for v, g, w in zip(velocities, grads, weights)]
    assert_same_codes(
        velocity.codes, [row[0] for row in rows], inputs, f"{optimizer}, {rounding}, {overflow}"
    )
    assert counted == [Counts(len(rows), *(sum(row[k] for row in rows) for k in (1, 2, 3)))]
    return velocity


def every_code(*widths):
    columns = itertools.product(*(range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in widths))
    return [list(column) for column in zip(*columns)]


@pytest.mark.parametrize(
    "momentum, decay",
    [(0.5, 0.0), (0.9, 0.0), (0.0, 0.25), (0.75, 0.125), (0.9, 0.3), (0.99, 0.01)],
)
@pytest.mark.parametrize("rounding", ["nearest_away", "nearest_even", "zero", "jam"])
def test_every_code_of_4_bit_velocities_gradients_and_weights(momentum, decay, rounding):
    for grad_range in (-3, 0, 2):
        check(
            *every_code(4, 4, 4),
            Optimizer(momentum, decay, 4),
            (4, 0, True),
            (4, grad_range, True),
            rounding,
        )


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_what_does_not_fit_overflows_as_the_assignment_says(overflow):
    """A range that holds all velocities leaves only the rounding up of the greatest one."""
    velocity = check(
        *every_code(2, 6, 2), Optimizer(0.5, 0.0, 2), (2, 0, True), (6, 0, True), overflow=overflow
    )
    assert velocity.format.range_exp == 1


@given(
    st.floats(0, MAX_MOMENTUM),
    st.one_of(st.just(0.0), st.floats(2.0**-12, 0.9)),
    st.integers(2, 32),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(-12, 3),
    st.integers(0, 2**32 - 1),
)
def test_random_velocities(momentum, decay, bits, weight_bits, grad_bits, grad_range, seed):
    random = np.random.default_rng(seed)
    codes = [
        random.integers(-(2 ** (width - 1)), 2 ** (width - 1), 20).tolist()
        for width in (bits, grad_bits, weight_bits)
    ]
    optimizer = Optimizer(momentum, decay, bits)
    formats = ((weight_bits, 0, True), (grad_bits, grad_range, True))
    try:
        Velocity.zeros((), optimizer, "weight", *(Format(*fmt) for fmt in formats))
    except InputError as error:
        assert "62 are exact" in str(error)
    else:
        check(*codes, optimizer, *formats)
        check(*codes, optimizer, *formats, kind="bias")


def test_stochastic_rounding_takes_the_words_of_its_stream():
    codes = every_code(3, 3, 3)
    check(
        *codes,
        Optimizer(0.9, 0.1, 3),
        (3, 0, True),
        (3, 0, True),
        "stochastic",
        words=Stream(0, 0, "w").words(len(codes[0])).tolist(),
    )


def test_extremes_of_the_widest_sums_stay_exact():
    limits = [[-(2**31), 2**31 - 1]] * 2 + [[-(2**15), 2**15 - 1]]
    codes = list(map(list, zip(*itertools.product(*limits))))
    check(*codes, Optimizer(0.9999, 2**-6, 32), (16, 0, True), (32, 0, True))


@given(st.floats(0, MAX_MOMENTUM), st.floats(0, 0.99), st.integers(-20, 10))
def test_no_sequence_of_gradients_leaves_the_range_but_by_rounding(momentum, decay, grad_range):
    """The greatest velocity is a fixed point within the range."""
    optimizer = Optimizer(momentum, decay)
    largest = Fraction(
        optimizer.velocity_format("weight", Format(8, 0), Format(8, grad_range)).range
    )
    added = Fraction(2) ** grad_range + optimizer.decay("weight")
    assert optimizer.mu * largest + added <= largest
    assert optimizer.mu * largest / 2 + added > largest / 2


@pytest.mark.parametrize("size", [0, 1, 2**14, 2**16 + 7])
def test_threads_do_not_matter(size):
    random = np.random.default_rng(4)
    codes = [random.integers(-100, 100, size).astype(np.int16) for _ in range(3)]
    out = np.empty(size, np.int64)
    velocity_sums(*codes, (5, 7, 11), out)
    assert np.array_equal(out, sum(m * column.astype(int) for m, column in zip((5, 7, 11), codes)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_three_steps_of_a_small_network(network, optimizer):
    network = NETWORKS[network]
    dead = check_steps(network, assignment(network, {}), 3, optimizer=OPTIMIZERS[optimizer])
    assert not dead or optimizer == "long memory in few bits"


@pytest.mark.parametrize("name", ["odd widths", "wide", "stochastic"])
def test_steps_under_other_assignments(name):
    network = NETWORKS["max pool"]
    made = assignment(network, **ASSIGNMENTS[name])
    rounding = {**made.rounding, "velocities": "stochastic", "bias_velocities": "floor"}
    check_steps(
        network,
        dataclasses.replace(made, rounding=rounding),
        2,
        optimizer=OPTIMIZERS["momentum and decay"],
    )


@given(
    st.sampled_from(sorted(NETWORKS)),
    st.one_of(st.just(0.0), st.floats(2.0**-6, 0.999)),
    st.floats(2.0**-8, 0.9),
    st.integers(2, 24),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=12)
def test_random_steps(network, momentum, decay, bits, seed):
    network = NETWORKS[network]
    check_steps(
        network, assignment(network, {}), 2, seed=seed, optimizer=Optimizer(momentum, decay, bits)
    )


def test_a_decay_of_the_wrong_sign_is_caught(monkeypatch):
    right = oracle.advance
    monkeypatch.setattr(oracle, "advance", lambda v, g, w, *rest: right(v, g, -w, *rest))
    network = NETWORKS["max pool"]
    with pytest.raises(AssertionError, match="velocities: .* differ, first at"):
        check_steps(network, assignment(network, {}), optimizer=Optimizer(0.9, 0.1))


FOLLOWED = Network(
    "followed",
    (4, 4, 1),
    (Conv(name="c", filters=4, kernel=3), Dense(name="d", units=3, relu=False)),
)


@pytest.mark.parametrize("optimizer", ["momentum", "momentum and decay", "decay alone", "wide"])
def test_with_large_widths_the_float_executor_is_followed(optimizer):
    optimizer = OPTIMIZERS[optimizer]
    net = FOLLOWED
    assigned = assignment(net, WIDE, logits=Format(24, 4))
    real, _, _ = start(net, assigned, 1)
    real = {
        name: {kind: np.clip(array, -0.9, 0.9) for kind, array in row.items()}
        for name, row in real.items()
    }
    fixed = FixedNetwork(net, assigned, real, optimizer=optimizer)
    floating = FloatNetwork(net, real, np.float64, optimizer)
    plain = FloatNetwork(net, real, np.float64)
    random = np.random.default_rng(2)
    input_format = fixed.input_format
    for number in range(8):
        images = random.integers(0, input_format.max_code // 2, (6, 4, 4, 1))
        labels = random.integers(0, 3, 6)
        fixed.train_step(images, labels, LearningRate.of(0.05), number)
        for network in (floating, plain):
            network.train_step(
                images * input_format.step, labels, LearningRate.of(0.05).real, step=number
            )
    for name, row in fixed.parameters.items():
        for kind, parameter in row.items():
            wanted = floating.parameters[name][kind]
            np.testing.assert_allclose(parameter.codes * parameter.format.step, wanted, atol=3e-4)
            np.testing.assert_allclose(
                parameter.velocity.codes * parameter.velocity.format.step,
                floating.velocities[name][kind],
                atol=1e-3,
            )
            if kind == "weight":
                assert abs(wanted - plain.parameters[name][kind]).max() > 3e-3


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_one_and_two_threads_give_the_same_steps_with_dropout_and_momentum():
    """Enough elements for several blocks of every kernel."""
    net = Network(
        "large",
        (16, 16, 1),
        (Conv(name="c", filters=16, padding=1, dropout=0.3), Dense(name="d", units=10, relu=False)),
    )
    assigned = assignment(net, {}, rounding={"velocities": "stochastic"})
    real, _, _ = start(net, assigned, 1)
    images = np.random.default_rng(3).integers(0, 64, (16, 16, 16, 1))
    labels = np.arange(16) % 10
    prints = []
    before = thread_count()
    for threads in (1, 2):
        try:
            use_threads(threads)
            fixed = FixedNetwork(net, assigned, real, seed=2, optimizer=Optimizer(0.9, 1e-3))
            counts = [
                fixed.train_step(images, labels, LearningRate.of(0.1), step).counts
                for step in range(2)
            ]
        finally:
            use_threads(before)
        prints.append((fixed.fingerprint(), counts))
    assert prints[0] == prints[1]


def test_the_fingerprint_and_the_state_hold_velocities_where_there_are_any():
    net = FOLLOWED
    assigned = assignment(net, {})
    real, _, _ = start(net, assigned, 1)
    plain, off, on = (
        FixedNetwork(net, assigned, real, optimizer=optimizer)
        for optimizer in (Optimizer(), Optimizer(0.0, 0.0, 9), Optimizer(0.9))
    )
    assert plain.fingerprint() == off.fingerprint() != on.fingerprint()
    assert set(on.state()) - set(plain.state()) == {
        f"parameters.{layer}.{kind}.velocity.codes" for layer in "cd" for kind in ("weight", "bias")
    }
    before = on.fingerprint()
    on.parameters["c"]["weight"].velocity.codes[0, 0, 0, 0] += 1
    assert on.fingerprint() != before


@pytest.mark.parametrize(
    "values, words",
    [
        ({"momentum": 1.0}, "momentum must be 0 to 0.9999, got 1.0"),
        ({"momentum": -0.1}, "momentum must be 0 to"),
        ({"momentum": float("nan")}, "momentum must be a finite number, got nan"),
        ({"weight_decay": 1.0}, "weight_decay must be from 0 to below 1"),
        ({"weight_decay": -1e-9}, "weight_decay must be"),
        ({"velocity_bits": 33}, "velocity_bits must be 2 to 32, got 33"),
    ],
)
def test_values_out_of_range_are_refused(values, words):
    with pytest.raises(InputError) as caught:
        Optimizer(**values)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_decay_too_fine_to_add_exactly_is_refused_with_the_layer():
    net = FOLLOWED
    assigned = assignment(net, WIDE)
    with pytest.raises(
        InputError, match=r"layer 'c', weight: velocity, gradient and decay add up to \d+ bits"
    ):
        FixedNetwork(net, assigned, start(net, assigned, 0)[0], optimizer=Optimizer(0.9, 1e-12))


def test_an_assignment_takes_modes_of_velocities():
    assigned = assignment(
        FOLLOWED, {}, rounding={"velocities": "stochastic"}, overflow={"bias_velocities": "wrap"}
    )
    assert PrecisionAssignment.from_dict(assigned.to_dict()) == assigned


def test_golden_vectors_hold_velocities_and_explain_updates_by_them(tmp_path):
    """The twin makes velocities and updated codes from what the manifest says.

    A floored update is recognised.
    """
    net = FOLLOWED
    optimizer = Optimizer(0.9, 0.01)
    assigned = assignment(net, {}, rounding={"velocities": "stochastic"})
    fixed = FixedNetwork(net, assigned, start(net, assigned, 1)[0], seed=4, optimizer=optimizer)
    images = np.random.default_rng(0).integers(0, 64, (3, 4, 4, 1))
    labels = np.array([0, 1, 2])
    fixed.train_step(images, labels, LearningRate.of(0.3), 0)
    write_vectors(capture(fixed, images, labels, LearningRate.of(0.3), 1), tmp_path, ("npy",))
    made = Vectors(tmp_path)

    def flat(tensor):
        return made.codes(f"c.{tensor}").reshape(-1).tolist()

    fmts = {
        tensor: tuple_of(made.manifest.entry(f"c.{tensor}").format)
        for tensor in ("velocities", "weight_grads", "weights", "accumulators")
    }
    columns = map(flat, ("velocities_before", "weight_grads", "weights", "velocities_random_words"))
    wanted = [
        oracle.advance(
            *codes,
            oracle.held(0.9),
            oracle.held(0.01),
            tuple(fmts.values())[:3],
            "stochastic",
            word=word,
        )[0]
        for *codes, word in zip(*columns)
    ]
    assert flat("velocities") == wanted and any(flat("velocities_before"))

    def updated(rounding):
        rows = zip(flat("weights"), flat("accumulators_before"), flat("velocities"))
        return [
            update(
                *row,
                LearningRate.of(0.3).exact,
                fmts["weights"],
                fmts["accumulators"],
                fmts["velocities"],
                rounding,
            )
            for row in rows
        ]

    assert [flat("updated_weights"), flat("accumulators")] == [
        list(codes) for codes in list(zip(*updated("nearest_away")))[:2]
    ]
    entry = made.manifest.entry("c.accumulators")
    planted = np.array([row[1] for row in updated("floor")]).reshape(entry.shape)
    assert list(explain(made, entry, planted).changes) == [
        "update: rounding floor instead of nearest_away"
    ]


def test_the_command_line_trains_with_momentum_and_exports_that_step(tmp_path, capsys):
    out = str(tmp_path / "run")
    options = ["--momentum", "0.9", "--weight-decay", "0.001", "--learning-rate", "0.02"]
    for command in (
        ["train", "--quick", "--width", "0.5", *options],
        ["analyze"],
        ["assign"],
        ["train", "--assignment", f"{out}/assignment.json"],
    ):
        assert cli.main([*command, "--out", out]) == 0
    settings = json.loads((tmp_path / "run/results.json").read_text())["identity"]["settings"]
    assert (settings["momentum"], settings["weight_decay"]) == (0.9, 0.001)
    counts = json.loads((tmp_path / "run/results.json").read_text())["designs"][1]["counts"]
    assert counts["conv1.velocities"]["elements"] > 0
    vectors = tmp_path / "vectors"
    assert cli.main(["vectors", "export", "--run", out, "--step", "2", "--out", str(vectors)]) == 0
    assert Vectors(vectors).codes("conv2.velocities_before").any()
    capsys.readouterr()
    assert cli.main(["train", "--momentum", "1", "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err == "fxsim: error: momentum must be 0 to 0.9999, got 1.0\n"

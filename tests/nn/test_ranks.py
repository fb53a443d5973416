"""Several ranks take a training step together, to the bits of one alone."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
from support.golden_hashes_run import formats
from support.ranks import on_ranks

from fxsim import (
    Accumulator,
    Activation,
    BatchNorm,
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
    Pool,
    PrecisionAssignment,
    WordMemory,
)
from fxsim.analysis.scaling import exchange
from fxsim.communicator import ALONE, share_of, total, totals
from fxsim.nn.fixed.stochastic import StochasticNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer

BATCH = 6
SIZES = (2, 3, 4, 8)
"""The batch divides by two of them; of the last, two ranks have no image."""
RATE = LearningRate.of(0.125)
OUT = Dense(name="out", units=5, activation="none")

PLAIN = Network(
    "plain",
    (6, 6, 2),
    (
        Conv(name="a", filters=8, padding=1, pool=Pool("max", 2), dropout=0.25),
        Conv(name="b", filters=8, padding=1, groups=4, pool=Pool("average", 3)),
        OUT,
    ),
)
NORMED = Network(
    "normed",
    (6, 6, 2),
    (
        Conv(name="a", filters=8, padding=1, batch_norm=True, pool=Pool("max", 2)),
        Conv(name="b", filters=8, padding=1, batch_norm=True, dropout=0.5),
        OUT,
    ),
)
RESIDUAL = Network(
    "residual",
    (6, 6, 2),
    (
        Conv(name="stem", filters=8, padding=1, batch_norm=True, dropout=0.25),
        Conv(name="a", filters=8, padding=1, activation=Activation("leaky_relu", slope_exp=-2)),
        Conv(name="b", filters=8, padding=1, batch_norm=True, add="stem"),
        Conv(name="short", filters=8, kernel=1, stride=2, input="b", activation="none"),
        Conv(name="c", filters=8, padding=1, stride=2, input="b", add="short"),
        OUT,
    ),
)
FROZEN = Network(
    "frozen",
    (6, 6, 2),
    (
        Conv(name="a", filters=8, train="bias"),
        Conv(name="b", filters=8, batch_norm=BatchNorm(frozen=True)),
        Conv(name="c", filters=8, kernel=1, batch_norm=BatchNorm(frozen=True), train="none"),
        OUT,
    ),
)
CODER = Network(
    "coder", (2, 2, 2), (Dense(name="a", units=3), Dense(name="out", units=8, activation="none"))
)
IMAGES_OUT = {"loss": "mse", "targets": "tensors"}

REGISTERS = Lfsr(16, (16, 15, 13, 4), 8, 0xACE1, lanes=4, clocks=8)
STOCHASTIC = dict.fromkeys(
    ("accumulators", "activation_grads", "activations", "logits", "weight_grads"), "stochastic"
)
NORM_STOCHASTIC = STOCHASTIC | dict.fromkeys(
    ("gamma_grads", "normalized", "preactivation_grads", "preactivations"), "stochastic"
)
MOMENTUM = Optimizer(0.9, 0.001)
NARROW = {
    "forward": Accumulator(14),
    "input_grad": Accumulator(12, order="tree", drop=2),
    "weight_grad": Accumulator(12, "wrap", when="end"),
}


def words(source):
    return {"rounding": STOCHASTIC, "words": dict.fromkeys(STOCHASTIC, source)}


CASES = {
    "plain": (PLAIN, {}),
    "batch norm": (NORMED, {}),
    "batch norm, stochastic": (NORMED, {"rounding": NORM_STOCHASTIC}),
    "residual, stochastic, momentum": (
        RESIDUAL,
        {"rounding": NORM_STOCHASTIC, "optimizer": MOMENTUM},
    ),
    "registers": (PLAIN, words(REGISTERS)),
    "few bits": (PLAIN, words(Philox(3))),
    "dropped bits": (PLAIN, words(DroppedBits())),
    "words of one's own": (PLAIN, words(WordMemory((200, 3, 77, 0, 255, 128, 31), 8))),
    "stochastic weights": (NORMED, {"executor": StochasticNetwork}),
    "accumulators": (PLAIN, {"accumulator": NARROW}),
    "targets that are tensors": (dataclasses.replace(CODER, **IMAGES_OUT), {}),
    "frozen": (FROZEN, {}),
}


def made(case):
    network, options = CASES[case]
    options = dict(options)
    executor = options.pop("executor", FixedNetwork)
    optimizer = options.pop("optimizer", PLAIN_SGD)
    layers = {}
    for place, (layer, source) in enumerate(network.edges()):
        layers[layer.name] = formats(place)
        if source and network.layer(source).activation.signed:
            signed = Format(9, 1)
            layers[layer.name] = dataclasses.replace(layers[layer.name], activations=signed)
    assignment = PrecisionAssignment(network.name, layers, Format(12, 3), **options)
    return executor(
        network, assignment, initial_parameters(network, 3), seed=9, optimizer=optimizer
    )


def batch(fixed, count=BATCH):
    network = fixed.network
    random = np.random.default_rng(4)
    images = random.integers(0, fixed.input_format.max_code + 1, (count, *network.input_shape))
    if network.decides:
        return images, random.integers(0, network.classes, count)
    return images, random.integers(-100, 100, (count, network.outputs))


def steps(fixed, communicator, count=2):
    """What the steps and an evaluation after them report."""
    images, targets = batch(fixed)
    told = [
        fixed.train_step(images, targets, RATE, step, communicator=communicator)
        for step in range(count)
    ]
    found = fixed.evaluate(images, targets, batch=2, first=5, communicator=communicator)
    return fixed.state(), [*told, found]


def assert_same(got, wanted):
    for name, array in wanted[0].items():
        np.testing.assert_array_equal(got[0][name], array, err_msg=name)
    assert got[1] == wanted[1]
    assert [list(told.counts) for told in got[1]] == [list(told.counts) for told in wanted[1]]


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_comes_to_the_bits_and_the_counts_of_one(case):
    fixed = made(case)
    wanted = steps(copy.deepcopy(fixed), ALONE)
    for size in SIZES:
        for got in on_ranks(size, lambda rank: steps(copy.deepcopy(fixed), rank)):
            assert_same(got, wanted)


def test_shares_lie_side_by_side_and_differ_by_one_image():
    for images in range(1, 20):
        for size in range(1, 10):
            shares = on_ranks(size, lambda rank, images=images: share_of(images, rank))
            own = [share for share in shares if type(share.communicator).__name__ == "ThreadRank"]
            places = [place for share in own for place in range(images)[share.part]]
            assert places == list(range(images))
            assert max(share.images for share in own) - min(share.images for share in own) <= 1
            assert len(own) == min(size, images)


def test_sums_go_over_the_wire_in_the_narrowest_type():
    sums = np.array([2**29, -3])

    def narrow(rank):
        return total(rank, sums, 2**31 - 1).tolist(), rank.wire

    def wide(rank):
        return total(rank, sums, 2**31).tolist(), rank.wire

    added = [2**30 + 2**29, -9]
    assert on_ranks(3, narrow) == 3 * [(added, [(np.int32, 2)])]
    assert on_ranks(3, wide) == 3 * [(added, [(np.int64, 2)])]


def test_large_integers_are_added_up():
    own = [0, -1, 2**62, 2**118, -(2**118), -(2**31), 2**93 - 1]
    for got in on_ranks(3, lambda rank: totals(rank, [(rank.rank + 1) * each for each in own])):
        assert got == [6 * each for each in own]


def test_every_exact_sum_of_a_step_is_exchanged_once():
    """Of a layer: the weights, gamma and beta, or the bias; forward the moments; then the counts."""
    fixed = made("batch norm")

    def wire(rank):
        copy.deepcopy(fixed).train_step(*batch(fixed), RATE, 0, communicator=rank)
        return [elements for _, elements in rank.wire[:-1]]

    a, b, out = (fixed.parameters[name]["weight"].codes.size for name in ("a", "b", "out"))
    for got in on_ranks(2, wire):
        assert got == [2 * 8, 2 * 8, out, 5, 2 * 8, b, 2 * 8, a]


def test_gradients_of_weights_are_waited_for_when_all_layers_are_done():
    """Three layers with a bias: six exchanges, and then the counts."""
    fixed = made("plain")

    def waits(rank):
        copy.deepcopy(fixed).train_step(*batch(fixed), RATE, 0, communicator=rank)
        return rank.waits

    assert on_ranks(2, waits) == 2 * [6 * [6]]


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_a_step_are_those_predicted(case):
    fixed = made(case)

    def sent(rank):
        copy.deepcopy(fixed).train_step(*batch(fixed), RATE, 0, communicator=rank)
        return [dtype.itemsize * elements for dtype, elements in rank.wire]

    predicted = exchange(fixed.network, fixed.assignment, BATCH)
    for found in on_ranks(2, sent):
        assert found[-1] == predicted.counts
        assert sorted(found) == sorted(predicted.sizes)


def test_what_needs_the_whole_batch_in_one_place_is_refused():
    network = PLAIN
    layers = {name: formats(place) for place, name in enumerate(network.names)}
    for model in (Accumulator(20), Accumulator(20, when="end", drop=1)):
        assignment = PrecisionAssignment(
            "plain", layers, Format(12, 3), accumulator={"b.weight_grad": model}
        )
        ordered = FixedNetwork(network, assignment, initial_parameters(network, 3))
        step = functools.partial(ordered.train_step, *batch(ordered), RATE, 0, None)
        with pytest.raises(InputError, match="layer 'b': the accumulator of weight_grad adds"):
            on_ranks(2, step)
        step()
    fixed = made("plain")
    with pytest.raises(InputError, match="probe sees the tensors of a whole batch"):
        on_ranks(2, lambda rank: fixed.train_step(*batch(fixed), RATE, 0, print, rank))
    for wrong in (None, 2, on_ranks):
        with pytest.raises(TypeError, match="communicator"):
            fixed.train_step(*batch(fixed), RATE, 0, communicator=wrong)
        with pytest.raises(TypeError, match="communicator"):
            fixed.evaluate(*batch(fixed), communicator=wrong)


def test_where_one_rank_fails_no_other_waits_and_the_step_is_undone():
    networks = [made("plain") for _ in range(3)]
    before = networks[0].fingerprint()

    def step(rank):
        fixed = networks[rank.rank]
        if rank.rank == 1:
            fixed.layers["b"].input_grad = None  # fails in the middle of its backward pass
        fixed.train_step(*batch(fixed), RATE, 0, communicator=rank)

    with pytest.raises(RuntimeError, match="please report"):
        on_ranks(3, step)
    assert {fixed.fingerprint() for fixed in networks} == {before}

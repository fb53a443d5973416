"""Random words of registers in a network: steps replayed, inference, resume."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from support.fixed_step_cases import NETWORKS, assignment, start

from fxsim import (
    Activation,
    Dense,
    DroppedBits,
    FixedNetwork,
    InputError,
    LearningRate,
    Lfsr,
    Network,
    Philox,
    WordMemory,
    presets,
)
from fxsim.kernels import threads

NETWORK = NETWORKS["max pool"]
REGISTERS = Lfsr(16, (16, 15, 13, 4), 8, 0xACE1, lanes=4, clocks=8)
RATE = LearningRate.of(0.3)


def network(words, rounding=None):
    rounding = rounding or dict.fromkeys(words, "stochastic")
    assigned = assignment(NETWORK, {}, rounding=rounding, words=words)
    real, _, _ = start(NETWORK, assigned, 0)
    return FixedNetwork(NETWORK, assigned, real)


def batch(fixed, count=4):
    random = np.random.default_rng(8)
    images = random.integers(0, fixed.input_format.max_code + 1, (count, *NETWORK.input_shape))
    return images, random.integers(0, 3, count)


def trained(fixed, steps):
    for step in steps:
        fixed.train_step(*batch(fixed), RATE, step)
    return fixed.fingerprint()


SOURCES = {
    "registers": REGISTERS,
    "registers that never stand still": Lfsr(16, (16, 15, 13, 4), 8, 5, period=1000, start=7),
    "few bits": Philox(4),
    "dropped bits": DroppedBits(),
    "words of one's own": WordMemory((200, 3, 77, 0, 255, 128, 31), 8),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_training_goes_on_from_its_parameters_alone(name):
    """Registers have no state but the number of the step."""
    words = dict.fromkeys(("accumulators", "weight_grads", "activations"), SOURCES[name])
    whole = network(words)
    first = network(words)
    trained(first, range(2))
    resumed = network(words)
    resumed.load_state(first.state())
    assert trained(resumed, range(2, 4)) == trained(whole, range(4))


def test_sources_and_steps_give_other_bits():
    """Of the same parameters, one step on."""
    prints = set()
    for source in SOURCES.values():
        prints.add(trained(network({"accumulators": source}), [3]))
    assert len(prints) == len(SOURCES)
    moving = network({"accumulators": REGISTERS})
    assert trained(copy.deepcopy(moving), [0]) != trained(copy.deepcopy(moving), [1])
    anew = network({"accumulators": Lfsr(16, (16, 15, 13, 4), 8, 5, period=0)})
    assert trained(copy.deepcopy(anew), [0]) == trained(copy.deepcopy(anew), [1])


def test_threads_change_nothing():
    words = dict.fromkeys(("accumulators", "activations"), REGISTERS)
    before = threads.thread_count()
    prints = set()
    try:
        for count in (1, 2):
            threads.use_threads(count)
            prints.add(trained(network(words), range(2)))
    finally:
        threads.use_threads(before)
    assert len(prints) == 1


@pytest.mark.parametrize("name", SOURCES)
def test_logits_of_an_image_depend_on_its_place_alone(name):
    fixed = network(dict.fromkeys(("activations", "logits"), SOURCES[name]))
    images, labels = batch(fixed, 7)
    whole = fixed.logits(images)
    parts = [fixed.logits(images[part], part.start) for part in (slice(0, 3), slice(3, 7))]
    assert np.array_equal(np.concatenate(parts), whole)
    losses = {fixed.evaluate(images, labels, size).loss_sum for size in (1, 2, 7)}
    assert len(losses) == 1


def test_words_of_the_gradient_before_a_leaky_relu_go_with_its_format():
    layers = (
        Dense(name="a", units=2, activation=Activation("leaky_relu", slope_exp=-2)),
        Dense(name="scores", units=2, activation="none"),
    )
    net = Network("n", (1, 1, 3), layers)
    given = presets.uniform("Q4.8").assignment(net)
    words = {"a.relu_input_grads": Philox(8)}
    own = replace(given, rounding={"relu_input_grads": "stochastic"}, words=words)
    assert own.layers["a"].relu_input_grads is not None
    own.check_network(net)
    exact = {"a": replace(own.layers["a"], relu_input_grads=None), "scores": own.layers["scores"]}
    with pytest.raises(InputError, match="quantizes no such tensor"):
        replace(own, layers=exact).check_network(net)
    frozen = net.training_only("scores")
    with pytest.raises(InputError, match="computes no relu_input_grads here"):
        own.check_network(frozen)

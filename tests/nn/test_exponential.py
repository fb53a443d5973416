"""The exponential of a cross-entropy as the network gives it."""

import dataclasses

import numpy as np
import pytest
from oracle import losses as losses_oracle
from oracle import softmax as oracle
from support.fixed_step_cases import assignment, check_steps

from fxsim import (
    Dense,
    Exponential,
    FixedNetwork,
    Format,
    InputError,
    LearningRate,
    Network,
    Tensor,
    ops,
)
from fxsim.golden.capture import capture
from fxsim.golden.explain.search import explain
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import from_dict, to_dict

ROUGH = Exponential(index_bits=2, entry_bits=8, interpolation="none")
NETWORK = Network(
    "rough",
    (1, 1, 6),
    (Dense(name="d", units=5), Dense(name="scores", units=4, activation="none")),
    exponential=ROUGH,
)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("recipe", [ROUGH, Exponential(4, 12)])
def test_training_steps_are_the_twins(loss, recipe):
    network = dataclasses.replace(NETWORK, loss=loss, exponential=recipe)
    check_steps(network, assignment(network, {}))


def test_operations_are_the_twins():
    random = np.random.default_rng(0)
    logits = Tensor(random.integers(-64, 64, (9, 5)), Format(7, 2))
    labels = random.integers(0, 5, 9)
    recipe = 2, 8, "none"
    step_exp = logits.format.step_exp
    rows = logits.codes.tolist()
    wanted = [oracle.loss(row, label, step_exp, recipe) for row, label in zip(rows, labels)]
    assert ops.softmax_cross_entropy(logits, labels, ROUGH).losses.codes.tolist() == wanted
    numerators = ops.softmax_cross_entropy_grad(logits, labels, ROUGH).numerators
    for row, label, got in zip(rows, labels, numerators.tolist()):
        exact = oracle.exact_gradient(row, label, step_exp, 1, recipe)
        assert got == [value * 2**16 for value in exact]
    targets = Tensor(np.abs(logits.codes) % 17, logits.format)
    one = 1 << -step_exp
    targets = Tensor(np.minimum(targets.codes, one), logits.format)
    losses = ops.sigmoid_cross_entropy(logits, targets, ROUGH).numerators.tolist()
    assert losses == [
        losses_oracle.loss("sigmoid_cross_entropy", row, other, step_exp, recipe)
        for row, other in zip(rows, targets.codes.tolist())
    ]


def test_tables_of_a_network():
    assert to_dict(NETWORK)["exponential"] == dataclasses.asdict(ROUGH)
    assert from_dict(to_dict(NETWORK)) == NETWORK
    assert "exponential" not in to_dict(dataclasses.replace(NETWORK, exponential=Exponential()))


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"exponential": {"index_bits": 17}}, "index_bits must be 1 to 16, got 17"),
        ({"exponential": {"entry_bits": 0}}, "entry_bits must be 1 to 30, got 0"),
        ({"exponential": {"interpolation": "cubic"}}, "'cubic' is unknown"),
        ({"exponential": {"bits": 3}}, "'bits' is unknown"),
        ({"exponential": 3}, "exponential"),
        ({"loss": "mse"}, "exponential has no effect on loss 'mse'"),
    ],
)
def test_tables_that_are_refused(changes, why):
    with pytest.raises(InputError, match=why):
        from_dict(to_dict(NETWORK) | changes)


def test_another_exponential_is_found(tmp_path):
    fixed = FixedNetwork(NETWORK, assignment(NETWORK, {}), initial_parameters(NETWORK, 0))
    random = np.random.default_rng(1)
    images = random.integers(0, fixed.input_format.max_code + 1, (8, 1, 1, 6))
    labels = random.integers(0, 4, 8)
    golden = capture(fixed, images, labels, LearningRate.of(0.5), 0)
    write_vectors(golden, tmp_path, ["npy"])
    vectors = Vectors(tmp_path)
    assert vectors.manifest.network.exponential == ROUGH
    logits = Tensor(vectors.codes("scores.logits"), vectors.manifest.entry("scores.logits").format)
    entry = vectors.manifest.entry("scores.activation_grads")
    for other, text in (
        (Exponential(2, 8), "exponential: interpolation linear instead of none"),
        (Exponential(3, 8, "none"), "exponential: index_bits 3 instead of 2"),
        (Exponential(2, 5, "none"), "exponential: entry_bits 5 instead of 8"),
    ):
        flat = logits.reshape(8, -1)
        planted = ops.softmax_cross_entropy_grad(flat, labels, other).to(entry.format).codes
        assert text in explain(vectors, entry, planted.reshape(entry.shape)).changes

"""Networks with losses that compare each output with a target: steps, targets, results."""

import dataclasses

import numpy as np
import pytest
from support.fixed_step_cases import assignment, check_steps, start

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network, from_dict, to_dict
from fxsim.tensor import Tensor

LOSSES = ("mse", "half_mse", "sigmoid_cross_entropy")
DENSE = (Dense(name="inner", units=3), Dense(name="outer", units=6, relu=False))
CONV = (
    Conv(name="inner", filters=2, kernel=2, padding=1),
    Conv(name="outer", filters=2, kernel=2, relu=False),
)
STOCHASTIC = {"activation_grads": "stochastic", "weight_grads": "stochastic"}


def network(loss="mse", layers=DENSE, targets="tensors"):
    return Network("small", (3, 2, 1), layers, loss, targets)


def float_network(loss="mse", **fields):
    small = network(loss, **fields)
    return FloatNetwork(small, initial_parameters(small, 3), np.float64)


def fixed_network(loss="mse", **fields):
    small = network(loss, **fields)
    assigned = assignment(small, {})
    return FixedNetwork(small, assigned, start(small, assigned, 3)[0])


@pytest.mark.parametrize("targets", ["tensors", "labels"])
@pytest.mark.parametrize("loss", LOSSES)
def test_steps_equal_the_twin(loss, targets):
    small = network(loss, targets=targets)
    check_steps(small, assignment(small, {}), batch=3)
    check_steps(small, assignment(small, {"activation_grads": 5}, rounding=STOCHASTIC), steps=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_have_any_shape(loss):
    small = network(loss, CONV)
    assert (small.output_shape, small.outputs) == ((3, 2, 2), 12)
    check_steps(small, assignment(small, {}, logits=Format(9, 2)), batch=2)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("targets", ["tensors", "labels"])
def test_the_float_gradient_is_that_of_the_loss(loss, targets):
    net = float_network(loss, targets=targets)
    random = np.random.default_rng(0)
    images = random.random((4, 3, 2, 1))
    wanted = random.random((4, 6)) if targets == "tensors" else np.array([0, 5, 3, 3])
    _, grads = net.loss_and_grads(images, wanted)
    for layer, kind, place in (("outer", "weight", (1, 2)), ("inner", "bias", (1,))):
        parameter = net.parameters[layer][kind]
        ends = []
        for shift in (1e-5, -2e-5):
            parameter[place] += shift
            ends.append(net.evaluate(images, wanted).loss)
        parameter[place] += 1e-5
        assert grads[layer][kind][place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_the_losses_are_those_that_are_stated():
    random = np.random.default_rng(1)
    images = random.random((4, 3, 2, 1))
    wanted = random.random((4, 6))
    outputs = float_network().logits(images)
    squares = (outputs - wanted) ** 2
    p = 1 / (1 + np.exp(-outputs))
    entropy = -wanted * np.log(p) - (1 - wanted) * np.log(1 - p)
    values = {
        "mse": squares.mean(),
        "half_mse": squares.sum(axis=1).mean() / 2,
        "sigmoid_cross_entropy": entropy.sum(axis=1).mean(),
    }
    for loss, value in values.items():
        result = float_network(loss).evaluate(images, wanted, batch=3)
        assert (result.loss, result.wrong, result.error) == (pytest.approx(value), None, None)


@pytest.mark.parametrize("loss", LOSSES)
def test_fixed_and_float_agree(loss):
    fixed = fixed_network(loss)
    small = fixed.network
    random = np.random.default_rng(2)
    images = random.integers(0, fixed.input_format.max_code + 1, (5, *small.input_shape))
    wanted = random.integers(0, 257, (5, 6))
    result = fixed.evaluate(images, wanted, batch=2)
    real = FloatNetwork(
        small,
        {
            name: {kind: own.codes * own.format.step for kind, own in parameters.items()}
            for name, parameters in fixed.parameters.items()
        },
        np.float64,
    )
    exact = real.evaluate(images * fixed.input_format.step, wanted * fixed.target_format.step)
    assert result.loss == pytest.approx(exact.loss, rel=0.05)
    assert (result.wrong, result.error) == (None, None)


def test_labels_give_decisions():
    for net in (fixed_network(targets="labels"), float_network(targets="labels")):
        images = np.zeros((3, 3, 2, 1), int if isinstance(net, FixedNetwork) else float)
        label = int(net.logits(images)[0].argmax())
        result = net.evaluate(images, [label, label, (label + 1) % 6])
        assert (result.wrong, result.error) == (1, 1 / 3)


@pytest.mark.parametrize("make", [fixed_network, float_network])
def test_targets_have_the_shape_of_outputs_or_images(make):
    net = make()
    kind = int if make is fixed_network else float
    images = np.zeros((2, 3, 2, 1), kind)
    results = [
        net.evaluate(images, np.arange(12, dtype=kind).reshape(shape) / (1 if kind is int else 16))
        if kind is float
        else net.evaluate(images, np.arange(12).reshape(shape))
        for shape in ((2, 6), (2, 1, 1, 6), (2, 3, 2, 1))
    ]
    assert len({result.loss for result in results}) == 1
    for shape in ((3, 6), (2, 2, 3, 1), (12,), (2, 5), (2, 6, 1)):
        with pytest.raises(InputError, match=r"targets must have shape \(2, 1, 1, 6\), .* or"):
            net.train_step(images, np.zeros(shape, kind), 0.1, 0)


def test_targets_outside_their_range_are_refused():
    images = np.zeros((1, 3, 2, 1), int)
    fixed = fixed_network()
    with pytest.raises(InputError, match=r"targets must be in \[-2048, 2047\], got \[0, 2048\]"):
        fixed.train_step(images, [[0, 0, 0, 0, 0, 2048]], 0.1, 0)
    with pytest.raises(TypeError, match="targets must hold integers.*quantize them to s12"):
        fixed.train_step(images, np.zeros((1, 6)), 0.1, 0)
    with pytest.raises(InputError, match="targets must be in the format of the logits s12"):
        fixed.train_step(images, Tensor(np.zeros((1, 6), int), Format(12, 4)), 0.1, 0)
    with pytest.raises(InputError, match=r"targets must be in \[0, 256\].*0 to 1 in steps of 0.00"):
        fixed_network("sigmoid_cross_entropy").train_step(images, [[0, 0, 0, 0, 0, 257]], 0.1, 0)
    with pytest.raises(InputError, match=r"targets must be in \[0, 1\], got \[0.0, 1.5\]"):
        float_network("sigmoid_cross_entropy").evaluate(
            images / 1, np.array([[0, 0, 0, 0, 0, 1.5]])
        )
    with pytest.raises(InputError, match="targets must be finite"):
        float_network().evaluate(images / 1, np.array([[0, 0, 0, 0, 0, np.nan]]))


def test_a_tensor_in_the_format_of_the_logits_is_a_target():
    fixed = fixed_network()
    images = np.zeros((1, 3, 2, 1), int)
    codes = np.arange(6).reshape(1, 6)
    with_codes = fixed.evaluate(images, codes)
    assert fixed.evaluate(images, Tensor(codes, fixed.target_format)) == with_codes


def test_formats_that_a_loss_does_not_take_are_refused():
    def build(loss, logits, targets="tensors"):
        small = network(loss, targets=targets)
        FixedNetwork(small, assignment(small, {}, logits=logits), initial_parameters(small, 0))

    with pytest.raises(InputError, match="6 outputs in s30 .* needs 63 bits, at most 62"):
        build("mse", Format(30, 3))
    with pytest.raises(InputError, match=r"outputs must be signed, .* step of 2\^-24 to 1"):
        build("sigmoid_cross_entropy", Format(32, 3))
    with pytest.raises(InputError, match="step of at most 1, .* the target of the label is 1"):
        build("mse", Format(4, 5), "labels")
    with pytest.raises(InputError, match=r"logits must be signed, with a range up to 2\^13"):
        build("softmax_cross_entropy", Format(16, 14), "labels")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"loss": "msee"}, "loss 'msee' is unknown; did you mean 'mse'"),
        ({"loss": 3}, "loss 3 is unknown; choose from softmax_cross_entropy, mse"),
        ({"targets": "label", "loss": "mse"}, "targets 'label' is unknown; did you mean 'labels'"),
        ({"targets": "tensors"}, "loss 'softmax_cross_entropy' takes labels; leave targets out"),
        ({"los": "mse"}, "key 'los' is unknown; did you mean 'loss'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        from_dict(
            {**to_dict(network()), "loss": "softmax_cross_entropy", "targets": "labels"} | fields
        )


def test_class_scores_have_one_position():
    with pytest.raises(InputError, match="one position .* or set targets='tensors'"):
        network("mse", CONV, "labels")


def test_a_table_has_loss_and_targets():
    table = to_dict(network("half_mse"))
    assert (table["loss"], table["targets"]) == ("half_mse", "tensors")
    assert from_dict(table) == network("half_mse")
    plain = dataclasses.replace(network(), loss="softmax_cross_entropy", targets="labels")
    assert not {"loss", "targets"} & set(to_dict(plain))
    assert (plain.classes, network().classes) == (6, 0)

"""The float executor: gradients against central differences, semantics of each stage, training."""

import hashlib

import numpy as np
import pytest

from fxsim import datasets
from fxsim.errors import InputError
from fxsim.nn.floating.losses import cross_entropy
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import WEIGHT_MAX, initial_parameters
from fxsim.nn.networks import digits_convnet
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.rng import Stream

STEP = 3
SEED = 5

EVERYTHING = Network(
    "everything",
    (11, 10, 2),
    (
        Conv(name="stem", filters=4, kernel=3, padding=1, batch_norm=True, pool=Pool("max", 2)),
        Conv(
            name="shortcut",
            filters=6,
            stride=2,
            padding=1,
            batch_norm=True,
            relu=False,
            input="stem",
        ),
        Conv(
            name="body1", filters=5, stride=2, padding=1, batch_norm=True, dropout=0.3, input="stem"
        ),
        Conv(name="body2", filters=6, padding=1, batch_norm=True, add="shortcut"),
        Conv(name="biased", filters=6, kernel=1, add="body2", dropout=0.2),
        Conv(name="even", filters=5, kernel=2, stride=1, pool=Pool("average", 2)),
        Dense(name="hidden", units=7, batch_norm=True, dropout=0.25),
        Dense(name="unpooled", units=6),
        Dense(name="scores", units=4, relu=False),
    ),
)


def everything(dtype=np.float64):
    """A network with every feature, its parameters away from their special initial values, and
    a batch.
    """
    rng = np.random.default_rng(1)
    parameters = initial_parameters(EVERYTHING, 7)
    for own in parameters.values():
        for name in own.keys() - {"weight"}:
            own[name] += rng.uniform(-0.2, 0.2, own[name].shape)
    images = rng.uniform(0, 1, (6, *EVERYTHING.input_shape))
    labels = rng.integers(0, 4, 6)
    return FloatNetwork(EVERYTHING, parameters, dtype, seed=SEED), images.astype(dtype), labels


def central_difference(function, array, index, step=1e-6):
    original = array[index]
    array[index] = original + step
    above = function()
    array[index] = original - step
    below = function()
    array[index] = original
    return (above - below) / (2 * step)


def gradient_error(function, array, gradient, samples=25, factor=1.0):
    """Relative error of `factor * gradient` against central differences of `function` at some
    elements of `array`.
    """
    chosen = np.random.default_rng(2).permutation(array.size)[:samples]
    indices = [np.unravel_index(flat, array.shape) for flat in chosen]
    wanted = np.array([central_difference(function, array, index) for index in indices])
    got = factor * np.array([gradient[index] for index in indices])
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def test_training_gradients_agree_with_central_differences_and_a_wrong_one_is_caught():
    net, images, labels = everything()

    def loss():
        return cross_entropy(net.forward_tape(images, training=True, step=STEP).logits, labels)[0]

    _, gradients = net.loss_and_grads(images, labels, step=STEP)
    for layer, own in gradients.items():
        for name, gradient in own.items():
            parameter = net.parameters[layer][name]
            assert gradient_error(loss, parameter, gradient) < 1e-6, (layer, name)
            assert gradient_error(loss, parameter, gradient, factor=1.001) > 9e-4, (layer, name)


def test_inference_gradients_agree_with_central_differences():
    net, images, _ = everything()
    direction = np.random.default_rng(3).normal(size=(len(images), 4))
    tape = net.forward_tape(images)

    def value():
        return float((net.logits(images) * direction).sum())

    for layer, own in net.backward(tape, direction).items():
        for name, gradient in own.items():
            assert gradient_error(value, net.parameters[layer][name], gradient) < 1e-6, (
                layer,
                name,
            )
    *_, first = net.walk_back(tape, direction, images=True)
    assert first.name == "stem"
    assert gradient_error(value, images, first.input) < 1e-6


def test_per_sample_weight_gradients_come_from_columns_and_operation_gradients():
    net, images, _ = everything()
    direction = np.random.default_rng(3).normal(size=(len(images), 4))
    tape = net.forward_tape(images)
    alone = [
        net.backward(net.forward_tape(images[n : n + 1]), direction[n : n + 1])
        for n in range(len(images))
    ]
    for local in net.walk_back(tape, direction):
        per_sample = tape.columns(local.name).transpose(0, 2, 1) @ local.operation
        for n, gradients in enumerate(alone):
            wanted = gradients[local.name]["weight"]
            np.testing.assert_allclose(
                per_sample[n].reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-12
            )


def test_walk_back_gives_the_gradient_of_every_output_summed_over_its_readers():
    net, images, _ = everything()
    direction = np.random.default_rng(3).normal(size=(len(images), 4))
    outputs = {
        local.name: local.output for local in net.walk_back(net.forward_tape(images), direction)
    }
    moved = "stem"  # read by 'shortcut' and by 'body1'

    offset = np.zeros((len(images), *EVERYTHING.shape(moved).output))

    def value():
        return float((forward_with_offset(net, images, moved, offset) * direction).sum())

    assert gradient_error(value, offset, outputs[moved]) < 1e-6


def forward_with_offset(net, images, moved, offset):
    """Scores where `offset` is added to the output of the layer `moved`, in the array that the
    probe is lent.
    """

    def add(tensor, layer, array):
        if tensor == "activations" and layer == reader:
            array.base[...] += offset

    reader = next(layer.name for layer, source in net.network.edges() if source == moved)
    return net.forward_tape(images, probe=add).logits


def test_float32_agrees_with_float64():
    (net32, images, labels) = everything(np.float32)
    (net64, images64, _) = everything(np.float64)
    loss32, gradients32 = net32.loss_and_grads(images, labels, step=STEP)
    loss64, gradients64 = net64.loss_and_grads(images64, labels, step=STEP)
    assert loss32 == pytest.approx(loss64, rel=1e-5)
    for layer, own in gradients32.items():
        for name, gradient in own.items():
            wanted = gradients64[layer][name]
            assert gradient.dtype == np.float32
            assert np.linalg.norm(gradient - wanted) < 1e-4 * np.linalg.norm(wanted) + 1e-7, (
                layer,
                name,
            )


def one_layer(**fields):
    """A network whose first layer has the fields under test.

    1x1 weight 1, bias 0; then an average per channel.
    """
    network = Network(
        "one",
        (4, 4, 1),
        (
            Conv(name="layer", filters=1, kernel=1, **fields),
            Dense(name="scores", units=2, relu=False),
        ),
    )
    parameters = initial_parameters(network, 0)
    parameters["layer"]["weight"][:] = WEIGHT_MAX
    return FloatNetwork(network, parameters, np.float64, seed=SEED)


def gradient_of_input(net, images, output_gradient):
    tape = net.forward_tape(images)
    return net.activation_gradients(tape, "layer", output_gradient).operation.reshape(images.shape)


def test_relu_gradient_passes_strictly_inside_the_clip_range():
    net = one_layer()
    net.parameters["layer"]["weight"][:] = 0.5
    images = np.array([-1.0, 0.0, 1e-9, 3.9999, 4.0, 5.0] + [1.0] * 10).reshape(1, 4, 4, 1)
    passed = gradient_of_input(net, images, np.ones((1, 4, 4, 1)))
    assert passed.ravel()[:6].tolist() == [0, 0, 1, 1, 0, 0]
    output = net.forward_tape(images).layers["layer"].output
    np.testing.assert_array_equal(output.ravel()[:6], np.clip(images.ravel()[:6] / 2, 0, 2))


def test_the_first_maximum_in_row_major_order_gets_the_gradient():
    net = one_layer(pool=Pool("max", 2))
    images = np.array(
        [[0.5, 0.5, 0.1, 0.7], [0.5, 0.5, 0.7, 0.2], [0.1, 0.2, 0.0, 0.0], [0.3, 0.3, 0.0, 0.0]]
    ).reshape(1, 4, 4, 1)
    passed = gradient_of_input(net, images, np.arange(1.0, 5.0).reshape(1, 2, 2, 1))
    wanted = [[1, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]
    assert passed.reshape(4, 4).tolist() == wanted


def test_average_pooling_gives_each_position_an_equal_share_and_drops_the_remainder():
    net = one_layer(pool=Pool("average", 3))
    images = np.linspace(0.1, 0.9, 16).reshape(1, 4, 4, 1)
    output = net.forward_tape(images).layers["layer"].output
    assert output.item() == pytest.approx(WEIGHT_MAX * images[0, :3, :3].mean())
    passed = gradient_of_input(net, images, np.full((1, 1, 1, 1), 9.0))[0, :, :, 0]
    assert passed.tolist() == [[1, 1, 1, 0]] * 3 + [[0] * 4]


def test_batch_norm_normalizes_and_moves_its_running_statistics_by_a_sixteenth():
    net = one_layer(batch_norm=True)
    images = np.random.default_rng(0).uniform(0, 1, (5, 4, 4, 1))
    values = WEIGHT_MAX * images
    seen = {}
    net.forward_tape(
        images,
        training=True,
        probe=lambda tensor, layer, array: (
            seen.setdefault(tensor, array.copy())
            if (tensor, layer) == ("preactivations", "layer")
            else None
        ),
    )
    wanted = (values - values.mean()) / np.sqrt(values.var() + 2.0**-10)
    np.testing.assert_allclose(seen["preactivations"], wanted, rtol=1e-12, atol=1e-12)
    own = net.parameters["layer"]
    assert own["running_mean"].item() == pytest.approx(values.mean() / 16)
    assert own["running_var"].item() == pytest.approx(1 + (values.var() - 1) / 16)


def test_dropout_follows_its_stream_and_rests_in_inference():
    net = one_layer(dropout=0.25)
    images = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4, 4, 1))
    plain = net.forward_tape(images).layers["layer"].output
    dropped = net.forward_tape(images, training=True, step=STEP).layers["layer"].output
    kept = Stream(SEED, STEP, "layer.dropout").words(images.shape) >= 2**30
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(dropped, np.where(kept, plain / 0.75, 0), rtol=1e-15)
    np.testing.assert_allclose(plain, WEIGHT_MAX * images, rtol=1e-15)


def test_cross_entropy_is_that_of_the_definition_and_does_not_overflow():
    scores = np.array([[1.0, 2.0, 3.0], [0.0, 1e4, 0.0]])
    loss, gradients = cross_entropy(scores, np.array([0, 1]))
    first = np.exp(scores[0]) / np.exp(scores[0]).sum()
    assert loss == pytest.approx(-np.log(first[0]) / 2)
    np.testing.assert_allclose(gradients, [(first - [1, 0, 0]) / 2, [0, 0, 0]], atol=1e-15)


def test_a_diverged_run_shows_nan_instead_of_clipping_it_away():
    net, images, labels = everything(np.float32)
    net.parameters["stem"]["weight"][0, 0, 0, 0] = np.nan
    loss, gradients = net.loss_and_grads(images, labels, step=STEP)
    assert np.isnan(loss) and np.isnan(gradients["stem"]["weight"]).any()


def test_probes_see_every_tensor_of_a_step_with_its_shape():
    net, images, labels = everything(np.float32)
    seen = {}
    net.train_step(
        images,
        labels,
        0.1,
        step=0,
        probe=lambda tensor, layer, array: seen.update({(tensor, layer): array.shape}),
    )
    for layer in EVERYTHING.layers:
        shape = EVERYTHING.shape(layer.name)
        count = len(images)
        wanted = {
            "activations": (count, *shape.input),
            "preactivations": (count, *shape.pre),
            "activation_grads": (count, *shape.output),
            "weight_grads": shape.weight,
        }
        names = ("bias_grads",) if layer.has_bias else ("gamma_grads", "beta_grads")
        wanted |= dict.fromkeys(names, shape.weight[-1:])
        if layer.batch_norm:
            wanted["preactivation_grads"] = (count, shape.pre[0] * shape.pre[1], shape.pre[2])
        if layer.name == "scores":
            wanted["logits"] = (count, 4)
        assert {
            tensor: shape for (tensor, name), shape in seen.items() if name == layer.name
        } == wanted


def test_probes_change_nothing():
    (watched, images, labels) = everything(np.float32)
    (plain, _, _) = everything(np.float32)
    assert watched.train_step(
        images, labels, 0.1, step=0, probe=lambda *_: None
    ) == plain.train_step(images, labels, 0.1, step=0)
    for layer, own in plain.parameters.items():
        for name, array in own.items():
            np.testing.assert_array_equal(watched.parameters[layer][name], array)


def test_an_update_descends_and_stays_in_range():
    net, images, labels = everything(np.float32)
    _, gradients = net.loss_and_grads(images, labels, step=0)
    before = {
        layer: {name: array.copy() for name, array in own.items()}
        for layer, own in net.parameters.items()
    }
    net.update(gradients, 0.5)
    for layer, own in gradients.items():
        for name, gradient in own.items():
            top = 1 if name in ("weight", "bias") else 2
            wanted = np.clip(
                before[layer][name] - np.float32(0.5) * gradient, -top, top * WEIGHT_MAX
            )
            np.testing.assert_array_equal(net.parameters[layer][name], wanted.astype(np.float32))
    net.update(
        {
            "biased": {"weight": np.float32([[[[-9.0] * 6] * 6]])},
            "stem": {"gamma": np.float32([9.0] * 4)},
        },
        1.0,
    )
    assert (
        net.parameters["biased"]["weight"].max() < 1 and net.parameters["stem"]["gamma"].min() == -2
    )


def test_initial_weights_are_the_same_bits_everywhere():
    digest = hashlib.sha256()
    for own in initial_parameters(digits_convnet(0.25), 42).values():
        for array in own.values():
            digest.update(array.astype("<f8").tobytes())
    assert digest.hexdigest() == (
        "efaf1cfdb497a035df50294308e386bee36f8fe4f3f01e6d9486015efd7f7f5e"
    )


def test_initial_weights_are_uniform_up_to_the_he_bound():
    own = initial_parameters(digits_convnet(), 0)["conv3"]
    bound = np.sqrt(6 / 144)
    assert (
        -bound <= own["weight"].min() < -0.99 * bound
        and 0.99 * bound < own["weight"].max() <= bound
    )
    assert own["weight"].std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not own["bias"].any()
    wide = Network("wide", (1, 1, 1), (Dense(name="scores", units=999, relu=False),))
    weight = initial_parameters(wide, 0)["scores"]["weight"]
    assert weight.min() == -1 and weight.max() == WEIGHT_MAX


def test_training_on_the_digits_lowers_loss_and_error():
    digits = datasets.digits()
    network = digits_convnet(0.5)
    net = FloatNetwork(network, initial_parameters(network, 1))
    images = digits.train_images / np.float32(16)
    test = digits.test_images / np.float32(16)
    before = net.evaluate(test, digits.test_labels)
    for step in range(66):
        rows = slice(step % 22 * 64, step % 22 * 64 + 64)
        net.train_step(images[rows], digits.train_labels[rows], 0.1, step=step)
    after = net.evaluate(test, digits.test_labels)
    assert after.loss < before.loss / 2 and after.error < 0.3 < 0.8 < before.error


def test_evaluate_does_not_depend_on_the_batch():
    net, images, labels = everything()
    whole = net.evaluate(images, labels)
    parts = net.evaluate(images, labels, batch=4)
    assert (parts.loss, parts.wrong) == (pytest.approx(whole.loss), whole.wrong)
    wrong = sum(np.argmax(net.logits(images[n : n + 1])) != labels[n] for n in range(len(images)))
    assert whole.error == wrong / len(images)


def test_bad_input_is_refused_in_one_line():
    net, images, labels = everything()
    with pytest.raises(TypeError, match="images"):
        net.logits(np.zeros((1, 11, 10, 2), np.uint8))
    with pytest.raises(InputError, match="images must have shape"):
        net.logits(images[:, :5])
    with pytest.raises(InputError, match=r"labels must be in \[0, 3\]"):
        net.loss_and_grads(images, labels + 4, step=STEP)
    with pytest.raises(InputError, match="labels must have shape"):
        net.evaluate(images, labels[:2])
    with pytest.raises(InputError, match="dtype"):
        FloatNetwork(EVERYTHING, net.parameters, np.float16)
    with pytest.raises(InputError, match="layer 'hidden': parameter 'gamma' is missing"):
        FloatNetwork(
            EVERYTHING, net.parameters | {"hidden": {"weight": net.parameters["hidden"]["weight"]}}
        )

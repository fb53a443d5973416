"""What callers bring: whatever array it is, each public function takes it right or refuses it in
one line; no draw ends the process.
"""

import numpy as np
import pytest

from fxsim import (
    Conv,
    Dense,
    FixedNetwork,
    FloatNetwork,
    Format,
    InputError,
    LayerPrecision,
    LearningRate,
    Network,
    Pool,
    PrecisionAssignment,
    Tensor,
    quantize,
)
from fxsim.nn.init import initial_parameters

DRAWS = 3000
LONGEST_MESSAGE = 300
GRADS = Format(16, 0)
PRECISION = LayerPrecision(
    weights=Format(8, 0),
    activations=Format(8, 0, False),
    activation_grads=GRADS,
    weight_grads=GRADS,
    accumulators=Format(16, -8),
)
NETWORK = Network(
    "n",
    (5, 5, 2),
    (
        Conv(name="c", filters=3, padding=1, batch_norm=True, pool=Pool("max", 2)),
        Dense(name="f", units=3, relu=False),
    ),
)
ASSIGNMENT = PrecisionAssignment("n", {"c": PRECISION, "f": PRECISION})
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (4, 5, 5, 2))
LABELS = RANDOM.integers(0, 3, 4)
RATE = LearningRate.of(0.1)


def fixed():
    return FixedNetwork(NETWORK, ASSIGNMENT, initial_parameters(NETWORK, 0))


def floating():
    return FloatNetwork(NETWORK, initial_parameters(NETWORK, 0), np.float64)


def changed(parameters, layer, name, value):
    return parameters | {layer: parameters[layer] | {name: value}}


# What each wrong thing is, and what is said about it.


@pytest.mark.parametrize(
    "layer, name, spoil, message",
    [
        ("c", "weight", lambda w: w.transpose(3, 2, 0, 1), r"PyTorch's layout \(O, C, KH, KW\)"),
        ("c", "weight", lambda w: w[:2], r"must have shape \(3, 3, 2, 3\), got \(2, 3, 2, 3\)"),
        ("f", "weight", lambda w: w.T, r"PyTorch's layout \(O, I\)"),
        ("f", "weight", lambda w: w[:5], r"must have shape \(12, 3\), got \(5, 3\)"),
        ("f", "bias", lambda b: b[:1], r"must have shape \(3,\), got \(1,\)"),
        ("c", "gamma", lambda g: np.append(g, 1), r"must have shape \(3,\), got \(4,\)"),
        ("f", "weight", lambda w: np.where(w > 0, np.nan, w), "must be finite: .* NaN or infinite"),
        ("f", "bias", lambda b: b - np.inf, "must be finite: 3 of 3 are NaN or infinite"),
        ("c", "running_var", lambda v: -v, "'running_var' must be at least 0, got -1"),
    ],
)
@pytest.mark.parametrize("build", ["fixed", "floating"])
def test_parameters_that_do_not_fit_are_refused(build, layer, name, spoil, message):
    real = initial_parameters(NETWORK, 0)
    wrong = changed(real, layer, name, spoil(real[layer][name]))
    with pytest.raises(InputError, match=f"layer '{layer}': parameter '{name}' .*") as error:
        construct(build, wrong)
    error.match(message)


def construct(build, parameters):
    if build == "fixed":
        return FixedNetwork(NETWORK, ASSIGNMENT, parameters)
    return FloatNetwork(NETWORK, parameters)


@pytest.mark.parametrize("build", ["fixed", "floating"])
def test_parameters_that_are_no_real_arrays_are_refused(build):
    real = initial_parameters(NETWORK, 0)
    codes = np.rint(real["f"]["weight"] * 127).astype(np.int8)
    for value, message in (
        (codes, "must hold real values as floats, got dtype int8; pass codes as a fxsim.Tensor"),
        (None, "must be an array or nested lists of numbers, got NoneType"),
        (np.ma.array(real["f"]["weight"]), "must be a plain array, got a masked one"),
        (real["f"]["weight"].astype(object), "must hold real numbers of at most 64 bits"),
        (real["f"]["weight"] + 0j, "must hold real numbers of at most 64 bits"),
    ):
        with pytest.raises(TypeError, match=f"^layer 'f': parameter 'weight' {message}"):
            construct(build, changed(real, "f", "weight", value))
    with pytest.raises(TypeError, match="parameters must be a dictionary of layers, got list"):
        construct(build, [])
    with pytest.raises(TypeError, match="parameters of layer 'f' must be a dictionary of arrays"):
        construct(build, real | {"f": None})
    with pytest.raises(InputError, match="parameters of layer 'f' are missing"):
        construct(build, {"c": real["c"]})
    with pytest.raises(InputError, match="layer 'f': parameter 'bias' is missing"):
        construct(build, real | {"f": {"weight": real["f"]["weight"]}})
    with pytest.raises(InputError, match="parameters: layer 'd' is unknown"):
        construct(build, real | {"d": {}})
    with pytest.raises(InputError, match="layer 'f': parameter 'gamma' is unknown"):
        construct(build, changed(real, "f", "gamma", np.ones(3)))


def test_parameters_as_tensors_are_their_real_values():
    real = initial_parameters(NETWORK, 0)
    codes = quantize(real["f"]["weight"], Format(8, 0))
    one = FixedNetwork(NETWORK, ASSIGNMENT, changed(real, "f", "weight", codes))
    assert np.array_equal(one.parameters["f"]["weight"].codes, codes.codes)
    assert one.fingerprint() == fixed().fingerprint()


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([0]), r"labels must have shape \(4,\), one for each image, got \(1,\)"),
        (np.array([0, 1, 2, 0, 1]), r"labels must have shape \(4,\)"),
        (np.eye(3, dtype=int)[[0, 1, 2, 0]], "one-hot rows"),
        (np.array([0, 1, 2, 3]), r"labels must be in \[0, 2\], got \[0, 3\]"),
        (np.array([0, 1, 2, -1]), r"labels must be in \[0, 2\], got \[-1, 2\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    """A kernel would read past their end."""
    network = fixed()
    before = network.fingerprint()
    other = floating()
    for call in (
        lambda: network.train_step(IMAGES, labels, RATE, 0),
        lambda: network.evaluate(IMAGES, labels),
        lambda: other.train_step(IMAGES / 255, labels, 0.1, step=0),
        lambda: other.evaluate(IMAGES / 255, labels),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert network.fingerprint() == before


@pytest.mark.parametrize(
    "images, error, message",
    [
        (IMAGES.transpose(0, 3, 1, 2), InputError, r"pass images.transpose\(0, 2, 3, 1\)"),
        (IMAGES[0], InputError, r"images must have shape \(N, 5, 5, 2\), got \(5, 5, 2\)"),
        (IMAGES[:0], InputError, "images must have shape"),
        (IMAGES + 1, InputError, r"images must be in \[0, 255\]"),
        (IMAGES - 1, InputError, r"images must be in \[0, 255\]"),
        (IMAGES / 255, TypeError, "images must hold integers, got dtype float64; use"),
        (IMAGES > 5, TypeError, "images must hold integers, got dtype bool"),
        (Tensor(IMAGES, Format(8, 1, False)), InputError, "images must be in the input format"),
        (None, TypeError, "images must be an array"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, error, message):
    network = fixed()
    for call in (
        lambda: network.logits(images),
        lambda: network.train_step(images, LABELS, RATE, 0),
        lambda: network.evaluate(images, LABELS),
    ):
        with pytest.raises(error, match=message):
            call()
    assert network.fingerprint() == fixed().fingerprint()


UNUSUAL = {
    "NCHW data": lambda a: np.ascontiguousarray(np.moveaxis(a, -1, 0)).transpose(
        *range(1, a.ndim), 0
    ),
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "unaligned": lambda a: unaligned(a),
    "lists": lambda a: a.tolist(),
    "tuples": lambda a: tuple(a.tolist()),
    "subclass": lambda a: a.view(Sub),
}


class Sub(np.ndarray):
    pass


def unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)[1:]
    view = raw.view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("kernel, stride, bits", [(1, 1, 8), (3, 1, 8), (3, 2, 8), (3, 1, 16)])
def test_images_in_any_order_of_memory_train_alike(kernel, stride, bits):
    layer = LayerPrecision(
        weights=Format(bits, 0),
        activations=Format(8, 0, False),
        activation_grads=GRADS,
        weight_grads=GRADS,
        accumulators=Format(8, -bits),
    )
    network = Network(
        "n",
        (5, 5, 2),
        (
            Conv(name="c", filters=4, kernel=kernel, stride=stride),
            Dense(name="f", units=3, relu=False),
        ),
    )
    assignment = PrecisionAssignment("n", {"c": layer, "f": layer})

    def run(images, labels):
        own = FixedNetwork(network, assignment, initial_parameters(network, 0))
        loss = own.train_step(images, labels, RATE, 0).loss
        return loss, own.fingerprint(), own.logits(images).tolist(), own.evaluate(images, labels)

    wanted = run(IMAGES, LABELS)
    for name, unusual in UNUSUAL.items():
        assert run(unusual(IMAGES), unusual(LABELS)) == wanted, name
    for dtype in (np.uint8, np.int16, np.uint64, ">i4"):
        assert run(IMAGES.astype(dtype), LABELS.astype(dtype)) == wanted, dtype
    assert run(Tensor(IMAGES, layer.activations), LABELS) == wanted


@pytest.mark.parametrize("name", UNUSUAL)
def test_arrays_in_any_order_of_memory_are_the_same_values(name):
    unusual = UNUSUAL[name]
    codes = np.array([[1, -2, 3], [-4, 5, -6]])
    assert Tensor(unusual(codes), Format(4, 3)).codes.tolist() == codes.tolist()
    assert quantize(unusual(codes), Format(4, 3)).codes.tolist() == codes.tolist()
    assert quantize(unusual(codes / 4), Format(6, 3)).codes.tolist() == codes.tolist()
    real = initial_parameters(NETWORK, 0)
    spoiled = {
        layer: {kind: unusual(array) for kind, array in own.items()} for layer, own in real.items()
    }
    assert construct("fixed", spoiled).fingerprint() == fixed().fingerprint()
    assert np.array_equal(
        FloatNetwork(NETWORK, spoiled, np.float64).logits(unusual(IMAGES / 255)),
        floating().logits(IMAGES / 255),
    )


def test_states_that_do_not_fit_change_nothing():
    """Codes outside of their format would break the proof of every kernel."""
    for kernel in ("auto", "plain"):
        network = FixedNetwork(NETWORK, ASSIGNMENT, initial_parameters(NETWORK, 0), kernel=kernel)
        network.train_step(IMAGES, LABELS, RATE, 0)
        before = network.fingerprint()
        name = "parameters.f.weight.codes"
        good = network.state()
        for value, error, message in (
            (np.full_like(good[name], 128), InputError, r"must be in \[-128, 127\], got"),
            (np.full_like(good[name], -129), InputError, r"must be in \[-128, 127\], got"),
            (good[name].T, InputError, r"must be int16 of shape \(12, 3\), got int16 of shape"),
            (good[name].astype(np.int64), InputError, "must be int16 of shape"),
            (good[name] / 2, InputError, "must be int16 of shape"),
            (good[name].tolist(), TypeError, "must be a plain NumPy array, got list"),
            (np.ma.array(good[name]), TypeError, "must be a plain NumPy array, got MaskedArray"),
            (None, TypeError, "must be a plain NumPy array, got NoneType"),
        ):
            with pytest.raises(error, match=f"array '{name}' {message}"):
                network.load_state(good | {name: value})
            assert network.fingerprint() == before
        with pytest.raises(InputError, match=f"array '{name}' is missing"):
            network.load_state({key: array for key, array in good.items() if key != name})
        with pytest.raises(InputError, match="array 'x' is unknown"):
            network.load_state(good | {"x": good[name]})
        with pytest.raises(TypeError, match="a state must be a dictionary of arrays, got list"):
            network.load_state([])
        assert network.fingerprint() == before
        other = fixed()
        other.load_state(good)
        assert other.fingerprint() == before


def test_what_a_network_holds_cannot_be_written():
    network = fixed()
    for own in network.parameters.values():
        for parameter in own.values():
            with pytest.raises(ValueError, match="read-only"):
                parameter.codes[0] = 1
            with pytest.raises(ValueError, match="read-only"):
                parameter.accumulators[0] = 1
    with pytest.raises(TypeError):
        network.parameters["c"] = {}
    before = network.fingerprint()
    for array in network.state().values():
        array[...] = 1
    for running in network.running.values():
        running.mean[...] = 5
    images = Tensor(IMAGES, ASSIGNMENT.layers["c"].activations)
    network.logits(images)
    assert network.fingerprint() == before


def test_the_number_of_a_step_is_asked_for():
    network = fixed()
    with pytest.raises(TypeError, match="step"):
        network.train_step(IMAGES, LABELS, RATE)
    for step, error in ((-1, InputError), (2**32, InputError), (0.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="step must be"):
            network.train_step(IMAGES, LABELS, RATE, step)
    for rate, error in ((0.0, InputError), (-1, InputError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error, match="learning rate must be"):
            network.train_step(IMAGES, LABELS, rate, 0)

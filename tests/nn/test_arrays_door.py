"""What callers bring: whatever array it is, each public function takes it right or refuses it in
one line; no draw ends the process.
"""

import functools

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
    Quantizer,
    Tensor,
    ops,
    quantize,
    requantize,
)
from fxsim.nn.init import initial_parameters
from fxsim.ops.batch_norm import running_format

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


# Seeded draws of wrong things for every public function.


def wrong_tensors(random, given):
    """Tensors of another shape, format or size; things that are none."""
    format = Format(
        int(random.integers(1, 33)), int(random.integers(-70, 70)), bool(random.integers(2))
    )
    shape = tuple(int(size) for size in random.integers(0, 4, random.integers(0, 6)))
    codes = given.codes
    yield Tensor(np.zeros(shape, int), format)
    yield Tensor(np.full(given.shape, format.max_code), format)
    yield Tensor(np.full(given.shape, format.min_code), format)
    yield given[:0] if given.ndim else given.reshape(1)
    yield given[..., :-1] if given.ndim else given
    yield given.reshape(-1)
    yield given.reshape(1, *given.shape)
    yield given.transpose(*random.permutation(given.ndim).tolist())
    yield Tensor(codes.astype(np.int64), Format(int(random.integers(33, 64)), 40))
    yield given + given
    yield codes
    yield codes.tolist()


def wrong_arrays(random, given):
    """Arrays of another dtype, rank, length, order or content; things that are none."""
    given = np.asarray(given)
    flat = given.reshape(-1)
    place = int(random.integers(max(flat.size, 1)))

    def with_one(array, value):
        array = np.array(array)
        if array.size:
            array.reshape(-1)[place] = value
        return array

    for dtype in [
        "bool",
        "int8",
        "uint64",
        ">i2",
        "float16",
        ">f4",
        "longdouble",
        "complex64",
        "object",
        "str",
        "S3",
    ]:
        yield given.astype(dtype)
    yield given.astype("M8[s]") if given.dtype.kind in "iu" else given.astype(int)
    yield np.array([(1, 2)], [("a", int), ("b", float)])
    yield given[None]
    yield given[..., None]
    yield flat
    yield given.transpose(*random.permutation(given.ndim).tolist())
    yield given[()] if not given.ndim else given[0]
    yield given[:-1] if given.ndim else given
    yield given[:0] if given.ndim else given
    yield np.concatenate([given, given]) if given.ndim else given
    yield given[::-1] if given.ndim else given
    yield given[::2] if given.ndim else given
    yield np.broadcast_to(flat[:1], (3, *given.shape))
    yield np.lib.stride_tricks.as_strided(flat, given.shape, [0] * given.ndim)
    for value in (np.nan, np.inf, -np.inf, 1e300, 5e-324, 0.5):
        yield with_one(given.astype(float), value)
    for value in (-1, 2**15, -(2**31), 2**62, 2**63 - 1, -(2**63)):
        yield with_one(given.astype(np.int64), value)
    yield with_one(given.astype(object), None)
    yield with_one(given.astype(object), 2**70)
    yield with_one(given.astype(object), "x")
    yield np.ma.array(given)
    yield given.tolist()
    yield [given.tolist(), 1]
    yield from (None, "abc", b"abc", {}, {1, 2}, 3, 0.5, float("nan"), True, object(), int, [])
    yield (part for part in flat)
    yield memoryview(np.ascontiguousarray(flat))
    yield np.array(3)
    yield np.void(b"abc")
    yield Tensor([1, 2], Format(4, 3))


X = Tensor(RANDOM.integers(-8, 8, (2, 4, 4, 3)), Format(4, 0))
W = Tensor(RANDOM.integers(-8, 8, (3, 3, 3, 2)), Format(4, 1))
G = Tensor(RANDOM.integers(-8, 8, (2, 4, 4, 2)), Format(4, -2))
BIAS = Tensor([3, -5], Format(6, 1))
A = Tensor(RANDOM.integers(-8, 8, (3, 4)), Format(4, 0))
B = Tensor(RANDOM.integers(-8, 8, (4, 2)), Format(4, 0))
VECTOR = Tensor([1, -2, 3, -4], Format(4, 0))
GAMMA = Tensor([13, -7, 5], Format(6, 1))
VALUE = Tensor([3, -2, 1], Format(4, 0))
REST = Tensor([3, -2, 1], Format(8, -4))
LOGITS = Tensor([[1, 2, 3], [3, 2, 1], [0, 0, 1], [-1, 5, 2]], Format(4, 3))
TARGET = Format(8, 2)
RUNNING = ops.running_statistics([0.0, 0.1, -0.2], [1.0, 0.5, 2.0])
WINNER = Tensor(RANDOM.integers(0, 4, (2, 2, 2, 3)), ops.WINNER)
POOLED = Tensor(RANDOM.integers(-8, 8, (2, 2, 2, 3)), Format(4, 0))
MASK = Tensor(RANDOM.integers(0, 2, X.shape), ops.MASK)
WORDS = RANDOM.integers(0, 2**32, X.shape)


@functools.cache
def saved():
    return ops.batch_norm(X, GAMMA, GAMMA).saved


def stochastic(words):
    return Quantizer(Format(2, 0), "stochastic", words=words)


def of_state(build, name):
    """A call that loads a state with one array replaced."""
    network = build()

    def load(array):
        network.load_state(network.state() | {name: array})

    return load


def unchanged(network, call):
    """The call; where it is refused, the network is as before."""

    def checked(value):
        before = network.fingerprint()
        try:
            call(value)
        except (InputError, TypeError):
            assert network.fingerprint() == before
            raise

    return checked


TRAINED = fixed()
FLOATING = floating()
REAL = initial_parameters(NETWORK, 0)
TENSOR_CALLS = {
    "add": (X, lambda t: ops.add(t, X).to(TARGET)),
    "subtract": (X, lambda t: ops.subtract(X, t).to(TARGET)),
    "multiply": (X, lambda t: ops.multiply(t, X).to(TARGET)),
    "negative": (X, lambda t: ops.negative(t).to(TARGET)),
    "sum": (X, lambda t: ops.sum(t, 0).to(TARGET)),
    "dot": (VECTOR, lambda t: ops.dot(t, VECTOR).to(TARGET)),
    "dot, bias": (BIAS[:1], lambda t: ops.dot(VECTOR, VECTOR, t).to(TARGET)),
    "matmul, left": (A, lambda t: ops.matmul(t, B).to(TARGET)),
    "matmul, right": (B, lambda t: ops.matmul(A, t).to(TARGET)),
    "linear, weight": (B, lambda t: ops.linear(A, t, BIAS).to(TARGET)),
    "linear, bias": (BIAS, lambda t: ops.linear(A, B, t).to(TARGET)),
    "conv2d, x": (X, lambda t: ops.conv2d(t, W, BIAS, padding=1).to(TARGET)),
    "conv2d, weight": (W, lambda t: ops.conv2d(X, t, BIAS, padding=1).to(TARGET)),
    "conv2d, bias": (BIAS, lambda t: ops.conv2d(X, W, t, padding=1).to(TARGET)),
    "conv2d_input_grad, grad": (
        G,
        lambda t: ops.conv2d_input_grad(t, W, X.shape, padding=1).to(TARGET),
    ),
    "conv2d_input_grad, weight": (
        W,
        lambda t: ops.conv2d_input_grad(G, t, X.shape, padding=1).to(TARGET),
    ),
    "conv2d_weight_grad, x": (
        X,
        lambda t: ops.conv2d_weight_grad(t, G, W.shape, padding=1).to(TARGET),
    ),
    "conv2d_weight_grad, grad": (
        G,
        lambda t: ops.conv2d_weight_grad(X, t, W.shape, padding=1).to(TARGET),
    ),
    "max_pool2d": (X, lambda t: ops.max_pool2d(t, 2)),
    "max_pool2d_grad": (POOLED, lambda t: ops.max_pool2d_grad(t, WINNER, 2, X.shape)),
    "max_pool2d_grad, winner": (WINNER, lambda t: ops.max_pool2d_grad(POOLED, t, 2, X.shape)),
    "avg_pool2d": (X, lambda t: ops.avg_pool2d(t, 2).to(TARGET)),
    "avg_pool2d_grad": (POOLED, lambda t: ops.avg_pool2d_grad(t, 2, X.shape).to(TARGET)),
    "relu": (X, lambda t: ops.relu(t, TARGET)),
    "relu_max_pool": (X, lambda t: ops.add(t, X).relu_max_pool(TARGET, 2)),
    "relu_grad": (X, lambda t: ops.relu_grad(t, MASK)),
    "relu_grad, mask": (MASK, lambda t: ops.relu_grad(X, t)),
    "dropout": (X, lambda t: ops.dropout(t, 0.5, lambda at: at)[0].to(TARGET)),
    "dropout_grad": (X, lambda t: ops.dropout_grad(t, MASK, 0.5).to(TARGET)),
    "dropout_grad, kept": (MASK, lambda t: ops.dropout_grad(X, t, 0.5).to(TARGET)),
    "softmax_cross_entropy": (LOGITS, lambda t: ops.softmax_cross_entropy(t, [0, 1, 2, 0])),
    "softmax_cross_entropy_grad": (
        LOGITS,
        lambda t: ops.softmax_cross_entropy_grad(t, [0, 1, 2, 0]).to(TARGET),
    ),
    "batch_norm, x": (X, lambda t: ops.batch_norm(t, GAMMA, GAMMA).output.to(TARGET)),
    "batch_norm, gamma": (GAMMA, lambda t: ops.batch_norm(X, t, GAMMA).output.to(TARGET)),
    "batch_norm, beta": (GAMMA, lambda t: ops.batch_norm(X, GAMMA, t).output.to(TARGET)),
    "batch_norm, running mean": (
        RUNNING[0],
        lambda t: ops.batch_norm_inference(X, GAMMA, GAMMA, (t, RUNNING[1])),
    ),
    "batch_norm, running variance": (
        RUNNING[1],
        lambda t: ops.batch_norm_inference(X, GAMMA, GAMMA, (RUNNING[0], t)),
    ),
    "batch_norm_grad": (
        X,
        lambda t: ops.batch_norm_grad(t, saved(), x=TARGET, gamma=TARGET, beta=TARGET),
    ),
    "sgd_update, value": (VALUE, lambda t: ops.sgd_update(ops.Parameter(t), VALUE, 0.5)),
    "sgd_update, accumulator": (
        REST,
        lambda t: ops.sgd_update(ops.Parameter(VALUE, t), VALUE, 0.5),
    ),
    "sgd_update, grad": (
        VALUE,
        lambda t: ops.sgd_update(ops.Parameter(VALUE, REST), t, 0.5),
    ),
    "requantize": (X, lambda t: requantize(t, TARGET)),
    "x + t": (X, lambda t: (X + t).to(TARGET)),
    "x @ t": (B, lambda t: (A @ t).to(TARGET)),
    "FixedNetwork.logits": (
        Tensor(IMAGES, PRECISION.activations),
        lambda t: TRAINED.logits(t),
    ),
}
ARRAY_CALLS = {
    "Tensor": (X.codes, lambda a: Tensor(a, X.format)),
    "Tensor, 64 bits": (X.codes, lambda a: Tensor(a, Format(64, 0))),
    "quantize": (X.real, lambda a: quantize(a, Format(4, 0))),
    "quantize, wrap": (X.codes, lambda a: quantize(a, Format(20, 70), overflow="wrap")),
    "quantize, words": (WORDS, lambda a: quantize(X.real, stochastic(a))),
    "requantize, words": (WORDS, lambda a: requantize(X, stochastic(a))),
    "requantize, words of a function": (
        WORDS,
        lambda a: requantize(X, stochastic(lambda at: a)),
    ),
    "to, words": (WORDS, lambda a: (X + X).to(stochastic(a))),
    "matmul, words": (WORDS[0, 0, :3, :2], lambda a: (A @ B).to(stochastic(a))),
    "avg_pool2d, words": (WORDS[:, :2, :2], lambda a: ops.avg_pool2d(X, 2).to(stochastic(a))),
    "dropout, words": (WORDS, lambda a: ops.dropout(X, 0.5, a)),
    "sgd_update, words": (
        WORDS.reshape(-1)[:3],
        lambda a: ops.sgd_update(
            ops.Parameter(VALUE, REST), VALUE, 0.5, rounding="stochastic", words=a
        ),
    ),
    "softmax_cross_entropy, labels": (LABELS, lambda a: ops.softmax_cross_entropy(LOGITS, a)),
    "softmax_cross_entropy_grad, labels": (
        LABELS,
        lambda a: ops.softmax_cross_entropy_grad(LOGITS, a).to(TARGET),
    ),
    "running_statistics, mean": ([0.5, 1.5], lambda a: ops.running_statistics(a, [1.0, 1.0])),
    "running_statistics, variance": ([0.5, 1.5], lambda a: ops.running_statistics([0.0, 1.0], a)),
    "conv2d_input_grad, shape": (
        X.shape,
        lambda a: ops.conv2d_input_grad(G, W, a, padding=1).to(TARGET),
    ),
    "conv2d_weight_grad, shape": (
        W.shape,
        lambda a: ops.conv2d_weight_grad(X, G, a, padding=1).to(TARGET),
    ),
    "max_pool2d_grad, shape": (X.shape, lambda a: ops.max_pool2d_grad(POOLED, WINNER, 2, a)),
    "conv2d, stride": (1, lambda a: ops.conv2d(X, W, stride=a, padding=1)),
    "max_pool2d, size": (2, lambda a: ops.max_pool2d(X, a)),
    "sum, axis": (1, lambda a: ops.sum(X, a)),
    "reshape": (X.shape, lambda a: X.reshape(a)),
    "FixedNetwork, weight": (
        REAL["c"]["weight"],
        lambda a: construct("fixed", changed(REAL, "c", "weight", a)),
    ),
    "FixedNetwork, bias": (
        REAL["f"]["bias"],
        lambda a: construct("fixed", changed(REAL, "f", "bias", a)),
    ),
    "FixedNetwork, running_var": (
        REAL["c"]["running_var"],
        lambda a: construct("fixed", changed(REAL, "c", "running_var", a)),
    ),
    "FixedNetwork.logits": (IMAGES, lambda a: TRAINED.logits(a)),
    "FixedNetwork.train_step, images": (
        IMAGES,
        unchanged(TRAINED, lambda a: TRAINED.train_step(a, LABELS, RATE, 0)),
    ),
    "FixedNetwork.train_step, labels": (
        LABELS,
        unchanged(TRAINED, lambda a: TRAINED.train_step(IMAGES, a, RATE, 0)),
    ),
    "FixedNetwork.train_step, rate": (
        0.1,
        unchanged(TRAINED, lambda a: TRAINED.train_step(IMAGES, LABELS, a, 0)),
    ),
    "FixedNetwork.train_step, step": (
        3,
        unchanged(TRAINED, lambda a: TRAINED.train_step(IMAGES, LABELS, RATE, a)),
    ),
    "FixedNetwork.evaluate, images": (IMAGES, lambda a: TRAINED.evaluate(a, LABELS)),
    "FixedNetwork.evaluate, labels": (LABELS, lambda a: TRAINED.evaluate(IMAGES, a)),
    "FixedNetwork.load_state": (
        TRAINED.state()["parameters.f.weight.codes"],
        unchanged(TRAINED, of_state(lambda: TRAINED, "parameters.f.weight.codes")),
    ),
    "FixedNetwork.load_state, running": (
        TRAINED.state()["running.c.variance"],
        unchanged(TRAINED, of_state(lambda: TRAINED, "running.c.variance")),
    ),
    "FloatNetwork, weight": (
        REAL["c"]["weight"],
        lambda a: construct("floating", changed(REAL, "c", "weight", a)),
    ),
    "FloatNetwork.logits": (IMAGES / 255, lambda a: FLOATING.logits(a)),
    "FloatNetwork.train_step, images": (
        IMAGES / 255,
        lambda a: floating().train_step(a, LABELS, 0.1, step=0),
    ),
    "FloatNetwork.train_step, labels": (
        LABELS,
        lambda a: FLOATING.train_step(IMAGES / 255, a, 0.1, step=0),
    ),
    "FloatNetwork.train_step, rate": (
        0.1,
        lambda a: floating().train_step(IMAGES / 255, LABELS, a, step=0),
    ),
    "FloatNetwork.evaluate, images": (IMAGES / 255, lambda a: FLOATING.evaluate(a, LABELS)),
    "FloatNetwork.evaluate, labels": (LABELS, lambda a: FLOATING.evaluate(IMAGES / 255, a)),
    "FloatNetwork.load_state": (
        FLOATING.state()["parameters.f.weight"],
        of_state(floating, "parameters.f.weight"),
    ),
}


def draws():
    """(what, call, wrong value) of every call with every kind of wrong value, DRAWS and more."""
    random = np.random.default_rng(13)
    count = 0
    while count < DRAWS:
        for calls, wrong in ((TENSOR_CALLS, wrong_tensors), (ARRAY_CALLS, wrong_arrays)):
            for name, (given, call) in calls.items():
                for value in wrong(random, given):
                    count += 1
                    yield name, call, value


@pytest.mark.filterwarnings("ignore")
def test_every_draw_is_taken_or_refused_in_one_line():
    """As many are refused as are taken, at least."""
    refused = 0
    count = 0
    for name, call, value in draws():
        count += 1
        what = f"{name}, {type(value).__name__}: {value!r:.200}"
        try:
            call(value)
        except (InputError, TypeError) as error:
            refused += 1
            message = str(error)
            assert message and "\n" not in message, f"{what}: {message}"
            assert len(message) <= LONGEST_MESSAGE, f"{what}: {message}"
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert count >= DRAWS
    assert count / 2 < refused < count


@pytest.mark.parametrize("calls", [TENSOR_CALLS, ARRAY_CALLS], ids=["tensors", "arrays"])
def test_what_the_draws_start_from_is_right(calls):
    for given, call in calls.values():
        call(given)


def test_wide_running_statistics_are_in_the_draws():
    assert RUNNING[0].format == running_format(Format(16, 3))

"""Exact: both laws for every operation, whatever is drawn; the Quantizer's door."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operations_cases import Rounded, roundeds, tensor_of

from fxsim import Format, Quantizer, Stream, Tensor, ops, requantize
from fxsim.accumulator import Accumulator
from fxsim.errors import InputError

X = tensor_of(0, Format(9, 1), (2, 5, 4, 3))
Y = tensor_of(1, Format(7, 0), (2, 5, 4, 3))
W = tensor_of(2, Format(8, 0), (3, 3, 3, 4))
G = tensor_of(3, Format(8, -2), (2, 5, 4, 4))
BIAS = tensor_of(4, Format(12, 1), (4,))
MATRIX = tensor_of(5, Format(18, 0), (3, 5))
SCALE = tensor_of(6, Format(6, 1), (3,))
GEOMETRY = {"stride": 1, "padding": 1}
NARROW = Accumulator(14, "wrap", order="tree", rounding="nearest_even", drop=1)

EXACT = {
    "add": lambda: X + Y,
    "subtract": lambda: X - Y[:1, :, :1],
    "multiply": lambda: X * Y,
    "negative": lambda: -X,
    "sum": lambda: ops.sum(X, (0, 1)),
    "sum of channels": lambda: ops.sum(X, (0, 1, 2)),
    "dot": lambda: ops.dot(X[0, 0, 0], Y[0, 0, 0]),
    "matmul": lambda: X @ MATRIX,
    "linear": lambda: ops.linear(G, W.transpose(3, 0, 1, 2).reshape(4, 27)[:, :3], BIAS[:3]),
    "linear, accumulator": lambda: ops.linear(X, MATRIX, accumulator=NARROW),
    "conv2d": lambda: ops.conv2d(X, W, BIAS, **GEOMETRY),
    "conv2d, accumulator": lambda: ops.conv2d(X, W, BIAS, accumulator=NARROW, **GEOMETRY),
    "conv2d, plain": lambda: ops.conv2d(X, W, **GEOMETRY).by("plain"),
    "conv2d_input_grad": lambda: ops.conv2d_input_grad(G, W, X.shape, **GEOMETRY),
    "conv2d_weight_grad": lambda: ops.conv2d_weight_grad(X, G, W.shape, **GEOMETRY),
    "dropout": lambda: ops.dropout(X, 0.3, Stream(1, 2, "d"))[0],
    "batch_norm": lambda: ops.batch_norm(X, SCALE, SCALE).output,
    "several": lambda: ops.conv2d(X, W, BIAS, **GEOMETRY) + (G + G) - G,
    "reshaped": lambda: (X @ MATRIX).reshape(2, -1),
    "reshaped sums": lambda: (X + Y).reshape(-1, 3),
}
IMAGES = [
    "add",
    "batch_norm",
    "conv2d",
    "conv2d, accumulator",
    "conv2d, plain",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "dropout",
    "linear, accumulator",
    "matmul",
    "several",
    "subtract",
]


def quantizer_of(rounded, exact, seen=None):
    format = rounded.format(exact.format.step_exp)
    return rounded.quantizer(format, exact.shape, seen.append if seen is not None else None)


@given(st.sampled_from(sorted(EXACT)), roundeds(shifts=(-8, 44), bits=(1, 32)))
def test_to_is_requantize_of_all_bits(name, rounded):
    exact = EXACT[name]()
    bits = exact.tensor()
    assert bits.shape == exact.shape and bits.format == exact.format
    seen = []
    got = EXACT[name]().to(quantizer_of(rounded, exact, seen))
    wanted = requantize(bits, quantizer_of(rounded, exact, seen))
    assert got.equals(wanted)
    assert seen[0] == seen[1]
    assert got.codes.size == 0 or got.format.min_code <= got.codes.min()
    assert got.codes.size == 0 or got.codes.max() <= got.format.max_code


@given(st.sampled_from(sorted(EXACT)), roundeds(shifts=(-8, 44), bits=(1, 32)))
def test_relu_is_that_of_all_bits(name, rounded):
    exact = EXACT[name]()
    seen = []
    got = EXACT[name]().relu(quantizer_of(rounded, exact, seen))
    wanted = ops.relu(exact.tensor(), quantizer_of(rounded, exact, seen))
    assert all(a.equals(b) for a, b in zip(got, wanted))
    assert seen[0] == seen[1]


@given(st.sampled_from(IMAGES), roundeds(shifts=(-8, 44), bits=(1, 32)), st.integers(1, 4))
def test_relu_max_pool_is_that_of_all_bits(name, rounded, size):
    exact = EXACT[name]()
    size = min(size, *exact.shape[1:3])
    seen = []
    codes, winner = EXACT[name]().relu_max_pool(quantizer_of(rounded, exact, seen), size)
    above, mask = ops.relu(exact.tensor(), quantizer_of(rounded, exact, seen))
    wanted, places = ops.max_pool2d(above, size)
    assert codes.equals(wanted)
    assert seen[0] == seen[1]
    for index in np.ndindex(places.shape):
        n, y, x, c = index
        row, column = divmod(int(places.codes[index]), size)
        passes = mask.codes[n, y * size + row, x * size + column, c]
        assert winner.codes[index] == (places.codes[index] if passes else size * size)


def test_images_are_those_of_four_axes():
    assert set(IMAGES) <= {name for name, make in EXACT.items() if len(make().shape) == 4}


@pytest.mark.parametrize("name", EXACT)
def test_a_result_may_be_asked_for_again(name):
    exact = EXACT[name]()
    quantizer = Quantizer(Format(8, 3), "floor")
    first = exact.tensor().codes.copy()
    one = exact.to(quantizer)
    kept = one.codes.copy()
    exact.relu(quantizer)
    assert np.array_equal(exact.tensor().codes, first)
    assert exact.to(quantizer).equals(one)
    assert np.array_equal(one.codes, kept)


@pytest.mark.parametrize("name", EXACT)
def test_a_bare_format_stands_for_the_default_modes(name):
    exact = EXACT[name]()
    format = Format(7, exact.format.range_exp - 3)
    assert exact.to(format).equals(EXACT[name]().to(Quantizer(format)))
    for wrong in (None, 8, "Q0.7", exact):
        with pytest.raises(TypeError, match=r"quantizer must be a fxsim\.Format or fxsim\.Quant"):
            exact.to(wrong)
        with pytest.raises(TypeError, match=r"quantizer must be a fxsim\.Format or fxsim\.Quant"):
            exact.relu(wrong)


@pytest.mark.parametrize("source", ["array", "longer array", "function"])
@pytest.mark.parametrize("name", EXACT)
def test_words_are_those_of_the_position_in_the_result(name, source):
    """Whatever shape a kernel sees."""
    exact = EXACT[name]()
    rounded = Rounded(8, True, 6, "stochastic", source=source, seed=4)
    got = exact.to(quantizer_of(rounded, exact))
    assert got.equals(requantize(exact.tensor(), quantizer_of(rounded, exact)))


def test_words_of_another_shape_are_refused():
    for make in EXACT.values():
        exact = make()
        for words, message in (
            (np.zeros(max(int(np.prod(exact.shape)) - 1, 0), int), "random words must be"),
            (np.zeros((1, 1, *exact.shape), int), "random words must have shape"),
        ):
            quantizer = Quantizer(Format(8, 3), "stochastic", words=words)
            with pytest.raises(InputError, match=message):
                exact.to(quantizer)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"format": 8}, TypeError, r"format must be a fxsim\.Format, got int"),
        ({"format": Format(33, 0)}, InputError, "format has 33 bits; tensors are quantized to"),
        ({"rounding": "even"}, InputError, "rounding 'even' is unknown"),
        ({"rounding": None}, InputError, "rounding None is unknown"),
        ({"overflow": "clip"}, InputError, "overflow 'clip' is unknown"),
        ({"rounding": "stochastic"}, InputError, "needs random words; pass words="),
        ({"words": Stream(0, 0, "x")}, InputError, "'nearest_away' uses no random words"),
        ({"rounding": "stochastic", "words": [1, 2]}, TypeError, "words must be a fxsim.Stream"),
        ({"rounding": "stochastic", "words": 5}, TypeError, "words must be a fxsim.Stream"),
        ({"counted": []}, TypeError, "counted must be callable, got list"),
    ],
)
def test_a_quantizer_that_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Quantizer(**({"format": Format(8, 0)} | arguments))


@pytest.mark.parametrize(
    "words, error",
    [
        (np.array([0.5, 0.5]), TypeError),
        (np.array([True, False]), TypeError),
        (np.array([-1, 0]), InputError),
        (np.array([2**32, 0]), InputError),
        (np.ma.array([1, 2], mask=[0, 1]), TypeError),
        (np.array(["a", "b"]), TypeError),
        (lambda positions: None, TypeError),
        (lambda positions: positions - 1, InputError),
        (lambda positions: positions[:-1], InputError),
        (lambda positions: positions.reshape(1, 2), InputError),
        (lambda positions: positions / 2, TypeError),
    ],
)
def test_words_that_are_none_are_refused(words, error):
    with pytest.raises(error, match="^random words must") as raised:
        quantizer = Quantizer(Format(8, 0), "stochastic", words=words)
        requantize(Tensor([1, 2], Format(9, 0)), quantizer)
    assert "\n" not in str(raised.value)


def test_words_of_every_integer_type_are_the_same_words():
    tensor = tensor_of(1, Format(12, 0), (4,))
    words = np.array([0, 2**31, 2**32 - 1, 12345])
    wanted = requantize(tensor, Quantizer(Format(4, 0), "stochastic", words=words))
    for other in (
        words.astype(np.uint32),
        words.astype(">i8"),
        words.astype(np.uint64),
        np.repeat(words, 2)[::2],
        words.astype(object),
        words.reshape(4),
        lambda positions: words[positions],
        lambda positions: words.tolist(),
    ):
        quantizer = Quantizer(Format(4, 0), "stochastic", words=other)
        assert requantize(tensor, quantizer).equals(wanted)

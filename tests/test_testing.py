"""fxsim.testing: the comparison says what a reader needs; the strategies draw what they
promise, and what can run.
"""

import dataclasses
import os
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from oracle import accumulators
from oracle import rounding as oracle

from fxsim import Accumulator, InputError, Quantizer, Stream, ops, testing
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.tensor import Tensor, requantize
from fxsim.testing import assert_bit_exact
from fxsim.testing.strategies import edge_codes

FORMAT = Format(8, 0)
WANTED = Tensor(np.array([[0, 5, -3], [-128, 127, 64]]), FORMAT)


def message(got, wanted, what=""):
    with pytest.raises(AssertionError) as raised:
        assert_bit_exact(got, wanted, what)
    return str(raised.value)


def test_equal_things_pass():
    assert_bit_exact(WANTED, Tensor(WANTED.codes.copy(), FORMAT))
    assert_bit_exact(WANTED.codes.tolist(), WANTED)
    assert_bit_exact(WANTED.codes.astype(np.int64), WANTED.codes)
    assert_bit_exact([], [])
    assert_bit_exact(2**70, np.array(2**70, dtype=object))


def test_the_first_difference_is_told_in_codes_and_reals():
    got = WANTED.codes.astype(int)
    got[0, 2] = -4
    got[1, 1] = 125
    assert message(got, WANTED, "conv1") == (
        "conv1: first at index (0, 2): got -4 (0xfc, -0.03125), wanted -3 (0xfd, -0.0234375)\n"
        "2 of 6 codes differ (33.3 %); got - wanted in codes: -1 (1x), -2 (1x)"
    )
    assert message(got.tolist(), WANTED.codes).startswith(
        "first at index (0, 2): got -4, wanted -3\n"
    )


def test_many_kinds_of_differences_are_summed_up():
    got = np.arange(20)
    assert message(got, np.zeros(20, int)).endswith(
        "19 of 20 codes differ (95 %); got - wanted in codes: +1 (1x), +2 (1x), +3 (1x), +4 (1x), "
        "+5 (1x), +6 (1x) "
        "and 13 other differences, from +1 to +19"
    )


def test_shapes_and_formats_are_compared():
    assert message(WANTED.codes.T, WANTED) == "got shape (3, 2), wanted (2, 3)"
    finer = Tensor(WANTED.codes.astype(np.int16) * 2, Format(9, 0))
    assert (
        message(finer, WANTED)
        == f"got format {Format(9, 0)}, wanted {FORMAT}; the real values are equal"
    )
    assert message(Tensor(WANTED.codes, Format(8, 1)), WANTED).endswith(
        "the real values differ, too"
    )


def test_real_values_are_no_codes():
    with pytest.raises(TypeError, match="wanted must hold integer codes, got dtype float64"):
        assert_bit_exact(WANTED, WANTED.real)
    with pytest.raises(TypeError, match="got must hold integer codes"):
        assert_bit_exact([0.5], [1])


@given(st.data())
def test_no_planted_difference_passes(data):
    tensor = data.draw(testing.tensors(testing.formats(min_bits=2)))
    place = data.draw(st.integers(0, tensor.codes.size - 1))
    codes = tensor.codes.astype(np.int64).reshape(-1)
    codes[place] = data.draw(
        st.integers(tensor.format.min_code, tensor.format.max_code).filter(
            lambda code: code != codes[place]
        )
    )
    index = tuple(int(i) for i in np.unravel_index(place, tensor.shape))
    assert f"first at index ({', '.join(map(str, index))})" in message(
        codes.reshape(tensor.shape), tensor
    )


def test_the_comparison_does_not_need_hypothesis():
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from fxsim.testing import assert_bit_exact, explain; assert_bit_exact([1], [1])\n"
        "import fxsim.testing\n"
        "try: fxsim.testing.tensors\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert (
        run.stdout == "fxsim.testing.tensors needs Hypothesis; python -m pip install hypothesis\n"
    )


def test_what_there_is():
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match="has no attribute 'tensor'"):
        testing.tensor  # noqa: B018


@given(testing.formats(min_bits=3, max_bits=9, min_range_exp=-2, max_range_exp=5, signed=True))
def test_formats_keep_their_bounds(format):
    assert 3 <= format.bits <= 9
    assert -2 <= format.range_exp <= 5
    assert format.signed


@given(st.integers(1, 32), st.booleans())
def test_edge_codes_are_the_ends_the_bits_and_the_ties(bits, signed):
    format = Format(bits, 0, signed)
    codes = edge_codes(format)
    assert len(codes) == len(set(codes))
    assert all(format.min_code <= code <= format.max_code for code in codes)
    assert {0, format.min_code, format.max_code} <= set(codes)
    singles = {1 << i for i in range(bits)} | {-1 << i for i in range(bits)}
    assert {code for code in singles if format.min_code <= code <= format.max_code} <= set(codes)
    for dropped in range(1, bits - 2):
        ties = [code for code in codes if code % 2**dropped == 2 ** (dropped - 1)]
        assert {code // 2**dropped % 2 for code in ties} == {0, 1}, (
            "ties above even and above odd codes"
        )
        assert {code < 0 for code in ties} == ({False, True} if signed else {False})


@given(testing.tensors(testing.formats(), testing.shapes(2, 3, 4)))
def test_tensors_have_the_shapes_asked_for(tensor):
    assert 2 <= len(tensor.shape) <= 3
    assert max(tensor.shape) <= 4


@pytest.mark.parametrize("mode", [mode for mode in oracle.DETERMINISTIC if mode != "nearest_away"])
def test_a_wrong_rounding_is_found(mode):
    """What the tensors are for.

    A property test of a unit that rounds wrongly fails within 100 examples.
    """
    target = Format(5, 0)

    def differs(tensor):
        return not np.array_equal(
            requantize(tensor, target, mode).codes, requantize(tensor, target).codes
        )

    found = find(
        testing.tensors(Format(8, 0), (3,)),
        differs,
        settings=settings(max_examples=100, database=None),
    )
    assert differs(found)


@given(testing.networks_with_assignments(), st.data())
@settings(max_examples=60)
def test_every_drawn_network_trains(drawn, data):
    network, assignment = drawn
    images, labels = data.draw(testing.batches(network, assignment))
    assert images.shape[1:] == network.input_shape
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 0))
    fixed.train_step(images, labels, LearningRate.of(0.25), 0)


@pytest.mark.parametrize(
    "feature, has",
    {
        "a strided convolution": lambda layer: isinstance(layer, Conv) and layer.stride > 1,
        "padding": lambda layer: isinstance(layer, Conv) and layer.padding > 1,
        "max pooling": lambda layer: (
            layer.pool is not None and layer.pool.kind == "max" and layer.pool.size > 1
        ),
        "average pooling": lambda layer: (
            layer.pool is not None and layer.pool.kind == "average" and layer.pool.size > 1
        ),
        "a hidden fully connected layer": lambda layer: (
            isinstance(layer, Dense) and layer.activation.is_relu
        ),
        "no relu": lambda layer: isinstance(layer, Conv) and not layer.activation.is_relu,
    }.items(),
)
def test_networks_have_all_kinds_of_layers(feature, has):
    network = find(
        testing.networks(),
        lambda network: any(map(has, network.layers)),
        settings=settings(max_examples=1000, database=None),
    )
    assert isinstance(network, Network)


X, W = Format(8, 0), Format(7, 0)
NARROW = Quantizer(Format(8, 2))
STEP = Fraction(1, 2**13)


def plane(*shape, format):
    """Codes at random, the ends of the range among them."""
    random = np.random.default_rng(len(shape))
    codes = random.integers(format.min_code, format.max_code + 1, shape)
    codes.reshape(-1)[:2] = format.min_code, format.max_code
    return Tensor(codes, format)


@pytest.fixture(scope="module")
def convolution():
    """3 x 3 kernels over two images, with a bias of the step of the products."""
    x = plane(2, 5, 5, 2, format=X)
    weight = plane(3, 3, 2, 3, format=W)
    grad = plane(2, 5, 5, 3, format=W)
    return testing.Convolution(x, weight, grad, plane(3, format=Format(12, -2)), padding=1)


def twin(case, model=None, rounding="nearest_away", overflow="saturate", **operands):
    """Codes of the convolution by the twin, in NARROW; operands: other codes."""
    codes = {name: getattr(case, name).codes.astype(int) for name in ("x", "weight", "bias")}
    x, weight, bias = (operands.get(name, codes[name]).tolist() for name in codes)
    held = EXACTLY | (model or {})
    sums, _ = accumulators.forward(x, weight, 1, case.padding, held, bias, (held["drop"], 0))
    return quantized(sums, rounding, overflow)


def quantized(sums, rounding="nearest_away", overflow="saturate", format=NARROW.format):
    values = [int(total) * STEP for total in np.reshape(sums, -1)]
    wanted = (format.bits, format.range_exp, format.signed)
    codes, _ = oracle.quantize_all(values, wanted, rounding, overflow)
    return np.reshape(codes, np.shape(sums))


EXACTLY = {"bits": 40, "overflow": "saturate", "when": "each addition", "order": "sequential"}
EXACTLY |= {"tile": 0, "rounding": "floor", "drop": 0}
EACH = "accumulator 6 bits narrower (14 instead of 20), it saturates after every addition"


def read_as(codes, bits, signed):
    return np.vectorize(lambda code: oracle.wrap(int(code), bits, signed))(codes)


CHANGES = {
    "rounding floor instead of nearest_away": lambda case: twin(case, rounding="floor"),
    "overflow saturate_zero instead of saturate": lambda case: twin(case, overflow="saturate_zero"),
    "range 1 bit narrower, overflow saturate": lambda case: np.clip(twin(case), -64, 63),
    "1 bit too many dropped (values 2 times too small)": lambda case: quantized(
        np.array(exactly(case)), format=Format(8, 3)
    ),
    EACH: lambda case: twin(case, {"bits": 14}),
    "accumulator 6 bits narrower (14 instead of 20), it wraps": lambda case: twin(
        case, {"bits": 14, "overflow": "wrap"}
    ),
    "accumulator 6 bits narrower (14 instead of 20), it saturates once, at the end": lambda case: (
        twin(case, {"bits": 14, "when": "end"})
    ),
    f"{EACH}; terms added in the order: bias first": lambda case: twin(
        case, {"bits": 14, "bias": "first"}
    ),
    f"{EACH}; terms added in 4 lanes": lambda case: twin(case, {"bits": 14, "lanes": 4}),
    f"{EACH}; terms added in tiles of 4": lambda case: twin(
        case, {"bits": 14, "order": "tiles", "tile": 4}
    ),
    f"{EACH}; terms added in an adder tree": lambda case: twin(case, {"bits": 14, "order": "tree"}),
    f"{EACH}; terms added in the order: kernel row, kernel column, channel": lambda case: twin(
        case, {"bits": 14, "axes": "channel_last"}
    ),
    "products truncated by 4 bits before they are added": lambda case: twin(case, {"drop": 4}),
    "bias missing": lambda case: twin(case, bias=np.zeros(3, int)),
    "x zero-extended instead of sign-extended": lambda case: twin(
        case, x=case.x.codes.astype(int) % 256
    ),
    "weight read without the first 1 bit (6 instead of 7)": lambda case: twin(
        case, weight=read_as(case.weight.codes, 6, True)
    ),
    "kernel flipped in rows and columns": lambda case: twin(
        case, weight=case.weight.codes[::-1, ::-1].astype(int)
    ),
    "weights transposed (input and output channels swapped)": lambda case: twin(
        case,
        weight=case.weight.codes.astype(int).reshape(3, 3, 3, 2).transpose(0, 1, 3, 2),
    ),
    "elements in the order N,C,H,W instead of N,H,W,C": lambda case: (
        twin(case).transpose(0, 3, 1, 2).reshape(2, 5, 5, 3)
    ),
    "elements in reversed order, the last one first": lambda case: (
        twin(case).reshape(-1)[::-1].reshape(2, 5, 5, 3)
    ),
}


def exactly(case):
    codes = (getattr(case, name).codes.astype(int).tolist() for name in ("x", "weight", "bias"))
    x, weight, bias = codes
    return accumulators.forward(x, weight, 1, case.padding, EXACTLY, bias)[0]


def test_the_twin_gives_what_fxsim_gives(convolution):
    assert_bit_exact(twin(convolution), convolution.exact().to(NARROW))
    assert testing.explain(twin(convolution), convolution.exact(), NARROW) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_change_of_a_convolution_is_explained(convolution, change):
    got = CHANGES[change](convolution)
    assert testing.explain(got, convolution.exact(), NARROW) == [change]


@pytest.mark.parametrize("change", ["rounding floor instead of nearest_away", "bias missing"])
def test_nothing_is_claimed_that_misses_one_code(convolution, change):
    got = CHANGES[change](convolution)
    got[1, 2, 3, 0] ^= 1
    assert testing.explain(got, convolution.exact(), NARROW) == []


@pytest.mark.parametrize(
    "fields",
    [{"lanes": 2}, {"lanes": 8}, {"bias": "first"}, {"axes": "channel_last"}, {"order": "tree"}]
    + [{"bits": 13}, {"overflow": "wrap"}, {"drop": 2}],
)
def test_another_accumulator_than_the_stated_one_is_explained(convolution, fields):
    stated = Accumulator(14)
    other = dataclasses.replace(stated, **fields)
    case = dataclasses.replace(convolution, accumulator=stated)
    got = twin(convolution, dataclasses.asdict(other))
    found = testing.explain(got, case.exact(), NARROW)
    assert found == [f"accumulator of {other} instead of {stated}"]


def test_gradients_and_dot_products_are_explained(convolution):
    flipped = dataclasses.replace(
        convolution, weight=Tensor(convolution.weight.codes[::-1, ::-1], W)
    )
    got = flipped.input_grad().to(NARROW)
    found = testing.explain(got, convolution.input_grad(), NARROW)
    assert found == ["kernel flipped in rows and columns"]
    got = requantize(convolution.weight_grad().tensor(), NARROW.format, "zero")
    found = testing.explain(got, convolution.weight_grad(), NARROW)
    assert found == ["rounding zero instead of nearest_away"]
    a, b = plane(30, format=X), plane(30, format=W)[::-1]
    got = ops.dot(a, b, accumulator=Accumulator(12, lanes=2)).tensor()
    exact = ops.dot(a, b, accumulator=Accumulator(12))
    found = testing.explain(got, exact, exact.format)
    assert f"accumulator of {Accumulator(12, lanes=2)} instead of {Accumulator(12)}" in found


def test_stochastic_rounding_is_explained_with_its_own_words():
    x = plane(40, 5, format=Format(12, 0))
    quantizer = Quantizer(Format(6, 0), "stochastic", words=Stream(3, 1, "device"))
    got = requantize(x, Format(6, 0))
    assert testing.explain(got, x, quantizer) == ["rounding nearest_away instead of stochastic"]
    equal = Quantizer(Format(6, 0), "stochastic_equal", words=Stream(3, 1, "device"))
    assert testing.explain(requantize(x, equal), x, quantizer) == [
        "rounding stochastic_equal instead of stochastic"
    ]


def test_the_message_has_the_explanation(convolution):
    exact = convolution.exact()
    with pytest.raises(AssertionError) as raised:
        got = twin(convolution, rounding="floor")
        assert_bit_exact(got, exact.to(NARROW), "conv", explain=(exact, NARROW))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("conv: first at index (")
    assert lines[2].startswith("all codes are explained by this change of semantics (of ")
    assert lines[3:] == ["  rounding floor instead of nearest_away"]
    with pytest.raises(AssertionError, match="no single change of semantics of .* more than one"):
        assert_bit_exact(got + 1, exact.to(NARROW), explain=(exact, NARROW))
    assert_bit_exact(exact.to(NARROW), exact.to(NARROW), explain=(exact, NARROW))


def test_explain_refuses_what_it_cannot_use(convolution):
    exact = convolution.exact()
    right = exact.to(NARROW)
    with pytest.raises(InputError, match="got must have shape"):
        testing.explain(right.codes[0], exact, NARROW)
    with pytest.raises(InputError, match="got must be in the quantizer's"):
        testing.explain(right, exact, Format(9, 2))
    with pytest.raises(TypeError, match="exact must be an exact result"):
        testing.explain(right, right.codes, NARROW)
    with pytest.raises(TypeError, match="got must hold integers"):
        testing.explain(right.real, exact, NARROW)
    with pytest.raises(TypeError, match="explain must be a pair"):
        assert_bit_exact(right, right, explain=exact)


def test_an_explanation_of_thousands_of_codes_is_quick(convolution):
    x = plane(4, 16, 16, 8, format=X)
    weight = plane(3, 3, 8, 8, format=W)
    exact = ops.conv2d(x, weight, padding=1)
    got = ops.conv2d(x, weight, padding=1, accumulator=Accumulator(15)).to(NARROW)
    assert got.size == 8192
    start = time.process_time()
    found = testing.explain(got, exact, NARROW)
    assert [text for text in found if "it saturates after every addition" in text] == found != []
    assert time.process_time() - start < 20


@given(testing.convolutions(accumulator=testing.accumulators(bias=True, channels=True)), st.data())
@settings(max_examples=60)
def test_every_drawn_convolution_runs(case, data):
    check = testing.check_rounding_law
    check(case.exact, data.draw(testing.quantizers()))
    testing.check_adjointness(case)


@given(testing.dot_products(accumulator=testing.accumulators(bias=True)), testing.quantizers())
def test_every_drawn_dot_product_runs(case, quantizer):
    assert case.exact().shape == ()
    testing.check_rounding_law(case.exact, quantizer)


@given(testing.matmuls(accumulator=testing.accumulators()), testing.quantizers(stochastic=False))
def test_every_drawn_matrix_product_runs(case, quantizer):
    assert case.exact().shape == (case.a.shape[0], case.b.shape[1])
    assert quantizer.words is None
    testing.check_rounding_law(case.exact, quantizer)


def overflows(exact):
    exact.tensor()
    return exact.overflows.overflows


@pytest.mark.parametrize(
    "feature, has",
    {
        "a rectangular kernel": lambda case: case.weight.shape[0] == 3 != case.weight.shape[1],
        "strides of one axis": lambda case: case.stride == (1, 2),
        "a dilation": lambda case: case.dilation[0] > 1 and case.weight.shape[0] > 1,
        "uneven padding": lambda case: len(set(case.padding)) > 2,
        "a depthwise convolution": lambda case: 1 < case.groups == case.weight.shape[3],
        "many groups of several channels": lambda case: (
            case.groups > 3 and case.weight.shape[2] > 1
        ),
        "a bias of a finer step": lambda case: (
            case.bias is not None
            and case.bias.format.step_exp < case.x.format.step_exp + case.weight.format.step_exp
        ),
        "no bias": lambda case: case.bias is None,
        "a bias that comes first": lambda case: case.accumulator.bias == "first",
        "lanes": lambda case: case.accumulator.lanes > 2,
        "the channel last": lambda case: case.accumulator.axes == "channel_last",
        "an overflow": lambda case: overflows(case.exact()) > 0,
    }.items(),
)
def test_convolutions_have_all_kinds(feature, has):
    held = testing.accumulators(bias=True, channels=True)
    found = find(
        testing.convolutions(accumulator=held),
        has,
        settings=settings(max_examples=2000, database=None, phases=[Phase.generate]),
    )
    assert has(found)


def test_broken_units_break_the_laws(convolution):
    """What the two laws are for."""

    class RoundsTwice:
        def to(self, quantizer):
            wide = convolution.exact().to(Quantizer(Format(9, 2), counted=quantizer.counted))
            return requantize(wide, quantizer.format)

        def tensor(self):
            return convolution.exact().tensor()

    with pytest.raises(AssertionError, match="rounded twice, nearest_away: first to 1 bit below"):
        testing.check_rounding_law(RoundsTwice, NARROW)
    testing.check_adjointness(convolution, input_grad=lambda case: case.input_grad().tensor().codes)
    with pytest.raises(AssertionError, match=r"<conv2d\(x, w\), g> = "):
        testing.check_adjointness(
            convolution, weight_grad=lambda case: case.weight_grad().tensor().codes >> 1 << 1
        )
    with pytest.raises(AssertionError, match="got sums of shape"):
        testing.check_adjointness(convolution, product=lambda case: case.x)


PROPERTY_TESTS = {
    "readme": """
from hypothesis import given
from fxsim import Format, requantize
from fxsim.testing import assert_bit_exact, tensors

WIDE, NARROW = Format(12, 0), Format(8, 0)

def unit(code):
    return min(max((code + 8 - (code < 0)) >> 4, -128), 127)

@given(tensors(WIDE, (8,)))
def test_my_unit(wide):
    got = [unit(int(code)) for code in wide.codes]
    assert_bit_exact(got, requantize(wide, NARROW), "my unit")
""",
    "operations": """
from hypothesis import given
from fxsim.testing import (
    accumulators, check_adjointness, check_rounding_law, convolutions, dot_products, matmuls,
    quantizers,
)

@given(convolutions(accumulator=accumulators(bias=True, channels=True)), quantizers())
def test_convolutions(case, quantizer):
    check_rounding_law(case.exact, quantizer)
    check_adjointness(case)

@given(dot_products(accumulator=accumulators(bias=True)), quantizers())
def test_dot_products(case, quantizer):
    check_rounding_law(case.exact, quantizer)

@given(matmuls(), quantizers())
def test_matmuls(case, quantizer):
    check_rounding_law(case.exact, quantizer)
""",
}


@pytest.mark.slow  # all kernels of operations are compiled, in a process of its own
@pytest.mark.parametrize("name", PROPERTY_TESTS)
def test_a_property_test_keeps_the_deadline_with_a_cold_cache(tmp_path, name):
    """Hypothesis' default deadline of 200 ms, which it does not have where CI is set."""
    (tmp_path / "test_unit.py").write_text(PROPERTY_TESTS[name])
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CI")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_unit.py"],
        cwd=tmp_path,
        env=environment | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert list((tmp_path / "kernels").rglob("*.nbc")), "the cache was not cold"

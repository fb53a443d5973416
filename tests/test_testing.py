"""fxsim.testing: the comparison says what a reader needs; the strategies draw what they
promise, and what can run.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from oracle import rounding as oracle

from fxsim import testing
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
        "from fxsim.testing import assert_bit_exact; assert_bit_exact([1], [1])\n"
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
        "a hidden fully connected layer": lambda layer: isinstance(layer, Dense) and layer.relu,
        "no relu": lambda layer: isinstance(layer, Conv) and not layer.relu,
    }.items(),
)
def test_networks_have_all_kinds_of_layers(feature, has):
    network = find(
        testing.networks(),
        lambda network: any(map(has, network.layers)),
        settings=settings(max_examples=1000, database=None),
    )
    assert isinstance(network, Network)

"""Philox4x32-10 and the named streams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import philox as oracle
from support.bits import assert_same_codes

from fxsim.errors import InputError
from fxsim.kernels.philox import philox4x32
from fxsim.rng import Stream

ONES = 0xFFFFFFFF
RANDOM123 = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""kat_vectors of the Random123 distribution, philox4x32, 10 rounds."""

word = st.integers(0, ONES)


@pytest.mark.parametrize("name", RANDOM123)
def test_known_answers_of_random123(name):
    counter, key, wanted = RANDOM123[name]
    assert oracle.block(counter, key) == wanted
    assert philox4x32(*counter, *key) == wanted


@given(st.tuples(word, word, word, word), st.tuples(word, word))
def test_random_blocks(counter, key):
    assert philox4x32(*counter, *key) == oracle.block(counter, key)


@given(
    st.integers(0, 2**64 - 1), word, st.text(max_size=8), st.integers(0, 2**60), st.integers(0, 9)
)
def test_random_streams(seed, step, name, start, count):
    got = Stream(seed, step, name).words(count, start)
    assert got.dtype == np.uint32
    assert_same_codes(got, oracle.words(seed, step, name, start, count))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 2**34 - 2, 2**34])
def test_words_across_a_block_and_a_carry_of_the_counter(start):
    assert_same_codes(
        Stream(2**64 - 1, ONES, "w").words(11, start), oracle.words(2**64 - 1, ONES, "w", start, 11)
    )


def test_a_word_depends_on_its_position_only():
    stream = Stream(5, 6, "conv1.weights")
    whole = stream.words((6, 7))
    assert np.array_equal(whole.reshape(-1), stream.words(42))
    parts = [stream.words(size, start) for start, size in ((0, 5), (5, 1), (6, 30), (36, 6))]
    assert np.array_equal(np.concatenate(parts), whole.reshape(-1))


@pytest.mark.parametrize(
    "other", [Stream(2, 1, "a"), Stream(1, 2, "a"), Stream(1, 1, "b"), Stream(1 + 2**32, 1, "a")]
)
def test_another_seed_step_or_name_gives_other_words(other):
    assert not np.isin(other.words(100), Stream(1, 1, "a").words(100)).any()


def test_words_are_uniform():
    """Mean and every bit within 5 standard errors."""
    words = Stream(1, 0, "uniform").words(2**16).astype(np.int64)
    for bit in range(32):
        assert abs(((words >> bit) & 1).mean() - 0.5) < 5 * 0.5 / 2**8
    assert abs(words.mean() / 2**32 - 0.5) < 5 * 12**-0.5 / 2**8


def test_a_permutation_sorts_by_word_and_position():
    stream = Stream(9, 0, "shuffle")
    words = stream.words(1000).tolist()
    assert stream.permutation(1000).tolist() == sorted(range(1000), key=lambda i: (words[i], i))


@pytest.mark.parametrize(
    "seed, step, match",
    [
        (-1, 0, "seed must be 0"),
        (2**64, 0, "seed must be 0"),
        (0, -1, "step must be 0"),
        (0, 2**32, "step must be 0"),
    ],
)
def test_seed_and_step_out_of_range_are_refused(seed, step, match):
    with pytest.raises(InputError, match=match):
        Stream(seed, step, "a")


@pytest.mark.parametrize("arguments", [(1.5, 0, "a"), ("1", 0, "a"), (1, 0.5, "a"), (1, 0, 3)])
def test_arguments_of_another_type_are_a_type_error(arguments):
    with pytest.raises(TypeError):
        Stream(*arguments)

"""Random words of registers, of few bits, and of the dropped bits."""

import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest
from oracle import lfsr as oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes

from fxsim import (
    DroppedBits,
    Format,
    InputError,
    Lfsr,
    Quantizer,
    Stream,
    Tensor,
    WordMemory,
    ops,
    quantize,
)
from fxsim.kernels import threads
from fxsim.kernels.lfsr import CHUNK
from fxsim.tensor import requantize
from fxsim.words import parse_source, parse_sources, source_from_dict

TAPS = (16, 14, 13, 11)
"""Of a polynomial of order 2^16 - 1 (Wikipedia, "Linear-feedback shift register")."""
WIDTHS = (2, 3, 5, 8, 9, 16, 17, 24)


def states(register, count):
    """The first states of lane 0 of registers whose word is their state."""
    return (register.words(count) >> np.uint32(32 - register.bits)).tolist()


def drawn(source):
    """A random Lfsr of few clocks, so that the twin, bit by bit, is quick."""
    width = source.choice(WIDTHS)
    taps = {width, *(source.randint(1, width) for _ in range(3))}
    bits = source.randint(1, width)
    lanes = source.randint(1, 5)
    one = width <= 9 and source.random() < 0.5
    seeds = tuple(source.randint(1, 2**width - 1) for _ in range(lanes))
    return Lfsr(
        width,
        tuple(taps),
        bits,
        seeds[0] if one else seeds,
        source.choice(("fibonacci", "galois")),
        source.choice(("left", "right")),
        lanes,
        source.randint(1, 4),
        source.randint(0, width - bits),
        source.randint(1, 9),
        source.randint(0, 20),
        source.choice((None, 0, 3, 17)),
    )


def test_words_are_those_of_the_twin():
    source = random.Random(14)
    for _ in range(150):
        register = drawn(source)
        step, start, count = source.randint(0, 3), source.randint(0, 30), source.randint(1, 40)
        wanted = oracle.words(dataclasses.asdict(register), step, start, count)
        got = register.at(step).words(count, start)
        assert_same_codes(got, wanted, (register, step, start))
        assert Lfsr.from_dict(register.to_dict()) == register
        assert source_from_dict(register.to_dict(), "words") == register


@pytest.mark.parametrize(
    "form, second, third",
    [("fibonacci", 0x5670, 0xAB38), ("galois", 0xE270, 0x7138)],
)
def test_a_register_that_everybody_knows(form, second, third):
    register = Lfsr(16, TAPS, 16, 0xACE1, form, "right")
    assert states(register, 3) == [0xACE1, second, third]
    assert len(set(states(register, 2**16 - 1))) == 2**16 - 1
    assert states(register, 2**16)[-1] == 0xACE1


def test_the_example_of_the_contract():
    register = Lfsr(4, (4, 3), 3, (0b1000, 0b0101), lanes=2)
    assert states(register, 6) == [0b000, 0b101, 0b001, 0b011, 0b010, 0b111]
    assert register.states(step=1, elements=6) == (0b0100, 0b1111)
    pairs = dataclasses.replace(register, run=2)
    assert states(pairs, 6) == [0b000, 0b001, 0b101, 0b011, 0b010, 0b100]
    assert pairs.states(step=1, elements=6)[0] == 0b1001


def test_words_across_chunks_and_threads():
    register = Lfsr(32, (32, 22, 2, 1), 8, 5, lanes=3, run=7, clocks=8)
    size = 6 * CHUNK + 100
    before = threads.thread_count()
    try:
        threads.use_threads(1)
        one = register.at(9).words(size)
        threads.use_threads(2)
        two = register.at(9).words(size)
    finally:
        threads.use_threads(before)
    assert np.array_equal(one, two)
    later = dataclasses.replace(register, period=-(-size // 21) * 7 * 8)
    assert np.array_equal(later.at(9).words(50, size - 50), one[-50:])


def test_a_step_goes_on_where_the_one_before_ended():
    register = Lfsr(16, TAPS, 8, (1, 2, 3), lanes=3, clocks=2)
    whole = register.words(30)
    parts = [register.at(step).words(6) for step in range(5)]
    assert np.array_equal(np.concatenate(parts), whole)
    anew = dataclasses.replace(register, period=0)
    assert np.array_equal(anew.at(4).words(6), whole[:6])
    free = dataclasses.replace(register, period=10, start=2)
    assert np.array_equal(free.at(1).words(3), whole[18:21])


def test_far_steps_are_jumped_to():
    """A register of maximal period is where it was after each period."""
    register = Lfsr(16, TAPS, 16, 0xACE1, period=2**16 - 1)
    assert states(register, 4) == (register.at(2**32 - 1).words(4) >> 16).tolist()


def test_lanes_of_one_seed_are_apart():
    register = Lfsr(16, TAPS, 16, 77, lanes=4)
    apart = (2**16 - 1) // 4
    one = states(dataclasses.replace(register, lanes=1), 3 * apart + 1)
    assert list(register.states()) == [one[lane * apart] for lane in range(4)]


@pytest.mark.parametrize("bits", [1, 3, 8, 32])
@pytest.mark.parametrize("dropped", [1, 4, 8, 12])
def test_words_of_few_bits_round_like_the_twin(bits, dropped):
    stream = Stream(3, 1, "x", bits)
    words = stream.words(400)
    assert not (words & np.uint32((1 << (32 - bits)) - 1)).any()
    assert np.array_equal(words >> (32 - bits), Stream(3, 1, "x").words(400) >> (32 - bits))
    codes = np.random.default_rng(bits).integers(-(2**15), 2**15, 400)
    x = Tensor(codes, Format(16, 15))
    format = Format(16, 15 + dropped)
    got = requantize(x, Quantizer(format, "stochastic", words=stream)).codes
    wanted = [
        rounding_oracle.round_exact(Fraction(code, 2**dropped), "stochastic", word)
        for code, word in zip(codes.tolist(), words.tolist())
    ]
    assert_same_codes(got, wanted)


def test_k_bits_at_the_upper_end_of_what_is_dropped():
    """One word of 2 bits, added in hardware: (v + (word << (d - 2))) >> d."""
    codes = np.arange(-128, 128)
    for word in range(4):
        words = np.full(256, word << 30)
        down = Quantizer(Format(8, 11), "stochastic", words=words)
        got = requantize(Tensor(codes, Format(8, 7)), down).codes
        assert np.array_equal(got, (codes + (word << 2)) >> 4)


@pytest.mark.parametrize("dropped", range(9))
def test_dropped_bits_of_all_codes(dropped):
    codes = np.arange(-512, 512)
    down = Quantizer(Format(16, 15 + dropped), "stochastic", words=DroppedBits())
    got = requantize(Tensor(codes, Format(16, 15)), down).codes
    assert_same_codes(
        got, [rounding_oracle.round_by_dropped_bits(code, dropped) for code in codes.tolist()]
    )


def test_dropped_bits_by_the_formula_of_their_source():
    """NITI's PstoShift, with the quotient of its division truncated."""
    codes = np.arange(-4096, 4096)
    for shift in range(1, 11):
        quotient = np.sign(codes) * (np.abs(codes) >> shift)
        probability = np.abs(codes - quotient * 2**shift)
        upper = probability >> (shift // 2)
        lower = probability - (upper << (shift // 2))
        lower = lower * 2 if shift % 2 else lower
        wanted = quotient + np.where(upper <= lower, 0, 1) * np.sign(codes)
        down = Quantizer(Format(16, 15 + shift), "stochastic", words=DroppedBits())
        got = requantize(Tensor(codes, Format(16, 15)), down).codes
        assert np.array_equal(got, wanted)


def test_dropped_bits_wherever_a_quantizer_goes():
    target = Quantizer(Format(8, 0), "stochastic", words=DroppedBits())
    x = Tensor(np.arange(-40, 40), Format(12, 0))
    real = quantize(x.real, target).codes  # 33 bits below the step
    assert_same_codes(
        real,
        [rounding_oracle.round_by_dropped_bits(code << (33 - 4), 33) for code in x.codes.tolist()],
    )
    thirds = Tensor(np.arange(-60, 60).reshape(20, 1, 3, 2), Format(8, 7))
    averages = ops.avg_pool2d(thirds, (1, 3)).to(
        Quantizer(Format(8, 7), "stochastic", words=DroppedBits())
    )
    sums = thirds.codes.astype(int).sum(axis=2).reshape(-1).tolist()
    guarded = [(total << 16) // 3 | ((total << 16) % 3 != 0) for total in sums]
    assert_same_codes(
        averages.codes.reshape(-1),
        [rounding_oracle.round_by_dropped_bits(code, 16) for code in guarded],
    )


def test_dropped_bits_of_updates_count_from_the_odd_mantissa():
    """A rate of 2^-k is a shift by k, as hardware has it."""
    grads = np.arange(-128, 128)
    grad = Tensor(grads, Format(8, -1))
    weight = Tensor(np.zeros(256, int), Format(8, 0))
    alone, _ = ops.sgd_update(
        ops.Parameter(weight), grad, 2.0**-4, rounding="stochastic", words=DroppedBits()
    )
    wanted = [rounding_oracle.round_by_dropped_bits(-grad, 5) for grad in grads.tolist()]
    assert_same_codes(alone.value.codes, wanted)
    held = ops.Parameter(weight, Tensor(np.zeros(256, int), Format(4, -8)))
    updated, _ = ops.sgd_update(held, grad, 2.0**-8, rounding="stochastic", words=DroppedBits())
    wanted = [-rounding_oracle.round_by_dropped_bits(grad, 5) for grad in grads.tolist()]
    running = updated.value.codes.astype(int) * 16 + updated.accumulator.codes
    assert_same_codes(running, wanted)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"seed": 0}, "seed must not be 0: the register stays 0 and has period 0"),
        ({"seed": (1, 0), "lanes": 2}, "period 0"),
        ({"seed": 2**16}, "seed must be 1 to 65535"),
        ({"seed": (1, 2), "lanes": 3}, "one for each of 3 lanes, got 2"),
        ({"taps": (17, 16)}, "taps must be 1 to 16, got 17"),
        ({"taps": (16, 0)}, "taps must be 1 to 16, got 0"),
        ({"taps": (15, 4)}, "taps must have the width 16"),
        ({"taps": (16, 4, 4)}, "taps must differ"),
        ({"taps": ()}, "taps must have the width 16"),
        ({"bits": 0}, "bits must be 1 to 32, got 0"),
        ({"bits": 33, "width": 40}, "bits must be 1 to 32, got 33"),
        ({"bits": 17}, "must lie within the width 16"),
        ({"low_bit": 9}, "must lie within the width 16"),
        ({"width": 65}, "width must be 2 to 64"),
        ({"lanes": 0}, "lanes must be 1"),
        ({"run": 0}, "run must be 1"),
        ({"clocks": 0}, "clocks must be 1"),
        ({"start": -1}, "start must be 0"),
        ({"period": -1}, "period must be 0"),
        ({"form": "fibonaci"}, "fibonacci"),
    ],
)
def test_registers_that_cannot_be_are_refused(fields, match):
    right = {"width": 16, "taps": TAPS, "bits": 8}
    with pytest.raises(InputError, match=match) as caught:
        Lfsr(**right | fields)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=match):
        Lfsr.from_dict(right | fields)


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_numbers_of_random_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError, match="bits must be 1 to 32"):
        Stream(0, 0, "x", bits)


def test_words_that_a_rounding_has_no_use_for_are_refused():
    for words in (DroppedBits(), Lfsr(4, (4, 3), 4)):
        with pytest.raises(InputError, match="uses no random words"):
            Quantizer(Format(8, 0), "floor", words=words)
    with pytest.raises(InputError, match="go with rounding 'stochastic'"):
        Quantizer(Format(8, 0), "stochastic_equal", words=DroppedBits())
    with pytest.raises(InputError, match="those of a rounding"):
        ops.dropout(Tensor([1, 2], Format(4, 0)), 0.5, DroppedBits())


TEXTS = {
    "lfsr of 16, taps 16 14 13 11, 8 bits": Lfsr(16, TAPS, 8),
    "galois, right, lfsr of 16, taps 16 14 13 11, 8 bits, seed 0xACE1": Lfsr(
        16, TAPS, 8, 0xACE1, "galois", "right"
    ),
    "lfsr of 4, taps 4 3, 2 bits from bit 1".replace(" from", ", from"): Lfsr(
        4, (4, 3), 2, low_bit=1
    ),
    "lfsr of 4, taps 4 3, 2 bits, 2 lanes, seeds 1 0xF, runs of 8, 2 clocks, start 3, period 9": (
        Lfsr(4, (4, 3), 2, (1, 15), lanes=2, run=8, clocks=2, start=3, period=9)
    ),
    "dropped bits": DroppedBits(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_sources_as_text(text):
    assert parse_source(text) == TEXTS[text]
    assert parse_sources([f"a.accumulators={text}"]) == {"a.accumulators": TEXTS[text]}


@pytest.mark.parametrize(
    "text, match",
    [
        ("lfsr of 16, taps 16, 8 bits, 9 bits", "says twice"),
        ("lfsr of 16, 8 bits", "needs 'taps'"),
        ("8 bits", "name no source"),
        ("lfsr of 16, foo", "'foo' is unknown"),
        ("lfsr of 16, taps " + 60 * "1", "is unknown"),
        ("lfsr of 16, taps " + 60 * "1" + "x", "is unknown"),
        ("lfsr of 16, taps 16, seeds " + 60 * "1" + "x", "is unknown"),
        ("lfsr of 16, taps 1234567890", "is unknown"),
        ("lfsr of 16, taps 16, 8 bits, 2 lanes, seeds 0x10x2", "'seeds 0x10x2' is unknown"),
        ("dropped bits, 8 bits", "dropped bits have no bits; leave that out"),
        ("memory", "a memory has no text; give it in the file of the assignment"),
        ("philox, 33 bits", "1 to 32"),
    ],
)
def test_texts_of_no_source_are_refused(text, match):
    with pytest.raises(InputError, match=match) as caught:
        parse_source(text)
    assert len(str(caught.value)) <= 300


def test_seeds_with_leading_zeros_are_decimal():
    one = parse_source("lfsr of 16, taps 16, 8 bits, seed 0123")
    two = parse_source("lfsr of 16, taps 16  15, 8 bits, 2 lanes, seeds 007  0x0a")
    assert (one.seed, two.seed, two.taps) == (123, (7, 10), (16, 15))


def test_a_source_needs_its_tensor():
    with pytest.raises(InputError, match="must name their tensor"):
        parse_sources(["dropped bits"])


def test_a_memory_of_words_is_read_round_and_round():
    memory = WordMemory((1, 2, 3), bits=2)
    assert (memory.at(2).words((2, 2), 1) >> 30).tolist() == [[1, 2], [3, 1]]
    down = Quantizer(Format(4, 5), "stochastic", words=memory)
    got = requantize(Tensor([1, 1, 1, 1], Format(8, 7)), down).codes
    assert got.tolist() == [(1 + word) >> 2 for word in (1, 2, 3, 1)]
    assert source_from_dict(memory.to_dict(), "words") == memory


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"memory": ()}, "at least one word"),
        ({"memory": (4,), "bits": 2}, "words of 2 bits"),
        ({"memory": (-1,)}, "words of 32 bits, unsigned, got -1"),
        ({"memory": (1,), "bits": 33}, "1 to 32"),
    ],
)
def test_memories_of_no_words_are_refused(fields, match):
    with pytest.raises(InputError, match=match):
        WordMemory(**fields)

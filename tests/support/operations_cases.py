"""What tests of operations share: drawn quantizers with every kind of random words, and the check
of one exact result against the twin and against the two laws.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from oracle import activation, operations
from oracle import rounding as oracle

from fxsim.accumulator import WHEN, WHEN_OF_TILES, Accumulator
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.kernels.rounding import STOCHASTIC
from fxsim.ops import MASK, WINNER
from fxsim.quantizer import Counts, Quantizer
from fxsim.rng import Stream
from fxsim.tensor import Tensor, requantize
from support.bits import assert_same_codes

WORD_SOURCES = ("stream", "array", "longer array", "function")


class Rounded(NamedTuple):
    """How one result is to be rounded; `shift`: its step over the step of the exact result."""

    bits: int
    signed: bool
    shift: int
    rounding: str = "nearest_away"
    overflow: str = "saturate"
    source: str = "stream"
    seed: int = 0

    def format(self, step_exp):
        return Format(self.bits, step_exp + self.shift + self.bits - self.signed, self.signed)

    def words(self, size):
        """The words as a list, drawn without fxsim."""
        if self.rounding not in STOCHASTIC:
            return [0] * size
        if self.source == "stream":
            return operations.stream_words(self.seed, 3, "a tensor", size)
        if self.source == "function":
            return [word_at(self.seed, position) for position in range(size)]
        random = np.random.default_rng(self.seed)
        return random.integers(0, 2**32, size + 5).tolist()[:size]

    def quantizer(self, format, shape, counted=None):
        words = None
        if self.rounding in STOCHASTIC:
            words = self._given_words(shape)
        return Quantizer(format, self.rounding, self.overflow, words, counted)

    def _given_words(self, shape):
        size = int(np.prod(shape, dtype=int))
        if self.source == "stream":
            return Stream(self.seed, 3, "a tensor")
        if self.source == "function":
            return lambda positions: word_at(self.seed, positions)
        drawn = np.random.default_rng(self.seed).integers(0, 2**32, size + 5)
        return drawn if self.source == "longer array" else drawn[:size].reshape(shape)


def word_at(seed, position):
    """The user's own generator of random words."""
    return (position * 2654435761 + seed) % 2**32


def roundeds(shifts=(-6, 40), bits=(1, 16)):
    return st.builds(
        Rounded,
        st.integers(*bits),
        st.booleans(),
        st.integers(*shifts),
        st.sampled_from(ROUNDINGS),
        st.sampled_from(OVERFLOWS),
        st.sampled_from(WORD_SOURCES),
        st.integers(0, 2**32 - 1),
    )


EVERY_MODE = [
    Rounded(4, signed, shift, rounding, overflow, WORD_SOURCES[place % 4], place)
    for place, (rounding, overflow) in enumerate(
        (rounding, overflow) for rounding in ROUNDINGS for overflow in OVERFLOWS
    )
    for signed, shift in ((True, 2), (False, 1))
]
"""Every rounding with every overflow, signed and unsigned."""


@st.composite
def accumulators(draw, bits=(4, 24)):
    order = draw(st.sampled_from(("sequential", "tree", "tiles")))
    return Accumulator(
        draw(st.integers(*bits)),
        draw(st.sampled_from(OVERFLOWS)),
        draw(st.sampled_from(WHEN_OF_TILES if order == "tiles" else WHEN)),
        order,
        draw(st.integers(2, 6)) if order == "tiles" else 0,
        draw(st.sampled_from(oracle.DETERMINISTIC)),
        draw(st.integers(0, 4)),
    )


def tuple_of(format):
    return format.bits, format.range_exp, format.signed


def codes_of(seed, format, shape):
    """Uniform codes, one in four an end of the format or 0."""
    random = np.random.default_rng(seed)
    codes = random.integers(format.min_code, format.max_code + 1, shape)
    ends = random.choice([format.min_code, format.max_code, 0], shape)
    return np.where(random.random(shape) < 0.25, ends, codes)


def tensor_of(seed, format, shape):
    return Tensor(codes_of(seed, format, shape), format)


def reals(tensor):
    """Exact values of a Tensor, row-major."""
    unit = oracle.step(tuple_of(tensor.format))
    return [int(code) * unit for code in tensor.codes.reshape(-1)]


def nested(values, shape):
    """Row-major values as nested lists of `shape`."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape).tolist()


def check_exact(exact, values, what=""):
    """All bits of an exact result are the twin's values (flat Fractions)."""
    tensor = exact.tensor()
    assert tensor.shape == tuple(exact.shape)
    assert tensor.format == exact.format
    unit = oracle.step(tuple_of(tensor.format))
    wanted = [Fraction(value) / unit for value in values]
    assert all(value.denominator == 1 for value in wanted)
    assert_same_codes(tensor.codes.reshape(-1), [int(value) for value in wanted], what=what)
    low, high = oracle.code_range(tuple_of(exact.format))
    assert all(low <= value <= high for value in wanted), f"{what}: outside {exact.format}"


def check_rounded(make, values, rounded, what=""):
    """`to` and `relu` (and `relu_max_pool` of images) of the exact result that `make` computes.

    They equal the twin, counts included, and what requantize does to all of its bits.
    """
    exact = make()
    shape = tuple(exact.shape)
    format = rounded.format(exact.format.step_exp)
    fmt = tuple_of(format)
    words = rounded.words(len(values))
    what = f"{what} {rounded} to {format}"
    modes = (rounded.rounding, rounded.overflow)
    codes, counts = oracle.quantize_all(values, fmt, *modes, words)
    seen = []
    got = exact.to(rounded.quantizer(format, shape, seen.append))
    assert got.format == format and got.shape == shape
    assert_same_codes(got.codes.reshape(-1), codes, values, what)
    assert seen == [Counts(len(values), *counts)], what

    again = []
    law = requantize(make().tensor(), rounded.quantizer(format, shape, again.append))
    assert law.equals(got), what
    assert again == seen, what

    for ceiling in (None, 0.625 * format.range):
        if ceiling is None or ceiling >= format.step:
            _check_relu(make, values, rounded, ceiling, what)


def _check_relu(make, values, rounded, ceiling, what):
    exact = make()
    shape = tuple(exact.shape)
    format = rounded.format(exact.format.step_exp)
    fmt = tuple_of(format)
    what = f"{what}, ceiling {ceiling}"
    above, mask = operations.relu(values, fmt, ceiling)
    code = activation.ceiling_code({"ceiling": ceiling}, fmt)
    modes = (rounded.rounding, rounded.overflow, rounded.words(len(values)))
    codes, counts = oracle.quantize_all(above, fmt, *modes, code)
    seen = []
    got, got_mask = make().relu(rounded.quantizer(format, shape, seen.append), ceiling)
    assert_same_codes(got.codes.reshape(-1), codes, values, f"relu, {what}")
    assert_same_codes(got_mask.codes.reshape(-1), mask, values, f"mask, {what}")
    assert got_mask.format == MASK
    assert seen == [Counts(len(values), *counts)], what
    if len(shape) == 4:
        for size in {1, min(shape[1:3])}:
            quantizer = rounded.quantizer(format, shape)
            _check_pooled(make, (quantizer, size, ceiling), (codes, mask), what)


def _check_pooled(make, arguments, wanted, what):
    quantizer, size, _ = arguments
    exact = make()
    codes, mask = (nested(values, exact.shape) for values in wanted)
    pooled, winner = operations.max_pool_with_mask(codes, mask, size)
    got, got_winner = exact.relu_max_pool(*arguments)
    assert_same_codes(got.codes, pooled, what=f"pooled by {size}, {what}")
    assert_same_codes(got_winner.codes, winner, what=f"winner by {size}, {what}")
    assert got.format == quantizer.format and got_winner.format == WINNER


def check_quotient(make, values, rounded, step_exp, what=""):
    """The rounded quotients (flat Fractions) and their counts equal the twin's."""
    quotient = make()
    format = rounded.format(step_exp)
    words = rounded.words(len(values))
    rows = [
        operations.quotient(value, tuple_of(format), rounded.rounding, rounded.overflow, word)
        for value, word in zip(values, words)
    ]
    seen = []
    got = quotient.to(rounded.quantizer(format, quotient.shape, seen.append))
    what = f"{what} {rounded} to {format}"
    assert got.format == format and got.shape == tuple(quotient.shape)
    assert_same_codes(got.codes.reshape(-1), [row[0] for row in rows], values, what)
    assert seen == [Counts(len(values), *(sum(row[k] for row in rows) for k in (1, 2, 3)))], what


def inner(a, b):
    """The exact inner product of the codes of two tensors of one shape."""
    assert a.shape == b.shape
    return sum(int(p) * int(q) for p, q in zip(a.codes.flat, b.codes.flat))

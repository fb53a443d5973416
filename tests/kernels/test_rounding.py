"""Rounding and overflow, bit for bit.

Exhaustively at 6 bits, at the extremes, and against APyTypes.
"""

from fractions import Fraction

import numpy as np
import pytest
from oracle import rounding as oracle
from support.bits import assert_same_codes

from fxsim import quantizer
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.kernels import rounding as kernel
from fxsim.tensor import Counts, Tensor, requantize

SMALL = [(bits, signed) for bits in range(1, 7) for signed in (True, False)]
SOURCES = {"signed": Format(6, 5), "unsigned": Format(6, 6, False)}
"""All 6-bit codes at step 1; narrower sources are among them."""


def check_requantize(tensor, target, rounding, overflow, rounded=None):
    """Codes and counts of `tensor` in `target` equal the twin's.

    `rounded` saves computing them again.
    """
    codes = tensor.codes.tolist()
    rounded = rounded or round_all(tensor, target.step_exp, rounding)
    rows = [
        oracle.bound(code, (target.bits, target.range_exp, target.signed), overflow)
        for code in rounded
    ]
    got, counts = requantize(tensor, target, rounding, overflow, counts=True)
    what = f"{tensor.format} -> {target}, {rounding}, {overflow}"
    assert_same_codes(got.codes, [row[0] for row in rows], codes, what)
    flushed = sum(code != 0 and to == 0 for code, to in zip(codes, rounded))
    assert counts == Counts(
        len(codes), sum(row[1] for row in rows), sum(row[2] for row in rows), flushed
    ), what


def round_all(tensor, step_exp, rounding):
    scale = Fraction(2) ** (tensor.format.step_exp - step_exp)
    return [oracle.round_exact(code * scale, rounding) for code in tensor.codes.tolist()]


def check_targets(tensor, targets, shifts, roundings, overflows=OVERFLOWS):
    """Every (bits, signed) of `targets` at every shift, rounding and overflow."""
    for rounding in roundings:
        for shift in shifts:
            step_exp = tensor.format.step_exp + shift
            rounded = round_all(tensor, step_exp, rounding)
            for bits, signed in targets:
                target = Format(bits, step_exp + bits - signed, signed)
                for overflow in overflows:
                    check_requantize(tensor, target, rounding, overflow, rounded)


def sweep(roundings, shifts, targets=SMALL):
    for source in SOURCES.values():
        codes = np.arange(source.min_code, source.max_code + 1)
        check_targets(Tensor(codes, source), targets, shifts, roundings)


def test_the_twin_knows_every_mode():
    assert set(ROUNDINGS) == {*oracle.DETERMINISTIC, *oracle.STOCHASTIC}
    assert set(OVERFLOWS) == set(oracle.OVERFLOWS)


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
def test_every_6_bit_code_into_every_format_of_at_most_6_bits(rounding):
    sweep([rounding], range(-4, 9))


@pytest.mark.parametrize(
    "shift", [-200, -65, -64, -63, -62, -61, -33, -32, -31, 31, 32, 33, 61, 62, 63, 64, 65, 200]
)
def test_shifts_up_to_and_beyond_the_word(shift):
    sweep(oracle.DETERMINISTIC, [shift], [(1, True), (1, False), (6, True), (6, False)])


def edges(bits):
    """Powers of two and their neighbours, both signs, as `bits` wide signed codes."""
    near = {sign * 2**i + d for i in range(bits) for d in (-1, 0, 1) for sign in (-1, 1)}
    return sorted(code for code in near if -(2 ** (bits - 1)) <= code < 2 ** (bits - 1))


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
@pytest.mark.parametrize("bits", [32, 63, 64])
def test_wide_sources_at_powers_of_two_and_neighbours(rounding, bits):
    tensor = Tensor(edges(bits), Format(bits, bits - 1))
    shifts = (-40, -1, 0, 1, 2, 15, 31, 32, 33, 61, 62, 63, 64, 70)
    check_targets(
        tensor,
        [(1, True), (8, False), (31, True), (32, True), (32, False)],
        shifts,
        [rounding],
        ["saturate", "wrap"],
    )


def test_unsigned_63_bit_sources():
    codes = sorted({2**i + d for i in range(63) for d in (-1, 0, 1)})
    tensor = Tensor(np.array(codes, np.uint64), Format(63, 63, False))
    check_targets(
        tensor, [(32, True), (32, False)], (-1, 0, 1, 31, 32, 62, 63, 64), oracle.DETERMINISTIC
    )


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
def test_round_shift_is_exact_over_the_whole_word(rounding):
    for shift in (0, 1, 2, 3, 8, 30, 31, 32, 33, 60, 61, 62):
        terms = kernel.Rounding.of(rounding, shift)
        for value in edges(64):
            got = kernel.round_shift(value, terms.base, terms)
            assert got == oracle.round_exact(Fraction(value, 2**shift), rounding), (value, shift)


def test_round_divide_is_nearest_with_ties_away():
    values = {
        *range(-300, 301),
        *(s * (2**i + d) for i in range(8, 61) for d in (-1, 0, 1) for s in (-1, 1)),
    }
    for denominator in (1, 2, 3, 4, 7, 9, 16, 25, 64, 2**20 - 1, 2**40):
        for numerator in values:
            assert kernel.round_divide(numerator, denominator) == oracle.divide_nearest_away(
                numerator, denominator
            )


def test_align_keeps_what_decides_the_rounding():
    """Above a shift of 62 the discarded bits still tell a tie from its neighbours."""
    half = 2**62
    values = np.array([half - 1, half, half + 1, -half - 1, -half, -half + 1, 1, -1, 0, -2 * half])
    for shift in (63, 64, 90, 125, 126, 127, 300):
        kept, rest = kernel.align(values, shift)
        assert rest == kernel.MAX_SHIFT
        for rounding in oracle.DETERMINISTIC:
            terms = kernel.Rounding.of(rounding, rest)
            got = [kernel.round_shift(int(value), terms.base, terms) for value in kept]
            wanted = [
                oracle.round_exact(Fraction(int(value), 2**shift), rounding) for value in values
            ]
            assert_same_codes(got, wanted, values, f"{rounding} shift {shift}")


@pytest.mark.parametrize("rounding", oracle.STOCHASTIC)
@pytest.mark.parametrize("shift", [0, 1, 5, 31, 32, 33, 50, 62])
def test_stochastic_modes_given_the_words(rounding, shift):
    """Every combination of edge values and edge words."""
    words = [0, 1, 2, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
    values = [value for value in edges(64) if abs(value) >> shift < 2**40][::3]
    bases = kernel.stochastic_base(np.array(words, np.uint32), rounding, shift)
    terms = kernel.Rounding.of(rounding, shift)
    for value in values:
        for word, base in zip(words, bases):
            got = kernel.round_shift(value, int(base), terms)
            assert got == oracle.round_exact(Fraction(value, 2**shift), rounding, word), (
                value,
                word,
            )


APYTYPES_ROUNDINGS = {
    "floor": "TO_NEG",
    "ceil": "TO_POS",
    "zero": "TO_ZERO",
    "away": "TO_AWAY",
    "nearest_even": "TIES_EVEN",
    "nearest_odd": "TIES_ODD",
    "nearest_away": "TIES_AWAY",
    "nearest_zero": "TIES_ZERO",
    "nearest_up": "TIES_POS",
    "nearest_down": "TIES_NEG",
    "jam": "JAM",
}
APYTYPES_OVERFLOWS = {"saturate": "SAT", "wrap": "WRAP"}


@pytest.mark.parametrize("rounding", APYTYPES_ROUNDINGS)
@pytest.mark.parametrize("overflow", APYTYPES_OVERFLOWS)
def test_every_10_bit_code_agrees_with_apytypes(rounding, overflow):
    apytypes = pytest.importorskip(
        "apytypes", reason="APyTypes is the third party for rounding (pip install apytypes)"
    )
    quantization = getattr(apytypes.QuantizationMode, APYTYPES_ROUNDINGS[rounding])
    bound = getattr(apytypes.OverflowMode, APYTYPES_OVERFLOWS[overflow])
    codes = np.arange(-512, 512)
    source = Format(10, 3)
    reference = apytypes.APyFixedArray((codes % 1024).tolist(), int_bits=4, frac_bits=6)
    for bits in range(1, 9):
        for fraction_bits in range(-4, 10):
            cast = reference.cast(
                bits=bits, frac_bits=fraction_bits, quantization=quantization, overflow=bound
            )
            wanted = [oracle.wrap(pattern, bits, True) for pattern in cast.to_bits()]
            got = requantize(
                Tensor(codes, source), Format(bits, bits - 1 - fraction_bits), rounding, overflow
            )
            assert_same_codes(
                got.codes, wanted, codes, f"{bits} bits, {fraction_bits} fraction bits"
            )


@pytest.fixture(autouse=True)
def fresh_requantizations():
    """What a planted bug leaves in the cache of requantizations is forgotten."""
    yield
    quantizer.requantization.cache_clear()


def plant_terms(monkeypatch, change):
    right = kernel.rounding_terms
    monkeypatch.setattr(
        kernel, "rounding_terms", lambda rounding, shift: change(*right(rounding, shift), shift)
    )
    quantizer.requantization.cache_clear()


TERM_BUGS = {
    "half a step low": (
        lambda base, neg, odd, jam, shift: (base // 2, neg, odd, jam),
        ["nearest_up", "ceil"],
    ),
    "base one too low": (
        lambda base, neg, odd, jam, shift: (max(base - 1, 0), neg, odd, jam),
        ["nearest_away", "away"],
    ),
    "base one too high": (
        lambda base, neg, odd, jam, shift: (base + 1, neg, odd, jam),
        ["nearest_zero", "floor"],
    ),
    "ties of negatives up": (
        lambda base, neg, odd, jam, shift: (base, 0, odd, jam),
        ["nearest_away", "nearest_zero"],
    ),
    "ties to even lost": (
        lambda base, neg, odd, jam, shift: (base, neg, 0, jam),
        ["nearest_even", "nearest_odd"],
    ),
    "jam lost": (lambda base, neg, odd, jam, shift: (base, neg, odd, 0), ["jam"]),
    "jam only where bits drop": (
        lambda base, neg, odd, jam, shift: (base, neg, odd, jam * (shift > 0)),
        ["jam"],
    ),
}


@pytest.mark.parametrize("bug", TERM_BUGS)
def test_a_planted_rounding_bug_is_caught(monkeypatch, bug):
    change, roundings = TERM_BUGS[bug]
    plant_terms(monkeypatch, change)
    for rounding in roundings:
        with pytest.raises(AssertionError, match="differ, first at"):
            sweep([rounding], range(4), [(6, True)])


RANGE_BUGS = {
    "top one too low": lambda low, high: (low, high - 1),
    "bottom one too high": lambda low, high: (low + 1, high),
    "one bit narrower": lambda low, high: (low // 2, high // 2),
}


@pytest.mark.parametrize("bug", RANGE_BUGS)
def test_a_planted_range_bug_is_caught(monkeypatch, bug):
    right = kernel.code_range
    monkeypatch.setattr(
        kernel, "code_range", lambda *arguments: RANGE_BUGS[bug](*right(*arguments))
    )
    quantizer.requantization.cache_clear()
    with pytest.raises(AssertionError, match="differ, first at"):
        sweep(["nearest_away"], [0, 1], [(4, True)])


def test_a_planted_shift_bug_is_caught(monkeypatch):
    right = kernel.align
    monkeypatch.setattr(kernel, "align", lambda values, shift: right(values, shift + 1))
    with pytest.raises(AssertionError, match="differ, first at"):
        sweep(["nearest_away"], [1], [(4, True)])


def test_wrap_planted_for_saturate_is_caught(monkeypatch):
    monkeypatch.setitem(kernel.OVERFLOW_RULE, "saturate", kernel.WRAP)
    quantizer.requantization.cache_clear()
    with pytest.raises(AssertionError, match="differ, first at"):
        sweep(["nearest_away"], [1], [(4, True)])


@pytest.mark.parametrize(
    "bits, signed", [(1, True), (4, False), (16, True), (32, True), (32, False)]
)
@pytest.mark.parametrize("rounding", [mode for mode in ROUNDINGS if mode not in kernel.STOCHASTIC])
def test_int32_arithmetic_gives_the_codes_of_int64(rounding, bits, signed):
    """Every shift, at the ends of int32, around powers of two and at random.

    31 is beyond the int32 loop.
    """
    powers = np.array(
        [sign * 2**i + d for i in range(31) for sign in (-1, 1) for d in (-1, 0, 1)], np.int32
    )
    ends = np.array([-(2**31), -(2**31) + 1, 2**31 - 2, 2**31 - 1], np.int32)
    values = np.concatenate(
        [powers, ends, np.random.default_rng(7).integers(-(2**31), 2**31, 500).astype(np.int32)]
    )
    for shift in range(32):
        terms = kernel.Rounding.of(rounding, shift)
        bounds = kernel.Range.of(bits, signed, "saturate")
        results = [
            (out, kernel.requantize_array(source, np.empty(0, np.int64), terms, bounds, out))
            for source, out in (
                (values, np.empty(values.size, np.int64)),
                (values.astype(np.int64), np.empty(values.size, np.int64)),
            )
        ]
        assert_same_codes(results[0][0], results[1][0], values, f"{rounding}, shift {shift}")
        assert results[0][1].tolist() == results[1][1].tolist()

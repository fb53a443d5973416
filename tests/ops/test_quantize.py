"""quantize and requantize.

Real sources, counts, properties of the modes, random words, refusals.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import rounding as oracle
from support.bits import assert_same_codes

from fxsim import Counts, Format, Quantizer, Stream, Tensor, quantize, requantize
from fxsim.errors import InputError
from fxsim.formats import OVERFLOWS

NEAREST = tuple(mode for mode in oracle.DETERMINISTIC if mode.startswith("nearest"))
TINY = 5e-324
HUGE = 1.7976931348623157e308


class Words(Stream):
    """A stream of given words."""

    def __init__(self, words):
        super().__init__(0, 0, "given")
        object.__setattr__(self, "given", words)

    def words(self, shape, start=0):
        return np.resize(np.array(self.given, np.uint32), shape)


def check_quantize(values, fmt, rounding, overflow, words=None):
    """Codes and counts of real `values` equal the twin's, which sees each as an exact fraction."""
    values = np.asarray(values)
    exact = [Fraction(value) for value in values.reshape(-1).tolist()]
    wanted, counted = oracle.quantize_all(exact, fmt, rounding, overflow, words)
    stream = None if words is None else Words(words)
    got, counts = quantize(values, Format(*fmt), rounding, overflow, stream, counts=True)
    what = f"{fmt} {rounding} {overflow}"
    assert_same_codes(got.codes.reshape(-1), wanted, values.reshape(-1), what)
    assert counts == Counts(len(exact), *counted), what


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
def test_every_quarter_step_of_floats_into_every_format_of_at_most_4_bits(rounding):
    values = np.arange(-90, 91) / 4
    for bits in range(1, 5):
        for signed in (True, False):
            for step_exp in (0, 2):
                for overflow in OVERFLOWS:
                    check_quantize(
                        values, (bits, step_exp + bits - signed, signed), rounding, overflow
                    )


EXTREMES = [
    0.0,
    -0.0,
    TINY,
    -TINY,
    3 * TINY,
    -3 * TINY,
    2.0**-1022,
    1e-310,
    -1e-310,
    0.1,
    -0.1,
    1 / 3,
    0.5,
    -0.5,
    1.5,
    -1.5,
    math.nextafter(0.5, 0),
    math.nextafter(0.5, 1),
    math.nextafter(-0.5, 0),
    math.nextafter(-0.5, -1),
    2.0**31,
    -(2.0**31),
    2.0**32 - 0.5,
    2.0**53 + 2,
    -(2.0**63),
    2.0**64,
    1e300,
    -1e300,
    HUGE,
    -HUGE,
]


@pytest.mark.parametrize("rounding", oracle.DETERMINISTIC)
@pytest.mark.parametrize("range_exp", [-512, -500, -40, 0, 1, 31, 40, 500, 512])
def test_extreme_floats(rounding, range_exp):
    """Subnormals, signed zeros and the greatest floats, at steps from 2**-543 to 2**512."""
    for bits, signed in ((1, True), (8, True), (8, False), (32, True), (32, False)):
        for overflow in OVERFLOWS:
            check_quantize(EXTREMES, (bits, range_exp, signed), rounding, overflow)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_narrow_floats_are_taken_exactly(kind):
    limits = np.finfo(kind)
    values = np.array(
        [
            0,
            limits.max,
            limits.min,
            limits.tiny,
            limits.smallest_subnormal,
            1 / 3,
            -1 / 3,
            0.1,
            0.5,
            1.5,
        ],
        kind,
    )
    for fmt in ((8, 0, True), (16, -10, True), (32, 3, False), (8, 60, True), (5, -140, False)):
        for rounding in oracle.DETERMINISTIC:
            check_quantize(values, fmt, rounding, "saturate")
            check_quantize(values, fmt, rounding, "wrap")


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "uint64"])
def test_integer_arrays_are_taken_exactly(kind):
    limits = np.iinfo(kind)
    high = min(limits.max, 2**63 - 1)
    values = np.array([limits.min, limits.min + 1, 0, 1, high - 1, high], kind)
    for fmt in ((8, 7, True), (32, 63, True), (32, 10, True), (1, 0, True)):
        for rounding in ("floor", "nearest_even", "nearest_away", "jam"):
            check_quantize(values, fmt, rounding, "wrap")
            check_quantize(values, fmt, rounding, "saturate")


formats = st.tuples(st.integers(1, 32), st.integers(-40, 40), st.booleans())
floats = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def values_near(draw, fmt):
    """A float by a code, a tie or an end of the format, one ulp off at most; or any float."""
    low, high = oracle.code_range(fmt)
    code = draw(st.one_of(st.integers(low - 2, high + 2), st.sampled_from([low, high, 0])))
    value = math.ldexp(
        code + draw(st.sampled_from([0.0, 0.25, 0.5, 0.75])), fmt[1] - fmt[0] + fmt[2]
    )
    neighbours = math.nextafter(value, math.inf), math.nextafter(value, -math.inf)
    return draw(st.sampled_from([value, *neighbours, draw(floats)]))


@given(st.data(), formats, st.sampled_from(oracle.DETERMINISTIC), st.sampled_from(OVERFLOWS))
def test_random_floats(data, fmt, rounding, overflow):
    check_quantize(
        data.draw(st.lists(values_near(fmt), min_size=1, max_size=6)), fmt, rounding, overflow
    )


@given(
    st.data(),
    st.integers(33, 64),
    formats,
    st.integers(-70, 70),
    st.sampled_from(oracle.DETERMINISTIC),
    st.sampled_from(OVERFLOWS),
)
def test_random_codes_between_random_formats(data, bits, fmt, shift, rounding, overflow):
    low, high = oracle.code_range((data.draw(st.integers(1, bits)), 0, True))
    codes = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=6))
    source = (bits, fmt[1] + shift, True)
    wanted, counted = oracle.quantize_all(
        [code * oracle.step(source) for code in codes], fmt, rounding, overflow
    )
    tensor = Tensor(np.array(codes, np.int64), Format(*source))
    got, counts = requantize(tensor, Format(*fmt), rounding, overflow, counts=True)
    assert_same_codes(got.codes, wanted, codes, f"{source} -> {fmt} {rounding} {overflow}")
    assert counts == Counts(len(codes), *counted)


@given(st.data(), formats, st.sampled_from(oracle.STOCHASTIC), st.sampled_from(OVERFLOWS))
def test_stochastic_rounding_of_integers_given_the_words(data, fmt, rounding, overflow):
    codes = data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6))
    words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(codes), max_size=len(codes)))
    check_quantize(np.array(codes, np.int64), fmt, rounding, overflow, words)


@pytest.mark.parametrize("rounding", oracle.STOCHASTIC)
def test_stochastic_rounding_of_floats_given_the_words(rounding):
    words = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
    for value in (0.0, 0.25, 0.5, 0.75, 2.0**-31, 1 - 2.0**-32, 3.0, 3 + 2.0**-32, 5.5):
        for sign in (-1, 1):
            check_quantize([sign * value] * len(words), (6, 5, True), rounding, "saturate", words)


@pytest.mark.parametrize("rounding", oracle.STOCHASTIC)
def test_a_fraction_counts_to_32_bits_whatever_the_source(rounding):
    """What lies below the word's last bit can never round up, be it a float or an integer."""
    words = [0, 2**31, 2**32 - 1]
    for value in (2.0**-40, 2.0**-33, -(2.0**-40), 0.5 + 2.0**-40, 1e-300, -1e-300):
        check_quantize([value] * 3, (6, 5, True), rounding, "saturate", words)
    wide = Tensor(np.array([1, 1, 1]), Format(42, 1))
    exact = [Fraction(1, 2**40)] * 3
    wanted, _ = oracle.quantize_all(exact, (6, 5, True), rounding, "saturate", words)
    assert_same_codes(requantize(wide, Format(6, 5), rounding, words=Words(words)).codes, wanted)


@pytest.mark.parametrize("value", [0.25, -0.3, 1.7, -2.9, 1 / 1024])
def test_stochastic_rounding_is_right_on_average(value):
    """Mean within 5 standard errors of the value; only the two neighbours occur."""
    count = 20_000
    codes = quantize(
        np.full(count, value), Format(8, 7), "stochastic", words=Stream(7, 0, "mean")
    ).codes
    fraction = value - math.floor(value)
    assert set(codes.tolist()) <= {math.floor(value), math.floor(value) + 1}
    assert abs(codes.mean() - value) < 5 * math.sqrt(fraction * (1 - fraction) / count)


def test_stochastic_equal_goes_up_half_of_the_time():
    codes = quantize(
        np.full(20_000, 0.01), Format(8, 7), "stochastic_equal", words=Stream(7, 0, "half")
    ).codes
    assert abs(codes.mean() - 0.5) < 5 * math.sqrt(0.25 / 20_000)
    exact = quantize(
        np.full(100, 3.0), Format(8, 7), "stochastic_equal", words=Stream(7, 0, "half")
    ).codes
    assert set(exact.tolist()) == {3}


def test_stochastic_rounding_draws_the_word_of_the_position():
    values = np.full((5, 7), 0.37)
    stream = Stream(3, 2, "w")
    words = stream.words(values.shape).reshape(-1).tolist()
    wanted, _ = oracle.quantize_all(
        [Fraction(0.37)] * 35, (8, 7, True), "stochastic", "saturate", words
    )
    got = quantize(values, Format(8, 7), "stochastic", words=stream)
    assert_same_codes(got.codes.reshape(-1), wanted)


@given(st.data(), formats, st.sampled_from(NEAREST))
def test_nearest_modes_are_within_half_a_step_in_range(data, fmt, rounding):
    value = data.draw(values_near(fmt))
    low, high = (Fraction(code) * oracle.step(fmt) for code in oracle.code_range(fmt))
    if low <= Fraction(value) <= high:
        code = int(quantize([value], Format(*fmt), rounding).codes[0])
        assert abs(code * oracle.step(fmt) - Fraction(value)) <= oracle.step(fmt) / 2


@given(
    st.data(),
    formats,
    st.sampled_from([mode for mode in oracle.DETERMINISTIC if mode != "jam"]),
    st.sampled_from(OVERFLOWS),
)
def test_quantizing_twice_changes_nothing(data, fmt, rounding, overflow):
    """But for jam, which makes the even codes odd that overflow gives."""
    once = quantize(
        data.draw(st.lists(values_near(fmt), min_size=1, max_size=4)),
        Format(*fmt),
        rounding,
        overflow,
    )
    assert once.equals(quantize(once.real, Format(*fmt), rounding, overflow))
    if fmt[0] <= 8:
        assert once.equals(requantize(once, Format(*fmt), rounding, overflow))


@given(
    st.data(),
    formats,
    st.sampled_from(oracle.DETERMINISTIC),
    st.sampled_from(["saturate", "saturate_symmetric"]),
)
def test_saturating_quantization_is_monotone(data, fmt, rounding, overflow):
    values = sorted(data.draw(st.lists(values_near(fmt), min_size=2, max_size=8)))
    codes = quantize(values, Format(*fmt), rounding, overflow).codes.astype(np.int64)
    assert (np.diff(codes) >= 0).all()


@given(formats, st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=6))
def test_wrapping_is_modulo_the_range(fmt, codes):
    bits, _, signed = fmt
    got = quantize(np.array(codes), Format(bits, bits - signed, signed), overflow="wrap").codes
    assert all((int(code) - value) % 2**bits == 0 for code, value in zip(got, codes))


def test_counts_of_a_small_case():
    """Step 1, codes -8 .. 7: -9 is below, 8 above, 0.25 and -0.4 are flushed, 0 is not."""
    tensor, counts = quantize(
        [-9.0, -8.0, 8.0, 7.4, 0.25, -0.4, 0.0, 1.0], Format(4, 3), counts=True
    )
    assert counts == Counts(elements=8, below=1, above=1, flushed=2)
    assert counts.clipped == 2
    assert counts + counts == Counts(16, 2, 2, 4)
    assert tensor.codes.tolist() == [-8, -8, 7, 7, 0, 0, 0, 1]


def test_a_value_below_half_a_step_is_flushed_however_small():
    _, counts = quantize([TINY, -TINY, 0.0, -0.0], Format(8, 512), counts=True)
    assert counts.flushed == 2


def test_default_is_nearest_with_ties_away_and_saturation():
    assert quantize([0.5, -0.5, 2.5, -2.5, 99, -99], Format(4, 3)).codes.tolist() == [
        1,
        -1,
        3,
        -3,
        7,
        -8,
    ]


@pytest.mark.parametrize("rounding", (*oracle.DETERMINISTIC, *oracle.STOCHASTIC))
@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_empty_arrays_stay_empty(rounding, kind):
    words = Stream(0, 0, "e") if rounding in oracle.STOCHASTIC else None
    tensor, counts = quantize(
        np.empty((0, 3), kind), Format(8, 0), rounding, words=words, counts=True
    )
    assert tensor.shape == (0, 3)
    assert counts == Counts(0, 0, 0, 0)


@pytest.mark.parametrize("value", [2.6, np.float32(2.6), 3, np.int8(3), np.array(3)])
def test_a_scalar_keeps_its_shape(value):
    tensor = quantize(value, Format(8, 7))
    assert tensor.shape == ()
    assert int(tensor.codes) == 3


def test_shape_and_order_are_kept():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(
        quantize(values.transpose(2, 0, 1), Format(8, 7)).codes, values.transpose(2, 0, 1)
    )
    codes = Tensor(values.astype(np.int64).transpose(2, 0, 1), Format(8, 7))
    assert np.array_equal(requantize(codes, Format(8, 7)).codes, values.transpose(2, 0, 1))


def test_the_source_is_left_alone():
    values = np.array([1.5, -2.5])
    codes = np.array([5, -6])
    quantize(values, Format(4, 3))
    requantize(Tensor(codes, Format(8, 7)), Format(4, 4))
    assert values.tolist() == [1.5, -2.5]
    assert codes.tolist() == [5, -6]


@pytest.mark.parametrize(
    "bad, how_many, index",
    [
        ([[1.0, 2.0], [math.nan, math.inf]], "2 of 4", "(1, 0)"),
        ([math.inf], "1 of 1", "(0,)"),
        ([0.0, -math.inf, 1.0], "1 of 3", "(1,)"),
        (math.nan, "1 of 1", "()"),
    ],
)
def test_nan_and_infinity_are_counted_and_located(bad, how_many, index):
    with pytest.raises(InputError) as error:
        quantize(np.array(bad), Format(8, 0))
    assert how_many in str(error.value)
    assert f"index {index}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bits", [33, 40, 64])
def test_formats_wider_than_32_bits_are_refused(bits):
    with pytest.raises(
        InputError, match=f"format has {bits} bits; tensors are quantized to at most 32"
    ):
        quantize([0.5], Format(bits, 0))
    with pytest.raises(InputError, match=f"format has {bits} bits"):
        requantize(Tensor([1], Format(8, 0)), Format(bits, 0))


@pytest.mark.parametrize(
    "call",
    [
        lambda mode: quantize([0.5], Format(8, 0), mode),
        lambda mode: requantize(Tensor([1], Format(8, 0)), Format(4, 0), mode),
    ],
)
def test_an_unknown_rounding_names_the_nearest(call):
    with pytest.raises(
        InputError, match="rounding 'nearest_evan' is unknown; did you mean 'nearest_even'"
    ):
        call("nearest_evan")


def test_an_unknown_overflow_names_the_nearest():
    with pytest.raises(InputError, match="overflow 'saturat' is unknown; did you mean 'saturate'"):
        quantize([0.5], Format(8, 0), overflow="saturat")


@pytest.mark.parametrize("rounding", oracle.STOCHASTIC)
def test_stochastic_rounding_needs_a_stream(rounding):
    for call in (
        lambda: quantize([0.5], Format(8, 0), rounding),
        lambda: quantize([1], Format(8, 0), rounding),
        lambda: requantize(Tensor([1], Format(8, 0)), Format(4, 0), rounding),
    ):
        with pytest.raises(
            InputError, match=f"rounding '{rounding}' needs random words; pass words=fxsim.Stream"
        ):
            call()


@pytest.mark.parametrize("values", [[1 + 2j], ["1"], [True], [None], [1, None], [1, "2"]])
def test_values_that_are_no_reals_are_a_type_error(values):
    with pytest.raises(TypeError, match="values must (be|hold) real numbers.* got "):
        quantize(values, Format(8, 0))


def test_a_float_wider_than_float64_is_never_narrowed_in_silence():
    wide = np.array([1 + np.longdouble(2) ** -60])
    if wide.dtype.itemsize == 8 or wide[0] == 1:
        pytest.skip("longdouble is float64 here")
    try:
        code = int(quantize(wide, Format(8, 7), "ceil").codes[0])
    except (TypeError, InputError):
        return
    assert code == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantize([0.5], 8),
        lambda: quantize([0.5], (8, 0, True)),
        lambda: requantize(Tensor([1], Format(8, 0)), "Q0.7"),
    ],
)
def test_a_format_must_be_a_format(call):
    with pytest.raises(TypeError, match=r"format must be a fxsim\.Format"):
        call()


def test_requantize_takes_tensors_only():
    with pytest.raises(
        TypeError, match="tensor must be a fxsim.Tensor, got ndarray; use fxsim.quantize"
    ):
        requantize(np.array([1]), Format(8, 0))


@pytest.mark.parametrize("rounding", ["floor", "nearest_away", "jam"])
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_integers_of_64_unsigned_bits_and_lists_of_any_size_are_exact(rounding, overflow):
    """Of which float64 would lose the low bits."""
    wide = np.array([2**63, 2**64 - 1, 2**53 + 1, 0], np.uint64)
    for fmt in ((8, 7, True), (16, 60, False), (32, 64, True)):
        check_quantize(wide, fmt, rounding, overflow)
        for values in (
            [2**53 + 1],
            [2**53 + 1, 0.5],
            [2**63 + 3, -1],
            [-(2**200) + 7, 2**200 - 1, 3],
            [[2**70, -0.5], [1e300, -(10**400)]],
            [np.int64(2**62 + 1), np.float32(0.5), 1],
        ):
            exact = np.array(values, object)
            wanted, counted = oracle.quantize_all(
                [
                    Fraction(value.item() if hasattr(value, "item") else value)
                    for value in exact.flat
                ],
                fmt,
                rounding,
                overflow,
            )
            got, counts = quantize(values, Format(*fmt), rounding, overflow, counts=True)
            assert_same_codes(got.codes.reshape(-1), wanted, exact.reshape(-1), f"{fmt}")
            assert counts == Counts(exact.size, *counted)
            assert got.shape == exact.shape


@pytest.mark.parametrize(
    "values, index", [([10**400, math.nan], "(1,)"), ([[1, 2.5], [math.inf, 3]], "(1, 0)")]
)
def test_nan_beside_integers_of_any_size_is_located(values, index):
    with pytest.raises(InputError) as error:
        quantize(values, Format(8, 0))
    assert f"index {index}" in str(error.value)


def test_a_quantizer_brings_its_own_modes():
    seen = []
    quantizer = Quantizer(Format(4, 3), "floor", "wrap", counted=seen.append)
    tensor, counts = quantize([8.5, -0.5], quantizer, counts=True)
    assert tensor.codes.tolist() == [-8, -1]
    assert seen == [counts] == [Counts(2, 0, 1, 0)]
    words = np.array([0, 2**32 - 1])
    drawn = Quantizer(Format(4, 3), "stochastic", words=words)
    assert quantize([0.5, 0.5], drawn).codes.tolist() == [0, 1]
    assert requantize(Tensor([1, 1], Format(5, 3)), drawn).codes.tolist() == [0, 1]
    for beside in ({"rounding": "ceil"}, {"overflow": "wrap"}, {"words": words}):
        with pytest.raises(InputError, match="a Quantizer brings its own rounding, overflow and"):
            quantize([0.5, 0.5], quantizer, **beside)


@pytest.mark.parametrize("codes", [[-129], [128], [0, 300]])
def test_codes_outside_the_format_are_refused(codes):
    with pytest.raises(InputError, match=r"codes must be in \[-128, 127\]"):
        Tensor(codes, Format(8, 0))


def test_float_codes_are_a_type_error():
    with pytest.raises(
        TypeError, match="codes must hold integers, got dtype float64; use fxsim.quantize for real"
    ):
        Tensor([1.0], Format(8, 0))


def test_real_values_are_codes_times_step():
    tensor = Tensor([-128, 0, 127], Format(8, -3))
    assert [Fraction(value) for value in tensor.real] == [
        code * oracle.step((8, -3, True)) for code in (-128, 0, 127)
    ]


def test_equal_tensors_have_equal_formats_shapes_and_codes():
    tensor = Tensor([1, 2], Format(8, 0))
    assert tensor.equals(Tensor([1, 2], Format(8, 0)))
    assert not tensor.equals(Tensor([1, 2], Format(8, 1)))
    assert not tensor.equals(Tensor([1, 3], Format(8, 0)))
    assert not tensor.equals(Tensor([[1, 2]], Format(8, 0)))

"""Format: derived numbers, the notations of hardware people, and refusals."""

from fractions import Fraction

import numpy as np
import pytest
from oracle.rounding import code_range, step

from fxsim.errors import InputError
from fxsim.formats import Format

GRID = [
    (bits, range_exp, signed)
    for bits in range(1, 65)
    for range_exp in (-20, -3, -1, 0, 1, 4, 31)
    for signed in (True, False)
    if signed or bits < 64
]


@pytest.mark.parametrize("signed", [True, False])
def test_step_range_and_codes_are_the_definition(signed):
    for fmt in (fmt for fmt in GRID if fmt[2] == signed):
        format = Format(*fmt)
        low, high = code_range(fmt)
        assert Fraction(format.step) == step(fmt) == Fraction(2) ** format.step_exp
        assert (format.min_code, format.max_code) == (low, high)
        assert Fraction(format.range) == Fraction(2) ** fmt[1]
        if fmt[0] <= 53:
            assert (Fraction(format.min), Fraction(format.max)) == (
                low * step(fmt),
                high * step(fmt),
            )


def test_dtype_is_the_smallest_that_holds_every_code():
    for fmt in GRID:
        dtype = Format(*fmt).dtype
        low, high = code_range(fmt)
        assert dtype.kind == ("i" if fmt[2] else "u")
        assert np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max
        if dtype.itemsize > 1:
            smaller = np.iinfo(f"{dtype.kind}{dtype.itemsize // 2}")
            assert low < smaller.min or high > smaller.max


def test_every_notation_is_read_back():
    for fmt in GRID:
        format = Format(*fmt)
        texts = (format.q("ti"), format.q("arm"), format.ap_fixed(), format.wl_fl())
        assert [Format.parse(text) for text in texts] == [format] * 4


@pytest.mark.parametrize(
    "text, fmt",
    [
        ("Q0.7 (ti)", (8, 0, True)),
        ("Q1.7 (arm)", (8, 0, True)),
        ("Q15.16 (ti)", (32, 15, True)),
        ("Q16.16 (arm)", (32, 15, True)),
        ("Q0.7", (8, 0, True)),
        ("UQ1.7", (8, 1, False)),
        ("UQ1.7 (arm)", (8, 1, False)),
        ("Q-2.9 (ti)", (8, -2, True)),
        ("ap_fixed<8,1>", (8, 0, True)),
        ("ap_fixed<16, 6>", (16, 5, True)),
        ("ap_ufixed<8,1>", (8, 1, False)),
        ("ap_fixed<8,-2>", (8, -3, True)),
        ("ap_fixed<8,12>", (8, 11, True)),
        ("(8, 7)", (8, 0, True)),
        ("u(8, 7)", (8, 1, False)),
        ("(8,-2)", (8, 9, True)),
        ("  (16, 12) ", (16, 3, True)),
    ],
)
def test_parse_reads_the_notations(text, fmt):
    assert Format.parse(text) == Format(*fmt)


def test_a_q_text_without_a_convention_takes_the_argument():
    assert Format.parse("Q1.7", "arm") == Format.parse("Q0.7", "ti") == Format(8, 0)
    assert Format.parse("Q1.7 (ti)", "arm") == Format(9, 1)


@pytest.mark.parametrize(
    "text",
    ["", "Q7", "Q1,7", "fixed<8,1>", "ap_fixed<8>", "ap_fixed<8,1,AP_RND>", "8.7", "Q0.7 (x)"],
)
def test_an_unknown_notation_is_refused_with_examples(text):
    with pytest.raises(InputError, match="in no known notation; write Q0.7"):
        Format.parse(text)


def test_an_unknown_convention_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'arm'"):
        Format(8, 0).q("amr")
    with pytest.raises(InputError, match="convention"):
        Format.parse("Q0.7", "tii")


@pytest.mark.parametrize(
    "bits, signed", [(0, True), (-1, True), (65, True), (64, False), (65, False), (0, False)]
)
def test_bits_out_of_range_are_refused_with_the_value(bits, signed):
    with pytest.raises(InputError, match=rf"bits must be 1 to 6[34] .*got {bits}$"):
        Format(bits, 0, signed)


def test_a_notation_of_too_many_bits_is_refused():
    with pytest.raises(InputError, match="bits must be 1 to 64"):
        Format.parse("ap_fixed<65,1>")


@pytest.mark.parametrize("range_exp", [-513, 513])
def test_a_range_beyond_float64_is_refused(range_exp):
    with pytest.raises(InputError, match=f"range_exp must be -512 to 512, got {range_exp}"):
        Format(8, range_exp)


@pytest.mark.parametrize(
    "arguments", [(8.0, 0), ("8", 0), (True, 0), (None, 0), (8, 0.5), (8, "0"), (8, False)]
)
def test_bits_and_range_must_be_integers(arguments):
    with pytest.raises(TypeError, match="must be an integer, got"):
        Format(*arguments)


def test_numpy_integers_are_integers():
    assert Format(np.int8(8), np.int64(-3)) == Format(8, -3)
    assert type(Format(np.int8(8), np.int64(-3)).bits) is int


def test_formats_are_values():
    assert Format(8, 0) == Format(8, 0, True) != Format(8, 0, False)
    assert hash(Format(8, 0)) == hash(Format(8, 0, True))
    assert str(Format(8, 1, False)) == "u8 r=2^1 step=2^-7"

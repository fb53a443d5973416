"""The guide's page of modes is what the generator makes, and the generator tells the truth."""

from fractions import Fraction

import pytest
from support import modes_gallery

from fxsim import OVERFLOWS, ROUNDINGS
from fxsim.profiles import truth


def test_the_page_and_its_pictures_are_those_that_the_generator_makes():
    made = modes_gallery.files()
    there = {f"modes/{path.name}" for path in (modes_gallery.FOLDER / "modes").iterdir()}
    assert there | {"modes.md"} == set(made)
    for name, content in made.items():
        found = (modes_gallery.FOLDER / name).read_text(encoding="utf-8")
        assert found == content, f"{name}: run python tests/support/modes_gallery.py"


def test_every_mode_has_a_rule():
    assert list(modes_gallery.ROUNDING_RULES) == list(ROUNDINGS)
    assert list(modes_gallery.OVERFLOW_RULES) == list(OVERFLOWS)


@pytest.mark.parametrize("mode", OVERFLOWS)
def test_the_truth_table_of_overflows_is_that_of_the_profiles(mode):
    line = next(row for row in modes_gallery.overflow_truth().splitlines() if f"`{mode}`" in row)
    assert line.split(" | ")[1:] == [*map(str, truth("overflow", mode)[:-1]),
                                     f"{truth('overflow', mode)[-1]} |"]  # fmt: skip


@pytest.mark.parametrize(
    "mode, above, below",
    [
        ("floor", Fraction(-15, 32), Fraction(-15, 32)),  # -(2^4 - 1) / 2^5
        ("zero", Fraction(-15, 32), Fraction(15, 32)),
        ("nearest_even", 0, 0),
        ("nearest_up", Fraction(1, 32), Fraction(1, 32)),  # half a step, at one value of 16
        ("nearest_away", Fraction(1, 32), Fraction(-1, 32)),
        ("stochastic", 0, 0),
    ],
)
def test_biases_are_those_of_the_formulas(mode, above, below):
    assert modes_gallery.bias(mode, modes_gallery.ABOVE) == above
    assert modes_gallery.bias(mode, -modes_gallery.ABOVE) == below


def test_stochastic_rounding_goes_up_with_the_probability_of_the_fraction():
    (found,) = modes_gallery.outcomes("stochastic", modes_gallery.GRID[43:44])  # 3/16
    assert found == {0: Fraction(13, 16), 1: Fraction(3, 16)}
    (found,) = modes_gallery.outcomes("stochastic_equal", modes_gallery.GRID[43:44])
    assert found == {0: Fraction(1, 2), 1: Fraction(1, 2)}

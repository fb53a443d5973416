"""RTL requantizer, kernel and twin give the same bits and flags.

Every value, mode and pair of small formats.
"""

from itertools import product

import pytest
from rtl.harness import ICARUS, VERILATOR, both_simulators
from rtl.sweeps import Sweep, every_code, exhaustive

from fxsim import Format


def edges(bits, signed):
    """Powers of two and their neighbours, both signs."""
    near = {sign * 2**i + d for i in range(bits + 1) for d in (-1, 0, 1) for sign in (-1, 1)}
    source = Format(bits, bits - signed, signed)
    return sorted(code for code in near if source.min_code <= code <= source.max_code)


def total_cases(widths, widest, shifts):
    return sum(
        exhaustive(bits, signed, widest, shifts).cases
        for bits, signed in product(widths, (True, False))
    )


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", range(1, 5))
def test_every_value_of_at_most_4_bits_in_icarus(tmp_path, bits, signed):
    sweep = exhaustive(bits, signed, 4, range(-2, 7))
    sweep.check(*sweep.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize(
    "simulator, signed", [(VERILATOR, True), (ICARUS, False)], ids=["verilator", "icarus"]
)
def test_every_value_of_6_bits(tmp_path, simulator, signed):
    sweep = exhaustive(6, signed, 6, range(-4, 9))
    got = sweep.simulate(simulator, tmp_path)
    sweep.check(*got)
    assert sweep.differences(*got) == 0


@pytest.mark.slow
@both_simulators
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_value_of_at_most_8_bits(tmp_path, simulator, bits, signed):
    sweep = exhaustive(bits, signed, 8, range(-5, 12))
    sweep.check(*sweep.simulate(simulator, tmp_path))


def test_the_number_of_cases():
    assert total_cases(range(1, 5), 4, range(-2, 7)) == 190_080
    assert total_cases([6], 6, range(-4, 9)) == 878_592
    assert total_cases(range(1, 9), 8, range(-5, 12)) == 12_207_360


@pytest.mark.parametrize(
    "bits, signed, widths, shifts",
    [
        (16, True, range(8, 9), range(6, 9)),
        (16, False, range(15, 17), range(-1, 2)),
        (33, True, range(32, 33), range(3)),
        (48, True, range(32, 33), range(15, 18)),
        (62, True, range(32, 33), range(29, 32)),
        (12, True, range(3, 4), range(11, 15)),
        (5, True, range(3, 4), range(28, 31)),
    ],
)
def test_wide_formats_at_powers_of_two_and_neighbours(tmp_path, bits, signed, widths, shifts):
    sweep = Sweep(edges(bits, signed), bits, signed, widths, shifts)
    sweep.check(*sweep.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize("bug, mode", [(1, "nearest_away"), (2, "saturate"), (3, "floor")])
def test_a_planted_bug_is_caught(tmp_path, bug, mode):
    """1: a wrong tie; 2: wrap for saturate; 3: a range one bit too narrow."""
    sweep = Sweep(every_code(4, True), 4, True, range(2, 4), range(3))
    got = sweep.simulate(ICARUS, tmp_path, bug)
    with pytest.raises(AssertionError, match=f"RTL and twin: codes differ .* of s4 to .*{mode}"):
        sweep.check(*got)
    assert sweep.differences(*got) > 0

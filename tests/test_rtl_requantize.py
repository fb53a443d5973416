"""RTL requantizer, kernel and twin give the same bits and flags: every value, mode and pair of small formats."""
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from oracle import rounding as oracle
from rtl.harness import ICARUS, VERILATOR, both_simulators, read_codes, write_codes

from fxsim import OVERFLOWS, ROUNDINGS, Counts, Format, Tensor, requantize

DETERMINISTIC = ROUNDINGS[:11]
BELOW, ABOVE, FLUSHED = 0, 1, 2


def every_code(bits, signed):
    source = Format(bits, bits - signed, signed)
    return list(range(source.min_code, source.max_code + 1))


def edges(bits, signed):
    """Powers of two and their neighbours, both signs."""
    near = {sign * 2**i + d for i in range(bits + 1) for d in (-1, 0, 1) for sign in (-1, 1)}
    source = Format(bits, bits - signed, signed)
    return sorted(code for code in near if source.min_code <= code <= source.max_code)


class Sweep:
    """Values of one input format, to be requantized in every mode into a box of output formats.

    Arrays have the axes (overflow, rounding, value, output width, output sign, shift).
    """

    def __init__(self, codes, bits, signed, widths, shifts):
        self.codes, self.bits, self.signed = codes, bits, signed
        self.widths, self.shifts = widths, shifts
        self.shape = (len(OVERFLOWS), len(DETERMINISTIC), len(codes), len(widths), 2, len(shifts))
        self.cases = int(np.prod(self.shape))

    def simulate(self, simulator, folder, bug=0):
        """(codes, flags) of the RTL; the codes as unsigned words, the flags with a last axis of three."""
        simulation = simulator.build(
            "requantize_tb", folder, COUNT=len(self.codes), IN_BITS=self.bits, IN_SIGNED=self.signed,
            OUT_BITS_MIN=self.widths[0], OUT_BITS_MAX=self.widths[-1], SHIFT_MIN=self.shifts[0],
            SHIFT_MAX=self.shifts[-1], BUG=bug)
        write_codes(simulation.folder / "values", self.codes, self.bits)
        simulation.run(values="values", words="words")
        words = read_codes(simulation.folder / "words", self.widths[-1] + 3, False, self.shape)
        flags = words >> self.widths[-1]
        return words & (2**self.widths[-1] - 1), np.stack([flags >> bit & 1 for bit in range(3)], axis=-1)

    def twin(self):
        """(codes, flags) of the twin, in the same form."""
        codes, flags = np.empty(self.shape, np.int64), np.empty((*self.shape, 3), np.int64)
        for (r, rounding), (s, shift) in product(enumerate(DETERMINISTIC), enumerate(self.shifts)):
            rounded = [oracle.round_exact(code / Fraction(2) ** shift, rounding) for code in self.codes]
            flushed = [code != 0 and to == 0 for code, to in zip(self.codes, rounded)]
            for (w, bits), sign, (o, overflow) in product(enumerate(self.widths), (0, 1), enumerate(OVERFLOWS)):
                rows = [oracle.bound(code, (bits, 0, bool(sign)), overflow) for code in rounded]
                codes[o, r, :, w, sign, s] = [row[0] % 2**bits for row in rows]
                flags[o, r, :, w, sign, s] = [(row[1], row[2], zero) for row, zero in zip(rows, flushed)]
        return codes, flags

    def kernel(self):
        """Codes of fxsim.requantize in the same form, and its Counts without the axis of values."""
        codes, counts = np.empty(self.shape, np.int64), {}
        source = Tensor(np.array(self.codes), Format(self.bits, self.bits - self.signed, self.signed))
        for o, r, w, sign, s in np.ndindex(*self.shape[:2], *self.shape[3:]):
            bits = self.widths[w]
            target = Format(bits, self.shifts[s] + bits - sign, bool(sign))
            tensor, counts[o, r, w, sign, s] = requantize(source, target, DETERMINISTIC[r], OVERFLOWS[o], counts=True)
            codes[o, r, :, w, sign, s] = tensor.codes.astype(np.int64) & (2**bits - 1)
        return codes, counts

    def check(self, codes, flags):
        """AssertionError at the first case in which RTL, kernel and twin are not the same."""
        twin_codes, twin_flags = self.twin()
        self.assert_same(codes, twin_codes, "RTL and twin: codes")
        self.assert_same(flags, twin_flags, "RTL and twin: (below, above, flushed)")
        kernel_codes, counts = self.kernel()
        self.assert_same(codes, kernel_codes, "RTL and kernel: codes")
        for (o, r, w, sign, s), counted in counts.items():
            tally = flags[o, r, :, w, sign, s].sum(axis=0)
            assert counted == Counts(len(self.codes), *tally.tolist()), (OVERFLOWS[o], DETERMINISTIC[r], w, sign, s)

    def assert_same(self, got, wanted, what):
        different = np.argwhere(got != wanted)
        if len(different):
            o, r, v, w, sign, s = first = tuple(different[0][:6])
            raise AssertionError(
                f"{what} differ in {len(different)} of {self.cases} cases, first {self.codes[v]} of "
                f"{'su'[not self.signed]}{self.bits} to {'us'[sign]}{self.widths[w]}, {self.shifts[s]} bits dropped, "
                f"{DETERMINISTIC[r]}, {OVERFLOWS[o]}: got {got[first]}, wanted {wanted[first]}")


def exhaustive(bits, signed, widest, shifts):
    return Sweep(every_code(bits, signed), bits, signed, range(1, widest + 1), shifts)


def total_cases(widths, widest, shifts):
    return sum(exhaustive(bits, signed, widest, shifts).cases for bits, signed in product(widths, (True, False)))


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", range(1, 5))
def test_every_value_of_at_most_4_bits_in_icarus(tmp_path, bits, signed):
    sweep = exhaustive(bits, signed, 4, range(-2, 7))
    sweep.check(*sweep.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize("simulator, signed", [(VERILATOR, True), (ICARUS, False)], ids=["verilator", "icarus"])
def test_every_value_of_6_bits(tmp_path, simulator, signed):
    sweep = exhaustive(6, signed, 6, range(-4, 9))
    sweep.check(*sweep.simulate(simulator, tmp_path))


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


@pytest.mark.parametrize("bits, signed, widths, shifts", [
    (16, True, range(8, 9), range(6, 9)),
    (16, False, range(15, 17), range(-1, 2)),
    (33, True, range(32, 33), range(3)),
    (48, True, range(32, 33), range(15, 18)),
    (62, True, range(32, 33), range(29, 32)),
    (12, True, range(3, 4), range(11, 15)),
    (5, True, range(3, 4), range(28, 31)),
])
def test_wide_formats_at_powers_of_two_and_neighbours(tmp_path, bits, signed, widths, shifts):
    sweep = Sweep(edges(bits, signed), bits, signed, widths, shifts)
    sweep.check(*sweep.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize("bug, mode", [(1, "nearest_away"), (2, "saturate"), (3, "floor")])
def test_a_planted_bug_is_caught(tmp_path, bug, mode):
    """1: a wrong tie; 2: wrap for saturate; 3: a range one bit too narrow."""
    sweep = Sweep(every_code(4, True), 4, True, range(2, 4), range(3))
    with pytest.raises(AssertionError, match=f"RTL and twin: codes differ .* of s4 to .*{mode}"):
        sweep.check(*sweep.simulate(ICARUS, tmp_path, bug))

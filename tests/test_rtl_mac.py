"""The RTL multiply-accumulate unit, the ordered kernels and the twin give the same sums and overflow counts."""
from itertools import product

import numpy as np
import pytest
from oracle import products as oracle
from rtl.harness import ICARUS, both_simulators, read_codes, write_codes

from fxsim import ROUNDINGS
from fxsim.kernels import accumulate as kernel
from fxsim.kernels.rounding import code_range, rounding_terms

DETERMINISTIC = ROUNDINGS[:11]
MODES = list(product((False, True), DETERMINISTIC))
VALID, CLEAR, WRAP = 1 << 6, 1 << 5, 1 << 4


class Sums:
    """Dot products of each row of `a` with the same row of `b`, (sums, terms); in every mode, each after the other."""

    def __init__(self, a, b, a_bits, b_bits, acc_bits, shift, modes=MODES):
        self.a, self.b, self.a_bits, self.b_bits = a, b, a_bits, b_bits
        self.acc_bits, self.shift, self.modes = acc_bits, shift, modes
        self.shape = (len(modes), *a.shape)

    def controls(self):
        words = [VALID | WRAP * wrap | DETERMINISTIC.index(rounding) for wrap, rounding in self.modes]
        controls = np.broadcast_to(np.array(words)[:, None, None], self.shape).copy()
        controls[:, :, 0] |= CLEAR
        return controls

    def simulate(self, simulator, folder, bug=0):
        """(accumulator, overflows) of the RTL after every term, int64 (modes, sums, terms)."""
        return run_cycles(simulator, folder, np.broadcast_to(self.a, self.shape), np.broadcast_to(self.b, self.shape),
                          self.controls(), A_BITS=self.a_bits, B_BITS=self.b_bits, ACC_BITS=self.acc_bits,
                          SHIFT=self.shift, BUG=bug)

    def twin(self):
        sums = np.empty((*self.shape, 2), np.int64)
        terms = (self.a.astype(object) * self.b).tolist()
        for m, (wrap, rounding) in enumerate(self.modes):
            for i, row in enumerate(terms):
                for k in range(len(row)):
                    sums[m, i, k] = oracle.accumulate(row[:k + 1], self.acc_bits, "wrap" if wrap else "saturate",
                                                      self.shift, rounding)
        return sums[..., 0], sums[..., 1]

    def kernel(self):
        """As the twin; a sum of its own for each row and each number of terms."""
        sums, overflows = (np.empty(self.shape, np.int64) for _ in range(2))
        low, high = code_range(self.acc_bits, True, "saturate")
        for m, i, k in np.ndindex(*self.shape):
            wrap, rounding = self.modes[m]
            a, b = self.a[i:i + 1, :k + 1].copy(), self.b[i, :k + 1, None].copy()
            arguments = (0, 1, a, b, self.shift, *rounding_terms(rounding, self.shift))
            out, count = sums[m, i, k:k + 1, None], overflows[m, i, k:k + 1, None]
            if wrap:
                kernel.gemm_wrapping(*arguments, self.acc_bits, out, count)
            else:
                kernel.gemm_saturating(*arguments, low, high, out, count)
        return sums, overflows

    def check(self, got, wanted, what):
        for name, one, other in zip(("sums", "overflows"), got, wanted):
            different = np.argwhere(one != other)
            if len(different):
                m, i, k = first = tuple(different[0])
                wrap, rounding = self.modes[m]
                raise AssertionError(
                    f"{what}: {name} differ in {len(different)} of {one.size}, first after {self.a[i, :k + 1]} * "
                    f"{self.b[i, :k + 1]}, shifted by {self.shift}, {rounding}, {'wrap' if wrap else 'saturate'} at "
                    f"{self.acc_bits} bits: got {one[first]}, wanted {other[first]}")


def run_cycles(simulator, folder, a, b, controls, **parameters):
    simulation = simulator.build("saturating_mac_tb", folder, CYCLES=controls.size, **parameters)
    write_codes(simulation.folder / "a", a, parameters["A_BITS"])
    write_codes(simulation.folder / "b", b, parameters["B_BITS"])
    write_codes(simulation.folder / "control", controls, 7)
    simulation.run(a="a", b="b", control="control", acc="acc", overflows="overflows")
    return (read_codes(simulation.folder / "acc", parameters["ACC_BITS"], True, controls.shape),
            read_codes(simulation.folder / "overflows", 32, False, controls.shape))


def every_pair(bits, terms, signs=(1,)):
    """Each pair of codes, `terms` times, the products' signs repeating as in `signs`."""
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.int16)
    a, b = (grid.reshape(-1, 1).repeat(terms, axis=1) for grid in np.meshgrid(codes, codes, indexing="ij"))
    return a * np.resize(signs, terms).astype(np.int16), b


@both_simulators
def test_every_pair_of_4_bit_codes_in_every_mode(tmp_path, simulator):
    """256 sums of 3 terms in 22 modes; 5-bit operands, so that -8 can change its sign."""
    a, b = every_pair(4, 3, (1, 1, -1))
    sums = Sums(a, b, 5, 4, 5, 2)
    got = sums.simulate(simulator, tmp_path)
    sums.check(got, sums.twin(), "RTL and twin")
    sums.check(got, sums.kernel(), "RTL and kernel")
    assert (got[1].max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("acc_bits, shift", [(2, 0), (4, 0), (4, 1), (5, 3), (9, 5)])
def test_every_pair_of_3_bit_codes_at_other_widths(tmp_path, acc_bits, shift):
    a, b = every_pair(3, 4, (1, 1, -1, 1))
    sums = Sums(a, b, 4, 3, acc_bits, shift)
    got = sums.simulate(ICARUS, tmp_path)
    sums.check(got, sums.twin(), "RTL and twin")
    sums.check(got, sums.kernel(), "RTL and kernel")


@pytest.mark.parametrize("a_bits, b_bits, acc_bits, shift", [(8, 8, 18, 0), (16, 12, 28, 4), (31, 31, 62, 0),
                                                             (9, 14, 16, 12)])
def test_wide_codes(tmp_path, a_bits, b_bits, acc_bits, shift):
    """Random and extreme operands; 50 sums of 8 terms."""
    random = np.random.default_rng(acc_bits)
    a, b = (random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (50, 8)) for bits in (a_bits, b_bits))
    a[:2], b[0], b[1] = -(2 ** (a_bits - 1)), -(2 ** (b_bits - 1)), 2 ** (b_bits - 1) - 1
    sums = Sums(a, b, a_bits, b_bits, acc_bits, shift)
    got = sums.simulate(ICARUS, tmp_path)
    sums.check(got, sums.twin(), "RTL and twin")
    sums.check(got, sums.kernel(), "RTL and kernel")


def test_unsigned_operands(tmp_path):
    a, b = np.array([[255, 255, 1, 200]]), np.array([[255, 15, 255, 200]])
    controls = np.array([[VALID | CLEAR, VALID, VALID, VALID]])
    acc, overflows = run_cycles(ICARUS, tmp_path, a, b, controls, A_BITS=8, B_BITS=8, A_SIGNED=0, B_SIGNED=0,
                                ACC_BITS=18)
    assert acc.tolist() == [[255 * 255, 255 * 270, 255 * 271, 255 * 271 + 40_000]]
    assert not overflows.any()


def test_idle_cycles_hold_the_sum_and_clear_alone_empties_it(tmp_path):
    controls = np.array([VALID | CLEAR, 0, VALID, 0, VALID, CLEAR, 0, VALID])
    a, b = np.array([7, 5, 7, 3, 7, 1, 1, 2]), np.full(8, 7)
    acc, overflows = run_cycles(ICARUS, tmp_path, a, b, controls, A_BITS=4, B_BITS=4, ACC_BITS=8)
    assert acc.tolist() == [49, 49, 98, 98, 127, 0, 0, 14]
    assert overflows.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


BUGS = {1: ("wrong tie", "nearest_away"), 2: ("wrap for saturate", "saturate"), 3: ("a bit too narrow", "floor"),
        4: ("product truncated", "ceil")}


@pytest.mark.parametrize("bug", BUGS, ids=[name for name, _ in BUGS.values()])
def test_a_planted_bug_is_caught(tmp_path, bug):
    a, b = every_pair(3, 3)
    sums = Sums(a, b, 3, 3, 5, 1)
    with pytest.raises(AssertionError, match=f"RTL and twin: sums differ .*{BUGS[bug][1]}"):
        sums.check(sums.simulate(ICARUS, tmp_path, bug), sums.twin(), "RTL and twin")

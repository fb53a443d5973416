"""The RTL multiply-accumulate unit, the ordered kernels and the twin give the same sums and
overflow counts.
"""

import numpy as np
import pytest
from rtl.harness import ICARUS, both_simulators
from rtl.sweeps import CLEAR, VALID, Sums, run_cycles, transitions


def every_pair(bits, terms, signs=(1,)):
    """Each pair of codes, `terms` times, the products' signs repeating as in `signs`."""
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.int16)
    a, b = (
        grid.reshape(-1, 1).repeat(terms, axis=1)
        for grid in np.meshgrid(codes, codes, indexing="ij")
    )
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


def test_every_addition_to_an_accumulator_of_3_bits(tmp_path):
    """Of every product of a 4-bit and a 2-bit code, in every mode."""
    reached = set()
    for sums in transitions(4, 2, 3, 1):
        got = sums.simulate(ICARUS, tmp_path)
        sums.check(got, sums.twin(), "RTL and twin")
        sums.check(got, sums.kernel(), "RTL and kernel")
        assert sums.differences(got) == 0
        before = np.broadcast_to(got[0][..., -2], sums.shape[:2])
        reached |= {
            (mode, int(acc), int(a), int(b))
            for m, mode in enumerate(sums.modes)
            for acc, a, b in zip(before[m], sums.a[:, -1], sums.b[:, -1])
        }
    assert len(reached) == 22 * 8 * 16 * 4


@pytest.mark.parametrize(
    "a_bits, b_bits, acc_bits, shift",
    [(8, 8, 18, 0), (16, 12, 28, 4), (31, 31, 62, 0), (9, 14, 16, 12)],
)
def test_wide_codes(tmp_path, a_bits, b_bits, acc_bits, shift):
    """Random and extreme operands; 50 sums of 8 terms."""
    random = np.random.default_rng(acc_bits)
    a, b = (
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (50, 8)) for bits in (a_bits, b_bits)
    )
    a[:2] = -(2 ** (a_bits - 1))
    b[0] = -(2 ** (b_bits - 1))
    b[1] = 2 ** (b_bits - 1) - 1
    sums = Sums(a, b, a_bits, b_bits, acc_bits, shift)
    got = sums.simulate(ICARUS, tmp_path)
    sums.check(got, sums.twin(), "RTL and twin")
    sums.check(got, sums.kernel(), "RTL and kernel")


def test_unsigned_operands(tmp_path):
    a = np.array([[255, 255, 1, 200]])
    b = np.array([[255, 15, 255, 200]])
    controls = np.array([[VALID | CLEAR, VALID, VALID, VALID]])
    acc, overflows = run_cycles(
        ICARUS, tmp_path, a, b, controls, A_BITS=8, B_BITS=8, A_SIGNED=0, B_SIGNED=0, ACC_BITS=18
    )
    assert acc.tolist() == [[255 * 255, 255 * 270, 255 * 271, 255 * 271 + 40_000]]
    assert not overflows.any()


def test_idle_cycles_hold_the_sum_and_clear_alone_empties_it(tmp_path):
    controls = np.array([VALID | CLEAR, 0, VALID, 0, VALID, CLEAR, 0, VALID])
    a = np.array([7, 5, 7, 3, 7, 1, 1, 2])
    b = np.full(8, 7)
    acc, overflows = run_cycles(ICARUS, tmp_path, a, b, controls, A_BITS=4, B_BITS=4, ACC_BITS=8)
    assert acc.tolist() == [49, 49, 98, 98, 127, 0, 0, 14]
    assert overflows.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


BUGS = {
    1: ("wrong tie", "nearest_away"),
    2: ("wrap for saturate", "saturate"),
    3: ("a bit too narrow", "floor"),
    4: ("product truncated", "ceil"),
}


@pytest.mark.parametrize("bug", BUGS, ids=[name for name, _ in BUGS.values()])
def test_a_planted_bug_is_caught(tmp_path, bug):
    a, b = every_pair(3, 3)
    sums = Sums(a, b, 3, 3, 5, 1)
    got = sums.simulate(ICARUS, tmp_path, bug)
    with pytest.raises(AssertionError, match=f"RTL and twin: sums differ .*{BUGS[bug][1]}"):
        sums.check(got, sums.twin(), "RTL and twin")
    assert sums.differences(got) > 0

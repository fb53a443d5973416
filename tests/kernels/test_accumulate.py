"""Ordered accumulators: bounded after every addition, in the stated order."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import products as oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes

from fxsim.kernels import rounding
from fxsim.kernels.accumulators import adders
from fxsim.kernels.accumulators import saturating as kernel
from fxsim.kernels.rounding import Range, Rounding


def gemm(a, b, bits, overflow, shift=0, mode="floor"):
    """(sums, overflowing additions), both (M, N) int64, term by term."""
    out, overflows = np.zeros((2, len(a), b.shape[1]), np.int64)
    terms = Rounding(shift, *rounding.rounding_terms(mode, shift))
    low, high = rounding.code_range(bits, True, overflow)
    bounds = Range(low, high, rounding.OVERFLOW_RULE[overflow], bits, 1)
    if overflow == "wrap":
        adders.accumulate_tiles(a, b, 1, terms, bounds, out, overflows)
    else:
        kernel.gemm_saturating(0, len(a), a, b, terms, bounds, out, overflows)
    return out, overflows


def check(a, b, bits, overflow, shift=0, mode="floor"):
    rows = a.tolist()
    columns = b.T.tolist()
    wanted = [
        [
            oracle.accumulate([x * y for x, y in zip(row, column)], bits, overflow, shift, mode)
            for column in columns
        ]
        for row in rows
    ]
    got, overflows = gemm(a, b, bits, overflow, shift, mode)
    inputs = np.array([[f"{row} . {column}" for column in columns] for row in rows], dtype=object)
    what = f"{bits} bits, {overflow}, addend shifted by {shift}, {mode}"
    assert_same_codes(got, [[cell[0] for cell in row] for row in wanted], inputs, what)
    assert_same_codes(
        overflows, [[cell[1] for cell in row] for row in wanted], inputs, f"overflows, {what}"
    )


def every_row(bits, terms):
    return np.array(
        list(itertools.product(range(-(2 ** (bits - 1)), 2 ** (bits - 1)), repeat=terms)), np.int16
    )


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_every_sum_of_three_products_of_2_bit_codes(bits, overflow):
    rows = every_row(2, 3)
    for shift, mode in ((0, "floor"), (1, "nearest_away"), (2, "nearest_even")):
        check(rows, np.ascontiguousarray(rows.T), bits, overflow, shift, mode)


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("mode", rounding_oracle.DETERMINISTIC)
def test_every_pair_of_4_bit_codes_in_every_rounding_of_the_addend(mode, overflow):
    rows = np.repeat(every_row(4, 1), 4, axis=1)
    columns = np.ascontiguousarray(np.array([[1], [1], [-1], [1]], np.int16) * every_row(4, 1).T)
    for shift in (0, 1, 3, 5):
        check(rows, columns, 6, overflow, shift, mode)


def test_order_matters_where_it_saturates_and_not_where_it_wraps():
    """7 + 7 - 7 - 7 in 4 bits.

    0 exactly, -7 saturated (7, then 0, then -7); 14 wraps to -2 and comes back.
    """
    ones = np.ones((1, 4), np.int16)
    up_first, mixed = (
        np.array([column], np.int16).T for column in ([7, 7, -7, -7], [7, -7, 7, -7])
    )
    assert gemm(ones, up_first, 4, "saturate")[0].item() == -7
    assert gemm(ones, mixed, 4, "saturate")[0].item() == 0
    assert gemm(ones, up_first, 4, "wrap")[0].item() == gemm(ones, mixed, 4, "wrap")[0].item() == 0
    assert gemm(ones, up_first, 4, "saturate")[1].item() == 1
    assert gemm(ones, up_first, 4, "wrap")[1].item() == 2


@pytest.mark.parametrize("bits, terms", [(9, 3), (16, 9), (31, 5), (32, 17)])
def test_both_sides_of_the_width_that_cannot_overflow(bits, terms):
    """terms * 2**(2 bits - 2) just fits the exact width; one bit less saturates at the extremes."""
    a = np.full((1, terms), -(2 ** (bits - 1)), np.int32)
    total = terms * 2 ** (2 * bits - 2)
    exact_bits = total.bit_length() + 1
    if exact_bits <= 63:
        sums, overflows = gemm(a, a.T.copy(), exact_bits, "saturate")
        assert (sums.item(), overflows.item()) == (total, 0)
    narrow = min(exact_bits - 1, 62)
    for overflow in ("saturate", "wrap"):
        check(a, a.T.copy(), narrow, overflow)
        check(a, -(a.T + 1), narrow, overflow)
    assert gemm(a, a.T.copy(), narrow, "saturate")[1].item() > 0


@given(
    st.tuples(st.integers(1, 4), st.integers(0, 12), st.integers(1, 9)),
    st.integers(1, 31),
    st.integers(1, 31),
    st.integers(1, 62),
    st.integers(0, 62),
    st.sampled_from(["saturate", "wrap"]),
    st.sampled_from(rounding_oracle.DETERMINISTIC),
    st.integers(0, 2**32 - 1),
)
def test_random_products(shape, a_bits, b_bits, bits, shift, overflow, mode, seed):
    random = np.random.default_rng(seed)
    m, k, n = shape
    a = random.integers(-(2 ** (a_bits - 1)), 2 ** (a_bits - 1), (m, k)).astype(np.int32)
    b = random.integers(-(2 ** (b_bits - 1)), 2 ** (b_bits - 1), (k, n)).astype(np.int32)
    check(a, b, bits, overflow, min(shift, a_bits + b_bits), mode)


FASTER = {
    "exact": (2**7, 2**7, 0, "floor", 9 * 2**14, 9 * 2**14),
    "exact but for one": (2**7, 2**7, 0, "floor", 9 * 2**14 - 1, 2**18),
    "int16": (2**7, 2**7, 0, "floor", 2**15, 2**15 - 1),
    "int16, fewer bits": (2**7, 2**7, 0, "nearest_up", 2**14, 2**14 - 1),
    "int16 to its limit": (181, 181, 0, "floor", 2**15, 2**15 - 1),
    "int16 of one sign": (2**7, 2**7, 0, "floor", 0, 2**15 - 1),
    "a product beyond int16": (2**8, 2**7, 0, "floor", 2**15, 2**15 - 1),
    "int32": (2**7, 2**7, 0, "floor", 2**15, 2**15),
    "int32 with rounding": (2**7, 2**7, 3, "nearest_even", 2**9, 2**9),
    "int32 with jam": (2**7, 2**7, 0, "jam", 2**15, 2**15),
    "int32 to its limit": (2**15, 2**14, 0, "floor", 2**30, 2**30 - 2**29),
    "int64": (2**15, 2**15, 0, "floor", 2**30, 2**30),
    "shift beyond int32": (2**7, 2**7, 31, "ceil", 3, 3),
}
"""What decides the kernel -> greatest |a| and |b|, shift, rounding, -low and high."""


def ordered(a, b, terms, bounds, sums, overflows):
    """Term by term in int64."""
    kernel.gemm_saturating(0, len(a), a, b, terms, bounds, sums, overflows)


@pytest.mark.parametrize("case", FASTER)
def test_the_fastest_kernel_gives_the_sums_of_the_ordered_one(case):
    a_max, b_max, shift, mode, below, above = FASTER[case]
    random = np.random.default_rng(6)
    terms = Rounding(shift, *rounding.rounding_terms(mode, shift))
    bounds = Range(-below, above, rounding.SATURATE, 62, 1)
    for m, k, n in ((1, 9, 1), (3, 9, 1030), (4, 1, 5), (2, 8, 17)):
        a, b = (
            random.integers(-most, most, shape).astype(np.int16 if most < 2**15 else np.int32)
            for most, shape in ((a_max, (m, k)), (b_max, (k, n)))
        )
        a[0] = -a_max
        b[:, 0] = -b_max
        for start in (0, -below, above // 2, above):
            results = []
            for add in (kernel.accumulate_saturating, ordered):
                sums = np.full((m, n), start, np.int64)
                overflows = np.full((m, n), 5, np.int64)
                add(a, b, terms, bounds, sums, overflows)
                results.append((sums, overflows))
            (got, met), (wanted, wanted_met) = results
            assert_same_codes(got, wanted, what=f"{case}, from {start}")
            assert_same_codes(met, wanted_met, what=f"overflows, {case}, from {start}")


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_an_ample_accumulator_is_the_exact_product(terms, seed):
    random = np.random.default_rng(seed)
    a, b = (
        random.integers(-128, 128, shape).astype(np.int16) for shape in ((3, terms), (terms, 5))
    )
    for overflow in ("saturate", "wrap"):
        sums, overflows = gemm(a, b, 40, overflow)
        assert_same_codes(sums, oracle.matmul(a.tolist(), b.tolist()))
        assert not overflows.any()


@pytest.mark.parametrize("mode", ["floor", "nearest_away", "jam"])
def test_a_convolution_adds_by_input_channel_then_kernel_row_then_column(mode):
    """Patches laid out in the stated order; padding gives zero terms, which jam makes one."""
    random = np.random.default_rng(4)
    x = random.integers(-8, 8, (1, 4, 4, 2))
    w = random.integers(-8, 8, (3, 3, 2, 3))
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    patches = np.array(
        [
            padded[y : y + 3, z : z + 3].transpose(2, 0, 1).reshape(-1)
            for y in range(4)
            for z in range(4)
        ]
    )
    weights = np.ascontiguousarray(w.transpose(2, 0, 1, 3).reshape(-1, 3))
    x = x.tolist()
    w = w.tolist()
    wanted = [
        [
            oracle.accumulate(oracle.ordered_terms(x, w, 0, y, z, o, 1, 1), 6, "saturate", 2, mode)[
                0
            ]
            for o in range(3)
        ]
        for y in range(4)
        for z in range(4)
    ]
    got, overflows = gemm(
        patches.astype(np.int16), weights.astype(np.int16), 6, "saturate", 2, mode
    )
    assert_same_codes(got, wanted)
    assert overflows.any()


def test_rows_can_be_computed_in_parts():
    random = np.random.default_rng(5)
    a = random.integers(-99, 99, (9, 6)).astype(np.int16)
    b = random.integers(-99, 99, (6, 4)).astype(np.int16)
    whole, _ = gemm(a, b, 15, "saturate")
    parts = [gemm(a[i : i + 2], b, 15, "saturate")[0] for i in range(0, 9, 2)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_a_dropped_term_and_another_order_are_caught():
    rows = every_row(2, 3)
    columns = np.ascontiguousarray(rows.T)
    wanted = [
        [
            oracle.accumulate([x * y for x, y in zip(row, column)], 3, "saturate")[0]
            for column in rows.tolist()
        ]
        for row in rows.tolist()
    ]
    for wrong in (
        (rows[:, 1:].copy(), columns[1:].copy()),
        (rows[:, ::-1].copy(), columns[::-1].copy()),
    ):
        with pytest.raises(AssertionError, match="differ, first at"):
            assert_same_codes(gemm(*wrong, 3, "saturate")[0], wanted)

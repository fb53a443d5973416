"""The choice of a product's path: the inequality of every proof, on both of its sides."""

import itertools

import numpy as np
import pytest

from fxsim.kernels.products.paths import (
    BYTE_TERMS,
    PATHS,
    Operand,
    accumulator_bits,
    allowed_paths,
    never_saturates,
    plan,
)

EVERY = [Operand(bits, signed) for bits in range(1, 33) for signed in (True, False)]
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
WITHOUT_AMX = tuple(path for path in PATHS if not path.endswith("amx"))


def product_of(a, b):
    return a.magnitude * b.magnitude


def largest_of_parts(a, b):
    return max(product_of(*pair) for pair in itertools.product(a.parts, b.parts))


def test_magnitude_is_the_greatest_code():
    for operand in EVERY:
        low = -(2 ** (operand.bits - 1)) if operand.signed else 0
        assert operand.magnitude == max(-low, 2 ** (operand.bits - operand.signed) - 1)


def test_an_operand_fits_where_all_its_codes_do():
    for operand in EVERY:
        low = -(2 ** (operand.bits - 1)) if operand.signed else 0
        high = 2 ** (operand.bits - operand.signed) - 1
        for bits, signed in ((8, True), (8, False), (16, True), (16, False)):
            holds = (
                low >= (-(2 ** (bits - 1)) if signed else 0) and high <= 2 ** (bits - signed) - 1
            )
            assert operand.fits(bits, signed) == holds, (operand, bits, signed)


@pytest.mark.parametrize("terms", [1, 2, 3, 27, 576, 4608, 2**20])
def test_accumulator_bits_are_the_fewest_that_hold_every_partial_sum(terms):
    for a in EVERY[::3]:
        for b in EVERY[::3]:
            bits = accumulator_bits(a, b, terms)
            greatest = terms * product_of(a, b)
            assert 2 ** (bits - 1) - 1 >= greatest > 2 ** (bits - 2) - 1


def test_spill_terms_are_the_most_that_int32_holds():
    for a in EVERY:
        for b in EVERY:
            product = product_of(a, b)
            if product > INT32_MAX or not allowed_paths(a, b, 1):
                continue
            chosen = plan(a, b, 1, WITHOUT_AMX)
            spill = chosen.spill_terms
            product = largest_of_parts(a, b) if chosen.split else product
            assert spill * product <= INT32_MAX < (spill + 1) * product


def test_fits_int32_exactly_where_all_terms_do():
    for a in EVERY[::3]:
        for b in EVERY[::3]:
            product = product_of(a, b)
            for terms in {1, max(1, INT32_MAX // product), INT32_MAX // product + 1}:
                if terms * product <= INT64_MAX:
                    chosen = plan(a, b, terms)
                    assert chosen.fits_int32 == (
                        terms * product <= INT32_MAX and not chosen.split
                    ), (a, b, terms)


def test_the_plain_path_holds_to_the_last_term_of_an_int64():
    a = b = Operand(32)
    most = INT64_MAX // product_of(a, b)
    assert plan(a, b, most, ("plain",)).path == "plain"
    assert plan(a, b, most).path == "split_vnni"
    assert plan(a, b, most).accumulator_bits == 64
    with pytest.raises(
        ValueError,
        match=f"{most + 1} products of 32-bit signed by 32-bit signed codes need an "
        "accumulator of 65 bits, at most 64 are exact here",
    ):
        plan(a, b, most + 1)


@pytest.mark.parametrize("path, depth", [("int8_vnni", 4), ("int16_vnni", 2), ("int16_avx2", 2)])
def test_a_tile_path_is_allowed_exactly_where_operands_and_one_step_fit(path, depth):
    left, right = ((8, False), (8, True)) if path == "int8_vnni" else ((16, True), (16, True))
    for a in EVERY:
        for b in EVERY:
            fits = a.fits(*left) and b.fits(*right) and depth * product_of(a, b) <= INT32_MAX
            assert (path in allowed_paths(a, b, 9)) == fits, (a, b)


@pytest.mark.parametrize("terms", [9, 2**20])
def test_bytes_are_allowed_exactly_where_one_or_two_hold_the_codes(terms):
    for a in EVERY:
        for b in EVERY:
            allowed = allowed_paths(a, b, terms)
            bits = max(a.bits, b.bits)
            assert [path in allowed for path in ("int8_amx", "int16_amx")] == [
                bits <= 8,
                bits <= 16,
            ], (a, b)
            if bits <= 16:
                fits = terms * product_of(a, b) <= INT32_MAX
                wanted = (
                    f"{terms} * {a.magnitude} * {b.magnitude}"
                    if fits
                    else f"2 * {BYTE_TERMS} * 255^2"
                )
                assert f"{wanted} <= 2^31 - 1" in allowed["int16_amx"]


@pytest.mark.parametrize(
    "a, b, path",
    [
        (Operand(8), Operand(8), "int8_amx"),
        (Operand(8, False), Operand(8, False), "int8_amx"),
        (Operand(9), Operand(8), "int16_amx"),
        (Operand(16, False), Operand(16, False), "int16_amx"),
        (Operand(17), Operand(8), "split_vnni"),
    ],
)
def test_the_fastest_allowed_path_of_a_processor_with_amx_is_taken(a, b, path):
    assert plan(a, b, 9).path == path


@pytest.mark.parametrize(
    "a, b, path",
    [
        (Operand(8, False), Operand(8), "int8_vnni"),
        (Operand(8), Operand(8), "int16_vnni"),
        (Operand(9, False), Operand(8), "int16_vnni"),
        (Operand(8, False), Operand(9), "int16_vnni"),
        (Operand(8, False), Operand(7, False), "int8_vnni"),
        (Operand(8, False), Operand(8, False), "int16_vnni"),
        (Operand(15, False), Operand(16), "int16_vnni"),
        (Operand(16, False), Operand(16), "split_vnni"),
        (Operand(16), Operand(16), "split_vnni"),
        (Operand(16), Operand(15), "int16_vnni"),
        (Operand(17), Operand(2), "split_vnni"),
        (Operand(32), Operand(28), "split_vnni"),
        (Operand(33), Operand(2), "plain"),
    ],
)
def test_the_fastest_allowed_path_is_taken(a, b, path):
    assert plan(a, b, 9, WITHOUT_AMX).path == path


def test_a_missing_processor_feature_takes_the_next_path():
    operands = Operand(8, False), Operand(8)
    for first in range(len(PATHS)):
        assert plan(*operands, 9, PATHS[first:]).path == PATHS[first]


@pytest.mark.parametrize("path", PATHS)
def test_an_allowed_path_can_be_forced(path):
    chosen = plan(Operand(8, False), Operand(8), 9, kernel=path)
    assert chosen.path == path
    assert "<= 2^" in chosen.proof


@pytest.mark.parametrize("path", ["int8_amx", "int16_amx", "int16_vnni", "int16_avx2", "int8_vnni"])
def test_a_path_that_the_widths_rule_out_is_refused_with_the_ones_that_they_allow(path):
    with pytest.raises(
        ValueError,
        match=f"kernel '{path}' does not take 9 products of 17-bit signed by 8-bit signed "
        "codes exactly; use kernel='auto' or one of split_vnni, split_avx2, plain",
    ):
        plan(Operand(17), Operand(8), 9, kernel=path)


@pytest.mark.parametrize("operand", EVERY, ids=str)
def test_parts_add_up_to_every_code_and_fit_int16(operand):
    low = -(2 ** (operand.bits - 1)) if operand.signed else 0
    high = 2 ** (operand.bits - operand.signed) - 1
    near = [power + change for power in (-(2**24), -4096, 0, 4096, 2**24) for change in (-1, 0, 1)]
    codes = np.unique(np.clip([low, low + 1, *near, high - 1, high], low, high))
    parts = operand.split(codes)
    assert len(parts) == len(operand.parts)
    assert sum(part.astype(np.int64) << shift for part, shift in parts).tolist() == codes.tolist()
    for (part, _), own in zip(parts, operand.parts):
        assert own.fits(16, True) and abs(part.astype(np.int64)).max() <= own.magnitude


def test_a_path_that_this_processor_lacks_is_refused():
    with pytest.raises(
        ValueError, match="kernel 'int16_vnni' is not on this processor, which has plain"
    ):
        plan(Operand(8), Operand(8), 9, ("plain",), "int16_vnni")


def test_an_unknown_path_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="kernel 'int16' is unknown; choose auto or one of int8_amx"
    ):
        plan(Operand(8), Operand(8), 9, kernel="int16")


@pytest.mark.parametrize("terms", [0, -1])
def test_a_sum_has_at_least_one_term(terms):
    with pytest.raises(ValueError, match=f"terms must be at least 1, got {terms}"):
        plan(Operand(8), Operand(8), terms)


def test_the_proof_names_the_numbers_of_the_inequality():
    chosen = plan(Operand(14), Operand(8, False), 576, WITHOUT_AMX)
    assert f"{chosen.spill_terms} * 8192 * 255 <= 2^31 - 1" in chosen.proof


@pytest.mark.parametrize("low, high", [(-8, 7), (-7, 7), (-128, 127), (0, 15)])
@pytest.mark.parametrize("product", [1, 3, 7])
def test_sums_never_saturate_exactly_up_to_the_nearer_limit(low, high, product):
    for terms in range(1, 200):
        sums = [sign * k * product for sign in (-1, 1) for k in range(1, terms + 1)]
        assert never_saturates(product, terms, low, high) == all(
            low <= total <= high for total in sums
        )

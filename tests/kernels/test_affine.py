"""Linear combinations of tensors, with and without pooling, against NumPy's int64.

Constants of one word of int32, of two, and of int64.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.path_cases import MODES, rounded

from fxsim.kernels.elementwise import affine
from fxsim.kernels.elementwise.affine import SPLIT, Constants, combine, combine_and_pool
from fxsim.kernels.epilogue import NO_FLOOR, Epilogue
from fxsim.kernels.rounding import rounding_terms

KINDS = {"one word": 1, "two words": 2, "int64": None}
MAGNITUDE = 2**15


def epilogue_of(rounding, shift, relu, bound_exp, low, high) -> Epilogue:
    base, neg, odd, jam = rounding_terms(rounding, shift)
    floor = 0 if relu else NO_FLOOR
    return Epilogue(0, 1 << bound_exp, floor, shift, base, neg, odd, jam, low, high)


def random_sum(rng, kind: str, shape, has_y: bool):
    """(x, y, (3, O) constants, Constants, rounding, epilogue) of which `kind` is what they need."""
    channels = shape[-1]
    ends = [-MAGNITUDE, MAGNITUDE - 1, 0, 1, -1]
    x, y = (
        np.where(
            rng.random(shape) < 0.5,
            rng.choice(ends, shape),
            rng.integers(-MAGNITUDE, MAGNITUDE, shape),
        ).astype(np.int16)
        for _ in range(2)
    )
    largest = {"one word": 2**13, "two words": 2**27, "int64": 2**40}[kind]
    numbers = rng.integers(-largest, largest, (3, channels), endpoint=True)
    numbers = np.where(rng.random(numbers.shape) < 0.3, rng.choice([-largest, largest]), numbers)
    numbers[2] *= int(rng.integers(0, MAGNITUDE // 4))
    if not has_y:
        numbers[1] = 0
    bound = int(abs(numbers[0]).max() + abs(numbers[1]).max()) * MAGNITUDE
    bound += int(abs(numbers[2]).max())
    signed = bool(rng.integers(2))
    bits = int(rng.integers(2, 16))
    high = 2 ** (bits - signed) - 1
    low = -high - int(rng.integers(2)) if signed else 0
    near = max(0, bound.bit_length() - bits + int(rng.integers(-3, 2)))
    shift = max(SPLIT + 2, near) if kind == "two words" else min(near, 60)
    relu = bool(rng.integers(2))
    bound_exp = int(rng.integers(SPLIT + 1, 62))
    rounding = str(rng.choice(MODES))
    whole = epilogue_of(rounding, shift, relu, bound_exp, low, high)
    high_word = None
    if kind == "two words":
        high_word = epilogue_of(rounding, shift - SPLIT, relu, bound_exp - SPLIT, low, high)
    constants = Constants.of(numbers, bound, whole, high_word, narrow=True)
    return x, y if has_y else None, numbers, constants, rounding, whole


def wanted(x, y, numbers, rounding, epilogue):
    """(codes, mask, counts)."""
    value = numbers[0] * x.astype(np.int64) + numbers[2]
    if y is not None:
        value = value + numbers[1] * y.astype(np.int64)
    mask = (value > 0) & (value < epilogue.relu_bound)
    value = np.maximum(value, epilogue.floor)
    code = rounded(value, epilogue.shift, rounding)
    counts = [
        (code < epilogue.low).sum(),
        (code > epilogue.high).sum(),
        ((code == 0) & (value != 0)).sum(),
    ]
    return np.clip(code, epilogue.low, epilogue.high), mask, counts


def windows(values, size):
    """(N, H // size, W // size, C, size**2) of whole windows, row by row."""
    images, height, width, channels = values.shape
    rows = height // size
    columns = width // size
    cut = values[:, : rows * size, : columns * size]
    cut = cut.reshape(images, rows, size, columns, size, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(images, rows, columns, channels, size**2)


def pooled(codes, mask, size):
    """(greatest codes, their first place in a window, or size**2 where the mask there is 0)."""
    all_codes = windows(codes, size)
    place = all_codes.argmax(axis=-1)
    open_ = np.take_along_axis(windows(mask, size), place[..., None], axis=-1)[..., 0]
    return all_codes.max(axis=-1), np.where(open_, place, size**2)


def check(rng, kind, shape, has_y):
    x, y, numbers, constants, rounding, epilogue = random_sum(rng, kind, shape, has_y)
    words = constants.numbers.shape[1] if constants.numbers.dtype == np.int32 else None
    assert words == KINDS[kind]
    codes, mask, counts = wanted(x, y, numbers, rounding, epilogue)
    out = np.full(shape, -9, np.int16)
    got_mask = np.full(shape, 9, np.uint8)
    got_counts = combine(x, y, constants, out, got_mask)
    np.testing.assert_array_equal(out, codes, str((rounding, epilogue)))
    np.testing.assert_array_equal(got_mask, mask)
    assert got_counts.tolist() == counts, (rounding, epilogue)
    size = int(rng.integers(2, 4))
    pooled_shape = (shape[0], shape[1] // size, shape[2] // size, shape[3])
    best = np.full(pooled_shape, -9, np.int16)
    winner = np.full(pooled_shape, 255, np.uint8)
    pooled_counts = combine_and_pool(x, y, constants, size, best, winner)
    if pooled_counts is None:
        return False
    best_code, place = pooled(codes, mask, size)
    np.testing.assert_array_equal(best, best_code)
    np.testing.assert_array_equal(winner, place)
    assert pooled_counts.tolist() == counts
    return True


@pytest.mark.parametrize("has_y", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_random_sums(kind, has_y):
    rng = np.random.default_rng([KINDS[kind] or 0, has_y])
    in_one_kernel = 0
    for _ in range(150):
        channels = int(rng.choice([1, 3, 8, 16, 24, 32]))
        height, width = (int(size) for size in rng.integers(3, 9, 2))
        in_one_kernel += check(rng, kind, (int(rng.integers(1, 4)), height, width, channels), has_y)
    assert in_one_kernel >= 30


@pytest.mark.slow
@pytest.mark.parametrize("has_y", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_sums(kind, has_y):
    rng = np.random.default_rng([7, KINDS[kind] or 0, has_y])
    for _ in range(5000):
        channels = int(rng.choice([1, 3, 8, 16, 24, 32]))
        height, width = (int(size) for size in rng.integers(3, 9, 2))
        check(rng, kind, (int(rng.integers(1, 4)), height, width, channels), has_y)


def test_a_job_is_no_larger_than_what_its_counts_hold():
    """Counts of a job are int32, one for each lane."""
    assert affine._job(1) == affine.BLOCK < 2**31

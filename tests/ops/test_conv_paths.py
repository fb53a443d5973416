"""Every product path gives the sums of a plain NumPy int64 reference, and the same codes from
one epilogue.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.conv_paths_cases import (
    SHAPES,
    forward_reference,
    input_grad_reference,
    operands,
    run_all,
    weight_grad_reference,
)

from fxsim.kernels.epilogue import NO_FLOOR, Epilogue
from fxsim.kernels.products import conv
from fxsim.kernels.products.packing import pack_forward_weights
from fxsim.kernels.products.tile import PATHS, processor_has
from fxsim.kernels.rounding import ROUNDINGS, STOCHASTIC, Rounding, round_shift
from fxsim.kernels.threads import thread_count, use_threads

AVAILABLE = [path for path in PATHS if processor_has(path)]
INT32_MAX = 2**31 - 1
# (N, H, W, C, O, kernel, stride, padding): odd sizes, several blocks, strides that skip rows, one
# position


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("a_max, b_max", [(127, 127), (255, 2**13), (2**13, 2**13), (32767, 32768)])
def test_sums_equal_reference(path, extreme, a_max, b_max):
    for shape in SHAPES:
        x, w = operands(shape, a_max, b_max, extreme)
        stride, padding = shape[6:]
        expected = forward_reference(x, w, stride, padding)
        g = operands((*expected.shape, 1, 1, 1, 0), a_max, 1, extreme)[0]
        results = run_all(shape, x, w, g, path, INT32_MAX // (a_max * b_max), INT32_MAX // a_max**2)
        references = (
            expected,
            input_grad_reference(x.shape, w, g, stride, padding),
            weight_grad_reference(x, g, len(w), stride, padding),
        )
        for what, got, wanted in zip(
            ("forward", "input gradient", "weight gradient"), results, references
        ):
            np.testing.assert_array_equal(got, wanted, f"{what} of {shape}")


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_sums_around_the_spill_bound(path, offset):
    """Terms one below, at and one above what int32 holds, every product at its maximum."""
    a_max = 32767
    b_max = 3000
    terms = INT32_MAX // (a_max * b_max)
    shape = (7, 1, 1, terms + offset, 3, 1, 1, 0)
    x, w = operands(shape, a_max, b_max, extreme=True)
    out = np.empty((7, 1, 1, 3), np.int64)
    conv.conv_forward(x, pack_forward_weights(w), 1, out, spill_terms=terms, path=path)
    assert (out == -(terms + offset) * a_max * b_max).all()


def test_plain_path_takes_wide_operands():
    shape = (2, 5, 5, 3, 4, 3, 1, 1)
    x, w = operands(shape, 2**27, 2**28, extreme=False, dtype=np.int32)
    out = np.empty((2, 5, 5, 4), np.int64)
    conv.conv_forward(x, pack_forward_weights(w), 1, out, padding=1, spill_terms=1, path="plain")
    np.testing.assert_array_equal(out, forward_reference(x, w, 1, 1))


def expected_codes(value, epilogue, counts):
    """(codes, mask) by the module's definition, in NumPy int64."""
    value = value << epilogue.acc_shift
    rounding = Rounding(epilogue.shift, epilogue.base, epilogue.neg, epilogue.odd, epilogue.jam)
    mask = (value > 0) & (value < epilogue.relu_bound)
    value = np.maximum(value, epilogue.floor)
    code = np.array([round_shift(int(v), epilogue.base, rounding) for v in value.flat]).reshape(
        value.shape
    )
    counts += [
        (code < epilogue.low).sum(),
        (code > epilogue.high).sum(),
        ((code == 0) & (value != 0)).sum(),
    ]
    return np.clip(code, epilogue.low, epilogue.high), mask


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("acc_shift", [0, 12], ids=["int32", "int64"])
@pytest.mark.parametrize("rounding", [mode for mode in ROUNDINGS if mode not in STOCHASTIC])
def test_epilogue_codes_mask_and_counts(path, acc_shift, rounding):
    shape = (3, 6, 5, 3, 70, 3, 1, 1)
    x, w = operands(shape, 255, 2**11, extreme=False)
    sums = forward_reference(x, w, 1, 1)
    floor = 0 if rounding == "floor" else NO_FLOOR
    epilogue = Epilogue(
        acc_shift=acc_shift,
        relu_bound=2 ** (20 + acc_shift),
        floor=floor,
        **Rounding.of(rounding, 13 + acc_shift)._asdict(),
        low=-100,
        high=99,
    )
    bias = np.arange(70) * 97 << acc_shift
    counts = np.zeros(3, np.int64)
    expected_counts = np.zeros(3, np.int64)
    codes, mask = expected_codes(sums + (bias >> acc_shift), epilogue, expected_counts)
    out = np.empty(sums.shape, np.int16)
    got_mask = np.empty(sums.shape, np.uint8)
    conv.conv_forward(
        x,
        pack_forward_weights(w),
        1,
        out,
        padding=1,
        spill_terms=INT32_MAX // (255 * 2**11),
        path=path,
        epilogue=epilogue,
        bias=bias,
        mask=got_mask,
        counts=counts,
    )
    np.testing.assert_array_equal(out, codes)
    np.testing.assert_array_equal(got_mask, mask)
    np.testing.assert_array_equal(counts, expected_counts)
    assert counts.all() or rounding in ("floor", "jam", "away", "ceil")


@pytest.mark.parametrize("path", AVAILABLE)
def test_bits_do_not_depend_on_threads(path):
    shape = (9, 12, 11, 6, 70, 3, 2, 1)
    x, w = operands(shape, 255, 2**13, extreme=False)
    g = operands((9, 6, 6, 70, 1, 1, 1, 0), 2**13, 1, extreme=False)[0]
    results = []
    threads = thread_count()
    try:
        for count in (1, threads):
            use_threads(count)
            results.append(
                run_all(
                    shape, x, w, g, path, INT32_MAX // (2**13 * 2**13), INT32_MAX // (255 * 2**13)
                )
            )
    finally:
        use_threads(threads)
    for one, many in zip(*results):
        np.testing.assert_array_equal(one, many)


PLAIN_SUMS = """
import numpy as np
from support.conv_paths_cases import SHAPES, forward_reference, operands, run_all
shape = SHAPES[1]
x, w = operands(shape, 255, 8192, extreme=False)
g = forward_reference(x, w, *shape[6:]) % 512
print(*(int((np.abs(part) % 1000003).sum()) for part in run_all(shape, x, w, g.astype(np.int16), "plain", 1000, 1000)))
"""


def test_plain_path_without_compilation_gives_the_same_sums():
    printed = []
    for disable in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", PLAIN_SUMS],
            env={**os.environ, "NUMBA_DISABLE_JIT": disable},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    assert printed[0] == printed[1] and len(printed[0].split()) == 3


@pytest.mark.parametrize("path", AVAILABLE)
def test_sums_of_more_words_than_two_words_of_int32_hold(path):
    """The largest products of all; 2**17 of them pass 2**47."""
    terms = 140_000
    x = np.full((1, 1, 1, terms), 2**15 - 1, np.int16)
    w = np.full((1, 1, terms, 1), -(2**15), np.int16)
    out = np.empty((1, 1, 1, 1), np.int64)
    spill = INT32_MAX // (2**15 * (2**15 - 1))
    conv.conv_forward(x, pack_forward_weights(w), 1, out, spill_terms=spill, path=path)
    assert out.item() == -terms * 2**15 * (2**15 - 1) < -(2**47)
    conv.conv_forward(
        x.reshape(1, 2, 7, -1),
        pack_forward_weights(w.reshape(2, 7, -1, 1)),
        1,
        out,
        spill_terms=spill,
        path=path,
    )
    assert out.item() == -terms * 2**15 * (2**15 - 1)


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("bound_exp", [30, 31, 32, 40, 62])
def test_the_mask_of_the_greatest_int32(path, bound_exp):
    x = np.full((1, 1, 1, 2), -128, np.int16)
    w = np.full((1, 1, 2, 3), -128, np.int16)
    value = 2**31 - np.array([1, 2, 2**30 + 1])
    out = np.empty((1, 1, 1, 3), np.int64)
    mask = np.empty((1, 1, 1, 3), np.uint8)
    conv.conv_forward(
        x,
        pack_forward_weights(w),
        1,
        out,
        spill_terms=INT32_MAX // 2**14,
        path=path,
        epilogue=Epilogue(relu_bound=2**bound_exp, floor=0),
        bias=value - 2**15,
        mask=mask,
    )
    assert out.reshape(-1).tolist() == value.tolist()
    assert mask.reshape(-1).tolist() == (value < 2**bound_exp).tolist()

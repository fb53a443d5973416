"""Convolutions in many groups, depthwise ones among them, whose kernels have a lane for each output.

Every path gives the sums of NumPy's int64, and rounds them as the general way does.
"""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from support import grouped_cases
from support.conv_cases import by_every_path, sums_of

from fxsim import ops
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.kernels.products.paths import INT32_MAX
from fxsim.kernels.reductions import moments
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.ops.conv import Placement
from fxsim.ops.exact import Sums
from fxsim.ops.matmul import forward
from fxsim.ops.products import FEWEST_GROUPS, Geometry
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor
from fxsim.windows import Window


@pytest.mark.parametrize("widths", grouped_cases.WIDTHS, ids=str)
def test_sums_of_random_geometries_by_every_path(widths):
    """Sums in int32 and int64, codes of int16 and int32."""
    rng = np.random.default_rng(widths)
    for _ in range(4):
        x, w, g, window, groups = grouped_cases.random_case(rng, widths)
        arrays = (tensor.codes.astype(np.int64) for tensor in (x, w, g))
        wanted = grouped_cases.reference(*arrays, window, groups)
        where = grouped_cases.geometry_of(window, groups)
        compute = functools.partial(sums_of, x, w, g, **where)
        for path, found in by_every_path(compute):
            for kind, got, sums in zip(("forward", "input", "weight"), found, wanted):
                np.testing.assert_array_equal(got.codes, sums, f"{kind}, {path}, {window}")


@pytest.mark.parametrize("groups", [1, 2, FEWEST_GROUPS - 1, FEWEST_GROUPS])
def test_both_sides_of_the_fewest_groups(groups):
    rng = np.random.default_rng(groups)
    for _ in range(6):
        x, w, g, window, _ = grouped_cases.random_case(rng, groups=groups)
        arrays = (tensor.codes.astype(np.int64) for tensor in (x, w, g))
        wanted = grouped_cases.reference(*arrays, window, groups)
        found = sums_of(x, w, g, **grouped_cases.geometry_of(window, groups))
        for kind, got, sums in zip(("forward", "input", "weight"), found, wanted):
            np.testing.assert_array_equal(got.codes, sums, f"{kind}, {window}")


def rounded(exact, target, rounding, overflow):
    """(codes, counts) without and (codes, mask, counts) with a ReLU, as lists."""
    told = []
    quantizer = Quantizer(target, rounding, overflow, counted=told.append)
    codes = exact.to(quantizer).codes
    kept, mask = exact.relu(quantizer, ceiling=2.0**12)
    return [codes.tolist(), kept.codes.tolist(), mask.codes.tolist(), told]


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", [mode for mode in ROUNDINGS if mode not in STOCHASTIC])
def test_codes_mask_and_counts_are_those_of_the_sums(rounding, overflow):
    rng = np.random.default_rng(len(rounding))
    x, w, g, window, groups = grouped_cases.random_case(rng)
    bias = Tensor(rng.integers(-(2**15), 2**15, w.shape[3]), Format(16, 14))
    where = grouped_cases.geometry_of(window, groups)
    for path, exact in by_every_path(lambda path: ops.conv2d(x, w, bias, **where).by(path)):
        sums = Sums(exact.sums(), exact.format)
        for target in (Format(6, 13), Format(14, 13), Format(16, 18)):
            modes = target, rounding, overflow
            assert rounded(exact, *modes) == rounded(sums, *modes), f"{path}, {target}"


@pytest.mark.parametrize("channels", [8, 24, 70])
def test_moments_of_each_channel(channels):
    """What batch norm asks of the kernel: sums of the codes of a channel and of their squares."""
    rng = np.random.default_rng(channels)
    geometry = Geometry(9, 7, channels, channels, Window((3, 3), (1, 2), (1, 1, 0, 1)), channels)
    byte = Format(8, 7)
    x = rng.integers(-128, 128, (40, *geometry.input)).astype(np.int16)
    w = rng.integers(-128, 128, geometry.weight).astype(np.int16)
    found = np.empty((2, channels), np.int64)
    exact = forward(byte, byte, geometry, None, None)(x, w)
    codes, _ = exact.rounded_with_moments(Quantizer(Format(9, 16)), False, found)
    np.testing.assert_array_equal(found, moments(codes, codes))
    assert found[1].all()


def test_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(2)
    where = {"padding": "same", "groups": 24}
    x = Tensor(rng.integers(-128, 128, (70, 20, 21, 24)), Format(8, 7))
    w = Tensor(rng.integers(-128, 128, (3, 3, 1, 24)), Format(8, 7))
    threads = thread_count()
    found = []
    try:
        for count in (1, threads):
            use_threads(count)
            found.append([sums.codes for sums in sums_of(x, w, x, **where)])
    finally:
        use_threads(threads)
    for one, many in zip(*found):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("terms", [8191, 8192])
def test_the_sums_of_a_weight_gradient_on_both_sides_of_int32(terms):
    """All products at their greatest, 2**18: int32 holds 8191 of them."""
    assert INT32_MAX // 2**18 == 8191
    x = Tensor(np.full((1, 1, terms * 16, 4), -(2**9)), Format(10, 9))
    w = (1, 1, 1, 4)
    for path, found in by_every_path(
        lambda path: ops.conv2d_weight_grad(x, x, w, groups=4).by(path).tensor()
    ):
        assert found.codes.reshape(-1).tolist() == [terms * 16 * 2**18] * 4, path


def test_the_plan_proves_the_sums():
    x, w = Format(8, 0, False), Format(8, 0)
    where = Placement(1, "same", 1, 64).over((1, 25, 5, 64), (3, 3, 1, 64))
    plan = forward(x, w, where, None, None).plan
    assert plan.proof == "int32 holds all 9 terms: 9 * 255 * 128 <= 2^31 - 1"
    wide = forward(Format(16, 0), Format(20, 0), where, None, None).plan
    assert wide.proof == "int64 holds all 9 terms: 9 * 32768 * 524288 <= 2^63 - 1"


@pytest.mark.parametrize(
    "changed, path",
    [
        pytest.param({"FXSIM_EMULATE": "vnni"}, "int16_vnni", marks=pytest.mark.slow),
        ({"NUMBA_DISABLE_JIT": "1"}, "plain"),
    ],
)
def test_the_same_bits_by_emulated_instructions_and_without_compilation(changed, path):
    def printed(environment, *arguments):
        run = subprocess.run(
            [sys.executable, grouped_cases.__file__, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert printed(changed, path) == printed({}, "auto")

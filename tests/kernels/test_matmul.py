"""The exact matrix product against NumPy's int64, by every path, with operands of 2 bytes and
of 1 byte.
"""

import numpy as np
import pytest

from fxsim.kernels.epilogue import Epilogue
from fxsim.kernels.products import matmul
from fxsim.kernels.products.conv import conv_forward
from fxsim.kernels.products.packing import pack_forward_weights
from fxsim.kernels.products.tile import PATHS, processor_has
from fxsim.kernels.rounding import Rounding
from fxsim.kernels.threads import thread_count, use_threads

INT32_MAX = 2**31 - 1
AVAILABLE = [path for path in PATHS if processor_has(path)]
BYTE_PATHS = [path for path in AVAILABLE if path != "avx2"]
SHAPES = [(1, 1, 1), (5, 7, 3), (6, 64, 64), (13, 130, 65), (200, 33, 129), (7, 3000, 10)]


def codes(shape, low, high, dtype, seed=0):
    return (
        np.random.default_rng([seed, *shape])
        .integers(low, high, shape, endpoint=True)
        .astype(dtype)
    )


def product(a, b):
    return a.astype(np.int64) @ b.astype(np.int64)


def gemm(a, b, path, spill_terms, dtype=np.int64, **options):
    out = np.full((len(a), b.shape[1]), -1, dtype)
    matmul.gemm(a, b, out, spill_terms=spill_terms, path=path, **options)
    return out


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("a_max, b_max", [(127, 127), (8191, 128), (32767, 32768)])
def test_product_of_int16_codes(path, a_max, b_max):
    for m, k, n in SHAPES:
        a = codes((m, k), -a_max, a_max, np.int16)
        b = codes((k, n), -b_max, b_max - 1, np.int16, 1)
        np.testing.assert_array_equal(
            gemm(a, b, path, INT32_MAX // (a_max * b_max)), product(a, b), f"{m} {k} {n}"
        )


@pytest.mark.parametrize("path", BYTE_PATHS)
@pytest.mark.parametrize(
    "a_low, b_low, b_high",
    [(0, -128, 127), (255, -128, -128), (255, 127, 127)],
    ids=["random", "lowest", "highest"],
)
def test_product_of_bytes(path, a_low, b_low, b_high):
    """255 * -128 and 255 * 127.

    The saturating forms of the instruction would stop at int16 or int32.
    """
    for m, k, n in SHAPES:
        a = codes((m, k), a_low, 255, np.uint8)
        b = codes((k, n), b_low, b_high, np.int8, 1)
        np.testing.assert_array_equal(
            gemm(a, b, path, INT32_MAX // (255 * 128), np.int32), product(a, b), f"{m} {k} {n}"
        )


@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_int16_sums_around_the_spill_bound(path, offset):
    """Terms one below, at and one above what int32 holds, every product at its maximum."""
    a_max = 32767
    b_max = 3000
    terms = INT32_MAX // (a_max * b_max)
    a = np.full((7, terms + offset), a_max, np.int16)
    b = np.full((terms + offset, 3), -b_max, np.int16)
    assert (gemm(a, b, path, terms) == -(terms + offset) * a_max * b_max).all()


@pytest.mark.parametrize("path", BYTE_PATHS)
@pytest.mark.parametrize("offset", [-1, 0, 1, 5])
def test_byte_sums_around_the_spill_bound(path, offset):
    terms = INT32_MAX // (255 * 128)
    a = np.full((7, terms + offset), 255, np.uint8)
    b = np.full((terms + offset, 2), -128, np.int8)
    assert (gemm(a, b, path, terms) == -(terms + offset) * 255 * 128).all()


@pytest.mark.parametrize("path", AVAILABLE)
def test_a_reduction_of_several_chunks(path, monkeypatch):
    monkeypatch.setattr(matmul, "PANEL_BYTES", 2048)
    a = codes((9, 101), -8191, 8191, np.int16)
    b = codes((101, 70), -8191, 8191, np.int16)
    np.testing.assert_array_equal(gemm(a, b, path, INT32_MAX // 8191**2), product(a, b))


@pytest.mark.parametrize("path", AVAILABLE)
def test_epilogue_and_counts(path):
    a = codes((20, 40), -999, 999, np.int16)
    b = codes((40, 70), -99, 99, np.int16)
    counts = np.zeros(3, np.int64)
    epilogue = Epilogue(**Rounding.of("nearest_up", 12)._asdict(), low=-100, high=99)
    got = gemm(a, b, path, INT32_MAX // (999 * 99), np.int16, epilogue=epilogue, counts=counts)
    rounded = (product(a, b) + 2048) >> 12
    np.testing.assert_array_equal(got, np.clip(rounded, -100, 99))
    flushed = ((rounded == 0) & (product(a, b) != 0)).sum()
    assert counts.tolist() == [(rounded < -100).sum(), (rounded > 99).sum(), flushed]
    assert counts.all()


@pytest.mark.parametrize("path", BYTE_PATHS)
@pytest.mark.parametrize(
    "shape", [(3, 6, 5, 3, 7, 3, 1, 1), (2, 9, 8, 4, 66, 3, 2, 1), (5, 7, 7, 6, 16, 3, 3, 2)]
)
@pytest.mark.parametrize("low", [0, 255], ids=["random", "extreme"])
def test_convolution_of_bytes_gives_the_sums_of_int16(path, shape, low):
    n, height, width, channels, outputs, kernel, stride, padding = shape
    x = codes((n, height, width, channels), low, 255, np.uint8)
    w = codes((kernel, kernel, channels, outputs), -128, -128 if low else 127, np.int8)
    size = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    results = []
    for source, weight, chosen in ((x, w, path), (x.astype(np.int16), w.astype(np.int16), "plain")):
        out = np.full((n, *size, outputs), -1, np.int32)
        conv_forward(
            source,
            pack_forward_weights(weight),
            stride,
            out,
            padding=padding,
            spill_terms=INT32_MAX // (255 * 128),
            path=chosen,
        )
        results.append(out)
    np.testing.assert_array_equal(*results)


def test_sums_do_not_depend_on_threads():
    a = codes((300, 70), -8191, 8191, np.int16)
    b = codes((70, 200), -8191, 8191, np.int16)
    threads = thread_count()
    results = []
    try:
        for count in (1, threads):
            use_threads(count)
            results.append(gemm(a, b, AVAILABLE[-1], INT32_MAX // 8191**2))
    finally:
        use_threads(threads)
    np.testing.assert_array_equal(*results)

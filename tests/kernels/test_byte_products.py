"""Products in tiles of bytes against NumPy's int64 and the plain path.

All widths and signs, convolutions, epilogues.
"""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from support.conv_paths_cases import SHAPES, forward_reference, input_grad_reference

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels.epilogue import NO_FLOOR, Epilogue
from fxsim.kernels.products import amx_conv as byte_products
from fxsim.kernels.products import conv
from fxsim.kernels.products.amx import processor_has_tiles
from fxsim.kernels.products.amx_conv import dilated
from fxsim.kernels.products.packing import pack_forward_weights, rotated
from fxsim.kernels.products.paths import BYTE_TERMS, INT32_MAX, Operand
from fxsim.kernels.rounding import Rounding
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.ops.paths import AMX_PATHS
from fxsim.ops.products import Geometry
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor
from fxsim.windows import Window

needs_tiles = pytest.mark.skipif(not processor_has_tiles(), reason="this processor has no AMX")
OPERANDS = [
    Operand(8),
    Operand(8, False),
    Operand(5),
    Operand(14),
    Operand(9, False),
    Operand(16),
    Operand(16, False),
]
MATRICES = [(1, 1, 1), (5, 7, 3), (33, 64, 65), (64, 128, 128), (70, 300, 130)]


def codes(operand, shape, kind="random", seed=0):
    low = -operand.magnitude if operand.signed else 0
    high = operand.magnitude - operand.signed
    if kind == "random":
        found = np.random.default_rng([seed, *shape]).integers(low, high, shape, endpoint=True)
    else:
        found = np.full(shape, low or high if kind == "largest" else high)
    return found.astype(Format(operand.bits, 0, operand.signed).storage)


def gemm(a, b, left, right, dtype=np.int64):
    out = np.full((len(a), b.shape[1]), -1, dtype)
    byte_products.gemm(a, b, out, left=left, right=right)
    return out


@needs_tiles
@pytest.mark.parametrize("left, right", list(itertools.product(OPERANDS, repeat=2)), ids=str)
@pytest.mark.parametrize("kind", ["random", "largest", "highest"])
def test_products_of_all_widths_and_signs(left, right, kind):
    for m, k, n in MATRICES:
        a = codes(left, (m, k), kind)
        b = codes(right, (k, n), kind, 1)
        np.testing.assert_array_equal(
            gemm(a, b, left, right), a.astype(np.int64) @ b.astype(np.int64), f"{m} {k} {n}"
        )


@needs_tiles
@pytest.mark.parametrize(
    "left, right", [(Operand(8, False), Operand(8)), (Operand(8), Operand(8, False))]
)
def test_sums_of_whole_tiles_of_int32(left, right):
    """They are stored by the matrix registers themselves."""
    a = codes(left, (64, 200))
    b = codes(right, (200, 192))
    np.testing.assert_array_equal(
        gemm(a, b, left, right, np.int32), a.astype(np.int64) @ b.astype(np.int64)
    )
    a, b = (
        codes.astype(np.int8 if operand.signed else np.uint8)
        for codes, operand in ((a, left), (b, right))
    )
    np.testing.assert_array_equal(
        gemm(a, b, left, right, np.int32), a.astype(np.int64) @ b.astype(np.int64)
    )


@needs_tiles
@pytest.mark.parametrize(
    "left, right", [(Operand(8, False), Operand(8)), (Operand(14), Operand(11))]
)
@pytest.mark.parametrize("rows", [2048, 1000])
def test_jobs_of_several_tiles(left, right, rows):
    a = codes(left, (rows, 130))
    b = codes(right, (130, 192))
    for dtype in (np.int32, np.int64):
        np.testing.assert_array_equal(
            gemm(a, b, left, right, dtype), a.astype(np.int64) @ b.astype(np.int64)
        )


@needs_tiles
def test_sums_that_only_these_weights_keep_in_int32():
    left = Operand(16)
    right = Operand(16)
    a = codes(left, (40, 9000), "largest")
    b = np.full((9000, 70), -7, np.int16)
    for weights, fits in ((b, True), (-2 * b, False)):
        assert byte_products._fits_int32(weights, left, right, Epilogue(), 0) == fits
        np.testing.assert_array_equal(
            gemm(a, weights, left, right), a.astype(np.int64) @ weights.astype(np.int64)
        )


@needs_tiles
@pytest.mark.parametrize(
    "bias", [np.array([-(2**31)] * 3, np.int32), np.array([2**31 - 1] * 3, np.int32)]
)
def test_a_bias_as_large_as_its_type_holds(bias):
    operand = Operand(8)
    out = np.empty((1, 2, 2, 3), np.int64)
    x = codes(operand, (1, 2, 2, 5), "largest")
    w = codes(operand, (1, 1, 5, 3), "largest")
    byte_products.convolve(
        x, w, 1, 0, out, left=operand, right=operand, bias=bias, epilogue=Epilogue(relu_bound=2)
    )
    assert (out == 5 * 2**14 + bias.astype(np.int64)).all()


@needs_tiles
def test_what_is_not_a_plain_sum_is_so_for_whole_tiles_too():
    operand = Operand(8)
    x = codes(operand, (1, 8, 8, 4))
    w = codes(operand, (1, 1, 4, 64))
    out = np.empty((1, 8, 8, 64), np.int32)
    mask = np.full((1, 8, 8, 64), 9, np.uint8)
    byte_products.convolve(
        x, w, 1, 0, out, left=operand, right=operand, bias=np.full(64, 5), mask=mask
    )
    sums = x.astype(np.int64) @ w[0, 0].astype(np.int64) + 5
    assert np.array_equal(out, sums) and np.array_equal(mask, sums > 0)


@needs_tiles
@pytest.mark.parametrize(
    "taps, padding", [((1, 3), 0), ((3, 1), 0), ((2, 2), -1), ((1, 1), -2), ((5, 5), 4)]
)
def test_windows_of_any_shape_and_codes_that_are_views(taps, padding):
    operand = Operand(10)
    x = codes(operand, (2, 12, 11, 10))[:, ::2, ::-1, 3:7]
    w = codes(operand, (*taps, 9, 4), seed=1).swapaxes(2, 3)
    around = ((0, 0), (max(padding, 0),) * 2, (max(padding, 0),) * 2, (0, 0))
    padded = np.pad(x.astype(np.int64), around)
    if padding < 0:
        padded = padded[:, -padding:padding, -padding:padding]
    views = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=(1, 2))
    wanted = np.einsum("nyxcij,ijco->nyxo", views, w.astype(np.int64))
    out = np.full(wanted.shape, -1, np.int64)
    byte_products.convolve(x, w, 1, padding, out, left=operand, right=operand)
    np.testing.assert_array_equal(out, wanted)


@needs_tiles
@pytest.mark.parametrize(
    "operand, dtype",
    [(Operand(17), np.int32), (Operand(24, False), np.int32), (Operand(12), np.int8)],
)
def test_codes_that_two_bytes_or_their_type_do_not_hold_are_refused(operand, dtype):
    with pytest.raises(
        ValueError,
        match=f"x of {operand.bits} bits in {np.dtype(dtype)}: products of bytes take at most 16",
    ):
        gemm(np.ones((2, 3), dtype), np.ones((3, 2), np.int16), operand, Operand(8))


@needs_tiles
def test_no_rows_are_no_work():
    assert gemm(
        np.ones((0, 3), np.int16), np.ones((3, 2), np.int16), Operand(8), Operand(8)
    ).shape == (0, 2)


@needs_tiles
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize(
    "left, right",
    [(Operand(8), Operand(8)), (Operand(14), Operand(10)), (Operand(16), Operand(16))],
)
def test_sums_around_what_int32_holds(left, right, offset):
    terms = max(1, INT32_MAX // (left.magnitude * right.magnitude) + offset)
    a = codes(left, (3, terms), "largest")
    b = codes(right, (terms, 2), "largest")
    assert (gemm(a, b, left, right) == terms * left.magnitude * right.magnitude).all()


@needs_tiles
@pytest.mark.parametrize("offset", [-1, 0, 1, 65])
def test_sums_of_bytes_around_a_chunk(offset):
    """Two pairs of bytes of 255 count the same in the middle level of 16-bit codes."""
    left = right = Operand(16, False)
    terms = BYTE_TERMS + offset
    a = codes(left, (2, terms), "largest")
    b = codes(right, (terms, 1), "largest")
    assert 2 * BYTE_TERMS * 255**2 <= INT32_MAX < 2 * (BYTE_TERMS + 64) * 255**2
    assert (gemm(a, b, left, right) == terms * (2**16 - 1) ** 2).all()


@needs_tiles
@pytest.mark.parametrize(
    "left, right",
    [(Operand(8, False), Operand(8)), (Operand(8, False), Operand(13)), (Operand(12), Operand(14))],
)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 6, 7, 64, 64, 3, 1, 1)], ids=str)
def test_convolutions(left, right, shape):
    n, height, width, channels, outputs, kernel, stride, padding = shape
    x = codes(left, (n, height, width, channels))
    w = codes(right, (kernel, kernel, channels, outputs), seed=1)
    wanted = forward_reference(x, w, stride, padding)
    out = np.full(wanted.shape, -1, np.int64)
    byte_products.convolve(x, w, stride, padding, out, left=left, right=right)
    np.testing.assert_array_equal(out, wanted)
    if left.signed:
        grad = codes(left, wanted.shape)
        back = np.full(x.shape, -1, np.int64)
        byte_products.convolve(
            dilated(grad, stride), rotated(w), 1, kernel - 1 - padding, back, left=left, right=right
        )
        np.testing.assert_array_equal(back, input_grad_reference(x.shape, w, grad, stride, padding))


@needs_tiles
@pytest.mark.parametrize("acc_shift", [0, 12], ids=["int32", "int64"])
@pytest.mark.parametrize("relu", [True, False])
def test_epilogues_are_those_of_the_plain_path(acc_shift, relu):
    left = Operand(8, False)
    right = Operand(12)
    x = codes(left, (3, 6, 5, 30))
    w = codes(right, (3, 3, 30, 70))
    options = {
        "epilogue": Epilogue(
            acc_shift=acc_shift,
            relu_bound=2 ** (20 + acc_shift),
            floor=0 if relu else NO_FLOOR,
            **Rounding.of("nearest_even", 13 + acc_shift)._asdict(),
            low=-100,
            high=99,
        ),
        "bias": np.arange(70) * 97 << acc_shift,
    }
    results = []
    for run in ("bytes", "plain"):
        out = np.empty((3, 6, 5, 70), np.int16)
        mask = np.empty((3, 6, 5, 70), np.uint8)
        counts = np.zeros(3, np.int64)
        moments = np.zeros((2, 70), np.int64)
        own = {"mask": mask, "counts": counts, "moments": moments, **options}
        if run == "bytes":
            byte_products.convolve(x, w, 1, 1, out, left=left, right=right, **own)
        else:
            conv.conv_forward(
                x, pack_forward_weights(w), 1, out, padding=1, spill_terms=1, path="plain", **own
            )
        results.append((out, mask, counts, moments))
    for got, wanted in zip(*results):
        np.testing.assert_array_equal(got, wanted)
    assert results[0][2].all() or relu


@needs_tiles
def test_bits_do_not_depend_on_threads():
    a = codes(Operand(14), (700, 130))
    b = codes(Operand(13), (130, 200))
    threads = thread_count()
    results = []
    try:
        for count in (1, threads):
            use_threads(count)
            results.append(gemm(a, b, Operand(14), Operand(13)))
    finally:
        use_threads(threads)
    np.testing.assert_array_equal(*results)


def window(stride):
    """3x3 taps, padded by 1."""
    return Window((3, 3), (stride, stride), (1, 1, 1, 1))


GEOMETRIES = {
    "conv": Geometry(8, 8, 64, 130, window(1)),
    "strided": Geometry(8, 8, 64, 128, window(2)),
    "dense": Geometry(1, 1, 4096, 100),
}
PIXELS = Format(8, 1, False)


def forward(x_format, weight_format, geometry, path="auto"):
    """conv2d of codes of the formats, at random."""
    x = codes(Operand(x_format.bits, x_format.signed), (5, *geometry.input))
    weight = codes(Operand(weight_format.bits), geometry.weight)
    bias = Tensor(np.arange(geometry.outputs), Format(16, 2))
    return ops.conv2d(
        Tensor(x, x_format),
        Tensor(weight, weight_format),
        bias,
        stride=geometry.window.stride,
        padding=geometry.window.padding,
    ).by(path)


def input_grad(weight_format, geometry, path="auto"):
    grad = codes(Operand(8), (5, *geometry.output))
    weight = codes(Operand(weight_format.bits), geometry.weight)
    return ops.conv2d_input_grad(
        Tensor(grad, Format(8, -4)),
        Tensor(weight, weight_format),
        (5, *geometry.input),
        stride=geometry.window.stride,
        padding=geometry.window.padding,
    ).by(path)


@needs_tiles
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("weight_bits, path", [(8, "int8_amx"), (13, "int16_amx")])
def test_a_product_takes_bytes_where_they_pay_and_has_the_codes_of_the_plain_path(
    geometry, weight_bits, path
):
    results = []
    weights = Format(weight_bits, 1)
    for chosen in ("auto", "plain"):
        exact = forward(PIXELS, weights, geometry, chosen)
        assert exact.product.plan.path == (path if chosen == "auto" else "plain")
        back = input_grad(weights, geometry, chosen)
        seen = []
        results.append(
            (
                *exact.relu(Quantizer(Format(8, 3, False), counted=seen.append)),
                exact.tensor(),
                back.to(Quantizer(Format(10, 2), counted=seen.append)),
                back.tensor(),
            )
        )
        results[-1] += (seen,)
    (*got, got_counts), (*wanted, wanted_counts) = results
    assert all(a.equals(b) for a, b in zip(got, wanted))
    assert got_counts == wanted_counts


@needs_tiles
def test_bytes_are_compared_with_what_takes_their_place():
    """Few channels: too little for bytes against `vpdpbusd`; enough against int16 codes in
    parts.
    """
    geometry = Geometry(8, 8, 16, 64, window(1))
    sixteen = Format(16, 1)
    assert forward(PIXELS, Format(8, 1), geometry).product.plan.path == "int8_vnni"
    assert forward(sixteen, sixteen, geometry).product.plan.path == "int16_amx"


@needs_tiles
def test_a_product_of_few_terms_takes_other_paths():
    geometry = Geometry(8, 8, 3, 64, window(1))
    assert forward(PIXELS, Format(13, 1), geometry).product.plan.path not in AMX_PATHS


def test_weight_gradients_refuse_the_paths_that_compute_none():
    x = Tensor(np.zeros((1, 3, 3, 1), int), PIXELS)
    grad = Tensor(np.zeros((1, 1, 1, 1), int), Format(8, -4))
    for path in (*AMX_PATHS, "int8_vnni"):
        with pytest.raises(InputError, match=f"'{path}'"):
            ops.conv2d_weight_grad(x, grad, (3, 3, 1, 1)).by(path)


@needs_tiles
def test_a_process_that_finds_the_kernels_compiled_asks_for_the_registers():
    """Without the system's leave their instructions end the process."""
    program = (
        "import numpy as np; from fxsim.kernels.products.amx_conv import gemm; from "
        "fxsim.kernels.products.paths import Operand; "
        "gemm(np.ones((2, 3), np.int16), np.ones((3, 2), np.int16), "
        "out := np.zeros((2, 2), np.int64), left=Operand(8), right=Operand(8)); print(out.sum())"
    )
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
        )
        assert (run.returncode, run.stdout) == (0, "12\n"), run.stderr


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 3, 16, 32), (2, 3, 17, 5), (3, 3, 33, 70), (1, 1, 100, 48)]
)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_rotated_weights(shape, dtype):
    weight = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    np.testing.assert_array_equal(rotated(weight), weight[::-1, ::-1].swapaxes(2, 3))

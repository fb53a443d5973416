"""Winograd's algorithm gives the twin's sums and the direct kernel's codes, on both sides of
every bound.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import products as oracle
from support.bits import assert_same_codes
from support.conv_cases import extremes, random_codes, sums_of, tensors, unit
from support.fingerprint_run import assignment

from fxsim import ops
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.kernels.products import winograd
from fxsim.kernels.products import winograd_weight_grad as winograd_grad
from fxsim.kernels.products.paths import INT32_MAX, Operand
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.ops.conv import input_grad, weight_grad
from fxsim.ops.matmul import forward
from fxsim.ops.paths import BYTES, WINOGRAD_PATHS, available_paths, plan

PATHS = [path for path in WINOGRAD_PATHS if path in available_paths()]
CHANNELS = 32
pytestmark = pytest.mark.skipif(not PATHS, reason="this processor has neither AVX2 nor VNNI")


@pytest.fixture
def used(monkeypatch):
    """The products that took Winograd's algorithm, in the order in which they did.

    2 or 4, the size of a patch, or 'grad'.
    """
    names = []

    def watch(module, function, name):
        run = getattr(module, function)
        monkeypatch.setattr(
            module,
            function,
            lambda *args, **kwargs: (names.append(name(kwargs)), run(*args, **kwargs))[1],
        )

    watch(winograd, "conv_winograd", lambda options: options["algorithm"].size)
    watch(winograd_grad, "winograd_weight_grad", lambda _: "grad")
    return names


def codes_of(format, shape, pattern, seed=0):
    if pattern == "random":
        return random_codes(np.random.default_rng(seed), format, shape)
    return extremes(format, shape, pattern)


def case(size, padding, batch, formats, pattern, outputs=CHANNELS):
    """(x, w, g) of a convolution of `size` x `size` images."""
    rows = size + 2 * padding - 2
    shapes = (batch, size, size, CHANNELS), (3, 3, CHANNELS, outputs), (batch, rows, rows, outputs)
    return [
        codes_of(format, shape, pattern, seed)
        for seed, (format, shape) in enumerate(zip(formats, shapes))
    ]


PATTERNS = ["random", "high", "low", "alternate"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "size, padding, batch, wanted",
    [
        (4, 1, 1, [4, 4, "grad"]),
        (4, 2, 1, [4, "grad"]),  # forward 6 x 6 is cheaper by bytes
        (5, 1, 3, [2, "grad"]),  # so is 5 x 5; the last patches of the input gradient have one row
        (6, 0, 2, [4, "grad"]),  # the input gradient has more patches than it saves
        (6, 1, 3, [2, "grad"]),
        (7, 1, 2, [4, 4, "grad"]),  # the last patches have three rows
        (2, 1, 1, [2, "grad"]),
        (3, 0, 1, []),
    ],
)  # one position
def test_exact_sums_are_those_of_the_twin(used, size, padding, batch, wanted, pattern):
    formats = unit(8, False), unit(8), unit(9)
    x, w, g = case(size, padding, batch, formats, pattern)
    found = sums_of(*tensors((x, w, g), formats), padding=padding)
    lists = [codes.tolist() for codes in (x, w, g)]
    sums = {
        "forward": oracle.conv_forward(lists[0], lists[1], 1, padding),
        "input gradient": oracle.conv_input_grad(lists[2], lists[1], x.shape, 1, padding),
        "weight gradient": oracle.conv_weight_grad(lists[0], lists[2], w.shape, 1, padding),
    }
    for got, (kind, right) in zip(found, sums.items()):
        assert_same_codes(got.codes, right, what=kind)
    if plan(formats[0], formats[1], 9 * CHANNELS).path == BYTES:
        assert used == wanted


def check_direct(found, given, padding=1):
    """The sums equal those of plain loops."""
    for got, sums_of_loops in zip(found, sums_of(*given, padding=padding, path="plain")):
        assert got.equals(sums_of_loops)


@pytest.fixture
def only(monkeypatch):
    """A function that leaves the processor one path and the plain one.

    Products that were worked out before are forgotten, then and afterwards.
    """

    def leave(path):
        forget_products()
        for name in ("forward_paths", "available_paths"):
            monkeypatch.setattr(f"fxsim.ops.products.{name}", lambda: (path, "plain"))

    yield leave
    forget_products()


def forget_products():
    for cached in (forward, input_grad, weight_grad):
        cached.cache_clear()


@pytest.mark.parametrize(
    "bits, wanted",
    [
        ((13, 12, 14), [2, 2, "grad"]),  # the widest of all
        ((14, 12, 14), [2]),  # 4 * 2**14 codes of x pass int16
        ((13, 13, 14), ["grad"]),  # 9 * 2**12 weights do
        ((13, 12, 15), [2]),  # 4 * 2**14 gradients do
        ((8, 10, 9), [4, 4, "grad"]),  # the widest of patches of 4 x 4
        ((9, 10, 9), [2, 4, "grad"]),  # 68 * 511 codes of x pass int16
        ((8, 11, 9), [2, 2, "grad"]),  # 49 * 2**10 weights do
        ((8, 10, 10), [4, 2, "grad"]),
    ],
)  # 100 * 2**9 gradients do
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("path", PATHS)
def test_both_sides_of_the_widths(only, used, bits, wanted, pattern, path):
    """An output reads one channel alone.

    Of all of them int32 would not hold the sums of the greatest weights.
    """
    only(path)
    formats = unit(bits[0], False), unit(bits[1]), unit(bits[2])
    x, w, g = case(4, 1, 3, formats, pattern, outputs=64)
    w *= np.eye(CHANNELS, 64, dtype=w.dtype)
    given = tensors((x, w, g), formats)
    found = sums_of(*given, padding=1)
    assert used == wanted
    check_direct(found, given)


@pytest.mark.parametrize(
    "algorithm, signed", [("LARGE", False), ("LARGE", True), ("SMALL", False), ("SMALL", True)]
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("path", PATHS)
def test_transformed_codes_reach_the_ends_of_int16_and_no_further(algorithm, signed, seed, path):
    """Every coefficient of B^T d B meets the greatest code of one sign and the least of the other.

    Weights of one tap.
    """
    algorithm = getattr(winograd, algorithm)
    random = np.random.default_rng(seed)
    growth = algorithm.signed_growth if signed else algorithm.unsigned_growth
    most = (2**15 if signed else 2**15 - 1) // growth
    ends = (-most, most - 1) if signed else (0, most)
    rows = {
        2: [(1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)],
        4: [
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ],
    }[algorithm.size]
    coefficients = np.array([np.outer(a, b) for a in rows for b in rows])
    assert (
        max(np.where(part > 0, part, 0).sum() for part in (*coefficients, *-coefficients))
        == algorithm.unsigned_growth
    )
    assert (
        abs(coefficients).sum(axis=(1, 2)).max() == algorithm.signed_growth
        and coefficients.max(axis=(1, 2)).min() > 0
    )
    x = np.concatenate([np.where(sign * coefficients > 0, ends[1], ends[0]) for sign in (1, -1)])
    x = np.repeat(x[..., None], CHANNELS, axis=3).astype(np.int16)
    w = random.integers(-1, 2, (3, 3, CHANNELS, CHANNELS)).astype(np.int16) * np.eye(
        CHANNELS, dtype=np.int16
    )
    out = np.empty((len(x), algorithm.size, algorithm.size, CHANNELS), np.int64)
    winograd.conv_winograd(x, w, 0, out, algorithm=algorithm, path=path.split("_")[1])
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (3, 3), axis=(1, 2))
    assert np.array_equal(out, np.einsum("nyxcij,ijco->nyxo", windows, w.astype(np.int64)))


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    "algorithm, bits, largest", [("SMALL", (13, 12, 14), 2047), ("LARGE", (8, 10, 9), 511)]
)
@pytest.mark.parametrize("path", PATHS)
def test_both_sides_of_the_sum_bound(only, used, path, algorithm, bits, largest, extra):
    """The weights of an output sum to just what growth * |x| * sum lets fit int32, and to one
    more.
    """
    only(path)
    formats = (unit(bits[0], False), unit(bits[1]), unit(bits[2]))
    algorithm = getattr(winograd, algorithm)
    x, w, g = case(4, 1, 2, formats, "high")
    most = INT32_MAX // (algorithm.sum_growth * Operand(bits[0], False).magnitude)
    w[:] = 0
    column = w.reshape(-1, CHANNELS)[:, 5]
    column[: most // largest] = largest
    column[most // largest] = most % largest + extra
    assert int(w.sum(dtype=np.int64)) == most + extra
    x, w = tensors((x, w), formats)
    found = ops.conv2d(x, w, padding=1).tensor()
    after = [2] if algorithm is winograd.LARGE else []
    assert used == ([algorithm.size] if extra == 0 else after)
    assert found.equals(ops.conv2d(x, w, padding=1).by("plain").tensor())


def test_weight_gradients_spill_before_int32_is_full(used):
    """2 * 128 terms of 4 * 2**13 by 4 * 2**13 pass int32 many times over.

    The sums are right all the same.
    """
    formats = unit(13, False), unit(12), unit(14)
    x, w, g = case(8, 1, 33, formats, "low")
    x[:] = formats[0].max_code
    x, g = tensors((x, g), (formats[0], formats[2]))
    found = ops.conv2d_weight_grad(x, g, w.shape, padding=1).tensor()
    wanted = ops.conv2d_weight_grad(x, g, w.shape, padding=1).by("plain").tensor()
    assert abs(wanted.codes).max() > 2**31
    assert found.equals(wanted)
    assert used == ["grad"]


NETWORK = Network(
    "wide",
    (8, 8, 1),
    (
        Conv(name="conv1", filters=32, padding=1),
        Conv(name="conv2", filters=32, padding=1, batch_norm=True, pool=Pool("max", 2)),
        Conv(name="conv3", filters=64, padding=1),
        Dense(name="fc", units=10, relu=False),
    ),
)


@pytest.mark.parametrize("rounding", ["nearest_away", "floor", "nearest_even", "stochastic"])
def test_training_steps_are_those_of_the_direct_kernel(used, rounding):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (5, 8, 8, 1))
    labels = rng.integers(0, 10, 5)
    formats = assignment(NETWORK)
    formats = type(formats)(
        NETWORK.name,
        formats.layers,
        rounding=dict.fromkeys(
            ("activations", "activation_grads", "preactivation_grads", "weight_grads"), rounding
        ),
    )
    results = {}
    for kernel in ("auto", PATHS[0]):
        fixed = FixedNetwork(
            NETWORK, formats, initial_parameters(NETWORK, 1), kernel=kernel, seed=2
        )
        steps = [fixed.train_step(images, labels, LearningRate.of(0.1), step) for step in range(2)]
        results[kernel] = [(step.loss, step.counts) for step in steps], fixed.fingerprint()
        if kernel == "auto":
            assert {2, 4, "grad"} == set(used)
            used.clear()
    assert results["auto"] == results[PATHS[0]]
    assert used == []  # a forced path is the direct one


BRANCH = Network(
    "branch",
    (4, 4, 32),
    (
        Conv(name="stem", filters=32, kernel=1),
        Conv(name="read_by_add", input="stem", filters=32, padding=1),
        Conv(name="sum", input="stem", filters=32, kernel=1, add="read_by_add"),
        Dense(name="fc", units=3, relu=False),
    ),
)


def test_a_relu_before_a_signed_branch_is_applied_and_counted(used):
    """Its outputs have a signed format, for other branches do."""
    row = LayerPrecision(
        weights=Format(6, 0),
        activations=Format(6, 1, False),
        activation_grads=Format(12, -3),
        weight_grads=Format(12, -1),
        accumulators=Format(12, -6),
        bias=Format(10, 0),
        bias_accumulators=Format(12, -10),
        branch=Format(8, 1),
    )
    rows = dict.fromkeys(BRANCH.names, replace(row, branch=None)) | {"read_by_add": row}
    formats = PrecisionAssignment(BRANCH.name, rows)
    images = np.random.default_rng(0).integers(0, 64, (2, 4, 4, 32))
    results = []
    for kernel in ("auto", "plain"):
        fixed = FixedNetwork(BRANCH, formats, initial_parameters(BRANCH, 1), kernel=kernel)
        seen = {}

        def keep(tensor, layer, value, seen=seen):
            seen[layer, tensor] = value.codes.tolist()

        step = fixed.train_step(images, np.array([0, 1]), LearningRate.of(0.1), 0, probe=keep)
        results.append((seen, step.counts, step.loss, fixed.fingerprint()))
        assert np.min(seen["read_by_add", "branch"]) == 0
        if kernel == "auto":
            assert 4 in used and "grad" in used
    assert results[0] == results[1]


def test_an_operand_that_is_no_multiple_of_32_channels_is_left_to_the_direct_kernel():
    assert winograd.applies((3, 3, 32, 64), 1)
    assert not any(
        winograd.applies(*others)
        for others in (
            ((3, 3, 33, 64), 1),
            ((3, 3, 32, 40), 1),
            ((3, 3, 32, 64), 2),
            ((5, 5, 32, 64), 1),
        )
    )


def test_the_algorithm_that_costs_least_is_chosen():
    weight = np.ones((3, 3, 32, 32), np.int16)
    codes = Operand(4, False)
    chosen = {
        size: winograd.choose((size, size), 9 * size**2, codes, weight)
        for size in (1, 2, 3, 4, 6, 8, 10, 12)
    }
    assert chosen == {
        1: None,
        2: winograd.SMALL,
        3: winograd.LARGE,
        4: winograd.LARGE,
        6: winograd.SMALL,
        8: winograd.LARGE,
        10: winograd.LARGE,
        12: winograd.LARGE,
    }


def test_weight_gradients_need_transformed_operands_of_16_bits():
    assert winograd_grad.holds(Operand(13, False), Operand(14, True))
    assert not winograd_grad.holds(Operand(14, False), Operand(14, True))
    assert not winograd_grad.holds(Operand(13, False), Operand(15, True))

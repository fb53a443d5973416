"""The float products.

Register tiles against im2col, on every processor path and any number of threads.
"""

import multiprocessing
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsim.kernels.floating import tile as float_tile
from fxsim.kernels.jit import jit
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.nn.floating import (
    columns as floating_columns,
)
from fxsim.nn.floating import (
    products as floating_products,
)
from fxsim.nn.floating import (
    threads as floating_threads,
)
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.geometry import geometry_of
from fxsim.nn.init import initial_parameters
from fxsim.nn.networks import digits_convnet
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.windows import Window

needs_tiles = pytest.mark.skipif(
    floating_products.PATH is None, reason="this processor has neither AVX-512 nor AVX2"
)


def shape_of(layer, input_shape):
    scores = Dense(name="scores", units=1, relu=False)
    return Network("one", input_shape, (layer, scores)).shape(layer.name)


@st.composite
def products(draw):
    """A layer, its shape, activations, weights and a gradient of its result (float64)."""
    count, height, width, channels = (draw(st.integers(1, most)) for most in (5, 7, 7, 40))
    outputs = draw(st.integers(1, 70))
    groups = draw(st.sampled_from([1, 1, 2, 4, 9]))
    if draw(st.booleans()):
        layer = Dense(name="layer", units=outputs, relu=False)
    else:
        kernel = draw(st.integers(1, min(height, width, 3)))
        padding = draw(st.integers(0, kernel - 1))
        channels, outputs = (-(-number // groups) * groups for number in (channels, outputs))
        layer = Conv(
            name="layer",
            filters=outputs,
            groups=groups,
            kernel=kernel,
            stride=draw(st.integers(1, 3)),
            padding=padding,
            relu=False,
        )
    shape = shape_of(layer, (height, width, channels))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    positions = shape.pre[0] * shape.pre[1]
    return (
        layer,
        shape,
        *(
            rng.normal(size=size)
            for size in ((count, *shape.input), shape.weight, (count, positions, outputs))
        ),
    )


@needs_tiles
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-4)])
@given(case=products())
@settings(max_examples=100)
def test_tiles_agree_with_im2col(dtype, tolerance, case):
    layer, shape, *arrays = case
    geometry = geometry_of(layer, shape)
    whole = geometry.full
    window = whole.window
    activations, weight, gradient = (array.astype(dtype) for array in arrays)
    activations64, weight64, gradient64 = arrays
    weight64 = geometry.filled(weight64.reshape(geometry.weight))
    images64 = activations64.reshape(-1, *geometry.input)
    pairs = {
        "product": (
            floating_products.product(activations, weight, layer, shape),
            floating_columns.product(images64, weight64, window),
        ),
        "input gradient": (
            floating_products.input_gradient(gradient, weight, layer, shape),
            floating_columns.input_gradient(gradient64, weight64, whole).reshape(activations.shape),
        ),
        "weight gradient": (
            floating_products.weight_gradient(activations, gradient, layer, shape),
            geometry.gathered(
                floating_columns.weight_gradient(images64, gradient64, window).reshape(whole.weight)
            ).reshape(shape.weight),
        ),
    }
    for name, (got, wanted) in pairs.items():
        assert got.shape == wanted.shape and got.dtype == dtype, name
        np.testing.assert_allclose(
            got, wanted, rtol=tolerance, atol=tolerance * np.sqrt(wanted.size), err_msg=name
        )


def test_im2col_products_are_adjoint():
    rng = np.random.default_rng(0)
    layer = Conv(name="layer", filters=3, kernel=3, stride=2, padding=1, relu=False)
    shape = shape_of(layer, (6, 5, 2))
    activations = rng.normal(size=(2, 6, 5, 2))
    weight = rng.normal(size=shape.weight)
    gradient = rng.normal(size=(2, shape.pre[0] * shape.pre[1], 3))
    geometry = geometry_of(layer, shape)
    window = geometry.window
    value = np.vdot(floating_columns.product(activations, weight, window), gradient)
    assert np.vdot(
        activations, floating_columns.input_gradient(gradient, weight, geometry)
    ) == pytest.approx(value)
    weight_gradient = floating_columns.weight_gradient(activations, gradient, window)
    assert np.vdot(weight, weight_gradient.reshape(weight.shape)) == pytest.approx(value)


def test_im2col_columns_are_the_windows_in_row_major_order():
    image = np.arange(9.0).reshape(1, 3, 3, 1)
    got = floating_columns.columns(image, Window((2, 2)))
    assert got.tolist() == [[[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]]
    padded = floating_columns.columns(image, Window((2, 2), (2, 2), (1, 1, 1, 1)))
    assert padded.tolist() == [[[0, 0, 0, 0], [0, 0, 1, 2], [0, 3, 0, 6], [4, 5, 7, 8]]]


@pytest.mark.skipif(
    not all(map(float_tile.processor_has, ("avx512", "avx2"))), reason="needs AVX-512 and AVX2"
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_avx2_and_avx512_tiles_give_the_same_bits(dtype):
    first = float_tile.tiles["avx512"]
    second = float_tile.tiles["avx2"]

    @jit
    def both(left, rows, right, loops, out):
        first(left, rows, right, 5, loops, out[0])
        second(left, rows, right, 5, loops, out[1])

    rng = np.random.default_rng(0)
    left = rng.normal(size=1000).astype(dtype)
    right = rng.normal(size=2000).astype(dtype)
    rows = rng.integers(0, 900, float_tile.ROWS)
    loops = np.array([2, 30, 700, 3, 7, 200, 5, 1, float_tile.COLUMNS])
    out = np.zeros((2, float_tile.ROWS, float_tile.COLUMNS), dtype)
    both(left, rows, right, loops, out)
    np.testing.assert_array_equal(out[0], out[1])
    steps = [(i, j, k) for i in range(2) for j in range(3) for k in range(5)]
    wanted = sum(
        left[rows + 30 * i + 7 * j + k, None].astype(float)
        * right[5 + 700 * i + 200 * j + 32 * k + np.arange(float_tile.COLUMNS)]
        for i, j, k in steps
    )
    np.testing.assert_allclose(out[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not float_tile.processor_has("avx2"), reason="needs AVX2")
def test_emulated_avx512_tiles_give_the_same_bits():
    """The test above, in a process in which no processor lacks AVX-512."""
    name = test_avx2_and_avx512_tiles_give_the_same_bits.__name__
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", name],
        env={**os.environ, "FXSIM_EMULATE": "avx512", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.stdout.splitlines()[-1].startswith("2 passed"), run.stdout


def trained(steps=3) -> FloatNetwork:
    network = digits_convnet(0.5)
    net = FloatNetwork(network, initial_parameters(network, 1))
    rng = np.random.default_rng(0)
    for step in range(steps):
        net.train_step(
            rng.random((33, 8, 8, 1), np.float32), rng.integers(0, 10, 33), 0.1, step=step
        )
    return net


def assert_same_parameters(got: FloatNetwork, wanted: FloatNetwork, **tolerance):
    for layer, own in wanted.parameters.items():
        for name, array in own.items():
            np.testing.assert_allclose(
                got.parameters[layer][name], array, err_msg=f"{layer} {name}", **tolerance
            )


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_a_run_gives_the_same_bits_on_one_and_two_threads(monkeypatch):
    monkeypatch.setattr(floating_threads, "_LEAST_WORK", 0)
    before = thread_count()
    try:
        use_threads(1)
        single = trained()
        use_threads(2)
        assert_same_parameters(trained(), single, rtol=0)
    finally:
        use_threads(before)


@needs_tiles
def test_a_run_by_im2col_follows_the_one_by_tiles(monkeypatch):
    tiles = trained()
    monkeypatch.setattr(floating_products, "PATH", None)
    assert_same_parameters(trained(), tiles, rtol=1e-3, atol=1e-5)


def test_every_part_of_the_range_is_run_once(monkeypatch):
    monkeypatch.setattr(floating_threads, "_LEAST_WORK", 0)
    monkeypatch.setattr("fxsim.kernels.threads._count", 3)
    seen = []
    for count in (1, 2, 3, 10):
        seen.clear()
        floating_threads.run(lambda first, last: seen.extend(range(first, last)), (), count, 1)
        assert sorted(seen) == list(range(count))


def test_an_error_in_another_thread_comes_back(monkeypatch):
    def fail(first, last):
        if first:
            raise ArithmeticError("in part two")

    monkeypatch.setattr("fxsim.kernels.threads._count", 2)
    with pytest.raises(ArithmeticError, match="part two"):
        floating_threads.run(fail, (), 2, 10**9)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_gets_threads_of_its_own(monkeypatch):
    monkeypatch.setattr("fxsim.kernels.threads._count", 2)
    floating_threads.run(lambda first, last: None, (), 2, 10**9)
    child = multiprocessing.get_context("fork").Process(
        target=floating_threads.run, args=(lambda first, last: None, (), 2, 10**9)
    )
    child.start()
    child.join(timeout=20)
    alive = child.is_alive()
    child.kill()
    assert not alive and child.exitcode == 0

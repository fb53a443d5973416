"""Memory that is used again is never that of an array which is still there."""

import gc
import threading

import numpy as np
import pytest

from fxsim.kernels import memory

SHAPE = (3, memory.LEAST)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_free", {})


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_for_any_type_of_its_size():
    array = memory.empty(SHAPE, np.int16)
    first = address(array)
    del array
    assert memory.kept_bytes() >= 2 * SHAPE[0] * SHAPE[1]
    again = memory.empty((2, *SHAPE), np.int8)
    assert address(again) == first
    assert (
        again.shape == (2, *SHAPE)
        and again.dtype == np.int8
        and again.flags.c_contiguous
        and again.flags.writeable
    )
    assert memory.kept_bytes() == 0


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[1],
        lambda array: array.reshape(-1)[5:],
        lambda array: array.view(np.int8)[:, ::3].T,
        lambda array: np.asarray(array[::2])[0, :10],
        lambda array: np.ascontiguousarray(array),
        memoryview,
        lambda array: np.frombuffer(array, np.uint8),
    ],
)
def test_a_view_keeps_the_memory(view):
    array = memory.empty(SHAPE, np.int16)
    part = view(array)
    del array
    gc.collect()
    assert memory.kept_bytes() == 0
    other = memory.empty(SHAPE, np.int16)
    assert not np.shares_memory(other, np.asarray(part))
    del part
    gc.collect()
    assert memory.kept_bytes() > 0


def test_small_arrays_have_memory_of_their_own():
    array = memory.empty((5, 2), np.int32)
    del array
    assert memory.kept_bytes() == 0
    assert memory.empty((0, 2), np.int32).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float64])
def test_arrays_start_with_a_cache_line(dtype):
    for length in (1, 7, 100, memory.LEAST // 3, memory.LEAST, 3 * memory.LEAST + 1):
        assert address(memory.empty((length,), dtype)) % memory.LINE == 0
        assert address(memory.scratch(length, np.dtype(dtype))) % memory.LINE == 0
        assert memory.scratch(length, np.dtype(dtype)).shape == (length,)


def test_no_more_than_a_limit_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 5 * memory.LEAST)
    arrays = [memory.empty((2 * memory.LEAST,), np.uint8) for _ in range(4)]
    del arrays
    assert memory.kept_bytes() == 4 * memory.LEAST


def test_threads_never_share():
    """Each writes its own number and finds it again."""
    wrong = []

    def work(number):
        for _ in range(300):
            array = memory.empty((memory.LEAST,), np.uint8)
            array[::4096] = number
            wrong.extend(value for value in array[::4096] if value != number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

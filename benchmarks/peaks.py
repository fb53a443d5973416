"""The rates of the dot-product instructions themselves, on operands that stay in the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from fxsim.kernels.memory import scratch
from fxsim.kernels.products import amx, tile
from fxsim.kernels.threads import parallel_for, thread_count

TILES = 1 << 12
"""Per thread."""
WORDS = 512
STEPS = 4


def peak_works(paths: tuple[str, ...]) -> dict[str, tuple[Callable, int]]:
    """By path of AMX or VNNI: what to time, on all threads, and how many products it makes."""
    count = TILES * thread_count()
    works = {}
    for path, dtype in (("int8_vnni", np.uint8), ("int16_vnni", np.int16)):
        if path in paths:
            terms = tile.word_terms(dtype)
            code = np.zeros(tile.COLUMNS * 4, dtype)
            loops = np.array([[1, 0, 0], [1, 0, 0], [WORDS, 0, 0]])
            works[path] = (
                _times(_register_tiles, count, tile.PATHS["vnni"], code, loops),
                count * tile.TILE * WORDS * terms,
            )
    left = np.zeros((amx.ROWS, (STEPS + 1) * amx.STEP), np.uint8)
    right = np.zeros(STEPS * amx.STEP * tile.COLUMNS, np.uint8)
    products = 4 * count * amx.ROWS * tile.COLUMNS * STEPS * amx.STEP
    for path, bytes_per_product in (
        ("int8_amx", 1),
        ("int16_amx", 2),
    ):  # 14-bit by 8-bit codes: two bytes by one
        if path in paths:
            works[path] = (
                _times(_byte_tiles, count, left, right, amx.CONFIGURATION),
                products // bytes_per_product,
            )
    return works


def _times(kernel, count, *arguments):
    return lambda: parallel_for(kernel, count, 1, *arguments)


@numba.njit(nogil=True)
def _register_tiles(start, stop, path, code, loops):
    rows = np.zeros(tile.ROWS, np.int64)
    low = scratch(tile.TILE, np.int32)
    for _ in range(start, stop):
        tile.register_tile(path, code, code, rows, 0, 0, 0, loops, low)


@numba.njit(nogil=True)
def _byte_tiles(start, stop, left, right, configuration):
    sums = scratch(amx.ROWS * tile.COLUMNS, np.int32)
    amx.configure(configuration)
    for _ in range(4 * start, 4 * stop):
        amx.add_byte_tile(
            left, 0, left.shape[1], right, 0, STEPS, amx.RIGHT_SIGNED, True, sums, 0, tile.COLUMNS
        )
    amx.release()

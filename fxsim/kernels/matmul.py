"""Exact matrix products in register tiles, the reduction cut into chunks whose operands stay in cache.

Sums are exact whatever the path, the chunks and the number of threads.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import Epilogue, requantize_tile, store_tile
from fxsim.kernels.jit import jit, parallel_for
from fxsim.kernels.packing import blocks_of, pack_forward_weights
from fxsim.kernels.tile import (
    COLUMNS,
    NEVER,
    PATHS,
    ROWS,
    TILE,
    multiply_tile,
    widen,
    word_terms,
    words_before_spill,
)

GROUP_TILES = 32
"""Most tiles of one job: with one block of weights they stay in a second-level cache of 1 MB."""
JOBS = 16
"""Least jobs of a product, where there are as many tiles, so that threads can share them."""
PANEL_BYTES = 2**18
"""Share of that cache for one chunk of the right operand."""
RAW = Epilogue(raw=True)


class Product(NamedTuple):
    """How the tiles of a product are made: path, words between spills, valid columns and their blocks.

    fits_int32: the whole arithmetic of the epilogue does; of `multiply_chunks`, the sum of its only chunk.
    """

    path: int
    spill_words: int
    columns: int
    blocks: int
    fits_int32: bool


def gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray, *, spill_terms: int, path: str, epilogue: Epilogue = RAW,
         counts: np.ndarray | None = None) -> None:
    """out (M, N) = epilogue(a (M, K) times b (K, N)); without an epilogue int32 or int64 sums, as they need.

    Operands as for `conv.conv_forward`: int16, for 'vnni' also uint8 a with int8 b, any integers for
    'plain'.  spill_terms: product terms that int32 provably holds.  counts: (3,) int64, added to.
    """
    packed, terms = pack_forward_weights(b[None, None]), word_terms(a.dtype)
    blocks, _, _, words, _, _ = packed.shape
    chunk = min(words, max(1, PANEL_BYTES // (COLUMNS * terms * b.itemsize)))
    loops = np.array([[1, 0, 0], [1, 0, 0], [chunk, terms, COLUMNS * terms]])
    spill = spill_words(chunk * terms, spill_terms, terms)
    fits_int32 = epilogue.raw and spill == NEVER and chunk == words
    product = Product(PATHS[path], spill, b.shape[1], blocks, fits_int32)
    multiply_chunks(with_spare(a, terms), packed.reshape(blocks, -1), np.arange(len(a)) * a.shape[1], words, loops, 2,
                    product, epilogue, out, counts)


def multiply_chunks(left, right, rows, size, loops, chunk_loop, product, epilogue, out, counts) -> None:
    """out[r, o] = epilogue(sum along `loops` of left from rows[r] times column o of right), in parallel.

    left: flat codes.  right (blocks, codes).  loops: the table of `tile.py` for one chunk; the loop
    `chunk_loop` is `size` long and runs in chunks of loops[chunk_loop, 0].
    """
    group = group_tiles(rows.size, product.blocks)
    jobs = blocks_of(rows.size, group * ROWS) * product.blocks
    job_counts = np.zeros((jobs, 3), np.int64)
    parallel_for(_multiply_jobs, jobs, 1, left, right, rows, size, loops, chunk_loop, group, product, epilogue,
                 out.reshape(-1), job_counts)
    if counts is not None:
        counts += job_counts.sum(axis=0)


def with_spare(codes: np.ndarray, terms: int) -> np.ndarray:
    """Flat codes, with spare ones where the last word reads past the end (times zero)."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    return flat if codes.shape[-1] % terms == 0 else np.append(flat, np.zeros(terms - 1, codes.dtype))


def spill_words(depth: int, spill_terms: int, terms: int) -> int:
    """Words of `terms` between spills of a sum of `depth` terms, of which int32 holds `spill_terms`."""
    return NEVER if depth <= spill_terms else words_before_spill(spill_terms, terms)


def group_tiles(rows: int, blocks: int) -> int:
    """Tiles per job."""
    return max(1, min(GROUP_TILES, blocks_of(rows, ROWS) * blocks // JOBS))


@jit
def _multiply_jobs(start, stop, left, right, rows, size, loops, chunk_loop, group, product, epilogue, out, counts):
    """Each job: a group of rows by one block of columns, chunk by chunk."""
    low, high, total = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    codes, no_mask, no_bias = np.empty(TILE, np.int64), np.empty(TILE, np.uint8), np.zeros(TILE, np.int64)
    sums, offsets = np.empty((group, TILE), np.int64), np.empty(group * ROWS, np.int64)
    chunk, left_step, right_step = loops[chunk_loop]
    loops, flat_right = loops.copy(), right.reshape(-1)
    for job in range(start, stop):
        first, block = job // product.blocks * group * ROWS, job % product.blocks
        valid_rows, columns = min(group * ROWS, rows.size - first), min(COLUMNS, product.columns - block * COLUMNS)
        for i in range(group * ROWS):
            offsets[i] = rows[first + min(i, valid_rows - 1)]
        places = (first + np.arange(group * ROWS)) * product.columns + block * COLUMNS
        stored = False
        sums[:] = 0
        for at in range(0, size, chunk):
            loops[chunk_loop, 0] = min(chunk, size - at)
            for row in range(0, valid_rows, ROWS):
                valid = min(ROWS, valid_rows - row)
                fits = multiply_tile(product.path, left, flat_right, offsets, row, at * left_step,
                                     block * right.shape[1] + at * right_step, loops, product.spill_words, valid,
                                     columns, low, high, total)
                stored = fits and product.fits_int32
                if stored:
                    store_tile(low, valid, columns, out, places, row)
                else:
                    widen(fits, low, total)
                    _add(total, sums[row // ROWS])
        for row in range(0, 0 if stored else valid_rows, ROWS):
            part, valid = sums[row // ROWS], min(ROWS, valid_rows - row)
            if not epilogue.raw:
                requantize_tile(part, no_bias, epilogue, valid, columns, codes, no_mask, counts[job])
            store_tile(part if epilogue.raw else codes, valid, columns, out, places, row)


@jit
def _add(total, sums):
    for k in range(TILE):
        sums[k] += total[k]

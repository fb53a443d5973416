"""Exact matrix products in register tiles, the reduction cut into chunks whose operands stay in
cache.

Sums are exact whatever the path, the chunks and the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.jit import jit
from fxsim.kernels.memory import scratch
from fxsim.kernels.products.finish import Outputs, Room, finish_tile, store_sums
from fxsim.kernels.products.packing import blocks_of, pack_forward_weights
from fxsim.kernels.products.tile import (
    COLUMNS,
    NEVER,
    PATHS,
    ROWS,
    TILE,
    Halves,
    Tile,
    register_tile,
    wide_tile,
    word_terms,
    words_before_spill,
)
from fxsim.kernels.threads import parallel_for

GROUP_TILES = 32
"""Most tiles of one job: with one block of weights they stay in a second-level cache of 1 MB."""
JOBS = 16
"""Least jobs of a product, where there are as many tiles, so that threads can share them."""
LEAST_PRODUCTS = 2**21
"""Products below which a second thread costs more than it gives."""
PANEL_BYTES = 2**18
"""Share of that cache for one chunk of the right operand."""


class Product(NamedTuple):
    """How the tiles of a product are made: path, words between spills, valid columns and their
    blocks.

    fits_int32: sums and the whole arithmetic of the epilogue do, and the path has registers for
    them."""

    path: tuple
    spill_words: int
    columns: int
    blocks: int
    fits_int32: bool

    @classmethod
    def of(
        cls,
        path: str,
        depth: int,
        terms: int,
        spill_terms: int,
        columns: int,
        epilogue: Epilogue,
        bias_bound: int = 0,
    ) -> Product:
        """Of sums of `depth` products, in words of `terms`, of which int32 provably holds
        `spill_terms`.
        """
        bound = (
            depth * (2**31 - 1) // max(spill_terms, 1)
        )  # no terms, where every tap is padding, need no bound
        fits = path != "plain" and depth <= spill_terms and epilogue.fits_int32(bound, bias_bound)
        return cls(
            PATHS[path],
            spill_words(depth, spill_terms, terms),
            columns,
            blocks_of(columns, COLUMNS),
            fits,
        )


class Reduction(NamedTuple):
    """The table `loops` of `tile.py` for one chunk; the loop `chunk_loop` is `size` long and runs
    in chunks of loops[chunk_loop, 0].
    """

    loops: np.ndarray
    chunk_loop: int
    size: int


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    spill_terms: int,
    path: str,
    epilogue: Epilogue = RAW,
    counts: np.ndarray | None = None,
) -> None:
    """out (M, N) = epilogue(a (M, K) times b (K, N)); without an epilogue int32 or int64 sums, as
    they need.

    Operands as for `conv.conv_forward`: int16, for 'vnni' also uint8 a with int8 b, any integers
    for 'plain'.  spill_terms: product terms that int32 provably holds.  counts: (3,) int64, added
    to."""
    packed = pack_forward_weights(b[None, None])
    terms = word_terms(a.dtype)
    blocks, _, _, words, _, _ = packed.shape
    chunk = min(words, max(1, PANEL_BYTES // (COLUMNS * terms * b.itemsize)))
    loops = np.array([[1, 0, 0], [1, 0, 0], [chunk, terms, COLUMNS * terms]])
    product = Product.of(path, chunk * terms, terms, spill_terms, b.shape[1], epilogue)
    multiply_chunks(
        with_spare(a, terms),
        packed.reshape(blocks, -1),
        np.arange(len(a)) * a.shape[1],
        words,
        loops,
        2,
        product,
        epilogue,
        out,
        counts,
    )


def multiply_chunks(
    left, right, rows, size, loops, chunk_loop, product, epilogue, out, counts
) -> None:
    """out[r, o] = epilogue(sum along `loops` of left from rows[r] times column o of right), in
    parallel.

    left: flat codes.  right (blocks, codes).  loops: the table of `tile.py` for one chunk; the loop
    `chunk_loop` is `size` long and runs in chunks of loops[chunk_loop, 0].  product: of one chunk.
    Where there are few tiles, the reduction is cut into parts, too, that have sums of their own.
    """
    chunks = blocks_of(size, int(loops[chunk_loop, 0]))
    tiles = blocks_of(rows.size, ROWS) * product.blocks
    parts = min(chunks, blocks_of(JOBS, tiles))
    group = (
        min(GROUP_TILES, blocks_of(rows.size, ROWS))
        if parts > 1
        else group_tiles(rows.size, product.blocks)
    )
    jobs = blocks_of(rows.size, group * ROWS) * product.blocks
    product = product._replace(fits_int32=product.fits_int32 and chunks == 1)
    products = tiles * TILE * blocks_of(right.shape[1], COLUMNS)
    flat_out = out.reshape(-1)
    job_counts = np.zeros((jobs, 3), np.int64)
    whole = epilogue.in_int32() if product.fits_int32 else epilogue
    if product.fits_int32:
        parallel_for(
            _multiply_at_once,
            jobs,
            grain(jobs, products),
            left,
            right,
            rows,
            loops,
            group,
            product,
            whole,
            flat_out,
            job_counts,
        )
    else:
        partial = np.empty((jobs if parts > 1 else 0, parts, group, TILE), np.int64)
        parallel_for(
            _multiply_jobs,
            parts * jobs,
            grain(parts * jobs, products),
            left,
            right,
            rows,
            Reduction(loops, chunk_loop, size),
            group,
            product,
            whole,
            flat_out,
            job_counts,
            partial,
        )
        if parts > 1:
            parallel_for(
                _add_parts, jobs, 1, partial, rows.size, product, whole, flat_out, job_counts
            )
    if counts is not None:
        counts += job_counts.sum(axis=0)


def with_spare(codes: np.ndarray, terms: int) -> np.ndarray:
    """Flat codes, with spare ones where the last word reads past the end (times zero)."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    return (
        flat if codes.shape[-1] % terms == 0 else np.append(flat, np.zeros(terms - 1, codes.dtype))
    )


def spill_words(depth: int, spill_terms: int, terms: int) -> int:
    """Words of `terms` between spills of a sum of `depth` terms, of which int32 holds
    `spill_terms`.
    """
    return NEVER if depth <= spill_terms else words_before_spill(spill_terms, terms)


def grain(jobs: int, products: int) -> int:
    """Least jobs per piece of `jobs` that make so many products, padded ones among them."""
    return 1 + LEAST_PRODUCTS * jobs // max(products, 1)


def group_tiles(rows: int, blocks: int) -> int:
    """Tiles per job."""
    return max(1, min(GROUP_TILES, blocks_of(rows, ROWS) * blocks // JOBS))


@jit(inline="always")
def _job_rows(job, rows, group, product):
    """(first row, block, valid rows, valid columns) of a job, a group of rows by one block of
    columns.
    """
    first = job // product.blocks * group * ROWS
    block = job % product.blocks
    return (
        first,
        block,
        min(group * ROWS, rows - first),
        min(COLUMNS, product.columns - block * COLUMNS),
    )


@jit
def _offsets(rows, first, valid, offsets):
    for i in range(offsets.size):
        offsets[i] = rows[first + min(i, valid - 1)]


@jit
def _places(first, group, product, block):
    return (first + np.arange(group * ROWS)) * product.columns + block * COLUMNS


@jit
def _multiply_at_once(start, stop, left, right, rows, loops, group, product, epilogue, out, counts):
    """Each job: its tiles, whose sums fit int32."""
    low = scratch(TILE, np.int32)
    offsets = scratch(group * ROWS, np.int64)
    flat_right = right.reshape(-1)
    bias = np.zeros(COLUMNS, np.int32)
    no_mask = np.empty(0, np.uint8)
    no_moments = np.empty(0, np.int64)
    for job in range(start, stop):
        first, block, valid_rows, columns = _job_rows(job, rows.size, group, product)
        _offsets(rows, first, valid_rows, offsets)
        places = _places(first, group, product, block)
        outputs = Outputs(out, no_mask, counts[job], no_moments)
        for row in range(0, valid_rows, ROWS):
            register_tile(
                product.path, left, flat_right, offsets, row, 0, block * right.shape[1], loops, low
            )
            tile = Tile(min(ROWS, valid_rows - row), columns, 0)
            finish_tile(low, tile, bias, epilogue, outputs, places, row)


@jit
def _multiply_jobs(
    start,
    stop,
    left,
    right,
    rows,
    reduction,
    group,
    product,
    epilogue,
    out,
    counts,
    partial,
):
    """Each job: its tiles, chunk by chunk; or a part of the chunks, with sums for `partial`
    (jobs, parts, group, TILE).
    """
    halves = Halves(scratch(TILE, np.int32), scratch(TILE, np.int32))
    own_sums = scratch(group * TILE, np.int64).reshape(group, TILE)
    offsets = np.empty(group * ROWS, np.int64)
    flat_right = right.reshape(-1)
    parts = partial.shape[1]
    size = reduction.size
    chunk, left_step, right_step = reduction.loops[reduction.chunk_loop]
    loops = reduction.loops.copy()
    for part_job in range(start, stop):
        job, part = divmod(part_job, parts)
        first, block, valid_rows, columns = _job_rows(job, rows.size, group, product)
        _offsets(rows, first, valid_rows, offsets)
        sums = own_sums if parts == 1 else partial[job, part]
        sums[:] = 0
        last = size * (part + 1) // parts
        for at in range(size * part // parts, last, chunk):
            loops[reduction.chunk_loop, 0] = min(chunk, last - at)
            for row in range(0, valid_rows, ROWS):
                wide_tile(
                    product.path,
                    left,
                    flat_right,
                    offsets,
                    row,
                    at * left_step,
                    block * right.shape[1] + at * right_step,
                    loops,
                    product.spill_words,
                    Tile(min(ROWS, valid_rows - row), columns, 0),
                    halves,
                    sums[row // ROWS],
                )
        if parts == 1:
            _store_group(
                sums, first, block, valid_rows, columns, product, epilogue, out, counts[job]
            )


@jit
def _add_parts(start, stop, partial, rows, product, epilogue, out, counts):
    for job in range(start, stop):
        first, block, valid_rows, columns = _job_rows(job, rows, partial.shape[2], product)
        sums = partial[job, 0]
        flat_sums = sums.reshape(-1)
        for part in range(1, partial.shape[1]):
            part_sums = partial[job, part].reshape(-1)
            for k in range(flat_sums.size):
                flat_sums[k] += part_sums[k]
        _store_group(sums, first, block, valid_rows, columns, product, epilogue, out, counts[job])


@jit
def _store_group(sums, first, block, valid_rows, columns, product, epilogue, out, counts):
    room = Room(scratch(TILE, np.int64), scratch(TILE, np.uint8))
    bias = np.zeros(COLUMNS, np.int64)
    outputs = Outputs(out, np.empty(0, np.uint8), counts, np.empty(0, np.int64))
    places = _places(first, len(sums), product, block)
    for row in range(0, valid_rows, ROWS):
        tile = Tile(min(ROWS, valid_rows - row), columns, 0)
        store_sums(
            product.path, sums[row // ROWS], tile, bias, epilogue, room, outputs, places, row
        )

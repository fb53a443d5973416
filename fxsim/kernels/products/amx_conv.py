"""Convolutions and matrix products in tiles of bytes (`amx.py`): exact, whatever the operands'
widths up to 16 bits.

A code is one byte, or a low unsigned byte and a high one of the code's sign; every pair of parts is
a product of its own. From the highest level of pairs to the lowest, the sum is shifted by 8 bits
and the next level added: modulo 2**32, so that it is exact where the whole sum fits int32.  Where
it does not, the sums of each level, which int32 holds for BYTE_TERMS terms, are added in int64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels import memory
from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.jit import jit
from fxsim.kernels.memory import scratch
from fxsim.kernels.products.amx import (
    CONFIGURATION,
    LEFT_SIGNED,
    RIGHT_SIGNED,
    ROWS,
    SIDE,
    STEP,
    add_byte_tile,
    configure,
    copy_part,
    pack_words,
    processor_has_tiles,
    release,
)
from fxsim.kernels.products.conv import NO_MASK
from fxsim.kernels.products.finish import (
    Outputs,
    finish_tile,
    largest_magnitude,
    outputs_of_job,
    padded_bias,
)
from fxsim.kernels.products.matmul import JOBS, grain
from fxsim.kernels.products.packing import blocks_of
from fxsim.kernels.products.paths import BYTE_TERMS, INT32_MAX, Operand
from fxsim.kernels.products.tile import COLUMNS, Tile
from fxsim.kernels.products.winograd import add_columns
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.kernels.reductions import sum_of_jobs
from fxsim.kernels.threads import GRAIN, parallel_for

MOST_BITS = 16
"""Of an operand: a level has two pairs of parts at most."""
CHUNK_STEPS = BYTE_TERMS // STEP
"""Steps whose products of any pairs of bytes that count the same, two at most, int32 holds."""
MOST_TILES = 8
"""Of a job, which reads a block of weights once for each."""
PANEL_BYTES = 1 << 19
"""Of the left operand, for the tiles of a job.

With a block of weights they stay in a second-level cache of 2 MB.
"""


class Parts(NamedTuple):
    """Bytes of a code, and whether the highest is signed."""

    count: int
    signed: bool

    @classmethod
    def of(cls, operand: Operand) -> Parts:
        return cls(blocks_of(operand.bits, 8), operand.signed)


def cost(left: Operand, right: Operand, terms: int, runs: int, outputs: int) -> float:
    """Of a row of the result, in products of int16 codes by `vpdpwssd` that take as long.

    terms: of a sum, which lie in `runs` runs of the left operand.  From measurements on a Xeon of
    the fifth generation."""
    left_parts = Parts.of(left).count
    right_parts = Parts.of(right).count
    steps = blocks_of(terms, STEP)
    wide = terms * left.magnitude * right.magnitude > INT32_MAX
    tiles = steps * left_parts * right_parts * blocks_of(outputs, COLUMNS)
    staging = left_parts * (4 * runs + steps / 2)
    return (tiles + staging) * (1.5 if wide else 1) * STEP * COLUMNS / 8


class Window(NamedTuple):
    """A convolution of (N, height, width, channels) codes."""

    height: int
    width: int
    channels: int
    taps_high: int
    taps_wide: int
    stride: int
    padding: int
    out_height: int
    out_width: int


class Tiling(NamedTuple):
    """Jobs of `tiles` row tiles by one of `shares` of the `blocks` of columns.

    A row of the left operand has `steps` * STEP bytes, those of a part `row_step` apart, and parts
    `part_bytes` apart."""

    left: Parts
    right: Parts
    rows: int
    columns: int
    tiles: int
    shares: int
    blocks: int
    steps: int
    row_step: int
    part_bytes: int

    @classmethod
    def of(cls, left: Parts, right: Parts, rows: int, columns: int, terms: int) -> Tiling:
        steps = blocks_of(terms, STEP)
        blocks = blocks_of(columns, COLUMNS)
        row_step = STEP * (steps | 1)  # no multiple of a power of two, for the sake of the cache
        tiles = max(
            1,
            min(
                MOST_TILES,
                blocks_of(rows, ROWS) // JOBS,
                PANEL_BYTES // (left.count * ROWS * row_step),
            ),
        )
        shares = min(blocks, blocks_of(JOBS, max(1, blocks_of(rows, ROWS * tiles))))
        return cls(
            left,
            right,
            rows,
            columns,
            tiles,
            shares,
            blocks,
            steps,
            row_step,
            tiles * ROWS * row_step,
        )

    @property
    def whole(self) -> bool:
        """Whether all tiles are."""
        return self.rows % ROWS == self.columns % COLUMNS == 0

    @property
    def single(self) -> bool:
        """Whether codes are single bytes."""
        return self.left.count == self.right.count == 1

    @property
    def jobs(self) -> int:
        return blocks_of(self.rows, ROWS * self.tiles) * self.shares


def _pack(weight: np.ndarray, tiling: Tiling) -> np.ndarray:
    """(parts, blocks, words, COLUMNS, 4) bytes of a (terms, O) weight, zeros where it has no
    codes.
    """
    packed = memory.empty(
        (tiling.right.count, tiling.blocks, tiling.steps * STEP // 4, COLUMNS, 4), np.uint8
    )
    parallel_for(
        _pack_words,
        packed.shape[2],
        GRAIN // (4 * COLUMNS * tiling.blocks) + 1,
        np.ascontiguousarray(weight),
        packed,
    )
    return packed


@jit
def _pack_words(start, stop, weight, packed):
    parts, blocks, words = packed.shape[:3]
    terms, outputs = weight.shape
    flat = weight.reshape(-1)
    flat_packed = packed.reshape(-1)
    whole = outputs - outputs % SIDE
    for word in range(start, stop):
        rows = 4 if 4 * word + 4 <= terms else 0
        for part in range(parts):
            for output in range(0, whole if rows else 0, SIDE):
                to = (
                    ((part * blocks + output // COLUMNS) * words + word) * COLUMNS
                    + output % COLUMNS
                ) * 4
                pack_words(flat, 4 * word * outputs + output, outputs, 8 * part, flat_packed, to)
            for output in range(whole if rows else 0, blocks * COLUMNS):
                for term in range(4):
                    row = 4 * word + term
                    column = output % COLUMNS
                    code = (
                        np.int64(weight[row, output]) >> (8 * part)
                        if row < terms and output < outputs
                        else 0
                    )
                    packed[part, output // COLUMNS, word, column, term] = code & 255


def gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray, **options) -> None:
    """out (M, N) = epilogue(a (M, K) times b (K, N)); keywords of `convolve`."""
    convolve(a[None, None], b[None, None], 1, 0, out[None, None], **options)


def dilated(grad: np.ndarray, stride: int) -> np.ndarray:
    """(N, H, W, C) codes `stride` apart, zeros between: an input gradient is the convolution of it
    with rotated weights.

    Its stride is 1, and its padding the taps less 1 less the padding, which may be negative.
    """
    if stride == 1:
        return grad
    images, height, width, channels = grad.shape
    apart = np.zeros(
        (images, (height - 1) * stride + 1, (width - 1) * stride + 1, channels), grad.dtype
    )
    apart[:, ::stride, ::stride] = grad
    return apart


def convolve(
    x: np.ndarray,
    weight: np.ndarray,
    stride: int,
    padding: int,
    out: np.ndarray,
    *,
    left: Operand,
    right: Operand,
    epilogue: Epilogue = RAW,
    bias: np.ndarray | None = None,
    mask: np.ndarray = NO_MASK,
    counts: np.ndarray | None = None,
    moments: np.ndarray | None = None,
) -> None:
    """`conv.conv_forward` of (KH, KW, C, O) weights; left, right: what codes x and weight have, of
    at most 16 bits.

    out and mask: C-contiguous.
    """
    for name, codes, operand in (("x", x, left), ("weight", weight, right)):
        if operand.bits > min(MOST_BITS, 8 * codes.itemsize):
            raise ValueError(
                f"{name} of {operand.bits} bits in {codes.dtype}: products of bytes take at most "
                f"{MOST_BITS}, in "
                "a type that holds them; take another kernel path"
            )
    if not processor_has_tiles():  # asks for them, too
        raise RuntimeError(
            "this process has no matrix registers of bytes (AMX); take another kernel path"
        )
    *taps, channels, outputs = weight.shape
    terms = weight.size // outputs
    rows = out.size // outputs
    fits = _fits_int32(
        weight, left, right, epilogue, 0 if bias is None else largest_magnitude(bias)
    )
    tiling = Tiling.of(Parts.of(left), Parts.of(right), rows, outputs, terms)
    window = Window(*x.shape[1:], *taps, stride, padding, *out.shape[1:3])
    raw = (
        fits
        and epilogue == RAW
        and bias is None
        and not mask.size
        and out.dtype == np.int32
        and tiling.whole
        and tiling.single
    )
    bias = padded_bias(bias, outputs)
    fused = moments is not None and fits and out.dtype == np.int16
    job_counts = np.zeros((tiling.jobs, 3), np.int64)
    job_moments = np.zeros((tiling.jobs, 2 * bias.size if fused else 0), np.int64)
    products = rows * terms * tiling.blocks * COLUMNS
    element, whole = (np.int32, epilogue.in_int32()) if fits else (np.int64, epilogue)
    packed = _pack(weight.reshape(terms, outputs), tiling)
    parallel_for(
        _multiply_raw if raw else _multiply,
        tiling.jobs,
        grain(tiling.jobs, products),
        np.ascontiguousarray(x).reshape(-1),
        window,
        packed,
        tiling,
        CONFIGURATION,
        bias.astype(element),
        whole,
        Outputs(out.reshape(-1), mask.reshape(-1), job_counts, job_moments),
    )
    if counts is not None:
        counts += job_counts.sum(axis=0)
    if moments is not None:
        moments[:] = sum_of_jobs(job_moments, outputs) if fused else channel_moments(out, out)


def _fits_int32(weight, left: Operand, right: Operand, epilogue: Epilogue, bias_bound: int) -> bool:
    """Whether int32 holds the sums and all arithmetic of the epilogue.

    By the widths, or by these weights.
    """

    def fits(column: int) -> bool:
        bound = left.magnitude * column
        return bound <= INT32_MAX and epilogue.fits_int32(bound, bias_bound)

    outputs = weight.shape[-1]
    most = weight.size // outputs * right.magnitude
    if fits(most):
        return True
    sums = np.zeros(outputs, np.int32 if most <= INT32_MAX else np.int64)
    add_columns(np.ascontiguousarray(weight).reshape(-1, outputs), sums)
    return fits(int(sums.max()))


@jit
def _stage_rows(codes, shift, window, first, valid, panel, at, row_step):
    """panel[at + row * row_step:] = bytes of what the position first + row of the output reads,
    zeros beyond the border.
    """
    image, pixel = divmod(first, window.out_height * window.out_width)
    y, x = divmod(pixel, window.out_width)
    run = window.taps_wide * window.channels
    for row in range(valid):
        top = y * window.stride - window.padding
        left = x * window.stride - window.padding
        start = max(0, -left)
        end = min(window.taps_wide, window.width - left)
        before = start * window.channels
        behind = (window.taps_wide - end) * window.channels
        to = at + row * row_step
        source = ((image * window.height + top) * window.width + left) * window.channels
        for tap in range(window.taps_high):
            if 0 <= top + tap < window.height and start < end:
                copy_part(codes, source + before, shift, panel, to + before, run - before - behind)
                if before:
                    panel[to : to + before] = 0
                if behind:
                    panel[to + run - behind : to + run] = 0
            else:
                panel[to : to + run] = 0
            to += run
            source += window.width * window.channels
        x += 1
        if x == window.out_width:
            x = 0
            y = y + 1
            if y == window.out_height:
                y = 0
                image = image + 1


@jit
def _stage(codes, window, first, size, panel, tiling):
    """The rows of a job, part by part."""
    for part in range(tiling.left.count):
        _stage_rows(
            codes, 8 * part, window, first, size, panel, part * tiling.part_bytes, tiling.row_step
        )


@jit(inline="always")
def _job(job, tiling):
    """(first row, rows, first block, end of the blocks) of a job."""
    group, share = divmod(job, tiling.shares)
    first = group * tiling.tiles * ROWS
    return (
        first,
        min(tiling.tiles * ROWS, tiling.rows - first),
        tiling.blocks * share // tiling.shares,
        tiling.blocks * (share + 1) // tiling.shares,
    )


@jit(inline="always")
def _multiply_level(
    panel, row, weights, block, tiling, first_step, steps, level, fresh, sums, at, step
):
    """`add_byte_tile` of all pairs of parts that count 2**(8 * level), from the rows after
    `row` and a block of weights.
    """
    left = tiling.left
    right = tiling.right
    first = max(0, level - right.count + 1)
    for part in range(first, min(level, left.count - 1) + 1):
        other = level - part
        signs = LEFT_SIGNED * (left.signed and part == left.count - 1) + RIGHT_SIGNED * (
            right.signed and other == right.count - 1
        )
        left_at = part * tiling.part_bytes + row * tiling.row_step + first_step * STEP
        right_at = ((other * tiling.blocks + block) * tiling.steps + first_step) * STEP * COLUMNS
        add_byte_tile(
            panel,
            left_at,
            tiling.row_step,
            weights,
            right_at,
            steps,
            signs,
            fresh and part == first,
            sums,
            at,
            step,
        )


@jit
def _sum_tile(panel, row, weights, block, tiling, sums, totals):
    """totals = one tile, modulo 2**32 where they are int32; sums: room for one of int32."""
    top = tiling.left.count + tiling.right.count - 2
    if totals.itemsize == 4:
        for level in range(top, -1, -1):
            if level < top:
                for k in range(totals.size):
                    totals[k] <<= 8
            _multiply_level(
                panel,
                row,
                weights,
                block,
                tiling,
                0,
                tiling.steps,
                level,
                level == top,
                totals,
                0,
                COLUMNS,
            )
        return
    totals[:] = 0
    for step in range(0, tiling.steps, CHUNK_STEPS):
        steps = min(CHUNK_STEPS, tiling.steps - step)
        for level in range(top + 1):
            _multiply_level(
                panel, row, weights, block, tiling, step, steps, level, True, sums, 0, COLUMNS
            )
            for k in range(totals.size):
                totals[k] += np.int64(sums[k]) << (8 * level)


@jit
def _multiply(start, stop, codes, window, weights, tiling, configuration, bias, epilogue, outputs):
    """Each job: its tiles, with sums of the type of `bias`."""
    panel = scratch(tiling.left.count * tiling.part_bytes + STEP, np.uint8)
    sums = scratch(ROWS * COLUMNS, np.int32)
    totals = scratch(ROWS * COLUMNS, bias.dtype)
    configure(configuration)
    for job in range(start, stop):
        first, size, first_block, end = _job(job, tiling)
        _stage(codes, window, first, size, panel, tiling)
        places = (first + np.arange(size)) * tiling.columns + first_block * COLUMNS
        own = outputs_of_job(outputs, job)
        for block in range(first_block, end):
            columns = min(COLUMNS, tiling.columns - block * COLUMNS)
            for row in range(0, size, ROWS):
                _sum_tile(panel, row, weights, block, tiling, sums, totals)
                tile = Tile(min(ROWS, size - row), columns, block * COLUMNS)
                finish_tile(totals, tile, bias, epilogue, own, places, row)
            places += COLUMNS
    release()


@jit
def _multiply_raw(
    start, stop, codes, window, weights, tiling, configuration, bias, epilogue, outputs
):
    """Each job: its tiles, all of them whole and of single bytes, whose sums are the result."""
    panel = scratch(tiling.part_bytes + STEP, np.uint8)
    configure(configuration)
    for job in range(start, stop):
        first, size, first_block, end = _job(job, tiling)
        _stage(codes, window, first, size, panel, tiling)
        for block in range(first_block, end):
            for row in range(0, size, ROWS):
                at = (first + row) * tiling.columns + block * COLUMNS
                _multiply_level(
                    panel,
                    row,
                    weights,
                    block,
                    tiling,
                    0,
                    tiling.steps,
                    0,
                    True,
                    outputs.out,
                    at,
                    tiling.columns,
                )
    release()

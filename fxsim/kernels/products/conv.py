"""Convolution as an implicit matrix product: forward, input gradient and weight gradient, exact.

Activations are (N, H, W, C), weights (KH, KW, C, O).  A convolution's row of taps is KW * C
consecutive codes of the padded input, so an output position is one row of the left operand, read in
place: KH runs of KW * C codes.  The input gradient is the same product on the dilated gradient with
flipped weights (see `taps.py`).  A weight gradient sums over images and positions: its left operand
is the input, one row per (tap, input channel), its right operand the output gradient, both with
images 2i and 2i + 1 side by side.  Sums are exact whatever the path, the tiling and the number of
threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.jit import jit
from fxsim.kernels.memory import scratch
from fxsim.kernels.products.finish import (
    Outputs,
    Room,
    finish_tile,
    largest_magnitude,
    outputs_of_job,
    padded_bias,
    store_sums,
)
from fxsim.kernels.products.matmul import (
    PANEL_BYTES,
    Product,
    grain,
    group_tiles,
    multiply_chunks,
    with_spare,
)
from fxsim.kernels.products.packing import pair_images, place
from fxsim.kernels.products.taps import forward_axis, geometry, input_grad_axis
from fxsim.kernels.products.tile import (
    COLUMNS,
    ROWS,
    TILE,
    Halves,
    Tile,
    register_tile,
    wide_tile,
    word_terms,
)
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.kernels.reductions import sum_of_jobs
from fxsim.kernels.threads import parallel_for

NO_MASK = np.empty(0, np.uint8)


class Taps(NamedTuple):
    """Which inputs an output reads: `forward_axis` or `input_grad_axis`, strides and padding at
    top and left, each of (rows, columns).
    """

    axis: Callable
    strides: tuple[int, int]
    before: tuple[int, int]


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a number that stands for both, or of two."""
    return (value, value) if isinstance(value, int) else value


def sides(padding: int | tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a number that stands for all, or of four."""
    return (padding, padding, padding, padding) if isinstance(padding, int) else padding


def conv_forward(
    x: np.ndarray,
    packed: np.ndarray,
    stride: int | tuple[int, int],
    out: np.ndarray,
    *,
    padding: int | tuple[int, int, int, int] = 0,
    **options,
) -> None:
    """out (N, OH, OW, O) = epilogue(convolution of x with zero `padding` + bias).

    x: (N, H, W, C) codes.  packed: `pack_forward_weights` of the (KH, KW, C, O) weights.  out is
    C-contiguous.  Paths other than 'plain' take int16 operands; 'vnni' also uint8 x with int8
    weights.  Keywords: spill_terms: product terms that int32 provably holds.  path: a key of
    `tile.PATHS`. epilogue, bias: without an epilogue `out` gets the sums as they are and no bias,
    and must be int32 or int64 as they need; bias is (O,) integers.  mask: (N, OH, OW, O) uint8.
    counts: (3,) int64, added to. moments: (2, O) int64, becomes the sums of each channel's codes
    and of their squares."""
    top, bottom, left, right = sides(padding)
    if any((top, bottom, left, right)) and x.shape[3] % word_terms(x.dtype):
        # rows of taps are packed as one, so that the border must be there
        x = place(x, x.shape[1] + top + bottom, x.shape[2] + left + right, top, left)
        top = left = 0
    _convolve(Taps(forward_axis, both(stride), (top, left)), x, packed, out, **options)


def conv_input_grad(
    grad: np.ndarray,
    packed: np.ndarray,
    stride: int | tuple[int, int],
    before: int | tuple[int, int],
    out: np.ndarray,
    **options,
) -> None:
    """out (N, H, W, C) = epilogue(gradient of the convolution's input); keywords of `conv_forward`.

    grad: (N, OH, OW, O) codes.  packed: `pack_input_grad_weights` of the (KH, KW, C, O) weights.
    before: padding at top and left.
    """
    _convolve(Taps(input_grad_axis, both(stride), both(before)), grad, packed, out, **options)


def _convolve(
    reads,
    source,
    packed,
    out,
    *,
    spill_terms,
    path,
    epilogue=RAW,
    bias=None,
    mask=NO_MASK,
    counts=None,
    moments=None,
):
    blocks, *taps, words, _, terms = packed.shape
    images = len(out)
    outputs = out.shape[3]
    group = group_tiles(out.size // outputs, blocks)
    tables = geometry(
        reads.axis,
        images,
        source.shape[1:],
        out.shape[1:],
        tuple(taps),
        reads.strides,
        reads.before,
        (words, terms),
        group,
    )
    bias = padded_bias(bias, outputs)
    depth = terms * int(tables.loops[:, :, 0].prod(axis=1).max())
    product = Product.of(
        path, depth, terms, spill_terms, outputs, epilogue, largest_magnitude(bias)
    )
    jobs = len(tables.groups) * blocks
    fused = moments is not None and product.fits_int32 and out.dtype == np.int16
    job_counts = np.zeros((jobs, 3), np.int64)
    job_moments = np.zeros((jobs, 2 * bias.size if fused else 0), np.int64)
    parallel_for(
        _convolve_jobs,
        jobs,
        grain(jobs, out.size // outputs * depth * blocks * COLUMNS),
        with_spare(source, terms),
        source[0].size,
        packed.reshape(blocks, -1),
        tables,
        product,
        bias,
        epilogue.in_int32() if product.fits_int32 else epilogue,
        out.size // max(images, 1),
        Outputs(out.reshape(-1), mask.reshape(-1), job_counts, job_moments),
    )
    if counts is not None:
        counts += job_counts.sum(axis=0)
    if moments is not None:
        moments[:] = sum_of_jobs(job_moments, outputs) if fused else channel_moments(out, out)


def conv_weight_grad(
    x: np.ndarray,
    grad: np.ndarray,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int, int, int],
    out: np.ndarray,
    *,
    spill_terms: int,
    path: str,
    epilogue: Epilogue = RAW,
    counts: np.ndarray | None = None,
) -> None:
    """out (KH, KW, C, O) = epilogue(sum over images and positions of x times grad).

    x: (N, H, W, C) codes before padding.  grad: (N, OH, OW, O) codes, neither of one byte.  The
    rest: as `conv_forward`."""
    left = pair_images(x, x.shape[3], sides(padding))[0]
    right = pair_images(grad, COLUMNS)
    _, images, height, width, _, _ = right.shape
    kernel_height, kernel_width, channels, outputs = out.shape
    down, across = both(stride)
    pixel = 2 * channels
    panel = 2 * COLUMNS
    row = left.shape[2] * pixel
    image_panel = height * width * panel
    rows = (
        np.arange(kernel_height)[:, None] * row + np.arange(kernel_width * channels) * 2
    ).reshape(-1)
    chunk = min(images, max(1, PANEL_BYTES // (image_panel * grad.itemsize)))
    loops = np.array(
        [
            [chunk, left.shape[1] * row, image_panel],
            [height, down * row, width * panel],
            [width, across * pixel, panel],
        ]
    )
    order = np.argsort(loops[:, 0], kind="stable")  # the innermost loop should be long
    depth = 2 * int(loops[:, 0].prod())
    product = Product.of(path, depth, 2, spill_terms, outputs, epilogue)
    multiply_chunks(
        left.reshape(-1),
        right.reshape(len(right), -1),
        rows,
        images,
        loops[order],
        int(np.argmin(order)),
        product,
        epilogue,
        out,
        counts,
    )


@jit
def _fill_offsets(tables, group, source_image, out_image, first_channel, rows, places):
    """Where each position of a group lies in the source and in the output.

    The last is repeated to the end.
    """
    _, first_pixel, pixels, first, size = tables.groups[group]
    image, pixel = divmod(first, pixels)
    done = 0
    while done < size:  # image by image, in loops that run on several lanes
        count = min(size - done, pixels - pixel)
        read = tables.read[first_pixel + pixel :][:count]
        write = tables.write[first_pixel + pixel :][:count]
        source = rows[done : done + count]
        target = places[done : done + count]
        for i in range(count):
            source[i] = image * source_image + read[i]
        for i in range(count):
            target[i] = image * out_image + first_channel + write[i]
        done = done + count
        pixel = 0
        image = image + 1
    rows[size:] = rows[size - 1]
    places[size:] = places[size - 1]


@jit
def _convolve_jobs(
    start,
    stop,
    source,
    source_image,
    weights,
    tables,
    product,
    bias,
    epilogue,
    out_image,
    outputs,
):
    """Each job: a group of positions by one block of output channels."""
    halves = Halves(scratch(TILE, np.int32), scratch(TILE, np.int32))
    total = scratch(TILE, np.int64)
    room = Room(scratch(TILE, np.int64), scratch(TILE, np.uint8))
    flat_weights = weights.reshape(-1)
    narrow_bias = bias.astype(np.int32)
    for job in range(start, stop):
        group, block = divmod(job, product.blocks)
        kind = tables.groups[group, 0]
        size = tables.groups[group, 4]
        column = block * COLUMNS
        columns = min(COLUMNS, product.columns - column)
        rows = np.empty(size + ROWS, np.int64)
        places = np.empty(size + ROWS, np.int64)
        _fill_offsets(tables, group, source_image, out_image, column, rows, places)
        weights_at = block * weights.shape[1] + tables.weights_at[kind]
        loops = tables.loops[kind]
        own = outputs_of_job(outputs, job)
        for at in range(0, size, ROWS):
            tile = Tile(min(ROWS, size - at), columns, column)
            if product.fits_int32:
                register_tile(
                    product.path, source, flat_weights, rows, at, 0, weights_at, loops, halves.low
                )
                finish_tile(halves.low, tile, narrow_bias, epilogue, own, places, at)
            else:
                total[:] = 0
                wide_tile(
                    product.path,
                    source,
                    flat_weights,
                    rows,
                    at,
                    0,
                    weights_at,
                    loops,
                    product.spill_words,
                    tile,
                    halves,
                    total,
                )
                store_sums(product.path, total, tile, bias, epilogue, room, own, places, at)

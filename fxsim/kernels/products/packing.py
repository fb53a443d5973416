"""Operands in the order in which the tiles of `tile.py` read them.

Words of terms, padded with zeros.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import llvm as vectors
from fxsim.kernels import memory
from fxsim.kernels.jit import JIT_DISABLED, jit
from fxsim.kernels.llvm import I64
from fxsim.kernels.products.tile import COLUMNS, word_terms
from fxsim.kernels.threads import parallel_for

PAIR = 2


def blocks_of(size: int, block: int) -> int:
    """Blocks of `block` that cover `size`."""
    return -(-size // block)


LEAST_PIECE = 1 << 19
"""Bytes below which a second thread does not pay.

What one thread packs is far from the caches of the other.
"""


def _grain(packed: np.ndarray, jobs: int) -> int:
    """Least jobs per piece where `jobs` write all of `packed`."""
    return LEAST_PIECE * jobs // packed.nbytes + 1


def pack_forward_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (O blocks, KH, KW, words of C, COLUMNS, terms), a convolution's right
    operand.

    If C is no multiple of the terms of a word, a whole row of taps is packed as one:
    (O blocks, KH, 1, words of KW * C, COLUMNS, terms).
    """
    height, width, channels, outputs = codes.shape
    merged = (
        (height, 1, width * channels)
        if channels % word_terms(codes.dtype)
        else (height, width, channels)
    )
    starts = np.arange(height * width * channels, dtype=np.int64).reshape(merged) * outputs
    return _pack_rows(codes, starts, 1, outputs, word_terms(codes.dtype))


def pack_input_grad_weights(codes: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) codes as (C blocks, KH, KW, words of O, COLUMNS, terms), taps flipped, for
    an input gradient.
    """
    height, width, channels, outputs = codes.shape
    taps = (
        np.arange(height * width, dtype=np.int64)[::-1].reshape(height, width, 1)
        * channels
        * outputs
    )
    if codes.itemsize == 2 and outputs % PAIR == 0:  # a word is one number
        words = np.ascontiguousarray(codes).view(np.int32)
        packed = _pack_rows(
            words, taps // PAIR + np.arange(outputs // PAIR), outputs // PAIR, channels, 1
        )
        return packed.view(np.int16).reshape(*packed.shape[:-1], PAIR)
    return _pack_rows(codes, taps + np.arange(outputs), outputs, channels, word_terms(codes.dtype))


def rotated(weight: np.ndarray) -> np.ndarray:
    """The (K, K, O, C) weights with which an input gradient is a convolution, whose padding is
    K - 1 - padding.
    """
    height, width, channels, outputs = weight.shape
    turned = memory.empty((height, width, outputs, channels), weight.dtype)
    jobs = height * width * blocks_of(channels, LANES)
    parallel_for(
        _rotate,
        jobs,
        _grain(turned, jobs),
        np.ascontiguousarray(weight).reshape(-1, channels, outputs),
        turned.reshape(-1, outputs, channels),
    )
    return turned


@jit
def _rotate(start, stop, weight, turned):
    """turned[last - tap, o, c] = weight[tap, c, o]; each job: LANES channels of a tap."""
    taps, channels, outputs = weight.shape
    source = weight.reshape(-1)
    target = turned.reshape(-1)
    blocks = -(-channels // LANES)
    for job in range(start, stop):
        tap = job // blocks
        first = job % blocks * LANES
        place = taps - 1 - tap
        whole = 0
        if not JIT_DISABLED and first + LANES <= channels:
            whole = outputs - outputs % LANES
        for o in range(0, whole, LANES):
            transpose_square(
                source,
                (tap * channels + first) * outputs + o,
                outputs,
                target,
                (place * outputs + o) * channels + first,
                channels,
            )
        for o in range(whole, outputs):
            for c in range(first, min(channels, first + LANES)):
                turned[place, o, c] = weight[tap, c, o]


def _pack_rows(codes, starts, step, columns, terms):
    height, width, depth = starts.shape
    shape = (blocks_of(columns, COLUMNS), height, width, blocks_of(depth, terms), COLUMNS, terms)
    packed = memory.empty(shape, codes.dtype)
    jobs = packed.shape[0] * height * width
    parallel_for(
        _pack_weights,
        jobs,
        _grain(packed, jobs),
        np.ascontiguousarray(codes).reshape(-1),
        starts.reshape(-1, depth),
        step,
        columns,
        packed.reshape(packed.shape[0], -1, *packed.shape[3:]),
    )
    return packed


@jit
def _pack_weights(start, stop, codes, starts, step, columns, packed):
    """packed[block, tap, word, o, t] = codes[starts[tap, word * terms + t] + (COLUMNS * block +
    o) * step].
    """
    for job in range(start, stop):
        block = job // packed.shape[1]
        tap = job % packed.shape[1]
        _pack_tap(codes, starts[tap], step, block * COLUMNS, columns, packed[block, tap])


@jit
def _pack_tap(codes, starts, step, first, columns, packed):
    terms = packed.shape[2]
    valid = min(COLUMNS, columns - first)
    if valid < COLUMNS or starts.size % terms:
        packed[:] = 0
    whole = starts.size // terms if step == 1 < terms else 0
    ahead = 0 if JIT_DISABLED else whole - WORDS_AHEAD
    for word in range(whole):
        if word < ahead:
            for term in range(terms):
                prefetch_run(codes, starts[(word + WORDS_AHEAD) * terms + term] + first)
        _interleave(
            codes,
            starts[word * terms : (word + 1) * terms] + first,
            valid,
            packed[word].reshape(-1),
        )
    squares = 0
    across = 0
    if (
        terms == 1 and not JIT_DISABLED
    ):  # a word is one number, and those of an output lie side by side
        squares = starts.size - starts.size % LANES
        across = valid - valid % LANES
        for k in range(0, squares, LANES):
            for o in range(0, across, LANES):
                transpose_square(
                    codes,
                    starts[k] + (first + o) * step,
                    step,
                    packed.reshape(-1),
                    k * COLUMNS + o,
                    COLUMNS,
                )
    for k in range(whole * terms, starts.size):
        source = codes[starts[k] + first * step :: step]
        column = packed[k // terms, :, k % terms]
        for o in range(across if k < squares else 0, valid):
            column[o] = source[o]


@jit(inline="always")
def _interleave(codes, starts, valid, packed):
    """packed[terms * o + t] = codes[starts[t] + o], in one run for all terms of the word."""
    terms = starts.size
    whole = 0 if JIT_DISABLED else valid - valid % LANES
    if whole and terms == 2:
        interleave_two(codes, starts[0], starts[1], whole, packed)
    elif whole:
        interleave_four(codes, starts[0], starts[1], starts[2], starts[3], whole, packed)
    for o in range(whole, valid):
        for term in range(terms):
            packed[terms * o + term] = codes[starts[term] + o]


LANES = 16
WORDS_AHEAD = 8
"""Rows of a matrix are far apart, so that the processor does not foresee the next ones itself."""


def _make_interleave(terms: int):
    """The emitter of an intrinsic that puts `terms` runs of `length` codes, a multiple of
    LANES, side by side.
    """

    def emit(context, builder, signature, args):
        names = "codes " + " ".join(f"at_{term}" for term in range(terms)) + " length target"
        arguments = vectors.Arguments(context, builder, signature, args, names)
        codes = arguments.data("codes")
        target = arguments.data("target")
        vector = ir.VectorType(arguments.element("codes"), LANES)
        with cgutils.for_range_slice(builder, I64(0), arguments.length, I64(LANES), inc=True) as (
            first,
            _,
        ):
            runs = [
                vectors.load(
                    builder, codes, builder.add(getattr(arguments, f"at_{term}"), first), vector
                )
                for term in range(terms)
            ]
            while len(runs) > 1:
                half = len(runs) // 2
                runs = [
                    vectors.interleaved(builder, *pair) for pair in zip(runs[:half], runs[half:])
                ]
            vectors.store(builder, runs[0], target, builder.mul(first, I64(terms)))
        return context.get_dummy_value()

    return emit


@intrinsic
def transpose_square(typing_context, codes, at, step, target, to, to_step):
    """target[to + k * to_step + o] = codes[at + o * step + k] for LANES of each k and o.

    Rows i and i + LANES / 2, lane by lane side by side, become rows 2 i and 2 i + 1: as often as
    halves LANES, a transposition."""

    def emit(context, builder, signature, args):
        arguments = vectors.Arguments(
            context, builder, signature, args, "codes at step target to to_step"
        )
        vector = ir.VectorType(arguments.element("codes"), LANES)
        places = [
            builder.add(arguments.at, builder.mul(I64(o), arguments.step)) for o in range(LANES)
        ]
        rows = [vectors.load(builder, arguments.data("codes"), place, vector) for place in places]
        for _ in range(LANES.bit_length() - 1):
            pairs = [
                vectors.interleaved(builder, *pair)
                for pair in zip(rows[: LANES // 2], rows[LANES // 2 :])
            ]
            rows = [vectors.half(builder, pair, which) for pair in pairs for which in (0, 1)]
        for k, row in enumerate(rows):
            to = builder.add(arguments.to, builder.mul(I64(k), arguments.to_step))
            vectors.store(builder, row, arguments.data("target"), to)
        return context.get_dummy_value()

    return types.void(codes, *(types.int64,) * 2, target, *(types.int64,) * 2), emit


@intrinsic
def prefetch_run(typing_context, codes, at):
    """Ask for the COLUMNS codes from `at` on."""

    def emit(context, builder, signature, args):
        arguments = vectors.Arguments(context, builder, signature, args, "codes at")
        for start in range(0, COLUMNS, 64 // (arguments.element("codes").width // 8)):
            vectors.prefetch(
                builder, arguments.data("codes"), builder.add(arguments.at, I64(start))
            )
        return context.get_dummy_value()

    return types.void(codes, types.int64), emit


@intrinsic
def interleave_two(typing_context, codes, at_0, at_1, length, target):
    """target[2 * i + t] = codes[at_t + i]."""
    return types.void(codes, *(types.int64,) * 3, target), _make_interleave(2)


@intrinsic
def interleave_four(typing_context, codes, at_0, at_1, at_2, at_3, length, target):
    """target[4 * i + t] = codes[at_t + i]."""
    return types.void(codes, *(types.int64,) * 5, target), _make_interleave(4)


def place(codes: np.ndarray, height: int, width: int, top: int, left: int) -> np.ndarray:
    """(N, height, width, C) zeros with codes[n, y, x] at (top + y, left + x).

    Zero padding as a copy.
    """
    images, rows, columns, channels = codes.shape
    placed = np.zeros((images, height, width, channels), codes.dtype)
    placed[:, top : top + rows, left : left + columns] = codes
    return placed


def pair_images(
    codes: np.ndarray, block: int, padding: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> np.ndarray:
    """(C blocks, ceil(N / 2), H + top + bottom, W + left + right, block, 2): images 2i and 2i + 1
    side by side.  padding: zeros at (top, bottom, left, right).

    Zeros stand for the border, for channels beyond C and for the image beyond an odd N.
    """
    images, height, width, channels = codes.shape
    shape = (
        blocks_of(channels, block),
        blocks_of(images, PAIR),
        height + padding[0] + padding[1],
        width + padding[2] + padding[3],
    )
    paired = memory.empty((*shape, block, PAIR), codes.dtype)
    jobs = shape[0] * shape[1]
    parallel_for(_pair_images, jobs, _grain(paired, jobs), codes, padding[0], padding[2], paired)
    return paired


@jit
def _pair_images(start, stop, codes, top, left, paired):
    blocks, pairs, rows, columns, block, _ = paired.shape
    images, height, width, channels = codes.shape
    flat = codes.reshape(-1)
    flat_paired = paired.reshape(-1)
    starts = np.empty(PAIR, np.int64)
    pixels = width if block == channels else 1  # that lie side by side in both
    bordered = rows != height or columns != width
    for job in range(start, stop):
        part = job % blocks
        pair = job // blocks
        first = part * block
        length = pixels * min(block, channels - part * block)
        single = PAIR * pair == images - 1
        if bordered or single or length < pixels * block:
            paired[part, pair] = 0
        for y in range(height):
            for x in range(0, width, pixels):
                starts[0] = ((PAIR * pair * height + y) * width + x) * channels + first
                starts[1] = starts[0] + height * width * channels
                at = (((part * pairs + pair) * rows + y + top) * columns + x + left) * block * PAIR
                if single:
                    for c in range(length):
                        flat_paired[at + PAIR * c] = flat[starts[0] + c]
                else:
                    _interleave(flat, starts, length, flat_paired[at : at + PAIR * length])

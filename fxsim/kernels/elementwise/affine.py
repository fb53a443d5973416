"""What is done to whole tensors with numbers of their channels: sums of each, and linear
combinations with an epilogue.

Tensors are C-contiguous (..., O) codes.

A sum v = first * x + second * y + constant of int16 codes is worked out in two words of int32 where
one cannot hold it. With s = SPLIT = 15, every constant c is c_1 * 2**s + c_0, 0 <= c_0 < 2**s, and

    w = first_0 * x + second_0 * y + constant_0          |w| <= 2 * (2**s - 1) * 2**15 + 2**s - 1 < 2**31
    h = first_1 * x + second_1 * y + constant_1 + (w >> s) = v >> s,              modulo 2**32, exact where |v| < 2**46

The low s bits of v only say whether v is above h * 2**s: `h | (low bits are not all 0)`, to be
shifted by s bits less, rounds to the same code in every mode where two or more bits are dropped of
it, has v's sign, is 0 where v is, and below an even bound where v is below 2**s times as much.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fxsim.kernels import llvm as vectors
from fxsim.kernels.elementwise.pool import max_pool_row
from fxsim.kernels.epilogue import GENERAL, KINDS, Epilogue, Finish, emit_kinds
from fxsim.kernels.jit import JIT_DISABLED, jit
from fxsim.kernels.llvm import I32, I64
from fxsim.kernels.memory import scratch
from fxsim.kernels.rounding import ABOVE, BELOW, FLUSHED
from fxsim.kernels.threads import GRAIN, parallel_for

BLOCK = 1 << 15
"""Elements of a job of `combine`, about."""
SPLIT = 15
LANES = 16
"""Channels that `combine` takes at once."""


class Constants(NamedTuple):
    """numbers: first, second and constant of each channel, (3, words, O) int32 or (3, 1, O)
    int64; the epilogue of sums.
    """

    numbers: np.ndarray
    epilogue: Epilogue

    @classmethod
    def of(
        cls,
        numbers: np.ndarray,
        bound: int,
        epilogue: Epilogue,
        epilogue_of_high_word: Epilogue | None,
        narrow: bool,
    ) -> Constants:
        """In the fewest bits that hold every intermediate, from (3, O) int64 and what no sum
        exceeds in magnitude.

        epilogue_of_high_word: the same requantization for sums of SPLIT bits less, if there is one.
        narrow: codes are int16."""
        if epilogue.fits_int32(bound, 0):
            return cls(numbers[:, None].astype(np.int32), epilogue.in_int32())
        high = epilogue_of_high_word
        if (
            narrow
            and high
            and high.shift >= 2
            and high.relu_bound > 1
            and high.fits_int32((bound >> SPLIT) + 2, 0)
        ):
            words = np.empty((3, 2, numbers.shape[1]), np.int32)
            words[:, 0] = numbers & (2**SPLIT - 1)
            words[:, 1] = numbers >> SPLIT
            return cls(words, high.in_int32())
        return cls(numbers[:, None], epilogue)


def combine(
    x: np.ndarray,
    y: np.ndarray | None,
    constants: Constants,
    out: np.ndarray,
    mask: np.ndarray | None,
) -> np.ndarray:
    """out = epilogue(first * x + second * y + constant); returns the counts (3,).

    y: a tensor of x's shape, or None for 0.  mask: uint8, 1 where 0 < sum < epilogue.relu_bound, or
    None."""
    fold = _fold(x.shape[-1])
    plain = JIT_DISABLED or x.size // x.shape[-1] % fold
    channels, numbers = _folded(constants, x.shape[-1], 1 if plain else fold)
    jobs = -(-x.size // _job(channels))
    counts = np.zeros((jobs, 3), np.int64)
    y = np.empty(0, x.dtype) if y is None else y.reshape(-1)
    mask = np.empty(0, np.uint8) if mask is None else mask.reshape(-1)
    parallel_for(
        _combine_plainly if plain else _combine,
        jobs,
        GRAIN // BLOCK,
        x.reshape(-1),
        y,
        channels,
        numbers.reshape(-1),
        constants.epilogue,
        out.reshape(-1),
        mask,
        counts,
    )
    return counts.sum(axis=0)


def combine_and_pool(
    x: np.ndarray,
    y: np.ndarray | None,
    constants: Constants,
    size: int,
    out: np.ndarray,
    winner: np.ndarray,
) -> np.ndarray | None:
    """`combine` of (N, H, W, C) codes, then `pool.max_pool`, with nothing in memory between;
    returns the counts (3,).

    None where the loops do not take the shape: do both, one after the other.
    """
    images, height, width, channels = x.shape
    fold = _fold(channels)
    if JIT_DISABLED or width * size % fold or height % size * width % fold:
        return None
    channels, numbers = _folded(constants, channels, fold)
    counts = np.zeros((images, 3), np.int64)
    y = np.empty(0, x.dtype) if y is None else y.reshape(-1)
    parallel_for(
        _combine_and_pool,
        images,
        1 + GRAIN * images // max(x.size, 1),
        np.ascontiguousarray(x),
        y,
        channels,
        numbers.reshape(-1),
        constants.epilogue,
        size,
        out,
        winner,
        counts,
    )
    return counts.sum(axis=0)


def _fold(channels: int) -> int:
    """Positions of which all channels together fill registers."""
    return LANES // gcd(channels, LANES)


def _folded(constants: Constants, channels: int, fold: int) -> tuple[int, np.ndarray]:
    """(channels, numbers) of `fold` positions at once."""
    return channels * fold, constants.numbers if fold == 1 else np.tile(constants.numbers, fold)


def _job(channels: int) -> int:
    return channels * max(1, BLOCK // channels)


_job_size = jit(_job)


@jit
def _combine(start, stop, x, y, channels, numbers, epilogue, out, mask, counts):
    for job in range(start, stop):
        begin = job * _job_size(channels)
        finish_channels(
            begin,
            min(begin + _job_size(channels), x.size),
            x,
            y,
            channels,
            numbers,
            epilogue,
            out,
            mask,
            counts[job],
        )


@jit
def _combine_and_pool(start, stop, x, y, channels, numbers, epilogue, size, out, winner, counts):
    """Each job: an image, row of windows by row of windows, and what belongs to no window, for
    its counts.
    """
    height, width, depth = x.shape[1:]
    strip = size * width * depth
    row = width * depth
    codes = scratch(strip, out.dtype)
    mask = scratch(strip, np.uint8)
    flat = x.reshape(-1)
    for n in range(start, stop):
        for top in range(0, height, size):
            begin = (n * height + top) * row
            end = (n * height + min(top + size, height)) * row
            finish_channels(
                0,
                end - begin,
                flat[begin:end],
                y[begin:end],
                channels,
                numbers,
                epilogue,
                codes,
                mask,
                counts[n],
            )
            if top + size <= height:
                max_pool_row(
                    codes.reshape(size, width, depth),
                    size,
                    out[n, top // size],
                    winner[n, top // size],
                    mask.reshape(size, width, depth),
                )


@jit
def _combine_plainly(start, stop, x, y, channels, numbers, epilogue, out, mask, counts):
    """`_combine` in a loop that needs no LLVM IR; constants of two words are put together again."""
    words = numbers.size // (3 * channels)
    shift = SPLIT * (words - 1)
    second = words * channels
    constant = 2 * words * channels
    for job in range(start, stop):
        begin = job * _job_size(channels)
        for i in range(begin, min(begin + _job_size(channels), x.size)):
            value = np.int64(0)
            channel = i % channels
            for word in range(words):
                k = word * channels + channel
                part = np.int64(numbers[k]) * x[i] + np.int64(numbers[constant + k])
                if y.size:
                    part += np.int64(numbers[second + k]) * y[i]
                value += part << word * shift
            value = (value >> shift) | ((value & ((1 << shift) - 1)) != 0)
            if mask.size:
                mask[i] = (value > 0) & (value < epilogue.relu_bound)
            value = max(value, epilogue.floor)
            carry = (
                epilogue.base
                + epilogue.neg * (value < 0)
                + epilogue.odd * ((value >> epilogue.shift) & 1)
            )
            code = ((value + carry) >> epilogue.shift) | epilogue.jam
            counts[job, BELOW] += code < epilogue.low
            counts[job, ABOVE] += code > epilogue.high
            counts[job, FLUSHED] += (code == 0) & (value != 0)
            out[i] = min(max(code, epilogue.low), epilogue.high)


class _ChannelSums:
    """Emits first * x + second * y + constant of one vector of channels, in `words` words, for
    `finish`.
    """

    def __init__(self, finish, words):
        self.builder = finish.builder
        self.arguments = finish.arguments
        self.vector = finish.vector
        self.finish = finish
        self.words = words
        self.pointers = {name: self.arguments.data(name) for name in ("x", "y", "numbers")}

    def _codes(self, name, place):
        vector = ir.VectorType(self.arguments.element(name), self.vector.count)
        codes = vectors.load(self.builder, self.pointers[name], place, vector)
        return vectors.resized(self.builder, codes, self.vector.element)

    def _numbers(self, which, channel, word):
        builder = self.builder
        place = builder.add(
            channel, builder.mul(I64(which * self.words + word), self.arguments.channels)
        )
        return vectors.load(builder, self.pointers["numbers"], place, self.vector)

    def emit(self, place, channel, has_y):
        builder = self.builder
        codes = [self._codes(name, place) for name in ("x", "y")[: 1 + has_y]]
        sums = []
        for word in range(self.words):
            total = self._numbers(2, channel, word)
            for which, operand in enumerate(codes):
                total = builder.add(
                    total, builder.mul(operand, self._numbers(which, channel, word))
                )
            sums.append(total)
        sums = [vectors.Value(builder, total) for total in sums]
        if self.words == 1:
            return sums[0]
        low, high = sums
        high = high + (low >> SPLIT)
        rest = low & (2**SPLIT - 1)
        return high | self.finish.at_most_one(rest)


def _emit_finish_channels(context, builder, signature, args):
    arguments = vectors.Arguments(
        context,
        builder,
        signature,
        args,
        "start stop x y channels numbers epilogue out mask counts",
    )
    element = arguments.element("numbers")

    def loop(has_y, words):
        emit_kinds(
            builder,
            arguments,
            lambda kind: one_loop(has_y, words, kind),
            KINDS if element == I32 else GENERAL,
        )

    def one_loop(has_y, words, kind):
        finish = Finish(builder, arguments, element, kind)
        sums = _ChannelSums(finish, words)
        channel = vectors.slot(builder, I64(0))
        with cgutils.for_range_slice(
            builder, arguments.start, arguments.stop, I64(finish.lanes), inc=True
        ) as (place, _):
            finish.finish(sums.emit(place, builder.load(channel), has_y), place)
            after = builder.add(builder.load(channel), I64(finish.lanes))
            again = builder.icmp_signed("==", after, arguments.channels)
            builder.store(builder.select(again, I64(0), after), channel)
        finish.add_counts()

    def either(condition, when_true, when_false):
        with builder.if_else(condition) as (one, other):
            with one:
                when_true()
            with other:
                when_false()

    def words_of(has_y):
        if element == I32:
            two = builder.icmp_signed(
                ">", arguments.size("numbers"), builder.mul(arguments.channels, I64(3))
            )
            either(two, lambda: loop(has_y, 2), lambda: loop(has_y, 1))
        else:
            loop(has_y, 1)

    either(
        builder.icmp_signed(">", arguments.size("y"), I64(0)),
        lambda: words_of(True),
        lambda: words_of(False),
    )
    return context.get_dummy_value()


@intrinsic
def finish_channels(
    typing_context, start, stop, x, y, channels, numbers, epilogue, out, mask, counts
):
    """`combine` of the flat elements from `start`, the first of a position, to `stop`.

    Channels: a multiple of LANES.
    """
    arguments = (types.int64, types.int64, x, y, types.int64, numbers, epilogue, out, mask, counts)
    return types.void(*arguments), _emit_finish_channels

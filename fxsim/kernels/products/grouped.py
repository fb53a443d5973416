"""Convolutions in groups, a depthwise one among them: one lane of a register for each output.

Outputs of a group read the channels of that group alone, so that a sum has few terms, and a register
tile of all channels would multiply zeros.  Here each image is laid out once, with its padding, so
that what the outputs of a row read by one tap is one run of codes: *lane* i of the run belongs to
output i of the row, and is multiplied with a weight of its own.  An image has a *plane* for each
channel of a group (of a depthwise convolution: one); columns that a stride skips lie behind each
other.

A sum is `sum over t of left[left_at + lefts[t] + i] * right[right_at + rights[t] + i]`:

    product      term                      left                   right
    forward      (plane, row, column)      images                 weights
    input_grad   (plane, row, column)      gradients, spread out  weights
    weight_grad  (row, block of columns)   images                 gradients

Weights, biases and sums of a row repeat after `period` lanes, the least whole blocks of whole
positions.  Sums are in int32 where it holds all terms, `terms * max|left| * max|right| <= 2^31 - 1`,
else in int64, which the plan proves to hold them.  They are exact, whatever the path and the number
of threads.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from fxsim.kernels import llvm as vectors
from fxsim.kernels.epilogue import RAW
from fxsim.kernels.jit import OPTIONS, jit
from fxsim.kernels.llvm import I32, I64
from fxsim.kernels.memory import empty, scratch
from fxsim.kernels.products.finish import (
    Outputs,
    Room,
    largest_magnitude,
    outputs_of_job,
    store_sums,
)
from fxsim.kernels.products.matmul import Product, grain
from fxsim.kernels.products.tile import (
    COLUMNS,
    PATHS,
    REGISTERS,
    Plain,
    Tile,
    processor_has,
)
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.kernels.threads import parallel_for

I16 = ir.IntType(16)
NO_MASK = np.empty(0, np.uint8)
GROUP_ROWS = 64
"""Rows of a job, about: enough to share the cost of an epilogue."""
MOST_ROWS = 256
"""Rows of a tile; an epilogue's moments hold as many."""
JOBS = 32
"""Parts of a weight gradient, which have sums of their own."""


class Shape(NamedTuple):
    """A convolution in groups: the sizes of its images, fields of (rows, columns), and groups."""

    image: tuple[int, int]
    channels: int
    outputs: int
    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    positions: tuple[int, int]
    groups: int

    @property
    def depth(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def width(self) -> int:
        """Outputs of a group."""
        return self.outputs // self.groups


class Layout(NamedTuple):
    """How an image is laid out.

    channel_of (planes, lanes): the channel that each lane of a position reads.  columns: where
    each column starts in a line.  first: lines above those of the image.  lines: of a plane.
    line: codes of one.  own: whether lane c reads channel c.  side_by_side: whether the columns are.
    """

    channel_of: np.ndarray
    columns: np.ndarray
    first: int
    lines: int
    line: int
    own: bool
    side_by_side: bool


class Rows(NamedTuple):
    """The rows of outputs of an image, by kinds that read other taps.

    terms (kinds,): taps of each, an even number; the
    last may be one of weight 0.  reads, uses (kinds, terms): where a tap lies in the image, and
    which weights it has.  starts, places (kinds, rows): where a row starts in the image and in the
    output.  counts (kinds,): rows of each.
    """

    terms: np.ndarray
    reads: np.ndarray
    uses: np.ndarray
    starts: np.ndarray
    places: np.ndarray
    counts: np.ndarray


class Sums(NamedTuple):
    """Sums of a job.

    path: by which they are added.  finish: by which they are stored.  row, period: lanes of a row,
    and those after which weights repeat.  group, images: images of a job, and all.
    """

    path: tuple
    finish: tuple
    row: int
    period: int
    group: int
    images: int


@functools.lru_cache(maxsize=256)
def _forward_layout(shape: Shape) -> Layout:
    """Of the images, for a forward product or a weight gradient."""
    top, bottom, left, right = shape.padding
    lanes = shape.outputs
    across = shape.stride[1]
    columns = np.arange(shape.image[1]) + left
    phase = -(-(shape.image[1] + left + right) // across) * lanes
    group = np.arange(lanes) // shape.width * shape.depth
    return Layout(
        np.arange(shape.depth)[:, None] + group,
        columns % across * phase + columns // across * lanes,
        top,
        top + shape.image[0] + bottom,
        across * phase,
        shape.depth == shape.width == 1,
        across == 1,
    )


def _forward_reads(shape: Shape, layout: Layout) -> np.ndarray:
    """(planes, KH, KW) offsets of the taps from where a row starts."""
    plane = np.arange(shape.depth) * layout.lines
    row = np.arange(shape.size[0]) * shape.dilation[0]
    column = np.arange(shape.size[1]) * shape.dilation[1]
    across = shape.stride[1]
    phase = layout.line // across
    lines = np.add.outer(plane, row) * layout.line
    return np.add.outer(lines, column % across * phase + column // across * shape.outputs)


def _even(terms: int) -> int:
    return terms + terms % 2


@functools.lru_cache(maxsize=256)
def _forward_rows(shape: Shape) -> Rows:
    layout = _forward_layout(shape)
    reads = _forward_reads(shape, layout).reshape(1, -1)
    row = np.arange(shape.positions[0])[None]
    return Rows(
        np.array([_even(reads.size)]),
        np.append(reads, np.zeros((1, reads.size % 2), np.int64), axis=1),
        np.arange(_even(reads.size))[None],
        row * shape.stride[0] * layout.line,
        row * shape.positions[1] * shape.outputs,
        np.array([row.size]),
    )


@functools.lru_cache(maxsize=256)
def _input_grad_layout(shape: Shape) -> Layout:
    """Of the gradients, with zeros between the columns where the stride is greater than 1."""
    top, _, left, _ = shape.padding
    lanes = shape.channels
    down, across = shape.stride
    reach = [step * (taps - 1) for taps, step in zip(shape.size, shape.dilation)]
    first = max(0, -((top - reach[0]) // down))
    last = max(shape.positions[0] - 1, (shape.image[0] - 1 + top) // down)
    before = max(0, reach[1] - left)
    width = before + max(left + shape.image[1], (shape.positions[1] - 1) * across + 1)
    group = np.arange(lanes) // shape.depth * shape.width
    return Layout(
        np.arange(shape.width)[:, None] + group,
        (before + np.arange(shape.positions[1]) * across) * lanes,
        first,
        first + last + 1,
        width * lanes,
        shape.depth == shape.width == 1,
        across == 1,
    )


@functools.lru_cache(maxsize=256)
def _input_grad_rows(shape: Shape) -> Rows:
    """Rows of the same remainder by the stride are of one kind."""
    layout = _input_grad_layout(shape)
    top, _, left, _ = shape.padding
    down = shape.stride[0]
    before = max(0, shape.dilation[1] * (shape.size[1] - 1) - left)
    column = before + left - np.arange(shape.size[1]) * shape.dilation[1]
    kinds = min(down, shape.image[0])
    terms = np.zeros(kinds, np.int64)
    taps = np.arange(shape.width * math.prod(shape.size)).reshape(shape.width, *shape.size)
    reads = np.zeros((kinds, _even(taps.size)), np.int64)
    uses = np.full_like(reads, taps.size)
    most = -(-shape.image[0] // down)
    starts = np.broadcast_to(np.arange(most) * layout.line, (kinds, most)).copy()
    rows = np.arange(kinds)[:, None] + down * np.arange(most)
    for kind in range(kinds):
        shifted = kind + top - np.arange(shape.size[0]) * shape.dilation[0]
        met = np.flatnonzero(shifted % down == 0)
        lines = np.add.outer(np.arange(shape.width) * layout.lines, shifted[met] // down)
        found = np.add.outer((lines + layout.first) * layout.line, column * shape.channels)
        terms[kind] = _even(found.size)
        reads[kind, : found.size] = found.reshape(-1)
        uses[kind, : found.size] = taps[:, met].reshape(-1)
    places = rows * shape.image[1] * shape.channels
    return Rows(terms, reads, uses, starts, places, (rows < shape.image[0]).sum(axis=1))


def period_of(lanes: int, row: int) -> int:
    """Lanes after which whole blocks of whole positions of so many lanes repeat, in a row."""
    return min(math.lcm(lanes, COLUMNS), -(-row // COLUMNS) * COLUMNS)


def _repeated(numbers: np.ndarray, period: int, dtype) -> np.ndarray:
    """(..., lanes) repeated to (..., period)."""
    times = -(-period // numbers.shape[-1])
    tiled = np.tile(numbers, times)[..., :period]
    return np.ascontiguousarray(tiled, dtype)


def _by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """(..., channels) int64 from sums of (..., lanes) that repeat after so many."""
    *outer, lanes = sums.shape
    whole = np.zeros((*outer, -(-lanes // channels) * channels), np.int64)
    whole[..., :lanes] = sums
    return whole.reshape(*outer, -1, channels).sum(axis=-2)


def forward_parts(weight: np.ndarray, shape: Shape) -> tuple[np.ndarray, Layout, Rows]:
    """(weights (terms, outputs), layout of the images, rows) of a forward product."""
    weights = weight.transpose(2, 0, 1, 3).reshape(-1, shape.outputs)
    return weights, _forward_layout(shape), _forward_rows(shape)


def input_grad_parts(weight: np.ndarray, shape: Shape) -> tuple[np.ndarray, Layout, Rows]:
    """(weights (terms, channels), layout of the gradients, rows) of an input gradient."""
    layout = _input_grad_layout(shape)
    depth = np.arange(shape.channels) % shape.depth
    weights = weight[:, :, depth, layout.channel_of].transpose(2, 0, 1, 3)
    return weights.reshape(-1, shape.channels), layout, _input_grad_rows(shape)


def weight_grad_parts(shape: Shape) -> tuple[Layout, np.ndarray, np.ndarray]:
    """(layout of the images, where each tap lies from the start of a row, starts of the rows)."""
    layout = _forward_layout(shape)
    starts = np.arange(shape.positions[0]) * shape.stride[0] * layout.line
    return layout, _forward_reads(shape, layout).reshape(-1), starts


def weights_of(sums: np.ndarray, shape: Shape) -> np.ndarray:
    """(KH, KW, C / groups, O) from (taps, O) as `weight_grad_parts` has the taps."""
    return sums.reshape(shape.depth, *shape.size, shape.outputs).transpose(1, 2, 0, 3)


def grouped_forward(
    x: np.ndarray, weight: np.ndarray, shape: Shape, out: np.ndarray, **options
) -> None:
    """out (N, OH, OW, O) = epilogue(convolution of x + bias).

    x: (N, H, W, C) codes.  weight: (KH, KW, C / groups, O) codes.  Keywords of
    `conv.conv_forward`.
    """
    _convolve(x, *forward_parts(weight, shape), out, **options)


def grouped_input_grad(
    grad: np.ndarray, weight: np.ndarray, shape: Shape, out: np.ndarray, **options
) -> None:
    """out (N, H, W, C) = epilogue(gradient of the convolution's input).

    grad: (N, OH, OW, O) codes.  weight: (KH, KW, C / groups, O) codes.  Keywords of
    `conv.conv_forward`.
    """
    _convolve(grad, *input_grad_parts(weight, shape), out, **options)


def _convolve(
    source,
    weights,
    layout,
    rows,
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
    images, _, columns, lanes = out.shape
    period = period_of(lanes, columns * lanes)
    codes = np.promote_types(source.dtype, weights.dtype)
    bias = np.zeros(lanes, np.int64) if bias is None else bias
    terms = len(weights)
    proof = Product.of(path, terms, 1, spill_terms, lanes, epilogue, largest_magnitude(bias))
    narrow = proof.fits_int32 and codes == np.int16
    group = max(1, GROUP_ROWS // out.shape[1])
    jobs = -(-images // group)
    fused = moments is not None and narrow and out.dtype == np.int16
    job_counts = np.zeros((jobs, 3), np.int64)
    job_moments = np.zeros((jobs, 2 * period if fused else 0), np.int64)
    sums = Sums(_adding(path, narrow), PATHS[path], columns * lanes, period, group, images)
    whole = np.append(weights, np.zeros_like(weights[:1]), axis=0)
    words = empty((*rows.uses.shape, period), codes)
    _pair_weights(sums.path, _repeated(whole, period, codes), rows, words)
    parallel_for(
        _convolve_jobs,
        jobs,
        grain(jobs, out.size * terms),
        np.ascontiguousarray(source),
        words.reshape(len(words), -1),
        layout,
        rows,
        sums,
        _repeated(bias, period, np.int32 if narrow else np.int64),
        epilogue.in_int32() if narrow else epilogue,
        Outputs(out.reshape(-1), mask.reshape(-1), job_counts, job_moments),
    )
    if counts is not None:
        counts += job_counts.sum(axis=0)
    if fused:
        moments[:] = _by_channel(job_moments.sum(axis=0).reshape(2, -1), lanes)
    elif moments is not None:
        moments[:] = channel_moments(out, out)


def _adding(path: str, narrow: bool) -> tuple:
    """The path by which sums are added: the registers' instructions take int16 and give int32."""
    return PATHS[path if narrow else "plain"]


def grouped_weight_grad(
    x: np.ndarray, grad: np.ndarray, shape: Shape, *, spill_terms: int, path: str
) -> np.ndarray:
    """(KH, KW, C / groups, O) int64 sums over images and positions of x times grad.

    x: (N, H, W, C) codes.  grad: (N, OH, OW, O) codes.  spill_terms: product terms that int32
    provably holds.
    """
    layout, reads, row_starts = weight_grad_parts(shape)
    row = shape.positions[1] * shape.outputs
    period = period_of(shape.outputs, row)
    line = -(-row // period) * period
    starts = np.add.outer(row_starts, np.arange(0, line, period))
    lefts = np.append(starts, np.zeros(starts.size % 2, np.int64))
    reads = _forward_reads(shape, layout).reshape(-1)
    group = max(1, -(-len(x) // JOBS))
    jobs = -(-len(x) // group)
    codes = np.promote_types(x.dtype, grad.dtype)
    narrow = path != "plain" and lefts.size <= spill_terms and codes == np.int16
    adding = _adding(path, narrow)
    totals = np.zeros((jobs, reads.size, period), np.int64)
    parallel_for(
        _weight_grad_jobs,
        jobs,
        grain(jobs, len(x) * lefts.size * period * reads.size),
        np.ascontiguousarray(x),
        np.ascontiguousarray(grad),
        layout,
        Sums(adding, adding, row, period, group, len(x)),
        line,
        lefts,
        reads,
        np.empty(0, codes),
        np.empty(period, np.int32 if narrow else np.int64),
        totals,
    )
    return weights_of(_by_channel(totals.sum(axis=0), shape.outputs), shape)


@jit
def _pair_weights(path, weights, rows, words):
    """words (kinds, terms, period) = the weights (terms, period) of each kind, pair by pair."""
    period = weights.shape[1]
    flat = weights.reshape(-1)
    for kind in range(rows.uses.shape[0]):
        own = words[kind].reshape(-1)
        for term in range(0, rows.terms[kind], 2):
            one = rows.uses[kind, term] * period
            other = rows.uses[kind, term + 1] * period
            pair_up(path, flat, one, other, period, own, term * period)


@jit
def lay_out(image, layout, lanes, buffer):
    """buffer = the (H, W, C) image as its layout says; what is around it stays as it is."""
    height, width, channels = image.shape
    for plane in range(len(layout.channel_of)):
        reads = layout.channel_of[plane]
        for y in range(height):
            line = (plane * layout.lines + layout.first + y) * layout.line
            codes = image[y].reshape(-1)
            if layout.own and layout.side_by_side:
                _copy(codes, buffer, line + layout.columns[0])
            elif layout.own and lanes % 4 == 0 and codes.itemsize == buffer.itemsize == 2:
                _copy_positions(codes.view(np.int64), buffer.view(np.int64), layout, line, lanes)
            else:
                for x in range(width):
                    at = line + layout.columns[x]
                    target = buffer[at : at + lanes]
                    position = codes[x * channels : (x + 1) * channels]
                    for lane in range(lanes):
                        target[lane] = position[reads[lane]]


@jit
def _copy_positions(codes, target, layout, line, lanes):
    """The columns of a line, four codes at a time."""
    step = np.uint64(lanes // 4)
    place = np.uint64(0)
    for x in range(layout.columns.size):
        at = np.uint64((line + layout.columns[x]) // 4)
        for _ in range(step):
            target[at] = codes[place]  # unsigned, for other indices might wrap around
            at += np.uint64(1)
            place += np.uint64(1)


@jit
def _copy(codes, target, at):
    """target[at:] = codes."""
    own = target[at : at + codes.size]  # from 0 on, for a vector of indices must not wrap around
    for i in range(own.size):
        own[i] = codes[i]


@jit
def _convolve_jobs(start, stop, source, words, layout, rows, sums, bias, epilogue, outputs):
    """Each job: a group of images, block of lanes by block of lanes."""
    planes, lanes = layout.channel_of.shape
    size = planes * layout.lines * layout.line + COLUMNS
    buffer = scratch(sums.group * size, words.dtype)
    buffer[:] = 0
    most = min(MOST_ROWS, sums.group * rows.starts.shape[1])
    tile_sums = scratch(most * COLUMNS, bias.dtype)
    room = Room(scratch(most * COLUMNS, np.int64), scratch(most * COLUMNS, np.uint8))
    places = np.empty(most, np.int64)
    out_image = outputs.out.size // max(sums.images, 1)
    for job in range(start, stop):
        first = job * sums.group
        images = min(sums.group, sums.images - first)
        own = outputs_of_job(outputs, job)
        for i in range(images):
            lay_out(source[first + i], layout, lanes, buffer[i * size : (i + 1) * size])
        for kind in range(rows.counts.size):
            count = rows.counts[kind]
            reads = rows.reads[kind]
            weights = words[kind]
            for at in range(0, images * count, most):
                tile_rows = min(most, images * count - at)
                for lane in range(0, sums.row, COLUMNS):
                    output = lane % sums.period
                    for row in range(tile_rows):
                        image, line = divmod(at + row, count)
                        places[row] = (first + image) * out_image + rows.places[kind, line] + lane
                        add_products(
                            sums.path,
                            buffer,
                            reads,
                            image * size + rows.starts[kind, line] + lane,
                            weights,
                            2 * output,
                            2 * sums.period,
                            rows.terms[kind],
                            tile_sums,
                            row * COLUMNS,
                        )
                    tile = Tile(tile_rows, min(COLUMNS, sums.row - lane), output)
                    store_sums(sums.finish, tile_sums, tile, bias, epilogue, room, own, places, 0)


@jit
def _weight_grad_jobs(start, stop, x, grad, layout, sums, line, lefts, reads, like, part, totals):
    """Each job: a group of images, tap by tap.

    line: lanes of a row, filled up with zeros to whole periods.  like: an array of the type of the
    codes; part: one of the sums of a tap, `period` lanes.
    """
    planes, lanes = layout.channel_of.shape
    image = scratch(planes * layout.lines * layout.line + line + COLUMNS, like.dtype)
    codes = scratch((grad.shape[1] + 1) * line, like.dtype)
    words = scratch(lefts.size * sums.period, like.dtype)
    image[:] = 0
    codes[:] = 0
    own = np.empty_like(part)
    for job in range(start, stop):
        for n in range(job * sums.group, min((job + 1) * sums.group, sums.images)):
            lay_out(x[n], layout, lanes, image)
            for y in range(grad.shape[1]):
                _copy(grad[n, y].reshape(-1), codes, y * line)
            for at in range(0, lefts.size * sums.period, 2 * sums.period):
                pair_up(sums.path, codes, at, at + sums.period, sums.period, words, at)
            for tap in range(reads.size):
                for lane in range(0, sums.period, COLUMNS):
                    add_products(
                        sums.path,
                        image,
                        lefts,
                        reads[tap] + lane,
                        words,
                        2 * lane,
                        2 * sums.period,
                        lefts.size,
                        own,
                        lane,
                    )
                for lane in range(sums.period):
                    totals[job, tap, lane] += own[lane]


def pair_up(path, codes, one, other, count, words, at):
    """words[at : at + 2 * count] = codes of two runs side by side, as `add_products` reads them.

    count: a multiple of COLUMNS.
    """
    for i in range(count):
        words[at + 2 * i] = codes[one + i]
        words[at + 2 * i + 1] = codes[other + i]


def add_products(path, left, lefts, left_at, words, word_at, step, terms, sums, place):
    """sums[place + i] = the sum over t of left[left_at + lefts[t] + i] times what term t has in
    lane i of the words, for COLUMNS lanes.

    words: from `pair_up`, those of the first two terms at word_at, of the next two `step` further.
    terms: an even number.
    """
    for i in range(COLUMNS):
        sums[place + i] = 0
    for pair in range(terms // 2):
        one = left_at + lefts[2 * pair]
        other = left_at + lefts[2 * pair + 1]
        right = word_at + pair * step
        for i in range(COLUMNS):
            sums[place + i] += np.int64(left[one + i]) * words[right + 2 * i]
            sums[place + i] += np.int64(left[other + i]) * words[right + 2 * i + 1]


@overload(pair_up, inline="always", jit_options=OPTIONS)
def _pair_up(path, codes, one, other, count, words, at):
    def in_registers(path, codes, one, other, count, words, at):
        _pair_in_registers(path, codes, one, other, count, words, at)

    return pair_up if path.instance_class is Plain else in_registers


@overload(add_products, inline="always", jit_options=OPTIONS)
def _add_products(path, left, lefts, left_at, words, word_at, step, terms, sums, place):
    def in_registers(path, left, lefts, left_at, words, word_at, step, terms, sums, place):
        _add_in_registers(path, left, lefts, left_at, words, word_at, step, terms, sums, place)

    return add_products if path.instance_class is Plain else in_registers


class _Pairs:
    """Emits sums of the products of pairs of terms, of as many lanes as two registers have sums.

    An instruction adds the products of neighbouring codes, so that two runs of codes are
    interleaved first: within 128 bits, which is what processors are fast at.  Of 8 lanes the first
    four go to one register, the others to the second one.
    """

    def __init__(self, builder, path):
        self.builder = builder
        self.step, lanes, _ = REGISTERS[path]
        self.lanes = 2 * lanes
        self.codes = ir.VectorType(I16, self.lanes)
        self.sums = ir.VectorType(I32, lanes)
        low = [start + lane for start in range(0, self.lanes, 8) for lane in range(4)]
        self.halves = [low, [lane + 4 for lane in low]]

    def words(self, pointer, one, other):
        """Words of the codes from `one` and from `other` on, as two registers."""
        first, second = (
            vectors.load(self.builder, pointer, place, self.codes) for place in (one, other)
        )
        for half in self.halves:
            order = [k for lane in half for k in (lane, lane + self.lanes)]
            yield self.builder.bitcast(self._shuffled(first, second, order), self.sums)

    def in_order(self, halves):
        """Sums of all lanes, from two registers as `words` has them."""
        return self._shuffled(*halves, np.argsort(np.concatenate(self.halves)).tolist())

    def _shuffled(self, one, other, order):
        mask = ir.Constant(ir.VectorType(I32, len(order)), order)
        return self.builder.shuffle_vector(one, other, mask)


def _is_here(signature) -> bool:
    """Whether this processor has the path, which is the first argument; else no IR would compile."""
    return processor_has(signature.args[0].instance_class.__name__.lower())


def _emit_pairs(context, builder, signature, args):
    if not _is_here(signature):
        return context.get_dummy_value()
    names = "path codes one other count words at"
    arguments = vectors.Arguments(context, builder, signature, args, names)
    codes, words = (arguments.data(name) for name in ("codes", "words"))
    pairs = _Pairs(builder, signature.args[0].instance_class)
    step = I64(pairs.lanes)
    with cgutils.for_range_slice(builder, I64(0), arguments.count, step, inc=True) as (lane, _):
        places = (builder.add(start, lane) for start in (arguments.one, arguments.other))
        at = builder.add(arguments.at, builder.mul(lane, I64(2)))
        for half, word in enumerate(pairs.words(codes, *places)):
            own = builder.bitcast(word, pairs.codes)
            vectors.store(builder, own, words, builder.add(at, I64(half * pairs.lanes)))
    return context.get_dummy_value()


@intrinsic
def _pair_in_registers(typing_context, path, codes, one, other, count, words, at):
    number = types.int64
    return types.void(path, codes, number, number, number, words, number), _emit_pairs


def _emit_sums(context, builder, signature, args):
    if not _is_here(signature):
        return context.get_dummy_value()
    names = "path left lefts left_at words word_at step terms sums place"
    arguments = vectors.Arguments(context, builder, signature, args, names)
    left, lefts, words, sums = (arguments.data(name) for name in ("left", "lefts", "words", "sums"))
    pairs = _Pairs(builder, signature.args[0].instance_class)
    zero = vectors.constant(pairs.sums, 0)
    columns = range(0, COLUMNS, pairs.lanes)
    totals = [[vectors.slot(builder, zero) for _ in pairs.halves] for _ in columns]
    word = vectors.slot(builder, arguments.word_at)
    with cgutils.for_range_slice(builder, I64(0), arguments.terms, I64(2), inc=True) as (term, _):
        places = [
            builder.add(arguments.left_at, builder.load(builder.gep(lefts, [at])))
            for at in (term, builder.add(term, I64(1)))
        ]
        at = builder.load(word)
        builder.store(builder.add(at, arguments.step), word)
        for column, own in zip(columns, totals):
            halves = pairs.words(left, *(builder.add(place, I64(column)) for place in places))
            for half, (total, one) in enumerate(zip(own, halves)):
                place = builder.add(at, I64(2 * column + half * pairs.lanes))
                other = vectors.load(builder, words, place, pairs.sums)
                value = pairs.step(builder, builder.load(total), one, other, 2)
                builder.store(value, total)
    for column, own in zip(columns, totals):
        whole = pairs.in_order([builder.load(total) for total in own])
        vectors.store(builder, whole, sums, builder.add(arguments.place, I64(column)))
    return context.get_dummy_value()


@intrinsic
def _add_in_registers(
    typing_context, path, left, lefts, left_at, words, word_at, step, terms, sums, place
):
    number = types.int64
    arguments = (path, left, lefts, number, words, number, number, number, sums, number)
    return types.void(*arguments), _emit_sums

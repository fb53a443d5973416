"""The sums of a step as rows of dot products, term after term in the stated order.

Every weighted sum of a layer is a matrix product `left (M, K) times right (K, N)` whose result is
the tensor's row-major array with the last axis as N.  Rows are gathered on demand, so that a few of
them cost little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fxsim.accumulator import Accumulator
from fxsim.golden import manifest
from fxsim.kernels.accumulators.saturating import gemm_saturating
from fxsim.kernels.rounding import SATURATE, Range, Rounding, wrap_code
from fxsim.nn.spec import Dense, Layer
from fxsim.ops.accumulation import accumulate, bounded

FAR = 2**62
"""No exact sum reaches it: the executor's widths stay below."""
KERNEL_FIRST = "kernel row, kernel column, channel"


@dataclass(frozen=True)
class Summing:
    """How the terms of a dot product become a sum.

    drop: low bits cut off every product before it is added.  bits, overflow: of the accumulator
    ('exact', 'wrap', 'saturate' after every addition, 'saturate_end').  order: key of Dot.orders.
    tile: terms summed exactly before each addition that saturates; 0 for an adder tree of all
    terms.  model: an accumulator that says all of it but the order of the terms.
    """

    drop: int = 0
    bits: int = 62
    overflow: str = "exact"
    order: str = "stated"
    tile: int = 1
    model: Accumulator | None = None

    @classmethod
    def of(cls, accumulator: manifest.Accumulator) -> Summing:
        """The manifest's own."""
        return cls(bits=accumulator.bits, overflow=accumulator.overflow, model=accumulator.model)


@dataclass(frozen=True)
class Dot:
    """left(rows) gives (R, K) int64 for row numbers (R,); right is (K, N) int64.

    The last K - products terms (the bias) are added whole.  scale: bits by which left is shifted up
    so that products and bias have one step.  orders: name -> permutation of K.
    """

    rows: int
    left: Callable[[np.ndarray], np.ndarray]
    right: np.ndarray
    products: int
    orders: dict[str, np.ndarray]
    scale: int = 0

    @property
    def has_bias(self) -> bool:
        """Whether terms follow the products."""
        return self.products < len(self.right)

    def sums(self, rows: np.ndarray, how: Summing) -> np.ndarray:
        """(R, N) int64 sums of the given rows."""
        left = self.left(rows)
        if how.model:
            return self._accumulated(left, how)
        if how.drop:
            shift = how.drop + self.scale
            whole = _gemm(left[:, self.products :], self.right[self.products :])
            return (
                _gemm(left[:, : self.products], self.right[: self.products], shift) << shift
            ) + whole
        if how.overflow == "saturate":
            order = self.orders[how.order]
            return _saturating(left[:, order], self.right[order], how)
        return bounded_sum(_gemm(left, self.right), how)

    def _accumulated(self, left: np.ndarray, how: Summing) -> np.ndarray:
        """By how.model, in steps of the products without a bias, else in those of Z, to which its
        accumulator adds the bias or from which it starts.
        """
        model = how.model
        up = model.drop + self.scale
        order = self._order_of_products(how)
        biases = _gemm(left[:, self.products :], self.right[self.products :])
        first = model.bias == "first" and not model.at_end and self.has_bias
        sums, _ = accumulate(
            left[:, order] >> max(self.scale, 0),
            self.right[order],
            model,
            biases if first else None,
        )
        if not self.has_bias:
            return bounded(sums, model)[0] << up
        return bounded((sums << up) + (0 if first else biases), model, up)[0]

    def _order_of_products(self, how: Summing) -> np.ndarray:
        """Where the model's channels come last, orders are of terms that do."""
        order = self.orders[how.order]
        order = order[order < self.products]
        last = self.orders.get(KERNEL_FIRST)
        if how.model.axes == "channel_last" and last is not None:
            return last[order]
        return order


def bounded_sum(sums: np.ndarray, how: Summing) -> np.ndarray:
    """Exact sums as an accumulator of how.bits leaves them that overflows only once, at the end
    (or wraps).
    """
    low = -(1 << how.bits - 1)
    high = (1 << how.bits - 1) - 1
    if how.overflow == "wrap":
        return wrap_code(sums, how.bits, 1)
    return np.clip(sums, low, high) if how.overflow == "saturate_end" else sums


def _gemm(
    left: np.ndarray, right: np.ndarray, shift: int = 0, low: int = -FAR, high: int = FAR
) -> np.ndarray:
    out = np.zeros((len(left), right.shape[1]), np.int64)
    gemm_saturating(
        0,
        len(left),
        np.ascontiguousarray(left),
        np.ascontiguousarray(right),
        Rounding(shift, 0, 0, 0, 0),
        Range(low, high, SATURATE, 63, 1),
        out,
        np.zeros_like(out),
    )
    return out


def _saturating(left: np.ndarray, right: np.ndarray, how: Summing) -> np.ndarray:
    low = -(1 << how.bits - 1)
    high = (1 << how.bits - 1) - 1
    if how.tile == 1:
        return _gemm(left, right, 0, low, high)
    return (
        _tree(left, right, low, high) if how.tile == 0 else _tiles(left, right, how.tile, low, high)
    )


def _tree(left: np.ndarray, right: np.ndarray, low: int, high: int) -> np.ndarray:
    """Neighbours are added in pairs, level after level, each addition saturating.

    An odd one out waits.
    """
    terms = np.clip(left[:, :, None] * right[None], low, high)
    while terms.shape[1] > 1:
        even = terms.shape[1] // 2 * 2
        pairs = np.clip(terms[:, 0:even:2] + terms[:, 1:even:2], low, high)
        terms = np.concatenate([pairs, terms[:, even:]], axis=1)
    return terms[:, 0]


def _tiles(left: np.ndarray, right: np.ndarray, tile: int, low: int, high: int) -> np.ndarray:
    total = np.zeros((len(left), right.shape[1]), np.int64)
    for start in range(0, left.shape[1], tile):
        part = slice(start, start + tile)
        total = np.clip(total + _gemm(left[:, part], right[part]), low, high)
    return total


def _window(layer: Layer) -> tuple[int, int, int]:
    """(kernel, stride, padding); a Dense layer is a 1x1 convolution of one position."""
    return (1, 1, 0) if isinstance(layer, Dense) else (layer.kernel, layer.stride, layer.padding)


def _as_conv(
    layer: Layer, source: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(layer, Dense):
        return source.reshape(len(source), 1, 1, -1), weights.reshape(1, 1, *weights.shape[-2:])
    return source, weights


def _grid(*sizes: int) -> list[np.ndarray]:
    """Index arrays of all places of a box, flat in row-major order."""
    return [axis.reshape(-1) for axis in np.indices(sizes)]


def _orders(products: int, others: dict[str, np.ndarray], bias: bool) -> dict[str, np.ndarray]:
    """`others` and the reverse of the stated order, the bias last; with a bias, also that first."""
    stated = np.arange(products)
    orders = {"stated": stated, **others, "descending": stated[::-1]}
    if not bias:
        return orders
    first = {"bias first": np.concatenate([[products], stated])}
    return {name: np.append(order, products) for name, order in orders.items()} | first


def forward_dot(
    layer: Layer,
    source: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray | None,
    positions: tuple[int, int],
    shift: int,
) -> Dot:
    """Pre-activations: rows (n, y, x), terms (channel, kernel row, kernel column), then the bias.

    source (N, H, W, C), weights (KH, KW, C, O) or (I, O): codes.  bias: (O,) in steps of Z, None
    for none. positions: (OH, OW).  shift: the left shift that brings products to the step of Z."""
    source, weights = _as_conv(layer, source, weights)
    size, stride, padding = _window(layer)
    padded = np.pad(
        source.astype(np.int64), ((0, 0), (padding, padding), (padding, padding), (0, 0))
    )
    channel, row, column = _grid(weights.shape[2], size, size)

    def left(rows: np.ndarray) -> np.ndarray:
        n, y, x = np.unravel_index(rows, (len(source), *positions))
        taps = padded[
            n[:, None], (y * stride)[:, None] + row, (x * stride)[:, None] + column, channel
        ]
        return np.concatenate(
            [taps << max(shift, 0), np.ones((len(rows), len(biases)), np.int64)], axis=1
        )

    biases = (
        np.empty((0, weights.shape[3]), np.int64) if bias is None else bias[None].astype(np.int64)
    )
    right = np.concatenate([weights[row, column, channel], biases])
    orders = _orders(
        channel.size, {KERNEL_FIRST: np.lexsort((channel, column, row))}, bias is not None
    )
    return Dot(len(source) * positions[0] * positions[1], left, right, channel.size, orders, shift)


def input_grad_dot(
    layer: Layer, grads: np.ndarray, weights: np.ndarray, shape: tuple[int, ...]
) -> Dot:
    """Gradient at the layer's input of `shape` (N, H, W, C): terms (output channel, kernel row,
    kernel column).

    grads: (N, OH, OW, O) codes at the pre-activations.  Rows are (n, y, x); for a Dense layer, n.
    """
    samples, height, width, channels = (
        (shape[0], 1, 1, int(np.prod(shape[1:]))) if isinstance(layer, Dense) else shape
    )
    weights = weights.reshape(1, 1, *weights.shape) if isinstance(layer, Dense) else weights
    size, stride, padding = _window(layer)
    margin = size - 1
    _, rows_out, columns_out, outputs = grads.shape
    grown = 2 * (margin + padding)
    spread = np.zeros((samples, height + grown, width + grown, outputs), np.int64)
    spread[
        :,
        margin : margin + rows_out * stride : stride,
        margin : margin + columns_out * stride : stride,
    ] = grads
    output, row, column = _grid(outputs, size, size)

    def left(rows: np.ndarray) -> np.ndarray:
        n, y, x = np.unravel_index(rows, (samples, height, width))
        y = y[:, None] + margin + padding
        x = x[:, None] + margin + padding
        return spread[n[:, None], y - row, x - column, output]

    right = weights[row, column, :, output].astype(np.int64)
    orders = _orders(output.size, {KERNEL_FIRST: np.lexsort((output, column, row))}, bias=False)
    return Dot(
        samples * height * width, left, right.reshape(output.size, channels), output.size, orders
    )


def weight_grad_dot(layer: Layer, source: np.ndarray, grads: np.ndarray) -> Dot:
    """Weight gradient: rows (kernel row, kernel column, channel), terms (sample, row, column)."""
    if isinstance(layer, Dense):
        source = source.reshape(len(source), 1, 1, -1)
    size, stride, padding = _window(layer)
    padded = np.pad(
        source.astype(np.int64), ((0, 0), (padding, padding), (padding, padding), (0, 0))
    )
    n, y, x = _grid(*grads.shape[:3])

    def left(rows: np.ndarray) -> np.ndarray:
        row, column, channel = np.unravel_index(rows, (size, size, source.shape[3]))
        return padded[n, y * stride + row[:, None], x * stride + column[:, None], channel[:, None]]

    right = grads.reshape(-1, grads.shape[3]).astype(np.int64)
    orders = _orders(n.size, {"row, column, sample": np.lexsort((n, x, y))}, bias=False)
    return Dot(size * size * source.shape[3], left, right, n.size, orders)


def bias_grad_dot(grads: np.ndarray) -> Dot:
    """Bias gradient: one row, terms (sample, row, column), each the gradient times one."""
    right = grads.reshape(-1, grads.shape[3]).astype(np.int64)
    orders = _orders(len(right), {}, bias=False)
    return Dot(
        1, lambda rows: np.ones((len(rows), len(right)), np.int64), right, len(right), orders
    )


def rows_per_block(dot: Dot, products: int = 2**23) -> int:
    """Rows whose dot products take about `products` multiplications."""
    return max(1, products // max(1, dot.right.size))


def blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`rows` in pieces of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))

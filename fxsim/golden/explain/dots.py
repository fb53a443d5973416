"""The sums of a step as rows of dot products, term after term in the stated order.

Every weighted sum is a matrix product `left (M, K) times right (K, N)` whose result is the tensor's
row-major array with the last axis as N.  Rows are gathered on demand, so that a few of them cost
little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxsim.accumulator import MAX_BITS, Accumulator
from fxsim.ops.accumulation import accumulate, bounded
from fxsim.ops.products import ProductSum

EXACT = Accumulator(MAX_BITS, when="end")
CHANNEL_LAST = "kernel row, kernel column, channel"
IMAGE_LAST = "row, column, sample"


@dataclass(frozen=True)
class Summing:
    """How the terms of a dot product become a sum.

    model: the accumulator; None for exact sums.  order: key of Dot.orders.  fine: whether the
    accumulator has the step of the result, which a bias may make finer than that of the products.
    """

    model: Accumulator | None = None
    order: str = "stated"
    fine: bool = False


@dataclass(frozen=True, eq=False)
class Dot:
    """Rows of dot products.

    windows: for each group of outputs the left operand as a view of six axes, three of the M rows
    and three of the K terms.  right: for each group (K, N / groups).  turned: name of the order of
    terms in which their first axis runs fastest.  bias: (N,) int64 in steps of the result, or
    None.  scale: bits by which the step of the products is coarser than that of the result.
    """

    windows: tuple[np.ndarray, ...]
    right: tuple[np.ndarray, ...]
    turned: str
    bias: np.ndarray | None = None
    scale: int = 0

    @classmethod
    def of(cls, exact: ProductSum) -> Dot:
        """The dot products of an operation."""
        groups = exact.lowered()
        turned = CHANNEL_LAST if groups[0].has_channels else IMAGE_LAST
        right = tuple(own.right.reshape(-1, own.right.shape[-1]) for own in groups)
        scale = exact.product.product_exp - exact.format.step_exp
        windows = tuple(own.windows for own in groups)
        return cls(windows, right, turned, exact.bias.aligned, scale)

    @classmethod
    def of_ones(cls, grads: np.ndarray) -> Dot:
        """The sums of grads (N, H, W, O) over all but the last axis: one row."""
        windows = np.broadcast_to(np.int64(1), (1, 1, 1, *grads.shape[:3]))
        return cls((windows,), (grads.reshape(-1, grads.shape[3]),), IMAGE_LAST)

    @property
    def terms(self) -> int:
        """K, the bias not among them."""
        return len(self.right[0])

    @property
    def columns(self) -> int:
        """N."""
        return sum(right.shape[1] for right in self.right)

    @cached_property
    def orders(self) -> dict[str, np.ndarray]:
        """Name -> permutation of the terms; one that changes nothing is left out."""
        stated = np.arange(self.terms)
        turned = stated.reshape(self.windows[0].shape[3:]).transpose(1, 2, 0).reshape(-1)
        others = {self.turned: turned, "descending": stated[::-1]}
        changed = {
            name: order for name, order in others.items() if not np.array_equal(order, stated)
        }
        return {"stated": stated, **changed}

    def sums(self, rows: np.ndarray, how: Summing) -> np.ndarray:
        """(R, N) int64 sums of the given rows, in steps of the result."""
        parts = []
        first = 0
        for windows, right in zip(self.windows, self.right):
            last = first + right.shape[1]
            bias = None if self.bias is None else self.bias[first:last]
            parts.append(self._group_sums(_left(windows, rows), right, bias, how))
            first = last
        return np.concatenate(parts, axis=1)

    def _group_sums(
        self, left: np.ndarray, right: np.ndarray, bias: np.ndarray | None, how: Summing
    ) -> np.ndarray:
        model = how.model or EXACT
        order = self._order(how)
        left = left[:, order]
        up = model.drop + self.scale
        if how.fine:
            left = left << self.scale
            up = model.drop
        first = bias is not None and model.bias == "first" and not model.at_end
        start = bias if first else None
        sums, _ = accumulate(left, right[order].astype(np.int64), model, start)
        if how.model is None:
            return (sums << up) + (0 if bias is None else bias)
        if bias is None or first:
            return bounded(sums, model)[0] << up
        return bounded((sums << up) + bias, model, up)[0]

    def _order(self, how: Summing) -> np.ndarray:
        """Where the model's channels come last, orders are of terms that do."""
        order = self.orders[how.order]
        if how.model and how.model.axes == "channel_last" and CHANNEL_LAST in self.orders:
            return self.orders[CHANNEL_LAST][order]
        return order


def _left(windows: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(R, K) int64 of row numbers (R,)."""
    places = np.unravel_index(rows, windows.shape[:3])
    return windows[places].reshape(len(rows), -1).astype(np.int64)


def rows_per_block(dot: Dot, products: int = 2**23) -> int:
    """Rows whose dot products take about `products` multiplications."""
    return max(1, products // max(1, dot.terms * dot.columns))


def blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`rows` in pieces of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))

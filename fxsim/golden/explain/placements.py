"""Convolutions whose kernels are laid on images otherwise: other padding, dilation and groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from fxsim.golden.explain.changes import Alternative, change
from fxsim.golden.explain.semantics import AS_STATED, Semantics
from fxsim.ops.products import Geometry, ProductSum
from fxsim.windows import Window

Codes = dict[str, np.ndarray]


def placed(exact: ProductSum, placement: str) -> ProductSum:
    """The sums where kernels are laid on images as the key of PLACEMENTS says."""
    if placement == AS_STATED:
        return exact
    geometry, codes = PLACEMENTS[placement](exact.product.geometry, dict(exact.operands))
    return exact.product.over(geometry)(**codes)


def placement_changes(default: Semantics, geometry: Geometry) -> Iterator[Alternative]:
    """Every placement that differs from the geometry's own."""
    window = geometry.window
    top, bottom, left, right = window.padding
    if (top, left) != (bottom, right):
        yield change(default, PADDING, placement=PADDING)
    if window.span != window.size:
        yield change(default, DILATION, placement=DILATION)
    if geometry.groups > 1:
        for text in GROUP_ORDERS:
            if text != INTERLEAVED or max(geometry.channels, geometry.outputs) > geometry.groups:
                yield change(default, text, placement=text)


def _other_side(geometry: Geometry, codes: Codes) -> tuple[Geometry, Codes]:
    top, bottom, left, right = geometry.window.padding
    window = dataclasses.replace(geometry.window, padding=(bottom, top, right, left))
    return dataclasses.replace(geometry, window=window), codes


def _undilated(geometry: Geometry, codes: Codes) -> tuple[Geometry, Codes]:
    """The taps side by side, where the first one was; positions stay what they are."""
    window = geometry.window
    if "weight" in codes:  # in a kernel as wide as the dilated one
        weight = codes["weight"]
        wide = np.zeros((*window.span, *weight.shape[2:]), weight.dtype)
        wide[: window.size[0], : window.size[1]] = weight
        whole = Window(window.span, window.stride, window.padding)
        return dataclasses.replace(geometry, window=whole), codes | {"weight": wide}
    sizes = []
    padding = []
    for size, taps, step, (before, _), positions in zip(
        geometry.input, window.size, window.stride, window.edges, geometry.output
    ):
        read = (positions - 1) * step + taps - before
        sizes.append(min(max(read, 1), size))
        padding += [before, read - sizes[-1]]
    height, width = sizes
    top, bottom, left, right = padding
    narrow = Window(window.size, window.stride, (top, max(bottom, 0), left, max(right, 0)))
    own = dataclasses.replace(geometry, height=height, width=width, window=narrow)
    return own, codes | {"x": np.ascontiguousarray(codes["x"][:, :height, :width])}


def _in_order(order: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """The first operand, its channels (groups, channels of a group) in another order."""

    def place(geometry: Geometry, codes: Codes) -> tuple[Geometry, Codes]:
        name = next(iter(codes))
        count = codes[name].shape[-1]
        groups = np.arange(count).reshape(geometry.groups, -1)
        read = codes[name][..., order(groups).reshape(-1)]
        return geometry, codes | {name: np.ascontiguousarray(read)}

    return place


PADDING = "padding on the other side (top and bottom, left and right swapped)"
DILATION = "dilation ignored"
INTERLEAVED = "groups permuted: their channels taken in turn"
GROUP_ORDERS = {
    "groups permuted: from the last to the first": lambda groups: groups[::-1],
    "groups permuted: each reads the one after its own": lambda groups: np.roll(groups, -1, 0),
    "groups permuted: each reads the one before its own": lambda groups: np.roll(groups, 1, 0),
    INTERLEAVED: lambda groups: groups.reshape(-1, len(groups)).T,
}
PLACEMENTS = {
    PADDING: _other_side,
    DILATION: _undilated,
    **{text: _in_order(order) for text, order in GROUP_ORDERS.items()},
}

"""Windows of convolutions and poolings: sizes, strides, dilation and padding along rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from fxsim.errors import InputError, choice, shown

Pair = tuple[int, int]
"""Of rows and of columns."""

Sides = tuple[int, int, int, int]
"""Zeros at top, bottom, left and right."""

PairLike = int | Pair
"""One number stands for rows and columns."""

PaddingLike = int | Pair | Sides | Literal["same", "valid"]
"""One number stands for all sides, (rows, columns) for both sides of each; names as in `sides`."""

PADDINGS = ("same", "valid")
MAX_SIZE = 2**31 - 1
"""Sizes stay within this: no memory holds arrays of greater ones."""


@dataclass(frozen=True)
class Window:
    """A window that moves over rows and columns; fields are (rows, columns).

    size: taps.  stride: from a position to the next.  dilation: from a tap to the next.
    padding: zeros at (top, bottom, left, right).
    """

    size: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @classmethod
    def of(
        cls,
        label: str,
        image: Pair,
        size: PairLike,
        stride: PairLike = 1,
        padding: PaddingLike = 0,
        dilation: PairLike = 1,
        what: str = "kernel",
    ) -> Window:
        """The window over images of (rows, columns).

        Args:
            label: how messages begin, with what follows it ('layer ...: ').
            image: rows and columns of an image.
            size: taps, as a number or (rows, columns); so are stride and dilation.
            padding: a number, (rows, columns), (top, bottom, left, right), 'same' or 'valid'.
            what: the argument that has the size.

        Raises:
            TypeError: a size is no integer.
            InputError: a size out of range, a padding as wide as the window, or a window that does
                not fit the padded image.
        """
        taps = pair(f"{label}{what}", size)
        steps = pair(f"{label}stride", stride)
        spread = pair(f"{label}dilation", dilation)
        spans = _spans(taps, spread)
        around = sides(f"{label}padding", padding, image, spans, steps)
        window = cls(taps, steps, around, spread)
        for size_of, span, (before, after) in zip(image, spans, window.edges):
            if max(before, after) >= span:
                raise InputError(
                    f"{label}padding must be narrower than the {what}, which spans "
                    f"{spans[0]} x {spans[1]}, got {shown(padding)}"
                )
            if size_of + before + after < span:
                raise InputError(
                    f"{label}a {what} that spans {spans[0]} x {spans[1]} does not fit images of "
                    f"{image[0]} x {image[1]} with padding {shown(padding)}"
                )
        return window

    @property
    def edges(self) -> tuple[Pair, Pair]:
        """((top, bottom), (left, right))."""
        top, bottom, left, right = self.padding
        return (top, bottom), (left, right)

    @property
    def before(self) -> Pair:
        """Zeros at the top and at the left."""
        return self.padding[0], self.padding[2]

    @property
    def span(self) -> Pair:
        """Rows and columns from the first tap to the last."""
        return _spans(self.size, self.dilation)

    @property
    def taps(self) -> int:
        """The number of taps."""
        return math.prod(self.size)

    @property
    def overlap(self) -> int:
        """No place of an image lies in more positions of the window."""
        return math.prod(-(-span // stride) for span, stride in zip(self.span, self.stride))

    def positions(self, image: Pair) -> Pair:
        """Rows and columns of the output over an image of (rows, columns)."""
        rows, columns = (
            (size + sum(edge) - span) // stride + 1
            for size, edge, span, stride in zip(image, self.edges, self.span, self.stride)
        )
        return rows, columns


def pair(name: str, value: object) -> Pair:
    """(rows, columns) of a number or of two, each at least 1."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise InputError(f"{name} must be a number or [rows, columns], got {shown(value)}")
        return _size(f"{name}[0]", value[0], 1), _size(f"{name}[1]", value[1], 1)
    size = _size(name, value, 1)
    return size, size


def sides(name: str, value: object, image: Pair, span: Pair, stride: Pair) -> Sides:
    """(top, bottom, left, right) of a padding.

    'valid' is none.  'same' gives ceil(size / stride) positions; where the zeros are uneven, the
    bottom and the right have one more, which is TensorFlow's rule.
    """
    if isinstance(value, str):
        if choice(name, value, PADDINGS) == "valid":
            return 0, 0, 0, 0
        return *_same(0, image, span, stride), *_same(1, image, span, stride)
    if isinstance(value, (tuple, list)):
        if len(value) not in (2, 4):
            raise InputError(
                f"{name} must be a number, [rows, columns], [top, bottom, left, right], 'same' or "
                f"'valid', got {shown(value)}"
            )
        sizes = [_size(f"{name}[{index}]", size, 0) for index, size in enumerate(value)]
        if len(sizes) == 2:
            sizes = [sizes[0], sizes[0], sizes[1], sizes[1]]
        return cast(Sides, tuple(sizes))
    size = _size(name, value, 0)
    return size, size, size, size


def _same(axis: int, image: Pair, span: Pair, stride: Pair) -> Pair:
    positions = -(-image[axis] // stride[axis])
    total = max((positions - 1) * stride[axis] + span[axis] - image[axis], 0)
    return total // 2, total - total // 2


def _spans(size: Sequence[int], dilation: Sequence[int]) -> Pair:
    rows, columns = (step * (taps - 1) + 1 for taps, step in zip(size, dilation))
    return rows, columns


def _size(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if not least <= value <= MAX_SIZE:
        raise InputError(
            f"{name} must be an integer of at least {least}, up to {MAX_SIZE}, got {shown(value)}"
        )
    return int(value)


def check_groups(label: str, groups: object, channels: int, outputs: int) -> int:
    """The number of groups, if it divides the channels and the outputs."""
    number = _size(f"{label}groups", groups, 1)
    if channels % number or outputs % number:
        raise InputError(
            f"{label}groups must divide the {channels} channels and the {outputs} outputs, got "
            f"{number}"
        )
    return number

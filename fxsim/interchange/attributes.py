"""What the attributes and constants of an operator mean for a layer; each refusal names the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.interchange.draft import NO_PADDING
from fxsim.interchange.graph import Node
from fxsim.windows import MAX_SIZE, Pair, Sides


def tried(node: Node, make: Callable[[], Any]) -> Any:
    """What `make` gives; its InputError or TypeError names the node."""
    try:
        return make()
    except (InputError, TypeError) as error:
        text = str(error)
        raise (error if text.startswith("node ") else node.fault(text)) from None


def pool_kind(node: Node) -> Literal["max", "average"]:
    """Of a pooling."""
    return "max" if "Max" in node.op else "average"


def pair(sizes: Any) -> Pair:
    """(rows, columns) of one or two sizes."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def steps_of(node: Node, name: str, value: Any, axes: int) -> Pair:
    """(rows, columns) of an attribute with a size for each axis; 1 where it is left out."""
    sizes = (1,) * axes if value is None else node.ints(name, value)
    if len(sizes) != axes or not all(1 <= size <= MAX_SIZE for size in sizes):
        raise node.fault(f"{name} must be {axes} sizes of at least 1, got {shown(sizes)}")
    return pair(sizes)


def sides(before: Any, after: Any) -> Sides:
    """(top, bottom, left, right)."""
    if len(before) == 1:
        return 0, 0, before[0], after[0]
    return before[0], after[0], before[1], after[1]


def padding_of(node: Node, options: dict[str, Any], axes: int, more: Sides) -> Any:
    """The padding of a window, with that of a Pad before it."""
    auto = options["auto_pad"]
    if auto in ("NOTSET", "VALID"):
        pads = (0,) * 2 * axes if options["pads"] is None else node.ints("pads", options["pads"])
        if len(pads) != 2 * axes or min(pads) < 0 or (auto == "VALID" and any(pads)):
            raise node.fault(
                f"pads must be two of at least 0 for each of {axes} axes, got {shown(pads)}"
            )
        own = sides(pads[:axes], pads[axes:])
        return tuple(one + other for one, other in zip(own, more))
    if auto == "SAME_UPPER" and more == NO_PADDING and options["pads"] is None:
        return "same"
    raise node.fault(f"auto_pad {shown(auto)} is none that fxsim has; export it with pads")


def per_channel(node: Node, what: str, array: np.ndarray, channels: int) -> np.ndarray:
    """(O,) of a bias of shape (O,), (1, O) or of one element."""
    if array.dtype.kind != "f" or array.size not in (1, channels) or array.ndim > 2:
        raise node.fault(f"{what} must be floats of shape ({channels},), got {array.shape}")
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)


def broadcast(node: Node, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(O,) of a constant that is added to (O, ...), the same at all positions."""
    wanted = (1, *shape)
    padded = (1,) * (len(wanted) - array.ndim) + array.shape
    fits = len(padded) == len(wanted) and padded[1] in (1, shape[0])
    if array.dtype.kind != "f" or not fits or any(size != 1 for size in (padded[0], *padded[2:])):
        raise node.fault(
            f"a constant of shape {shown(array.shape)} is added to {shown(shape)}; fxsim adds one "
            f"number to each channel"
        )
    return np.broadcast_to(array.reshape(-1), shape[:1]).astype(np.float64)

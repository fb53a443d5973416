"""A layer as operators are added to it one after the other, and the values that a graph carries."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np

from fxsim.interchange.graph import Node
from fxsim.nn.spec import Conv, Dense, Shape
from fxsim.windows import Sides

NO_PADDING: Sides = (0, 0, 0, 0)


class Stage(IntEnum):
    """The parts of a layer, in their order."""

    WEIGHT = 0
    BIAS = 1
    NORM = 2
    ADD = 3
    ACTIVATION = 4
    POOL = 5
    DROPOUT = 6


@dataclass(eq=False)
class Draft:
    """A layer and its parameters, float64.

    output: `(H, W, C)`.  stage: the last part that it has.  node: what it began with.  source: the
    layer that it reads, None for the images.  value, places: its output in the graph, and where
    each of its elements is in `output`.
    """

    layer: Conv | Dense
    parameters: dict[str, np.ndarray]
    output: Shape
    node: Node
    source: Draft | None
    branch: Draft | None = None
    stage: Stage = Stage.WEIGHT
    value: str = ""
    places: np.ndarray = field(default_factory=lambda: np.arange(0))

    def set(self, stage: Stage, **fields: Any) -> None:
        """Give the layer these fields; it then has its part `stage`."""
        self.layer = dataclasses.replace(self.layer, **fields)
        self.stage = max(self.stage, stage)

    def shift(self, amount: np.ndarray) -> None:
        """Add `amount` `(O,)` to the sums."""
        if self.stage < Stage.NORM:
            self.set(Stage.BIAS, bias=True)
        name = "bias" if self.stage < Stage.NORM else "beta"
        self.parameters[name] = self.parameters.get(name, 0.0) + amount

    def fold(self) -> None:
        """Bring batch norm into weight and bias."""
        own = self.parameters
        if self.layer.norm is None:
            return
        scale = own["gamma"] / np.sqrt(own["running_var"] + self.layer.norm.epsilon)
        shift = own["beta"] - own["running_mean"] * scale
        self.parameters = {"weight": own["weight"] * scale, "bias": shift}
        self.layer = dataclasses.replace(self.layer, batch_norm=False, bias=True)


@dataclass(frozen=True, eq=False)
class Value:
    """What a graph carries from node to node.

    draft: the layer whose output it is, None for the images.  places: the axes that ONNX gives it,
    without that of the images; each element is the place in the layer's output, row-major
    (H, W, C).  shared: whether anything else reads what it is made of.  padding: zeros around it
    that are still to be put there.  ended: whether only the loss may read it.
    """

    draft: Draft | None
    places: np.ndarray
    shared: bool = False
    padding: Sides = NO_PADDING
    ended: bool = False

    def arranged(self, places: np.ndarray) -> Value:
        """The same elements on other axes."""
        return dataclasses.replace(self, places=places)

    @property
    def image(self) -> Shape:
        """(H, W, C) of its axes (C, H, W) or (C, L)."""
        channels, *rows, columns = self.places.shape
        return math.prod(rows), columns, channels

    @property
    def is_image(self) -> bool:
        """Whether its axes are (C, H, W) or (C, L) of the layer's (H, W, C)."""
        if self.places.ndim not in (2, 3):
            return False
        usual = channels_first(self.image).reshape(self.places.shape)
        return self.places is usual or bool((self.places == usual).all())


@lru_cache(maxsize=32)
def channels_first(shape: Shape) -> np.ndarray:
    """The place in (H, W, C) of each element of (C, H, W)."""
    places = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    return np.ascontiguousarray(places.transpose(2, 0, 1))

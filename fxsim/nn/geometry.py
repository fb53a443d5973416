"""The geometry of a layer's products, for both executors."""

from __future__ import annotations

from fxsim.nn.spec import Conv, Layer, LayerShape
from fxsim.ops.products import Geometry


def geometry_of(layer: Layer, shape: LayerShape) -> Geometry:
    """The Geometry of a layer's products; a Dense layer is a convolution of one position."""
    if not isinstance(layer, Conv):
        inputs, outputs = shape.weight
        return Geometry(1, 1, inputs, outputs)
    return Geometry(*shape.input, layer.filters, shape.window, layer.groups)

"""The weighted operations in floating point.

Register tiles where the processor has them, else im2col and BLAS.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.floating import products as kernels
from fxsim.kernels.floating.tile import COLUMNS, best_path
from fxsim.nn.floating import columns as plain
from fxsim.nn.floating.threads import run
from fxsim.nn.spec import Conv, Dense, LayerShape

PATH = best_path()
"""'avx512', 'avx2', or None for im2col and NumPy's matrix product.

The first two give the same bits.
"""

_BLOCK_POSITIONS = 400
"""Output positions to take at once.

Enough to fill tiles, few enough that they stay in the cache.
"""


def product(
    activations: np.ndarray, weight: np.ndarray, layer: Conv | Dense, shape: LayerShape
) -> np.ndarray:
    """The weighted operation without bias: activations `(N, H, W, C)` -> `(N, P, O)`."""
    if PATH is None:
        return plain.product(activations, weight, layer)
    geometry = _geometry(layer, shape)
    count = len(activations)
    panels = _panels(weight.reshape(1, -1, geometry.filters))
    out = np.empty((count * geometry.rows * geometry.columns, geometry.filters), activations.dtype)
    arguments = (geometry, activations.reshape(-1), panels, _block(geometry), out)
    run(kernels.conv_forward, arguments, count, count * shape.macs)
    return out.reshape(count, -1, geometry.filters)


def input_gradient(
    gradient: np.ndarray, weight: np.ndarray, layer: Conv | Dense, shape: LayerShape
) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from that of the operation `(N, P, O)`."""
    if PATH is None:
        return plain.input_gradient(gradient, weight, shape.input, layer)
    geometry = _geometry(layer, shape)
    count = len(gradient)
    panels = _panels(weight.reshape(geometry.kernel, -1, geometry.filters).transpose(0, 2, 1))
    out = np.empty((count, *shape.input), gradient.dtype)
    arguments = (geometry, gradient.reshape(-1), panels, _block(geometry), out.reshape(-1))
    run(kernels.conv_input_gradient, arguments, count, count * shape.macs)
    return out


def weight_gradient(
    activations: np.ndarray, gradient: np.ndarray, layer: Conv | Dense, shape: LayerShape
) -> np.ndarray:
    """The gradient of the weights, summed over the batch, from that of the operation `(N, P,
    O)`.
    """
    if PATH is None:
        return plain.weight_gradient(activations, gradient, layer).reshape(shape.weight)
    geometry = _geometry(layer, shape)
    filled = _whole_columns(gradient)
    width = filled.shape[-1]
    out = np.empty((shape.dot_length, geometry.filters), gradient.dtype)
    arguments = (
        geometry,
        activations.reshape(-1),
        filled.reshape(-1),
        width,
        _block(geometry),
        out,
    )
    run(
        kernels.conv_weight_gradient,
        arguments,
        kernels.weight_gradient_tiles(geometry, width),
        len(activations) * shape.macs,
    )
    return out.reshape(shape.weight)


def matrix_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two matrices, `(M, K)` times `(K, O)`; its bits do not depend on threads."""
    if PATH is None:
        return left @ right
    count, terms = left.shape
    geometry = _one_position(terms, right.shape[1])
    out = np.empty((count, right.shape[1]), left.dtype)
    flat = np.ascontiguousarray(left).reshape(-1)
    arguments = (geometry, flat, _panels(right[None]), _block(geometry), out)
    run(kernels.conv_forward, arguments, count, left.size * right.shape[1])
    return out


def _geometry(layer: Conv | Dense, shape: LayerShape) -> kernels.Geometry:
    rows, columns, filters = shape.pre
    if isinstance(layer, Conv):
        return kernels.Geometry(
            *shape.input, filters, layer.kernel, layer.stride, layer.padding, rows, columns
        )
    return _one_position(shape.dot_length, filters)


def _one_position(terms: int, filters: int) -> kernels.Geometry:
    """A matrix product: a 1 x 1 convolution of a 1 x 1 image."""
    return kernels.Geometry(1, 1, terms, filters, kernel=1, stride=1, padding=0, rows=1, columns=1)


def _panels(matrices: np.ndarray) -> np.ndarray:
    """Matrices `(S, K, M)` in panels of COLUMNS columns, `(S, ceil(M / COLUMNS), K, COLUMNS)`,
    flat.
    """
    filled = _whole_columns(matrices)
    panels = filled.reshape(*filled.shape[:2], -1, COLUMNS).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(panels).reshape(-1)


def _block(geometry: kernels.Geometry) -> int:
    """Images to take at once."""
    return max(1, _BLOCK_POSITIONS // (geometry.rows * geometry.columns))


def _whole_columns(array: np.ndarray) -> np.ndarray:
    """The array, its last axis filled up with zeros to a multiple of COLUMNS."""
    missing = -array.shape[-1] % COLUMNS
    if not missing:
        return array
    filled = np.zeros((*array.shape[:-1], array.shape[-1] + missing), array.dtype)
    filled[..., : array.shape[-1]] = array
    return filled

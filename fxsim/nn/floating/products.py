"""The weighted operations in floating point.

Register tiles where the processor has them, else im2col and BLAS.  Many groups have kernels of their
own; few, and dilation, are weights of 0 (`ops.products.Geometry.full`).
"""

from __future__ import annotations

import numpy as np

from fxsim.errors import present
from fxsim.kernels.floating import grouped as lane_kernels
from fxsim.kernels.floating import products as kernels
from fxsim.kernels.floating.tile import COLUMNS, best_path
from fxsim.kernels.products import grouped
from fxsim.nn.floating import columns as plain
from fxsim.nn.floating.threads import run
from fxsim.nn.geometry import geometry_of
from fxsim.nn.spec import Layer, LayerShape
from fxsim.ops.products import Geometry

PATH = best_path()
"""'avx512', 'avx2', or None for im2col and NumPy's matrix product.

The first two give the same bits.
"""

_BLOCK_POSITIONS = 400
"""Output positions to take at once.

Enough to fill tiles, few enough that they stay in the cache.
"""


def product(
    activations: np.ndarray, weight: np.ndarray, layer: Layer, shape: LayerShape
) -> np.ndarray:
    """The weighted operation without bias: activations `(N, H, W, C)` -> `(N, P, O)`."""
    geometry = geometry_of(layer, shape)
    weight = weight.reshape(geometry.weight)
    activations = activations.reshape(-1, *geometry.input)
    if PATH is not None and geometry.lanes is not None:
        parts = grouped.forward_parts(weight, geometry.lanes)
        found = _in_lanes(activations, parts, geometry.output, geometry)
        return found.reshape(len(found), -1, geometry.outputs)
    weight = geometry.filled(weight)
    if PATH is None:
        return plain.product(activations, weight, geometry.full.window)
    sizes = _sizes(geometry.full)
    count = len(activations)
    panels = _panels(weight.reshape(1, -1, sizes.filters))
    out = np.empty((count * sizes.rows * sizes.columns, sizes.filters), activations.dtype)
    arguments = (sizes, activations.reshape(-1), panels, _block(sizes), out)
    run(kernels.conv_forward, arguments, count, count * geometry.full.products)
    return out.reshape(count, -1, sizes.filters)


def input_gradient(
    gradient: np.ndarray, weight: np.ndarray, layer: Layer, shape: LayerShape
) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from that of the operation `(N, P, O)`."""
    geometry = geometry_of(layer, shape)
    weight = weight.reshape(geometry.weight)
    if PATH is not None and geometry.lanes is not None:
        parts = grouped.input_grad_parts(weight, geometry.lanes)
        gradient = gradient.reshape(-1, *geometry.output)
        return _in_lanes(gradient, parts, geometry.input, geometry)
    weight = geometry.filled(weight)
    if PATH is None:
        found = plain.input_gradient(gradient, weight, geometry.full)
        return found.reshape(-1, *shape.input)
    sizes = _sizes(geometry.full)
    count = len(gradient)
    lines = weight.reshape(sizes.kernel_height, -1, sizes.filters)
    panels = _panels(lines.transpose(0, 2, 1))
    out = np.empty((count, *shape.input), gradient.dtype)
    arguments = (sizes, gradient.reshape(-1), panels, _block(sizes), out.reshape(-1))
    run(kernels.conv_input_gradient, arguments, count, count * geometry.full.products)
    return out


def weight_gradient(
    activations: np.ndarray, gradient: np.ndarray, layer: Layer, shape: LayerShape
) -> np.ndarray:
    """The gradient of the weights, summed over the batch, from that of the operation `(N, P,
    O)`.
    """
    geometry = geometry_of(layer, shape)
    full = geometry.full
    activations = activations.reshape(-1, *geometry.input)
    if PATH is not None and geometry.lanes is not None:
        gradient = gradient.reshape(-1, *geometry.output)
        return _weight_gradient_in_lanes(activations, gradient, geometry).reshape(shape.weight)
    if PATH is None:
        found = plain.weight_gradient(activations, gradient, full.window)
    else:
        found = _weight_gradient(activations, gradient, full)
    return geometry.gathered(found.reshape(full.weight)).reshape(shape.weight)


def _in_lanes(
    source: np.ndarray,
    parts: tuple[np.ndarray, grouped.Layout, grouped.Rows],
    out_shape: tuple[int, ...],
    geometry: Geometry,
) -> np.ndarray:
    """The convolution, or the input gradient, that the parts say: `(N, *out_shape)`."""
    weights, layout, rows = parts
    out = np.empty((len(source), *out_shape), source.dtype)
    repeated = np.tile(weights, out_shape[1])
    arguments = (np.ascontiguousarray(source), repeated, layout, rows, out)
    run(lane_kernels.convolve, arguments, len(source), len(source) * geometry.products)
    return out


def _weight_gradient_in_lanes(
    activations: np.ndarray, gradient: np.ndarray, geometry: Geometry
) -> np.ndarray:
    lanes = present(geometry.lanes)
    layout, reads, starts = grouped.weight_grad_parts(lanes)
    rows, columns, outputs = geometry.output
    out = np.empty((reads.size, columns * outputs), gradient.dtype)
    sources = np.ascontiguousarray(activations), np.ascontiguousarray(gradient)
    arguments = (*sources, layout, starts, reads, out)
    work = len(activations) * geometry.products
    run(lane_kernels.weight_gradient, arguments, reads.size, work)
    sums = out.reshape(reads.size, columns, outputs).sum(axis=1)
    return grouped.weights_of(sums, lanes)


def _weight_gradient(
    activations: np.ndarray, gradient: np.ndarray, geometry: Geometry
) -> np.ndarray:
    sizes = _sizes(geometry)
    filled = _whole_columns(gradient)
    width = filled.shape[-1]
    out = np.empty((geometry.taps * geometry.channels, sizes.filters), gradient.dtype)
    arguments = (
        sizes,
        activations.reshape(-1),
        filled.reshape(-1),
        width,
        _block(sizes),
        out,
    )
    run(
        kernels.conv_weight_gradient,
        arguments,
        kernels.weight_gradient_tiles(sizes, width),
        len(activations) * geometry.products,
    )
    return out


def matrix_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two matrices, `(M, K)` times `(K, O)`; its bits do not depend on threads."""
    if PATH is None:
        return left @ right
    count, terms = left.shape
    sizes = _sizes(Geometry(1, 1, terms, right.shape[1]))
    out = np.empty((count, sizes.filters), left.dtype)
    flat = np.ascontiguousarray(left).reshape(-1)
    arguments = (sizes, flat, _panels(right[None]), _block(sizes), out)
    run(kernels.conv_forward, arguments, count, left.size * sizes.filters)
    return out


def _sizes(geometry: Geometry) -> kernels.Geometry:
    window = geometry.window
    rows, columns, filters = geometry.output
    return kernels.Geometry(
        *geometry.input, filters, *window.size, *window.stride, *window.padding, rows, columns
    )


def _panels(matrices: np.ndarray) -> np.ndarray:
    """Matrices `(S, K, M)` in panels of COLUMNS columns, `(S, ceil(M / COLUMNS), K, COLUMNS)`,
    flat.
    """
    filled = _whole_columns(matrices)
    panels = filled.reshape(*filled.shape[:2], -1, COLUMNS).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(panels).reshape(-1)


def _block(sizes: kernels.Geometry) -> int:
    """Images to take at once."""
    return max(1, _BLOCK_POSITIONS // (sizes.rows * sizes.columns))


def _whole_columns(array: np.ndarray) -> np.ndarray:
    """The array, its last axis filled up with zeros to a multiple of COLUMNS."""
    missing = -array.shape[-1] % COLUMNS
    if not missing:
        return array
    filled = np.zeros((*array.shape[:-1], array.shape[-1] + missing), array.dtype)
    filled[..., : array.shape[-1]] = array
    return filled

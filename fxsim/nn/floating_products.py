"""The weighted operations in floating point: register tiles where the processor has them, else im2col and BLAS."""
from __future__ import annotations

import math

import numba
import numpy as np

from fxsim.kernels import float_products as kernels
from fxsim.kernels.float_tile import COLUMNS, PATHS, best_path
from fxsim.nn import floating_columns as plain
from fxsim.nn.spec import Conv, Layer, LayerShape

PATH = best_path()
"""'avx512', 'avx2', or None for im2col and NumPy's matrix product; the first two give the same bits."""

_BLOCK_POSITIONS = 400
"""Output positions that one thread takes at once: enough to fill tiles, few enough to stay in its cache."""


def product(activations: np.ndarray, weight: np.ndarray, layer: Layer, shape: LayerShape) -> np.ndarray:
    """The weighted operation without bias: activations `(N, H, W, C)` -> `(N, P, O)`."""
    if PATH is None:
        return plain.product(activations, weight, layer)
    geometry = _geometry(layer, shape)
    packed = _packed(weight.reshape(1, -1, weight.shape[-1]), transpose=False)
    out = np.empty((len(activations), geometry.rows * geometry.columns, geometry.filters), activations.dtype)
    kernels.conv_forward(PATHS[PATH], geometry, _images(activations, geometry), packed, _block(geometry, out), out)
    return out


def input_gradient(gradient: np.ndarray, weight: np.ndarray, layer: Layer, shape: LayerShape) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from that of the operation `(N, P, O)`."""
    if PATH is None:
        return plain.input_gradient(gradient, weight, shape.input, layer)
    geometry = _geometry(layer, shape)
    packed = _packed(weight.reshape(geometry.kernel, -1, weight.shape[-1]), transpose=True)
    out = np.empty((len(gradient), *shape.input), gradient.dtype)
    kernels.conv_input_gradient(PATHS[PATH], geometry, np.ascontiguousarray(gradient), packed,
                                _block(geometry, gradient), _images(out, geometry))
    return out


def weight_gradient(activations: np.ndarray, gradient: np.ndarray, layer: Layer, shape: LayerShape) -> np.ndarray:
    """The gradient of the weights, summed over the batch, from that of the operation `(N, P, O)`."""
    if PATH is None:
        return plain.weight_gradient(activations, gradient, layer).reshape(shape.weight)
    geometry = _geometry(layer, shape)
    out = np.empty((shape.dot_length, geometry.filters), gradient.dtype)
    block = max(1, _BLOCK_POSITIONS // (geometry.rows * geometry.columns))
    kernels.conv_weight_gradient(PATHS[PATH], geometry, _images(activations, geometry), _whole_columns(gradient), block,
                                 numba.get_num_threads(), out)
    return out.reshape(shape.weight)


def _geometry(layer: Layer, shape: LayerShape) -> kernels.Geometry:
    rows, columns, filters = shape.pre
    if isinstance(layer, Conv):
        return kernels.Geometry(*shape.input, filters, layer.kernel, layer.stride, layer.padding, rows, columns)
    return kernels.Geometry(1, 1, shape.dot_length, filters, 1, 1, 0, 1, 1)


def _images(activations: np.ndarray, geometry: kernels.Geometry) -> np.ndarray:
    return activations.reshape(-1, geometry.height, geometry.width, geometry.channels)


def _packed(matrices: np.ndarray, transpose: bool) -> np.ndarray:
    count, terms, width = matrices.shape
    if transpose:
        terms, width = width, terms
    out = np.empty((count, math.ceil(width / COLUMNS), terms, COLUMNS), matrices.dtype)
    kernels.pack_columns(matrices, transpose, out)
    return out


def _block(geometry: kernels.Geometry, result: np.ndarray) -> int:
    """Images per block, so that every thread gets as many blocks as the others."""
    images, threads = len(result), numba.get_num_threads()
    rounds = max(1, round(images * geometry.rows * geometry.columns / (_BLOCK_POSITIONS * threads)))
    return math.ceil(images / (rounds * threads))


def _whole_columns(gradient: np.ndarray) -> np.ndarray:
    """The gradient `(N, P, O)`, its last axis filled up with zeros to a multiple of COLUMNS."""
    missing = -gradient.shape[-1] % COLUMNS
    return np.pad(gradient, ((0, 0), (0, 0), (0, missing))) if missing else np.ascontiguousarray(gradient)

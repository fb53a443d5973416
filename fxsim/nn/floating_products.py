"""The weighted operations in floating point: matrix products of im2col matrices.

Here every weighted operation is a matrix product over P output positions: activations `(N, H, W, C)`
give columns `(N, P, K)`, K in the order (KH, KW, C) of the weights `(K, O)`, and results `(N, P, O)`.  A fully
connected layer is the case P = 1.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fxsim.nn.spec import Conv, Dense, Layer

_CHUNK_BYTES = 8 << 20


def columns(activations: np.ndarray, layer: Layer) -> np.ndarray:
    """im2col: activations `(N, H, W, C)` -> `(N, P, K)`, zeros where the kernel covers padding."""
    count = len(activations)
    if isinstance(layer, Dense):
        return activations.reshape(count, 1, -1)
    windows = sliding_window_view(_padded(activations, layer), (layer.kernel, layer.kernel), axis=(1, 2))
    windows = windows[:, ::layer.stride, ::layer.stride].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(count, windows.shape[1] * windows.shape[2], -1)


def product(activations: np.ndarray, weight: np.ndarray, layer: Layer) -> np.ndarray:
    """The weighted operation without bias: `(N, P, O)`."""
    matrix = _matrix(weight)
    return np.concatenate([columns(activations[rows], layer) @ matrix for rows in _chunks(activations, layer)])


def weight_gradient(activations: np.ndarray, gradient: np.ndarray, weight_shape: tuple, layer: Layer) -> np.ndarray:
    """The gradient of the weights, summed over the batch, from the gradient `(N, P, O)` of the operation."""
    total = np.zeros((int(np.prod(weight_shape[:-1])), weight_shape[-1]), gradient.dtype)
    for rows in _chunks(activations, layer):
        chunk = columns(activations[rows], layer)
        total += chunk.reshape(-1, chunk.shape[-1]).T @ gradient[rows].reshape(-1, weight_shape[-1])
    return total.reshape(weight_shape)


def input_gradient(gradient: np.ndarray, weight: np.ndarray, input_shape: tuple, layer: Layer) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from the gradient `(N, P, O)` of the operation."""
    count = len(gradient)
    spread = gradient @ _matrix(weight).T
    if isinstance(layer, Dense):
        return spread.reshape(count, *input_shape)
    return _col2im(spread, input_shape, layer)


def _col2im(spread: np.ndarray, input_shape: tuple, layer: Conv) -> np.ndarray:
    """Adds columns `(N, P, K)` back into the positions that they were read from."""
    height, width, channels = input_shape
    padding, stride, kernel = layer.padding, layer.stride, layer.kernel
    rows, cols = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    spread = spread.reshape(-1, rows, cols, kernel, kernel, channels)
    total = np.zeros((len(spread), height + 2 * padding, width + 2 * padding, channels), spread.dtype)
    for i in range(kernel):
        for j in range(kernel):
            total[:, i:i + stride * rows:stride, j:j + stride * cols:stride] += spread[:, :, :, i, j]
    return np.ascontiguousarray(total[:, padding:padding + height, padding:padding + width])


def _matrix(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(-1, weight.shape[-1])


def _padded(activations: np.ndarray, layer: Conv) -> np.ndarray:
    if not layer.padding:
        return activations
    edge = (layer.padding, layer.padding)
    return np.pad(activations, ((0, 0), edge, edge, (0, 0)))


def _chunks(activations: np.ndarray, layer: Layer) -> Iterator[slice]:
    """Slices of the batch whose im2col matrix stays in the cache."""
    taps = layer.kernel**2 if isinstance(layer, Conv) else 1
    size = max(1, _CHUNK_BYTES // (activations[:1].nbytes * taps))
    return (slice(start, start + size) for start in range(0, len(activations), size))

"""im2col, and the weighted operations by it: matrix products in plain NumPy for any floating type.

Activations `(N, H, W, C)` give columns `(N, P, K)`: P output positions, K in the order (KH, KW, C)
of the weights `(K, O)`.  A fully connected layer is the case P = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fxsim.nn.spec import Conv, Dense, Shape


def columns(activations: np.ndarray, layer: Conv | Dense) -> np.ndarray:
    """im2col: activations `(N, H, W, C)` -> `(N, P, K)`, zeros where the kernel covers padding."""
    count = len(activations)
    if isinstance(layer, Dense):
        return activations.reshape(count, 1, -1)
    windows = sliding_window_view(
        _padded(activations, layer), (layer.kernel, layer.kernel), axis=(1, 2)
    )
    windows = windows[:, :: layer.stride, :: layer.stride].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(count, windows.shape[1] * windows.shape[2], -1)


def product(activations: np.ndarray, weight: np.ndarray, layer: Conv | Dense) -> np.ndarray:
    """The weighted operation without bias, `(N, P, O)`."""
    return columns(activations, layer) @ _matrix(weight)


def weight_gradient(
    activations: np.ndarray, gradient: np.ndarray, layer: Conv | Dense
) -> np.ndarray:
    """The gradient `(K, O)` of the weights, summed over the batch, from that of the operation
    `(N, P, O)`.
    """
    return _matrix(columns(activations, layer)).T @ _matrix(gradient)


def input_gradient(
    gradient: np.ndarray, weight: np.ndarray, input_shape: Shape, layer: Conv | Dense
) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from that of the operation `(N, P, O)`."""
    spread = gradient @ _matrix(weight).T
    if isinstance(layer, Dense):
        return spread.reshape(len(gradient), *input_shape)
    return _col2im(spread, input_shape, layer)


def _col2im(spread: np.ndarray, input_shape: Shape, layer: Conv) -> np.ndarray:
    """Adds columns `(N, P, K)` back into the positions that they were read from."""
    height, width, channels = input_shape
    padding = layer.padding
    stride = layer.stride
    kernel = layer.kernel
    rows, cols = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    spread = spread.reshape(-1, rows, cols, kernel, kernel, channels)
    total = np.zeros(
        (len(spread), height + 2 * padding, width + 2 * padding, channels), spread.dtype
    )
    for i in range(kernel):
        for j in range(kernel):
            total[:, i : i + stride * rows : stride, j : j + stride * cols : stride] += spread[
                :, :, :, i, j
            ]
    return np.ascontiguousarray(total[:, padding : padding + height, padding : padding + width])


def _matrix(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _padded(activations: np.ndarray, layer: Conv) -> np.ndarray:
    if not layer.padding:
        return activations
    edge = (layer.padding, layer.padding)
    return np.pad(activations, ((0, 0), edge, edge, (0, 0)))

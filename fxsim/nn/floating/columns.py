"""im2col, and the weighted operations by it: matrix products in plain NumPy for any floating type.

Activations `(N, H, W, C)` give columns `(N, P, K)`: P output positions, K in the order (KH, KW, C)
of the weights `(K, O)`.  A fully connected layer is a window of 1 x 1 over one position.  There are
no groups here, and products have no dilation.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fxsim.ops.products import Geometry
from fxsim.windows import Window


def columns(activations: np.ndarray, window: Window) -> np.ndarray:
    """im2col: activations `(N, H, W, C)` -> `(N, P, K)`, zeros where the kernel covers padding."""
    windows = sliding_window_view(_padded(activations, window), window.span, axis=(1, 2))
    down, across = window.stride
    row_step, column_step = window.dilation
    windows = windows[:, ::down, ::across, :, ::row_step, ::column_step]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(len(activations), windows.shape[1] * windows.shape[2], -1)


def product(activations: np.ndarray, weight: np.ndarray, window: Window) -> np.ndarray:
    """The weighted operation without bias, `(N, P, O)`."""
    return columns(activations, window) @ _matrix(weight)


def weight_gradient(activations: np.ndarray, gradient: np.ndarray, window: Window) -> np.ndarray:
    """The gradient `(K, O)` of the weights, summed over the batch, from that of the operation
    `(N, P, O)`.
    """
    return _matrix(columns(activations, window)).T @ _matrix(gradient)


def input_gradient(gradient: np.ndarray, weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient `(N, H, W, C)` of the layer's input from that of the operation `(N, P, O)`."""
    spread = gradient @ _matrix(weight).T
    height, width, channels = geometry.input
    window = geometry.window
    rows, cols, _ = geometry.output
    down, across = window.stride
    top, bottom, left, right = window.padding
    spread = spread.reshape(-1, rows, cols, *window.size, channels)
    total = np.zeros(
        (len(spread), height + top + bottom, width + left + right, channels), spread.dtype
    )
    for i in range(window.size[0]):
        for j in range(window.size[1]):
            read = slice(i, i + down * rows, down), slice(j, j + across * cols, across)
            total[:, read[0], read[1]] += spread[:, :, :, i, j]
    return np.ascontiguousarray(total[:, top : top + height, left : left + width])


def _matrix(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _padded(activations: np.ndarray, window: Window) -> np.ndarray:
    if not any(window.padding):
        return activations
    return np.pad(activations, ((0, 0), *window.edges, (0, 0)))

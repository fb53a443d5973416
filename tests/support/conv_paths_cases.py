"""What tests share.

Every product path gives the sums of a plain NumPy int64 reference, and the same codes from one
epilogue.
"""

from __future__ import annotations

import itertools

import numpy as np

from fxsim.kernels.products import conv
from fxsim.kernels.products.packing import pack_forward_weights, pack_input_grad_weights

SHAPES = [
    (1, 3, 3, 1, 1, 1, 1, 0),
    (3, 6, 5, 3, 7, 3, 1, 1),
    (2, 9, 8, 4, 66, 3, 2, 1),
    (5, 7, 7, 5, 16, 3, 3, 2),
    (4, 5, 6, 2, 65, 2, 2, 0),
    (7, 3, 3, 16, 130, 3, 1, 0),
    (13, 1, 1, 37, 10, 1, 1, 0),
    (2, 4, 4, 6, 8, 5, 1, 2),
]


def taps(x, kernel, stride, padding):
    """((r, s), view (N, OH, OW, C) of the padded int64 input that tap reads)."""
    x = np.pad(x.astype(np.int64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((size - kernel) // stride * stride + 1 for size in x.shape[1:3])
    for r, s in itertools.product(range(kernel), repeat=2):
        yield (r, s), x[:, r : r + height : stride, s : s + width : stride]


def forward_reference(x, w, stride, padding):
    return sum(part @ w[tap].astype(np.int64) for tap, part in taps(x, len(w), stride, padding))


def input_grad_reference(x_shape, w, g, stride, padding):
    n, height, width, channels = x_shape
    padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), np.int64)
    for r, s in itertools.product(range(len(w)), repeat=2):
        rows, columns = (
            slice(tap, tap + (size - 1) * stride + 1, stride)
            for tap, size in zip((r, s), g.shape[1:3])
        )
        padded[:, rows, columns] += g.astype(np.int64) @ w[r, s].T.astype(np.int64)
    return padded[:, padding : padding + height, padding : padding + width]


def weight_grad_reference(x, g, kernel, stride, padding):
    g = g.astype(np.int64)
    sums = [
        np.tensordot(part, g, ([0, 1, 2], [0, 1, 2]))
        for _, part in taps(x, kernel, stride, padding)
    ]
    return np.stack(sums).reshape(kernel, kernel, x.shape[3], g.shape[3])


def operands(shape, a_max, b_max, extreme, dtype=np.int16):
    """Codes of x and w: random within +-max, or all at the extremes that make the largest sums."""
    n, height, width, channels, outputs, kernel, stride, padding = shape
    rng = np.random.default_rng([n, height, channels, outputs, a_max])
    x = rng.integers(-a_max, a_max, (n, height, width, channels), endpoint=True)
    w = rng.integers(-b_max, b_max, (kernel, kernel, channels, outputs), endpoint=True)
    if extreme:
        x = np.full(x.shape, a_max)
        w = np.full(w.shape, -b_max)
    return x.astype(dtype), w.astype(dtype)


def run_all(shape, x, w, g, path, spill, grad_spill):
    """Raw sums (forward, input gradient, weight gradient) of one path."""
    stride, padding = shape[6:]
    forward, input_grad, weight_grad = (np.full(like.shape, -1, np.int64) for like in (g, x, w))
    conv.conv_forward(
        x, pack_forward_weights(w), stride, forward, padding=padding, spill_terms=spill, path=path
    )
    conv.conv_input_grad(
        g, pack_input_grad_weights(w), stride, padding, input_grad, spill_terms=spill, path=path
    )
    conv.conv_weight_grad(x, g, stride, padding, weight_grad, spill_terms=grad_spill, path=path)
    return forward, input_grad, weight_grad

"""The largest singular value of a layer's square-Jacobian, which bounds the noise reflected onto
its G^W.

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm",
ICLR 2019, section 3 and appendix.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds

from fxsim.errors import InputError, present
from fxsim.nn.floating import products as products
from fxsim.nn.floating.network import FloatNetwork, Tape
from fxsim.nn.geometry import geometry_of
from fxsim.windows import Window

_SMALL = 32


def largest_singular_values(network: FloatNetwork, images: np.ndarray) -> np.ndarray:
    """lambda_max of every layer, `(layers,)` float64, on one training batch `(N, H, W, C)`.

    See lambda_max.
    """
    tape = network.forward_tape(images)
    return np.array([lambda_max(network, tape, layer.name) for layer in network.network.layers])


def lambda_max(network: FloatNetwork, tape: Tape, name: str, tolerance: float = 5e-5) -> float:
    """The largest singular value of the squared Jacobian of G^W_l with respect to G^A_{l+1}, of
    layer `name`.

    tape: a forward pass of one batch with training=False.  tolerance: the relative error, at most.

    The Jacobian goes through pooling, ReLU mask and batch norm to the weighted operation, and
    through the im2col matrix of A_l to the weights.  The loss is the mean over the batch, so that
    G^A carries the factor 1/N and the Jacobian none.  Batch norm's backward pass counts as its
    scale alone, gamma / sqrt(running variance + epsilon), for the batch's means would make the
    Jacobian dense; dropout as the mean over its masks.

    The matrix is block diagonal over output channels; neither it nor a block is formed.
    Raises InputError for a layer that lets no gradient through.
    """
    operator = square_jacobian(network, tape, name)
    if not operator.rmatvec(np.ones(operator.shape[0], operator.dtype)).any():
        raise InputError(
            f"layer {name!r} lets no gradient through to its weights on these images; "
            "train the network, or give more images"
        )
    if min(operator.shape) <= _SMALL:
        found = _largest_of_small(operator)
    else:
        # Entries are not negative, so neither is the wanted vector: the start cannot be orthogonal
        # to it.
        start = np.ones(min(operator.shape), operator.dtype)
        # svds stops at a residual of tol^2 on the square of the singular value, which halves in its
        # root.
        found = svds(
            operator, k=1, v0=start, tol=math.sqrt(2 * tolerance), return_singular_vectors=False
        )[0]
    return float(found) / (1.0 - network.network.layer(name).dropout)


def _largest_of_small(operator: LinearOperator) -> float:
    """Where one side has so few dimensions that Lanczos' method would run out of them.

    Their Gram matrix.
    """
    narrow = operator if operator.shape[1] <= operator.shape[0] else operator.H
    image = narrow.matmat(np.eye(narrow.shape[1], dtype=operator.dtype))
    return math.sqrt(np.linalg.eigvalsh(image.T @ image)[-1])


def square_jacobian(network: FloatNetwork, tape: Tape, name: str) -> LinearOperator:
    """An operator with the singular values of the layer's square-Jacobian (transposed), without
    dropout.

    It maps `(K, O)` flat, the shape of G^W, to one entry for each element of G^A or, without
    average pooling, for each position before pooling: with max pooling an element of G^A reaches
    one position.
    """
    pool = tape.layers[name].layer.pool
    return (_averaged if pool and pool.kind == "average" else _routed)(network, tape, name)


def _routed(network: FloatNetwork, tape: Tape, name: str) -> LinearOperator:
    """Each element of G^A reaches at most one position p, with factor f[p]: rows f[p]^2 * C[p,
    :]^2.

    The square of the im2col matrix is the im2col matrix of the squared activations, so that the
    products are the executor's own.
    """
    entry = tape.layers[name]
    factors = _position_factors(network, tape, name) ** 2
    activations = entry.input**2

    def matvec(vector):
        weight = np.ascontiguousarray(vector.reshape(entry.shape.weight))
        return (factors * products.product(activations, weight, entry.layer, entry.shape)).ravel()

    def rmatvec(vector):
        gradient = factors * vector.reshape(factors.shape)
        return products.weight_gradient(activations, gradient, entry.layer, entry.shape).ravel()

    return LinearOperator((factors.size, entry.shape.weights), matvec, rmatvec, dtype=factors.dtype)


def _averaged(network: FloatNetwork, tape: Tape, name: str) -> LinearOperator:
    """Each element q of G^A reaches a whole window.

    Rows (sum of f[p] * C[p, :] over the window of q)^2.
    """
    entry = tape.layers[name]
    geometry = geometry_of(entry.layer, entry.shape)
    pool = present(entry.shape.pool)
    outputs = entry.shape.pre[2]
    factors = _windows(_position_factors(network, tape, name), entry.shape.pre, pool)
    columns = _windows(tape.columns(name), entry.shape.pre, pool)
    count, windows = factors.shape[:2]

    def rows(sample):  # (Q, O, K)
        return (factors[sample].transpose(0, 2, 1) @ columns[sample]) ** 2

    def matvec(vector):
        weights = geometry.filled(vector.reshape(geometry.weight)).reshape(-1, outputs)
        return np.concatenate(
            [np.einsum("qok,ko->qo", rows(sample), weights) for sample in range(count)]
        ).ravel()

    def rmatvec(vector):
        gradient = vector.reshape(count, windows, outputs)
        weights = sum(
            np.einsum("qok,qo->ko", rows(sample), gradient[sample]) for sample in range(count)
        )
        return geometry.gathered(weights.reshape(geometry.full.weight)).ravel()

    shape = (count * windows * outputs, entry.shape.weights)
    return LinearOperator(shape, matvec, rmatvec, dtype=factors.dtype)


def _position_factors(network: FloatNetwork, tape: Tape, name: str) -> np.ndarray:
    """`(N, P, O)`: the factor with which G^A reaches each position of the weighted operation."""
    ones = np.ones_like(tape.layers[name].output)
    return network.activation_gradients(tape, name, ones).operation


def _windows(positions: np.ndarray, pre: tuple[int, int, int], pool: Window) -> np.ndarray:
    """`(N, P, X)` as `(N, Q, places, X)`, the pooling windows."""
    (height, width, _) = pre
    (count, _, last) = positions.shape
    grid = positions.reshape(count, height, width, last)
    windows = np.lib.stride_tricks.sliding_window_view(grid, pool.size, axis=(1, 2))
    down, across = pool.stride
    windows = windows[:, ::down, ::across].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(count, -1, pool.taps, last)

"""The largest singular value of a layer's square-Jacobian, which bounds the noise reflected onto
its G^W.

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm",
ICLR 2019, section 3 and appendix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fxsim.analysis.lanczos import largest_eigenvalue
from fxsim.errors import InputError, present
from fxsim.nn.floating import products as products
from fxsim.nn.floating.activation import LayerTape
from fxsim.nn.floating.network import FloatNetwork, Tape
from fxsim.nn.geometry import geometry_of
from fxsim.windows import Window


@dataclass(frozen=True)
class SquareJacobian:
    """The square-Jacobian of a layer's G^W with respect to its G^A, transposed, without dropout; or
    with respect to the gradient at the pre-activations.

    Args:
        weights: shape of what it maps, (K, O), that of G^W.
        positions: shape of what it gives: an entry for each element of G^A or, without average
            pooling, for each position before pooling, as often as windows overlap (with max pooling
            an element of G^A reaches one position).
        multiply: float64 of shape `weights` to float64 of shape `positions`.
        multiply_transposed: the way back.
    """

    weights: tuple[int, int]
    positions: tuple[int, ...]
    multiply: Callable[[np.ndarray], np.ndarray]
    multiply_transposed: Callable[[np.ndarray], np.ndarray]

    def noise_gains(self) -> np.ndarray:
        """`(K, O)`: how much of the noise of all elements of G^A reaches each element of G^W."""
        return self.multiply_transposed(np.ones(self.positions))


def largest_singular_values(network: FloatNetwork, images: np.ndarray) -> dict[str, np.ndarray]:
    """Entries of Statistics: lambda_max of every layer, on one training batch `(N, H, W, C)`, and
    preactivation_lambda_max, 0 without batch norm; `(layers,)` float64.
    """
    tape = network.forward_tape(images)
    layers = network.network.layers
    return {
        "lambda_max": np.array([lambda_max(network, tape, layer.name) for layer in layers]),
        "preactivation_lambda_max": np.array(
            [
                preactivation_lambda_max(tape, layer.name) if layer.batch_norm else 0.0
                for layer in layers
            ]
        ),
    }


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
    jacobian = square_jacobian(network, tape, name)
    if not jacobian.noise_gains().any():
        raise InputError(
            f"layer {name!r} lets no gradient through to its weights on these images; "
            "train the network, or give more images"
        )
    return _largest(jacobian, tolerance) / (1.0 - network.network.layer(name).dropout)


def preactivation_lambda_max(tape: Tape, name: str, tolerance: float = 5e-5) -> float:
    """The same with respect to the gradient at the pre-activations of layer `name`.

    Nothing but the im2col matrix of A_l lies between that gradient and G^W_l.
    """
    return _largest(preactivation_square_jacobian(tape, name), tolerance)


def _largest(jacobian: SquareJacobian, tolerance: float) -> float:
    square = largest_eigenvalue(
        lambda vectors: jacobian.multiply_transposed(jacobian.multiply(vectors)),
        jacobian.weights,
        2 * tolerance,  # half of it in the root
    )
    return math.sqrt(square)


def square_jacobian(network: FloatNetwork, tape: Tape, name: str) -> SquareJacobian:
    """The layer's square-Jacobian; see SquareJacobian."""
    pool = tape.layers[name].layer.pool
    return (_averaged if pool and pool.kind == "average" else _routed)(network, tape, name)


def _routed(network: FloatNetwork, tape: Tape, name: str) -> SquareJacobian:
    """Each element of G^A reaches at most one position p, with factor f[p]: rows f[p]^2 * C[p,
    :]^2, for each set of disjoint windows.

    The square of the im2col matrix is the im2col matrix of the squared activations, so that the
    products are the executor's own.
    """
    factors = np.stack([found for _, found in _position_factors(network, tape, name)]) ** 2
    return _of_positions(tape.layers[name], factors)


def preactivation_square_jacobian(tape: Tape, name: str) -> SquareJacobian:
    """The square-Jacobian with respect to the gradient at the pre-activations: every position, with
    the factor 1.
    """
    entry = tape.layers[name]
    height, width, outputs = entry.shape.pre
    factors = np.broadcast_to(1.0, (1, len(entry.input), height * width, outputs))
    return _of_positions(entry, factors)


def _of_positions(entry: LayerTape, factors: np.ndarray) -> SquareJacobian:
    """factors: squared, `(sets, N, P, O)`."""
    activations = entry.input.astype(np.float64) ** 2
    weights = (entry.shape.dot_length, entry.shape.pre[2])

    def multiply(vector):
        weight = np.ascontiguousarray(vector.reshape(entry.shape.weight))
        return factors * products.product(activations, weight, entry.layer, entry.shape)

    def multiply_transposed(vector):
        gradient = (factors * vector).sum(axis=0)
        return products.weight_gradient(activations, gradient, entry.layer, entry.shape).reshape(
            weights
        )

    return SquareJacobian(weights, factors.shape, multiply, multiply_transposed)


def _averaged(network: FloatNetwork, tape: Tape, name: str) -> SquareJacobian:
    """Each element q of G^A reaches a whole window.

    Rows (sum of f[p] * C[p, :] over the window of q)^2.
    """
    entry = tape.layers[name]
    geometry = geometry_of(entry.layer, entry.shape)
    pool = present(entry.shape.pool)
    factors: np.ndarray | float = 0.0
    for chosen, found in _position_factors(network, tape, name):
        own = _windows(found, entry.shape.pre, pool)
        factors = factors + own * chosen.reshape(len(own), -1, 1, own.shape[-1])
    factors = np.asarray(factors)
    columns = _windows(tape.columns(name).astype(np.float64), entry.shape.pre, pool)
    count, windows, _, outputs = factors.shape
    weights = (entry.shape.dot_length, outputs)

    def rows(sample):  # (Q, O, K)
        pairs = zip(factors[sample], columns[sample])
        return np.stack([products.matrix_product(left.T, right) for left, right in pairs]) ** 2

    def multiply(vector):
        full = geometry.filled(vector.reshape(geometry.weight)).reshape(-1, outputs)
        return np.stack([np.einsum("qok,ko->qo", rows(sample), full) for sample in range(count)])

    def multiply_transposed(vector):
        total = np.zeros((columns.shape[-1], outputs))
        for sample in range(count):
            total += np.einsum("qok,qo->ko", rows(sample), vector[sample])
        return geometry.gathered(total.reshape(geometry.full.weight)).reshape(weights)

    return SquareJacobian(weights, (count, windows, outputs), multiply, multiply_transposed)


def _position_factors(
    network: FloatNetwork, tape: Tape, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each set of elements of G^A whose pooling windows are disjoint: 1 at these elements, and
    `(N, P, O)`, the factor with which they reach each position of the weighted operation.
    """
    entry = tape.layers[name]
    pool = entry.shape.pool or Window((1, 1))
    down, across = (-(-size // stride) for size, stride in zip(pool.size, pool.stride))
    for row, column in np.ndindex(down, across):
        chosen = np.zeros_like(entry.output)
        chosen[:, row::down, column::across] = 1.0
        if chosen.any():
            found = network.activation_gradients(tape, name, chosen).operation
            yield chosen, found.astype(np.float64)


def _windows(positions: np.ndarray, pre: tuple[int, int, int], pool: Window) -> np.ndarray:
    """`(N, P, X)` as `(N, Q, places, X)`, the pooling windows."""
    (height, width, _) = pre
    (count, _, last) = positions.shape
    grid = positions.reshape(count, height, width, last)
    windows = np.lib.stride_tricks.sliding_window_view(grid, pool.size, axis=(1, 2))
    down, across = pool.stride
    windows = windows[:, ::down, ::across].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(count, -1, pool.taps, last)

"""Noise gains: how strongly quantization noise in weights and activations moves decisions.

Source: C. Sakr, Y. Kim and N. Shanbhag, "Analytical Guarantees on Numerical Precision of Deep
Neural Networks", ICML 2017, with the factor 1/24 inside the gain as in Sakr and Shanbhag (ICLR
2019), section 3.

No sum here goes through BLAS, whose bits may depend on its threads.
"""

from __future__ import annotations

import numpy as np

from fxsim.analysis.decisions import Decisions, activation_tensors
from fxsim.errors import InputError, present
from fxsim.nn.floating import products as products
from fxsim.nn.floating.network import FloatNetwork, Tape
from fxsim.nn.geometry import geometry_of
from fxsim.nn.spec import Network


def noise_gains(
    network: FloatNetwork, images: np.ndarray, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The gains E_W of W_l and E_A of A_l for every layer: two float64 arrays `(layers,)`.

    E_T = mean over images of sum_{i != y} |d(Z_i - Z_y)/dT|^2 / (24 (Z_i - Z_y)^2), for scores Z
    and the float decision y = argmax Z.  Layers that read the same tensor have the same E_A, which
    counts every way from that tensor to the scores.

    images: `(N, H, W, C)` in [0, 1].  batch: images at a time, which bounds the memory.
    """
    return layer_gains(network.network, measure_decisions(network, images, batch).mean_gains())


def layer_gains(network: Network, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gains of tensors, in the order of Decisions, as E_W and E_A of every layer."""
    layers = len(network.layers)
    tensors = activation_tensors(network)
    rows = [layers + tensors.index(source) for _, source in network.edges()]
    return gains[:layers], gains[rows]


def measure_decisions(network: FloatNetwork, images: np.ndarray, batch: int = 64) -> Decisions:
    """The Decisions of images `(N, H, W, C)` in [0, 1], `batch` of them at a time.

    One backward pass for each class, with batch norm in inference mode and no dropout; the
    gradients of weights are taken for each image on its own.
    """
    if not len(images):
        raise InputError("images must be at least one to measure noise gains on")
    parts = []
    for start in range(0, len(images), batch):
        tape = network.forward_tape(images[start : start + batch])
        parts.append(_of_tape(network, tape))
    distances, squares = zip(*parts)
    gains = np.concatenate(squares, axis=1)
    tensors = len(gains) - len(network.network.layers)
    return Decisions(np.concatenate(distances), gains[:tensors], gains[tensors:])


def _of_tape(network: FloatNetwork, tape: Tape) -> tuple[np.ndarray, np.ndarray]:
    """distances, squares and after them operations of the images of one pass."""
    scores = tape.logits.astype(np.float64)
    # Stable, so that the first of equal scores is the decision, as with argmax.
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(len(scores))
    ranked = np.take_along_axis(scores, order, axis=1)
    norms = GradientNorms(network, tape)
    squares = []
    for rank in range(1, scores.shape[1]):
        seeds = np.zeros_like(scores)
        seeds[rows, order[:, rank]] = 1.0
        seeds[rows, order[:, 0]] = -1.0
        squares.append(norms.squared(seeds))
    return ranked[:, :1] - ranked[:, 1:], np.stack(squares, axis=2)


class GradientNorms:
    """Squared norms of gradients by every tensor, for each image of one forward pass."""

    def __init__(self, network: FloatNetwork, tape: Tape):
        self.network = network
        self.tape = tape
        self.sources = {layer.name: source for layer, source in network.network.edges()}
        self.column_products: dict[str, list[np.ndarray]] = {}

    def squared(self, seeds: np.ndarray) -> np.ndarray:
        """`(tensors + layers, N)`, the weighted operations last, for the gradient `seeds`
        `(N, outputs)` at the logits.
        """
        weights: dict[str, np.ndarray] = {}
        activations: dict[str | None, np.ndarray] = {}
        operations: dict[str, np.ndarray] = {}
        image_gradient: np.ndarray | float = 0.0
        for local in self.network.walk_back(self.tape, seeds, images=True):
            weights[local.name] = self._of_weights(local.name, local.operation)
            activations[local.name] = _squared_norms(local.output)
            operations[local.name] = _squared_norms(local.operation)
            if self.sources[local.name] is None:
                image_gradient = image_gradient + present(local.input)
        activations[None] = _squared_norms(np.asarray(image_gradient))
        return np.stack(
            [
                *(weights[name] for name in self.sources),
                *(activations[source] for source in activation_tensors(self.network.network)),
                *(operations[name] for name in self.sources),
            ]
        )

    def _of_weights(self, name: str, gradients: np.ndarray) -> np.ndarray:
        """|C^T G|^2 of each image, for C `(P, K)` of columns and G `(P, O)` of gradients, summed
        over the groups of the layer.

        With few positions through |C^T G|^2 = <C C^T, G G^T>, which never forms the K x O gradient.
        """
        entry = self.tape.layers[name]
        groups = geometry_of(entry.layer, entry.shape).group_slices
        positions, outputs = gradients.shape[1], gradients.shape[2] // len(groups)
        terms = entry.shape.dot_length
        if positions * (terms + outputs) < terms * outputs:
            if name not in self.column_products:  # the same for all classes
                self.column_products[name] = [
                    _by_own_transpose(columns) for columns, _ in self.tape.columns_by_group(name)
                ]
            pairs = zip(self.column_products[name], groups)
            return sum(
                np.einsum("npq,npq->n", products_of_columns, _by_own_transpose(gradients[..., own]))
                for products_of_columns, (_, own) in pairs
            )
        weight_gradients = (
            products.weight_gradient(
                entry.input[n : n + 1], gradients[n : n + 1], entry.layer, entry.shape
            )
            for n in range(len(gradients))
        )
        return np.array([_squared_norms(gradient[None])[0] for gradient in weight_gradients])


def _by_own_transpose(matrices: np.ndarray) -> np.ndarray:
    """X X^T for each X `(P, K)` of `(N, P, K)`."""
    return np.stack([products.matrix_product(matrix, matrix.T) for matrix in matrices])


def _squared_norms(values: np.ndarray) -> np.ndarray:
    """The squared norm of each image's part of values `(N, ...)`."""
    flat = values.reshape(len(values), -1)
    return np.einsum("nx,nx->n", flat, flat)

"""Noise gains: how strongly quantization noise in weights and activations moves decisions.

Source: C. Sakr, Y. Kim and N. Shanbhag, "Analytical Guarantees on Numerical Precision of Deep
Neural Networks", ICML 2017, with the factor 1/24 inside the gain as in Sakr and Shanbhag (ICLR
2019), section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from fxsim.errors import InputError, present
from fxsim.nn.floating.network import FloatNetwork, Tape


def noise_gains(
    network: FloatNetwork, images: np.ndarray, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The gains E_W of W_l and E_A of A_l for every layer: two float64 arrays `(layers,)`.

    E_T = mean over images of sum_{i != y} |d(Z_i - Z_y)/dT|^2 / (24 (Z_i - Z_y)^2), for scores Z
    and the float decision y = argmax Z.  One backward pass for each class, with batch norm in
    inference mode and no dropout; the gradients of weights are taken for each image on its own.
    Layers that read the same tensor have the same E_A, which counts every way from that tensor to
    the scores.

    An exact tie Z_i = Z_y is left out of the sum: no precision settles it.
    images: `(N, H, W, C)` in [0, 1].  batch: images at a time, which bounds the memory.
    """
    if not len(images):
        raise InputError("images must be at least one to measure noise gains on")
    weights: dict[str, float] = defaultdict(float)
    activations: dict[str | None, float] = defaultdict(float)
    for start in range(0, len(images), batch):
        tape = network.forward_tape(images[start : start + batch])
        for seeds in _decision_gradients(tape.logits):
            add_squared_norms(network, tape, seeds, weights, activations)
    return (
        np.array([weights[layer.name] for layer in network.network.layers]) / len(images),
        np.array([activations[source] for _, source in network.network.edges()]) / len(images),
    )


def _decision_gradients(scores: np.ndarray) -> Iterator[np.ndarray]:
    """For each class i the gradient `(N, classes)` of Z_i - Z_y by the scores, over sqrt(24) |Z_i -
    Z_y|.

    So scaled, the squared norm of what is propagated back is the term of the gain.  Rows with i = y
    or a tie are zero.
    """
    rows = np.arange(len(scores))
    scores = scores.astype(np.float64)
    decisions = scores.argmax(axis=1)
    distances = scores[rows, decisions, None] - scores
    scales = np.divide(
        1.0, np.sqrt(24.0) * distances, out=np.zeros_like(distances), where=distances > 0
    )
    for i in range(scores.shape[1]):
        seeds = np.zeros_like(scores)
        seeds[:, i] = scales[:, i]
        seeds[rows, decisions] -= scales[:, i]
        yield seeds


def add_squared_norms(
    network: FloatNetwork, tape: Tape, seeds: np.ndarray, weights: dict, activations: dict
) -> None:
    """Add to each layer's entries the squared norms of the gradients that `seeds` `(N, outputs)`,
    given at the outputs, have at its weights, image by image, and at its activations.
    """
    sources = {layer.name: source for layer, source in network.network.edges()}
    image_gradient: np.ndarray | float = 0.0
    for local in network.walk_back(tape, seeds, images=True):
        for columns, outputs in tape.columns_by_group(local.name):
            own = local.operation[..., outputs]
            weights[local.name] += _weight_gradient_norms(columns, own)
        activations[local.name] += _squared_norm(local.output)
        if sources[local.name] is None:
            image_gradient = image_gradient + present(local.input)
    activations[None] += _squared_norm(np.asarray(image_gradient))


def _weight_gradient_norms(columns: np.ndarray, gradients: np.ndarray) -> float:
    """Sum over samples of |C^T G|^2, for C `(P, K)` of columns `(N, P, K)` and G `(P, O)` of
    gradients.

    With few positions through |C^T G|^2 = <C C^T, G G^T>, which never forms the K x O gradient.
    """
    positions, terms, outputs = *columns.shape[1:], gradients.shape[2]
    if positions * (terms + outputs) < terms * outputs:
        return float(
            np.vdot(columns @ columns.transpose(0, 2, 1), gradients @ gradients.transpose(0, 2, 1))
        )
    return sum(_squared_norm(sample.T @ gradient) for sample, gradient in zip(columns, gradients))


def _squared_norm(values: np.ndarray) -> float:
    return float(np.vdot(values, values))

"""Losses in float, with their gradients: the twins of fxsim.ops.loss.

Each takes the outputs `(N, M)` and gives the mean loss of an image, and the gradient `(N, M)`
(float64) of that mean by the outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsim.arrays import real_array
from fxsim.errors import InputError, shown
from fxsim.nn.spec import Network
from fxsim.nn.targets import rows_of_targets
from fxsim.ops.loss import check_labels


def checked_targets(network: Network, targets: Any, images: int) -> np.ndarray:
    """Labels (N,) as int64, or targets (N, M) as float64.

    Raises:
        TypeError: for targets that are no real numbers, or labels that are no integers.
        InputError: for another shape, a label that is no class, a target that is not finite, or
            one outside 0 to 1 where the loss is sigmoid cross-entropy.
    """
    if network.decides:
        return check_labels(targets, images, network.classes)
    rows = rows_of_targets(network, real_array("targets", targets), images).astype(np.float64)
    if network.loss == "sigmoid_cross_entropy" and not ((rows >= 0) & (rows <= 1)).all():
        raise InputError(
            f"targets must be in [0, 1], got [{shown(float(rows.min()))}, "
            f"{shown(float(rows.max()))}]; sigmoid_cross_entropy takes them for probabilities"
        )
    return rows


def loss_of(network: Network, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The network's loss for targets from `checked_targets`."""
    if network.loss == "softmax_cross_entropy":
        return cross_entropy(outputs, targets)
    if network.decides:
        targets = np.eye(network.classes)[targets]
    return _ELEMENT_LOSSES[network.loss](outputs.astype(np.float64), targets)


def wrong_decisions(network: Network, outputs: np.ndarray, targets: np.ndarray) -> int | None:
    """Images whose first greatest output is not at the label; None without labels."""
    if not network.decides:
        return None
    return int(np.count_nonzero(outputs.argmax(axis=1) != targets))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The softmax cross-entropy."""
    rows = np.arange(len(labels))
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    loss = float(np.mean(np.log(sums) - shifted[rows, labels]))
    gradients = exponentials / sums[:, None]
    gradients[rows, labels] -= 1.0
    return loss, gradients / len(labels)


def _mse(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    differences = outputs - targets
    return float(np.mean(differences**2)), 2.0 * differences / differences.size


def _half_mse(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    differences = outputs - targets
    return float(np.sum(differences**2)) / 2 / len(outputs), differences / len(outputs)


def _sigmoid_cross_entropy(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    small = np.exp(-np.abs(outputs))  # never overflows
    losses = np.maximum(outputs, 0.0) - outputs * targets + np.log1p(small)
    sigmoids = np.where(outputs >= 0, 1.0, small) / (1.0 + small)
    return float(losses.sum()) / len(outputs), (sigmoids - targets) / len(outputs)


_ELEMENT_LOSSES = {
    "mse": _mse,
    "half_mse": _half_mse,
    "sigmoid_cross_entropy": _sigmoid_cross_entropy,
}

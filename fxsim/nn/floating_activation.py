"""What follows the weighted operation of a layer, in floating point, and its way back.

Forward, in this order: + bias or batch norm, + residual branch, clipped ReLU, pooling, dropout.  Batch
norm follows S. Ioffe and C. Szegedy, "Batch Normalization" (ICML 2015), the variance being the mean square
both in the batch and in the running statistics.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxsim.nn.norm import BATCH_NORM_EPSILON_EXP, RUNNING_RATE_EXP
from fxsim.nn.spec import RELU_RANGE_EXP, Layer, LayerShape, Pool
from fxsim.rng import Stream

RELU_MAX = 2.0**RELU_RANGE_EXP


@dataclass
class LayerTape:
    """What one layer keeps of a forward pass.

    input: A_l `(N, H, W, C)`.  operation: the weighted operation `(N, P, O)` before bias or batch norm.
    preactivation: `(N, H, W, O)`, what the ReLU reads.  output: A_{l+1}.  winner: the row-major place of
    each max pooling window's first maximum.  keep: dropout's factor per output, 0 or 1 / (1 - rate).
    mean, inverse: batch norm's per-channel mean and 1 / sqrt(variance + epsilon).
    """

    layer: Layer
    shape: LayerShape
    training: bool
    input: np.ndarray
    operation: np.ndarray
    preactivation: np.ndarray | None = None
    output: np.ndarray | None = None
    winner: np.ndarray | None = None
    keep: np.ndarray | None = None
    mean: np.ndarray | None = None
    inverse: np.ndarray | None = None


@dataclass
class ActivationGradients:
    """operation: gradient `(N, P, O)` of the weighted operation.  branch: of the residual branch, the shape of
    the pre-activation.  parameters: of bias, or of gamma and beta."""

    operation: np.ndarray
    branch: np.ndarray
    parameters: dict[str, np.ndarray]


def dropout_factor(layer: Layer, shape: tuple[int, ...], step: int, seed: int, dtype) -> np.ndarray:
    """0 where the word of Stream(seed, step, "<layer>.dropout") is below round(rate * 2**32), else 1 / (1 - rate)."""
    words = Stream(seed, step, f"{layer.name}.dropout").words(shape)
    kept = words >= round(layer.dropout * 2**32)
    return kept * dtype.type(1.0 / (1.0 - layer.dropout))


def activate(tape: LayerTape, parameters: dict[str, np.ndarray], branch: np.ndarray | None) -> None:
    """Fills the tape from its `operation` on; in training batch norm's running statistics move."""
    count = len(tape.operation)
    if tape.layer.batch_norm:
        _set_statistics(tape, parameters)
        scale = parameters["gamma"] * tape.inverse
        pre = tape.operation * scale + (parameters["beta"] - tape.mean * scale)
    else:
        pre = tape.operation + parameters["bias"]
    tape.preactivation = pre.reshape(count, *tape.shape.pre)
    if branch is not None:
        tape.preactivation += branch
    output = np.clip(tape.preactivation, 0.0, RELU_MAX) if tape.layer.relu else tape.preactivation
    if tape.layer.pool:
        output = _pool(tape, output)
    tape.output = output if tape.keep is None else output * tape.keep


def _set_statistics(tape: LayerTape, parameters: dict[str, np.ndarray]) -> None:
    mean, variance = parameters["running_mean"], parameters["running_var"]
    if tape.training:
        batch_mean = tape.operation.mean(axis=(0, 1), dtype=np.float64)
        batch_variance = np.square(tape.operation - batch_mean).mean(axis=(0, 1))
        mean += 2.0**RUNNING_RATE_EXP * (batch_mean - mean)
        variance += 2.0**RUNNING_RATE_EXP * (batch_variance - variance)
        mean, variance = batch_mean.astype(mean.dtype), batch_variance.astype(mean.dtype)
    tape.mean = mean.copy()
    tape.inverse = 1.0 / np.sqrt(variance + mean.dtype.type(2.0**BATCH_NORM_EPSILON_EXP))


def _windows(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps `(N, H, W, C)` as windows `(N, H // size, W // size, size * size, C)`, the remainder dropped."""
    count, height, width, channels = maps.shape
    rows, columns = height // size, width // size
    maps = maps[:, :rows * size, :columns * size].reshape(count, rows, size, columns, size, channels)
    return maps.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows, columns, size * size, channels)


def _pool(tape: LayerTape, maps: np.ndarray) -> np.ndarray:
    windows = _windows(maps, tape.layer.pool.size)
    if tape.layer.pool.kind == "average":
        return windows.mean(axis=3)
    tape.winner = windows.argmax(axis=3).astype(np.uint8)
    return windows.max(axis=3)


def _unpool(gradient: np.ndarray, pool: Pool, winner: np.ndarray | None, shape: tuple) -> np.ndarray:
    size, (count, rows, columns, channels) = pool.size, gradient.shape
    if pool.kind == "average":
        spread = np.repeat(gradient[:, :, :, None] / size**2, size * size, axis=3)
    else:
        places = np.arange(size * size)[:, None]
        spread = np.where(winner[:, :, :, None] == places, gradient[:, :, :, None], 0.0)
    spread = spread.reshape(count, rows, columns, size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    full = np.zeros((count, *shape), gradient.dtype)
    full[:, :rows * size, :columns * size] = spread.reshape(count, rows * size, columns * size, channels)
    return full


def activate_backward(tape: LayerTape, parameters: dict[str, np.ndarray], gradient: np.ndarray) -> ActivationGradients:
    """From the gradient of the layer's output to those of the weighted operation, branch and parameters.

    Straight-through: the gradient passes where 0 < pre-activation < 2, both excluded.
    """
    if tape.keep is not None:
        gradient = gradient * tape.keep
    if tape.layer.pool:
        gradient = _unpool(gradient, tape.layer.pool, tape.winner, tape.shape.pre)
    if tape.layer.relu:
        gradient = gradient * ((tape.preactivation > 0.0) & (tape.preactivation < RELU_MAX))
    flat = gradient.reshape(tape.operation.shape)
    if not tape.layer.batch_norm:
        return ActivationGradients(flat, gradient, {"bias": flat.sum(axis=(0, 1))})
    normalized = (tape.operation - tape.mean) * tape.inverse
    sums = {"gamma": (flat * normalized).sum(axis=(0, 1)), "beta": flat.sum(axis=(0, 1))}
    operation = flat
    if tape.training:
        terms = flat.shape[0] * flat.shape[1]
        operation = flat - sums["beta"] / terms - normalized * (sums["gamma"] / terms)
    return ActivationGradients(operation * (parameters["gamma"] * tape.inverse), gradient, sums)

"""What follows the weighted operation of a layer, in floating point, and its way back.

Forward, in this order: + bias or batch norm, + residual branch, activation, pooling, dropout.
Batch norm follows S. Ioffe and C. Szegedy, "Batch Normalization" (ICML 2015), the variance being
the mean squared deviation both in the batch and in the running statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fxsim.errors import present
from fxsim.factors import Factor
from fxsim.kernels.floating import activation as kernels
from fxsim.nn.floating.function import Function
from fxsim.nn.floating.threads import run
from fxsim.nn.spec import BatchNorm, Conv, Dense, Layer, LayerShape
from fxsim.ops.dropout import kept
from fxsim.rng import tensor_stream
from fxsim.windows import Window


@dataclass
class LayerTape:
    """What one layer keeps of a forward pass.

    input: A_l `(N, H, W, C)`.  operation: the weighted operation `(N, H, W, O)` before bias or
    batch norm. branch: the output `(N, H, W, O)` that joins before the activation, None without one.
    output: A_{l+1}. scale, shift `(O,)`: the pre-activation is scale * operation + shift + branch.
    `activate` fills these three in.
    mean, inverse `(O,)` float64: batch norm's mean and 1 / sqrt(variance + epsilon). winner: the
    row-major place of each max pooling window's first maximum.
    keep: dropout's factor for each output, 0 or 1 / (1 - rate); None where nothing is dropped.
    range: what replaces the range of the activation function, if the layer has one; None for its own.
    """

    layer: Conv | Dense
    shape: LayerShape
    training: bool
    input: np.ndarray
    operation: np.ndarray
    branch: np.ndarray | None = None
    output: np.ndarray = field(init=False)
    scale: np.ndarray = field(init=False)
    shift: np.ndarray = field(init=False)
    mean: np.ndarray | None = None
    inverse: np.ndarray | None = None
    winner: np.ndarray | None = None
    keep: np.ndarray | None = None
    range: tuple[float, float] | None = None

    @property
    def applied(self) -> Function | None:
        """The activation function where kernels do not have it: neither none nor a ReLU."""
        own = self.layer.activation
        if self.range is not None or own.is_relu or own.kind == "none":
            return None
        return Function(own)

    @property
    def preactivation(self) -> np.ndarray:
        """`(N, H, W, O)`, what the activation reads; computed anew."""
        value = self.operation * self.scale + self.shift
        return value if self.branch is None else value + self.branch


@dataclass
class ActivationGradients:
    """operation: gradient `(N, P, O)` of the weighted operation.  branch: of the residual branch
    `(N, H, W, O)`, None without one.  parameters: of bias, or of gamma and beta, summed over the
    batch.
    """

    operation: np.ndarray
    branch: np.ndarray | None
    parameters: dict[str, np.ndarray]


def dropout_factor(
    layer: Layer, shape: tuple[int, ...], step: int, seed: int, dtype: np.dtype
) -> np.ndarray:
    """0 for elements that are dropped, 1 / (1 - rate) for those that are kept."""
    words = tensor_stream(seed, step, layer.name, "dropout").words(shape)
    return kept(layer.dropout, words) * dtype.type(1.0 / (1.0 - layer.dropout))


def activate(tape: LayerTape, parameters: dict[str, np.ndarray]) -> None:
    """Fills the tape's scale, shift and output.

    In training batch norm's running statistics move.
    """
    if tape.layer.norm:
        _set_norm(tape, tape.layer.norm, parameters)
    else:
        outputs = tape.operation.shape[-1:]
        bias = parameters.get("bias")
        tape.scale = np.ones(outputs, tape.operation.dtype)
        tape.shift = np.zeros(outputs, tape.operation.dtype) if bias is None else bias.copy()
    preactivation = _preactivation(tape)
    if tape.applied is not None:
        preactivation = _as_it_is(tape, tape.applied.forward(tape.preactivation))
    tape.output = np.empty((len(tape.operation), *tape.shape.output), tape.operation.dtype)
    pool = tape.layer.pool
    if pool and pool.kind == "max":
        most = present(tape.shape.pool).taps - 1
        tape.winner = np.empty(tape.output.shape, np.min_scalar_type(most))
    _run(tape, kernels.activate, preactivation, _pooling(tape), tape.output)
    if tape.keep is not None:
        tape.output *= tape.keep


def activate_backward(
    tape: LayerTape, parameters: dict[str, np.ndarray], gradient: np.ndarray
) -> ActivationGradients:
    """From the gradient of the layer's output to those of the weighted operation, branch and
    parameters.

    Straight-through: the gradient passes a ReLU where 0 < pre-activation < ceiling, both excluded.
    """
    gradient = np.ascontiguousarray(gradient if tape.keep is None else gradient * tape.keep)
    pooling = _pooling(tape)
    if tape.applied is not None:
        gradient = _before_function(tape, gradient)
        pooling = kernels.Pooling(1, 1, 1, 1, 0, 0, False, _stand_in(tape, np.dtype(np.uint8)))
    arguments = (_preactivation(tape), pooling, gradient)
    sums = np.empty((len(gradient), 2, tape.scale.size))
    _run(tape, kernels.gradient_sums, *arguments, sums)
    total, product_total = sums.sum(axis=0)
    constant = np.zeros_like(total)
    slope = np.zeros_like(total)
    parameter_gradients = {"bias": total} if tape.layer.has_bias else {}
    if tape.layer.norm:
        gamma_total = present(tape.inverse) * (product_total - present(tape.mean) * total)
        parameter_gradients = {"gamma": gamma_total, "beta": total}
        if tape.training and not tape.layer.norm.frozen:
            constant, slope = _norm_backward(tape, total, gamma_total)
    dtype = tape.operation.dtype
    operation = np.empty_like(tape.operation)
    branch = np.empty_like(tape.operation) if tape.branch is not None else _stand_in(tape, dtype)
    _run(
        tape,
        kernels.activate_backward,
        *arguments,
        constant.astype(dtype),
        slope.astype(dtype),
        operation,
        branch,
    )
    return ActivationGradients(
        operation.reshape(len(gradient), -1, tape.scale.size),
        None if tape.branch is None else branch,
        {name: value.astype(dtype) for name, value in parameter_gradients.items()},
    )


def _before_function(tape: LayerTape, gradient: np.ndarray) -> np.ndarray:
    """The gradient at what a function that kernels do not have reads."""
    own = present(tape.applied)
    inner = np.empty_like(tape.operation)
    zeros = np.zeros_like(tape.scale)
    identity = _as_it_is(tape, tape.operation)
    arguments = (identity, _pooling(tape), gradient, zeros, zeros, inner)
    _run(tape, kernels.activate_backward, *arguments, _stand_in(tape, inner.dtype))
    derivative: np.ndarray = own.derivative(tape.preactivation)
    return np.ascontiguousarray(inner * derivative, inner.dtype)


def _as_it_is(tape: LayerTape, maps: np.ndarray) -> kernels.Preactivation:
    """Maps (N, H, W, O) as a pre-activation that nothing is done to."""
    dtype = tape.operation.dtype
    ones, zeros = np.ones_like(tape.scale), np.zeros_like(tape.scale)
    ends = dtype.type(-np.inf), dtype.type(np.inf)
    return kernels.Preactivation(
        np.ascontiguousarray(maps, dtype), ones, zeros, _stand_in(tape, dtype), *ends
    )


def _set_norm(tape: LayerTape, norm: BatchNorm, parameters: dict[str, np.ndarray]) -> None:
    running_mean = parameters["running_mean"]
    running_variance = parameters["running_var"]
    mean = running_mean.astype(np.float64)
    variance = running_variance.astype(np.float64)
    if tape.training and not norm.frozen:
        mean, variance = _batch_statistics(tape)
        rate = Factor.nearest(norm.running_rate).real
        running_mean += rate * (mean - running_mean)
        running_variance += rate * (variance - running_variance)
    tape.mean = mean
    tape.inverse = 1.0 / np.sqrt(variance + Factor.nearest(norm.epsilon).real)
    scale = parameters["gamma"] * tape.inverse
    dtype = tape.operation.dtype
    tape.scale = scale.astype(dtype)
    tape.shift = (parameters["beta"] - mean * scale).astype(dtype)


def _batch_statistics(tape: LayerTape) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance `(O,)` over images and positions, float64."""
    operation = tape.operation
    sums = np.empty((len(operation), 2, operation.shape[-1]))
    _run(tape, kernels.channel_sums, operation, sums)
    mean, square = sums.sum(axis=0) / (operation.size // operation.shape[-1])
    return mean, np.maximum(square - mean**2, 0.0)


def _norm_backward(
    tape: LayerTape, total: np.ndarray, gamma_total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(constant, slope) of the gradient of z, scale * g + constant + slope * z.

    With M terms per channel and x = (z - mean) * inverse it is scale * (g - sum(g) / M - x * sum(g
    * x) / M).
    """
    terms = tape.operation.size // tape.scale.size
    slope = -tape.scale * present(tape.inverse) * gamma_total / terms
    return -tape.scale * total / terms - slope * present(tape.mean), slope


def _run(tape: LayerTape, kernel, *arguments) -> None:
    """The kernel on all images.

    A visit of an element takes as long as some 16 multiply-adds of a product.
    """
    run(kernel, arguments, len(tape.operation), 16 * tape.operation.size)


def _preactivation(tape: LayerTape) -> kernels.Preactivation:
    dtype = tape.operation.dtype
    activation = tape.layer.activation
    replaced = tape.range if activation.kind != "none" else None
    low, high = replaced or activation.float_range
    branch = _stand_in(tape, dtype) if tape.branch is None else tape.branch
    return kernels.Preactivation(
        tape.operation, tape.scale, tape.shift, branch, dtype.type(low), dtype.type(high)
    )


def _pooling(tape: LayerTape) -> kernels.Pooling:
    pool = tape.layer.pool
    window = tape.shape.pool or Window((1, 1))
    winner = _stand_in(tape, np.dtype(np.uint8)) if tape.winner is None else tape.winner
    maximum = pool is not None and pool.kind == "max"
    return kernels.Pooling(*window.size, *window.stride, *window.before, maximum, winner)


def _stand_in(tape: LayerTape, dtype: np.dtype) -> np.ndarray:
    return np.zeros((1, 1, 1, tape.scale.size), dtype)

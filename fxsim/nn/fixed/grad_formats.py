"""Formats of the gradients within a layer, on their way from its output to its products."""

from __future__ import annotations

from fxsim.errors import InputError
from fxsim.formats import MAX_TENSOR_BITS, Format
from fxsim.nn.fixed.activation import inner_format
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.spec import Layer, LayerShape
from fxsim.ops.dropout import grad_format
from fxsim.ops.pooling import average_grad_format, max_grad_format


def preactivation_grad_format(format: Format) -> Format:
    """The format of the gradient at pre-activations of batch norm, which one tensor can have."""
    if format.bits > MAX_TENSOR_BITS:
        raise InputError(
            f"the gradient at the pre-activations of batch norm needs {format.bits} bits, at most "
            f"{MAX_TENSOR_BITS}; give preactivation_grads a format, or activation_grads fewer bits"
        )
    return format


def inner_grad_format(layer: Layer, shape: LayerShape, formats: LayerPrecision) -> Format:
    """The format of the gradient at what the activation reads."""
    grads = unpooled_grad_format(layer, shape, formats.activation_grads)
    return formats.relu_input_grads or inner_format(layer.activation, grads)


def unpooled_grad_format(layer: Layer, shape: LayerShape, format: Format) -> Format:
    """The format of the gradient at what leaves the activation.

    It is that of the gradient at the output, scaled by dropout, with a finer step where average
    pooling divides, and wider where pooling's windows overlap.
    """
    dropped = grad_format(format, layer.dropout)
    if layer.pool is None or shape.pool is None:
        return dropped
    if layer.pool.kind == "average":
        return average_grad_format(dropped, shape.pool)
    return max_grad_format(dropped, shape.pool)

"""Activation functions by the names of ONNX's operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fxsim.activation import LEAST_SLOPE_EXP, Activation
from fxsim.errors import InputError, shown
from fxsim.interchange.graph import Node

Optional = Callable[[Node, int, str], "np.ndarray | None"]
"""Optional(node, number, what): the constant that is this input of the node, None where none is."""


def _relu(node: Node, optional: Optional) -> Activation:
    node.options()
    return Activation("relu")


def _clip(node: Node, optional: Optional) -> Activation:
    options = node.options(min=None, max=None)
    ends = []
    for at, name in ((1, "min"), (2, "max")):
        given = optional(node, at, name)
        value = options[name] if given is None else given
        if value is not None and (np.size(value) != 1 or not np.isfinite(value)):
            raise InputError(f"{name} must be a number, got {shown(value)}")
        ends.append(None if value is None else float(np.reshape(value, ())))
    low, high = ends
    if low != 0:
        raise InputError(f"min must be 0, that of a ReLU with a ceiling, got {shown(low)}")
    return Activation("relu", ceiling=None if high == float(np.finfo(np.float32).max) else high)


def _leaky_relu(node: Node, optional: Optional) -> Activation:
    alpha = node.options(alpha=0.01)["alpha"]
    mantissa, exponent = math.frexp(alpha)
    if mantissa != 0.5 or not LEAST_SLOPE_EXP <= exponent - 1 <= -1:
        near = 2.0 ** min(max(exponent - (mantissa < 0.75), LEAST_SLOPE_EXP), -1)
        raise InputError(
            f"alpha must be a power of two, 2^{LEAST_SLOPE_EXP} to 1/2, got {alpha:g}; train with "
            f"{near:g}"
        )
    return Activation("leaky_relu", slope_exp=exponent - 1)


def _table(function: Any) -> Callable[[Node, Optional], Activation]:
    def make(node: Node, optional: Optional) -> Activation:
        node.options()
        return Activation("table", function=function)

    return make


ACTIVATIONS: dict[str, Callable[[Node, Optional], Activation]] = {
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": _table("sigmoid"),
    "Tanh": _table("tanh"),
}
"""Operator -> its function, which raises InputError for what fxsim does not have."""

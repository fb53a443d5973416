"""Initial parameters, the same bits on every machine; and what a caller's parameters must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fxsim.arrays import real_array
from fxsim.errors import InputError, choice, shown
from fxsim.nn.spec import Layer, LayerShape, Network
from fxsim.rng import Stream
from fxsim.tensor import Tensor

WEIGHT_MAX = 1.0 - 2.0**-24
"""Weights and biases stay in [-1, WEIGHT_MAX], the largest float32 below 1."""

Parameters = dict[str, dict[str, np.ndarray]]
"""For each layer its weight, and bias or gamma, beta, running_mean and running_var."""


def parameter_shapes(layer: Layer, shape: LayerShape) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of one layer; per-channel ones are `(O,)`."""
    running = ("running_mean", "running_var") if layer.batch_norm else ()
    others = (*layer.further_parameters, *running)
    return {"weight": shape.weight} | dict.fromkeys(others, shape.weight[-1:])


def initial_parameters(network: Network, seed: int) -> Parameters:
    """float64 parameters to start training from.

    Weights are uniform in +-sqrt(6 / fan_in) (K. He et al., "Delving Deep into Rectifiers", ICCV
    2015), clipped to [-1, WEIGHT_MAX], from the words of Stream(seed, 0, "<layer>.weight").
    Biases, beta and the running mean start at 0, gamma and the running variance at 1.  Only
    operations that IEEE 754 rounds correctly take part, so the bits depend on nothing but network
    and seed.

    Raises:
        TypeError: network is no Network, or seed no integer.
        InputError: a seed outside 0 to 2**64 - 1.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a fxsim.Network, got {shown(network)}")
    return {
        layer.name: _initial_layer(layer, network.shape(layer.name), seed)
        for layer in network.layers
    }


def _initial_layer(layer: Layer, shape: LayerShape, seed: int) -> dict[str, np.ndarray]:
    starts = {"bias": 0.0, "gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
    shapes = parameter_shapes(layer, shape)
    parameters = {
        name: np.full(shapes[name], value) for name, value in starts.items() if name in shapes
    }
    words = Stream(seed, 0, f"{layer.name}.weight").words(shape.weight)
    uniform = words * 2.0**-31 - 1.0  # exact: 32 bits fit a float64
    return {
        "weight": np.clip(math.sqrt(6.0 / shape.dot_length) * uniform, -1.0, WEIGHT_MAX)
    } | parameters


def checked_parameters(network: Network, parameters: Any) -> Parameters:
    """Real parameters, layer -> name -> float64 array, all of them and no other.

    Raises:
        TypeError: for integers, which would be taken for real values, or anything that is no array.
        InputError: for a name that is missing or unknown, another shape, NaN or infinity.
    """
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"parameters must be a dictionary of layers, got {type(parameters).__name__}"
        )
    for name in parameters:
        choice("parameters: layer", name, network.names)
    return {layer.name: _layer_parameters(network, layer, parameters) for layer in network.layers}


def _layer_parameters(network: Network, layer: Any, parameters: Mapping) -> dict[str, np.ndarray]:
    if layer.name not in parameters:
        raise InputError(f"parameters of layer {layer.name!r} are missing")
    given = parameters[layer.name]
    shapes = parameter_shapes(layer, network.shape(layer.name))
    if not isinstance(given, Mapping):
        raise TypeError(f"parameters of layer {layer.name!r} must be a dictionary of arrays")
    for name in given:
        choice(f"layer {layer.name!r}: parameter", name, shapes)
    for name in shapes:
        if name not in given:
            raise InputError(f"layer {layer.name!r}: parameter {name!r} is missing")
    return {name: _parameter(layer.name, name, given[name], shapes[name]) for name in shapes}


def _parameter(layer: str, name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    argument = f"layer {layer!r}: parameter {name!r}"
    if isinstance(value, Tensor):
        value = value.real
    array = real_array(argument, value)
    if array.dtype.kind in "iu":
        raise TypeError(
            f"{argument} must hold real values as floats, got dtype {array.dtype}; pass codes as a "
            "fxsim.Tensor"
        )
    if name == "running_var" and array.size and array.min() < 0:
        raise InputError(f"{argument} must be at least 0, got {array.min():g}")
    if array.shape != shape:
        raise InputError(
            f"{argument} must have shape {shape}, got {array.shape}{_hint(array, shape)}"
        )
    return array


def _hint(array: np.ndarray, shape: tuple[int, ...]) -> str:
    """What to do about a layout of PyTorch's."""
    if len(shape) == 4 and array.shape == (shape[3], shape[2], shape[0], shape[1]):
        return "; this is PyTorch's layout (O, C, KH, KW), pass weight.transpose(2, 3, 1, 0)"
    if len(shape) == 2 and array.shape == shape[::-1]:
        return "; this is PyTorch's layout (O, I), pass weight.T (and mind the order of flattening)"
    return ""

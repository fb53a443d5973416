"""Initial parameters, the same bits on every machine."""

from __future__ import annotations

import math

import numpy as np

from fxsim.errors import shown
from fxsim.nn.spec import Layer, LayerShape, Network
from fxsim.rng import Stream

WEIGHT_MAX = 1.0 - 2.0**-24
"""Weights and biases stay in [-1, WEIGHT_MAX], the largest float32 below 1."""

Parameters = dict[str, dict[str, np.ndarray]]
"""For each layer its weight, and bias or gamma, beta, running_mean and running_var."""


def parameter_shapes(layer: Layer, shape: LayerShape) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of one layer; per-channel ones are `(O,)`."""
    others = ("bias",) if layer.bias else ("gamma", "beta", "running_mean", "running_var")
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

"""What callers bring to the integer executor: parameters, images, learning rates, states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fxsim.arrays import check_range, integer_array, real_array
from fxsim.errors import InputError, choice
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.init import Parameters, parameter_shapes
from fxsim.nn.spec import Network
from fxsim.tensor import Tensor


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


def checked_images(images: Any, network: Network, format: Format) -> Tensor:  # noqa: A002
    """Image codes (N, H, W, C) in `format`.

    Raises:
        TypeError: for codes that are no integers.
        InputError: for another shape, or codes outside the format.
    """
    way_out = "use fxsim.datasets.pixels.pixel_codes or fxsim.quantize"
    if isinstance(images, Tensor):
        if images.format != format:
            raise InputError(
                f"images must be in the input format {format}, got {images.format}; requantize them"
            )
        images = images.codes
    array = integer_array("images", images, way_out)
    height, width, channels = network.input_shape
    if array.shape[1:] != network.input_shape or array.ndim != 4 or not len(array):
        nchw = array.shape[1:] == (channels, height, width)
        hint = "; these are (N, C, H, W), pass images.transpose(0, 2, 3, 1)" if nchw else ""
        raise InputError(
            f"images must have shape (N, {height}, {width}, {channels}), got {array.shape}{hint}"
        )
    check_range("images", array, format.min_code, format.max_code, f"they are codes of {format}")
    return Tensor._of(np.ascontiguousarray(array, format.storage), format)


def checked_rate(rate: Any) -> LearningRate:
    """A LearningRate, or the nearest to a float."""
    return rate if isinstance(rate, LearningRate) else LearningRate.of(rate)


def checked_step(step: Any) -> int:
    """The number of a training step, part of the key of its random words."""
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"step must be an integer, the number of the training step, got {step!r}")
    if not 0 <= step < 2**32:
        raise InputError(f"step must be 0 to 2**32 - 1, got {step}")
    return int(step)


def checked_state(
    own: Mapping[str, tuple[np.ndarray, Format]], given: Any
) -> dict[str, np.ndarray]:
    """The given arrays of a state.

    Raises:
        InputError: for a name that is missing or unknown, another shape or dtype, or codes outside
            their format.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"a state must be a dictionary of arrays, got {type(given).__name__}")
    for name in (*own, *given):
        if name not in given or name not in own:
            raise InputError(f"array {name!r} is {'missing' if name in own else 'unknown'}")
    for name, (array, format) in own.items():
        other = given[name]
        if not isinstance(other, np.ndarray):
            raise TypeError(f"array {name!r} must be a NumPy array, got {type(other).__name__}")
        if (other.shape, other.dtype) != (array.shape, array.dtype):
            raise InputError(
                f"array {name!r} must be {array.dtype} of shape {array.shape}, "
                f"got {other.dtype} of shape {other.shape}"
            )
        check_range(
            f"array {name!r}",
            other,
            format.min_code,
            format.max_code,
            f"it holds codes of {format}",
        )
    return dict(given)

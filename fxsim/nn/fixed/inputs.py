"""What callers bring to the integer executor: images, learning rates, states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fxsim.arrays import check_range, integer_array
from fxsim.errors import InputError, shown
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.spec import Network
from fxsim.tensor import Tensor


def checked_images(images: Any, network: Network, format: Format) -> Tensor:
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
    return _word_of_32_bits("step", step, "the number of the training step")


def checked_first(first: Any) -> int:
    """The place of an image in its data set, which decides on its random words."""
    return _word_of_32_bits("first", first, "the place of the first image in its data set")


def _word_of_32_bits(name: str, value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, {what}, got {shown(value)}")
    if not 0 <= value < 2**32:
        raise InputError(f"{name} must be 0 to 2**32 - 1, got {shown(value)}")
    return int(value)


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
        if not isinstance(other, np.ndarray) or isinstance(other, np.ma.MaskedArray):
            raise TypeError(
                f"array {name!r} must be a plain NumPy array, got {type(other).__name__}"
            )
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

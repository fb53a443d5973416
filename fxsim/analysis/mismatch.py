"""How often fixed-point inference decides otherwise than float, which criterion EFQN bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fxsim.datasets.pixels import pixel_codes
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.precision import PrecisionAssignment


def mismatch(
    network: FloatNetwork, assignment: PrecisionAssignment, pixels: np.ndarray, pixel_max: int
) -> float:
    """The share of pictures that the float network and the same parameters in fixed point decide
    differently.

    pixels: `(N, H, W, C)`, 0 to pixel_max.  A decision is the first of the greatest scores.
    """
    return float(
        np.mean(
            float_decisions(network, pixels, pixel_max)
            != fixed_decisions(network.network, assignment, network.parameters, pixels, pixel_max)
        )
    )


def float_decisions(network: FloatNetwork, pixels: np.ndarray, pixel_max: int) -> np.ndarray:
    """The class (N,) that the float network gives each image."""
    scale = network.dtype.type(pixel_max)
    return _decisions(lambda part, first: network.logits(part / scale), pixels)


def fixed_decisions(
    network,
    assignment: PrecisionAssignment,
    parameters: Parameters,
    pixels: np.ndarray,
    pixel_max: int,
) -> np.ndarray:
    """The class (N,) that the network in fixed point gives each image."""
    fixed = FixedNetwork(network, assignment, parameters)
    codes = pixel_codes(pixel_max, fixed.input_format)
    return _decisions(lambda part, first: fixed.logits(codes[part], first), pixels)


def _decisions(scores: Callable[[np.ndarray, int], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """The first of the greatest scores (images, place of the first) of each picture."""
    parts = np.array_split(np.arange(len(pixels)), -(-len(pixels) // 256))
    return np.concatenate([np.argmax(scores(pixels[part], int(part[0])), axis=1) for part in parts])

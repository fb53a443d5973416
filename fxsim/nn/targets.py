"""What the outputs of a network are compared with: labels, or an array for each image."""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.nn.spec import Network


def rows_of_targets(network: Network, targets: np.ndarray, images: int) -> np.ndarray:
    """Targets of any element type as (images, outputs), row-major.

    Args:
        network: one whose targets are tensors.
        targets: (N, H, W, O) as the outputs are, (N, outputs), or (N, H, W, C) as the images are,
            where an image has as many elements as the outputs.
        images: N.

    Raises:
        InputError: for another shape.

    Example:
        >>> from fxsim import Dense, Network
        >>> layers = (Dense(name="out", units=4, relu=False),)
        >>> network = Network("small", (2, 2, 1), layers, loss="mse", targets="tensors")
        >>> rows_of_targets(network, np.zeros((3, 2, 2, 1)), 3).shape
        (3, 4)
    """
    shapes = [network.output_shape, (network.outputs,)]
    if np.prod(network.input_shape, dtype=object) == network.outputs:
        shapes.append(network.input_shape)
    if targets.shape not in [(images, *shape) for shape in shapes]:
        height, width, channels = network.output_shape
        raise InputError(
            f"targets must have shape ({images}, {height}, {width}, {channels}), that of the "
            f"outputs, or ({images}, {network.outputs}), got {targets.shape}"
        )
    return targets.reshape(images, network.outputs)

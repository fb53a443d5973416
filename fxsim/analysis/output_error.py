"""Criterion EFQN for networks that decide nothing: a bound on the error of their outputs.

With labels B_min follows from how often fixed point decides otherwise than float.  Where the targets
are tensors it follows from E, the mean over images and outputs of the squared difference between
the outputs in fixed point and in float:

    E = sum over weights and activations T of D_T^2 G_T        G_T the noise gain of T, below
    E <= target * L                                            L the float network's loss

L is the loss in units of a squared error: `output_loss`.  With noise gains in place of those of
decisions, all of EFQN holds as it is: the same bits over the least gain, the same search for B_min.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxsim.analysis.noise_gains import GradientNorms, layer_gains
from fxsim.analysis.statistics import Statistics
from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.precision import PrecisionAssignment
from fxsim.rng import Stream

OUTPUT_EFQN = "EFQN, MSE"
"""The criterion's name in reasons: EFQN under a bound on the outputs' mean squared error."""

MOST_SEEDS = 64
"""Backward passes of a batch of images, at most."""


def output_gains(
    network: FloatNetwork, images: np.ndarray, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The gains G_W of W_l and G_A of A_l for every layer: two float64 arrays `(layers,)`.

    G_T = mean over images of sum_i |dZ_i/dT|^2 / (12 M) over the M outputs Z_i: uniform noise of
    the step D has the variance D^2/12, and to first order reaches Z through dZ/dT.  With more than
    MOST_SEEDS outputs the sum is estimated without bias, for each image by MOST_SEEDS combinations
    of the outputs with random signs, the same ones each time.

    images: `(N, H, W, C)` in [0, 1].  batch: images at a time, which bounds the memory.
    """
    if not len(images):
        raise InputError("images must be at least one to measure noise gains on")
    total: np.ndarray | float = 0.0
    for start in range(0, len(images), batch):
        tape = network.forward_tape(images[start : start + batch])
        norms = GradientNorms(network, tape)
        for seeds in _seeds(tape.logits.shape, start):
            total = total + norms.squared(seeds).sum(axis=1)
    scale = 12.0 * network.network.outputs * len(images)
    return layer_gains(network.network, np.asarray(total) / scale)


def _seeds(shape: tuple[int, int], start: int) -> Iterator[np.ndarray]:
    """Gradients `(N, M)` at the outputs whose squared norms behind them sum up to what is wanted.

    start: the number of the first image, from 0, part of the key of random signs.
    """
    images, outputs = shape
    if outputs <= MOST_SEEDS:
        for output in range(outputs):
            seeds = np.zeros(shape)
            seeds[:, output] = 1.0
            yield seeds
        return
    for number in range(MOST_SEEDS):
        words = Stream(number, start, "output_gains").words(shape)
        yield np.where(words >= 2**31, 1.0, -1.0) / np.sqrt(MOST_SEEDS)


def output_loss(network: FloatNetwork, images: np.ndarray, targets: np.ndarray) -> float:
    """The network's loss, in units of a squared error of an output.

    mse is that; of half_mse, half a sum over the outputs, it is 2 / M, of sigmoid_cross_entropy, a
    sum in nats, 1 / M.
    """
    loss = network.evaluate(images, targets).loss
    scales = {"half_mse": 2 / network.network.outputs, "mse": 1.0}
    return loss * scales.get(network.network.loss, 1 / network.network.outputs)


def asked_output_error(statistics: Statistics, target: float) -> float:
    """The mean squared error of the outputs that `target`, a share of the float loss, allows."""
    return target * statistics.output_loss


def measured_output_error(
    network: FloatNetwork, assignment: PrecisionAssignment, pixels: np.ndarray, pixel_max: int
) -> float:
    """The mean squared difference between the outputs in float and in fixed point, with the same
    parameters.

    pixels: `(N, H, W, C)`, 0 to pixel_max.
    """
    fixed = FixedNetwork(network.network, assignment, network.parameters)
    codes = pixel_codes(pixel_max, fixed.input_format)
    total = 0.0
    for part in np.array_split(pixels, -(-len(pixels) // 256)):
        real = network.logits(part / network.dtype.type(pixel_max))
        total += float(np.sum((fixed.logits(codes[part]) * fixed.target_format.step - real) ** 2))
    return total / (len(pixels) * network.network.outputs)

"""One face for both executors: pixels in, losses and errors out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from fxsim.accumulator import Overflows
from fxsim.analysis.statistics import GradientStatistics
from fxsim.communicator import ALONE, Communicator
from fxsim.datasets import Dataset
from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.spec import Network
from fxsim.nn.state import Arrays, restore
from fxsim.tensor import Counts, quantize


def real_targets(network: Network, images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What the outputs for images in [0, 1] are compared with.

    wanted: labels (N,), which a network that decides nothing leaves for the images, or targets.
    """
    if network.decides:
        return wanted
    return images if wanted.ndim == 1 else wanted.reshape(len(wanted), -1)


class FloatLearner:
    """Trains a FloatNetwork; `gradients`, if given, follows its gradients."""

    def __init__(
        self,
        network: FloatNetwork,
        pixel_max: int,
        gradients: GradientStatistics | None = None,
    ):
        self.network = network
        self.pixel_max = pixel_max
        self.gradients = gradients

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Reals in [0, 1] of uint8 pixels."""
        return pixels.astype(self.network.dtype) / self.network.dtype.type(self.pixel_max)

    def targets(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The labels; where the targets are tensors, those of the data set or the images."""
        return real_targets(self.network.network, self.images(pixels), labels)

    def step(self, pixels: np.ndarray, labels: np.ndarray, rate: LearningRate, step: int) -> float:
        """One SGD step; returns the batch's mean loss."""
        probe = self.gradients.probe(step) if self.gradients else None
        batch = self.images(pixels), self.targets(pixels, labels)
        return self.network.train_step(*batch, rate, step, probe).loss

    def evaluate(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float | None]:
        """(mean loss, share of errors; None where the network decides nothing)."""
        losses = 0.0
        wrong = 0
        for start in range(0, len(pixels), 256):
            part = slice(start, start + 256)
            batch = self.images(pixels[part]), self.targets(pixels[part], labels[part])
            result = self.network.evaluate(*batch)
            losses += result.loss * result.samples
            wrong += result.wrong or 0
        error = wrong / len(labels) if self.network.network.decides else None
        return losses / len(labels), error

    def state(self) -> Arrays:
        """All that the next steps depend on, and what was measured: arrays by name, lent."""
        return self.network.state() | (
            {"gradients": self.gradients.state} if self.gradients else {}
        )

    def load_state(self, arrays: Arrays) -> None:
        """Go on from what `state` gave; InputError where it is of another learner."""
        restore(self.state(), arrays)


class FixedLearner:
    """Trains a FixedNetwork and sums up its quantization counts.

    communicator: the ranks that do so together, each with the same calls.
    """

    def __init__(self, network: FixedNetwork, pixel_max: int, communicator: Communicator = ALONE):
        self.network = network
        self.pixel_max = pixel_max
        self.communicator = communicator
        self.codes = pixel_codes(pixel_max, network.input_format)
        self.target_codes = pixel_codes(pixel_max, network.target_format)
        self.counts: dict[tuple[str, str], Counts] = {}
        self.stopped: dict[str, int] = {}
        self.overflows: dict[tuple[str, str], Overflows] = {}

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Codes of A_1 of uint8 pixels."""
        return self.codes[pixels]

    def targets(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The labels; where the targets are tensors, codes in the format of the logits of those of
        the data set or of the images: nearest, ties away from zero, saturated.
        """
        if self.network.network.decides:
            return labels
        if labels.ndim == 1:
            return self.target_codes[pixels]
        return quantize(labels.reshape(len(labels), -1), self.network.target_format).codes

    def step(self, pixels: np.ndarray, labels: np.ndarray, rate: LearningRate, step: int) -> float:
        """One SGD step; returns the batch's mean loss."""
        batch = self.images(pixels), self.targets(pixels, labels)
        result = self.network.train_step(*batch, rate, step, communicator=self.communicator)
        _add(self.counts, result.counts)
        _add(self.overflows, result.overflows)
        for layer, stopped in result.stopped.items():
            self.stopped[layer] = self.stopped.get(layer, 0) + stopped
        return result.loss

    def evaluate(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float | None]:
        """(mean loss, share of errors; None where the network decides nothing)."""
        batch = self.images(pixels), self.targets(pixels, labels)
        result = self.network.evaluate(*batch, communicator=self.communicator)
        return result.loss, result.error

    def state(self) -> Arrays:
        """All that the next steps depend on, and what was counted: arrays by name, lent."""
        counts = {
            f"counts.{layer}.{tensor}": np.array(dataclasses.astuple(counts), np.int64)
            for (layer, tensor), counts in self.counts.items()
        }
        stopped = {
            f"stopped.{layer}": np.array(updates, np.int64)
            for layer, updates in self.stopped.items()
        }
        overflows = {
            f"overflows.{layer}.{kind}": np.array(dataclasses.astuple(met), np.int64)
            for (layer, kind), met in self.overflows.items()
        }
        return self.network.state() | counts | stopped | overflows

    def load_state(self, arrays: Arrays) -> None:
        """Go on from what `state` gave; InputError where it is of another learner."""
        counts, stopped, overflows = (
            _below(what, arrays) for what in ("counts", "stopped", "overflows")
        )
        own = {
            name: array
            for name, array in arrays.items()
            if name.partition(".")[0] not in ("counts", "stopped", "overflows")
        }
        self.network.load_state(own)
        self.counts = {_layer_and(name): Counts(*array.tolist()) for name, array in counts.items()}
        self.stopped = {layer: array.item() for layer, array in stopped.items()}
        self.overflows = {
            _layer_and(name): Overflows(*array.tolist()) for name, array in overflows.items()
        }


def _layer_and(name: str) -> tuple[str, str]:
    """(layer, tensor or kind) of 'layer.tensor'."""
    layer, _, other = name.rpartition(".")
    return layer, other


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {
        name.partition(".")[2]: array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def _add(total: dict, more: Mapping) -> None:
    for key, counts in more.items():
        total[key] = total[key] + counts if key in total else counts


def check_dataset(dataset: Dataset, network: Network) -> None:
    """InputError unless the images fit the network, and its outputs the labels, the targets or the
    images.
    """
    fits = network.classes == dataset.classes
    takes = f"{network.input_shape} in {network.classes}"
    if dataset.train_targets is not None:
        _check_targets(dataset, network)
        fits = True
    elif not network.decides:
        fits = network.outputs == math.prod(dataset.image_shape)
        takes = f"{network.input_shape} as input and images of {network.outputs} pixels as targets"
    if dataset.image_shape != network.input_shape or not fits:
        raise InputError(
            f"dataset {dataset.name!r} has images {dataset.image_shape} in {dataset.classes} "
            f"classes; network {network.name!r} takes {takes}; choose another --network"
        )


def _check_targets(dataset: Dataset, network: Network) -> None:
    """InputError unless the targets of the data set are what the outputs are compared with."""
    if network.decides:
        raise InputError(
            f"dataset {dataset.name!r} has targets, and network {network.name!r} compares its "
            f"outputs with labels; leave the targets out, or give the network targets = 'tensors'"
        )
    if math.prod(dataset.target_shape) != network.outputs:
        raise InputError(
            f"dataset {dataset.name!r} has targets {dataset.target_shape}, and network "
            f"{network.name!r} has {network.outputs} outputs; give each image as many targets"
        )

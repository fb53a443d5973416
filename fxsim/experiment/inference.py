"""The inference of an experiment's network, captured tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError, choice
from fxsim.experiment.training import TrainingSetup
from fxsim.golden.capture import GoldenStep, capture_inference
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.precision import PrecisionAssignment


def check_inference(
    setup: TrainingSetup, images: int, layers: Iterable[str] | None = None, folded: bool = False
) -> None:
    """InputError where `inference` can be none with any parameters; see there."""
    tests = len(setup.dataset.test_images)
    if not 1 <= images <= tests:
        raise InputError(
            f"images must be 1 to {tests}, the test images of {setup.dataset.name!r}, got {images}"
        )
    for name in layers or ():
        choice("layer", name, setup.network.names)
    if folded and not any(layer.norm for layer in setup.network.layers):
        raise InputError(
            f"network {setup.network.name!r} has no batch norm to fold; leave folded out"
        )


def quantized_network(
    setup: TrainingSetup, assignment: PrecisionAssignment, parameters: Parameters
) -> FixedNetwork:
    """The network with these real parameters, rounded to their formats."""
    return setup.fixed_learner(assignment, parameters=parameters).network


def trained_network(setup: TrainingSetup, assignment: PrecisionAssignment) -> FixedNetwork:
    """The network that `fxsim train --assignment` ends with under these settings, trained anew."""
    learner = setup.fixed_learner(assignment)
    for step in setup.plan.steps():
        learner.step(step.pixels, step.labels, step.rate, step.number)
    return learner.network


def inference(
    setup: TrainingSetup,
    network: FixedNetwork,
    images: int,
    layers: Iterable[str] | None = None,
    folded: bool = False,
) -> GoldenStep:
    """The inference of the first test images.

    Args:
        setup: whose test images they are.
        network: with the parameters to infer with.
        images: how many.
        layers: the layers to keep; None for all.
        folded: whether batch norm is folded into weights and bias first.

    Raises:
        InputError: there are not so many test images, there is no such layer, there is nothing to
            fold, or a folded parameter leaves its format.
    """
    check_inference(setup, images, layers, folded)
    if folded:
        network = network.folded()
    pixels = setup.dataset.test_images[:images]
    codes = pixel_codes(setup.dataset.pixel_max, network.input_format)[pixels]
    golden = capture_inference(network, codes, layers)
    manifest = dataclasses.replace(golden.manifest, identity=setup.identity)
    return dataclasses.replace(golden, manifest=manifest)

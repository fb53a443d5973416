"""Run a fixed-point training again up to one step, to capture that step."""

from __future__ import annotations

from collections.abc import Iterable

from fxsim.datasets import Dataset
from fxsim.errors import InputError
from fxsim.experiment.settings import Settings
from fxsim.golden.capture import GoldenStep, capture, parameter_codes
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.rng import Stream
from fxsim.train.learners import FixedLearner


def replay(
    settings: Settings,
    network: Network,
    dataset: Dataset,
    assignment: PrecisionAssignment,
    step: int,
    layers: Iterable[str] | None = None,
) -> GoldenStep:
    """Step `step` (from 0) of the run that `fxsim train --assignment` makes with these settings.

    The parameters start from settings.seed and go through all steps before, with the same pictures
    in the same order."""
    schedule = settings.schedule()
    size = len(dataset.train_labels)
    if not 1 <= settings.batch <= size:
        raise InputError(
            f"batch must be 1 to {size}, the number of training pictures, got {settings.batch}"
        )
    per_epoch = size // settings.batch
    if not 0 <= step < schedule.epochs * per_epoch:
        raise InputError(
            f"step must be 0 to {schedule.epochs * per_epoch - 1} ({schedule.epochs} epochs of "
            f"{per_epoch} steps), got {step}"
        )
    fixed = FixedNetwork(
        network,
        assignment,
        initial_parameters(network, settings.seed),
        seed=settings.seed,
        optimizer=settings.optimizer(),
    )
    images = FixedLearner(fixed, dataset.pixel_max).images
    augmentation = settings.augmentation()
    order = words = earlier = None
    for number in range(step + 1):
        epoch, index = divmod(number, per_epoch)
        if index == 0:
            order = Stream(settings.seed, epoch, "order").permutation(size)
            words = augmentation.words(settings.seed, epoch, size)
        chosen = order[index * settings.batch : (index + 1) * settings.batch]
        pixels = augmentation.apply(dataset.train_images[chosen], words[chosen])
        batch = images(pixels), dataset.train_labels[chosen], schedule.rate(epoch), number
        if number < step:
            earlier = parameter_codes(fixed)
            fixed.train_step(*batch)
    return capture(fixed, *batch, layers, earlier)

"""The training loop, the same for every design."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fxsim.datasets import Dataset
from fxsim.errors import InputError
from fxsim.rng import Stream
from fxsim.train.augment import Augmentation
from fxsim.train.schedule import Schedule

NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss over its steps, loss and error on the test set, speed."""

    epoch: int
    learning_rate: float
    train_loss: float
    test_loss: float
    test_error: float
    images_per_second: float


def train(learner, dataset: Dataset, schedule: Schedule, batch: int, seed: int,
          report: Callable[[int, int, int, float], None] | None = None,
          augmentation: Augmentation = NO_AUGMENTATION) -> list[Epoch]:
    """Train for all epochs of the schedule; returns one Epoch for each.

    learner: FloatLearner or FixedLearner.  batch: pictures a step; what is left of an epoch is dropped.
    seed: key of the order of pictures, Stream(seed, epoch, 'order'), and of their augmentation.
    report(epoch, step, steps, mean loss so far) is called after every step.
    """
    size = len(dataset.train_labels)
    if not 1 <= batch <= size:
        raise InputError(f"batch must be 1 to {size}, the number of training pictures, got {batch}")
    return [_epoch(learner, dataset, schedule, epoch, batch, seed, report, augmentation)
            for epoch in range(schedule.epochs)]


def _epoch(learner, dataset, schedule, epoch, batch, seed, report, augmentation) -> Epoch:
    order = Stream(seed, epoch, "order").permutation(len(dataset.train_labels))
    rate, steps, words = schedule.rate(epoch), len(order) // batch, augmentation.words(seed, epoch, len(order))
    total, start = 0.0, time.perf_counter()
    for index in range(steps):
        chosen = order[index * batch:(index + 1) * batch]
        pixels = augmentation.apply(dataset.train_images[chosen], words[chosen])
        loss = learner.step(pixels, dataset.train_labels[chosen], rate, epoch * steps + index)
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} at epoch {epoch}, step {index}; lower the learning rate")
        total += loss
        if report:
            report(epoch, index + 1, steps, total / (index + 1))
    speed = steps * batch / (time.perf_counter() - start)
    return Epoch(epoch, rate.real, total / steps, *learner.evaluate(dataset.test_images, dataset.test_labels), speed)

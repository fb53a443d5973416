"""The training loop, the same for every design."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fxsim.datasets import Dataset
from fxsim.errors import InputError, shown
from fxsim.factors import LearningRate
from fxsim.fields import check_fields
from fxsim.interrupts import held
from fxsim.rng import Stream
from fxsim.train.augment import Augmentation
from fxsim.train.schedule import Schedule

NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss over its steps, loss and error on the test set, speed.

    test_error is None where the network decides nothing.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    test_loss: float
    test_error: float | None
    images_per_second: float

    def __post_init__(self) -> None:
        check_fields(self, "epoch")


@dataclass
class Position:
    """How far a training has come: its finished epochs, and of the epoch under way the steps done
    and the sum of their losses.  seconds: spent on training in all; epoch_seconds: on the steps of
    the epoch under way.
    """

    epochs: list[Epoch] = field(default_factory=list)
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "position")
        if self.step < 0 or [epoch.epoch for epoch in self.epochs] != [*range(len(self.epochs))]:
            raise InputError("position must have a step from 0 on, and epochs that count from 0")

    def add_step(self, loss: float, seconds: float) -> None:
        """Count a step, its loss and its time."""
        self.step += 1
        self.loss_sum += loss
        self.seconds += seconds
        self.epoch_seconds += seconds

    def add_epoch(self, epoch: Epoch, seconds: float) -> None:
        """The epoch under way has ended; seconds: what its evaluation took."""
        self.epochs.append(epoch)
        self.seconds += seconds
        self.step = 0
        self.loss_sum = 0.0
        self.epoch_seconds = 0.0


@dataclass(frozen=True, eq=False)
class Step:
    """What one training step is given: its number (from 0), its batch and its learning rate."""

    number: int
    pixels: np.ndarray
    labels: np.ndarray
    rate: LearningRate


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Which images a training sees, in which order, at which learning rates.

    Args:
        dataset: the images.
        schedule: epochs and learning rates.
        batch: images of a step; what is left of an epoch is dropped.
        seed: key of the order of images, Stream(seed, epoch, 'order'), and of their augmentation.
        augmentation: flips and crops of the training images.

    Raises:
        InputError: there are too few images for a step.
    """

    dataset: Dataset
    schedule: Schedule
    batch: int
    seed: int
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self):
        size = len(self.dataset.train_labels)
        if not 1 <= self.batch <= size:
            raise InputError(
                f"batch must be 1 to {size}, the number of training images, got {self.batch}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch: whole batches."""
        return len(self.dataset.train_labels) // self.batch

    def check_position(self, position: Position) -> None:
        """InputError where the training has no such position."""
        epochs = len(position.epochs)
        rest = 0 if epochs == self.schedule.epochs else self.steps_per_epoch
        if epochs > self.schedule.epochs or position.step > rest:
            raise InputError(
                f"position is epoch {epochs}, step {position.step}, and the training has "
                f"{self.schedule.epochs} epochs of {self.steps_per_epoch} steps"
            )

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(pixels, labels or targets) of the steps of an epoch, from step `start`."""
        images = self.dataset.train_images
        labels = self.dataset.train_wanted
        order = Stream(self.seed, epoch, "order").permutation(len(labels))
        words = self.augmentation.words(self.seed, epoch, len(order))
        for index in range(start, self.steps_per_epoch):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            yield self.augmentation.apply(images[chosen], words[chosen]), labels[chosen]

    def steps(self) -> Iterator[Step]:
        """Every step of the training, in order."""
        for epoch in range(self.schedule.epochs):
            rate = self.schedule.rate(epoch)
            first = epoch * self.steps_per_epoch
            for index, (pixels, labels) in enumerate(self.batches(epoch), first):
                yield Step(index, pixels, labels, rate)


def train(
    learner,
    plan: TrainingPlan,
    position: Position | None = None,
    keep: Callable[[Position], None] | None = None,
    report: Callable[[int, int, int, float], None] | None = None,
) -> list[Epoch]:
    """Train for all epochs of the plan.

    Args:
        learner: FloatLearner or FixedLearner.
        plan: images, order and learning rates.
        position: where to go on, with a learner that was there; it moves along.  Learner and
            position belong together whenever an interrupt ends the training, and whenever `keep`
            is called.
        keep: called with the position before every report and after every epoch.
        report: called with epoch, step, steps and the mean loss so far, after every step.

    Returns:
        One Epoch for each.
    """
    position = position or Position()
    keep = keep or (lambda position: None)
    if position.step > plan.steps_per_epoch or len(position.epochs) > plan.schedule.epochs:
        raise InputError(
            f"the training of {plan.schedule.epochs} epochs of {plan.steps_per_epoch} steps cannot "
            f"go on from epoch {len(position.epochs)}, step {shown(position.step)}"
        )
    while len(position.epochs) < plan.schedule.epochs:
        _epoch(learner, plan, position, keep, report)
    return position.epochs


def _epoch(learner, plan: TrainingPlan, position: Position, keep, report) -> None:
    """What is left of the epoch under way."""
    epoch = len(position.epochs)
    steps = plan.steps_per_epoch
    clock = _Stopwatch()
    rate = plan.schedule.rate(epoch)
    for pixels, labels in plan.batches(epoch, position.step):
        with held("this training step"):
            loss = learner.step(pixels, labels, rate, epoch * steps + position.step)
            _check_finite(loss, f"at epoch {epoch}, step {position.step}")
            position.add_step(loss, clock.lap())
        keep(position)
        if report:
            report(epoch, position.step, steps, position.loss_sum / position.step)
    speed = steps * plan.batch / (position.epoch_seconds + clock.lap())
    test_loss, test_error = learner.evaluate(plan.dataset.test_images, plan.dataset.test_wanted)
    _check_finite(test_loss, f"on the test images after epoch {epoch}")
    train_loss = position.loss_sum / steps
    with held("the end of this epoch"):
        position.add_epoch(
            Epoch(epoch, rate.real, train_loss, test_loss, test_error, speed), clock.lap()
        )
    keep(position)


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} {where}; lower the learning rate")


class _Stopwatch:
    def __init__(self):
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        lap = time.perf_counter() - self.last
        self.last = time.perf_counter()
        return lap

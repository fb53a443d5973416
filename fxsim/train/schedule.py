"""When the learning rate is what."""

from __future__ import annotations

from dataclasses import dataclass

from fxsim.errors import InputError
from fxsim.factors import LearningRate


@dataclass(frozen=True)
class Schedule:
    """`epochs` passes at `learning_rate`, divided by 10 at the start of each epoch (from 0) in
    `drops`.

    Both executors train at the same rates: those that a 16-bit mantissa holds.
    """

    epochs: int
    learning_rate: float
    drops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}")
        LearningRate.of(self.learning_rate)
        for epoch in self.drops:
            if not 0 < epoch < self.epochs:
                raise InputError(
                    f"drops must lie in 1 to {self.epochs - 1} (epochs - 1), got {epoch}"
                )

    def rate(self, epoch: int) -> LearningRate:
        """The learning rate of epoch `epoch` (from 0)."""
        return LearningRate.of(self.learning_rate / 10 ** sum(drop <= epoch for drop in self.drops))

    @property
    def smallest_rate(self) -> float:
        """gamma_min of the method."""
        return self.rate(self.epochs - 1).real

"""The loss of a network in fixed point: the targets it takes, its value, its gradient."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from fxsim.arrays import check_range, integer_array
from fxsim.errors import InputError
from fxsim.exponential import Exponential
from fxsim.formats import Format
from fxsim.nn.fixed.step import StepResult
from fxsim.nn.spec import Network
from fxsim.nn.targets import rows_of_targets
from fxsim.ops.exact import Quotient
from fxsim.ops.loss import (
    ELEMENT_LOSSES,
    LOSS,
    WITH_EXPONENTIAL,
    ElementLoss,
    check_labels,
    check_logits,
    check_probabilities,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
)
from fxsim.tensor import Tensor


class FixedLoss:
    """The loss of a network whose outputs have a format.

    Raises:
        InputError: the loss takes no outputs of that format.
    """

    def __init__(self, network: Network, format: Format):
        self.network = network
        self.format = format
        if network.loss == "softmax_cross_entropy":
            check_logits(format)
            return
        ELEMENT_LOSSES[network.loss].check(format, network.outputs)
        if network.decides and format.step_exp > 0:
            raise InputError(
                f"logits must have a step of at most 1, got {format}: the target of the label is 1"
            )

    @property
    def unit(self) -> Fraction:
        """What one step of the sum of losses stands for."""
        elements = self.network.outputs
        square = Fraction(2) ** (2 * self.format.step_exp)
        units = {"mse": square / elements, "half_mse": square / 2}
        return units.get(self.network.loss, Fraction(2) ** LOSS.step_exp)

    def checked(self, targets: Any, images: int) -> np.ndarray:
        """Labels (N,), or codes of targets (N, M), as int64.

        Raises:
            TypeError: for what is no integer.
            InputError: for another shape or format, a label that is no class, a code outside the
                format, or one outside 0 to 1 where the loss is sigmoid cross-entropy.
        """
        if self.network.decides:
            return check_labels(targets, images, self.network.classes)
        format = self.format
        if isinstance(targets, Tensor):
            if targets.format != format:
                raise InputError(
                    f"targets must be in the format of the logits {format}, got {targets.format}; "
                    "requantize them"
                )
            targets = targets.codes
        array = integer_array("targets", targets, f"quantize them to {format}")
        rows = rows_of_targets(self.network, array, images)
        way_out = f"they are codes of {format}, that of the logits"
        check_range("targets", rows, format.min_code, format.max_code, way_out)
        if self.network.loss == "sigmoid_cross_entropy":
            check_probabilities(rows, format)
        return rows.astype(np.int64)

    def add(self, outputs: Tensor, targets: np.ndarray, result: StepResult) -> None:
        """Add losses and wrong decisions of outputs (N, M) to a result."""
        if self.network.loss == "softmax_cross_entropy":
            loss = softmax_cross_entropy(outputs, targets, self.network.exponential)
            result.loss_sum += int(loss.losses.codes.sum())
            result.wrong = (result.wrong or 0) + loss.wrong
            return
        losses = self._own.losses(outputs, self._codes(targets), *self._exponential)
        result.loss_sum += sum(losses.numerators.tolist())
        result.loss_unit = self.unit
        if not self.network.decides:
            result.wrong = None
            return
        wrong = np.count_nonzero(outputs.operand.argmax(axis=1) != targets)
        result.wrong = (result.wrong or 0) + int(wrong)

    def grad(self, outputs: Tensor, targets: np.ndarray, samples: int) -> Quotient:
        """The gradient (N, M) of the mean loss at the outputs, exact.

        samples: images that the mean is over, N or those of a larger batch.
        """
        if self.network.loss == "softmax_cross_entropy":
            own = softmax_cross_entropy_grad(outputs, targets, self.network.exponential)
        else:
            own = self._own.grad(outputs, self._codes(targets), *self._exponential)
        return Quotient(own.numerators, own.step_exp, own.divisor // len(outputs) * samples)

    @property
    def _own(self) -> ElementLoss:
        return ELEMENT_LOSSES[self.network.loss]

    @property
    def _exponential(self) -> tuple[Exponential, ...]:
        """The further argument of a loss with an exponential."""
        return (self.network.exponential,) if self.network.loss in WITH_EXPONENTIAL else ()

    def _codes(self, targets: np.ndarray) -> Tensor:
        """Targets (N, M); a label is 1 at its place, saturated, and 0 elsewhere."""
        if self.network.decides:
            one = min(1 << -self.format.step_exp, self.format.max_code)
            targets = one * np.eye(self.network.classes, dtype=np.int64)[targets]
        return Tensor._of(targets, self.format)

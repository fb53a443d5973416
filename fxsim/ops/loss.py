"""The loss in integers: softmax cross-entropy and its gradient.  See fxsim/numerics.md."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fxsim.arrays import check_range, integer_array
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels.elementwise import softmax as kernel
from fxsim.ops.checks import tensor_of
from fxsim.ops.exact import Quotient
from fxsim.tensor import Tensor

LOSS = Format(64, 63 + kernel.LOSS_STEP_EXP)
"""Format of losses: steps of 2**-24 nats."""

MAX_LOGIT_RANGE_EXP = 13
"""Up to here the loss in steps of 2**-24 fits an int64."""

MIN_LOGIT_STEP_EXP = -50
MAX_LOGIT_STEP_EXP = 5


class Loss(NamedTuple):
    """losses: (N,) in format `LOSS`.  wrong: rows whose first greatest logit is not at the label."""

    losses: Tensor
    wrong: int


def check_logits(format: Format) -> None:
    """InputError unless the loss takes logits of that format."""
    steps = MIN_LOGIT_STEP_EXP <= format.step_exp <= MAX_LOGIT_STEP_EXP
    if not format.signed or format.range_exp > MAX_LOGIT_RANGE_EXP or not steps:
        raise InputError(
            f"logits must be signed, with a range up to 2^{MAX_LOGIT_RANGE_EXP} and a step of "
            f"2^{MIN_LOGIT_STEP_EXP} to 2^{MAX_LOGIT_STEP_EXP}, got {format}"
        )


def softmax_cross_entropy(logits: Tensor, labels: Any) -> Loss:
    """The softmax cross-entropy of each row, in nats.

    Args:
        logits: (N, M) codes, signed, with a range up to 2**13 and a step of 2**-50 to 2**5.
        labels: (N,) integers from 0 to M - 1.

    Returns:
        (losses, wrong): losses (N,) with step 2**-24, and how many rows are classified wrong.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> loss = ops.softmax_cross_entropy(Tensor([[0, 0], [7, -7]], Format(4, 3)), [0, 0])
        >>> loss.losses.real.round(4), loss.wrong
        (array([0.6931, 0.    ]), 0)
    """
    codes, labels = _checked(logits, labels)
    losses = np.empty(len(codes), np.int64)
    shift = kernel.softmax_scale_shift(logits.format.step_exp)
    wrong = kernel.softmax_cross_entropy(codes, labels, shift, kernel.EXP2_TABLE, losses)
    return Loss(Tensor._of(losses, LOSS), int(wrong))


def softmax_cross_entropy_grad(logits: Tensor, labels: Any) -> Quotient:
    """The gradient of the mean loss at the logits: (p - onehot) / N, exact, to be rounded.

    p has 16 bits.  Args are those of `softmax_cross_entropy`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> grad = ops.softmax_cross_entropy_grad(Tensor([[0, 0]], Format(4, 3)), [0])
        >>> grad.to(Format(8, 0)).real
        array([[-0.5,  0.5]])
    """
    codes, labels = _checked(logits, labels)
    errors = np.empty(codes.shape, np.int64)
    shift = kernel.softmax_scale_shift(logits.format.step_exp)
    kernel.softmax_error(codes, labels, shift, kernel.EXP2_TABLE, errors)
    return Quotient(errors, -kernel.PROBABILITY_BITS, len(codes))


def check_labels(labels: Any, samples: int, classes: int) -> np.ndarray:
    """Labels (samples,) as int64.

    Raises:
        TypeError: for labels that are no integers.
        InputError: for another shape, one-hot rows among them, or a label that is no class.
    """
    array = integer_array("labels", labels)
    if array.shape != (samples,):
        onehot = array.shape == (samples, classes)
        hint = "; pass the class numbers of one-hot rows: labels.argmax(axis=1)" if onehot else ""
        raise InputError(
            f"labels must have shape ({samples},), one for each image, got {array.shape}{hint}"
        )
    check_range("labels", array, 0, classes - 1, "number the classes from 0")
    return np.asarray(array, np.int64)


def _checked(logits: Tensor, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    tensor_of("logits", logits, "N, M")
    check_logits(logits.format)
    return logits.operand, check_labels(labels, *logits.shape)

"""Losses in integers, and their gradients.  See fxsim/numerics.md.

Softmax cross-entropy compares rows with labels; mse, half_mse and sigmoid_cross_entropy compare
each element with a target, a code of the same format.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fxsim.arrays import check_range, integer_array
from fxsim.errors import InputError
from fxsim.exponential import DEFAULT, Exponential
from fxsim.fields import instance
from fxsim.formats import Format
from fxsim.kernels.elementwise import softmax as kernel
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import MAX_SUM_BITS, Quotient
from fxsim.tensor import Tensor

LOSS = Format(64, 63 + kernel.LOSS_STEP_EXP)
"""Format of losses: steps of 2**-24 nats."""

MAX_LOGIT_RANGE_EXP = 13
"""Up to here the loss in steps of 2**-24 fits an int64."""

MIN_LOGIT_STEP_EXP = -50
MAX_LOGIT_STEP_EXP = 5

MIN_SIGMOID_STEP_EXP = -kernel.FRACTION_BITS
"""Down to here a code times a target fits an int64."""

MAX_SIGMOID_ELEMENTS = 2**24
"""Up to here the sum of an image's losses, each below 2**38 steps, fits an int64."""


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


def softmax_cross_entropy(logits: Tensor, labels: Any, exponential: Exponential = DEFAULT) -> Loss:
    """The softmax cross-entropy of each row, in nats.

    Args:
        logits: (N, M) codes, signed, with a range up to 2**13 and a step of 2**-50 to 2**5.
        labels: (N,) integers from 0 to M - 1.
        exponential: how powers of two are made.

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
    wrong = kernel.softmax_cross_entropy(codes, labels, shift, _powers(exponential), losses)
    return Loss(Tensor._of(losses, LOSS), int(wrong))


def softmax_cross_entropy_grad(
    logits: Tensor, labels: Any, exponential: Exponential = DEFAULT
) -> Quotient:
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
    kernel.softmax_error(codes, labels, shift, _powers(exponential), errors)
    return Quotient(errors, -kernel.PROBABILITY_BITS, len(codes))


def _powers(exponential: Exponential) -> kernel.Powers:
    own = instance("exponential", exponential, Exponential)
    return kernel.powers(own.index_bits, own.entry_bits, own.interpolation == "linear")


def check_squares(format: Format, elements: int) -> None:
    """InputError unless the squared errors of so many codes of that format are exact."""
    bits = 2 * format.bits + elements.bit_length()
    if bits > MAX_SUM_BITS:
        raise InputError(
            f"the squared error of {elements} outputs in {format} needs {bits} bits, at most "
            f"{MAX_SUM_BITS} are exact here; give the outputs fewer bits"
        )


def check_sigmoids(format: Format, elements: int) -> None:
    """InputError unless sigmoid cross-entropy takes so many codes of that format."""
    steps = MIN_SIGMOID_STEP_EXP <= format.step_exp <= 0
    if not format.signed or format.range_exp > MAX_LOGIT_RANGE_EXP or not steps:
        raise InputError(
            f"outputs must be signed, with a range up to 2^{MAX_LOGIT_RANGE_EXP} and a step of "
            f"2^{MIN_SIGMOID_STEP_EXP} to 1, got {format}"
        )
    if elements > MAX_SIGMOID_ELEMENTS:
        raise InputError(
            f"sigmoid cross-entropy takes up to {MAX_SIGMOID_ELEMENTS} outputs of an image, got "
            f"{elements}"
        )


def check_probabilities(targets: np.ndarray, format: Format) -> None:
    """InputError unless codes stand for numbers from 0 to 1."""
    one = 1 << -format.step_exp
    check_range("targets", targets, 0, one, f"they stand for 0 to 1 in steps of {format.step:g}")


def mse(outputs: Tensor, targets: Tensor) -> Quotient:
    """The mean squared error of each image: (N,), exact.

    Args:
        outputs: (N, ...) codes of any shape, M for each image.
        targets: codes of the same shape and format.

    Returns:
        The sum of (output - target)^2 over the M elements of an image, over M.

    Raises:
        InputError: for another shape or format, or a sum of more than 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> outputs, targets = Tensor([[3, 1]], Format(4, 1)), Tensor([[1, 1]], Format(4, 1))
        >>> ops.mse(outputs, targets).to(Format(16, 0)).real
        array([0.125])
    """
    differences, step_exp = _differences(outputs, targets)
    return Quotient((differences**2).sum(axis=1), 2 * step_exp, differences.shape[1])


def mse_grad(outputs: Tensor, targets: Tensor) -> Quotient:
    """The gradient of the mean of `mse` over N images: 2 (output - target) / (N M), exact.

    Args are those of `mse`; the result has the outputs' shape.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> outputs, targets = Tensor([[3, 1]], Format(4, 1)), Tensor([[1, 1]], Format(4, 1))
        >>> ops.mse_grad(outputs, targets).to(Format(16, 0)).real
        array([[0.5, 0. ]])
    """
    differences, step_exp = _differences(outputs, targets)
    return Quotient(differences.reshape(outputs.shape), step_exp + 1, differences.size)


def half_mse(outputs: Tensor, targets: Tensor) -> Quotient:
    """Half the sum of (output - target)^2 over the elements of each image: (N,), exact.

    Args are those of `mse`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> outputs, targets = Tensor([[3, 1]], Format(4, 1)), Tensor([[1, 1]], Format(4, 1))
        >>> ops.half_mse(outputs, targets).to(Format(16, 0)).real
        array([0.125])
    """
    differences, step_exp = _differences(outputs, targets)
    return Quotient((differences**2).sum(axis=1), 2 * step_exp - 1, 1)


def half_mse_grad(outputs: Tensor, targets: Tensor) -> Quotient:
    """The gradient of the mean of `half_mse` over N images: (output - target) / N, exact.

    Args are those of `mse`; the result has the outputs' shape.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> outputs, targets = Tensor([[3, 1]], Format(4, 1)), Tensor([[1, 1]], Format(4, 1))
        >>> ops.half_mse_grad(outputs, targets).to(Format(16, 0)).real
        array([[0.5, 0. ]])
    """
    differences, step_exp = _differences(outputs, targets)
    return Quotient(differences.reshape(outputs.shape), step_exp, len(differences))


def sigmoid_cross_entropy(
    outputs: Tensor, targets: Tensor, exponential: Exponential = DEFAULT
) -> Quotient:
    """The sum of the binary cross-entropies of each image's elements, in nats: (N,).

    Args:
        outputs: (N, ...) codes of any shape, signed, with a range up to 2**13 and a step of 2**-24
            to 1.  They are what the sigmoid reads.
        targets: codes of the same shape and format, which stand for 0 to 1.
        exponential: how powers of two are made.

    Returns:
        The losses, in whole steps of 2**-24.

    Raises:
        InputError: for another shape or format, or a target outside 0 to 1.

    Example:
        >>> from fxsim import Format, Quantizer, Tensor, ops
        >>> outputs, targets = Tensor([[0, 7]], Format(4, 3)), Tensor([[1, 0]], Format(4, 3))
        >>> ops.sigmoid_cross_entropy(outputs, targets).to(Format(16, 4)).real.round(3)
        array([7.694])
    """
    codes, wanted, shift = _sigmoid_operands(outputs, targets)
    losses = np.empty(len(codes), np.int64)
    kernel.sigmoid_cross_entropy(codes, wanted, shift, _powers(exponential), losses)
    return Quotient(losses, LOSS.step_exp, 1)


def sigmoid_cross_entropy_grad(
    outputs: Tensor, targets: Tensor, exponential: Exponential = DEFAULT
) -> Quotient:
    """The gradient of the mean of `sigmoid_cross_entropy` over N images: (p - target) / N, exact.

    p is the sigmoid with 16 bits.  Args are those of `sigmoid_cross_entropy`; the result has the
    outputs' shape.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> outputs, targets = Tensor([[0, 7]], Format(4, 3)), Tensor([[1, 0]], Format(4, 3))
        >>> ops.sigmoid_cross_entropy_grad(outputs, targets).to(Format(8, 0)).real.round(3)
        array([[-0.5  ,  0.992]])
    """
    codes, wanted, shift = _sigmoid_operands(outputs, targets)
    sigmoids = np.empty(codes.shape, np.int64)
    kernel.sigmoids(codes, shift, _powers(exponential), sigmoids)
    fraction = -outputs.format.step_exp
    finest = max(fraction, kernel.PROBABILITY_BITS)
    errors = (sigmoids << finest - kernel.PROBABILITY_BITS) - (wanted << finest - fraction)
    return Quotient(errors.reshape(outputs.shape), -finest, len(codes))


class ElementLoss(NamedTuple):
    """A loss that compares each element with its target.

    losses, grad: the operations.  check: InputError for a format of outputs and a number of them.
    """

    losses: Callable[..., Quotient]
    grad: Callable[..., Quotient]
    check: Callable[[Format, int], None]


ELEMENT_LOSSES = {
    "mse": ElementLoss(mse, mse_grad, check_squares),
    "half_mse": ElementLoss(half_mse, half_mse_grad, check_squares),
    "sigmoid_cross_entropy": ElementLoss(
        sigmoid_cross_entropy, sigmoid_cross_entropy_grad, check_sigmoids
    ),
}


WITH_EXPONENTIAL = ("softmax_cross_entropy", "sigmoid_cross_entropy")
"""Losses whose operations take an Exponential, too."""


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


def _with_targets(outputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """int64 codes (N, M) of both."""
    tensor_of("outputs", outputs)
    if outputs.ndim < 2 or not outputs.size:
        raise InputError(
            f"outputs must have axes (N, ...) and at least one element, got shape {outputs.shape}"
        )
    of_shape("targets", tensor_of("targets", targets), outputs.shape, ", that of the outputs")
    if targets.format != outputs.format:
        raise InputError(
            f"targets must be in the outputs' format {outputs.format}, got {targets.format}; "
            "requantize them"
        )
    shape = len(outputs), math.prod(outputs.shape[1:])
    return outputs.operand.astype(np.int64).reshape(shape), targets.operand.astype(
        np.int64
    ).reshape(shape)


def _differences(outputs: Tensor, targets: Tensor) -> tuple[np.ndarray, int]:
    """(outputs - targets (N, M), the exponent of their step)."""
    codes, wanted = _with_targets(outputs, targets)
    check_squares(outputs.format, codes.shape[1])
    return codes - wanted, outputs.format.step_exp


def _sigmoid_operands(outputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """(codes, targets (N, M), the shift of the exponents)."""
    codes, wanted = _with_targets(outputs, targets)
    check_sigmoids(outputs.format, codes.shape[1])
    check_probabilities(wanted, outputs.format)
    return codes, wanted, kernel.softmax_scale_shift(outputs.format.step_exp)

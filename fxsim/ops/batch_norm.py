"""Batch norm in integers: statistics of the batch, x-hat, the affine map, and the way back.

What there is one of per channel is computed in unbounded Python integers; whole tensors are exact
sums with one quantization.  The formulas are those of fxsim/numerics.md.  Source of the method:
S. Ioffe and C. Szegedy, "Batch Normalization" (ICML 2015), the variance being the mean squared
deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from fxsim.errors import InputError, present, shown
from fxsim.factors import MANTISSA_BITS, Factor, OddFactor
from fxsim.fields import instance
from fxsim.formats import Format
from fxsim.kernels.elementwise import roots as kernel
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.ops.checks import of_shape, tensor_of
from fxsim.ops.exact import Exact, magnitude
from fxsim.ops.integers import divided, integers, times
from fxsim.ops.summation import ChannelSum
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor, quantize

EPSILON = 2.0**-10
"""Added to the variance before the inverse square root, by default."""

RATE = 2.0**-4
"""Share of the difference to a batch's statistics by which the running ones move, by default."""

RUNNING_BITS = 16
"""Bits of the running statistics below the steps of mean and variance."""

GUARD_BITS = 24
"""Bits of the gradient's sums below the step of the gradient that they make.

The constants of a channel act on all of its positions alike, so that their rounding errors add up
in the weight gradient where those of single gradients do not.
"""

Quantizers = Callable[[str], Quantizer]
"""From the name of a tensor to its Quantizer."""


@dataclass(frozen=True)
class BatchNormFormats:
    """Formats of batch norm's own tensors.

    mean, variance: of a batch, per channel.  normalized: of x-hat.  gamma, beta: of the affine map.
    """

    mean: Format = Format(16, 3)
    variance: Format = Format(16, 3, signed=False)
    normalized: Format = Format(16, 3)
    gamma: Format = Format(16, 1)
    beta: Format = Format(16, 1)


@dataclass
class Running:
    """Running mean and variance of each channel.

    They are int64 codes RUNNING_BITS finer than the formats of mean and variance.
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def quantized(cls, real: Mapping[str, np.ndarray], formats: BatchNormFormats) -> Running:
        """From 'running_mean' and 'running_var', rounded to the steps of mean and variance."""
        mean = quantize(real["running_mean"], formats.mean).codes
        variance = quantize(real["running_var"], formats.variance).codes
        return cls(mean.astype(np.int64) << RUNNING_BITS, variance.astype(np.int64) << RUNNING_BITS)

    def move(self, mean: np.ndarray, variance: np.ndarray, rate: OddFactor) -> None:
        """Move by `rate` times the difference to a batch's codes, nearest, ties away from zero."""
        for running, codes in ((self.mean, mean), (self.variance, variance)):
            difference = (codes << RUNNING_BITS) - running
            running += divided(times(difference, rate.mantissa), 1, rate.exponent).astype(np.int64)


def running_format(format: Format) -> Format:
    """The format of the running mean or variance, for the batch's `format`."""
    return Format(format.bits + RUNNING_BITS, format.range_exp, format.signed)


class Normalized(NamedTuple):
    """What the backward pass needs, and what the batch's statistics were.

    codes: x-hat (N, H, W, O).  inverse_roots, mean, variance: (O,) codes.
    """

    codes: np.ndarray
    inverse_roots: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Moments(NamedTuple):
    """What a batch says of each channel.

    sums: (2, O) int64: of one tensor, and of its products with another, itself for squares.
    terms: positions that they are over.
    """

    sums: np.ndarray
    terms: int

    @classmethod
    def of(cls, codes: np.ndarray, others: np.ndarray) -> Moments:
        """Of codes (..., O) and of their products with others, of the same shape."""
        return cls(channel_moments(codes, others), codes.size // codes.shape[-1])


class BatchNorm:
    """Batch norm from pre-activation codes to the affine map's exact result.

    input: format of the pre-activations.  branch: format of a tensor that is added to the result,
    None without one.  frozen: whether the running statistics take the place of a batch's in
    training, too.  Raises InputError where exact sums may need more than 62 bits.
    """

    def __init__(
        self,
        input: Format,
        formats: BatchNormFormats,
        branch: Format | None = None,
        epsilon: float = EPSILON,
        rate: float = RATE,
        frozen: bool = False,
    ):
        self.input = input
        self.frozen = frozen
        self.formats = formats
        self.branch = branch
        self.rate = _constant("rate", rate).odd
        self.inverse_root = InverseRoot(formats.variance, _constant("epsilon", epsilon).odd)
        largest_root = integers(self.inverse_root.of(np.zeros(1, np.int64)))
        mean, gamma, beta = (
            integers([magnitude(each)]) for each in (formats.mean, formats.gamma, formats.beta)
        )
        self.normalization(-mean, largest_root)
        self.format = self.affine(gamma, beta).format

    def forward(
        self,
        codes: np.ndarray,
        moments: Moments | None,
        running: Running | None,
        quantizers: Quantizers,
        reuse: bool = False,
    ) -> Normalized:
        """x-hat of pre-activation codes (N, H, W, O).

        moments: of the codes and their squares, for statistics of the batch, which move the running
        ones; None for the running statistics, which stay.  The batch may be a larger one that has
        the codes among its own.  reuse: whether the memory of `codes` may become that of x-hat.
        """
        if moments is None:
            mean, variance = self.inference_statistics(present(running))
        else:
            mean, variance = self._statistics(moments, quantizers)
            if running is not None:
                running.move(mean, variance, self.rate)
        inverse_roots = self.inverse_root.of(variance)
        sums = self.normalization(mean, inverse_roots).of(codes, None, reuse)
        normalized, _ = sums.rounded(quantizers("normalized"), relu=False)
        return Normalized(normalized, inverse_roots, mean, variance)

    def _statistics(
        self, moments: Moments, quantizers: Quantizers
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (O,) of the mean and the variance of each channel."""
        (total, square), terms = moments
        self.check_terms(terms)
        step_exp = self.input.step_exp
        deviation = times(square, terms) - times(total, total)
        mean = divided(total, terms, step_exp - self.formats.mean.step_exp)
        variance = divided(deviation, terms**2, 2 * step_exp - self.formats.variance.step_exp)
        return (
            _saturated(mean, total, quantizers("mean")),
            _saturated(variance, deviation, quantizers("variance")),
        )

    def check_terms(self, terms: int) -> None:
        """InputError where sums over so many positions may pass 63 bits."""
        if self.largest_moment(terms) >= 2**63:
            raise InputError(
                f"sums of {terms} squared pre-activations in {self.input} may pass 63 bits; lower "
                "the batch or the width of the pre-activations"
            )

    def largest_moment(self, terms: int) -> int:
        """No moment over so many positions is larger in magnitude."""
        return terms * magnitude(self.input) ** 2

    def inference_statistics(self, running: Running) -> tuple[np.ndarray, np.ndarray]:
        """The running mean and variance, rounded to the formats of a batch's."""
        formats = self.formats
        mean = bounded(divided(running.mean, 1, -RUNNING_BITS), formats.mean)
        return mean, bounded(divided(running.variance, 1, -RUNNING_BITS), formats.variance)

    def folded(
        self, weight: Tensor, gamma: np.ndarray, beta: np.ndarray, running: Running
    ) -> tuple[tuple[np.ndarray, int], tuple[np.ndarray, int]]:
        """Weight (..., O) and bias (O,) that do what batch norm does in inference, exact.

        gamma, beta: codes (O,).  Returns (integers, exponent of their step) of both.
        """
        formats = self.formats
        mean, variance = self.inference_statistics(running)
        scale = times(self.inverse_root.of(variance), gamma)
        scale_exp = formats.gamma.step_exp + self.inverse_root.format.step_exp
        weights = integers(weight.codes) * integers(scale), scale_exp + weight.format.step_exp
        product_exp = scale_exp + formats.mean.step_exp
        step_exp = min(product_exp, formats.beta.step_exp)
        shift = times(beta, 1 << (formats.beta.step_exp - step_exp))
        bias = shift - times(times(scale, mean), 1 << (product_exp - step_exp))
        return weights, (bias, step_exp)

    def normalization(self, mean: np.ndarray, inverse_roots: np.ndarray) -> ChannelSum:
        """(Y - mean) times the inverse root, of pre-activation codes Y."""
        mean_exp = self.formats.mean.step_exp
        step_exp = min(self.input.step_exp, mean_exp)
        first = times(inverse_roots, 1 << (self.input.step_exp - step_exp))
        constant = times(times(inverse_roots, -mean), 1 << (mean_exp - step_exp))
        step_exp += self.inverse_root.format.step_exp
        return ChannelSum(first, 0 * first, constant, step_exp, self.input)

    def affine(self, gamma: np.ndarray, beta: np.ndarray) -> ChannelSum:
        """gamma times x-hat plus beta plus the branch, at the finest of their steps."""
        formats = self.formats
        product_exp = formats.gamma.step_exp + formats.normalized.step_exp
        branch_exp = self.branch.step_exp if self.branch else product_exp
        step_exp = min(product_exp, formats.beta.step_exp, branch_exp)
        present = np.full(gamma.size, int(self.branch is not None))
        second = times(present, 1 << (branch_exp - step_exp))
        return ChannelSum(
            times(gamma, 1 << (product_exp - step_exp)),
            second,
            times(beta, 1 << (formats.beta.step_exp - step_exp)),
            step_exp,
            formats.normalized,
            self.branch,
        )


class Gradients(NamedTuple):
    """Codes of the gradients at the pre-activations, of gamma and of beta (None where these are not
    trained); how they were made.
    """

    codes: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    sums: ChannelSum


class BatchNormGrad:
    """The way back through a BatchNorm.

    grads: format of the gradient that arrives.  result: of the gradient at the pre-activations.
    Raises InputError where exact sums may need more than 62 bits.
    """

    def __init__(self, norm: BatchNorm, grads: Format, result: Format):
        self.norm = norm
        self.grads = grads
        self.result = result
        largest = magnitude(grads)
        gamma = integers([magnitude(norm.formats.gamma)])
        root = integers(norm.inverse_root.of(np.zeros(1, np.int64)))
        product = integers([largest * magnitude(norm.formats.normalized)])
        sums = self._sums(self._scales(gamma, root), integers([largest]), product, 1)
        step_exp = result.step_exp - GUARD_BITS
        self.formats = {
            "scales": _holding(int(sums.first[0]), step_exp - grads.step_exp),
            "slopes": _holding(int(sums.second[0]), step_exp - norm.formats.normalized.step_exp),
            "offsets": _holding(int(sums.constant[0]), step_exp),
        }

    def backward(
        self,
        grads: np.ndarray,
        normalized: Normalized,
        gamma: np.ndarray,
        moments: Moments | None,
        quantizers: Quantizers,
        reuse: bool = False,
    ) -> Gradients:
        """The gradients, from gradient codes (N, H, W, O) after the affine map.

        moments: of the gradients and x-hat over the batch, which may be a larger one; None where
        gamma and beta are not trained, as may be where the statistics are frozen.  reuse: whether
        the memory of `grads` may become that of the result.
        """
        gamma_grads = beta_grads = None
        terms = 1
        total = product_total = np.zeros(grads.shape[-1], np.int64)
        if moments is not None:
            (total, product_total), terms = moments
            self.check_terms(terms)
            step_exp = self.grads.step_exp
            product_exp = step_exp + self.norm.formats.normalized.step_exp
            gamma_grads = quantizers("gamma_grads").quantized(product_total, product_exp)
            beta_grads = quantizers("beta_grads").quantized(total, step_exp)
        scales = self._scales(gamma, normalized.inverse_roots)
        sums = self._sums(scales, total, product_total, terms)
        exact = sums.of(grads, normalized.codes, reuse)
        codes, _ = exact.rounded(quantizers("preactivation_grads"), relu=False)
        return Gradients(codes, gamma_grads, beta_grads, sums)

    def check_terms(self, terms: int) -> None:
        """InputError where sums over so many positions may pass 63 bits."""
        if self.largest_moment(terms) >= 2**63:
            raise InputError(
                f"sums of {terms} gradients in {self.grads} times x-hat in "
                f"{self.norm.formats.normalized} may pass 63 bits; lower the batch or the widths"
            )

    def largest_moment(self, terms: int) -> int:
        """No moment over so many positions is larger in magnitude."""
        return terms * magnitude(self.grads) * magnitude(self.norm.formats.normalized)

    def _scales(self, gamma: np.ndarray, inverse_roots: np.ndarray) -> np.ndarray:
        """gamma times the inverse root: gradients brought to the step of the sums in `_sums`."""
        norm = self.norm
        exact_exp = norm.formats.gamma.step_exp + norm.inverse_root.format.step_exp
        exact_exp += self.grads.step_exp
        product = times(inverse_roots, gamma)
        return divided(product, 1, exact_exp - self.result.step_exp + GUARD_BITS)

    def _sums(
        self, scales: np.ndarray, total: np.ndarray, product_total: np.ndarray, terms: int
    ) -> ChannelSum:
        """scale * (g - mean(g) - x-hat * mean(g * x-hat)); scale * g where statistics are frozen.

        total, product_total: the sums of g and of g * x-hat over `terms` positions.
        """
        normalized = self.norm.formats.normalized
        if self.norm.frozen:
            total = 0 * total
            product_total = 0 * product_total
        slopes = -divided(times(scales, product_total), terms, 2 * normalized.step_exp)
        offsets = -divided(times(scales, total), terms)
        step_exp = self.result.step_exp - GUARD_BITS
        return ChannelSum(scales, slopes, offsets, step_exp, self.grads, normalized)


class InverseRoot:
    """1 / sqrt(variance + epsilon), rounded to MANTISSA_BITS significant bits.

    variance: format of the codes.  epsilon: a constant with an odd mantissa.  format: of the
    results, whose step is that of the smallest root's mantissa.
    """

    def __init__(self, variance: Format, epsilon: OddFactor):
        finest = min(variance.step_exp, epsilon.exponent)
        step_exp = finest - finest % 2  # even, so that the root of the step is a power of two
        self._left = variance.step_exp - step_exp
        self._epsilon = epsilon.mantissa << (epsilon.exponent - step_exp)
        self._value_bits = ((variance.max_code << self._left) + self._epsilon).bit_length()
        self._places = _root_places(self._value_bits)
        self.format = _holding(self._root_of(0), -self._places - step_exp // 2)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Codes of the inverse roots (O,) for codes (O,) of variances."""
        if self._value_bits <= kernel.MAX_VALUE_BITS:
            values = (codes << self._left) + self._epsilon
            roots: np.ndarray = kernel.inverse_roots(values, MANTISSA_BITS, self._places)
            return roots
        return integers([self._root_of(int(code)) for code in codes])

    def _root_of(self, code: int) -> int:
        value = (code << self._left) + self._epsilon
        mantissa, places = inverse_root(value)
        return mantissa << (self._places - places)


def inverse_root(value: int, nearest: bool = True) -> tuple[int, int]:
    """(mantissa, k): 1 / sqrt(value) as mantissa / 2**k, with MANTISSA_BITS significant bits.

    nearest: rounded, or cut off.
    """
    places = _root_places(value.bit_length())
    # never at a tie: 1 / sqrt(value) has no last bit below
    return (isqrt((1 << (2 * places + 2)) // value) + nearest) >> 1, places


def _root_places(bits: int) -> int:
    """k with 2**15 < 2**k / sqrt(value) <= 2**16 for values of that many bits.

    sqrt(value) is in [2**((bits-1)/2), 2**(bits/2)).
    """
    return MANTISSA_BITS - 1 + (bits + 1) // 2


def bounded(codes: np.ndarray, format: Format) -> np.ndarray:
    """Codes saturated to the format, int64."""
    saturated: np.ndarray = np.minimum(np.maximum(codes, format.min_code), format.max_code)
    return saturated.astype(np.int64)


def _saturated(codes: np.ndarray, exact: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """Rounded codes brought into range, counted."""
    format = quantizer.format
    outside = (codes < format.min_code, codes > format.max_code, (codes == 0) & (exact != 0))
    quantizer.tell(codes.size, np.array([np.count_nonzero(each) for each in outside]))
    return bounded(codes, format)


def _holding(code: int, step_exp: int) -> Format:
    """The signed format with that step that holds all codes of at most this magnitude."""
    bits = abs(code).bit_length() + 1
    return Format(bits, step_exp + bits - 1)


def _constant(name: str, value: Any) -> Factor:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InputError(f"{name} must be a number above 0, at most 1, got {shown(value)}")
    return Factor.nearest(value)


class BatchNormResult(NamedTuple):
    """The affine map's exact result, and what `batch_norm_grad` and the next step need."""

    output: Exact
    saved: SavedNorm
    running: tuple[Tensor, Tensor] | None


class SavedNorm(NamedTuple):
    """What one call of `batch_norm` leaves for `batch_norm_grad`."""

    norm: BatchNorm
    normalized: Normalized
    gamma: Tensor


STATISTICS = (Format(16, 3), Format(16, 3, signed=False))
"""Formats of the mean and of the variance of a batch, by default."""


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    statistics: tuple[Format, Format] = STATISTICS,
    normalized: Format | Quantizer = Format(16, 3),
    running: tuple[Tensor, Tensor] | None = None,
    epsilon: float = EPSILON,
    rate: float = RATE,
) -> BatchNormResult:
    """Batch norm with the statistics of the batch, as in training.

    The result is gamma * (x - mean) / sqrt(variance + epsilon) + beta, per channel.  Mean, variance
    and the normalized x (x-hat) are rounded to the given formats; the affine map of x-hat is exact,
    and is rounded by the result's `to` or `relu`.

    Args:
        x: (..., C) codes.
        gamma, beta: (C,) codes.
        statistics: formats of mean and variance, which are rounded to the nearest, ties away from
            zero, and saturated.
        normalized: format or Quantizer of x-hat.
        running: (mean, variance) as `running_statistics` or an earlier call gave them, to be moved.
        epsilon, rate: constants; each is the nearest number with a mantissa of 16 bits.

    Returns:
        (output, saved, running): the exact result; what `batch_norm_grad` takes; the running
        statistics after this batch, or None where none were given.

    Raises:
        InputError: for shapes that do not fit, or sums that pass 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([[10], [20], [30], [60]], Format(8, 3))
        >>> one, zero = Tensor([64], Format(8, 1)), Tensor([0], Format(8, 1))
        >>> ops.batch_norm(x, one, zero).output.to(Format(8, 2)).codes.ravel().tolist()
        [-34, -17, 0, 51]
    """
    norm = _norm_of(x, (gamma, beta), statistics, Quantizer.of(normalized), (epsilon, rate))
    held = None if running is None else _running_of(running, norm.formats, gamma.shape)
    quantizers = _quantizers_of(norm.formats, Quantizer.of(normalized))
    codes = x.operand
    made = norm.forward(codes, Moments.of(codes, codes), held, quantizers)
    saved = SavedNorm(norm, made, gamma)
    moved = None if held is None else _running_tensors(held, norm.formats)
    return BatchNormResult(_affine(norm, gamma, beta, made), saved, moved)


def batch_norm_inference(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running: tuple[Tensor, Tensor],
    *,
    statistics: tuple[Format, Format] = STATISTICS,
    normalized: Format | Quantizer = Format(16, 3),
    epsilon: float = EPSILON,
) -> Exact:
    """Batch norm with running statistics; args, errors and result are those of `batch_norm`.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([[10], [20], [30], [60]], Format(8, 3))
        >>> one, zero = Tensor([64], Format(8, 1)), Tensor([0], Format(8, 1))
        >>> running = ops.running_statistics([0.5], [4.0])
        >>> ops.batch_norm_inference(x, one, zero, running).to(Format(8, 2)).codes.ravel().tolist()
        [2, 12, 22, 52]
    """
    options: dict[str, Any] = {"statistics": statistics, "normalized": normalized}
    return batch_norm_frozen(x, gamma, beta, running, epsilon=epsilon, **options).output


def batch_norm_frozen(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running: tuple[Tensor, Tensor],
    *,
    statistics: tuple[Format, Format] = STATISTICS,
    normalized: Format | Quantizer = Format(16, 3),
    epsilon: float = EPSILON,
) -> BatchNormResult:
    """Batch norm with running statistics that stay, in training.

    Args and errors are those of `batch_norm`.  `batch_norm_grad` of what it saved is the gradient
    of constant statistics: gamma / sqrt(variance + epsilon) times the gradient at the output.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([[10], [20], [30], [60]], Format(8, 3))
        >>> one, zero = Tensor([64], Format(8, 1)), Tensor([0], Format(8, 1))
        >>> running = ops.running_statistics([0.5], [4.0])
        >>> made = ops.batch_norm_frozen(x, one, zero, running)
        >>> made.running == running
        True
        >>> grad = Tensor([[1], [2], [3], [-4]], Format(6, 0))
        >>> ops.batch_norm_grad(grad, made.saved, x=Format(8, -2), gamma=Format(8, 3),
        ...                     beta=Format(8, 3)).x.codes.ravel().tolist()
        [8, 16, 24, -32]
    """
    norm = _norm_of(x, (gamma, beta), statistics, Quantizer.of(normalized), (epsilon, RATE), True)
    held = _running_of(running, norm.formats, gamma.shape)
    quantizers = _quantizers_of(norm.formats, Quantizer.of(normalized))
    made = norm.forward(x.operand, None, held, quantizers)
    return BatchNormResult(_affine(norm, gamma, beta, made), SavedNorm(norm, made, gamma), running)


def _norm_of(
    x: Tensor,
    affine: tuple[Tensor, Tensor],
    statistics: tuple[Format, Format],
    normalized: Quantizer,
    constants: tuple[float, float],
    frozen: bool = False,
) -> BatchNorm:
    tensor_of("x", x)
    if x.ndim < 2 or not x.size:
        raise InputError(f"x must have shape (..., C) with at least one element, got {x.shape}")
    gamma, beta = affine
    of_shape("gamma", tensor_of("gamma", gamma), x.shape[-1:])
    of_shape("beta", tensor_of("beta", beta), x.shape[-1:])
    _check_statistics(statistics)
    formats = BatchNormFormats(*statistics, normalized.format, gamma.format, beta.format)
    return BatchNorm(x.format, formats, None, *constants, frozen)


def _check_statistics(statistics: Any) -> None:
    """TypeError or InputError unless these are the Formats of mean and variance."""
    pair = isinstance(statistics, tuple) and len(statistics) == 2
    if not pair or not all(isinstance(each, Format) for each in statistics):
        raise TypeError(
            "statistics must be the Formats (mean, variance), which are always rounded to the "
            f"nearest, got {shown(statistics)}"
        )
    for format in statistics:
        Quantizer(format)


def _quantizers_of(formats: BatchNormFormats, normalized: Quantizer) -> Quantizers:
    found = {
        "mean": Quantizer(formats.mean),
        "variance": Quantizer(formats.variance),
        "normalized": normalized,
    }
    return found.__getitem__


def _affine(norm: BatchNorm, gamma: Tensor, beta: Tensor, made: Normalized) -> Exact:
    form = norm.affine(gamma.operand.astype(np.int64), beta.operand.astype(np.int64))
    return form.of(made.codes)


def _running_tensors(running: Running, formats: BatchNormFormats) -> tuple[Tensor, Tensor]:
    return (
        Tensor._of(running.mean, running_format(formats.mean)),
        Tensor._of(running.variance, running_format(formats.variance)),
    )


class BatchNormGradients(NamedTuple):
    """Gradients at x, of gamma and of beta."""

    x: Tensor
    gamma: Tensor
    beta: Tensor


def batch_norm_grad(
    grad: Tensor,
    saved: SavedNorm,
    *,
    x: Format | Quantizer,
    gamma: Format | Quantizer,
    beta: Format | Quantizer,
) -> BatchNormGradients:
    """The gradients of `batch_norm` with the statistics of the batch, or of `batch_norm_frozen`.

    Args:
        grad: (..., C) gradient at the output.
        saved: of the forward call.
        x, gamma, beta: formats or Quantizers of the three gradients.

    Raises:
        InputError: for a gradient of another shape, or sums that pass 62 bits.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> x = Tensor([[10], [20], [30], [60]], Format(8, 3))
        >>> one, zero = Tensor([64], Format(8, 1)), Tensor([0], Format(8, 1))
        >>> saved = ops.batch_norm(x, one, zero).saved
        >>> grad = Tensor([[1], [2], [3], [-4]], Format(6, 0))
        >>> back = ops.batch_norm_grad(grad, saved, x=Format(8, 0), gamma=Format(8, 3),
        ...                            beta=Format(8, 3))
        >>> back.x.codes.ravel().tolist(), back.beta.codes.tolist()
        ([-6, 1, 9, -4], [1])
    """
    if not isinstance(saved, SavedNorm):
        raise TypeError(
            f"saved must come from ops.batch_norm, got {type(saved).__name__}; take its `saved`"
        )
    for part, cls in zip(saved, (BatchNorm, Normalized, Tensor)):
        instance("saved must be as ops.batch_norm gave it: its part", part, cls)
    of_shape("grad", tensor_of("grad", grad), saved.normalized.codes.shape)
    quantizers = {
        "preactivation_grads": Quantizer.of(x),
        "gamma_grads": Quantizer.of(gamma),
        "beta_grads": Quantizer.of(beta),
    }
    back = BatchNormGrad(saved.norm, grad.format, quantizers["preactivation_grads"].format)
    made = back.backward(
        grad.operand,
        saved.normalized,
        saved.gamma.operand.astype(np.int64),
        Moments.of(grad.operand, saved.normalized.codes),
        quantizers.__getitem__,
    )
    return BatchNormGradients(
        Tensor._of(made.codes, quantizers["preactivation_grads"].format),
        Tensor._of(present(made.gamma), quantizers["gamma_grads"].format),
        Tensor._of(present(made.beta), quantizers["beta_grads"].format),
    )


def _running_of(running: Any, formats: BatchNormFormats, channels: tuple[int, ...]) -> Running:
    if not isinstance(running, tuple) or len(running) != 2:
        raise TypeError("running must be a pair of Tensors (mean, variance)")
    for name, value, format in zip(("mean", "variance"), running, (formats.mean, formats.variance)):
        tensor_of(f"running {name}", value, most_bits=running_format(format).bits)
        of_shape(f"running {name}", value, channels)
        if value.format != running_format(format):
            raise InputError(
                f"running {name} must be in {running_format(format)}, got {value.format}"
            )
    mean, variance = running
    if variance.size and variance.codes.min() < 0:
        raise InputError(f"running variance must be at least 0, got {variance.real.min():g}")
    return Running(mean.codes.astype(np.int64), variance.codes.astype(np.int64))


def running_statistics(
    mean: Any, variance: Any, statistics: tuple[Format, Format] = STATISTICS
) -> tuple[Tensor, Tensor]:
    """Running statistics to start from, for `batch_norm`: real means and variances, rounded.

    Example:
        >>> from fxsim import ops
        >>> mean, variance = ops.running_statistics([0.0], [1.0])
        >>> variance.real
        array([1.])
    """
    _check_statistics(statistics)
    formats = BatchNormFormats(*statistics)
    running = Running.quantized({"running_mean": mean, "running_var": variance}, formats)
    return _running_tensors(running, formats)

"""Batch norm in integers: statistics of the batch, x-hat, the affine map, running statistics, and
the way back.

What there is one of per channel is worked out in unbounded Python integers; whole tensors take
exact sums and one quantization (kernels/channelwise.py).  The formulas are those of
fxsim/numerics.md.  Source of the method: S. Ioffe and C. Szegedy, "Batch Normalization" (ICML
2015), the variance being the mean squared deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np

from fxsim.errors import InputError
from fxsim.factors import MANTISSA_BITS
from fxsim.formats import Format
from fxsim.kernels.elementwise import roots as kernel
from fxsim.kernels.reductions import moments
from fxsim.nn.fixed.channelwise import ChannelSum, magnitude
from fxsim.nn.fixed.parameters import Parameter
from fxsim.nn.fixed.step import Run
from fxsim.nn.precision import BatchNormPrecision, LayerPrecision
from fxsim.nn.spec import BATCH_NORM_EPSILON_EXP, RUNNING_RATE_EXP
from fxsim.ops.integers import divided, integers, times
from fxsim.tensor import quantize

RUNNING_BITS = 16
"""Bits of the running statistics below the steps of mean and variance."""

GUARD_BITS = 24
"""Bits of the gradient's sums below the step of the gradient that they make: the constants of a
channel act on all of its positions alike, so that their rounding errors add up in the weight
gradient where those of single gradients do not."""


@dataclass
class Running:
    """Running mean and variance of each channel, int64 codes RUNNING_BITS finer than the
    formats of mean and variance.
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def quantized(cls, real: Mapping[str, np.ndarray], formats: BatchNormPrecision) -> Running:
        """From 'running_mean' and 'running_var', rounded to the steps of mean and variance."""
        pairs = (real["running_mean"], formats.mean), (real["running_var"], formats.variance)
        return cls(
            *(
                quantize(values, format).codes.astype(np.int64) << RUNNING_BITS
                for values, format in pairs
            )
        )

    def move(self, mean: np.ndarray, variance: np.ndarray) -> None:
        """By 2**RUNNING_RATE_EXP of the difference to a batch's codes, rounded to nearest, ties
        away from zero.
        """
        for running, codes in ((self.mean, mean), (self.variance, variance)):
            running += divided((codes << RUNNING_BITS) - running, 1, RUNNING_RATE_EXP).astype(
                np.int64
            )


def running_format(format: Format) -> Format:
    """The format of the running mean or variance, of the batch's `format`."""
    return Format(format.bits + RUNNING_BITS, format.range_exp, format.signed)


@dataclass
class Normalized:
    """What the backward pass needs: x-hat (N, H, W, O) and the inverse roots (O,) that made it."""

    codes: np.ndarray
    inverse_roots: np.ndarray


class BatchNorm:
    """Batch norm of the layer `name`, from pre-activation codes to what the ReLU reads, and back.

    grads: format of the gradient that comes back.  gradient_format: of the gradient at the
    pre-activations. output_format: of what the ReLU reads.  branch: format of the residual branch
    that is added, None without one. Raises ValueError where exact sums may need more than 62 bits.
    """

    def __init__(self, name: str, precision: LayerPrecision, grads: Format, branch: Format | None):
        self.name = name
        self.grads = grads
        self.branch = branch
        self.formats = precision.batch_norm or BatchNormPrecision()
        self.input = precision.preactivations
        self.gradient_format = self.formats.preactivation_grads or grads
        self.inverse_root = InverseRoot(self.formats.variance)
        self._check_widths()

    def _check_widths(self) -> None:
        """Builds the sums with the largest constants that there can be."""
        formats = self.formats
        root = integers(self.inverse_root.of(np.zeros(1, np.int64)))
        mean, gamma, beta = (
            integers([magnitude(format)]) for format in (formats.mean, formats.gamma, formats.beta)
        )
        self.normalization(-mean, root)
        self.output_format = self.affine(gamma, beta).format
        grads = magnitude(self.grads)
        scales = self._scales(gamma, root)
        sums = self._gradient(
            scales, integers([grads]), integers([grads * magnitude(formats.normalized)]), 1
        )
        exps = (
            exp - GUARD_BITS + self.gradient_format.step_exp
            for exp in (-self.grads.step_exp, -formats.normalized.step_exp, 0)
        )
        self._gradient_formats = [
            _holding(int(constants[0]), exp)
            for constants, exp in zip((sums.first, sums.second, sums.constant), exps)
        ]

    def forward(
        self, codes: np.ndarray, moments: np.ndarray | None, running: Running, run: Run
    ) -> Normalized:
        """x-hat of pre-activation codes (N, H, W, O); in training from their own statistics, which
        move the running ones.

        moments: in training (2, O) int64, the sums of each channel's codes and of their squares.
        """
        formats = self.formats
        terms = codes.size // codes.shape[-1]
        mean, variance = (
            self._statistics(*moments, terms, run)
            if run.training
            else self._running_statistics(running)
        )
        if run.training:
            running.move(mean, variance)
        inverse_roots = self.inverse_root.of(variance)
        sums = self.normalization(mean, inverse_roots)
        normalized = run.quantize(
            self.name, "normalized", sums, codes, None, formats.normalized, run.in_place
        )
        if run.probe:
            run.see("quantized_preactivations", self.name, codes, self.input)
            run.see("mean", self.name, mean, formats.mean)
            run.see("variance", self.name, variance, formats.variance)
            run.see("running_mean", self.name, running.mean, running_format(formats.mean))
            run.see(
                "running_variance", self.name, running.variance, running_format(formats.variance)
            )
            run.see(
                "inverse_roots", self.name, inverse_roots.astype(np.int64), self.inverse_root.format
            )
            run.see("normalized", self.name, normalized, formats.normalized)
        return Normalized(normalized, inverse_roots)

    def _statistics(
        self, total: np.ndarray, square: np.ndarray, terms: int, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (O,) of the mean and the variance of each channel, from the sums of its codes
        and of their squares.
        """
        _check_sum(self.name, terms * magnitude(self.input) ** 2, "squared pre-activations")
        step_exp = self.input.step_exp
        deviation = times(square, terms) - times(total, total)
        mean = divided(total, terms, step_exp - self.formats.mean.step_exp)
        variance = divided(deviation, terms**2, 2 * step_exp - self.formats.variance.step_exp)
        return (
            self._saturated("mean", mean, total, self.formats.mean, run),
            self._saturated("variance", variance, deviation, self.formats.variance, run),
        )

    def _saturated(
        self, tensor: str, codes: np.ndarray, exact: np.ndarray, format: Format, run: Run
    ) -> np.ndarray:
        below = codes < format.min_code
        above = codes > format.max_code
        flushed = (codes == 0) & (exact != 0)
        run.count(
            self.name,
            tensor,
            codes.size,
            [np.count_nonzero(each) for each in (below, above, flushed)],
        )
        return saturated(codes, format)

    def _running_statistics(self, running: Running) -> tuple[np.ndarray, np.ndarray]:
        """The running mean and variance, rounded to the formats of a batch's."""
        pairs = (running.mean, self.formats.mean), (running.variance, self.formats.variance)
        mean, variance = (
            saturated(divided(codes, 1, -RUNNING_BITS), format) for codes, format in pairs
        )
        return mean, variance

    def normalization(self, mean: np.ndarray, inverse_roots: np.ndarray) -> ChannelSum:
        """(Y - mean) times the inverse root, of pre-activation codes Y."""
        mean_exp = self.formats.mean.step_exp
        step_exp = min(self.input.step_exp, mean_exp)
        first = times(inverse_roots, 1 << self.input.step_exp - step_exp)
        constant = times(times(inverse_roots, -mean), 1 << mean_exp - step_exp)
        return ChannelSum(
            first, 0 * first, constant, step_exp + self.inverse_root.format.step_exp, self.input
        )

    def affine(self, gamma: np.ndarray, beta: np.ndarray) -> ChannelSum:
        """gamma times x-hat plus beta plus the residual branch, at the finest of their steps."""
        formats = self.formats
        product_exp = formats.gamma.step_exp + formats.normalized.step_exp
        branch_exp = self.branch.step_exp if self.branch else product_exp
        step_exp = min(product_exp, formats.beta.step_exp, branch_exp)
        second = times(
            np.full(gamma.size, int(self.branch is not None)), 1 << branch_exp - step_exp
        )
        return ChannelSum(
            times(gamma, 1 << product_exp - step_exp),
            second,
            times(beta, 1 << formats.beta.step_exp - step_exp),
            step_exp,
            formats.normalized,
            self.branch,
        )

    def backward(
        self, grads: np.ndarray, normalized: Normalized, gamma: Parameter, run: Run, in_place: bool
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Codes of the gradient at the pre-activations, and of those of gamma and beta, from codes
        after the affine map.

        in_place: whether the memory of `grads` may be used for the first.
        """
        formats = self.formats
        terms = grads.size // grads.shape[-1]
        _check_sum(
            self.name,
            terms * magnitude(self.grads) * magnitude(formats.normalized),
            "gradients times x-hat",
        )
        total, product_total = moments(grads, normalized.codes)
        step_exp = self.grads.step_exp
        own = {
            "gamma": run.quantize_exact(
                self.name,
                "gamma_grads",
                product_total,
                step_exp + formats.normalized.step_exp,
                formats.gamma_grads,
            ),
            "beta": run.quantize_exact(
                self.name, "beta_grads", total, step_exp, formats.beta_grads
            ),
        }
        sums = self._gradient(
            self._scales(gamma.codes, normalized.inverse_roots), total, product_total, terms
        )
        codes = run.quantize(
            self.name,
            "preactivation_grads",
            sums,
            grads,
            normalized.codes,
            self.gradient_format,
            in_place,
        )
        if run.probe:
            run.see("gamma_grads", self.name, own["gamma"], formats.gamma_grads)
            run.see("beta_grads", self.name, own["beta"], formats.beta_grads)
            parts = zip(
                ("scales", "slopes", "offsets"),
                (sums.first, sums.second, sums.constant),
                self._gradient_formats,
            )
            for kind, constants, format in parts:
                run.see(f"normalization_{kind}", self.name, constants.astype(np.int64), format)
        return codes, own

    def _scales(self, gamma: np.ndarray, inverse_roots: np.ndarray) -> np.ndarray:
        """gamma times the inverse root, which brings gradients to the step of the sums in
        `_gradient`.
        """
        exact_exp = (
            self.formats.gamma.step_exp + self.inverse_root.format.step_exp + self.grads.step_exp
        )
        return divided(
            times(inverse_roots, gamma), 1, exact_exp - self.gradient_format.step_exp + GUARD_BITS
        )

    def _gradient(
        self, scales: np.ndarray, total: np.ndarray, product_total: np.ndarray, terms: int
    ) -> ChannelSum:
        """scale * (g - mean(g) - x-hat * mean(g * x-hat)), from the sums of g and of g * x-hat
        over `terms` positions.
        """
        normalized = self.formats.normalized
        slopes = -divided(times(scales, product_total), terms, 2 * normalized.step_exp)
        return ChannelSum(
            scales,
            slopes,
            -divided(times(scales, total), terms),
            self.gradient_format.step_exp - GUARD_BITS,
            self.grads,
            normalized,
        )


class InverseRoot:
    """1 / sqrt(variance + 2**BATCH_NORM_EPSILON_EXP), rounded to MANTISSA_BITS significant bits.

    variance: format of the codes.  format: of the results, whose step is that of the smallest
    root's mantissa."""

    def __init__(self, variance: Format):
        finest = min(variance.step_exp, BATCH_NORM_EPSILON_EXP)
        step_exp = finest - finest % 2  # even, so that the root of the step is a power of two
        self._left = variance.step_exp - step_exp
        self._epsilon = 1 << (BATCH_NORM_EPSILON_EXP - step_exp)
        self._value_bits = ((variance.max_code << self._left) + self._epsilon).bit_length()
        self._places = _root_places(self._value_bits)
        self.format = _holding(self._root_of(0), -self._places - step_exp // 2)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Codes of the inverse roots (O,) for codes (O,) of variances."""
        if self._value_bits <= kernel.MAX_VALUE_BITS:
            return kernel.inverse_roots(
                (codes << self._left) + self._epsilon, MANTISSA_BITS, self._places
            )
        return integers([self._root_of(int(code)) for code in codes])

    def _root_of(self, code: int) -> int:
        value = (code << self._left) + self._epsilon
        places = _root_places(value.bit_length())
        mantissa = (
            isqrt((1 << 2 * places + 2) // value) + 1 >> 1
        )  # never at a tie: 1 / sqrt(value) has no last bit below
        return mantissa << (self._places - places)


def _root_places(bits: int) -> int:
    """k with 2**15 < 2**k / sqrt(value) <= 2**16 for values of that many.

    Sqrt(value) is in [2**((bits-1)/2), 2**(bits/2)).
    """
    return MANTISSA_BITS - 1 + (bits + 1) // 2


def saturated(codes: np.ndarray, format: Format) -> np.ndarray:
    return np.minimum(np.maximum(codes, format.min_code), format.max_code).astype(np.int64)


def _holding(code: int, step_exp: int) -> Format:
    """The signed format of that step that holds all codes of at most this magnitude."""
    bits = abs(code).bit_length() + 1
    return Format(bits, step_exp + bits - 1)


def _check_sum(layer: str, bound: int, what: str) -> None:
    if bound >= 2**63:
        raise InputError(
            f"layer {layer!r}: sums of {what} over the batch may pass 63 bits; lower the batch or "
            f"the widths"
        )

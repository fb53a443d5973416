"""The criteria and the figures of merit of the method, on plain numbers and arrays.

Source: C. Sakr and N. Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation
Algorithm", ICLR 2019 (arXiv 1812.11732), sections 2 and 3; the mismatch bound is that of Sakr, Kim
and Shanbhag, ICML 2017.  GF, OC and OP are fxsim's own.  Every function but certified_bits
broadcasts over its arguments.  Ranges and steps are powers of two and are returned as exponents: an
int for numbers, an integer array for arrays.

    EFQN  equal feed-forward quantization noise   equal_quantization_noise, smallest_min_bits,
                                                  mismatch_bound, tight_mismatch_bound
    GC    gradient clipping                       clipping_range_exp
    RQB   relative quantization bias              bias_step_exp
    BQN   bounded quantization noise              reflected_noise_step_exp
    GF    gradient flushing                       flushing_step_exp
    AS    accumulator stopping                    accumulator_step_exp
    OC    overflow certificate                    certified_bits
    OP    overflow probability                    overflow_range_exp, overflow_bound
          bits of products that are dropped       dropped_bits_noise
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fxsim.errors import InputError, choice
from fxsim.formats import ROUNDINGS

LARGEST_CLIPPING_RATE = 0.05
LARGEST_QUANTIZATION_BIAS = 0.01
LARGEST_FLUSHED_SHARE = 0.01
LARGEST_OVERFLOW_RATE = 1e-6
"""The share of sums that may leave their accumulator, criterion OP."""


def equal_quantization_noise(gains: ArrayLike, min_bits: int) -> np.ndarray:
    """Criterion EFQN: bits at which all weights and activations add equally to the decision
    mismatch.

    B_T = round(log2 sqrt(E_T / E_min)) + B_min, for the noise gains E_T of all weights and
    activations of a network; E_min is the least of them, and its tensor gets `min_bits`.  The bits
    are those of steps 2**-(B_T - 1).  Halves round up (the paper leaves ties open).  Sakr and
    Shanbhag, section 3.
    """
    gains = _positive("gains", gains, "measure them on more samples")
    if min_bits < 1:
        raise InputError(f"min_bits must be at least 1, got {min_bits}")
    extra_bits = 0.5 * (np.log2(gains) - np.log2(gains.min()))
    return np.floor(extra_bits + 0.5).astype(int) + int(min_bits)


def mismatch_bound(gains: ArrayLike, bits: ArrayLike) -> float:
    """Bound on the probability p_m that fixed-point and float decisions differ.

    p_m <= sum D_T^2 E_T over all weights and activations T, with steps D_T = 2**-(B_T - 1).
    Source: Sakr, Kim and Shanbhag (ICML 2017), with the gains' factor 1/24.
    """
    gains = _positive("gains", gains, "measure them on more samples")
    steps = np.ldexp(1.0, 1 - np.asarray(bits))
    return float(np.sum(steps**2 * gains))


def tight_mismatch_bound(distances: ArrayLike, squares: ArrayLike, bits: ArrayLike) -> float:
    """A bound on p_m that is never above mismatch_bound, under the same assumptions.

    These are the paper's: quantization adds to every element of every weight and activation tensor
    an independent noise, uniform on [-D_T/2, D_T/2], and moves scores to first order.  The noise of
    Z_i - Z_y then is a sum of independent uniform terms, symmetric about 0, of the variance s_i^2 =
    sum over T of D_T^2/12 |d(Z_i - Z_y)/dT|^2.  It changes a decision only where it passes the
    margin m_i = Z_y - Z_i of some class i.  The probability of that is at most

    - 1/2, by symmetry;
    - s_i^2 / (2 m_i^2), by Chebyshev's inequality and symmetry: the paper's term;
    - exp(-m_i^2 / (2 s_i^2)), by Chernoff's: a uniform variable on [-a, a] has E exp(t u) =
      sinh(t a) / (t a) <= exp(t^2 a^2 / 6), so that it, and with it the sum, is sub-Gaussian with
      its own variance as proxy.

    The least of the three, summed over the classes, but at most 1, bounds the image's probability;
    p_m is at most the mean over images.  The paper's bound is the sum of the second terms alone.
    Its expectation is infinite where margins have a density at 0, so that its estimate grows with
    the sample; here every image counts at most 1.

    Args:
        distances: the margins m_i of N images, `(N, M - 1)`; a tie, m_i = 0, is left out: no
            precision settles it.
        squares: |d(Z_i - Z_y)/dT|^2, `(T, N, M - 1)`.
        bits: of each tensor `(T,)`, steps D_T = 2**-(B_T - 1).

    Example:
        >>> squares = np.full((1, 1, 1), 12.0)  # s = D
        >>> bounds = [tight_mismatch_bound([[1.0]], squares, [bits]) for bits in (1, 2, 3, 4)]
        >>> [float(f"{bound:.2g}") for bound in bounds]
        [0.5, 0.12, 0.00034, 1.3e-14]
    """
    distances = np.asarray(distances, np.float64)
    steps = np.ldexp(1.0, 1 - np.asarray(bits))
    variances = np.einsum("t,tnm->nm", steps**2 / 12, np.asarray(squares, np.float64))
    ratios = np.zeros_like(distances)
    np.divide(variances, distances**2, out=ratios, where=distances > 0)
    exponents = np.full_like(distances, -np.inf)
    np.divide(-0.5, ratios, out=exponents, where=ratios > 0)
    terms = np.minimum(np.minimum(0.5, ratios / 2), np.exp(exponents))
    return float(np.minimum(1.0, terms.sum(axis=1)).mean())


def smallest_min_bits(gains: ArrayLike, target: float = 0.01) -> int:
    """The least B_min of at least 1 whose EFQN bits keep the mismatch bound at most `target`.

    Source: Sakr and Shanbhag (ICLR 2019), section 3, where the target is 1 %.
    """
    target = float(_positive("target", target, "the paper takes 0.01"))
    bound = mismatch_bound(gains, equal_quantization_noise(gains, 1))
    # One more bit everywhere divides the bound by 4.
    return 1 + max(0, int(_least_exponent(np.sqrt(bound / target))))


def clipping_range_exp(sigma_max: ArrayLike, factor: ArrayLike) -> int | np.ndarray:
    """Criterion GC: the least e with 2**e >= factor * sigma_max, so that hardly any gradient clips.

    The paper's factor is 2 for weight gradients and 4 for the sparser activation gradients, which
    keeps the clipping rate under 5 %; its authors' code takes 8 for the latter.  Section 3.
    """
    sigma_max = _positive("sigma_max", sigma_max, _DEAD_TENSOR)
    return _least_exponent(sigma_max * _positive("factor", factor, "the paper takes 2 and 4"))


def bias_step_exp(sigma_min: ArrayLike) -> int | np.ndarray:
    """Criterion RQB: the greatest e with 2**e < sigma_min / 4, for weight gradients.

    Keeps the relative quantization bias of a normal distribution under 1 % where it is rounded to
    nearest.  Sakr and Shanbhag (ICLR 2019), section 3.

    The bias at a step D is about D/12 |p'(D) / p(D)|, p the density of the magnitudes: D^2 / (12
    sigma^2) of a normal one.  Towards the end of a training the density is about a power, c |g|^-a
    over many powers of two, and the bias a/12 at every step there: none brings it under 1 % then.
    Stochastic rounding has no bias at any.
    """
    return _greatest_exponent_below(_positive("sigma_min", sigma_min, _DEAD_TENSOR) / 4)


def reflected_noise_step_exp(
    weight_grad_step: ArrayLike,
    lambda_max: ArrayLike,
    weight_grad_count: ArrayLike,
    activation_grad_count: ArrayLike,
    fourth_root: bool = True,
) -> int | np.ndarray:
    """Criterion BQN: the greatest e whose step 2**e of G^A reflects less noise onto G^W than G^W
    has.

    2**e < weight_grad_step * lambda_max**-1/2 * (weight_grad_count / activation_grad_count)**1/4.

    lambda_max: largest singular value of the square-Jacobian of G^W_l with respect to G^A_{l+1};
    the counts are the elements of the two, the batch included.  Re-derived from the norms of the
    two noise vectors, |S (D_A^2/12) 1| <= lambda_max (D_A^2/12) sqrt|G^A| < (D_W^2/12) sqrt|G^W|.
    The published code has no fourth root: `fourth_root=False` drops it.  Sakr and Shanbhag (ICLR
    2019), section 3.

    The variance D^2/12 is that of rounding to nearest; stochastic rounding has at most D^2/6, mean
    over a step.  Where both gradients round stochastically, both have the factor 2, and the
    comparison stays.
    """
    step = _positive("weight_grad_step", weight_grad_step, "give the step, not its exponent")
    step = step / np.sqrt(_positive("lambda_max", lambda_max, _DEAD_TENSOR))
    weight_grad_count = _positive(
        "weight_grad_count", weight_grad_count, "count the elements of G^W"
    )
    activation_grad_count = _positive(
        "activation_grad_count", activation_grad_count, "count the elements of G^A"
    )
    if fourth_root:
        step = step * (weight_grad_count / activation_grad_count) ** 0.25
    return _greatest_exponent_below(step)


def flushable_magnitude(values: ArrayLike) -> float:
    """The largest magnitude below which the elements make at most 1 % of the sum of all magnitudes.

    Infinity where all are zero: nothing can be lost.

    Example:
        >>> flushable_magnitude([5.0, -1.0, 90.0, 0.0, 4.0, 100.0])  # 1 of 200, with 4.0 it is 2.5 %
        4.0
    """
    magnitudes = np.sort(np.abs(_elements(values)).ravel())
    sums = np.cumsum(magnitudes)
    if not sums[-1]:
        return float("inf")
    first = np.searchsorted(sums, LARGEST_FLUSHED_SHARE * sums[-1], side="right")
    return float(magnitudes[first])


def flushing_step_exp(flushable: ArrayLike) -> int | np.ndarray:
    """Criterion GF: the greatest e whose step 2**e, rounded to nearest, flushes at most 1 % of the
    tensor's absolute sum.

    2**e <= 2 * flushable (see flushable_magnitude), for what lies below half a step becomes 0.

    For G^A and batch norm's gradient at the pre-activations.  BQN takes their quantization errors
    for independent noise without a mean.  Where most elements lie below half a step the error is
    the gradient itself: what is left of softmax' p - onehot no longer sums to zero over the
    classes, and a long training drifts until it breaks down.  Stochastic rounding loses nothing on
    the mean, and BQN is enough.  Source: fxsim's own measurements, see guide/bits.md.
    """
    return _greatest_exponent(2 * _positive("flushable", flushable, _DEAD_TENSOR))


def accumulator_step_exp(gamma_min: ArrayLike, weight_grad_step: ArrayLike) -> int | np.ndarray:
    """Criterion AS: the greatest e with 2**e <= gamma_min * weight_grad_step.

    The smallest non-zero update, at the smallest learning rate, still moves the accumulator.
    Source: Sakr and Shanbhag (ICLR 2019), section 3.
    """
    gamma_min = _positive("gamma_min", gamma_min, "give the smallest learning rate of the schedule")
    weight_grad_step = _positive(
        "weight_grad_step", weight_grad_step, "give the step, not its exponent"
    )
    return _greatest_exponent(gamma_min * weight_grad_step)


def certified_bits(positive: int, negative: int, lowest: int, highest: int, start: int = 0) -> int:
    """Criterion OC: the least bits of a signed accumulator that no input overflows.

    The sum of w_k a_k over terms k, with codes a_k from `lowest` to `highest` (0 lies between
    them), is at most positive * highest - negative * lowest, and at least positive * lowest -
    negative * highest.  So is every sum of some of the terms, in whatever order, since each term
    has a least value of at most 0 and a greatest of at least 0.  Both bounds are reached.

    Args:
        positive, negative: the sum of the positive w_k, and that of the negative ones' magnitudes;
            of several sums the largest of each.  Behind a ReLU, lowest = 0, one of them counts.
        lowest, highest: codes of what the weights meet.
        start: the largest magnitude of what is added beside, as a bias.

    Example:
        >>> certified_bits(5, 3, 0, 10), certified_bits(5, 3, -10, 10)  # 50 and -30, 80 and -80
        (7, 8)
    """
    if min(positive, negative, highest, -lowest, start) < 0:
        raise InputError(
            f"positive, negative, start and highest must be at least 0 and lowest at most 0, got "
            f"{positive}, {negative}, {start}, {highest}, {lowest}"
        )
    greatest = positive * highest - negative * lowest + start
    least = positive * lowest - negative * highest - start
    return 1 + max(greatest, -1 - least).bit_length()


def overflow_bound(limit: ArrayLike, terms: ArrayLike, deviation: ArrayLike) -> float | np.ndarray:
    """Bound on the probability that a sum of n terms leaves [-R, R] on its way.

    P(|t_0 + .. + t_k| > R for some k) <= 4 Q(R / (s sqrt(n))), Q the upper tail of the normal
    distribution.  For independent terms, symmetric about 0, of standard deviation s, Levy's
    inequality takes the largest of the sums on one side to twice the tail of the whole sum; there
    are two sides; and the whole sum is taken for normal.  Source: P. Levy, Theorie de l'addition
    des variables aleatoires (1937).  The formulas that are published for accumulators of floats
    (variance retention ratio, Sakr et al., ICLR 2019) do not predict integer ones.

    Args:
        limit: R.
        terms: n.
        deviation: s.

    Example:
        >>> [float(f"{overflow_bound(limit, 16, 0.25):.2g}") for limit in (1.0, 3.0, 5.0)]
        [0.63, 0.0054, 1.1e-06]
    """
    limit = _positive("limit", limit, "give R = 2**range_exp")
    tails = np.vectorize(math.erfc, otypes=[float])(limit / (_spread(terms, deviation) * 2**0.5))
    return _plain(np.minimum(1.0, 2 * tails))


def overflow_range_exp(
    terms: ArrayLike, deviation: ArrayLike, target: float = LARGEST_OVERFLOW_RATE
) -> int | np.ndarray:
    """Criterion OP: the least e whose range R = 2**e keeps overflow_bound at most `target`.

    Example:
        >>> overflow_range_exp(16, 0.25), overflow_range_exp(16, 0.25, 0.01)  # R above 5.03, 2.81
        (3, 2)
    """
    return _least_exponent(overflow_limit(terms, deviation, target))


def overflow_limit(
    terms: ArrayLike, deviation: ArrayLike, target: float = LARGEST_OVERFLOW_RATE
) -> np.ndarray:
    """The R at which overflow_bound is `target`."""
    if not 0 < target < 1:
        raise InputError(f"target must lie between 0 and 1, got {target:g}; 1e-6 is the default")
    return _spread(terms, deviation) * -NormalDist().inv_cdf(target / 4)


def dropped_bits_noise(
    terms: int, step: float, drop: int, rounding: str = "nearest_even"
) -> tuple[float, float]:
    """Bias and variance of a sum whose n terms lose their last bits before they are added.

    A term of step d is rounded to the step D = 2**drop * d; its last bits are taken for uniform and
    independent.  Rounding to nearest adds the variance n (D^2 - d^2) / 12, up to ties without a
    bias; floor adds the same variance and the bias -n (D - d) / 2.

    Args:
        terms: n.
        step: d.
        drop: bits that are dropped.
        rounding: 'floor', or one to nearest.

    Example:
        >>> dropped_bits_noise(12, 1.0, 2, "floor"), dropped_bits_noise(12, 1.0, 2)
        ((-18.0, 15.0), (0.0, 15.0))
    """
    coarse = math.ldexp(step, drop)
    choice("rounding", rounding, ("floor", *(mode for mode in ROUNDINGS if "nearest" in mode)))
    bias = -terms * (coarse - step) / 2 if rounding == "floor" else 0.0
    return bias, terms * (coarse**2 - step**2) / 12


def _spread(terms: ArrayLike, deviation: ArrayLike) -> np.ndarray:
    terms = _positive("terms", terms, "count the terms of a sum")
    return _positive("deviation", deviation, _DEAD_TENSOR) * np.sqrt(terms)


def gradient_bits(range_exp: ArrayLike, step_exp: ArrayLike) -> int | np.ndarray:
    """Bits of a signed gradient of range r and step D, log2(r / D) + 1, and at least 1.

    Where the step asked for is coarser than the range, that one bit has the step r.
    """
    return _plain(np.maximum(np.asarray(range_exp) - np.asarray(step_exp) + 1, 1))


def relative_quantization_bias(values: ArrayLike, step: float) -> float:
    """|D - m| / m, where m is the mean of the magnitudes in (D/2, 3D/2) and D = step.

    How far the first non-zero level is from the mean of what it stands for.  The paper (section 2)
    takes one side of a symmetric distribution; here both sides count.  0 where no element lies
    there.
    """
    magnitudes = np.abs(_elements(values))
    step = float(_positive("step", step, "give the step, not its exponent"))
    near = magnitudes[(magnitudes > step / 2) & (magnitudes < 1.5 * step)]
    return float(abs(step - near.mean()) / near.mean()) if near.size else 0.0


def flushed_share(values: ArrayLike, step: float) -> float:
    """The share of the sum of all magnitudes that lies below half a step; 0 where all are zero."""
    magnitudes = np.abs(_elements(values))
    step = float(_positive("step", step, "give the step, not its exponent"))
    total = magnitudes.sum()
    return float(magnitudes[magnitudes < step / 2].sum() / total) if total else 0.0


def reflected_noise(step: ArrayLike, gain: ArrayLike) -> float | np.ndarray:
    """Variance D^2/12 * gain that quantizing one tensor with step D puts onto another.

    gain: sum of the squared partial derivatives between the two.  Sakr and Shanbhag, section 2.
    """
    step = _positive("step", step, "give the step, not its exponent")
    return _plain(step**2 / 12 * _positive("gain", gain, _DEAD_TENSOR))


_DEAD_TENSOR = (
    "a tensor that is always zero cannot be assigned a format; remove it or train it longer"
)


def _positive(name: str, value: ArrayLike, way_out: str) -> np.ndarray:
    value = np.asarray(value, np.float64)
    if value.size == 0:
        raise InputError(f"{name} must have at least one element")
    wrong = ~(np.isfinite(value) & (value > 0))
    if wrong.any():
        raise InputError(f"{name} must be finite and above 0, got {value[wrong][0]:g}; {way_out}")
    return value


def _elements(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise InputError("values must be finite and at least one")
    return values


def _greatest_exponent(bound: np.ndarray) -> int | np.ndarray:
    """The greatest e with 2**e <= bound, exactly: bound = m * 2**e' with m in [1/2, 1)."""
    return _plain(np.frexp(bound)[1] - 1)


def _greatest_exponent_below(bound: np.ndarray) -> int | np.ndarray:
    """The greatest e with 2**e < bound, exactly."""
    return _least_exponent(bound) - 1


def _least_exponent(bound: np.ndarray) -> int | np.ndarray:
    """The least e with 2**e >= bound, exactly."""
    mantissa, exponent = np.frexp(bound)
    return _plain(exponent - (mantissa == 0.5))


def _plain(value: np.ndarray):
    """A Python number where the result is a single one."""
    return value.item() if np.ndim(value) == 0 else value

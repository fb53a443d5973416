"""From statistics of the float run to a PrecisionAssignment with a reason for every format.

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm",
ICLR 2019, section 3.  The criteria are those of fxsim.analysis.criteria; here they meet a network.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fxsim.analysis import criteria
from fxsim.analysis.output_error import OUTPUT_EFQN, asked_output_error
from fxsim.analysis.statistics import Statistics
from fxsim.errors import InputError
from fxsim.formats import MAX_TENSOR_BITS, Format
from fxsim.nn.precision import (
    UPDATE_BITS,
    LayerPrecision,
    PrecisionAssignment,
    Reason,
    accumulator_format,
    is_branch,
)
from fxsim.nn.spec import Network
from fxsim.ops.dropout import scale_bits

WEIGHT_RANGE_EXP = 0
"""Weights are clipped to [-1, 1)."""

AUXILIARY_BITS = 16
BATCH_NORM_GRAD_BITS = 14
"""Least bits of the gradient at pre-activations that batch norm reads; see `assign`."""
BIAS_CLIP_FACTOR = 4
ABS_MAX_HEADROOM = 2
"""Logits and pre-activations get a range of twice their largest magnitude in the float run,
variances of four times.
"""

CLIP_FACTORS = (4.0, 2.0)
"""Ranges of activation gradients and of weight gradients in units of sigma_max."""

Assigned = tuple[Format, Reason]


def assign(
    network: Network,
    statistics: Statistics,
    target: float = 0.01,
    *,
    min_bits: int | None = None,
    clip_factors: tuple[float, float] = CLIP_FACTORS,
    fourth_root: bool = True,
    input_bits: int | None = None,
    output_grad_bits: int | None = None,
) -> PrecisionAssignment:
    """The precision configuration C_o that meets the five criteria, for all tensors of `network`.

    target: bound on the decision mismatch p_m, from which B_min follows; for a network that decides
    nothing, bound on the mean squared error of its outputs against float, as a share of the float
    network's loss (analysis/output_error.py).  Or B_min itself as `min_bits`.  clip_factors: ranges
    of G^A and of G^W in units of sigma_max.  fourth_root: see
    criteria.reflected_noise_step_exp.  input_bits: of the network's input, in place of EFQN's.
    output_grad_bits: of the gradient at the logits, in place of BQN's.  The parts of that gradient
    sum to zero over the classes, but most are small; a coarse step flushes them, what is left
    pushes all logits one way, and a long training drifts until its weights saturate.  16 bits avoid
    that at no cost worth naming: there are as many such codes as classes.

    Weights get EFQN's B bits over [-1, 1), activations B unsigned bits over [0, 2): the same step.
    Where the activation function has another ceiling, or none, or is signed, its output has more
    or fewer bits of that step; without a ceiling its range is twice activations_max, or more.
    The input lies in [0, 1) and reaches that step with one bit less; what dropout scales gets the
    range and the bits for that.  A tensor that several layers read gets the finest step that one of
    them asks for.  Bias gradients, logits, pre-activations, mean, variance and the gradients of
    gamma and beta have 16 bits, and reasons of their own kind; bias, x-hat, gamma and beta keep
    their defaults.  The gradient at pre-activations that batch norm reads has the bits of G^A, at
    least 14, and its range by the same criterion: it is dense where G^A is sparse, most of it far
    below its largest, and what a step as coarse as that of G^A would flush is no noise but the mean
    that batch norm takes away.

    Raises InputError for statistics of another network, and naming layer, tensor and statistic
    where the bits would be too many.
    """
    statistics.check_network(network)
    if not network.decides:
        target = asked_output_error(statistics, target)
    asked = target if min_bits is None else None
    if min_bits is None:
        min_bits = criteria.smallest_min_bits(feedforward_gains(network, statistics), target)
    assigned = _feedforward(network, statistics, min_bits, asked, input_bits)
    last = len(network.layers) - 1
    for row, layer in enumerate(network.layers):
        formats = assigned[layer.name]
        formats["weight_grads"] = _weight_grads(statistics, row, clip_factors[1])
        step = formats["weight_grads"][0].step
        formats["activation_grads"] = _activation_grads(
            statistics, row, step, clip_factors[0], fourth_root
        )
        if output_grad_bits is not None and row == last:
            formats["activation_grads"] = _given(
                formats["activation_grads"][0], "output_grad_bits", output_grad_bits
            )
        formats["accumulators"] = _accumulators(statistics, row, step, formats["weights"][0])
        formats["preactivations"] = _over_abs_max(statistics.preactivations_max[row])
        if layer.has_bias:
            formats["bias_grads"] = _clipped(
                "bias_grads", AUXILIARY_BITS, BIAS_CLIP_FACTOR, statistics, row
            )
            if is_branch(network, layer.name) and layer.activation.least_range_exp is None:
                formats["branch"] = formats["preactivations"]
        else:
            formats |= _batch_norm(statistics, row, formats, clip_factors[0])
    return _collect(network, assigned, _over_abs_max(statistics.logits_max)[0])


def assign_bits(
    network: Network, statistics: Statistics, min_bits: int, **options
) -> PrecisionAssignment:
    """`assign` with B_min given in place of a target for p_m; the margins of EFQN are then 1."""
    return assign(network, statistics, min_bits=min_bits, **options)


def feedforward_gains(network: Network, statistics: Statistics) -> np.ndarray:
    """Noise gains of all weights, then of all activations, each tensor once.

    An activation tensor that several layers read has the largest of the gains recorded for them,
    since that asks for the finest step.
    """
    sources = _sources(network)
    shared = [
        max(gain for gain, other in zip(statistics.activations_gain, sources) if other == source)
        for source in dict.fromkeys(sources)
    ]
    return np.array([*statistics.weights_gain, *shared])


def assignment_mismatch_bound(
    network: Network, statistics: Statistics, assignment: PrecisionAssignment
) -> float:
    """The bound on p_m for the steps of weights and activations in `assignment`.

    See criteria.mismatch_bound.  For a network that decides nothing, the mean squared error that
    they are expected to put on its outputs.
    """
    statistics.check_network(network)
    assignment.check_network(network)
    precisions = assignment.layers.values()
    activations = {
        source: precision.activations for source, precision in zip(_sources(network), precisions)
    }
    formats = [precision.weights for precision in precisions] + list(activations.values())
    return criteria.mismatch_bound(
        feedforward_gains(network, statistics), [1 - format.step_exp for format in formats]
    )


def _sources(network: Network) -> list[str | None]:
    return [source for _, source in network.edges()]


def _collect(
    network: Network, assigned: dict[str, dict[str, Assigned]], logits: Format
) -> PrecisionAssignment:
    layers = {
        name: LayerPrecision.of({tensor: format for tensor, (format, _) in row.items()})
        for name, row in assigned.items()
    }
    reasons = {
        (name, tensor): reason
        for name, row in assigned.items()
        for tensor, (_, reason) in row.items()
    }
    return PrecisionAssignment(network.name, layers, logits=logits, reasons=reasons)


def _feedforward(
    network: Network,
    statistics: Statistics,
    min_bits: int,
    target: float | None,
    input_bits: int | None,
) -> dict[str, dict[str, Assigned]]:
    """Weights and activations of every layer."""
    gains = feedforward_gains(network, statistics)
    bits = criteria.equal_quantization_noise(gains, min_bits)
    bound = criteria.mismatch_bound(gains, bits)
    # The factor by which all steps together are finer than the target asks.
    margin = 1.0 if target is None else math.sqrt(target / bound)
    statistic = {
        "least_gain": float(gains.min()),
        "min_bits": float(min_bits),
        "mismatch_bound" if network.decides else "output_error": bound,
    }
    criterion = "EFQN" if network.decides else OUTPUT_EFQN
    reasons = [Reason(criterion, {"gain": float(gain), **statistic}, margin) for gain in gains]

    sources = _sources(network)
    tensors = list(dict.fromkeys(sources))
    assigned = {}
    for row, (name, source) in enumerate(zip(network.names, sources)):
        at = len(sources) + tensors.index(source)
        for tensor, index in (("weights", row), ("activations", at)):
            _check_bits(
                name,
                tensor,
                bits[index],
                f"its noise gain {gains[index]:g} against the least one, "
                f"{gains.min():g}, with B_min {min_bits}; measure the gains on more samples",
            )
        weights = Format(bits[row], WEIGHT_RANGE_EXP), reasons[row]
        if source is None:
            activations = _input(int(bits[at]), reasons[at], input_bits)
        else:
            activations = _activations(network, statistics, source, int(bits[at]), reasons[at])
        assigned[name] = {
            "weights": weights,
            "activations": _shared(activations, sources.count(source)),
        }
    return assigned


def _activations(
    network: Network, statistics: Statistics, source: str, bits: int, reason: Reason
) -> Assigned:
    """The output of layer `source`, with the step of `bits` over [0, 2).

    Its range is that of the activation: the least power of two that holds the ceiling, else that of
    the largest magnitude in the float run.  Dropout's scale has room beside it.
    """
    layer = network.layer(source)
    range_exp = layer.activation.least_range_exp
    if range_exp is None:
        largest = float(statistics.activations_max[network.names.index(source)])
        if not largest:
            raise InputError(
                f"layer {source!r}: the range of its activations follows from activations_max, "
                f"which these statistics do not have; make them anew with `fxsim analyze`"
            )
        range_exp = int(criteria.clipping_range_exp(largest, ABS_MAX_HEADROOM))
        reason = replace(reason, statistic={**reason.statistic, "activations_max": largest})
    range_exp += scale_bits(layer.dropout)[1]
    signed = layer.activation.signed
    width = max(range_exp + bits - 1 + signed, 1 + signed)
    _check_bits(source, "activations", width, f"the range 2^{range_exp} of its output")
    return Format(width, range_exp, signed), reason


def _input(bits: int, reason: Reason, input_bits: int | None) -> Assigned:
    """The network's input, in [0, 1): the step of `bits` over [0, 2) takes one bit less."""
    if input_bits is None:
        return Format(max(1, bits - 1), 0, signed=False), reason
    return _given(Format(1, 0, signed=False), "input_bits", input_bits)


def _given(format: Format, name: str, bits: int) -> Assigned:
    """The range of `format` in as many bits as the argument `name` says."""
    least = 2 if format.signed else 1
    if not least <= bits <= MAX_TENSOR_BITS:
        raise InputError(f"{name} must be {least} to {MAX_TENSOR_BITS}, got {bits}")
    return replace(format, bits=bits), Reason("given", {name: float(bits)}, 1.0)


def _shared(activations: Assigned, readers: int) -> Assigned:
    format, reason = activations
    if readers == 1:
        return activations
    return format, Reason(
        f"{reason.criterion}, shared by {readers}", reason.statistic, reason.margin
    )


def _weight_grads(statistics: Statistics, row: int, clip_factor: float) -> Assigned:
    sigma_max = statistics.weight_grads_sigma_max[row]
    sigma_min = statistics.weight_grads_sigma_min[row]
    range_exp = int(criteria.clipping_range_exp(sigma_max, clip_factor))
    bits = int(criteria.gradient_bits(range_exp, criteria.bias_step_exp(sigma_min)))
    _check_bits(
        statistics.layers[row],
        "weight_grads",
        bits,
        f"weight_grads_sigma_max {sigma_max:g} against "
        f"weight_grads_sigma_min {sigma_min:g}; lower the learning rate or end the float run "
        f"earlier",
    )
    format = Format(bits, range_exp)
    statistic = {"sigma_max": float(sigma_max), "sigma_min": float(sigma_min)}
    return format, Reason(
        "GC, RQB", statistic, _margin(format, clip_factor * sigma_max, sigma_min / 4)
    )


def _activation_grads(
    statistics: Statistics, row: int, weight_grad_step: float, clip_factor: float, fourth_root: bool
) -> Assigned:
    sigma_max = statistics.activation_grads_sigma_max[row]
    lambda_max = statistics.lambda_max[row]
    counts = statistics.weight_grads_count[row], statistics.activation_grads_count[row]
    range_exp = int(criteria.clipping_range_exp(sigma_max, clip_factor))
    step_exp = criteria.reflected_noise_step_exp(
        weight_grad_step, lambda_max, *counts, fourth_root=fourth_root
    )
    bits = int(criteria.gradient_bits(range_exp, step_exp))
    _check_bits(
        statistics.layers[row],
        "activation_grads",
        bits,
        f"activation_grads_sigma_max {sigma_max:g} against "
        f"lambda_max {lambda_max:g} and the weight gradient's step {weight_grad_step:g}; lower the "
        f"learning "
        "rate",
    )
    format = Format(bits, range_exp)
    statistic = {
        "sigma_max": float(sigma_max),
        "lambda_max": float(lambda_max),
        "weight_grad_step": weight_grad_step,
        "weight_grad_count": float(counts[0]),
        "activation_grad_count": float(counts[1]),
    }
    step_asked = (
        weight_grad_step
        / math.sqrt(lambda_max)
        * ((counts[0] / counts[1]) ** 0.25 if fourth_root else 1.0)
    )
    return format, Reason(
        "GC, BQN", statistic, _margin(format, clip_factor * sigma_max, step_asked)
    )


def _accumulators(
    statistics: Statistics, row: int, weight_grad_step: float, weights: Format
) -> Assigned:
    step_asked = statistics.gamma_min * weight_grad_step
    step_exp = int(criteria.accumulator_step_exp(statistics.gamma_min, weight_grad_step))
    _check_bits(
        statistics.layers[row],
        "accumulators",
        weights.step_exp - step_exp,
        f"gamma_min {statistics.gamma_min:g} times the weight gradient's step {weight_grad_step:g} "
        f"(from "
        f"weight_grads_sigma_min {statistics.weight_grads_sigma_min[row]:g}) below the weight's "
        f"step "
        f"{weights.step:g}; raise the last learning rate",
        min(MAX_TENSOR_BITS, UPDATE_BITS - weights.bits),
    )
    format = accumulator_format(weights, step_exp)
    statistic = {"gamma_min": statistics.gamma_min, "weight_grad_step": weight_grad_step}
    return format, Reason("AS", statistic, step_asked / format.step)


def _clipped(tensor: str, bits: int, factor: float, statistics: Statistics, row: int) -> Assigned:
    sigma_max = float(getattr(statistics, f"{tensor}_sigma_max")[row])
    format = Format(bits, int(criteria.clipping_range_exp(sigma_max, factor)))
    return format, Reason("GC", {"sigma_max": sigma_max}, format.range / (factor * sigma_max))


def _batch_norm(
    statistics: Statistics, row: int, formats: dict[str, Assigned], clip_factor: float
) -> dict[str, Assigned]:
    """The mean has the format of what it is the mean of, the gradient at the pre-activations
    the bits of G^A, or more.
    """
    variance, reason = _over_abs_max(statistics.variances_max[row], ABS_MAX_HEADROOM**2)
    parameters = {
        tensor: _clipped(tensor, AUXILIARY_BITS, BIAS_CLIP_FACTOR, statistics, row)
        for tensor in ("gamma_grads", "beta_grads")
    }
    bits = max(BATCH_NORM_GRAD_BITS, formats["activation_grads"][0].bits)
    grads = _clipped("preactivation_grads", bits, clip_factor, statistics, row)
    return {
        "mean": formats["preactivations"],
        "variance": (Format(variance.bits, variance.range_exp, signed=False), reason),
        **parameters,
        "preactivation_grads": grads,
    }


def _over_abs_max(abs_max: float, headroom: int = ABS_MAX_HEADROOM) -> Assigned:
    format = Format(AUXILIARY_BITS, int(criteria.clipping_range_exp(abs_max, headroom)))
    return format, Reason(
        "range", {"abs_max": float(abs_max)}, format.range / (headroom * float(abs_max))
    )


def _margin(format: Format, range_asked: float, step_asked: float) -> float:
    """The smaller of by how much the range is wider and the step is finer than asked."""
    return float(min(format.range / range_asked, step_asked / format.step))


def _check_bits(
    layer: str, tensor: str, bits: int, cause: str, most: int = MAX_TENSOR_BITS
) -> None:
    if bits > most:
        raise InputError(
            f"layer {layer!r}: {tensor} would need {bits} bits, at most {most}: forced by {cause}"
        )

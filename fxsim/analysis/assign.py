"""From statistics of the float run to a PrecisionAssignment with a reason for every format.

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm",
ICLR 2019, section 3.  The criteria are those of fxsim.analysis.criteria; here they meet a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fxsim.analysis import criteria, feedforward
from fxsim.analysis.accumulators import propose
from fxsim.analysis.decisions import activation_tensors
from fxsim.analysis.feedforward import ABS_MAX_HEADROOM, MismatchBound
from fxsim.analysis.output_error import OUTPUT_EFQN, asked_output_error
from fxsim.analysis.statistics import Statistics
from fxsim.errors import InputError, choice
from fxsim.fields import instance
from fxsim.formats import MAX_TENSOR_BITS, Format
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment, Reason
from fxsim.nn.spec import AFFINE_RANGE_EXP, Network
from fxsim.nn.tensors import is_branch
from fxsim.ops.update import UPDATE_BITS

WEIGHT_RANGE_EXP = 0
"""The float run clips weights to [-1, 1); only imported ones are larger."""

AUXILIARY_BITS = 16

DEFAULT_RANGES_EXP = {"bias": 0, "gamma": AFFINE_RANGE_EXP, "beta": AFFINE_RANGE_EXP}
"""Parameter -> e of its default range, 2**e, to which the float run clips it."""

BIAS_CLIP_FACTOR = 4

CLIP_FACTORS = (4.0, 2.0)
"""Ranges of activation gradients and of weight gradients in units of sigma_max."""

GRADIENT_ROUNDINGS = ("stochastic", "nearest")
ROUNDED_GRADIENTS = ("weight_grads", "activation_grads", "preactivation_grads")
"""The tensors that they are for; all others round to nearest."""

Assigned = tuple[Format, Reason]


@dataclass(frozen=True)
class Rules:
    """What the user of `assign` chooses.

    Args:
        target: the bound on the decision mismatch p_m is at most this; for a network that decides
            nothing, the mean squared error of its outputs against float that is expected, as a
            share of the float network's loss (analysis/output_error.py).
        bound: 'tight' (criteria.tight_mismatch_bound) or 'paper' (criteria.mismatch_bound, on the
            mean noise gains).  A network that decides nothing has neither: 'tight', the default,
            then stands for that expected error, and 'paper' is refused.
        minimize: 'macs', 'activations' or 'weights' to take single bits where they save most of
            that cost (feedforward.COSTS); None for EFQN's bits, less those that the tight bound can
            spare.
        min_bits: B_min itself in place of what the target asks.
        clip_factors: ranges of G^A and of G^W in units of sigma_max.
        fourth_root: see criteria.reflected_noise_step_exp.
        input_bits: of the network's input, in place of EFQN's.
        output_grad_bits: of the gradient at the logits, in place of what the criteria ask.
        gradient_rounding: of G^W, G^A and batch norm's gradient at the pre-activations.
            'stochastic' has no bias: G^W meets RQB at any step, and BQN's model of the noise of the
            two others holds however few bits they have.  'nearest' flushes what is small, so that
            G^A and batch norm's gradient also follow criterion GF, criteria.flushing_step_exp.

    Raises:
        InputError: bound, minimize or gradient_rounding is unknown, or min_bits is given beside
            minimize.
    """

    target: float = 0.01
    bound: str = "tight"
    minimize: str | None = None
    min_bits: int | None = None
    clip_factors: tuple[float, float] = CLIP_FACTORS
    fourth_root: bool = True
    input_bits: int | None = None
    output_grad_bits: int | None = None
    gradient_rounding: str = "stochastic"

    def __post_init__(self) -> None:
        choice("bound", self.bound, feedforward.BOUNDS)
        choice("gradient_rounding", self.gradient_rounding, GRADIENT_ROUNDINGS)
        if self.minimize is not None:
            choice("minimize", self.minimize, feedforward.COSTS)
            if self.min_bits is not None:
                raise InputError("min_bits and minimize are both given; leave one out")


def assign(
    network: Network, statistics: Statistics, rules: Rules | None = None
) -> PrecisionAssignment:
    """The precision configuration C_o that meets the criteria, for all tensors of `network`.

    Weights get EFQN's B bits over [-1, 1), with more of the same step where imported weights are
    larger, activations B unsigned bits over [0, 2): the same step.
    Where the activation function has another ceiling, or none, or is signed, its output has more
    or fewer bits of that step; without a ceiling its range is twice activations_max, or more.
    The input lies in [0, 1) and reaches that step with one bit less; what dropout scales gets the
    range and the bits for that.  A tensor that several layers read gets the finest step that one of
    them asks for.  Bias gradients, logits, pre-activations, mean, variance and the gradients of
    gamma and beta have 16 bits, and reasons of their own kind; x-hat keeps its default, and so do
    bias, gamma and beta unless imported ones are larger.  The gradient at pre-activations that
    batch norm reads has a format by the criteria of G^A: the noise that it reflects onto G^W is
    bounded by itself.  The sums of products are exact; `proposed` has the accumulators of analysis/accumulators.py.

    Raises InputError for statistics of another network, or that lack what a rule needs, and naming
    layer, tensor and statistic where the bits would be too many.
    """
    statistics.check_network(network)
    rules = Rules() if rules is None else instance("rules", rules, Rules)
    assigned: dict[str, dict[str, Assigned]] = {
        name: _gradients(network, statistics, row, rules) for row, name in enumerate(network.names)
    }
    if rules.output_grad_bits is not None:
        last = assigned[network.names[-1]]
        last["activation_grads"] = _given(
            last["activation_grads"][0], "output_grad_bits", rules.output_grad_bits
        )
    _assign_feedforward(network, statistics, assigned, rules)
    for row, formats in enumerate(assigned.values()):
        formats |= _others(network, statistics, row, formats)
    made = _collect(network, assigned, _over_abs_max(statistics.logits_max)[0])
    bits = feedforward_bits(network, made)
    made = replace(made, proposed=propose(network, statistics, made, bits, rules.target))
    if rules.gradient_rounding == "nearest":
        return made
    stochastic = [
        name for name in ROUNDED_GRADIENTS if any(name in row for row in assigned.values())
    ]
    return replace(made, rounding=dict.fromkeys(stochastic, "stochastic"))


def _gradients(
    network: Network, statistics: Statistics, row: int, rules: Rules
) -> dict[str, Assigned]:
    """Of a layer: G^W and G^A, and with batch norm its gradient at the pre-activations."""
    layer = network.layers[row]
    formats = {"weight_grads": _weight_grads(statistics, row, rules.clip_factors[1])}
    step = formats["weight_grads"][0].step
    weights = statistics.weight_grads_count[row]
    reflection = _Reflection(
        step, float(statistics.lambda_max[row]), weights, statistics.activation_grads_count[row]
    )
    formats["activation_grads"] = _reflecting(
        "activation_grads", reflection, statistics, row, rules
    )
    if layer.batch_norm:
        count = statistics.batch_size * math.prod(network.shape(layer.name).pre)
        lambda_max = float(statistics.preactivation_lambda_max[row])
        reflection = _Reflection(step, lambda_max, weights, count)
        formats["preactivation_grads"] = _reflecting(
            "preactivation_grads", reflection, statistics, row, rules
        )
    return formats


def _others(
    network: Network, statistics: Statistics, row: int, formats: dict[str, Assigned]
) -> dict[str, Assigned]:
    """Of a layer whose weights and gradients have their formats: all that is left."""
    layer = network.layers[row]
    step = formats["weight_grads"][0].step
    found = {
        "accumulators": _accumulators(statistics, row, step, formats["weights"][0]),
        "preactivations": _over_abs_max(statistics.preactivations_max[row]),
    }
    if not layer.has_bias:
        found |= _batch_norm(statistics, row, found["preactivations"])
        found |= _wide_parameter(statistics, row, "gamma")
        return found | _wide_parameter(statistics, row, "beta")
    found |= _wide_parameter(statistics, row, "bias")
    found["bias_grads"] = _clipped("bias_grads", AUXILIARY_BITS, BIAS_CLIP_FACTOR, statistics, row)
    if is_branch(network, layer.name) and layer.activation.least_range_exp is None:
        found["branch"] = found["preactivations"]
    return found


def feedforward_bits(network: Network, assignment: PrecisionAssignment) -> np.ndarray:
    """B of every weight and activation tensor, in the order of Decisions: the steps are
    2**-(B - 1).
    """
    assignment.check_network(network)
    precisions = assignment.layers.values()
    activations = {
        source: precision.activations for source, precision in zip(_sources(network), precisions)
    }
    formats = [precision.weights for precision in precisions]
    formats += [activations[source] for source in activation_tensors(network)]
    return np.array([1 - format.step_exp for format in formats])


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


def _assign_feedforward(
    network: Network,
    statistics: Statistics,
    assigned: dict[str, dict[str, Assigned]],
    rules: Rules,
) -> None:
    """Weights and activations of every layer; those of G^A are there."""
    bound = MismatchBound.of(rules.bound, network, statistics)
    if not network.decides:
        rules = replace(rules, target=asked_output_error(statistics, rules.target))
    bits, min_bits = _feedforward_bits(network, statistics, bound, assigned, rules)
    gains = bound.gains
    statistic = {
        "least_gain": float(gains.min()),
        "min_bits": float(min_bits),
        "mismatch_bound" if network.decides else "output_error": bound.at(bits),
    }
    # The factor by which all steps together are finer than the target asks.
    margin = 1.0 if rules.min_bits is not None else bound.margin(bits, rules.target)
    criterion = "EFQN" if network.decides else OUTPUT_EFQN
    if rules.minimize is not None:
        criterion += f", least {rules.minimize}"
    reasons = [Reason(criterion, {"gain": float(gain), **statistic}, margin) for gain in gains]

    sources = _sources(network)
    tensors = activation_tensors(network)
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
        activations = _activations(network, statistics, source, int(bits[at]), reasons[at])
        if source is None and rules.input_bits is not None:
            activations = _given(activations[0], "input_bits", rules.input_bits)
        assigned[name]["weights"] = _weights(statistics, row, int(bits[row]), reasons[row])
        assigned[name]["activations"] = _shared(activations, sources.count(source))


def _feedforward_bits(
    network: Network,
    statistics: Statistics,
    bound: MismatchBound,
    assigned: dict[str, dict[str, Assigned]],
    rules: Rules,
) -> tuple[np.ndarray, int]:
    """Bits of weights and activations in the order of Decisions, and B_min."""
    min_bits = rules.min_bits
    if min_bits is None:
        min_bits = feedforward.least_min_bits(bound, rules.target)
    bits = criteria.equal_quantization_noise(bound.gains, min_bits)
    if rules.minimize is not None:
        grads = {name: row["activation_grads"][0].bits for name, row in assigned.items()}
        cost = feedforward.cost_of_bits(network, statistics, rules.minimize, grads)
        bits = feedforward.cheapest(bound, bits, rules.target, cost)
    elif rules.min_bits is None and bound.decisions is not None:
        bits = feedforward.without_spare_bits(bound, bits, rules.target)
    return bits, min_bits


def _weights(statistics: Statistics, row: int, bits: int, reason: Reason) -> Assigned:
    """Weights with the step of `bits` over [-1, 1), over the range that holds them."""
    largest = float(statistics.weights_max[row])
    range_exp = _range_exp(largest, WEIGHT_RANGE_EXP)
    width = bits + range_exp - WEIGHT_RANGE_EXP
    if width > bits:
        cause = f"the largest weight, {largest:g}; scale the layer, or train with weight decay"
        _check_bits(statistics.layers[row], "weights", width, cause)
        reason = replace(reason, statistic={**reason.statistic, "weights_max": largest})
    return Format(width, range_exp), reason


def _range_exp(largest: float, least: int) -> int:
    """The least e, from `least` on, with 2**e at or above a magnitude."""
    mantissa, exponent = math.frexp(largest)
    return max(least, exponent - (mantissa == 0.5))


def _wide_parameter(statistics: Statistics, row: int, name: str) -> dict[str, Assigned]:
    """Formats of a bias, gamma or beta that its default does not hold; none where that does."""
    largest = float(getattr(statistics, f"{name}_max")[row])
    least = DEFAULT_RANGES_EXP[name]
    range_exp = _range_exp(largest, least)
    if range_exp == least:
        return {}
    reason = Reason("range", {"abs_max": largest}, 2.0**range_exp / largest)
    own = Format(AUXILIARY_BITS, range_exp)
    return {
        name: (own, reason),
        f"{name}_accumulators": (accumulator_format(own, own.step_exp - 32), reason),
    }


def _activations(
    network: Network, statistics: Statistics, source: str | None, bits: int, reason: Reason
) -> Assigned:
    """The output of layer `source`, or the input, with the step of `bits` over [0, 2)."""
    range_exp, signed = feedforward.activation_range(network, statistics, source)
    width = feedforward.activation_bits(range_exp, signed, bits)
    if source is not None:
        _check_bits(source, "activations", width, f"the range 2^{range_exp} of its output")
        if network.layer(source).activation.least_range_exp is None:
            largest = float(statistics.activations_max[network.names.index(source)])
            reason = replace(reason, statistic={**reason.statistic, "activations_max": largest})
    return Format(width, range_exp, signed), reason


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


@dataclass(frozen=True)
class _Reflection:
    """What criterion BQN reads: G^W's step, lambda_max, elements of G^W and of what reflects."""

    weight_grad_step: float
    lambda_max: float
    weight_grad_count: float
    activation_grad_count: float

    def step_exp(self, fourth_root: bool) -> int:
        return int(criteria.reflected_noise_step_exp(**vars(self), fourth_root=fourth_root))

    def step_asked(self, fourth_root: bool) -> float:
        root = (self.weight_grad_count / self.activation_grad_count) ** 0.25
        step = self.weight_grad_step / math.sqrt(self.lambda_max)
        return step * root if fourth_root else step


def _reflecting(
    tensor: str, reflection: _Reflection, statistics: Statistics, row: int, rules: Rules
) -> Assigned:
    """G^A, or batch norm's gradient at the pre-activations."""
    clip_factor = rules.clip_factors[0]
    sigma_max = float(getattr(statistics, f"{tensor}_sigma_max")[row])
    range_exp = int(criteria.clipping_range_exp(sigma_max, clip_factor))
    criterion = "GC, BQN"
    step_exp = reflection.step_exp(rules.fourth_root)
    step_asked = reflection.step_asked(rules.fourth_root)
    statistic = {
        "sigma_max": sigma_max,
        **{name: float(value) for name, value in vars(reflection).items()},
    }
    if rules.gradient_rounding == "nearest":
        criterion += ", GF"
        flushable = _flushable(tensor, statistics, row)
        step_exp = min(step_exp, int(criteria.flushing_step_exp(flushable)))
        step_asked = min(step_asked, 2 * flushable)
        statistic["flushable"] = flushable
    bits = int(criteria.gradient_bits(range_exp, step_exp))
    _check_bits(
        statistics.layers[row],
        tensor,
        bits,
        f"sigma_max {sigma_max:g} against a step of at most {step_asked:g}, from lambda_max "
        f"{reflection.lambda_max:g} and the weight gradient's step "
        f"{reflection.weight_grad_step:g}; lower the learning rate",
    )
    format = Format(bits, range_exp)
    return format, Reason(
        criterion, statistic, _margin(format, clip_factor * sigma_max, step_asked)
    )


def _flushable(tensor: str, statistics: Statistics, row: int) -> float:
    flushable = float(getattr(statistics, f"{tensor}_flushable")[row])
    if not flushable:
        raise InputError(
            f"layer {statistics.layers[row]!r}: gradient_rounding 'nearest' needs "
            f"{tensor}_flushable, which these statistics do not have; make them anew with `fxsim "
            "analyze`, or take 'stochastic'"
        )
    return flushable


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


def _batch_norm(statistics: Statistics, row: int, preactivations: Assigned) -> dict[str, Assigned]:
    """The mean has the format of what it is the mean of."""
    variance, reason = _over_abs_max(statistics.variances_max[row], ABS_MAX_HEADROOM**2)
    parameters = {
        tensor: _clipped(tensor, AUXILIARY_BITS, BIAS_CLIP_FACTOR, statistics, row)
        for tensor in ("gamma_grads", "beta_grads")
    }
    return {
        "mean": preactivations,
        "variance": (Format(variance.bits, variance.range_exp, signed=False), reason),
        **parameters,
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

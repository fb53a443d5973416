"""Criterion EFQN on a network: bits of weights and activations that keep a bound on p_m.

Bits stand in the order of Decisions: all weights, then each activation tensor once.  B bits stand
for the step 2**-(B - 1), whatever the format's range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fxsim.analysis import criteria
from fxsim.analysis.complexity import bits_complexity
from fxsim.analysis.decisions import Decisions, activation_tensors
from fxsim.analysis.statistics import Statistics
from fxsim.errors import InputError, choice
from fxsim.formats import MAX_TENSOR_BITS
from fxsim.nn.layer_precision import TENSORS
from fxsim.nn.spec import Network
from fxsim.ops.dropout import scale_bits

BOUNDS = ("tight", "paper")
COSTS = {"macs": "training_macs", "activations": "activation_storage", "weights": "weight_storage"}
"""What may be minimized -> the metric of complexity.Cost.

Of the weight storage only the weights themselves count: a bit that they lose is one that their
accumulator gains.
"""
HEAD_START = 3
"""Bits above EFQN's, from which the search for the least cost begins."""
ABS_MAX_HEADROOM = 2
"""Logits, pre-activations and activations without a ceiling get a range of twice their largest
magnitude in the float run, variances of four times.
"""


@dataclass(frozen=True, eq=False)
class MismatchBound:
    """A bound on p_m, as a function of the bits of all weights and activations.

    For a network that decides nothing it is the expected squared error of the outputs instead
    (analysis/output_error.py), which has the form of the paper's bound.

    Args:
        what: it is, in messages.
        gains: noise gains, whose ratios are EFQN's differences of bits.  The tight bound takes
            geometric means over images, all others their mean.
        decisions: what the tight bound needs; None for all others.
    """

    what: str
    gains: np.ndarray
    decisions: Decisions | None = None

    @classmethod
    def of(cls, name: str, network: Network, statistics: Statistics) -> MismatchBound:
        """The bound of this name, of a network with these statistics.

        Raises:
            InputError: see check_bound; or the statistics lack what the tight bound needs.
        """
        check_bound(name, network)
        if not network.decides:
            return cls("error of the outputs", feedforward_gains(network, statistics))
        what = f"{name} bound on the mismatch"
        if name == "paper":
            return cls(what, feedforward_gains(network, statistics))
        decisions = statistics.decisions
        if decisions is None:
            raise InputError(
                "bound 'tight' needs the decisions of single images, which these statistics lack; "
                "make them anew with `fxsim analyze`, or take bound 'paper'"
            )
        decisions.check_network(network)
        return cls(what, decisions.typical_gains(), decisions)

    def at(self, bits: np.ndarray, coarser: float = 1.0) -> float:
        """The bound at these bits, with steps that are `coarser` by a factor."""
        if self.decisions is None:
            return criteria.mismatch_bound(self.gains * coarser**2, bits)
        return criteria.tight_mismatch_bound(
            self.decisions.distances / coarser, self.decisions.squares, bits
        )

    def margin(self, bits: np.ndarray, target: float) -> float:
        """By which factor all steps together are finer than the target asks, by bisection."""
        low, high = 0.0, float(MAX_TENSOR_BITS)
        for _ in range(50):
            middle = (low + high) / 2
            if self.at(bits, 2.0**middle) <= target:
                low = middle
            else:
                high = middle
        return float(2.0**low)


def check_bound(name: str, network: Network) -> None:
    """InputError unless `name` is one of BOUNDS that the network has.

    One that decides nothing has neither; 'tight', the default, stands for the outputs' error.
    """
    if choice("bound", name, BOUNDS) == "paper" and not network.decides:
        raise InputError(
            f"bound 'paper' is on the mismatch of decisions, and network {network.name!r} decides "
            "nothing: the error of its outputs is bounded; leave bound out"
        )


def feedforward_gains(network: Network, statistics: Statistics) -> np.ndarray:
    """The recorded noise gains of all weights, then of all activations, each tensor once.

    An activation tensor that several layers read has the largest of the gains recorded for them,
    since that asks for the finest step.
    """
    sources = [source for _, source in network.edges()]
    shared = [
        max(gain for gain, other in zip(statistics.activations_gain, sources) if other == source)
        for source in activation_tensors(network)
    ]
    return np.array([*statistics.weights_gain, *shared])


def least_min_bits(bound: MismatchBound, target: float) -> int:
    """The least B_min whose EFQN bits keep the bound at most `target`."""
    for min_bits in range(1, MAX_TENSOR_BITS + 1):
        if bound.at(criteria.equal_quantization_noise(bound.gains, min_bits)) <= target:
            return min_bits
    raise InputError(
        f"no precision keeps the {bound.what} at most {target:g}; train the float network longer, "
        "or raise target"
    )


def without_spare_bits(bound: MismatchBound, bits: np.ndarray, target: float) -> np.ndarray:
    """EFQN's bits, less one of each tensor that the bound can spare.

    The first to be asked is the one that EFQN's rounding gave the most.
    """
    exact = 0.5 * np.log2(bound.gains / bound.gains.min())
    for tensor in np.argsort((exact + 0.5) % 1.0, kind="stable"):
        fewer = bits.copy()
        fewer[tensor] -= 1
        if fewer[tensor] >= 1 and bound.at(fewer) <= target:
            bits = fewer
    return bits


def cheapest(
    bound: MismatchBound, bits: np.ndarray, target: float, cost: Callable[[np.ndarray], float]
) -> np.ndarray:
    """Bits of low cost: from HEAD_START above these, one bit after another is taken where it saves
    most for what it adds to the bound, as long as that is at most `target`.
    """
    bits = bits + HEAD_START
    while True:
        best = None
        spent = bound.at(bits)
        for tensor in np.flatnonzero(bits > 1):
            fewer = bits.copy()
            fewer[tensor] -= 1
            reached = bound.at(fewer)
            if reached > target:
                continue
            worth = (cost(bits) - cost(fewer)) / max(reached - spent, np.finfo(float).tiny)
            if best is None or worth > best[0]:
                best = worth, fewer
        if best is None:
            return bits
        bits = best[1]


def activation_range(
    network: Network, statistics: Statistics, source: str | None
) -> tuple[int, bool]:
    """log2 of the range of the output of layer `source`, and whether it is signed.

    The range is that of the activation: the least power of two that holds the ceiling, else that of
    the largest magnitude in the float run.  Dropout's scale has room beside it.  The network's
    input, None, lies in [0, 1).

    Raises:
        InputError: there is no ceiling, and the statistics have no magnitude of this layer.
    """
    if source is None:
        return 0, False
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
    return range_exp + scale_bits(layer.dropout)[1], layer.activation.signed


def activation_bits(range_exp: int, signed: bool, bits: int) -> int:
    """Bits of a format of this range with EFQN's step, that of `bits` over [0, 2)."""
    return max(range_exp + bits - 1, 1) + signed


def cost_of_bits(
    network: Network, statistics: Statistics, minimize: str, activation_grads: dict[str, int]
) -> Callable[[np.ndarray], float]:
    """The cost of bits of weights and activations, for `cheapest`.

    Args:
        network: the network.
        statistics: its statistics, for the ranges of activations without a ceiling.
        minimize: a key of COSTS.
        activation_grads: bits of each layer's G^A, which C_M multiplies by both.
    """
    metric = COSTS[choice("minimize", minimize, COSTS)]
    tensors = activation_tensors(network)
    ranges = [activation_range(network, statistics, source) for source in tensors]
    layers = len(network.layers)

    def cost(bits: np.ndarray) -> float:
        table = {}
        for row, (layer, source) in enumerate(network.edges()):
            tensor = tensors.index(source)
            own = dict.fromkeys(TENSORS, 0)
            own["weights"] = int(bits[row])
            own["activations"] = activation_bits(*ranges[tensor], int(bits[layers + tensor]))
            own["activation_grads"] = activation_grads[layer.name]
            table[layer.name] = own
        return float(getattr(bits_complexity(network, "FX", table).total, metric))

    return cost

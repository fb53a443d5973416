"""Accumulators of the sums of products, for each layer and kind of product: what is measured of the
sums on a float network, and the bits that follow.

Criteria OC and OP of fxsim/analysis/criteria.py each give bits; the fewer are proposed.  OC needs
the weights alone: no input overflows the accumulator as long as their sums are those recorded, or
less.  OP needs the terms: so many that a sum leaves the accumulator with a probability of at most
criteria.LARGEST_OVERFLOW_RATE.

Terms of trained weights and activations are not independent.  Their standard deviation s is
therefore taken from the sums: s sqrt(n) is the largest root mean square, about 0, of a prefix of a
sum.  It is the largest of PARTS prefixes in the order of the terms, of all images and outputs, and of
the moments that are measured: the first batches, with the initial and with the trained parameters.
One root mean square over all images would be too small: gradients of most images vanish.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fxsim.accumulator import KINDS, MAX_BITS, MIN_BITS, Accumulator
from fxsim.analysis import criteria
from fxsim.analysis.decisions import Decisions
from fxsim.analysis.statistics import OF_SUMS, Statistics
from fxsim.errors import present
from fxsim.formats import Format
from fxsim.nn.fixed.grad_formats import inner_grad_format
from fxsim.nn.floating import products
from fxsim.nn.floating.activation import LayerTape
from fxsim.nn.floating.losses import checked_targets, loss_of
from fxsim.nn.floating.network import FloatNetwork, LayerGradients
from fxsim.nn.geometry import geometry_of
from fxsim.nn.precision import PrecisionAssignment, Proposal, Reason
from fxsim.nn.spec import Network
from fxsim.ops.products import Geometry

PARTS = 8
"""Prefixes of a sum that are measured, the last one the whole."""
MOST_IMAGES = 16
"""Images of a batch on which sums forward and of input gradients are measured."""

MOST_DROPPED = 24
"""Bits of a product, at most, that are asked for."""
NO_NOISE = 500
"""Bits whose step adds nothing."""

Batch = tuple[np.ndarray, np.ndarray]


def sum_statistics(
    networks: Sequence[FloatNetwork],
    batches: Sequence[Batch],
    sigmas: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Entries OF_SUMS of Statistics.

    forward_terms_sigma, input_grad_terms_sigma, weight_grad_terms_sigma: s of the product's terms,
    see above; those of gradients as many times larger as sigmas has gradients that were larger along
    the training than they are where they are measured.  weights_positive_sum, weights_negative_sum,
    weights_output_sum: the largest sum over an output's weights, of the positive ones, of the
    negative ones' magnitudes, of all magnitudes; weights_input_sum, weights_input_square: that of
    magnitudes and of squares over an input's weights.  activations_square: the sum over a batch of
    a weight's squared activations, a mean over weights.

    networks: of one kind, with the parameters of several moments; they are left as they are.
    batches: images and targets.  sigmas: Statistics' *_sigma_max.
    """
    network = networks[0].network
    found = {name: np.zeros(len(network.names)) for name in OF_SUMS}
    for moment in networks:
        for row, name in enumerate(network.names):
            weight = moment.weight(name).reshape(_geometry(network, name).weight)
            _raise(found, row, _weight_sums(weight, _geometry(network, name).groups))
        for step, batch in enumerate(batches):
            for local, entry, copy in _gradients(moment, batch, step):
                row = network.names.index(local.name)
                own = {tensor: float(sigmas[f"{tensor}_sigma_max"][row]) for tensor in _SCALES}
                _raise(found, row, _of_terms(copy, entry, local, own))
    return found


_SCALES = ("activation_grads", "weight_grads")


def _raise(found: dict[str, np.ndarray], row: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        found[name][row] = max(found[name][row], value)


def _geometry(network: Network, name: str) -> Geometry:
    return geometry_of(network.layer(name), network.shape(name))


def _weight_sums(weight: np.ndarray, groups: int) -> dict[str, float]:
    """weight: `(KH, KW, C / groups, O)`."""
    by_output = weight.reshape(-1, weight.shape[-1])
    by_input = weight.reshape(*weight.shape[:3], groups, -1)
    magnitudes = np.abs(by_input)
    return {
        "weights_positive_sum": float(np.maximum(by_output, 0).sum(axis=0).max()),
        "weights_negative_sum": float(np.maximum(-by_output, 0).sum(axis=0).max()),
        "weights_output_sum": float(np.abs(by_output).sum(axis=0).max()),
        "weights_input_sum": float(magnitudes.sum(axis=(0, 1, 4)).max()),
        "weights_input_square": float((magnitudes**2).sum(axis=(0, 1, 4)).max()),
    }


def _gradients(
    moment: FloatNetwork, batch: Batch, step: int
) -> Iterator[tuple[LayerGradients, LayerTape, FloatNetwork]]:
    """The gradients around each layer in one training step from here on."""
    copy = FloatNetwork(moment.network, moment.parameters, moment.dtype)
    tape = copy.forward_tape(batch[0], True, step=step)
    targets = checked_targets(copy.network, batch[1], len(batch[0]))
    _, logits_grads = loss_of(copy.network, tape.logits, targets)
    for local in copy.walk_back(tape, logits_grads):
        yield local, tape.layers[local.name], copy


def _of_terms(
    network: FloatNetwork, entry: LayerTape, local: LayerGradients, largest: dict[str, float]
) -> dict[str, float]:
    layer = entry.layer
    shape = entry.shape
    geometry = geometry_of(layer, shape)
    weight = network.weight(local.name).reshape(geometry.weight)
    bias = network.parameters[local.name].get("bias", 0.0)
    images = slice(MOST_IMAGES)
    gradient = local.operation

    def forward(part: np.ndarray) -> np.ndarray:
        return products.product(entry.input[images], part, layer, shape)

    def input_grad(part: np.ndarray) -> np.ndarray:
        return products.input_gradient(gradient[images], part, layer, shape)

    def weight_grad(part: slice) -> np.ndarray:
        found = products.weight_gradient(entry.input[part], gradient[part], layer, shape)
        return found.reshape(-1, geometry.outputs)

    forward_parts = [forward(part) for part in _weight_parts(weight, _forward_order(geometry))]
    sums = {"forward": _largest_prefix([*forward_parts, bias + 0.0 * forward_parts[0]])}
    terms = {"forward": _forward_terms(geometry)}
    if local.input is not None:
        parts = map(input_grad, _weight_parts(weight, _input_grad_order(geometry)))
        terms["input_grad"] = _input_grad_terms(geometry)
        sums["input_grad"] = _largest_prefix(parts) * _growth(
            largest["activation_grads"], local.output
        )
    count = len(entry.input)
    edges = np.unique(np.linspace(0, count, min(PARTS, count) + 1).astype(int))
    grads = [weight_grad(slice(*ends)) for ends in zip(edges, edges[1:])]
    terms["weight_grad"] = _weight_grad_terms(geometry, count)
    sums["weight_grad"] = _largest_prefix(grads) * _growth(
        largest["weight_grads"], np.sum(grads, axis=0)
    )
    squares = float(np.mean(np.square(entry.input))) * terms["weight_grad"]
    return {
        **{f"{kind}_terms_sigma": sums[kind] / math.sqrt(terms[kind]) for kind in sums},
        "activations_square": squares,
    }


def _forward_order(geometry: Geometry) -> np.ndarray:
    """The place of each weight among an output's terms: channel, kernel row, kernel column."""
    rows, columns, channels, _ = geometry.weight
    order = np.arange(channels * rows * columns).reshape(channels, rows, columns, 1)
    return order.transpose(1, 2, 0, 3)


def _input_grad_order(geometry: Geometry) -> np.ndarray:
    """The same among an input's: output of the group, kernel row, kernel column."""
    rows, columns, _, _ = geometry.weight
    order = np.arange(_input_grad_terms(geometry)).reshape(-1, rows, columns, 1)
    return np.tile(order.transpose(1, 2, 3, 0), geometry.groups)


def _forward_terms(geometry: Geometry) -> int:
    return geometry.taps * geometry.channels // geometry.groups


def _weight_grad_terms(geometry: Geometry, images: int) -> int:
    return images * math.prod(geometry.output[:2])


def _input_grad_terms(geometry: Geometry) -> int:
    return geometry.taps * geometry.outputs // geometry.groups


def _weight_parts(weight: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """The weights of PARTS stretches of terms, zeros elsewhere."""
    edges = np.unique(np.linspace(0, order.max() + 1, PARTS + 1).astype(int))
    for first, end in zip(edges, edges[1:]):
        yield np.where((first <= order) & (order < end), weight, 0.0)


def _largest_prefix(parts: Iterable[np.ndarray]) -> float:
    """The largest root mean square of a running total of the parts, see _largest_square."""
    total: np.ndarray | float = 0.0
    largest = 0.0
    for part in parts:
        total = total + part
        largest = max(largest, _largest_square(total**2))
    return math.sqrt(largest)


def _largest_square(squares: np.ndarray) -> float:
    """The largest mean square of sums with the same first place (image or weight) and the same last
    (output), taken for a product of a factor of the first and one of the last: there are few sums
    of both.
    """
    mean = float(squares.mean())
    if not mean:
        return 0.0
    first = squares.reshape(len(squares), -1).mean(axis=1)
    last = squares.reshape(-1, squares.shape[-1]).mean(axis=0)
    return float(first.max()) * float(last.max()) / mean


def _growth(largest: float, found: np.ndarray) -> float:
    """By how much a gradient's standard deviation was larger than that of `found`, at least 1."""
    own = math.sqrt(float(np.mean(np.square(found))))
    return max(1.0, largest / own) if own else 1.0


def droppable_bits(
    network: Network,
    decisions: Decisions,
    bits: np.ndarray,
    assignment: PrecisionAssignment,
    target: float,
) -> dict[str, int]:
    """For each layer the last bits of its products forward that may be dropped, to nearest, with
    the tight bound on the mismatch still at most `target`.

    Rounding n terms to the step D adds the noise n D^2/12 to each weighted operation: one more
    tensor of the bound, of the gain n E_Z.  All layers add equally to it, as with EFQN.

    decisions: with operations.  bits: of all weights and activations, in the order of Decisions.
    """
    names = network.names
    terms = np.array([_forward_terms(_geometry(network, name)) for name in names])
    layers = [assignment.layers[name] for name in names]
    steps = np.array([own.weights.step_exp + own.activations.step_exp for own in layers])
    operations = present(decisions.operations)
    squares = np.concatenate([decisions.squares, operations * terms[:, None, None]])
    gains = Decisions(decisions.distances, operations).typical_gains() * terms
    equal = steps + 0.5 * np.log2(gains)

    def drops_at(level: float) -> np.ndarray:
        return np.clip(np.floor(level - equal), 0, MOST_DROPPED).astype(int)

    drops = drops_at(-np.inf)
    for level in np.arange(equal.min(), equal.max() + MOST_DROPPED, 0.25):
        more = drops_at(level)
        noise = np.where(more, 1 - steps - more, NO_NOISE)
        bound = criteria.tight_mismatch_bound(
            decisions.distances, squares, np.concatenate([bits, noise])
        )
        if bound > target:
            break
        drops = more
    return dict(zip(names, drops.tolist()))


def propose(
    network: Network,
    statistics: Statistics,
    assignment: PrecisionAssignment,
    bits: np.ndarray,
    target: float,
) -> dict[str, Proposal]:
    """'layer.kind' -> the Proposal for its sums; none for statistics without OF_SUMS.

    The accumulator saturates at each addition, adds one whole product after the other and has the
    bits of the criterion that asks for fewer.  A product that would need more than 62 has none.
    The reasons of products forward also tell their droppable_bits, where the network decides.

    bits, target: see droppable_bits.
    """
    found = {}
    drops: dict[str, int] = {}
    decisions = statistics.decisions
    if decisions is not None and decisions.operations is not None:
        drops = droppable_bits(network, decisions, bits, assignment, target)
    for layer, source in network.edges():
        products_of = _Products(network, layer.name, statistics, assignment)
        for kind in KINDS:
            if kind == "input_grad" and source is None:
                continue
            proposal = products_of.sums(kind).proposal() if products_of.sigma(kind) else None
            if proposal and kind == "forward" and layer.name in drops:
                statistic = {"droppable_bits": float(drops[layer.name])}
                statistic |= proposal.reason.statistic
                proposal = replace(proposal, reason=replace(proposal.reason, statistic=statistic))
            if proposal:
                found[f"{layer.name}.{kind}"] = proposal
    return found


@dataclass(frozen=True)
class _Sums:
    """What the criteria read of the sums of one product.

    step_exp: of a product.  terms, sigma: of a sum, and s of its terms.  operand: what the factors
    meet.  positive, negative: the largest sums of factors, in steps, of each sign; of all
    magnitudes and 0 where the operand has a sign, too.  start: the largest magnitude that is added
    beside, in the products' steps.
    """

    step_exp: int
    terms: int
    sigma: float
    operand: Format
    positive: int
    negative: int
    start: int = 0

    def certified(self) -> tuple[int, int]:
        """Bits of criterion OC, and the largest magnitude of a sum."""
        lowest = 0
        highest = self.operand.max_code
        if self.operand.signed:
            highest = -self.operand.min_code
            lowest = -highest
        bits = criteria.certified_bits(self.positive, self.negative, lowest, highest, self.start)
        return bits, max(self.positive, self.negative) * highest + self.start

    def proposal(self) -> Proposal | None:
        certified, largest = self.certified()
        range_exp = int(criteria.overflow_range_exp(self.terms, self.sigma))
        expected = max(range_exp - self.step_exp + 1, MIN_BITS)
        bits = min(certified, expected)
        if bits > MAX_BITS:
            return None
        statistic = {"terms": float(self.terms), "certified_bits": float(certified)}
        if certified <= expected:
            statistic |= {"largest": math.ldexp(largest, self.step_exp), "overflow_bound": 0.0}
            return Proposal(Accumulator(bits), Reason("OC", statistic, 2.0 ** (bits - 1) / largest))
        statistic |= {"sigma": self.sigma, "overflow_bound": criteria.LARGEST_OVERFLOW_RATE}
        asked = float(criteria.overflow_limit(self.terms, self.sigma))
        held = math.ldexp(1.0, bits - 1 + self.step_exp)
        return Proposal(Accumulator(bits), Reason("OP", statistic, held / asked))


class _Products:
    """The three products of a layer in the formats of an assignment."""

    def __init__(
        self,
        network: Network,
        name: str,
        statistics: Statistics,
        assignment: PrecisionAssignment,
    ):
        self.layer = network.layer(name)
        self.geometry = _geometry(network, name)
        self.statistics = statistics
        self.row = network.names.index(name)
        self.formats = assignment.layers[name]
        self.grads = inner_grad_format(self.layer, network.shape(name), self.formats)
        if self.formats.batch_norm is not None:
            self.grads = self.formats.batch_norm.preactivation_grads or self.grads

    def sigma(self, kind: str) -> float:
        """s of the terms in float; 0 where it was not measured."""
        return self._measured(f"{kind}_terms_sigma")

    def sums(self, kind: str) -> _Sums:
        """What the criteria read of the product's sums."""
        makers = {
            "forward": self._forward,
            "input_grad": self._input_grad,
            "weight_grad": self._weight_grad,
        }
        return makers[kind]()

    def _measured(self, entry: str) -> float:
        return float(getattr(self.statistics, entry)[self.row])

    def _weight_steps(self, entry: str, terms: int) -> int:
        """A sum of weights in their steps; each is rounded by half a step, at most."""
        return math.ceil(self._measured(entry) / self.formats.weights.step + terms / 2)

    def _forward(self) -> _Sums:
        operand = self.formats.activations
        terms = _forward_terms(self.geometry)
        step_exp = operand.step_exp + self.formats.weights.step_exp
        if operand.signed:
            positive = self._weight_steps("weights_output_sum", terms)
            negative = 0
        else:
            positive = self._weight_steps("weights_positive_sum", terms)
            negative = self._weight_steps("weights_negative_sum", terms)
        bias = self.formats.bias.range if self.layer.has_bias else 0.0
        start = math.ceil(math.ldexp(bias, -step_exp))
        return _Sums(step_exp, terms, self.sigma("forward"), operand, positive, negative, start)

    def _input_grad(self) -> _Sums:
        terms = _input_grad_terms(self.geometry)
        return _Sums(
            self.grads.step_exp + self.formats.weights.step_exp,
            terms,
            self._with_noise("input_grad", self._measured("weights_input_square") / terms),
            self.grads,
            self._weight_steps("weights_input_sum", terms),
            0,
        )

    def _weight_grad(self) -> _Sums:
        operand = self.formats.activations
        terms = _weight_grad_terms(self.geometry, self.statistics.batch_size)
        largest = -self.grads.min_code * terms
        return _Sums(
            operand.step_exp + self.grads.step_exp,
            terms,
            self._with_noise("weight_grad", self._measured("activations_square") / terms),
            operand,
            largest,
            0 if operand.signed else largest,
        )

    def _with_noise(self, kind: str, square: float) -> float:
        """s of the terms once the gradients are rounded, for the mean square of their factors.

        D^2/6 is the variance of stochastic rounding, and more than that of rounding to nearest.
        """
        return math.sqrt(self.sigma(kind) ** 2 + square * self.grads.step**2 / 6)

"""One step of the integer executor: what it reports, and how it quantizes each tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import numpy as np

from fxsim.accumulator import Overflows
from fxsim.communicator import Share, begin_total, total, totals
from fxsim.formats import STOCHASTIC, Format
from fxsim.nn.layer_precision import OF_IMAGES
from fxsim.nn.precision import PrecisionAssignment
from fxsim.ops.exact import Exact, Sums, holding
from fxsim.ops.loss import LOSS
from fxsim.ops.products import WeightGradSum
from fxsim.ops.update import UpdateTally
from fxsim.quantizer import Counts, Quantizer, Words
from fxsim.rng import Stream
from fxsim.tensor import Tensor
from fxsim.words import DroppedBits, words_of

Probe = Callable[[str, str, Tensor], None]
"""probe(tensor, layer, value): called with every tensor of a step, in data-flow order.

Each is a copy: the probe may keep it.
"""


@dataclass
class StepResult:
    """What one step did: losses, errors, quantization counts.

    loss_sum: sum of the losses of the images, exact, in steps of loss_unit (2**-24 nats for a
    cross-entropy).  wrong: images whose first greatest logit is not at the label; None where the
    network decides nothing.  counts: (layer, tensor) -> Counts of the quantization that
    made the tensor.  stopped: layer -> non-zero updates that did not move a weight's code.
    overflows: (layer, kind of product) -> Overflows of its sums, where the assignment gives them an
    accumulator.
    """

    samples: int
    loss_sum: int = 0
    wrong: int | None = 0
    counts: dict[tuple[str, str], Counts] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    overflows: dict[tuple[str, str], Overflows] = field(default_factory=dict)
    loss_unit: Fraction = Fraction(2) ** LOSS.step_exp

    @property
    def loss(self) -> float:
        """Mean loss of an image; in nats for a cross-entropy."""
        return float(self.loss_sum * self.loss_unit / self.samples)

    @property
    def error(self) -> float | None:
        """Share of images that are classified wrong; None where the network decides nothing."""
        return None if self.wrong is None else self.wrong / self.samples


class Inference(NamedTuple):
    """What inference gives.

    logits: (N, outputs).  counts, overflows: as those of StepResult.
    """

    logits: Tensor
    counts: dict[tuple[str, str], Counts]
    overflows: dict[tuple[str, str], Overflows]


@dataclass
class Step:
    """A step under way: where its quantizers come from and where its reports go.

    share: the images that are computed here, of those that `result` is about.  training: or
    inference.  probe: sees every tensor.  first: place of the first image of the share, in its
    data set in inference, in its batch in training.
    """

    result: StepResult
    assignment: PrecisionAssignment
    seed: int
    share: Share
    step: int = 0
    probe: Probe | None = None
    training: bool = True
    first: int = 0

    @property
    def reuse(self) -> bool:
        """Whether nobody looks at the tensors, so that one's memory may be used for the next."""
        return self.probe is None

    def see(self, tensor: str, layer: str, value: Tensor) -> None:
        """Show a copy of a tensor to the probe, if there is one."""
        if self.probe is not None:
            self.probe(tensor, layer, Tensor(value.codes, value.format))

    def quantizer(
        self,
        layer: str,
        tensor: str,
        format: Format,
    ) -> Quantizer:
        """The Quantizer of a tensor of a layer: its modes, its random words, its counts."""
        rounding = self.assignment.rounding_of(tensor)

        def count(counts: Counts) -> None:
            self.result.counts[layer, tensor] = counts

        words = self.words(layer, tensor) if rounding in STOCHASTIC else None
        return Quantizer(format, rounding, self.assignment.overflow_of(tensor), words, count)

    def uncounted(
        self,
        layer: str,
        tensor: str,
        format: Format,
    ) -> Quantizer:
        """The Quantizer of a tensor that is counted by its maker."""
        return replace(self.quantizer(layer, tensor, format), counted=None)

    def words(self, layer: str, tensor: str) -> Words:
        """The random words of a tensor of a layer at this step.

        Those of an image are those of its place, whatever other images are computed here.
        """
        source = self.assignment.words_of(layer, tensor)
        stream = words_of(source, self.seed, self.step, f"{layer}.{tensor}")
        whole = not self.first and not (self.training and self.is_part)
        if whole or tensor not in OF_IMAGES or isinstance(stream, DroppedBits):
            return stream

        def from_first(positions: np.ndarray) -> np.ndarray:
            of_image = positions.size // self.share.images
            start = self.first * of_image
            if not self.training or isinstance(stream, Stream):
                return stream.words(positions.size, start)
            # registers and memories go on from the size of the whole tensor
            words = stream.words(self.result.samples * of_image)
            return words[start : start + positions.size]

        return from_first

    @property
    def is_part(self) -> bool:
        """Whether others compute images of the same batch."""
        return self.share.communicator.size > 1

    def total(self, sums: np.ndarray, largest: int) -> np.ndarray:
        """int64 sums over this share, added up over the batch; see communicator.total."""
        return total(self.share.communicator, sums, largest)

    def weight_grad(self, exact: WeightGradSum) -> Callable[[], Exact]:
        """The gradient of the weights over the batch, from that over this share; begun."""
        if not self.is_part:
            return lambda: exact
        product = exact.product
        samples = self.result.samples
        pending = begin_total(self.share.communicator, exact.exact_sums(), product.largest(samples))
        return lambda: product.of_sums(pending(), samples)

    def summed(self, exact: Exact, largest: int) -> Callable[[], Exact]:
        """A sum over the batch, from that over this share; begun.  largest: bounds its magnitude."""
        if not self.is_part:
            return lambda: exact
        format = holding(largest, exact.format.step_exp)
        pending = begin_total(self.share.communicator, exact.sums(), largest)
        return lambda: Sums(pending(), format)

    def gather(self) -> None:
        """Make the result that of the batch, where it is that of this share."""
        result = self.result
        if not self.is_part:
            return
        counts = [key for key in result.counts if key[1] in OF_IMAGES]
        overflows = [key for key in result.overflows if key[1] != "weight_grad"]
        rows = [(result.loss_sum, result.wrong or 0)]
        rows += [astuple(result.counts[key]) for key in counts]
        rows += [astuple(result.overflows[key]) for key in overflows]
        numbers = iter(totals(self.share.communicator, [each for row in rows for each in row]))
        result.loss_sum = next(numbers)
        wrong = next(numbers)
        result.wrong = None if result.wrong is None else wrong
        for key in counts:
            result.counts[key] = Counts(*islice(numbers, 4))
        for key in overflows:
            result.overflows[key] = Overflows(*islice(numbers, 2))

    def count_update(
        self, layer: str, kind: str, tensor: str | None, elements: int, tally: UpdateTally
    ) -> None:
        """Keep what an update did to a parameter and to its accumulator, if it has one."""
        if kind == "weight":
            self.result.counts[layer, "weights"] = Counts(elements, 0, tally.weights_clipped, 0)
            self.result.stopped[layer] = tally.stopped
        if tensor is None:
            return
        clipped = tally.accumulators_clipped
        self.result.counts[layer, tensor] = Counts(elements, 0, clipped, tally.flushed)

    def count_later(self, layer: str, tensor: str) -> None:
        """Keep a place for the counts of a tensor among those of the others, in data-flow order."""
        self.result.counts[layer, tensor] = Counts(0, 0, 0, 0)

    def count_overflows(self, layer: str, kind: str, exact: Exact) -> None:
        """Add what an accumulator met in a product that has been computed."""
        if exact.overflows is not None:
            before = self.result.overflows.get((layer, kind), Overflows(0, 0))
            self.result.overflows[layer, kind] = before + exact.overflows


def lent(codes: np.ndarray, format: Format) -> Tensor:
    """A Tensor of codes that the executor holds."""
    return Tensor._of(codes, format)

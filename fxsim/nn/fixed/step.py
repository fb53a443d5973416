"""One step of the integer executor under way: its result, its probe, its rules of quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fxsim.accumulator import Overflows
from fxsim.formats import Format
from fxsim.kernels.elementwise.softmax import LOSS_STEP_EXP
from fxsim.kernels.rounding import STOCHASTIC
from fxsim.nn.fixed.channelwise import ChannelSum
from fxsim.nn.fixed.products import Products
from fxsim.nn.precision import PrecisionAssignment
from fxsim.requantizer import Requantizer, requantizer
from fxsim.rng import Stream, tensor_stream
from fxsim.tensor import Counts, Tensor

Probe = Callable[[str, str, Tensor], None]
"""probe(tensor, layer, value): called with every tensor of a step, in data-flow order."""


@dataclass
class StepResult:
    """What one step did: losses, errors, quantization counts.

    loss_sum: sum of per-sample losses in steps of 2**-24.  wrong: rows whose first greatest logit
    is not at the label.  counts: (layer, tensor) -> Counts of the quantization that made the
    tensor. stopped: layer -> non-zero updates that did not move a weight's code.  overflows:
    (layer, kind of product) -> Overflows of its sums, where the assignment gives them an
    accumulator.
    """

    samples: int
    loss_sum: int = 0
    wrong: int = 0
    counts: dict[tuple[str, str], Counts] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    overflows: dict[tuple[str, str], Overflows] = field(default_factory=dict)

    def count_overflows(self, products: Mapping[str, Products], kinds: Iterable[str]) -> None:
        """Add what the last sums of these kinds met, layer by layer."""
        for layer, own in products.items():
            for kind in kinds:
                if kind in own.overflows:
                    self.overflows[layer, kind] = (
                        self.overflows.get((layer, kind), Overflows(0, 0)) + own.overflows[kind]
                    )

    @property
    def loss(self) -> float:
        """Mean loss per sample (nats)."""
        return self.loss_sum / self.samples * 2.0**LOSS_STEP_EXP

    @property
    def error(self) -> float:
        """Share of samples that are classified wrong."""
        return self.wrong / self.samples


@dataclass
class Run:
    """Formats' modes come from the assignment, random words from (seed, step).

    training: or inference.
    """

    result: StepResult
    assignment: PrecisionAssignment
    seed: int
    step: int = 0
    probe: Probe | None = None
    training: bool = True

    @property
    def in_place(self) -> bool:
        """Whether nobody looks at the tensors of the step, so that the memory of one may be
        used for the next.
        """
        return self.probe is None

    def see(self, tensor: str, layer: str, codes: np.ndarray, format: Format) -> None:
        if self.probe:
            self.probe(tensor, layer, Tensor(codes, format))

    def count(
        self, layer: str, tensor: str, elements: int, tally: np.ndarray | Sequence[int]
    ) -> None:
        below, above, flushed = tally.tolist() if isinstance(tally, np.ndarray) else map(int, tally)
        self.result.counts[layer, tensor] = Counts(elements, below, above, flushed)

    def requantizer(self, step_exp: int, tensor: str, format: Format) -> Requantizer:
        return requantizer(
            step_exp,
            format,
            self.assignment.rounding_of(tensor),
            self.assignment.overflow_of(tensor),
        )

    def stream(self, layer: str, tensor: str) -> Stream | None:
        """The random words of a tensor, where its rounding needs them."""
        if self.assignment.rounding_of(tensor) not in STOCHASTIC:
            return None
        return tensor_stream(self.seed, self.step, layer, tensor)

    def quantize_exact(
        self, layer: str, tensor: str, values: np.ndarray, step_exp: int, format: Format
    ) -> np.ndarray:
        """Codes of exact integers in steps of 2**step_exp, counted."""
        codes = np.empty(values.shape, format.storage)
        tally = self.requantizer(step_exp, tensor, format).apply(
            values, codes, self.stream(layer, tensor)
        )
        self.count(layer, tensor, codes.size, tally)
        return codes

    def quantize(
        self,
        layer: str,
        tensor: str,
        sums: ChannelSum,
        x: np.ndarray,
        y: np.ndarray | None,
        format: Format,
        in_place: bool,
    ) -> np.ndarray:
        """Codes of `sums` of x and y, counted.

        in_place: whether x's memory may be used for them.
        """
        return self.quantize_relu(layer, tensor, sums, x, y, format, False, in_place)[0]

    def quantize_relu(
        self,
        layer: str,
        tensor: str,
        sums: ChannelSum,
        x: np.ndarray,
        y: np.ndarray | None,
        format: Format,
        relu: bool,
        in_place: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, ReLU mask or None) of `sums` of x and y, through a ReLU if there is one.

        Counted.
        """
        requantizer = self.requantizer(sums.step_exp, tensor, format)
        codes, mask, tally = sums.quantized(
            x, y, requantizer, self.stream(layer, tensor), relu, in_place
        )
        self.count(layer, tensor, codes.size, tally)
        return codes, mask

    def quantize_and_pool(
        self,
        layer: str,
        tensor: str,
        sums: ChannelSum,
        x: np.ndarray,
        y: np.ndarray | None,
        format: Format,
        size: int,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(codes, winner) of `sums` of x and y through a ReLU and max pooling, counted.

        None where it takes two kernels.
        """
        requantizer = self.requantizer(sums.step_exp, tensor, format)
        done = (
            None
            if self.stream(layer, tensor)
            else sums.quantized_and_pooled(x, y, requantizer, size)
        )
        if done is None:
            return None
        self.count(layer, tensor, x.size, done[2])
        return done[:2]

"""What a training step on several ranks exchanges, and how long that takes.

Each rank brings every exact sum over the batch to one all-reduce, in 4 or 8 bytes for each element
(communicator.wire_type).  The time is that of a ring, the usual algorithm for long arrays: with n
ranks every rank sends and receives 2 (n - 1) pieces of 1/n of the array, one after the other.
Source: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of Collective Communication
Operations in MPICH" (IJHPCA 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxsim.communicator import LIMBS
from fxsim.errors import InputError, shown
from fxsim.fields import integer, number
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network

COUNT_BYTES = 8 * LIMBS
MOST_WORKERS = 2**20


@dataclass(frozen=True)
class Exchange:
    """What a rank brings to the exchanges of one training step.

    layers: layer -> tensor -> bytes, one exchange for each.  counts: bytes of losses and counts,
    which are the last exchange.
    """

    layers: dict[str, dict[str, int]]
    counts: int

    @property
    def sizes(self) -> list[int]:
        """Bytes of every exchange."""
        return [size for own in self.layers.values() for size in own.values()] + [self.counts]

    @property
    def bytes(self) -> int:
        """Bytes of all exchanges together."""
        return sum(self.sizes)

    def seconds(self, workers: int, bandwidth: float, latency: float) -> float:
        """How long the exchanges of a step take.

        Args:
            workers: ranks.
            bandwidth: bytes in a second that a rank sends while it receives as many.
            latency: seconds before the first byte of a piece arrives.

        Example:
            >>> round(Exchange({"a": {"weights": 8_000_000}}, 0).seconds(2, 1e9, 0.0), 6)
            0.008
        """
        pieces = 2 * (workers - 1)
        return sum(pieces * (latency + size / workers / bandwidth) for size in self.sizes)


@dataclass(frozen=True)
class Scaling:
    """The time of a training step on several ranks, predicted.

    workers: ranks.  step_seconds: of a step of the whole batch on one rank.  exchange_seconds: of
    its exchanges.
    """

    workers: int
    step_seconds: float
    exchange_seconds: float

    @property
    def seconds(self) -> float:
        """Of a step: the images are shared, and the exchanges come on top."""
        return self.step_seconds / self.workers + self.exchange_seconds

    @property
    def speedup(self) -> float:
        """How many times faster than one rank."""
        return self.step_seconds / self.seconds


def exchange(network: Network, assignment: PrecisionAssignment, batch: int) -> Exchange:
    """What each rank brings to the exchanges of a step of so many images in all.

    Example:
        >>> from fxsim import presets
        >>> from fxsim.nn.networks import digits_convnet
        >>> net = digits_convnet(0.25)
        >>> formats = presets.uniform("Q4.12").assignment(net)
        >>> exchange(net, formats, 64).layers["fc2"]
        {'weights': 1280, 'bias': 40}
    """
    if not 1 <= integer("batch", batch) < 2**31:
        raise InputError(f"batch must be 1 to 2**31 - 1 images, got {shown(batch)}")
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 0))  # of any parameters
    layers = {name: layer.exchanged(batch) for name, layer in fixed.layers.items()}
    numbers = 2 + sum(layer.counted() for layer in fixed.layers.values())
    return Exchange(layers, numbers * COUNT_BYTES)


def scaling(
    found: Exchange, workers: int, step_seconds: float, bandwidth: float, latency: float
) -> Scaling:
    """The predicted time of a step; see Scaling and Exchange.seconds.

    Raises:
        InputError: a number outside its range.
    """
    if not 1 <= integer("workers", workers) <= MOST_WORKERS:
        raise InputError(f"workers must be 1 to {MOST_WORKERS}, got {shown(workers)}")
    for name, value in (("step_seconds", step_seconds), ("bandwidth", bandwidth)):
        if not number(name, value) > 0:
            raise InputError(f"{name} must be above 0, got {shown(value)}")
    if number("latency", latency) < 0:
        raise InputError(f"latency must be at least 0 seconds, got {shown(latency)}")
    seconds = found.seconds(workers, bandwidth, latency) if workers > 1 else 0.0
    return Scaling(workers, step_seconds, seconds)


def to_dict(found: Exchange, predicted: Scaling | None) -> dict[str, Any]:
    """Plain data for JSON."""
    data: dict[str, Any] = {"bytes": found.bytes, "layers": found.layers, "counts": found.counts}
    if predicted is not None:
        data |= {
            "workers": predicted.workers,
            "exchange_seconds": predicted.exchange_seconds,
            "step_seconds": predicted.seconds,
            "speedup": predicted.speedup,
        }
    return data

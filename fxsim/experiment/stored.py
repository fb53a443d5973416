"""What results.json holds, type by type.

`results.read_results` reads it into these classes to check it; what is used afterwards is the plain
data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

from fxsim.accumulator import Overflows
from fxsim.analysis.complexity import Complexity
from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_derived
from fxsim.nn.layer_precision import TENSORS
from fxsim.nn.precision import PrecisionAssignment
from fxsim.tensor import Counts
from fxsim.train.designs import FIXED
from fxsim.train.loop import Epoch

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_sha256(name: str, text: str | None) -> None:
    if text is not None and not _SHA256.fullmatch(text):
        raise InputError(f"{name} must be 64 hexadecimal digits, got {shown(text)}")


def _check_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {shown(value)}")


@dataclass(frozen=True)
class Images:
    """How many images there are to train on, held out of that, and to test on, and the SHA-256 of
    all.
    """

    training: int
    held_out: int
    test: int
    sha256: str

    def __post_init__(self) -> None:
        _check_sha256("sha256", self.sha256)


@dataclass(frozen=True)
class Share:
    """The share of so many images that are decided otherwise in fixed point, and the bounds on it."""

    images: int
    share: float
    tight: float
    paper: float


@dataclass(frozen=True)
class Mismatch:
    """Criterion EFQN as measured: see Experiment.mismatch."""

    target: float
    bound: Literal["tight", "paper"]
    measured: Mapping[Literal["training", "held-out", "test"], Share]


@dataclass(frozen=True)
class Error:
    """The mean squared error of the outputs over so many images."""

    images: int
    error: float


@dataclass(frozen=True)
class OutputError:
    """What takes the place of Mismatch where nothing is decided: see Experiment.output_error."""

    target: float
    loss: float
    bound_asked: float
    bound: float
    measured: Mapping[Literal["training", "held-out", "test"], Error]


@dataclass(frozen=True)
class Kernels:
    """Kernel paths; see machine.describe."""

    available: tuple[str, ...]
    chosen: str
    emulated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """On what a design was trained; see machine.describe."""

    processor: str
    cores: int
    features: tuple[str, ...]
    kernels: Kernels
    threads: int
    system: str
    versions: Mapping[str, str | None]

    def __post_init__(self) -> None:
        if not self.versions.get("fxsim"):
            raise InputError("versions needs 'fxsim'")


@dataclass(frozen=True)
class Sums:
    """The sums of one product of a layer; see results.exact_sums."""

    terms: int
    bits: int
    path: str
    accumulator: str | None = None


@dataclass(frozen=True)
class Criterion:
    """One criterion on one tensor; see train/measured.py."""

    moment: Literal["training", "start", "end"]
    criterion: Literal["GC", "RQB", "BQN", "GF", "AS"]
    layer: str
    tensor: str
    value: float
    bound: float
    error: float
    passed: bool

    def __post_init__(self) -> None:
        choice("tensor", self.tensor, (*TENSORS, "preactivation_grads"))


@dataclass(frozen=True)
class Histogram:
    """Magnitudes by powers of two; see analysis.fixed_run.histograms."""

    zeros: int
    least: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if min((self.zeros, *self.counts)) < 0 or self.zeros + sum(self.counts) < 1:
            raise InputError("a histogram must count at least one element, and none below 0")


@dataclass(frozen=True)
class Measured:
    """What train/measured.py gives; nothing for a design on which nothing is measured."""

    criteria: tuple[Criterion, ...] = ()
    histograms: Mapping[Literal["start", "end"], Mapping[str, Mapping[str, Histogram]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Design:
    """A row of `designs`: Outcome.to_dict, and the command and machine that made it."""

    command: str
    machine: Machine
    design: str
    test_error: float | None
    test_loss: float
    train_loss: float
    seconds: float
    start_fingerprint: str | None
    fingerprint: str | None
    costs: Complexity
    epochs: tuple[Epoch, ...]
    counts: Mapping[str, Counts]
    stopped: Mapping[str, int]
    sums: Mapping[str, Mapping[Literal["forward", "input_grad", "weight_grad"], Sums]]
    measured: Measured
    overflows: Mapping[str, Overflows]
    assignment: PrecisionAssignment | None

    def __post_init__(self) -> None:
        _check_least("seconds", self.seconds, 0)
        for name in ("start_fingerprint", "fingerprint"):
            _check_sha256(name, getattr(self, name))
        if [epoch.epoch for epoch in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise InputError("epochs must count from 1")
        if not self.epochs:
            raise InputError("epochs must be at least one")
        for name in ("test_error", "test_loss", "train_loss"):
            check_derived(self.design, name, getattr(self, name), getattr(self.epochs[-1], name))
        in_fixed_point = self.design.partition(" ")[0] in FIXED
        if (self.assignment is not None) != in_fixed_point:
            raise InputError(
                f"design {shown(self.design)} and its assignment contradict each other"
            )
        for name, counts in self.counts.items():
            if min(astuple(counts)) < 0 or counts.elements < max(1, *astuple(counts)[1:]):
                raise InputError(f"counts of {shown(name)} contradict each other")
        for name, met in self.overflows.items():
            _check_least(f"sums of {shown(name)}", met.sums, 1)
            _check_least(f"overflows of {shown(name)}", met.overflows, 0)
        self._check_measured()

    def _check_measured(self) -> None:
        histograms = self.measured.histograms
        if not histograms and not self.measured.criteria:
            return
        if self.assignment is None:
            raise InputError("measured is for a design in fixed point")
        for moment in ("start", "end"):
            for layer in self.assignment.layers:
                found = histograms.get(moment, {}).get(layer, {})
                if missing := [tensor for tensor in TENSORS if tensor not in found]:
                    raise InputError(f"histograms, {moment}, {shown(layer)} needs {missing[0]!r}")

"""Rank 0 leads: it has the data set, the files and the progress; the others follow its calls.

A call is a text and arrays.  'begin' makes a learner in fixed point, 'step' and 'evaluate' are
those of FixedLearner, 'end' is the last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from fxsim import __version__
from fxsim.communicator import Communicator, together
from fxsim.errors import InputError, present
from fxsim.factors import LearningRate
from fxsim.interrupts import held
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import from_dict, to_dict
from fxsim.nn.state import Arrays
from fxsim.train import designs
from fxsim.train.learners import FixedLearner


class LeadingLearner(FixedLearner):
    """A FixedLearner of rank 0, whose steps and evaluations all ranks take together.

    Args:
        learner: what it does alone; it is taken over.
        design: FX or SQ.
        optimizer: of the learner.
        communicator: the ranks.

    Raises:
        InputError: an accumulator adds up the batch in order.
    """

    def __init__(
        self,
        learner: FixedLearner,
        design: str,
        optimizer: Optimizer,
        communicator: Communicator,
    ):
        super().__init__(learner.network, learner.pixel_max, communicator)
        for layer in self.network.layers.values():
            layer.check_shares()
        self._begun = False
        self._begin = {
            "fxsim": __version__,
            "design": design,
            "network": to_dict(self.network.network),
            "assignment": self.network.assignment.to_dict(),
            "pixel_max": self.pixel_max,
            "seed": self.network.seed,
            "optimizer": dataclasses.asdict(optimizer),
        }

    def step(self, pixels: np.ndarray, labels: np.ndarray, rate: LearningRate, step: int) -> float:
        """One SGD step, which no interrupt may break; returns the batch's mean loss."""
        self._call("step", pixels, labels, rate=dataclasses.astuple(rate), step=step)
        with _as_one(self.communicator):
            return super().step(pixels, labels, rate, step)

    def evaluate(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float | None]:
        """(mean loss, share of errors; None where the network decides nothing)."""
        with held("this evaluation"), _as_one(self.communicator):
            self._call("evaluate", pixels, labels)
            return super().evaluate(pixels, labels)

    def load_state(self, arrays: Arrays) -> None:
        """Go on from what `state` gave; the others hear of it before the next step."""
        super().load_state(arrays)
        self._begun = False

    def _call(self, do: str, pixels: np.ndarray, labels: np.ndarray, **numbers: Any) -> None:
        if not self._begun:
            _send(self.communicator, {"do": "begin", **self._begin}, self.state())
            self._begun = True
        _send(self.communicator, {"do": do, **numbers}, {"pixels": pixels, "labels": labels})


@contextlib.contextmanager
def _as_one(communicator: Communicator) -> Iterator[None]:
    """A block that all ranks run.  What is refused all refuse, before they wait for each other; any
    other error ends them all.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        communicator.abandon(f"{type(error).__name__}: {error}")
        raise


def follow(communicator: Communicator) -> None:
    """What every rank but 0 does: take part in all that rank 0 begins, until it ends."""
    learner: FixedLearner | None = None
    while True:
        call, arrays = _received(communicator)
        do = call.pop("do")
        if do == "end":
            return
        with together(communicator):
            learner = _followed(do, call, arrays, learner, communicator)


def end(communicator: Communicator) -> None:
    """Let the other ranks end."""
    _send(communicator, {"do": "end"}, {})


def _followed(
    do: str, call: dict, arrays: Arrays, learner: FixedLearner | None, communicator: Communicator
) -> FixedLearner:
    """The learner, after it has taken part in a call."""
    if do == "begin":
        return _made(call, arrays, communicator)
    learner = present(learner)
    batch = arrays["pixels"], arrays["labels"]
    with contextlib.suppress(InputError):  # which rank 0 has met, too, before anything began
        if do == "step":
            learner.step(*batch, LearningRate(*call["rate"]), call["step"])
        else:
            learner.evaluate(*batch)
    return learner


def _made(call: dict, arrays: Arrays, communicator: Communicator) -> FixedLearner:
    """The learner that rank 0 has."""
    if call["fxsim"] != __version__:
        raise InputError(f"rank 0 runs fxsim {call['fxsim']}, this one {__version__}; install one")
    network = from_dict(call["network"])
    learner = designs.fixed_learner(
        call["design"],
        network,
        initial_parameters(network, 0),  # `arrays` has those that count
        call["pixel_max"],
        call["seed"],
        PrecisionAssignment.from_dict(call["assignment"]),
        Optimizer(**call["optimizer"]),
    )
    learner.communicator = communicator
    learner.load_state(arrays)
    return learner


def _send(communicator: Communicator, call: dict, arrays: Arrays) -> None:
    data = io.BytesIO()
    named: dict[str, Any] = {f"array.{name}": array for name, array in arrays.items()}
    named["text"] = np.frombuffer(json.dumps(call).encode(), np.uint8)
    np.savez(data, **named)
    communicator.broadcast(data.getvalue())


def _received(communicator: Communicator) -> tuple[dict, Arrays]:
    with np.load(io.BytesIO(communicator.broadcast(b"")), allow_pickle=False) as data:
        call = json.loads(data["text"].tobytes())
        arrays = {name[6:]: data[name] for name in data.files if name.startswith("array.")}
    return call, arrays

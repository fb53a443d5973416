"""A parameter in training: codes, and perhaps the accumulator below their step and a velocity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.nn.optimizer import Velocity
from fxsim.ops.update import UpdateTally, update_alone, update_in_place
from fxsim.quantizer import Quantizer
from fxsim.tensor import Tensor, quantize


class TrainedParameter:
    """Weights, biases, gamma or beta of a layer, updated in place by `update`.

    `codes` and `accumulators` are read-only views: what training holds changes by `update` and by
    FixedNetwork.load_state only.
    """

    def __init__(self, codes: Tensor, accumulators: Tensor | None):
        self.format = codes.format
        self.accumulator_format = None if accumulators is None else accumulators.format
        self.velocity: Velocity | None = None
        self._codes = codes.operand.copy()
        self._accumulators = None if accumulators is None else accumulators.operand.copy()

    @classmethod
    def quantized(
        cls, real: np.ndarray, format: Format, accumulator_format: Format | None
    ) -> TrainedParameter:
        """From real values, rounded to nearest and saturated; the accumulators hold 0."""
        codes = quantize(real, format)
        if accumulator_format is None:
            return cls(codes, None)
        zeros = np.zeros(codes.shape, np.int64)
        return cls(codes, Tensor(zeros, accumulator_format))

    @property
    def codes(self) -> np.ndarray:
        """The codes, as a read-only view."""
        return _read_only(self._codes)

    @property
    def accumulators(self) -> np.ndarray | None:
        """The accumulators' codes, as a read-only view; None where there are none."""
        return None if self._accumulators is None else _read_only(self._accumulators)

    @property
    def tensor(self) -> Tensor:
        """The codes as the products read them; lent."""
        return Tensor._of(self._codes, self.format)

    @property
    def running(self) -> np.ndarray:
        """int64 codes of the running parameter, codes and accumulators as one number, at the
        accumulators' step, the codes' own without accumulators.
        """
        if self._accumulators is None or self.accumulator_format is None:
            return self._codes.astype(np.int64)
        return (self._codes.astype(np.int64) << self.accumulator_format.bits) + self._accumulators

    def arrays(self) -> Iterator[tuple[str, np.ndarray, Format]]:
        """(name, array, format) of all that training changes; the arrays themselves."""
        yield "codes", self._codes, self.format
        if self._accumulators is not None and self.accumulator_format is not None:
            yield "accumulators", self._accumulators, self.accumulator_format
        if self.velocity is not None:
            yield "velocity.codes", self.velocity.codes, self.velocity.format

    @property
    def update_format(self) -> Format:
        """The format that an update is rounded to."""
        return self.accumulator_format or self.format

    def update(self, grads: Tensor, rate: LearningRate, quantizer: Quantizer) -> UpdateTally:
        """One SGD step; the quantizer rounds it to update_format."""
        if self._accumulators is None:
            updated, tally = update_alone(self.tensor, grads, rate, quantizer)
            self._codes[...] = updated.operand
            return tally
        return update_in_place(self._codes, self._accumulators, grads, rate, self.format, quantizer)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view

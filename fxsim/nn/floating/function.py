"""Activation functions in floating point that no kernel has: leaky ReLU and tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fxsim.activation import Activation
from fxsim.errors import present


@dataclass(frozen=True)
class Function:
    """A leaky ReLU, or the function that a table stands for.

    A table of sigmoid, tanh or exp stands for the function itself, beyond the table's ends too.  A
    table of values stands for the lines between its entries, and its slopes for the derivative.
    """

    activation: Activation

    def forward(self, z: np.ndarray) -> np.ndarray:
        """The function of pre-activations of any shape."""
        own = self.activation
        if own.kind == "leaky_relu":
            return np.where(z > 0, z, z * 2.0 ** present(own.slope_exp))
        if own.function is None:
            return self._between(z, present(own.values))
        return _FUNCTIONS[own.function](z)

    def derivative(self, z: np.ndarray) -> np.ndarray:
        """Its derivative there."""
        own = self.activation
        if own.kind == "leaky_relu":
            return np.where(z > 0, 1.0, 2.0 ** present(own.slope_exp))
        if own.function is None:
            return self._between(z, present(own.slopes))
        y = _FUNCTIONS[own.function](z)
        return {"sigmoid": y * (1 - y), "tanh": 1 - y * y, "exp": y}[own.function]

    def _between(self, z: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
        """Lines between entries that stand at the middles of cells, or at their ends."""
        own = self.activation
        step = 2.0 ** (present(own.range_exp) + 1 - present(own.index_bits))
        middle = 0.5 if len(values) == own.cells else 0.0
        places = (np.arange(len(values)) - own.cells // 2 + middle) * step
        return np.interp(z, places, values)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    power = np.exp(-np.abs(z))
    return np.where(z > 0, 1 / (1 + power), power / (1 + power))


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "exp": np.exp,
}

"""For tests of one's own hardware or kernels.

A comparison bit by bit, the search for the change of semantics that explains a difference,
Hypothesis strategies, and the two laws that every operation keeps.  `assert_bit_exact` and
`explain` need no Hypothesis, so that a cocotb scoreboard can call them; the others do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fxsim.testing.comparison import assert_bit_exact
from fxsim.testing.explanation import explain

if TYPE_CHECKING:
    from fxsim.testing.operations import (
        Convolution,
        DotProduct,
        MatMul,
        accumulators,
        check_adjointness,
        check_rounding_law,
        convolutions,
        dot_products,
        matmuls,
        quantizers,
    )
    from fxsim.testing.strategies import (
        assignments,
        batches,
        formats,
        networks,
        networks_with_assignments,
        shapes,
        tensors,
    )

_STRATEGIES = (
    "assignments",
    "batches",
    "formats",
    "networks",
    "networks_with_assignments",
    "shapes",
    "tensors",
)
_OPERATIONS = (
    "Convolution",
    "DotProduct",
    "MatMul",
    "accumulators",
    "check_adjointness",
    "check_rounding_law",
    "convolutions",
    "dot_products",
    "matmuls",
    "quantizers",
)
_HOME = dict.fromkeys(_STRATEGIES, "strategies") | dict.fromkeys(_OPERATIONS, "operations")

__all__ = [
    "Convolution",
    "DotProduct",
    "MatMul",
    "accumulators",
    "assert_bit_exact",
    "assignments",
    "batches",
    "check_adjointness",
    "check_rounding_law",
    "convolutions",
    "dot_products",
    "explain",
    "formats",
    "matmuls",
    "networks",
    "networks_with_assignments",
    "quantizers",
    "shapes",
    "tensors",
]


if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'fxsim.testing' has no attribute {name!r}")
        try:
            module = importlib.import_module(f"fxsim.testing.{_HOME[name]}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"fxsim.testing.{name} needs Hypothesis; python -m pip install hypothesis",
                name=error.name,
            ) from None
        return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

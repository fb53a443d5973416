"""For tests of one's own hardware or kernels: a comparison bit by bit, and Hypothesis strategies.

`assert_bit_exact` needs nothing but NumPy, so that a cocotb scoreboard can call it; the strategies
need Hypothesis."""

from __future__ import annotations

from fxsim.testing.comparison import assert_bit_exact

_STRATEGIES = (
    "assignments",
    "batches",
    "formats",
    "networks",
    "networks_with_assignments",
    "shapes",
    "tensors",
)

__all__ = ["assert_bit_exact", *_STRATEGIES]


def __getattr__(name: str):
    if name not in _STRATEGIES:
        raise AttributeError(f"module 'fxsim.testing' has no attribute {name!r}")
    try:
        from fxsim.testing import strategies
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"fxsim.testing.{name} needs Hypothesis; python -m pip install hypothesis",
            name=error.name,
        ) from None
    return getattr(strategies, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_STRATEGIES})

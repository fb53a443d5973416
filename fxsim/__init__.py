"""Bit-accurate simulation of neural-network training in fixed point: the public names.

Each is imported when it is first used: Numba alone takes half a second, which `import fxsim` does
not pay."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_NAMES = {
    "fxsim.errors": ("InputError",),
    "fxsim.formats": ("Format", "OVERFLOWS", "ROUNDINGS"),
    "fxsim.quantizer": ("Counts", "Quantizer"),
    "fxsim.tensor": ("Tensor", "quantize", "requantize"),
    "fxsim.rng": ("Stream",),
    "fxsim.accumulator": ("Accumulator",),
    "fxsim.nn.precision": ("LayerPrecision", "PrecisionAssignment", "Reason"),
    "fxsim.nn.spec": ("Conv", "Dense", "Network", "Pool"),
    "fxsim.factors": ("LearningRate",),
    "fxsim.nn.floating.network": ("FloatNetwork",),
    "fxsim.nn.fixed.network": ("FixedNetwork",),
    "fxsim.datasets": ("Dataset",),
    "fxsim.analysis.statistics": ("Statistics",),
    "fxsim.analysis.complexity": ("assignment_complexity", "design_complexity"),
    "fxsim.experiment.settings": ("Settings",),
    "fxsim.experiment.stages": ("Experiment",),
}
_MODULES = ("ops",)
"""Folders that are public as a whole."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES, *_HOME]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"fxsim.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'fxsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

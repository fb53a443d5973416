"""Bit-accurate simulation of neural-network training in fixed point.

Begin with a format, a tensor and an operation; an operation is exact until it is rounded, once:

    >>> import fxsim
    >>> x = fxsim.quantize([0.5, -0.25], fxsim.Format(8, 0))
    >>> print(fxsim.ops.dot(x, x).to(fxsim.Format(8, 0)).real)
    0.3125

What to look at next:

- `Format`, `Tensor`, `Quantizer`, `quantize`, `requantize`: numbers and where bits are decided;
- `ops`: every operation of a training step by itself;
- `Lfsr`, `Philox`, `DroppedBits`, `WordMemory`, `Stream`: random words of stochastic rounding;
- `Network`, `Conv`, `Dense`, `LayerPrecision`, `PrecisionAssignment`, `FixedNetwork`: networks;
- `Settings`, `Experiment`: a training in a folder, as the command `fxsim run` does it;
- `fxsim.testing`: comparison of your hardware or kernel with fxsim, bit by bit.

On the command line `fxsim run` trains a small network in fixed point, `fxsim guide` explains what
there is, page by page, and `fxsim --help` lists the commands.
"""

# Each public name is imported when it is first used: Numba alone takes half a second, which
# `import fxsim` does not pay.  Type checkers read the imports below instead.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxsim import ops, presets
    from fxsim.accumulator import Accumulator
    from fxsim.activation import Activation
    from fxsim.analysis.complexity import assignment_complexity, design_complexity
    from fxsim.analysis.statistics import Statistics
    from fxsim.datasets import Dataset
    from fxsim.errors import InputError
    from fxsim.experiment.settings import Settings
    from fxsim.experiment.stages import Experiment
    from fxsim.exponential import Exponential
    from fxsim.factors import LearningRate
    from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
    from fxsim.lfsr import Lfsr
    from fxsim.nn.fixed.network import FixedNetwork
    from fxsim.nn.floating.network import FloatNetwork
    from fxsim.nn.layer_precision import LayerPrecision
    from fxsim.nn.precision import PrecisionAssignment, Reason
    from fxsim.nn.spec import BatchNorm, Conv, Dense, Network, Pool
    from fxsim.quantizer import Counts, Quantizer
    from fxsim.rng import Stream
    from fxsim.tensor import Tensor, quantize, requantize
    from fxsim.words import DroppedBits, Philox, WordMemory

__version__ = "0.1.0"

_NAMES = {
    "fxsim.errors": ("InputError",),
    "fxsim.formats": ("Format", "OVERFLOWS", "ROUNDINGS"),
    "fxsim.quantizer": ("Counts", "Quantizer"),
    "fxsim.tensor": ("Tensor", "quantize", "requantize"),
    "fxsim.rng": ("Stream",),
    "fxsim.lfsr": ("Lfsr",),
    "fxsim.words": ("DroppedBits", "Philox", "WordMemory"),
    "fxsim.accumulator": ("Accumulator",),
    "fxsim.nn.layer_precision": ("LayerPrecision",),
    "fxsim.nn.precision": ("PrecisionAssignment", "Reason"),
    "fxsim.activation": ("Activation",),
    "fxsim.exponential": ("Exponential",),
    "fxsim.nn.spec": ("BatchNorm", "Conv", "Dense", "Network", "Pool"),
    "fxsim.factors": ("LearningRate",),
    "fxsim.nn.floating.network": ("FloatNetwork",),
    "fxsim.nn.fixed.network": ("FixedNetwork",),
    "fxsim.datasets": ("Dataset",),
    "fxsim.analysis.statistics": ("Statistics",),
    "fxsim.analysis.complexity": ("assignment_complexity", "design_complexity"),
    "fxsim.experiment.settings": ("Settings",),
    "fxsim.experiment.stages": ("Experiment",),
}
_MODULES = ("ops", "presets")
"""Modules that are public as a whole."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Accumulator",
    "Activation",
    "BatchNorm",
    "Conv",
    "Counts",
    "Dataset",
    "Dense",
    "DroppedBits",
    "Experiment",
    "Exponential",
    "FixedNetwork",
    "FloatNetwork",
    "Format",
    "InputError",
    "LayerPrecision",
    "LearningRate",
    "Lfsr",
    "Network",
    "OVERFLOWS",
    "Philox",
    "Pool",
    "PrecisionAssignment",
    "Quantizer",
    "ROUNDINGS",
    "Reason",
    "Settings",
    "Statistics",
    "Stream",
    "Tensor",
    "WordMemory",
    "__version__",
    "assignment_complexity",
    "design_complexity",
    "ops",
    "presets",
    "quantize",
    "requantize",
]


if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"fxsim.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'fxsim' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

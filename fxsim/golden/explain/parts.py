"""What every recipe needs of a step: the quantization, a layer's geometry, its accumulators."""

from __future__ import annotations

import numpy as np

from fxsim.accumulator import Accumulator
from fxsim.errors import present
from fxsim.formats import Format
from fxsim.golden.arithmetic import narrowed, quantized, rounded
from fxsim.golden.explain.semantics import Semantics
from fxsim.golden.explain.source import Source
from fxsim.golden.manifest import Entry
from fxsim.nn.geometry import geometry_of
from fxsim.ops.products import Geometry
from fxsim.words import DroppedBits


def requantized(
    values: np.ndarray,
    step_exp: int,
    format: Format,
    semantics: Semantics,
    words: np.ndarray | DroppedBits | None = None,
) -> np.ndarray:
    """Codes (int64) of integers with step 2**step_exp in a format, under `semantics`."""
    format = narrowed(format, semantics.narrower)
    guarded = format.step_exp - semantics.guard_bits - step_exp
    if semantics.guard_bits and guarded > 0:
        values = rounded(values, guarded, semantics.guard_rounding)
        step_exp = step_exp + guarded
    return quantized(
        values,
        step_exp - semantics.shift,
        format,
        present(semantics.rounding),
        present(semantics.overflow),
        words,
    )


def geometry(source: Source, name: str) -> Geometry:
    """The Geometry of a layer's products."""
    return geometry_of(source.network.layer(name), source.network.shape(name))


def model_of(entry: Entry) -> Accumulator | None:
    """The accumulator of the sums behind a tensor; None for exact sums."""
    return entry.accumulator.model if entry.accumulator else None

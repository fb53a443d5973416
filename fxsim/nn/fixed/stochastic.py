"""SQ: fixed-point training in which the products read stochastically rounded weights.

Source: S. Gupta et al., "Deep Learning with Limited Numerical Precision" (ICML 2015), in the
formats of Sakr and Shanbhag (ICLR 2019), section 4: those of FX, with accumulators of 32 bits.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.fixed.parameters import Parameter
from fxsim.nn.precision import LayerPrecision, PrecisionAssignment
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream, tensor_stream

ACCUMULATOR_BITS = 32


class StochasticNetwork(FixedNetwork):
    """A FixedNetwork that in each training step draws W_l anew: the running weight, W with its
    accumulator, rounded to W's step stochastically, by the words of Stream(seed, step,
    "<layer>.weights").

    The update moves the running weight.  Inference reads it rounded to nearest, as FX does.
    """

    def _weight(self, name: str, run) -> np.ndarray:
        if not run.training:
            return super()._weight(name, run)
        return drawn(
            self.parameters[name]["weight"], tensor_stream(self.seed, run.step, name, "weights")
        )


def drawn(parameter: Parameter, stream: Stream) -> np.ndarray:
    """Codes of the running parameter, codes * D_W + accumulators * D_acc exactly, rounded
    stochastically and saturated.
    """
    running = parameter.running
    requantizer = Requantizer(parameter.accumulator_format.step_exp, parameter.format, "stochastic")
    codes = np.empty(running.shape, parameter.format.storage)
    requantizer.apply(running, codes, stream)
    return codes


def wide_accumulators(assignment: PrecisionAssignment) -> PrecisionAssignment:
    """The assignment with accumulators of 32 bits."""
    return dataclasses.replace(
        assignment, layers={name: _widened(layer) for name, layer in assignment.layers.items()}
    )


def _widened(layer: LayerPrecision) -> LayerPrecision:
    return dataclasses.replace(
        layer, accumulators=Format(ACCUMULATOR_BITS, layer.accumulators.range_exp)
    )

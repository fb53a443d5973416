"""SQ: fixed-point training in which the products read stochastically rounded weights.

Source: S. Gupta et al., "Deep Learning with Limited Numerical Precision" (ICML 2015), in the
formats of Sakr and Shanbhag (ICLR 2019), section 4: those of FX, with accumulators of 32 bits.
"""

from __future__ import annotations

import dataclasses

from fxsim.errors import present
from fxsim.formats import Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.fixed.parameters import TrainedParameter
from fxsim.nn.fixed.step import Step
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.precision import PrecisionAssignment
from fxsim.quantizer import Quantizer, Words
from fxsim.tensor import Tensor

ACCUMULATOR_BITS = 32


class StochasticNetwork(FixedNetwork):
    """A FixedNetwork that in each training step draws W_l anew: the running weight, W with its
    accumulator, rounded to W's step stochastically, by the words of Stream(seed, step,
    "<layer>.weights").

    The update moves the running weight.  Inference reads it rounded to nearest, as FX does.
    A weight without an accumulator, as a frozen one, is what it is: there is nothing to draw.
    """

    def _weight(self, name: str, step: Step) -> Tensor:
        parameter = self._parameters[name]["weight"]
        if not step.training or parameter.accumulator_format is None:
            return super()._weight(name, step)
        return drawn(parameter, step.words(name, "weights"))


def drawn(parameter: TrainedParameter, words: Words) -> Tensor:
    """The running parameter, rounded stochastically and saturated.

    It is codes * D_W + accumulators * D_acc, exactly.
    """
    quantizer = Quantizer(parameter.format, "stochastic", words=words)
    codes = quantizer.quantized(parameter.running, present(parameter.accumulator_format).step_exp)
    return Tensor._of(codes, parameter.format)


def wide_accumulators(assignment: PrecisionAssignment) -> PrecisionAssignment:
    """The assignment with accumulators of 32 bits."""
    return dataclasses.replace(
        assignment, layers={name: _widened(layer) for name, layer in assignment.layers.items()}
    )


def _widened(layer: LayerPrecision) -> LayerPrecision:
    return dataclasses.replace(
        layer, accumulators=Format(ACCUMULATOR_BITS, layer.weights.step_exp - 1)
    )

"""The designs of the method's comparison: float, fixed point and three others, by name.

    FL  float
    FX  fixed point in the formats of a precision assignment
    BN  binarized weights and activations           nn/floating/binarized.py
    SQ  FX with stochastically rounded weights      nn/fixed/stochastic.py
    TG  ternary weight gradients                    nn/floating/terngrad.py

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm"
(ICLR 2019), section 4.
"""

from __future__ import annotations

from fxsim.analysis.complexity import Complexity, assignment_complexity, design_complexity
from fxsim.analysis.statistics import GradientStatistics
from fxsim.errors import InputError, choice
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.fixed.stochastic import StochasticNetwork, wide_accumulators
from fxsim.nn.floating.binarized import BinarizedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.floating.terngrad import TernGradNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.train.learners import FixedLearner, FloatLearner

FLOAT = {"FL": FloatNetwork, "BN": BinarizedNetwork, "TG": TernGradNetwork}
FIXED = {"FX": FixedNetwork, "SQ": StochasticNetwork}
DESIGNS = ("FL", "FX", "BN", "SQ", "TG")


def formats(design: str, assignment: PrecisionAssignment) -> PrecisionAssignment:
    """The assignment that FX or SQ trains with, given that of FX."""
    return wide_accumulators(assignment) if design == "SQ" else assignment


def costs(
    design: str, network: Network, assignment: PrecisionAssignment | None = None
) -> Complexity:
    """The four costs of one design; those of FX and SQ follow from the assignment of FX, the others
    have none.

    Raises InputError for an unknown design, an assignment that is missing, or one too many.
    """
    _check_assignment(design, assignment)
    return (
        design_complexity(network, design)
        if assignment is None
        else assignment_complexity(network, assignment, design)
    )


def float_learner(
    design: str,
    network: Network,
    parameters: Parameters,
    pixel_max: int,
    seed: int,
    optimizer: Optimizer = PLAIN_SGD,
    gradients: GradientStatistics | None = None,
) -> FloatLearner:
    """A learner for FL, BN or TG that starts from `parameters`; see FloatLearner."""
    executor = FLOAT[choice("design", design, FLOAT)]
    return FloatLearner(
        executor(network, parameters, optimizer=optimizer, seed=seed), pixel_max, gradients
    )


def fixed_learner(
    design: str,
    network: Network,
    parameters: Parameters,
    pixel_max: int,
    seed: int,
    assignment: PrecisionAssignment,
    optimizer: Optimizer = PLAIN_SGD,
) -> FixedLearner:
    """A learner for FX or SQ that starts from `parameters`, in the formats that `formats` gives."""
    executor = FIXED[choice("design", design, FIXED)]
    return FixedLearner(
        executor(network, formats(design, assignment), parameters, seed=seed, optimizer=optimizer),
        pixel_max,
    )


def _check_assignment(design: str, assignment: PrecisionAssignment | None) -> None:
    if choice("design", design, DESIGNS) in FIXED and assignment is None:
        raise InputError(
            f"design {design!r} needs a precision assignment; give --assignment FILE, which `fxsim "
            f"run` and "
            "`fxsim assign` write"
        )
    if design in FLOAT and assignment is not None:
        raise InputError(
            f"design {design!r} is not in fixed point and takes no precision assignment; leave it "
            f"out, or choose "
            f"one of {', '.join(FIXED)}"
        )


def perturbed_name(bits: int, only: str | None = None) -> str:
    """'FX C_-1', or 'FX C_-1 weight_grads' where only one class of tensors is perturbed.

    'FX C_o' for 0 bits.
    """
    return f"FX C_{bits:+d}{f' {only}' if only else ''}" if bits else "FX C_o"

"""The integer executor: inference and training steps of a network in fixed point."""

from fxsim.nn.fixed.network import FixedNetwork

__all__ = ["FixedNetwork"]

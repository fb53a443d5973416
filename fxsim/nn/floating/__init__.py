"""The float executor: inference and training steps of a network in float32."""

from fxsim.nn.floating.network import FloatNetwork

__all__ = ["FloatNetwork"]

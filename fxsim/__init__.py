"""fxsim"""
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.rng import Stream
from fxsim.tensor import Counts, Tensor, quantize, requantize


"""What follows a weighted operation, in floating point, in few passes over the tensors.

A pre-activation is `scale * operation + shift + branch`, scale and shift being those of batch norm or 1 and the bias.
It is computed again wherever it is needed, never stored.  Arrays are `(N, H, W, C)`, channels last; per-channel ones
`(C,)`.  An array that a layer does not have is given as zeros of shape `(1, 1, 1, C)`.  Sums over a batch are taken
per image and then in order, in float64, so that they do not depend on the number of threads.
"""
from __future__ import annotations

import numba
import numpy as np

from fxsim.kernels.jit import jit


@jit
def _pixel(maps, n, y, x):
    """The channels at a pixel; of a stand-in, its zeros."""
    return maps[n, y, x] if maps.shape[0] > 1 or maps.shape[1] > 1 or maps.shape[2] > 1 else maps[0, 0, 0]

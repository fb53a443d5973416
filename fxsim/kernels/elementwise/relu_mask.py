"""The straight-through ReLU mask applied to a gradient, and sums of a gradient over all but its
channels.

Loops run over slices by their own index: Numba does not vectorise an index that might be negative.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import GRAIN, parallel_for


def gate(grads: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
    """out, which may be `grads`, = grads where the mask (uint8 0 or 1, same shape) is 1, else 0.

    All C-contiguous.
    """
    if out is grads:
        parallel_for(_gate_in_place, grads.size, GRAIN, grads.reshape(-1), mask.reshape(-1))
    else:
        parallel_for(_gate, grads.size, GRAIN, grads.reshape(-1), mask.reshape(-1), out.reshape(-1))


@jit
def _gate_in_place(start, stop, grads, mask):
    """An array of its own, for LLVM vectorizes a loop over two only where they are apart."""
    passing = grads[start:stop]
    open_ = mask[start:stop]
    zero = passing.dtype.type(0)
    for i in range(passing.size):
        passing[i] = passing[i] if open_[i] else zero


@jit
def _gate(start, stop, grads, mask, out):
    arriving = grads[start:stop]
    open_ = mask[start:stop]
    passing = out[start:stop]
    zero = passing.dtype.type(0)
    for i in range(arriving.size):
        passing[i] = arriving[i] if open_[i] else zero

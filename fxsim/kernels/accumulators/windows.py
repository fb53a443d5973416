"""Rows of a convolution told as a matrix product."""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import parallel_for


def gather_rows(windows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows start .. stop of `windows`, any view of six axes: the first three count the rows,
    the others the terms of each.
    """
    out = np.empty((stop - start, int(np.prod(windows.shape[3:]))), windows.dtype)
    parallel_for(_gather, len(out), 16, start, windows, out)
    return out


@jit
def _gather(first, last, start, windows, out):
    _, second, third, depth, rows, columns = windows.shape
    for i in range(first, last):
        place = start + i
        k = 0
        window = windows[place // (second * third), place // third % second, place % third]
        for plane in range(depth):
            for row in range(rows):
                for column in range(columns):
                    out[i, k] = window[plane, row, column]
                    k += 1

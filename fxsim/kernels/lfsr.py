"""Linear feedback shift registers, many clocks at a time.

A clock of a register of n bits is a linear map over GF(2), a matrix of n x n bits, and so are any
number of clocks.  A map is held as a table (ceil(n / 8), 256) of uint64: row b has the images of
the states that have one byte, number b, and zeros elsewhere.  The image of a state is the exclusive
or of those of its bytes.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.threads import parallel_for

CHUNK = 1 << 12
"""States that are computed one after the other; chunks do not depend on each other."""


@jit
def image(table, state):
    """The image (uint64) of a state under the map of a table."""
    out = np.uint64(0)
    for byte in range(table.shape[0]):
        out ^= table[byte, np.int64((state >> np.uint64(8 * byte)) & np.uint64(255))]
    return out


@jit
def images(table, states, out):
    """out[i] = the image of states[i]."""
    for i in range(states.size):
        out[i] = image(table, states[i])


@jit
def _fill_chunks(start, stop, table, firsts, out):
    for number in range(start, stop):
        lane = number // firsts.shape[1]
        chunk = number % firsts.shape[1]
        state = firsts[lane, chunk]
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, out.shape[1])):
            out[lane, i] = state
            state = image(table, state)


def fill_states(table: np.ndarray, firsts: np.ndarray, out: np.ndarray) -> None:
    """out (lanes, words): the states of each lane, each the image of the one before.

    firsts: (lanes, chunks) states at the begin of each CHUNK of words.
    """
    grain = max(1, 2 * CHUNK // max(out.shape[1], 1))
    parallel_for(_fill_chunks, firsts.size, grain, table, firsts, out)

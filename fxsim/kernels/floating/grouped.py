"""Convolutions in groups in floating point, laid out as `products.grouped` lays out codes.

A row of outputs is added tap by tap, the weights repeated for every position of the row.  Each sum
has its terms in one order, by products and additions of one rounding each, whatever the processor
and the number of threads.
"""

from __future__ import annotations

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.products.grouped import lay_out


@jit
def convolve(source, weights, layout, rows, out, first, last):
    """out (N, OH, OW, lanes) = the sums of images first .. last - 1.

    weights (terms, row), repeated for every position of a row.
    """
    planes, lanes = layout.channel_of.shape
    buffer = np.zeros(planes * layout.lines * layout.line, out.dtype)
    row = weights.shape[1]
    for n in range(first, last):
        lay_out(source[n], layout, lanes, buffer)
        image = out[n].reshape(-1)
        for kind in range(rows.counts.size):
            for line in range(rows.counts[kind]):
                total = image[rows.places[kind, line] :][:row]
                total[:] = 0
                for term in range(rows.terms[kind]):
                    use = rows.uses[kind, term]
                    if use < len(weights):  # else it is one of weight 0
                        at = rows.starts[kind, line] + rows.reads[kind, term]
                        _add_products(buffer[at : at + row], weights[use], total)


@jit
def weight_gradient(source, gradient, layout, starts, reads, out, first, last):
    """out (taps, row): sums over images and rows of outputs, of the taps first .. last - 1.

    starts: where each row of outputs starts in an image.  reads: where each tap lies from there.
    """
    planes, lanes = layout.channel_of.shape
    buffer = np.zeros(planes * layout.lines * layout.line, out.dtype)
    row = out.shape[1]
    out[first:last] = 0
    for n in range(len(source)):
        lay_out(source[n], layout, lanes, buffer)
        for line in range(starts.size):
            own = gradient[n, line].reshape(-1)
            for tap in range(first, last):
                at = starts[line] + reads[tap]
                _add_products(buffer[at : at + row], own, out[tap])


@jit
def _add_products(left, right, total):
    for i in range(total.size):
        total[i] += left[i] * right[i]

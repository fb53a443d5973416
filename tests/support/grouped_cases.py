"""Convolutions of any geometry in NumPy's int64, and random ones in many groups.

    python tests/support/grouped_cases.py [PATH]

prints a hash of the exact sums and of the codes of random convolutions in groups, by a path.
"""

from __future__ import annotations

import hashlib
import itertools
import sys

import numpy as np

from fxsim import Format, Quantizer, Tensor, ops
from fxsim.windows import Window

WIDTHS = ((8, 8, 8), (3, 12, 14), (16, 16, 16), (20, 5, 18), (8, 16, 9))


def slices_of(window, positions):
    """((ky, kx), the rows and the columns of a padded image that the tap reads)."""
    for tap in itertools.product(*map(range, window.size)):
        starts = [k * step for k, step in zip(tap, window.dilation)]
        yield (
            tap,
            tuple(
                slice(start, start + (count - 1) * step + 1, step)
                for start, count, step in zip(starts, positions, window.stride)
            ),
        )


def reference(x, w, g, window, groups):
    """(forward, input gradient, weight gradient) of arrays, in int64 or float64."""
    depth = w.shape[2]
    top, bottom, left, right = window.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    first = np.arange(w.shape[3]) // (w.shape[3] // groups) * depth
    forward, spread, weights = (np.zeros_like(like) for like in (g, padded, w))
    for (tap, (rows, columns)), c in itertools.product(
        slices_of(window, g.shape[1:3]), range(depth)
    ):
        read = padded[:, rows, columns][..., first + c]
        forward += read * w[tap][c]
        weights[tap][c] = (read * g).sum(axis=(0, 1, 2))
        np.add.at(spread[:, rows, columns], (..., first + c), g * w[tap][c])
    height, width = x.shape[1:3]
    return forward, spread[:, top : top + height, left : left + width], weights


def random_window(rng, most=12):
    """(image, window): any kernel, stride, dilation and padding narrower than the window."""
    size, stride, dilation = (rng.integers(1, high, 2).tolist() for high in (5, 4, 4))
    spans = [step * (taps - 1) + 1 for taps, step in zip(size, dilation)]
    padding = [int(rng.integers(span)) for span in (spans[0], spans[0], spans[1], spans[1])]
    image = [
        int(rng.integers(max(1, span - before - after), most + 4))
        for span, before, after in zip(spans, padding[::2], padding[1::2])
    ]
    return image, Window.of("", tuple(image), size, stride, padding, dilation)


def random_case(rng, widths=WIDTHS[0], groups=None):
    """(x, w, g, window, groups) as Tensors; codes rich in extremes."""
    image, window = random_window(rng)
    groups = groups or int(rng.choice([4, 5, 8, 16, 24, 70]))
    depth, width = (1, 1) if rng.random() < 0.5 else rng.integers(1, 4, 2).tolist()
    count = int(rng.integers(1, 4))
    shapes = (
        (count, *image, groups * depth),
        (*window.size, depth, groups * width),
        (count, *window.positions(tuple(image)), groups * width),
    )
    formats = [Format(bits, bits - 1) for bits in widths]
    codes = []
    for shape, format in zip(shapes, formats):
        drawn = rng.integers(format.min_code, format.max_code, shape, endpoint=True)
        ends = rng.choice([format.min_code, format.max_code], shape)
        codes.append(Tensor(np.where(rng.random(shape) < 0.3, ends, drawn), format))
    return *codes, window, groups


def geometry_of(window, groups):
    """The keywords of ops.conv2d."""
    return {
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "groups": groups,
    }


def main(path: str) -> None:
    rng = np.random.default_rng(0)
    found = hashlib.sha256()
    for _ in range(6):
        x, w, g, window, groups = random_case(rng)
        where = geometry_of(window, groups)
        for exact in (
            ops.conv2d(x, w, **where),
            ops.conv2d_input_grad(g, w, x.shape, **where),
            ops.conv2d_weight_grad(x, g, w.shape, **where),
        ):
            chosen = exact.by(path)
            found.update(chosen.tensor().codes.astype(np.int64).tobytes())
            codes = chosen.to(Quantizer(Format(8, 15), "nearest_even")).codes
            found.update(codes.astype(np.int64).tobytes())
    print(found.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:] or ["auto"])

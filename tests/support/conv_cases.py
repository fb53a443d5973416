"""What tests of convolutions share: formats, codes, and every instruction path of the operations."""

import numpy as np

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.paths import available_paths
from fxsim.tensor import Tensor

BIAS = Format(16, 15)
"""A bias of step 1."""


def unit(bits, signed=True):
    """The format of `bits` with step 1."""
    return Format(bits, bits - signed, signed)


def sums_of(x, w, g, path="auto", **geometry):
    """(forward, input gradient, weight gradient) of three Tensors, with all their bits."""
    return (
        ops.conv2d(x, w, **geometry).by(path).tensor(),
        ops.conv2d_input_grad(g, w, x.shape, **geometry).by(path).tensor(),
        ops.conv2d_weight_grad(x, g, w.shape, **geometry).by(path).tensor(),
    )


def by_every_path(compute):
    """(path, compute(path)) of 'auto' and of every path that the widths and this processor allow.

    Always 'plain'.
    """
    yield "auto", compute("auto")
    for path in available_paths():
        try:
            found = compute(path)
        except InputError as error:
            assert path != "plain", error
        else:
            yield path, found


def tensors(arrays, formats):
    """A Tensor of each array in its format."""
    return [Tensor(codes, format) for codes, format in zip(arrays, formats)]


def extremes(format, shape, pattern):
    """All greatest, all least, or alternating codes."""
    even, odd = {
        "high": (format.max_code,) * 2,
        "low": (format.min_code,) * 2,
        "alternate": (format.max_code, format.min_code),
    }[pattern]
    return np.resize(np.array([even, odd]), shape)


def random_codes(random, format, shape):
    """Uniform codes, one in four replaced by an end of the format or 0."""
    codes = random.integers(format.min_code, format.max_code + 1, shape)
    ends = random.choice([format.min_code, format.max_code, 0], shape)
    return np.where(random.random(shape) < 0.25, ends, codes)

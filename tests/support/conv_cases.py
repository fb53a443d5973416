"""What tests share.

Convolution forward, input gradient and weight gradient: every path equals the twin, and the three
are adjoint.
"""

from dataclasses import replace

import numpy as np

from fxsim.formats import Format
from fxsim.nn.fixed.products import Products, available_paths
from fxsim.nn.precision import LayerPrecision, accumulator_format
from fxsim.nn.spec import Conv, Network

BIAS = Format(16, 15)
"""A bias of step 1."""


def unit(bits, signed=True):
    """The format of `bits` with step 1."""
    return Format(bits, bits - signed, signed)


def products(layer, input_shape, x_format, w_format, g_format, path="auto", bias=BIAS):
    """The one layer's Products."""
    formats = LayerPrecision(
        weights=w_format,
        activations=x_format,
        activation_grads=replace(g_format, signed=True),
        weight_grads=Format(16, 0),
        accumulators=accumulator_format(w_format, -8),
        bias=bias,
        bias_accumulators=accumulator_format(bias, -8),
    )
    network = Network(
        "one", input_shape, (replace(layer, relu=False),)
    )  # a last layer has no ReLU; layer may
    return Products(layer, network.shape(layer.name), formats, g_format, path)


def paths(*arguments, samples=1, **options):
    """(path, Products) of 'auto' and of every path that the widths and this processor allow.

    Always 'plain'.
    """
    yield "auto", products(*arguments, **options)
    for path in available_paths():
        try:
            run = products(*arguments, path, **options)
            run.weight_grad_plan(samples)
        except ValueError as error:
            assert path != "plain", error
        else:
            yield path, run


def conv_layer(w, stride, padding):
    return Conv(name="c", filters=w.shape[3], kernel=w.shape[0], stride=stride, padding=padding)


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
